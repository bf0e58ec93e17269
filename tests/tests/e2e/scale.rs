//! As many replicas as were asked for: many, one, or none until somebody calls.

use bytes::Bytes;
use futures_util::future::join_all;
use hyper::{Method, StatusCode};
use roost_tests::{Host, Image, Registry, body_in_pieces, eventually, next_piece};
use serde_json::json;

async fn scale(host: &Host, path: &str, body: &str) {
    let answer = host.api.post(&format!("/system/scale-function/{path}"), body.to_owned()).await;
    assert_eq!((answer.status, answer.text()), (StatusCode::ACCEPTED, ""), "{path} {body}");
}

async fn processes(host: &Host, count: usize) {
    eventually("as many processes", || async { (host.processes().len() == count).then_some(()) }).await;
}

#[tokio::test]
async fn a_function_has_as_many_replicas_as_were_asked_for_and_none_wakes_when_it_is_called() {
    let registry = Registry::open().await;
    let image = registry.push(&Image::echo(), "echo", "1").await;
    let mut host = Host::start().await;
    // What it keeps ready while it rests would be one more process.
    let annotations = json!({ "roost.idle.state": "stopped" });
    host.deployed(&json!({ "service": "echo", "image": image, "annotations": annotations })).await;

    // Many, in each spelling. What is wanted is told at once.
    for (path, body, count) in [
        ("echo", r#"{"serviceName":"echo","replicas":3}"#, 3),
        ("echo.openfaas-fn", r#"{"service":"echo","replicas":2,"namespace":"openfaas-fn"}"#, 2),
        ("echo?namespace=openfaas-fn", r#"{"replicas":3,"namespace":null}"#, 3),
    ] {
        scale(&host, path, body).await;
        assert_eq!(host.function("echo").await["replicas"], count);
        processes(&host, count).await;
        eventually("as many that serve", || async {
            (host.function("echo").await["availableReplicas"] == count).then_some(())
        })
        .await;
    }

    // None: what is in hand is finished.
    let (sender, body) = body_in_pieces();
    let request = host.api.request(&Method::POST, "/function/echo").body(body).unwrap();
    sender.send(Bytes::from_static(b"before")).await.unwrap();
    let mut response = host.api.open(request).await.unwrap().into_body();
    assert_eq!(next_piece(&mut response).await.unwrap().unwrap(), "before");
    host.log_in().await;
    assert_eq!(host.roost_done(&["scale", "echo", "0"]).await, "Scaling echo to 0\n");
    let idle = host.status("echo", "Idle", |status| status["phase"] == "Idle").await;
    assert_eq!((&idle["replicas"], &idle["availableReplicas"]), (&json!(0), &json!(0)));
    processes(&host, 1).await;
    sender.send(Bytes::from_static(b"behind")).await.unwrap();
    assert_eq!(next_piece(&mut response).await.unwrap().unwrap(), "behind");
    drop(sender);
    assert_eq!(next_piece(&mut response).await.unwrap(), None);
    processes(&host, 0).await;

    // Still none behind a restart, until many call at once: they get one replica.
    host.restart().await;
    host.status("echo", "Idle", |status| status["phase"] == "Idle").await;
    assert_eq!(host.processes(), []);
    let answers = join_all((0..30).map(|_| host.call("echo", "hi"))).await;
    for answer in answers {
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "hi"));
    }
    assert_eq!(host.processes().len(), 1);
    assert_eq!(host.ready("echo").await["replicas"], 1);
    let log = std::fs::read_to_string(host.daemon_log()).unwrap();
    assert_eq!(log.matches("a request wakes it").count(), 1);

    // An update brings it back, with what its labels ask for at least; and keeps more.
    scale(&host, "echo", r#"{"replicas":0}"#).await;
    let labels = json!({ "com.openfaas.scale.min": "2", "team": "blue" });
    host.put_function(&json!({ "service": "echo", "image": image, "labels": labels })).await;
    assert_eq!(host.ready("echo").await["replicas"], 2);
    scale(&host, "echo", r#"{"replicas":3}"#).await;
    host.put_function(&json!({ "service": "echo", "image": image })).await;
    assert_eq!(host.ready("echo").await["replicas"], 3);
    host.assert_echoes("echo").await;
    host.remove("echo").await;
    host.assert_nothing_left().await;
}

#[tokio::test]
async fn a_function_that_cannot_wake_says_why_and_is_tried_again_by_the_next_caller() {
    let registry = Registry::open().await;
    let image = registry.push(&Image::script("echo broken >&2; exit 7"), "broken", "1").await;
    let host = Host::start().await;
    host.post_function(&json!({ "service": "broken", "image": image })).await;
    host.status("broken", "Failed", |status| status["phase"] == "Failed").await;
    scale(&host, "broken", r#"{"replicas":0}"#).await;
    host.status("broken", "Idle", |status| status["phase"] == "Idle").await;
    for _ in 0..2 {
        let answer = host.call("broken", "hi").await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.text());
        assert!(answer.text().contains("code 7"), "{}", answer.text());
        scale(&host, "broken", r#"{"replicas":0}"#).await;
        host.status("broken", "Idle", |status| status["phase"] == "Idle").await;
    }
}
