//! Requests that go the short way: over a connection to the function that was used before. What holds on the long way, which
//! all other tests go with their first request, holds here as well.

use std::time::Duration;

use roost_proxy::{Settings, Timeouts, Upstream};

use crate::support::*;

/// A proxy with the function `f`, a client whose next request goes the short way, and the function's side of it.
struct Warm {
    proxy: Proxy,
    upstream: std::sync::Arc<Upstream>,
    function: Function,
    client: Wire,
    wire: Wire,
}

impl Warm {
    async fn start() -> Self {
        Self::with(Timeouts::default()).await
    }

    async fn with(timeouts: Timeouts) -> Self {
        Self::on(Proxy::start().await, timeouts).await
    }

    async fn on(proxy: Proxy, timeouts: Timeouts) -> Self {
        let function = Function::start().await;
        let upstream = proxy.function_with("f", &[&function], timeouts);
        let mut client = proxy.ask(GET).await;
        let mut wire = function.accept().await;
        wire.head().await;
        wire.send(ok("first")).await;
        assert_eq!(client.answer().await.body, "first");
        let warm = Self { proxy, upstream, function, client, wire };
        until(|| warm.upstream.load().in_flight == 0).await;
        warm
    }

    /// Sends a request, whose head the function has seen then.
    async fn ask(&mut self, request: &str) -> Head {
        self.client.send(request).await;
        self.wire.head().await
    }

    async fn answered(&mut self, answer: &str) -> Answer {
        self.wire.send(answer).await;
        self.client.answer().await
    }
}

