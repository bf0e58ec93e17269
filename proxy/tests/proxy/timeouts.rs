//! The limits of a function: which one it was, and that an answer which one of them cuts never looks whole.

use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use roost_proxy::{Timeouts, Upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::*;
use crate::websocket::UPGRADE;

const SHORT: Duration = Duration::from_millis(150);

const POST: &str = "POST /function/f HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\n\r\n";

#[tokio::test]
async fn an_answer_that_does_not_begin_in_time_is_an_error_that_names_the_limit() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let timeouts = Timeouts { request: Some(SHORT), ..Timeouts::default() };
    let upstream = proxy.function_with("f", &[&function], timeouts);
    for (request, status) in [(GET, 502), (UPGRADE, 504)] {
        let mut client = proxy.ask(request).await;
        let mut wire = function.accept().await;
        wire.head().await;
        let answer = client.answer().await;
        assert_eq!((answer.head.status(), answer.head.value("x-roost-timeout")), (status, Some("request")));
        assert_eq!(answer.body, "function f.openfaas-fn did not answer within its request limit of 150ms\n");
        assert_eq!(wire.closed().await, b"");
    }
    until(|| upstream.load().in_flight == 0).await;
}

#[tokio::test]
async fn the_header_limit_begins_with_the_end_of_the_request() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let timeouts = Timeouts { header: Some(SHORT), ..Timeouts::default() };
    proxy.function_with("f", &[&function], timeouts);
    // A request without a body has ended.
    let mut client = proxy.ask(GET).await;
    let mut wire = function.accept().await;
    wire.head().await;
    let answer = client.answer().await;
    assert_eq!((answer.head.status(), answer.head.value("x-roost-timeout")), (502, Some("header")));
    assert_eq!(wire.closed().await, b"");
    // One with a body may take its time.
    for body in ["content-length: 4\r\n\r\n", "transfer-encoding: chunked\r\n\r\n"] {
        let mut client = proxy.ask(&format!("POST /function/f HTTP/1.1\r\nhost: h\r\n{body}")).await;
        let mut wire = function.accept().await;
        wire.head().await;
        tokio::time::sleep(2 * SHORT).await;
        let chunked = body.starts_with('t');
        client.send(if chunked { "4\r\nbody\r\n" } else { "bo" }).await;
        tokio::time::sleep(2 * SHORT).await;
        let end = Instant::now();
        client.send(if chunked { "0\r\n\r\n" } else { "dy" }).await;
        let answer = client.answer().await;
        assert_eq!((answer.head.status(), answer.head.value("x-roost-timeout")), (502, Some("header")));
        assert!(end.elapsed() >= SHORT - Duration::from_millis(5));
    }
    // What answers in time has no limit of this kind any more.
    let mut client = proxy.ask(&format!("{POST}body")).await;
    let mut wire = function.accept().await;
    wire.head().await;
    wire.send(CHUNKED).await;
    assert_eq!(client.head().await.status(), 200);
    tokio::time::sleep(2 * SHORT).await;
    wire.send("1\r\nx\r\n0\r\n\r\n").await;
    assert_eq!(client.chunk().await.as_deref(), Some("x"));
    assert_eq!(client.chunk().await.as_deref(), Some(""));
}

#[tokio::test]
async fn a_request_body_that_stalls_is_an_error_that_names_the_limit() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function_with("f", &[&function], Timeouts { idle: Some(SHORT), ..Timeouts::default() });
    let answer = proxy.ask(&format!("{POST}bo")).await.answer().await;
    assert_eq!((answer.head.status(), answer.head.value("x-roost-timeout")), (408, Some("idle")));
}

#[tokio::test]
async fn a_replica_that_never_comes_is_an_error_that_names_the_limit() {
    let proxy = Proxy::start().await;
    proxy.function_with("f", &[], Timeouts { waiting: SHORT, ..Timeouts::default() });
    for (request, status) in [(GET, 503), (UPGRADE, 504)] {
        let answer = proxy.ask(request).await.answer().await;
        assert_eq!((answer.head.status(), answer.head.value("x-roost-timeout")), (status, Some("waiting")));
    }
}

#[tokio::test]
async fn an_answer_that_keeps_flowing_outlives_the_request_limit_unless_that_is_for_the_body_too() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    for request_body in [false, true] {
        let timeouts = Timeouts { request: Some(2 * SHORT), request_body, ..Timeouts::default() };
        let upstream = proxy.function_with("f", &[&function], timeouts);
        let mut client = proxy.ask(GET).await;
        let mut wire = function.accept().await;
        wire.head().await;
        let began = Instant::now();
        wire.send(CHUNKED.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n")).await;
        client.head().await;
        // It is never silent for long.
        let flow = async {
            while began.elapsed() < 6 * SHORT && wire.stream.write_all(b"1\r\nx\r\n").await.is_ok() {
                tokio::time::sleep(SHORT / 10).await;
            }
            wire.stream.write_all(b"0\r\n\r\n").await.ok();
        };
        let read = async {
            loop {
                match client.chunk().await.as_deref() {
                    Some("x") => {}
                    end => break (end.map(str::to_owned), began.elapsed()),
                }
            }
        };
        let ((), (end, took)) = within(async { tokio::join!(flow, read) }).await;
        if request_body {
            assert_eq!(end, None, "a last chunk would make it whole");
            assert!(took >= 2 * SHORT - Duration::from_millis(5), "{took:?}");
        } else {
            assert_eq!(end.as_deref(), Some(""));
            assert!(took >= 6 * SHORT, "{took:?}");
        }
        until(|| upstream.load().in_flight == 0).await;
    }
}

