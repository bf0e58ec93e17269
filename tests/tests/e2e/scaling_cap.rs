//! No more at a time than a replica takes: those beyond wait, or are told when to come again.

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Method, StatusCode};
use roost_tests::{Answer, Config, ECHO, Host, Socket, body_in_pieces, eventually, next_piece};
use serde_json::{Value, json};
use tokio::sync::mpsc;

async fn deployed(further: Value) -> Host {
    let host = Host::with_echo(Config::default()).await;
    let mut body = json!({ "service": "echo", "image": ECHO });
    body.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
    host.deployed(&body).await;
    host
}

/// A request that is at the replica until it is ended.
struct Held {
    sender: mpsc::Sender<Bytes>,
    body: Incoming,
}

impl Held {
    async fn begin(host: &Host) -> Self {
        let (sender, body) = body_in_pieces();
        let request = host.api.request(&Method::POST, "/function/echo").body(body).unwrap();
        sender.send(Bytes::from_static(b"held")).await.unwrap();
        let mut body = host.api.open(request).await.unwrap().into_body();
        assert_eq!(next_piece(&mut body).await.unwrap().unwrap(), "held");
        Self { sender, body }
    }

    async fn end(mut self) {
        drop(self.sender);
        assert_eq!(next_piece(&mut self.body).await.unwrap(), None);
    }
}

fn refused(answer: &Answer) {
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{}", answer.text());
    let seconds: u32 = answer.header("retry-after").parse().expect("Retry-After in seconds");
    assert!((1..=60).contains(&seconds), "{seconds}");
}

/// Waits until a request is taken again: what was counted before is, a moment after its end.
async fn taken(host: &Host) {
    eventually("a request that is taken", || async {
        (host.call("echo", "hi").await.status == StatusCode::OK).then_some(())
    })
    .await;
}

#[tokio::test]
async fn one_that_comes_while_the_only_replica_is_full_is_told_to_come_again() {
    for further in [
        json!({ "annotations": { "roost.scale.capacity": "1" } }),
        json!({ "labels": { "roost.scale.capacity": "1" } }),
        json!({ "envVars": { "max_inflight": "1" } }),
        json!({ "envVars": { "max_inflight": "9" }, "annotations": { "roost.scale.capacity": "1" } }),
    ] {
        let host = deployed(further.clone()).await;
        let held = Held::begin(&host).await;
        refused(&host.call("echo", "second").await);
        let socket = Socket::try_open(&host, "/function/echo", &[]).await;
        assert_eq!(socket.err(), Some(StatusCode::TOO_MANY_REQUESTS), "{further}");
        held.end().await;
        taken(&host).await;
    }
}

#[tokio::test]
async fn an_open_socket_counts_as_a_request_does() {
    let host = deployed(json!({ "annotations": { "roost.scale.capacity": "2" } })).await;
    let socket = Socket::open(&host, "/function/echo").await;
    let held = Held::begin(&host).await;
    refused(&host.call("echo", "third").await);
    socket.leave().await;
    taken(&host).await;
    held.end().await;
}

#[tokio::test]
async fn one_that_may_wait_is_served_when_there_is_room() {
    let host =
        deployed(json!({ "annotations": { "roost.scale.capacity": "1", "roost.queue.wait": "1m" } })).await;
    let held = Held::begin(&host).await;
    let second = tokio::spawn({
        let api = host.api.clone();
        async move { api.post("/function/echo", "second").await }
    });
    host.waiting("echo", 1).await;
    assert!(!second.is_finished());
    held.end().await;
    let answer = second.await.unwrap();
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "second"));
}

#[tokio::test]
async fn one_that_waited_as_long_as_it_may_is_told_to_come_again() {
    let annotations = json!({ "roost.scale.capacity": "1", "roost.queue.wait": "500ms" });
    let host = deployed(json!({ "annotations": annotations })).await;
    let held = Held::begin(&host).await;
    refused(&host.call("echo", "second").await);
    held.end().await;
    host.waiting("echo", 0).await;
}

#[tokio::test]
async fn a_full_replica_is_passed_by_where_another_has_room() {
    let labels = json!({ "com.openfaas.scale.min": "2", "com.openfaas.scale.max": "2" });
    let host = deployed(json!({ "labels": labels, "annotations": { "roost.scale.capacity": "1" } })).await;
    host.has_ready("echo", 2).await;
    let first = Socket::open(&host, "/function/echo").await;
    let second = Socket::open(&host, "/function/echo").await;
    assert_ne!(first.replica(), second.replica());
    refused(&host.call("echo", "third").await);
}