#[tokio::test]
async fn a_body_of_known_length_is_passed_on_as_it_comes_and_the_answer_back() {
    let mut warm = Warm::start().await;
    let head =
        "POST /function/f/a?b=c HTTP/1.1\r\nhost: h\r\ncontent-type: a/b\r\ncontent-length: 10\r\n\r\n";
    let seen = warm.ask(&format!("{head}hello")).await;
    assert_eq!(seen.line, "POST /a?b=c HTTP/1.1");
    assert_eq!(seen.value("content-length"), Some("10"));
    warm.wire.expect("hello").await;
    warm.client.send("world").await;
    warm.wire.expect("world").await;
    let answer = warm.answered("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
    assert_eq!((answer.head.value("content-type"), answer.body.as_str()), (Some("a/b"), "hi"));
    // And once more, on both connections.
    warm.ask(GET).await;
    assert_eq!(warm.answered(&ok("again")).await.body, "again");
    until(|| warm.upstream.requests() == 3).await;
}

#[tokio::test]
async fn headers_are_passed_on_byte_for_byte() {
    let mut warm = Warm::start().await;
    warm.client.send("GET /function/f HTTP/1.1\r\nHoSt: h\r\nX-OwN: 1\r\n\r\n").await;
    let host = warm.function.endpoint.address();
    warm.wire.expect(&format!("GET / HTTP/1.1\r\nhost: {host}\r\nX-OwN: 1\r\n")).await;
    warm.wire.head().await;
    warm.wire.send("HTTP/1.1 207 OdD\r\nX-OwN: 2\r\ncontent-length: 0\r\n\r\n").await;
    warm.client.expect("HTTP/1.1 207 OdD\r\nX-OwN: 2\r\n").await;
}

#[tokio::test]
async fn a_head_may_be_no_larger_here_than_elsewhere() {
    let settings = Settings { max_headers: 10, ..Settings::default() };
    let mut warm = Warm::on(Proxy::with(settings).await, Timeouts::default()).await;
    let with = |count: usize| GET.replace("\r\n\r\n", &format!("\r\n{}\r\n", "x-a: 1\r\n".repeat(count)));
    warm.ask(&with(9)).await;
    assert_eq!(warm.answered(&ok("hi")).await.body, "hi");
    warm.client.send(with(10)).await;
    assert_eq!(warm.client.answer().await.head.status(), 431);
}

#[tokio::test]
async fn an_answer_in_chunks_or_until_the_connection_ends_streams_through() {
    let mut warm = Warm::start().await;
    warm.ask(GET).await;
    warm.wire.send(format!("{CHUNKED}5\r\nhello\r\n")).await;
    assert_eq!(warm.client.head().await.value("transfer-encoding"), Some("chunked"));
    assert_eq!(warm.client.chunk().await.as_deref(), Some("hello"));
    warm.wire.send("1\r\n!\r\n0\r\n\r\n").await;
    assert_eq!(warm.client.chunk().await.as_deref(), Some("!"));
    assert_eq!(warm.client.chunk().await.as_deref(), Some(""));
    warm.client.expect("\r\n").await;
    warm.ask(GET).await;
    warm.wire.send("HTTP/1.1 200 OK\r\n\r\nto the end").await;
    warm.client.head().await;
    assert_eq!(warm.client.chunk().await.as_deref(), Some("to the end"));
    drop(warm.wire);
    assert_eq!(warm.client.chunk().await.as_deref(), Some(""));
}

#[tokio::test]
async fn a_body_that_breaks_off_never_looks_whole() {
    let mut warm = Warm::start().await;
    warm.ask(GET).await;
    warm.wire.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello").await;
    warm.client.head().await;
    warm.client.expect("hello").await;
    drop(warm.wire);
    assert_eq!(warm.client.closed().await, b"");
}

#[tokio::test]
async fn answers_without_a_body_end_with_their_heads() {
    let mut warm = Warm::start().await;
    warm.ask("HEAD /function/f HTTP/1.1\r\nhost: h\r\n\r\n").await;
    warm.wire.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n").await;
    assert_eq!(warm.client.head().await.value("content-length"), Some("10"));
    for status in ["204 No Content", "304 Not Modified"] {
        warm.ask(GET).await;
        warm.wire.send(format!("HTTP/1.1 {status}\r\n\r\n")).await;
        let head = warm.client.head().await;
        assert_eq!((head.value("content-length"), head.value("transfer-encoding")), (None, None));
    }
    warm.ask(GET).await;
    assert_eq!(warm.answered(&ok("hi")).await.body, "hi");
}

#[tokio::test]
async fn a_word_in_between_is_not_the_answer() {
    let mut warm = Warm::start().await;
    warm.ask(GET).await;
    warm.wire.send("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n").await;
    assert_eq!(warm.answered(&ok("hi")).await.body, "hi");
}

#[tokio::test]
async fn no_answer_a_wrong_one_and_none_in_time_are_told_apart() {
    let mut warm = Warm::start().await;
    warm.ask(GET).await;
    let answer = warm.answered("no answer\r\n\r\n").await;
    assert_eq!(answer.head.status(), 500);
    assert!(answer.body.contains("not HTTP"), "{}", answer.body);

    let mut warm = Warm::start().await;
    warm.ask(GET).await;
    drop(warm.wire);
    let answer = warm.client.answer().await;
    assert!(answer.body.contains("closed the connection without an answer"), "{}", answer.body);

    let mut warm = Warm::start().await;
    warm.ask(GET).await;
    let answer =
        warm.answered("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n").await;
    assert!(answer.body.contains("switched to another protocol unasked"), "{}", answer.body);

    let request = Some(Duration::from_millis(200));
    let mut warm = Warm::with(Timeouts { request, ..Timeouts::default() }).await;
    for _ in 0..2 {
        warm.ask(GET).await;
        let answer = warm.client.answer().await;
        assert_eq!((answer.head.status(), answer.head.value("x-roost-timeout")), (502, Some("request")));
        // Whoever was too late may still be writing: that connection is closed, and another one warm for the next round.
        assert_eq!(warm.wire.closed().await, b"");
        warm.client.send(GET).await;
        warm.wire = warm.function.accept().await;
        warm.wire.head().await;
        assert_eq!(warm.answered(&ok("hi")).await.body, "hi");
        until(|| warm.upstream.load().in_flight == 0).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_request() {
    let mut warm = Warm::start().await;
    warm.ask(GET).await;
    drop(warm.client);
    assert_eq!(warm.wire.closed().await, b"");
    until(|| warm.upstream.load().in_flight == 0).await;
}

#[tokio::test]
async fn a_connection_that_the_function_has_closed_meanwhile_is_not_used() {
    let mut warm = Warm::start().await;
    drop(warm.wire);
    warm.client.send(GET).await;
    // The proxy may have seen the end, or sees it with the first byte it writes: in both cases nothing was sent.
    warm.wire = warm.function.accept().await;
    warm.wire.head().await;
    assert_eq!(warm.answered(&ok("hi")).await.body, "hi");
}

#[tokio::test]
async fn a_body_that_the_client_does_not_send_to_its_end_is_its_own_fault() {
    let mut warm = Warm::start().await;
    warm.client.send("POST /function/f HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\nhello").await;
    warm.wire.head().await;
    warm.wire.expect("hello").await;
    tokio::io::AsyncWriteExt::shutdown(&mut warm.client.stream).await.unwrap();
    assert_eq!(warm.client.answer().await.head.status(), 400);
    assert_eq!(warm.wire.closed().await, b"");
}

#[tokio::test]
async fn an_answer_that_comes_before_the_end_of_the_request_is_passed_on_at_once() {
    let mut warm = Warm::start().await;
    warm.ask("POST /function/f HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\nhello").await;
    let answer = warm.answered("HTTP/1.1 413 Too Much\r\ncontent-length: 2\r\n\r\nno").await;
    assert_eq!((answer.head.line.as_str(), answer.body.as_str()), ("HTTP/1.1 413 Too Much", "no"));
    // What is left of the body may not be taken for a request.
    assert_eq!(warm.client.closed().await, b"");
    assert_eq!(warm.proxy.get("/x").await.head.status(), 200);
}

#[tokio::test]
async fn requests_that_are_sent_ahead_are_answered_in_their_order() {
    let mut warm = Warm::start().await;
    let posted = "POST /function/f HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nhi";
    warm.client.send(format!("{GET}{posted}GET /x HTTP/1.1\r\nhost: h\r\n\r\n{GET}")).await;
    warm.wire.head().await;
    assert_eq!(warm.answered(&ok("1")).await.body, "1");
    assert_eq!(warm.wire.head().await.value("content-length"), Some("2"));
    warm.wire.expect("hi").await;
    assert_eq!(warm.answered(&ok("2")).await.body, "2");
    assert!(warm.client.answer().await.body.starts_with("fallback /x"));
    warm.wire.head().await;
    assert_eq!(warm.answered(&ok("4")).await.body, "4");
}

#[tokio::test]
async fn the_last_answer_says_so_and_the_connection_ends_behind_it() {
    let mut warm = Warm::start().await;
    warm.ask("GET /function/f HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await;
    assert_eq!(warm.answered(&ok("hi")).await.head.value("connection"), Some("close"));
    assert_eq!(warm.client.ended().await, b"");

    let mut warm = Warm::start().await;
    let mut idle = warm.proxy.ask("GET /x HTTP/1.1\r\nhost: h\r\n\r\n").await;
    idle.answer().await;
    warm.ask(GET).await;
    let server = warm.proxy.server.clone();
    let shutdown = tokio::spawn(async move { server.shutdown(DEADLINE).await });
    assert_eq!(idle.ended().await, b"");
    assert_eq!(warm.answered(&ok("hi")).await.head.value("connection"), Some("close"));
    assert_eq!(warm.client.ended().await, b"");
    assert_eq!(within(shutdown).await.unwrap().cut, 0);
}

#[tokio::test]
async fn replicas_have_their_turns_whether_there_is_a_connection_to_them_or_not() {
    for answer in [
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    ] {
        let proxy = Proxy::start().await;
        let (one, of_one) = Function::start().await.serve(answer);
        let (other, of_other) = Function::start().await.serve(answer);
        proxy.function("f", &[]).publish(vec![one, other]);
        let mut client = proxy.connect().await;
        for _ in 0..20 {
            client.send(GET).await;
            assert_eq!(client.answer().await.head.status(), 200);
        }
        for counts in [of_one, of_other] {
            let requests = counts[1].load(std::sync::atomic::Ordering::SeqCst);
            assert!((5..=15).contains(&requests), "{requests} of 20");
        }
    }
}

#[tokio::test]
async fn replicas_that_end_their_answers_with_their_connections_have_their_turns() {
    let proxy = Proxy::start().await;
    let functions = [Function::start().await, Function::start().await];
    let upstream = proxy.function("f", &[&functions[0], &functions[1]]);
    let [one, other] = functions;
    let mut client = proxy.connect().await;
    let mut seen = [0, 0];
    for _ in 0..20 {
        client.send(GET).await;
        let (index, mut wire) = tokio::select! {
            wire = one.accept() => (0, wire),
            wire = other.accept() => (1, wire),
        };
        seen[index] += 1;
        wire.head().await;
        wire.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhi").await;
        drop(wire);
        assert_eq!(client.answer().await.body, "hi");
        until(|| upstream.load().in_flight == 0).await;
    }
    assert_eq!(seen, [10, 10]);
}
