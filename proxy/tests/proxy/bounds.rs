//! Limits on what clients and functions may have, and what is told when one is reached.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use roost_proxy::{Bounds, ClientLimits, Limit, Settings, Upstream, UpstreamLimits};

use crate::support::*;

const UPGRADE: &str = "GET /function/f HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";

fn clients(clients: ClientLimits) -> Settings {
    Settings { clients, ..Settings::default() }
}

fn bounded(proxy: &Proxy, function: &Function, bounds: Bounds) -> Arc<Upstream> {
    let upstream = proxy.function("f", &[function]);
    upstream.set_limits(UpstreamLimits { bounds, ..upstream.limits() });
    upstream
}

fn count(counts: &[(Limit, u64)], limit: Limit) -> u64 {
    counts.iter().find(|(of, _)| *of == limit).unwrap().1
}

fn post(length: usize) -> String {
    format!("POST /function/f HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\n\r\n{}", "x".repeat(length))
}

const POST_CHUNKED: &str = "POST /function/f HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n";

#[tokio::test]
async fn a_client_has_so_many_connections_and_is_told_when_it_comes_with_more() {
    let limits = ClientLimits { connections: NonZeroUsize::new(2), ..ClientLimits::default() };
    let proxy = Proxy::with(clients(limits)).await;
    let (first, mut second) = (proxy.connect().await, proxy.connect().await);
    let ask = "GET /x HTTP/1.1\r\nhost: h\r\n\r\n";
    second.send(ask).await;
    assert_eq!(second.answer().await.head.status(), 200);
    let mut third = proxy.ask(ask).await;
    let answer = third.answer().await;
    assert_eq!((answer.head.status(), answer.head.value("retry-after")), (429, Some("5")));
    assert_eq!(answer.body, "your address has as many connections open as it may have\n");
    assert_eq!(third.ended().await, b"");
    assert_eq!(count(&proxy.server.limited(), Limit::ClientConnections), 1);
    drop((first, third));
    until(|| proxy.server.open() == 1).await;
    assert_eq!(proxy.get("/x").await.head.status(), 200);
}

#[tokio::test]
async fn a_tunnel_goes_on_being_a_connection_of_its_client() {
    let limits = ClientLimits { connections: NonZeroUsize::new(1), ..ClientLimits::default() };
    let proxy = Proxy::with(clients(limits)).await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let mut client = proxy.ask(UPGRADE).await;
    let mut wire = function.accept().await;
    wire.head().await;
    wire.send(SWITCHED).await;
    assert_eq!(client.head().await.status(), 101);
    wire.send("hi").await;
    client.expect("hi").await;
    assert_eq!(proxy.get("/x").await.head.status(), 429);
    drop((client, wire));
    until(|| proxy.server.open() == 0).await;
    assert_eq!(proxy.get("/x").await.head.status(), 200);
}

#[tokio::test]
async fn a_client_that_asks_too_fast_is_told_when_to_come_again() {
    let limits = ClientLimits {
        requests: Some("30/m burst 3".parse().unwrap()),
        handshakes: Some("1/h".parse().unwrap()),
        ..ClientLimits::default()
    };
    let proxy = Proxy::with(clients(limits)).await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let mut client = proxy.connect().await;
    for (request, status, after) in [
        (UPGRADE, 500, None),
        (UPGRADE, 429, Some("3600")),
        ("GET /x HTTP/1.1\r\nhost: h\r\n\r\n", 200, None),
        ("GET /x HTTP/1.1\r\nhost: h\r\n\r\n", 429, Some("2")),
    ] {
        client.send(request).await;
        if status == 500 {
            let mut wire = function.accept().await;
            wire.head().await;
            wire.send("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n").await;
        }
        let answer = client.answer().await;
        assert_eq!((answer.head.status(), answer.head.value("retry-after")), (status, after), "{request}");
    }
    let counts = proxy.server.limited();
    assert_eq!(count(&counts, Limit::ClientRequests), 1);
    assert_eq!(count(&counts, Limit::ClientHandshakes), 1);
}