/// Functions that begin an answer and fall silent, each cut by another limit.
fn silent(proxy: &Proxy, function: &Function) -> [std::sync::Arc<Upstream>; 2] {
    [
        ("idle", Timeouts { idle: Some(SHORT), ..Timeouts::default() }),
        ("whole", Timeouts { request: Some(SHORT), request_body: true, ..Timeouts::default() }),
    ]
    .map(|(name, timeouts)| proxy.function_with(name, &[function], timeouts))
}

#[tokio::test]
async fn an_answer_that_a_limit_cuts_never_looks_whole_to_http1() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let upstreams = silent(&proxy, &function);
    for name in ["idle", "whole"] {
        for (version, head, body) in [
            ("1.1", CHUNKED, "3\r\nabc\r\n"),
            ("1.1", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", "abc"),
            ("1.0", CHUNKED, "3\r\nabc\r\n"),
            ("1.1", "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n", "abc"),
        ] {
            let mut client =
                proxy.ask(&format!("GET /function/{name} HTTP/{version}\r\nhost: h\r\n\r\n")).await;
            let mut wire = function.accept().await;
            wire.head().await;
            wire.send(format!("{head}{body}")).await;
            let head = client.head().await;
            if head.value("transfer-encoding") == Some("chunked") {
                assert_eq!(client.chunk().await.as_deref(), Some("abc"));
                assert_eq!(client.chunk().await, None, "{name} {version}: the last chunk must not come");
                continue;
            }
            client.expect("abc").await;
            if head.value("content-length").is_some() {
                assert_eq!(client.closed().await, b"");
            } else {
                // The end of the connection would be the end of the body here, so it has to be a reset.
                let read = within(client.stream.read(&mut [0])).await;
                assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
            }
        }
    }
    until(|| upstreams.iter().all(|upstream| upstream.load().in_flight == 0)).await;
}

#[tokio::test]
async fn an_answer_that_a_limit_cuts_resets_its_stream_of_http2_and_no_other() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    silent(&proxy, &function);
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let (mut sender, connection) =
        http2::handshake::<_, _, Empty<bytes::Bytes>>(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let driver = tokio::spawn(connection);
    let ask = |path: &str| http::Request::get(format!("http://h{path}")).body(Empty::new()).unwrap();
    for name in ["idle", "whole"] {
        let response = sender.send_request(ask(&format!("/function/{name}")));
        let answer = async {
            let mut wire = function.accept().await;
            wire.head().await;
            wire.send(format!("{CHUNKED}2\r\nhi\r\n")).await;
            wire
        };
        let (response, _wire) = within(async { tokio::join!(response, answer) }).await;
        let mut body = response.unwrap().into_body();
        assert_eq!(within(body.frame()).await.unwrap().unwrap().into_data().unwrap(), "hi");
        let error = within(body.frame()).await.expect("the end of the stream looks whole").unwrap_err();
        assert!(error.to_string().contains("error"), "{error}");
    }
    let response = within(sender.send_request(ask("/other"))).await.unwrap();
    assert_eq!(response.status(), 200);
    driver.abort();
}

#[tokio::test]
async fn a_handshake_that_waits_while_the_host_goes_down_may_come_again() {
    let proxy = Proxy::start().await;
    let upstream = proxy.function("f", &[]);
    let mut waiting = proxy.ask(UPGRADE).await;
    until(|| upstream.load().waiting == 1).await;
    let server = proxy.server.clone();
    let down = tokio::spawn(async move { server.shutdown(DEADLINE).await });
    let answer = waiting.answer().await;
    assert_eq!((answer.head.status(), answer.head.value("retry-after")), (503, Some("1")));
    assert_eq!(answer.body, "this host is about to restart\n");
    drop(waiting);
    within(down).await.unwrap();
}

#[tokio::test]
async fn both_sides_of_a_connection_are_probed_by_the_kernel() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    // The listener is told when it begins to serve.
    assert_eq!(proxy.get("/other").await.head.status(), 200);
    let mut client = proxy.ask(GET).await;
    let mut wire = function.accept().await;
    wire.head().await;
    // What the kernel knows of our ends: a timer of keepalive (2) is running on each.
    let of = |ours: std::net::SocketAddr, theirs: std::net::SocketAddr| {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let spelt = |address: std::net::SocketAddr| {
            let std::net::IpAddr::V4(ip) = address.ip() else { panic!("{address}") };
            format!("{:08X}:{:04X}", u32::from_le_bytes(ip.octets()), address.port())
        };
        let [ours, theirs] = [spelt(ours), spelt(theirs)];
        let line = table.lines().find(|line| line.contains(&format!("{ours} {theirs}")));
        line.expect("the connection").split_whitespace().nth(5).unwrap()[..2].to_owned()
    };
    let (near, far) = (client.stream.local_addr().unwrap(), wire.stream.peer_addr().unwrap());
    assert_eq!(of(proxy.address, near), "02");
    assert_eq!(of(far, function.endpoint.address()), "02");
    wire.send(ok("ok")).await;
    assert_eq!(client.answer().await.body, "ok");
}
