//! The verbs about stack files and namespaces, run as a person runs them: what is asked of the daemon, what is shown.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use support::{Daemon, Home, Request};

const READY: &str = r#"{"name":"f","image":"i","status":{"phase":"Ready","warnings":["requests: ignored"]}}"#;
const STACK: &str = "functions:\n  a: { image: 'i:${TAG:-1}' }\n  b: { image: i }\n  c: { image: i }\n";

/// Accepts every change; tells of every function that it is ready.
fn willing(request: &Request) -> (u16, String) {
    match request.method.as_str() {
        "GET" => (200, READY.into()),
        _ => (202, String::new()),
    }
}

fn deployed(daemon: &Daemon) -> Vec<String> {
    let changes = daemon.requests().into_iter().filter(|r| r.method == "PUT");
    let mut names: Vec<_> =
        changes.map(|r| r.json()["service"].as_str().unwrap_or_default().to_owned()).collect();
    names.sort_unstable();
    names
}

#[test]
fn functions_are_sent_and_awaited_several_at_a_time() {
    // Nothing is ready before all three were sent: fewer at a time would wait for ever.
    let run = |parallel: &str| {
        let sent = AtomicUsize::new(0);
        let daemon = Daemon::new(move |r| match r.method.as_str() {
            "PUT" => (202, format!("{}", sent.fetch_add(1, Ordering::SeqCst))),
            _ if sent.load(Ordering::SeqCst) == 3 => (200, READY.into()),
            _ => (200, r#"{"name":"f","status":{"phase":"Pulling","image":{"done":1,"total":2}}}"#.into()),
        });
        let home = Home::of(&daemon.url);
        home.file("stack.yaml", STACK);
        home.run(&["deploy", "-f", "stack.yaml", "--parallel", parallel, "--timeout", "3s"])
    };
    let ran = run("3");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let ran = run("2");
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("a: not ready after 3s (Pulling)"), "{}", ran.stderr);
}

#[test]
fn results_are_told_in_the_order_of_the_file_to_programs() {
    let daemon = Daemon::new(|r| match r.method.as_str() {
        "PUT" if r.json()["service"] == "b" => (400, "image: not a reference\n".into()),
        _ => willing(r),
    });
    let home = Home::of(&daemon.url);
    home.file("stack.yaml", STACK);
    let ran = home.run(&["deploy", "-f", "stack.yaml", "--json"]);
    assert_eq!(ran.code, Some(1));
    let shown: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap();
    let told: Vec<_> = shown.iter().map(|v| (v["name"].as_str().unwrap(), v["ready"] == true)).collect();
    assert_eq!(told, [("a", true), ("b", false), ("c", true)]);
    assert_eq!(shown[1]["error"], "image: not a reference");
    assert_eq!((&shown[0]["warnings"], &shown[1]["warnings"]), (&json!(["requests: ignored"]), &json!([])));
    let ran = home.run(&["deploy", "-f", "stack.yaml", "c"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), "roost: note: c: requests: ignored\n"));
}

