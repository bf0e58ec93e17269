//! Connections to functions: kept, noticed when they die, and never used to say a thing twice.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use roost_proxy::Timeouts;

use crate::support::*;

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let proxy = Proxy::start().await;
    let (endpoint, counts) = Function::start().await.serve("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi");
    proxy.function("f", &[]).publish(vec![Arc::clone(&endpoint)]);
    let mut client = proxy.connect().await;
    for _ in 0..50 {
        client.send("POST /function/f HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabc").await;
        assert_eq!(client.answer().await.body, "hi");
        within(endpoint.drained()).await;
    }
    assert_eq!(counts.each_ref().map(|count| count.load(Ordering::SeqCst)), [1, 50]);
}

#[tokio::test]
async fn a_connection_that_the_function_closed_is_not_used_again() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let mut client = proxy.connect().await;
    for _ in 0..3 {
        client.send(GET).await;
        let mut wire = function.accept().await;
        wire.head().await;
        wire.send(ok("hi")).await;
        assert_eq!(client.answer().await.body, "hi");
        // Without a word, as node does. The proxy closes its side when it has noticed.
        tokio::io::AsyncWriteExt::shutdown(&mut wire.stream).await.unwrap();
        assert_eq!(wire.ended().await, b"");
    }
}

#[tokio::test]
async fn a_connection_that_died_under_a_request_is_an_error_and_the_request_is_not_sent_again() {
    let proxy = Proxy::start().await;
    let (dying, other) = (Function::start().await, Function::start().await);
    let upstream = proxy.function("f", &[&dying]);
    // Warm: the second request goes over a connection that was used before.
    let mut client = proxy.ask(GET).await;
    let mut wire = dying.accept().await;
    wire.head().await;
    wire.send(ok("hi")).await;
    client.answer().await;
    within(dying.endpoint.drained()).await;
    upstream.publish(vec![Arc::clone(&dying.endpoint), Arc::clone(&other.endpoint)]);
    let (other, counts) = other.serve("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    // Keeps the other busier, so that the choice is certain.
    upstream.publish(vec![Arc::clone(&dying.endpoint)]);
    client.send("POST /function/f HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nhi").await;
    wire.head().await;
    wire.expect("hi").await;
    upstream.publish(vec![Arc::clone(&dying.endpoint), other]);
    drop(wire);
    let answer = client.answer().await;
    assert_eq!(answer.head.status(), 500);
    let replica = dying.endpoint.id();
    assert_eq!(
        answer.body,
        format!("Can't reach service for: f. Replica {replica} closed the connection without an answer\n")
    );
    assert_eq!(answer.head.value("x-openfaas-internal"), Some("proxy"));
    assert_eq!(counts[1].load(Ordering::SeqCst), 0, "sent to the other");
    let mut again = std::pin::pin!(dying.accept());
    tokio::select! {
        biased;
        _ = &mut again => panic!("sent again"),
        () = tokio::task::yield_now() => {}
    }
}

#[tokio::test]
async fn a_replica_that_refuses_is_passed_over_and_the_last_one_is_an_error() {
    let proxy = Proxy::start().await;
    let dead: Vec<_> = [Function::start().await.die(), Function::start().await.die()].into();
    let (alive, _) = Function::start().await.serve("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi");
    let upstream = proxy.function("f", &[]);
    upstream.publish([dead.clone(), vec![alive]].concat());
    let mut client = proxy.connect().await;
    for _ in 0..9 {
        client.send("POST /function/f HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabc").await;
        assert_eq!(client.answer().await.body, "hi");
    }
    upstream.publish(vec![Arc::clone(&dead[0])]);
    client.send(GET).await;
    let answer = client.answer().await;
    assert_eq!(answer.head.status(), 500);
    let said = format!("Can't reach service for: f. Connecting to replica {} failed: ", dead[0].id());
    assert!(answer.body.starts_with(&said) && answer.body.contains("refused"), "{}", answer.body);
    until(|| upstream.load().in_flight == 0).await;
}

#[tokio::test]
async fn an_answer_that_is_not_http_is_an_error() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    for (said, what) in [
        ("SSH-2.0-OpenSSH\r\n\r\n", "sent something that is not HTTP"),
        (
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
            "switched to another protocol unasked",
        ),
    ] {
        let mut client = proxy.ask(GET).await;
        let mut wire = function.accept().await;
        wire.head().await;
        wire.send(said).await;
        let answer = client.answer().await;
        assert_eq!(answer.head.status(), 500);
        assert!(answer.body.ends_with(&format!("{what}\n")), "{}", answer.body);
        assert_eq!(wire.closed().await, b"");
    }
}

#[tokio::test]
async fn a_function_that_does_not_answer_in_time_is_a_502_and_its_request_is_cancelled() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let timeouts = Timeouts { request: Some(Duration::from_millis(200)), ..Timeouts::default() };
    proxy.function_with("f", &[&function], timeouts);
    let mut client = proxy.ask(GET).await;
    let mut wire = function.accept().await;
    wire.head().await;
    let answer = client.answer().await;
    assert_eq!(answer.head.status(), 502);
    assert_eq!(answer.body, "function f.openfaas-fn did not answer within its request limit of 200ms\n");
    assert_eq!(wire.closed().await, b"");
    within(function.endpoint.drained()).await;
}

#[tokio::test]
async fn a_withdrawn_endpoint_loses_its_idle_connections_and_keeps_its_requests() {
    let proxy = Proxy::start().await;
    let (old, new) = (Function::start().await, Function::start().await);
    let upstream = proxy.function("f", &[&old]);
    let (mut idle, mut busy) = (proxy.ask(GET).await, proxy.ask(GET).await);
    let (mut first, mut second) = (old.accept().await, old.accept().await);
    for wire in [&mut first, &mut second] {
        wire.head().await;
    }
    first.send(ok("hi")).await;
    // Which of the two clients that was is the scheduler's choice.
    let answered = tokio::select! {
        answer = idle.answer() => answer,
        answer = busy.answer() => { std::mem::swap(&mut idle, &mut busy); answer }
    };
    assert_eq!(answered.body, "hi");
    until(|| old.endpoint.in_flight() == 1).await;

    upstream.publish(vec![Arc::clone(&new.endpoint)]);
    assert_eq!(first.closed().await, b"");
    idle.send(GET).await;
    let mut wire = new.accept().await;
    wire.head().await;
    wire.send(ok("new")).await;
    assert_eq!(idle.answer().await.body, "new");

    assert_eq!(old.endpoint.in_flight(), 1);
    second.send(ok("old")).await;
    assert_eq!(busy.answer().await.body, "old");
    within(old.endpoint.drained()).await;
    assert_eq!(second.closed().await, b"", "it does not go back to the pool");
}
