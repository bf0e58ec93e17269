//! The description of the API holds for the host that serves it.

use std::process::Stdio;

use hyper::Method;
use roost_tests::{Host, repository};
use serde_json::Value;
use tokio::process::Command;

use crate::support::{IMAGE, Table, empty, host, json};

const METHODS: [&str; 7] = ["get", "head", "post", "put", "patch", "delete", "options"];

/// How long the calls are generated for when nobody says it, in seconds.
const SECONDS: &str = "30";

async fn described(host: &Host) -> Value {
    host.api.get("/system/openapi.json").await.json()
}

#[tokio::test]
async fn the_document_is_served_and_is_valid() {
    let host = host().await;
    let path = repository().join("daemon/src/api/openapi.json");
    let document: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    Table::of(&host.api).row("GET /system/openapi.json", "", json(document)).await;
    let tools = tools().await;
    let valid =
        Command::new(format!("{tools}/bin/openapi-spec-validator")).arg(&path).output().await.unwrap();
    assert!(valid.status.success(), "{}", String::from_utf8_lossy(&valid.stdout));
}

#[tokio::test]
async fn what_is_described_is_answered_and_no_other_method() {
    let host = host().await;
    let document = described(&host).await;
    let mut t = Table::of(&host.api);
    let mut wrong = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let mut concrete = path.replace("{path}", "a/b");
        for name in ["{name}", "{id}", "{group}", "{user}"] {
            concrete = concrete.replace(name, "nobody");
        }
        if path == "/system/events" {
            // Of a function that is there they have no end.
            concrete.push_str("?function=nobody");
        }
        if path == "/system/groups/{group}/events" {
            // Nor has a group's stream, of whatever group.
            concrete.push_str("?history=all");
        }
        for method in METHODS {
            let call = format!("{} {concrete}", method.to_uppercase());
            // A route that answers GET answers HEAD, as HTTP has it.
            let head = method == "head" && operations.get("get").is_some();
            if operations.get(method).is_none() && !head {
                t.row(&call, "", empty(405)).await;
                continue;
            }
            let method: Method = method.to_uppercase().parse().unwrap();
            let answer = host.api.send(method, &concrete, "").await;
            if answer.status == 405 || answer.text().contains("page not found") {
                wrong.push(format!("{call}: {}", answer.status));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn generated_calls_find_nothing_that_is_not_described() {
    let host = host().await;
    host.deploy("echo", IMAGE).await;
    let seconds = std::env::var("ROOST_FUZZ_SECONDS").unwrap_or_else(|_| SECONDS.to_owned());
    tools().await;
    let mut run = Command::new(repository().join("tests/schema/run"));
    run.arg(host.url()).arg(seconds).env("ROOST_PASSWORD", host.password());
    let run = run.stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{}\n{said}\n{}", run.status, String::from_utf8_lossy(&run.stderr));
    // It has to have looked at all of them.
    let document = described(&host).await;
    let paths = document["paths"].as_object().unwrap().values();
    let operations: usize = paths.map(|path| path.as_object().unwrap().len()).sum();
    assert!(said.contains(&format!("Selected: {operations}/{operations}")), "{operations}:\n{said}");
    assert_eq!(host.api.get("/healthz").await.status, 200);
}

/// Where the tools are; installs them if `tests/run` has not.
async fn tools() -> String {
    let output = Command::new(repository().join("tests/schema/setup")).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