#[tokio::test]
async fn a_function_is_asked_no_more_often_than_it_may_be_until_the_limit_is_lifted() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let bounds = Bounds { requests: Some("1/h burst 2".parse().unwrap()), ..Bounds::default() };
    let upstream = bounded(&proxy, &function, bounds);
    let (endpoint, _) = function.serve("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    upstream.publish(vec![endpoint]);
    let mut statuses = Vec::new();
    for path in ["/function/f", "/async-function/f", "/function/f", "/async-function/f", "/x"] {
        statuses.push(proxy.get(path).await.head.status());
    }
    assert_eq!(statuses, [200, 202, 429, 429, 200]);
    assert_eq!(count(&upstream.limited(), Limit::Requests), 2);
    upstream.set_limits(UpstreamLimits { bounds: Bounds::default(), ..upstream.limits() });
    assert_eq!(proxy.get("/function/f").await.head.status(), 200);
}

#[tokio::test]
async fn a_function_has_so_many_connections_from_the_handshake_to_their_end() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let bounds = Bounds { connections: NonZeroUsize::new(1), ..Bounds::default() };
    let upstream = bounded(&proxy, &function, bounds);
    let mut client = proxy.ask(UPGRADE).await;
    let mut wire = function.accept().await;
    wire.head().await;
    // Not yet one, but it may become one.
    let refused = proxy.ask(UPGRADE).await.answer().await;
    assert_eq!((refused.head.status(), refused.head.value("retry-after")), (429, Some("5")));
    wire.send(SWITCHED).await;
    assert_eq!(client.head().await.status(), 101);
    assert_eq!(proxy.ask(UPGRADE).await.answer().await.head.status(), 429);
    assert_eq!(count(&upstream.limited(), Limit::Connections), 2);
    drop((client, wire));
    until(|| upstream.load().tunnels == 0).await;
    let mut client = proxy.ask(UPGRADE).await;
    let mut wire = function.accept().await;
    wire.head().await;
    wire.send(SWITCHED).await;
    assert_eq!(client.head().await.status(), 101);
}

#[tokio::test]
async fn a_body_of_the_limit_passes_and_a_longer_one_is_refused_before_anybody_sees_it() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let upstream = bounded(&proxy, &function, Bounds { body: Some(5), ..Bounds::default() });
    let mut refused = proxy.ask(&post(6)).await;
    let answer = refused.answer().await;
    assert_eq!(answer.head.status(), 413);
    assert_eq!(answer.body, "the request body is longer than the limit of 5 bytes\n");
    assert_eq!(
        proxy.ask(&post(6).replace("/function/", "/async-function/")).await.head().await.status(),
        413
    );
    assert_eq!(count(&upstream.limited(), Limit::Body), 2);
    let mut client = proxy.ask(&post(5)).await;
    let mut wire = function.accept().await;
    wire.head().await;
    wire.expect("xxxxx").await;
    wire.send(ok("hi")).await;
    assert_eq!(client.answer().await.body, "hi");
    client.send(format!("{POST_CHUNKED}5\r\nhello\r\n0\r\n\r\n")).await;
    wire.head().await;
    assert_eq!(wire.chunk().await.as_deref(), Some("hello"));
    assert_eq!(wire.chunk().await.as_deref(), Some(""));
}

#[tokio::test]
async fn a_body_that_turns_out_too_long_breaks_off_for_the_function_and_is_a_413_for_the_client() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let upstream = bounded(&proxy, &function, Bounds { body: Some(5), ..Bounds::default() });
    let mut client = proxy.ask(&format!("{POST_CHUNKED}3\r\nabc\r\n")).await;
    let mut wire = function.accept().await;
    wire.head().await;
    assert_eq!(wire.chunk().await.as_deref(), Some("abc"));
    client.send("3\r\ndef\r\n").await;
    assert_eq!(wire.chunk().await, None, "cut");
    assert_eq!(client.answer().await.head.status(), 413);
    assert_eq!(count(&upstream.limited(), Limit::Body), 1);
    until(|| upstream.load().in_flight == 0).await;
}

