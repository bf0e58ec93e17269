//! No replicas while nobody needs one, and how they come back.

use futures_util::future::join_all;
use hyper::StatusCode;
use roost_tests::{Config, ECHO, Host, Image, Socket, Started, eventually, frozen};
use serde_json::{Value, json};

/// An echo that has no replicas when it was idle for two seconds.
fn idles(name: &str, annotations: &Value) -> Value {
    idles_after("2s", name, annotations)
}

fn idles_after(time: &str, name: &str, annotations: &Value) -> Value {
    let labels = json!({ "com.openfaas.scale.zero": "true", "com.openfaas.scale.zero-duration": time });
    json!({ "service": name, "image": ECHO, "labels": labels, "annotations": annotations })
}

async fn host_with(deployments: &[Value]) -> Host {
    let host = Host::with_echo(Config::default()).await;
    for deployment in deployments {
        host.post_function(deployment).await;
        host.was_up(deployment["service"].as_str().unwrap()).await;
    }
    host
}

/// Calls the function, and returns the process of the replica that answers: it is one that ran.
async fn running(host: &Host, name: &str) -> (String, Started) {
    let socket = Socket::open(host, &format!("/function/{name}")).await;
    let process = host.process_at(name, socket.replica()).await;
    socket.leave().await;
    process
}

/// Waits until a function with the same settings, that nobody calls, has gone to zero and come back, and gone again: as
/// often has the one been looked at that should not go.
async fn long_enough(host: &Host, other: &str) {
    for _ in 0..2 {
        host.idle(other).await;
        host.assert_echoes(other).await;
    }
    host.idle(other).await;
}

#[tokio::test]
async fn an_open_socket_that_says_nothing_keeps_its_replica() {
    let stopped = json!({ "roost.idle.state": "stopped" });
    let host = host_with(&[idles("held", &stopped), idles("other", &stopped)]).await;
    let mut socket = Socket::open(&host, "/function/held").await;
    let replica = host.process_at("held", socket.replica()).await;
    long_enough(&host, "other").await;
    // What the other one had may still be ending.
    eventually("the held one alone", || async { (host.processes() == [replica.clone()]).then_some(()) })
        .await;
    assert_eq!(host.function("held").await["availableReplicas"], 1);
    socket.echoes("still here").await;
    socket.leave().await;
    host.idle("held").await;
    eventually("the end of its replica", || async { host.processes().is_empty().then_some(()) }).await;
}

#[tokio::test]
async fn a_request_without_an_end_keeps_its_replica() {
    let host = host_with(&[idles("held", &json!({})), idles("other", &json!({}))]).await;
    let request = host.api.request(&hyper::Method::GET, "/function/held/sse");
    let response = host.api.open(request.body(roost_tests::body_of("")).unwrap()).await.unwrap();
    let mut clock = response.into_body();
    long_enough(&host, "other").await;
    assert_eq!(host.function("held").await["availableReplicas"], 1);
    assert!(roost_tests::next_piece(&mut clock).await.unwrap().is_some(), "the clock goes on");
    drop(clock);
    host.idle("held").await;
}

#[tokio::test]
async fn where_only_traffic_counts_a_silent_socket_is_closed_as_for_a_restart() {
    let traffic = json!({ "roost.scale.idle": "traffic", "roost.drain": "1s" });
    // Much longer than between two words, also where other work shares the machine.
    let host = host_with(&[idles_after("6s", "held", &traffic), idles_after("6s", "other", &traffic)]).await;
    let mut socket = Socket::open(&host, "/function/held").await;
    // As long as it speaks it stays.
    let speak = async {
        let mut beat = tokio::time::interval(std::time::Duration::from_millis(200));
        loop {
            beat.tick().await;
            socket.echoes("still here").await;
        }
    };
    tokio::select! {
        () = speak => unreachable!("it speaks until it is told"),
        () = long_enough(&host, "other") => {}
    }
    // An answer may be on its way.
    let code = loop {
        match socket.next().await {
            Some(Ok(message)) if message.is_text() => {}
            Some(Ok(roost_tests::Message::Close(Some(frame)))) => break u16::from(frame.code),
            other => panic!("no Close came, but {other:?}"),
        }
    };
    assert_eq!(code, 1012);
    host.idle("held").await;
}

#[tokio::test]
async fn hundreds_that_call_at_once_are_one_start_and_all_are_answered() {
    let host = Host::with_echo(Config::default()).await;
    let starts = host.watch("echo").await;
    host.post_function(&idles("echo", &json!({ "roost.idle.state": "stopped" }))).await;
    starts.started(1).await;
    for round in 1..=2 {
        host.idle("echo").await;
        eventually("the end of its replica", || async { host.processes().is_empty().then_some(()) }).await;
        assert_eq!(starts.seen().started, round);
        let answers = join_all((0..300).map(|_| host.call("echo", "hi"))).await;
        for answer in answers {
            assert_eq!((answer.status, answer.text()), (StatusCode::OK, "hi"));
        }
        let seen = starts.started(round + 1).await;
        assert_eq!((seen.started, seen.made), (round + 1, round + 1), "{seen:?}");
    }
}