#[test]
fn a_file_comes_from_anywhere_and_what_of_it_is_asked_for_is_deployed() {
    let daemon = Daemon::new(|r| match (r.method.as_str(), r.target.as_str()) {
        ("GET", "/files/stack.yaml") => (200, STACK.into()),
        ("GET", "/files/gone.yaml") => (404, "no\n".into()),
        _ => willing(r),
    });
    let home = Home::of(&daemon.url);
    let url = format!("{}/files/stack.yaml", daemon.url);
    let ran = home.run(&["deploy", "-f", &url, "--filter", "a*"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(deployed(&daemon), ["a"]);
    // The password is for the daemon, not for whoever has the file.
    assert!(daemon.requests()[0].header("authorization").is_none());
    let ran = home.run_with(&["up", "--yaml", "-", "--regex", "[bc]", "--skip-push"], STACK.as_bytes());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(deployed(&daemon), ["a", "b", "c"]);
    home.file("stack.yml", STACK);
    let ran = home.run(&["deploy", "a", "--envsubst=false", "--no-wait"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(daemon.requests().last().unwrap().json()["image"], "i:${TAG:-1}");

    for (arguments, code, text) in [
        (&["deploy", "-f", &format!("{}/files/gone.yaml", daemon.url)][..], 1, "gone.yaml"),
        (&["deploy", "-f", "none.yaml"], 1, "none.yaml"),
        (
            &["deploy", "-f", "stack.yml", "--filter", "x*"],
            1,
            "stack.yml: functions: none of these was asked for: a, b, c",
        ),
        (&["deploy", "-f", "stack.yml", "--filter", "a", "--regex", "a"], 2, "--regex"),
        (&["deploy", "-f", "stack.yml", "--regex", "("], 2, "--regex"),
        (&["deploy", "-f", "stack.yml", "--tag", "sha"], 2, "--tag"),
        (&["deploy", "-f", "stack.yml", "--replace", "--update"], 2, "--replace"),
    ] {
        let ran = home.run(arguments);
        assert_eq!(ran.code, Some(code), "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(text), "{arguments:?}: {}", ran.stderr);
    }
}

#[test]
fn what_faas_cli_takes_is_taken() {
    let daemon = Daemon::new(willing);
    let ran = Home::of(&daemon.url).run(&[
        "deploy",
        "--name=f",
        "--image=i",
        "--lang=go",
        "--handler=./f",
        "--network=func_functions",
        "--tag=latest",
        "--read-template=false",
        "--tls-no-verify",
        "--timeout=60s",
        "--replace=false",
        "--update=true",
        "--cpu-request=100m",
        "--memory-request=32Mi",
        "--cpu-limit=1",
        "--memory-limit=64Mi",
    ]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let expected = json!({
        "service": "f", "image": "i", "limits": {"cpu": "1", "memory": "64Mi"},
        "requests": {"cpu": "100m", "memory": "32Mi"},
    });
    assert_eq!(daemon.requests()[0].json(), expected);
}

#[test]
fn an_update_a_creation_and_a_replacement_are_different_calls() {
    for (options, there, expected) in [
        (&[][..], true, &["PUT"][..]),
        (&[], false, &["PUT", "POST"]),
        (&["--update=false"], true, &["POST"]),
        (&["--replace", "--update=false"], true, &["DELETE", "POST"]),
        (&["--replace"], false, &["DELETE", "POST"]),
    ] {
        let daemon = Daemon::new(move |r| match r.method.as_str() {
            "PUT" | "DELETE" if !there => (404, "not found\n".into()),
            _ => willing(r),
        });
        let ran = Home::of(&daemon.url)
            .run(&[&["deploy", "f", "--image", "i", "-n", "dev", "--no-wait"], options].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let requests = daemon.requests();
        let methods: Vec<_> = requests.iter().map(|r| r.method.as_str()).collect();
        assert_eq!(methods, expected, "{options:?}");
        for removal in requests.iter().filter(|r| r.method == "DELETE") {
            assert_eq!(removal.json(), json!({"functionName": "f", "namespace": "dev"}));
        }
    }
}

#[test]
fn a_removal_chooses_too_and_needs_no_image() {
    let daemon = Daemon::new(willing);
    let home = Home::of(&daemon.url);
    home.file(
        "stack.yaml",
        "functions: { a-1: { image: '${TAG}', environment_file: [none] }, b: { image: i } }\n",
    );
    let ran = home.run(&["remove", "-f", "stack.yaml", "--filter", "a-*", "-n", "dev"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "Removing a-1.dev\n"), "{}", ran.stderr);
    assert_eq!(daemon.lines(), ["DELETE /system/functions"]);
    // Only a file that is named: none is removed by accident.
    assert_eq!(home.run(&["remove"]).code, Some(2));
}

#[test]
fn functions_of_all_namespaces_are_listed_and_written() {
    let daemon = Daemon::new(|r| {
        match r.target.as_str() {
        "/system/namespaces" => (200, r#"["openfaas-fn","dev"]"#.into()),
        "/system/functions?namespace=openfaas-fn" => (
            200,
            r#"[{"name":"b","namespace":"openfaas-fn","image":"i","labels":{"faas_function":"b"},"invocationCount":2}]"#.into(),
        ),
        "/system/functions?namespace=dev" => {
            (200, r#"[{"name":"a","namespace":"dev","image":"i","annotations":null,"invocationCount":1}]"#.into())
        }
        _ => (404, String::new()),
    }
    });
    let home = Home::of(&daemon.url);
    let quiet = |more: &[&str]| home.run(&[&["list", "-A", "-q"], more].concat()).stdout;
    assert_eq!(quiet(&[]), "a.dev\nb.openfaas-fn\n");
    assert_eq!(quiet(&["--sort", "invocations", "-v"]), "b.openfaas-fn\na.dev\n");
    let ran = home.run(&["stack", "export", "-A", "-o", "out.yaml"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""), "{}", ran.stderr);
    let written = std::fs::read_to_string(home.path().join("out.yaml")).unwrap();
    let expected = "version: 1.0\nprovider:\n  name: openfaas\nfunctions:\n  a:\n    image: i\n    namespace: dev\n  b:\n    image: i\n";
    assert_eq!(written, expected);
}

#[test]
fn namespaces_are_asked_for_as_faas_cli_does() {
    let daemon = Daemon::new(|r| match (r.method.as_str(), r.target.as_str()) {
        ("GET", "/system/namespaces") => (200, r#"["openfaas-fn","dev"]"#.into()),
        ("GET", "/system/namespace/dev") => {
            (200, r#"{"name":"dev","labels":{"openfaas":"1"},"annotations":{"a":"b"}}"#.into())
        }
        ("POST", "/system/namespace/") => (201, String::new()),
        ("PUT" | "DELETE", "/system/namespace/dev") => (202, String::new()),
        _ => (404, "namespace gone not found\n".into()),
    });
    let home = Home::of(&daemon.url);
    for (arguments, shown) in [
        (&["namespace", "list"][..], "openfaas-fn\ndev\n"),
        (&["namespaces"], "openfaas-fn\ndev\n"),
        (&["ns", "get", "dev"], "Name:         dev\nLabels:       openfaas=1\nAnnotations:  a=b\n"),
        (&["ns", "create", "dev", "--label", "x=y", "--annotation", "a=b"], "Created dev\n"),
        (&["ns", "update", "dev", "-l", "x=z"], "Updated dev\n"),
        (&["namespace", "remove", "dev"], "Removed dev\n"),
    ] {
        let ran = home.run(arguments);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), shown), "{arguments:?}: {}", ran.stderr);
    }
    let sent: Vec<_> =
        daemon.requests().into_iter().filter(|r| !r.body.is_empty()).map(|r| r.json()).collect();
    let expected = [
        json!({"name": "dev", "labels": {"openfaas": "1", "x": "y"}, "annotations": {"openfaas": "1", "a": "b"}}),
        json!({"name": "dev", "labels": {"openfaas": "1", "x": "z"}, "annotations": {"openfaas": "1"}}),
        json!({"name": "dev", "labels": {"openfaas": "1"}}),
    ];
    assert_eq!(sent, expected);
    let gone = home.run(&["namespace", "get", "gone"]);
    assert_eq!((gone.code, gone.stderr.as_str()), (Some(1), "roost: namespace gone not found\n"));
}

#[test]
fn ready_waits_for_the_daemon_and_for_a_function() {
    let looks = AtomicUsize::new(0);
    let daemon = Daemon::new(move |r| match (r.target.as_str(), looks.fetch_add(1, Ordering::SeqCst)) {
        ("/healthz", 0) => (503, String::new()),
        ("/healthz", _) => (200, String::new()),
        (_, ..4) => (200, r#"{"name":"f","status":{"phase":"Starting"}}"#.into()),
        _ => (200, READY.into()),
    });
    let home = Home::of(&daemon.url);
    let ran = home.run(&["ready", "f"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "f is ready\n"), "{}", ran.stderr);
    assert_eq!(daemon.lines()[..3], ["GET /healthz", "GET /healthz", "GET /system/function/f?usage=1"]);
    let ran = home.run(&["ready", "f", "--json"]);
    assert_eq!(
        serde_json::from_str::<Value>(&ran.stdout).unwrap(),
        json!({"name": "f", "namespace": null, "ready": true})
    );
    let ran = home.run(&["ready"]);
    assert_eq!((ran.code, ran.stdout), (Some(0), format!("{} is ready\n", daemon.url)));
}
