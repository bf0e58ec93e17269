//! Bodies: passed on as they come, in both directions, and never made whole when they are not.

use std::time::Duration;

use roost_proxy::{CLIENT_LEFT, Timeouts};

use crate::support::*;

#[tokio::test]
async fn each_chunk_arrives_before_the_next_is_sent() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let upstream = proxy.function("f", &[&function]);
    let mut client =
        proxy.ask("POST /function/f HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let mut wire = function.accept().await;
    assert_eq!(wire.head().await.value("transfer-encoding"), Some("chunked"));
    wire.send(CHUNKED).await;
    assert_eq!(client.head().await.status(), 200);
    for text in ["one", "two", "three"] {
        client.send(format!("{:x}\r\n{text}\r\n", text.len())).await;
        assert_eq!(wire.chunk().await.as_deref(), Some(text));
        wire.send(format!("{:x}\r\n{text}!\r\n", text.len() + 1)).await;
        assert_eq!(client.chunk().await, Some(format!("{text}!")));
    }
    assert_eq!(upstream.load().in_flight, 1);
    client.send("0\r\n\r\n").await;
    assert_eq!(wire.chunk().await.as_deref(), Some(""));
    wire.send("0\r\n\r\n").await;
    assert_eq!(client.chunk().await.as_deref(), Some(""));
    until(|| upstream.load().in_flight == 0).await;
}

#[tokio::test]
async fn events_arrive_one_by_one() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let mut client =
        proxy.ask("GET /function/f HTTP/1.1\r\nhost: h\r\naccept: text/event-stream\r\n\r\n").await;
    let mut wire = function.accept().await;
    wire.head().await;
    // Of no known length, and ended by closing.
    wire.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n").await;
    assert_eq!(client.head().await.value("content-type"), Some("text/event-stream"));
    for number in 0..5 {
        let event = format!("data: {number}\n\n");
        wire.send(&event).await;
        assert_eq!(client.chunk().await, Some(event));
    }
    drop(wire);
    assert_eq!(client.chunk().await.as_deref(), Some(""));
}

#[tokio::test]
async fn a_get_may_have_a_chunked_body() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let request =
        "GET /function/f HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    let mut client = proxy.ask(request).await;
    let mut wire = function.accept().await;
    assert_eq!(wire.head().await.value("transfer-encoding"), Some("chunked"));
    assert_eq!(wire.chunk().await.as_deref(), Some("hi"));
    assert_eq!(wire.chunk().await.as_deref(), Some(""));
    wire.send(ok("ok")).await;
    assert_eq!(client.answer().await.body, "ok");
}

#[tokio::test]
async fn announced_trailers_pass_both_ways() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let mut client = proxy
        .ask(
            "POST /function/f HTTP/1.1\r\nhost: h\r\nte: trailers\r\ntrailer: x-sum\r\n\
             transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-sum: 1\r\n\r\n",
        )
        .await;
    let mut wire = function.accept().await;
    assert_eq!(wire.head().await.value("te"), Some("trailers"));
    wire.expect("1\r\na\r\n0\r\nx-sum: 1\r\n\r\n").await;
    wire.send("HTTP/1.1 200 OK\r\ntrailer: x-end\r\ntransfer-encoding: chunked\r\n\r\n1\r\nb\r\n0\r\nx-end: 2\r\n\r\n")
        .await;
    client.head().await;
    client.expect("1\r\nb\r\n0\r\nx-end: 2\r\n\r\n").await;
}