#[tokio::test]
async fn a_paused_replica_is_frozen_and_goes_on_when_somebody_calls() {
    let state = json!({ "roost.idle.state": "paused", "roost.idle.paused-for": "1h" });
    let mut host = host_with(&[idles("echo", &state)]).await;
    let replica = running(&host, "echo").await;
    host.idle("echo").await;
    let paused = host.has_replica("echo", "paused").await;
    assert_eq!((&paused["replicas"], &paused["availableReplicas"]), (&json!(0), &json!(0)));
    assert!(frozen(host.process(&replica.0).1.pid));
    let socket = Socket::open(&host, "/function/echo").await;
    assert_eq!(host.process_at("echo", socket.replica()).await, replica);
    assert!(!frozen(replica.1.pid));
    socket.leave().await;

    // A daemon that was restarted, or killed, finds it as it is.
    for crash in [false, true] {
        host.has_replica("echo", "paused").await;
        if crash {
            host.kill9();
            host.start_daemon().await;
        } else {
            host.restart().await;
        }
        host.has_replica("echo", "paused").await;
        assert!(frozen(replica.1.pid));
        assert_eq!(running(&host, "echo").await, replica, "crashed: {crash}");
    }
}

#[tokio::test]
async fn a_created_replica_has_not_begun_until_somebody_calls() {
    let state = json!({ "roost.idle.state": "created", "roost.idle.created-for": "1h" });
    let mut host = Host::with_echo(Config::default()).await;
    let events = host.watch("echo").await;
    host.post_function(&idles("echo", &state)).await;
    events.started(1).await;
    host.idle("echo").await;
    // Beside it, the one that ran may still be ending.
    let standing = host.process_that_is("echo", "created").await;
    assert_eq!(events.seen().started, 1, "only that of the deployment");
    assert_eq!(running(&host, "echo").await, standing, "it was this one that began");
    assert_eq!(events.started(2).await.started, 2);

    for crash in [false, true] {
        let standing = host.process_that_is("echo", "created").await;
        if crash {
            host.kill9();
            host.start_daemon().await;
        } else {
            host.restart().await;
        }
        host.has_replica("echo", "created").await;
        assert_eq!(running(&host, "echo").await, standing, "crashed: {crash}");
    }
}

#[tokio::test]
async fn each_rung_falls_to_the_next_in_its_time() {
    let state = json!({
        "roost.idle.state": "paused",
        "roost.idle.paused-for": "4s",
        "roost.idle.created-for": "4s",
    });
    let host = host_with(&[idles("echo", &state)]).await;
    let ran = running(&host, "echo").await;
    host.has_replica("echo", "paused").await;
    host.has_replica("echo", "created").await;
    eventually("the end of the one that ran", || async { (!host.processes().contains(&ran)).then_some(()) })
        .await;
    eventually("the end of the last rung", || async { host.processes().is_empty().then_some(()) }).await;
    host.idle("echo").await;
    host.assert_echoes("echo").await;
}

/// An image whose program is not in it: its replicas can be made as far as that is looked for.
fn without_program() -> Image {
    Image::new(&[], &["/none"])
}

#[tokio::test]
async fn what_cannot_be_kept_ready_is_not_tried_again_and_again_while_nobody_asks() {
    let host = host_with(&[idles("other", &json!({ "roost.idle.state": "stopped" }))]).await;
    host.import(&without_program(), "none:1").await;
    let events = host.watch("broken").await;
    host.post_function(&json!({ "service": "broken", "image": "none:1" })).await;
    host.status("broken", "Failed", |status| status["phase"] == "Failed").await;
    host.scale("broken", 0).await;
    host.idle("broken").await;
    let before = events.seen().made;
    long_enough(&host, "other").await;
    // One try to keep one ready, and one that was under way.
    let tries = events.seen().made - before;
    assert!(tries <= 2, "{tries} tries while nobody asked");
}

#[tokio::test]
async fn a_socket_of_a_replica_that_is_to_be_paused_has_the_time_to_drain_and_then_gets_its_close() {
    let annotations = json!({ "roost.idle.state": "paused", "roost.drain": "10s" });
    let host = Host::with_echo(Config::default()).await;
    host.deployed(&json!({ "service": "echo", "image": ECHO, "annotations": annotations })).await;
    let mut socket = Socket::open(&host, "/function/echo").await;
    let replica = host.process_at("echo", socket.replica()).await;
    host.scale("echo", 0).await;
    assert_eq!(socket.closed().await.0, 1012);
    // The Close is answered by reading on.
    while socket.next().await.is_some_and(|message| message.is_ok()) {}
    assert_eq!(host.process_that_is("echo", "paused").await, replica);
    assert!(frozen(replica.1.pid));
    assert_eq!(running(&host, "echo").await, replica);
}

#[tokio::test]
async fn an_update_of_a_function_that_sleeps_starts_the_new_revision_alone() {
    let host = Host::with_echo(Config::default()).await;
    let events = host.watch("echo").await;
    let body = |n: u32| {
        json!({
            "service": "echo",
            "image": ECHO,
            "envVars": { "N": n.to_string() },
            "annotations": { "roost.idle.state": "created" },
        })
    };
    host.deployed(&body(0)).await;
    host.scale("echo", 0).await;
    host.has_replica("echo", "created").await;
    assert_eq!(events.seen().started, 1);
    host.put_function(&body(1)).await;
    host.has_ready("echo", 1).await;
    assert_eq!(events.seen().started, 2, "the one that slept did not begin");
}
