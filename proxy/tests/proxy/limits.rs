//! Clients that send too much, too slowly, or half.

use std::time::Duration;

use roost_proxy::Settings;

use crate::support::*;

fn quick() -> Settings {
    Settings {
        header_timeout: Duration::from_millis(300),
        keep_alive: Duration::from_millis(600),
        ..Settings::default()
    }
}

#[tokio::test]
async fn a_head_over_the_limit_is_a_431_and_one_below_passes() {
    let proxy = Proxy::start().await;
    let head = |size: usize| format!("GET /x HTTP/1.1\r\nhost: h\r\nx-big: {}\r\n\r\n", "x".repeat(size));
    assert_eq!(proxy.ask(&head(900 << 10)).await.answer().await.head.status(), 200);
    // All of it is taken, though it is answered long before: a reset would reach the client before the answer.
    let mut wire = proxy.ask(&head(4 << 20)).await;
    assert_eq!(wire.head().await.status(), 431);
    assert_eq!(wire.ended().await, b"");
    drop(wire);
    until(|| proxy.server.open() == 0).await;
}

#[tokio::test]
async fn half_a_head_is_closed_in_time_however_it_trickles() {
    let proxy = Proxy::with(Settings { keep_alive: 10 * DEADLINE, ..quick() }).await;
    let mut wire = proxy.ask("GET / HTTP/1.1\r\n").await;
    let (mut reads, mut writes) = wire.stream.split();
    let trickle = async {
        while tokio::io::AsyncWriteExt::write_all(&mut writes, b"x: y\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut read = Vec::new();
    within(async {
        tokio::select! {
            () = trickle => {}
            end = tokio::io::AsyncReadExt::read_to_end(&mut reads, &mut read) => drop(end),
        }
    })
    .await;
    assert_eq!(read, b"");
    until(|| proxy.server.open() == 0).await;
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed_in_time() {
    let proxy = Proxy::with(quick()).await;
    // One that never says a word, and one that was used before.
    let mut silent = proxy.connect().await;
    let mut used = proxy.ask("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert_eq!(used.answer().await.head.status(), 200);
    assert_eq!(silent.ended().await, b"");
    assert_eq!(used.ended().await, b"");
    until(|| proxy.server.open() == 0).await;
}

#[tokio::test]
async fn the_header_limit_is_not_a_limit_between_requests_nor_on_them() {
    let proxy = Proxy::with(quick()).await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let mut client = proxy.connect().await;
    for round in 0..3 {
        client.send(GET).await;
        let mut wire = function.accept().await;
        wire.head().await;
        // Longer than both limits.
        tokio::time::sleep(Duration::from_millis(700)).await;
        wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close\r\n\r\n{round}")).await;
        assert_eq!(client.answer().await.body, round.to_string());
        // Longer than the limit of a head, shorter than the other.
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut() {
    let settings = Settings { stall_timeout: Duration::from_millis(300), ..Settings::default() };
    let proxy = Proxy::with(settings).await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let _client = proxy.ask(GET).await;
    let mut wire = function.accept().await;
    wire.head().await;
    wire.send("HTTP/1.1 200 OK\r\n\r\n").await;
    let block = vec![0; 1 << 20];
    within(async { while tokio::io::AsyncWriteExt::write_all(&mut wire.stream, &block).await.is_ok() {} })
        .await;
    within(function.endpoint.drained()).await;
    until(|| proxy.server.open() == 0).await;
}

#[tokio::test]
async fn a_malformed_request_is_a_400() {
    let proxy = Proxy::start().await;
    for request in [
        "GET\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
    ] {
        assert_eq!(proxy.ask(request).await.head().await.status(), 400, "{request}");
    }
}

#[tokio::test]
async fn connections_over_the_limit_wait_their_turn() {
    let proxy = Proxy::with(Settings { max_connections: 1, ..Settings::default() }).await;
    let mut first = proxy.ask("GET /1 HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert_eq!(first.answer().await.head.status(), 200);
    let mut second = proxy.ask("GET /2 HTTP/1.1\r\nhost: h\r\n\r\n").await;
    first.send("GET /3 HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert_eq!(first.answer().await.body, "fallback /3 127.0.0.1");
    assert_eq!(proxy.server.open(), 1);
    drop(first);
    assert_eq!(second.answer().await.body, "fallback /2 127.0.0.1");
}