#[tokio::test]
async fn a_large_body_passes_whole_and_a_slow_reader_holds_it_back() {
    const SIZE: usize = 64 << 20;
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let mut client = proxy.ask(GET).await;
    let mut wire = function.accept().await;
    wire.head().await;
    wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n")).await;
    // The client does not read: what the proxy and the sockets hold is bounded, so writing comes to a halt.
    let block = vec![7; 1 << 20];
    let mut written = 0;
    while let Ok(wrote) = tokio::time::timeout(
        Duration::from_millis(500),
        tokio::io::AsyncWriteExt::write(&mut wire.stream, &block),
    )
    .await
    {
        written += wrote.unwrap();
        assert!(written < SIZE, "the proxy swallowed all of it");
    }
    let writer = tokio::spawn(async move {
        while written < SIZE {
            let length = block.len().min(SIZE - written);
            wire.send(&block[..length]).await;
            written += length;
        }
        wire
    });
    client.head().await;
    assert!(client.bytes(SIZE).await.iter().all(|byte| *byte == 7));
    within(writer).await.unwrap();
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_never_ended_as_if_it_were_whole() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let upstream = proxy.function("f", &[&function]);
    for (version, head) in
        [("1.1", CHUNKED), ("1.1", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"), ("1.0", CHUNKED)]
    {
        let mut client = proxy.ask(&format!("GET /function/f HTTP/{version}\r\nhost: h\r\n\r\n")).await;
        let mut wire = function.accept().await;
        wire.head().await;
        wire.send(head).await;
        wire.send(if head == CHUNKED { "3\r\nabc\r\n" } else { "abc" }).await;
        let head = client.head().await;
        if version == "1.0" {
            assert_eq!(head.value("transfer-encoding"), None);
            client.expect("abc").await;
            drop(wire);
            // A close would be the end of the body here, so it has to be a reset.
            let mut byte = [0];
            let read = within(tokio::io::AsyncReadExt::read(&mut client.stream, &mut byte)).await;
            assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        } else if head.value("content-length").is_some() {
            client.expect("abc").await;
            drop(wire);
            assert_eq!(client.closed().await, b"");
        } else {
            assert_eq!(client.chunk().await.as_deref(), Some("abc"));
            drop(wire);
            assert_eq!(client.chunk().await, None, "the last chunk must not come");
        }
        until(|| upstream.load().in_flight == 0).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_cancels_the_request() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let upstream = proxy.function("f", &[&function]);
    let client = proxy.ask(GET).await;
    let mut wire = function.accept().await;
    wire.head().await;
    assert_eq!(function.endpoint.in_flight(), 1);
    drop(client);
    assert_eq!(wire.closed().await, b"");
    within(function.endpoint.drained()).await;
    until(|| upstream.totals().finished_with(CLIENT_LEFT) == 1).await;
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_the_answer_cancels_it() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let upstream = proxy.function("f", &[&function]);
    let mut client = proxy.ask(GET).await;
    let mut wire = function.accept().await;
    wire.head().await;
    wire.send(CHUNKED).await;
    client.head().await;
    drop(client);
    // The function goes on writing until it is told.
    within(async {
        while tokio::io::AsyncWriteExt::write_all(&mut wire.stream, b"1\r\nx\r\n").await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    within(function.endpoint.drained()).await;
    until(|| upstream.totals().finished_with(200) == 1).await;
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_body_never_makes_a_whole_one() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let client = proxy
        .ask("POST /function/f HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
        .await;
    let mut wire = function.accept().await;
    wire.head().await;
    assert_eq!(wire.chunk().await.as_deref(), Some("abc"));
    drop(client);
    assert_eq!(wire.chunk().await, None);
    within(function.endpoint.drained()).await;
}

#[tokio::test]
async fn an_answer_may_come_before_the_end_of_the_request() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let mut client =
        proxy.ask("POST /function/f HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\n12345").await;
    let mut wire = function.accept().await;
    wire.head().await;
    wire.send("HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno").await;
    let answer = client.answer().await;
    assert_eq!((answer.head.status(), answer.body.as_str()), (413, "no"));
}

#[tokio::test]
async fn a_body_on_which_nothing_moves_is_cut() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let timeouts = Timeouts { idle: Some(Duration::from_millis(300)), ..Timeouts::default() };
    let upstream = proxy.function_with("f", &[&function], timeouts);
    // The answer stalls.
    let mut client = proxy.ask(GET).await;
    let mut wire = function.accept().await;
    wire.head().await;
    wire.send(CHUNKED).await;
    wire.send("1\r\nx\r\n").await;
    client.head().await;
    assert_eq!(client.chunk().await.as_deref(), Some("x"));
    assert_eq!(client.chunk().await, None);
    assert_eq!(wire.closed().await, b"");
    // The request stalls.
    let mut client = proxy.ask("POST /function/f HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nab").await;
    let mut wire = function.accept().await;
    wire.head().await;
    let answer = client.answer().await;
    assert_eq!((answer.head.status(), answer.body.as_str()), (408, "the request body stalled for 300ms\n"));
    assert_eq!(wire.closed().await, b"ab");
    until(|| upstream.load().in_flight == 0).await;
}

#[tokio::test]
async fn a_body_that_moves_one_way_is_not_idle() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let limit = Duration::from_millis(400);
    proxy.function_with("f", &[&function], Timeouts { idle: Some(limit), ..Timeouts::default() });
    let mut client =
        proxy.ask("POST /function/f HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let mut wire = function.accept().await;
    wire.head().await;
    wire.send(CHUNKED).await;
    client.head().await;
    // The answer is silent for longer than the limit, the request is not.
    let end = std::time::Instant::now() + 3 * limit;
    while std::time::Instant::now() < end {
        client.send("1\r\nx\r\n").await;
        assert_eq!(wire.chunk().await.as_deref(), Some("x"));
        tokio::time::sleep(limit / 10).await;
    }
    wire.send("1\r\ny\r\n0\r\n\r\n").await;
    assert_eq!(client.chunk().await.as_deref(), Some("y"));
    assert_eq!(client.chunk().await.as_deref(), Some(""));
}
