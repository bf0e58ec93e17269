//! Never two at once: not in a deploy, not behind a crash. Each start and end is told by containerd.

use hyper::StatusCode;
use roost_tests::{Config, ECHO, Events, Host, Load};
use serde_json::{Value, json};

/// Requests in a second.
const RATE: u32 = 200;

fn body(annotations: &Value, n: u32) -> Value {
    json!({ "service": "echo", "image": ECHO, "envVars": { "N": n.to_string() }, "annotations": annotations })
}

async fn deployed(annotations: &Value) -> (Host, Events) {
    let host = Host::with_echo(Config::default()).await;
    let events = host.watch("echo").await;
    host.deployed(&body(annotations, 0)).await;
    (host, events)
}

/// Updates the function and waits until another revision than the one before is ready.
async fn update(host: &Host, body: &Value) {
    let before = host.function("echo").await["status"]["revision"].clone();
    host.put_function(body).await;
    host.status("echo", "a new revision", |status| {
        status["phase"] == "Ready" && status["revision"] != before
    })
    .await;
}

fn never_two(events: &Events) {
    let seen = events.seen();
    assert_eq!((seen.most_running, seen.most_containers), (1, 1), "{seen:?}");
}

async fn callers_are_held_while_the_only_one_is_replaced(annotations: Value) {
    let (host, events) = deployed(&annotations).await;
    let load = Load::at_rate(&host.api, "/function/echo", RATE);
    for n in 1..=3 {
        update(&host, &body(&annotations, n)).await;
    }
    let report = load.stop().await;
    assert!(report.failed.is_empty(), "{} failed: {:#?}", report.failed.len(), report.failed.first());
    assert!(report.answered > 100, "{report:?}");
    assert_eq!(events.started(4).await.started, 4);
    never_two(&events);
}

#[tokio::test]
async fn callers_of_a_singleton_are_held_while_it_is_replaced() {
    callers_are_held_while_the_only_one_is_replaced(json!({ "roost.scale.singleton": "true" })).await;
}

#[tokio::test]
async fn callers_are_held_while_a_function_is_recreated() {
    callers_are_held_while_the_only_one_is_replaced(json!({ "roost.rollout": "recreate" })).await;
}

#[tokio::test]
async fn one_that_is_killed_is_gone_before_the_next_begins() {
    let (host, events) = deployed(&json!({ "roost.scale.singleton": "true" })).await;
    for starts in 2..=4 {
        host.kill_function("echo");
        events.started(starts).await;
        host.ready("echo").await;
        host.assert_echoes("echo").await;
    }
    never_two(&events);
}

#[tokio::test]
async fn a_daemon_that_is_killed_in_the_middle_of_an_update_leaves_no_two() {
    let annotations = json!({ "roost.scale.singleton": "true" });
    let (mut host, events) = deployed(&annotations).await;
    for n in 1..=4 {
        host.put_function(&body(&annotations, n)).await;
        // At another point of the update in each round.
        tokio::time::sleep(std::time::Duration::from_millis(80) * n).await;
        host.kill9();
        host.start_daemon().await;
        host.ready("echo").await;
        host.assert_echoes("echo").await;
    }
    never_two(&events);
}

#[tokio::test]
async fn more_than_one_of_a_singleton_is_refused() {
    let (host, events) = deployed(&json!({ "roost.scale.singleton": "true" })).await;
    let answer = host.api.post("/system/scale-function/echo", r#"{"replicas":3}"#).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.text().contains("singleton"), "{}", answer.text());
    // What might come of it all the same would come before this.
    update(&host, &body(&json!({ "roost.scale.singleton": "true" }), 1)).await;
    never_two(&events);
    assert_eq!(host.function("echo").await["replicas"], 1);
}

#[tokio::test]
async fn one_that_was_scaled_to_more_and_becomes_a_singleton_has_one_also_behind_a_restart() {
    let mut host = Host::with_echo(Config::default()).await;
    host.deployed(&body(&json!({}), 0)).await;
    host.scale("echo", 3).await;
    host.has_ready("echo", 3).await;
    update(&host, &body(&json!({ "roost.scale.singleton": "true", "roost.drain": "0" }), 1)).await;
    host.has_ready("echo", 1).await;
    assert_eq!(host.function("echo").await["replicas"], 1);
    host.restart().await;
    host.has_ready("echo", 1).await;
    assert_eq!(host.function("echo").await["replicas"], 1);
}

#[tokio::test]
async fn without_a_word_of_it_the_new_one_begins_before_the_old_one_goes() {
    let (host, events) = deployed(&json!({})).await;
    update(&host, &body(&json!({}), 1)).await;
    assert_eq!(events.started(2).await.most_running, 2);
}
