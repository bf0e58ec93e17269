//! A function gets a new revision while it is in use.

use bytes::Bytes;
use hyper::{Method, StatusCode};
use roost_tests::{Config, Host, Image, Load, Registry, body_in_pieces, next_piece};
use serde_json::{Value, json};

async fn echo() -> (Registry, String, Host) {
    let registry = Registry::open().await;
    let image = registry.push(&Image::echo(), "echo", "1").await;
    let host = Host::start().await;
    host.deploy("echo", &image).await;
    (registry, image, host)
}

/// Waits until another revision than `before` is ready.
async fn replaced(host: &Host, before: &Value) -> Value {
    let revision = before["status"]["revision"].clone();
    let new = |status: &Value| status["phase"] == "Ready" && status["revision"] != revision;
    host.status("echo", "a new revision", new).await
}

#[tokio::test]
async fn callers_notice_nothing_of_updates() {
    let (_registry, image, host) = echo().await;
    let load = Load::start(&host.api, "/function/echo", 8);
    for n in 0..3 {
        let before = host.function("echo").await;
        let (old, _) = host.process_of("echo");
        host.put_function(&json!({ "service": "echo", "image": image, "envVars": { "N": n.to_string() } }))
            .await;
        replaced(&host, &before).await;
        let gone = || async { host.processes().iter().all(|(id, _)| *id != old).then_some(()) };
        roost_tests::eventually("the end of the old replica", gone).await;
    }
    let report = load.stop().await;
    assert!(
        report.failed.is_empty(),
        "{} of {} failed: {:#?}",
        report.failed.len(),
        report.answered,
        report.failed
    );
    assert!(report.answered > 100, "{report:?}");
}

#[tokio::test]
async fn a_request_in_flight_is_finished_by_the_old_revision() {
    let (_registry, image, host) = echo().await;
    let (sender, body) = body_in_pieces();
    let request = host.api.request(&Method::POST, "/function/echo").body(body).unwrap();
    sender.send(Bytes::from_static(b"before")).await.unwrap();
    let mut response = host.api.open(request).await.unwrap().into_body();
    assert_eq!(next_piece(&mut response).await.unwrap().unwrap(), "before");

    let before = host.function("echo").await;
    host.put_function(&json!({ "service": "echo", "image": image, "envVars": { "A": "b" } })).await;
    replaced(&host, &before).await;
    sender.send(Bytes::from_static(b"after")).await.unwrap();
    assert_eq!(next_piece(&mut response).await.unwrap().unwrap(), "after");
    drop(sender);
    assert_eq!(next_piece(&mut response).await.unwrap(), None);
}

#[tokio::test]
async fn an_update_that_fails_leaves_the_old_revision_serving_and_says_why() {
    let registry = Registry::open().await;
    let image = registry.push(&Image::echo(), "echo", "1").await;
    let host = Host::start_with(Config { start_timeout: "5s", ..Config::default() }).await;
    host.deploy("echo", &image).await;
    let process = host.process_of("echo");
    let load = Load::start(&host.api, "/function/echo", 2);
    let missing = format!("{}/missing:1", registry.host());
    let ends_at_once = registry.push(&Image::script("exit 3"), "ends", "1").await;
    let never_ready = registry.push(&Image::script("exec busybox sleep 600"), "mute", "1").await;
    for (bad, reason) in [(missing.as_str(), "missing"), (&ends_at_once, "code 3"), (&never_ready, "")] {
        host.put_function(&json!({ "service": "echo", "image": bad })).await;
        let told = |status: &Value| {
            let message = status["message"].as_str().unwrap_or_default();
            ["Failed", "Updating"].iter().any(|phase| status["phase"] == *phase)
                && !message.is_empty()
                && message.contains(reason)
        };
        let function = host.status("echo", &format!("a message with {reason:?}"), told).await;
        assert!(function["availableReplicas"].as_u64() >= Some(1), "{function:#}");
        host.assert_echoes("echo").await;
    }
    assert_eq!(
        host.processes().into_iter().find(|(id, _)| *id == process.0),
        Some(process),
        "the old replica runs on"
    );

    // And the way back is an update like any other.
    host.put_function(&json!({ "service": "echo", "image": image, "envVars": { "A": "b" } })).await;
    host.status("echo", "Ready", |status| status["phase"] == "Ready").await;
    let report = load.stop().await;
    assert!(report.failed.is_empty(), "{:#?}", report.failed);
}

#[tokio::test]
async fn an_update_of_the_unknown_is_not_found() {
    let host = Host::start().await;
    let body = json!({ "service": "nobody", "image": "127.0.0.1:1/a:1" }).to_string();
    let answer = host.api.send(Method::PUT, "/system/functions", body).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.text(), "function: nobody.openfaas-fn not found\n");
}