#[tokio::test]
async fn an_answer_that_has_begun_breaks_off_with_the_body_that_turns_out_too_long() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    bounded(&proxy, &function, Bounds { body: Some(5), ..Bounds::default() });
    let mut client = proxy.ask(&format!("{POST_CHUNKED}3\r\nabc\r\n")).await;
    let mut wire = function.accept().await;
    wire.head().await;
    wire.send(format!("{CHUNKED}2\r\nhi\r\n")).await;
    assert_eq!(client.head().await.status(), 200);
    assert_eq!(client.chunk().await.as_deref(), Some("hi"));
    client.send("3\r\ndef\r\n").await;
    assert_eq!(client.chunk().await, None, "not taken for the whole");
}

#[tokio::test]
async fn a_body_that_trickles_is_not_waited_for_longer_than_its_limit() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let bounds = Bounds { body_time: Some(Duration::from_millis(300)), ..Bounds::default() };
    let upstream = bounded(&proxy, &function, bounds);
    let client = proxy.ask("POST /function/f HTTP/1.1\r\nhost: h\r\ncontent-length: 1000000\r\n\r\n").await;
    let (mut reads, mut writes) = client.stream.into_split();
    let trickle = tokio::spawn(async move {
        while tokio::io::AsyncWriteExt::write_all(&mut writes, b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let mut wire = function.accept().await;
    wire.head().await;
    let mut answer = vec![0; 12];
    within(tokio::io::AsyncReadExt::read_exact(&mut reads, &mut answer)).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 408");
    assert!(wire.closed().await.len() < 1_000_000);
    assert_eq!(count(&upstream.limited(), Limit::BodyTime), 1);
    trickle.abort();
}

#[tokio::test]
async fn a_request_has_so_many_headers() {
    let head = |count: usize| format!("GET /x HTTP/1.1\r\nhost: h\r\n{}\r\n", "a: b\r\n".repeat(count - 1));
    for (most, settings) in [
        (100, Settings::default()),
        (10, Settings { max_headers: 10, ..Settings::default() }),
        (200, Settings { max_headers: 200, ..Settings::default() }),
    ] {
        let proxy = Proxy::with(settings).await;
        assert_eq!(proxy.ask(&head(most)).await.answer().await.head.status(), 200, "{most}");
        let mut refused = proxy.ask(&head(most + 1)).await;
        assert_eq!(refused.head().await.status(), 431, "{most}");
        refused.ended().await;
        until(|| count(&proxy.server.limited(), Limit::Head) == 1).await;
    }
}

#[tokio::test]
async fn what_no_request_is_and_what_is_too_slow_to_be_one_is_counted() {
    let settings = Settings { header_timeout: Duration::from_millis(200), ..Settings::default() };
    let proxy = Proxy::with(settings).await;
    proxy.ask("GET / HTTP/1.1\r\nno colon\r\n\r\n").await.closed().await;
    proxy.ask("GET / HTTP/1.1\r\n\r\n").await.closed().await;
    until(|| count(&proxy.server.limited(), Limit::Malformed) == 2).await;
    proxy.ask("GET / HTTP/1.1\r\n").await.closed().await;
    until(|| count(&proxy.server.limited(), Limit::HeadTime) == 1).await;
}

#[tokio::test]
async fn a_connection_that_never_says_a_word_has_no_longer_than_a_head_has() {
    let header_timeout = Duration::from_millis(200);
    let proxy =
        Proxy::with(Settings { header_timeout, keep_alive: 10 * DEADLINE, ..Settings::default() }).await;
    let mut silent = proxy.connect().await;
    // One that has said something before may be silent for longer: it is closed by nobody here.
    let mut used = proxy.ask("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    used.answer().await;
    assert_eq!(silent.ended().await, b"");
    until(|| proxy.server.open() == 1).await;
    used.send("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert_eq!(used.answer().await.head.status(), 200);
}

#[tokio::test]
async fn of_two_lengths_of_an_answer_the_client_sees_the_one_that_counts() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let mut client = proxy.ask(GET).await;
    let mut wire = function.accept().await;
    wire.head().await;
    wire.send(
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    )
    .await;
    let answer = client.answer().await;
    assert_eq!((answer.head.value("content-length"), answer.body.as_str()), (None, "hello"));
}
