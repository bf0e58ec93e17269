//! Upgrades: WebSockets and any other protocol, byte for byte.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use roost_proxy::Timeouts;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message, protocol::CloseFrame};

use crate::support::*;

const UPGRADE: &str =
    "GET /function/f/x HTTP/1.1\r\nhost: h\r\nconnection: keep-alive, Upgrade\r\nupgrade: lines/1\r\n\r\n";
const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: lines/1\r\nx-own: 1\r\n\r\n";

/// Both ends of an open tunnel.
async fn tunnel(proxy: &Proxy, function: &Function) -> (Wire, Wire) {
    let mut client = proxy.ask(UPGRADE).await;
    let mut wire = function.accept().await;
    wire.head().await;
    wire.send(SWITCH).await;
    assert_eq!(client.head().await.status(), 101);
    (client, wire)
}

#[tokio::test]
async fn a_websocket_talks_through_the_proxy() {
    let proxy = Proxy::start().await;
    let function = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = roost_proxy::Endpoint::new("ws-1".parse().unwrap(), function.local_addr().unwrap());
    let upstream = proxy.function("ws", &[]);
    upstream.publish(vec![endpoint.clone()]);
    let echo = tokio::spawn(async move {
        let (stream, _) = function.accept().await.unwrap();
        #[expect(clippy::result_large_err, reason = "the signature is tungstenite's")]
        let choose = |request: &Request, mut response: Response| {
            assert_eq!(request.uri(), "/room?id=1");
            response.headers_mut().insert("sec-websocket-protocol", "chat".parse().unwrap());
            Ok(response)
        };
        let mut socket = tokio_tungstenite::accept_hdr_async(stream, choose).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() || message.is_binary() {
                socket.send(message).await.unwrap();
            }
        }
    });
    let mut request = "ws://roost/function/ws/room?id=1".into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "chat, superchat".parse().unwrap());
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let (mut socket, response) = within(tokio_tungstenite::client_async(request, stream)).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
    assert!(response.headers().contains_key("x-call-id"));
    for message in [
        Message::text("hello"),
        Message::text(""),
        Message::binary(vec![0, 255, 7]),
        Message::binary(vec![9; 3 << 20]),
    ] {
        socket.send(message.clone()).await.unwrap();
        assert!(within(socket.next()).await.unwrap().unwrap() == message);
    }
    socket.send(Message::Ping("p".into())).await.unwrap();
    assert_eq!(within(socket.next()).await.unwrap().unwrap(), Message::Pong("p".into()));
    assert_eq!(endpoint.in_flight(), 1, "an open socket is in flight");
    let totals = upstream.totals();
    assert_eq!((totals.finished_with(101), totals.tunnels), (1, 1), "counted at its head, and open");
    let close = CloseFrame { code: CloseCode::Normal, reason: "done".into() };
    socket.close(Some(close.clone())).await.unwrap();
    assert_eq!(within(socket.next()).await.unwrap().unwrap(), Message::Close(Some(close)));
    assert!(within(socket.next()).await.is_none_or(|end| matches!(end, Err(Error::ConnectionClosed))));
    within(echo).await.unwrap();
    drop(socket);
    within(endpoint.drained()).await;
    until(|| upstream.totals().tunnels == 0).await;
    assert_eq!(upstream.totals().finished_with(101), 1);
}

#[tokio::test]
async fn the_handshake_passes_and_nothing_of_the_rest_of_the_connection() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let mut client = proxy.ask(UPGRADE).await;
    let mut wire = function.accept().await;
    let head = wire.head().await;
    assert_eq!(head.line, "GET /x HTTP/1.1");
    assert_eq!((head.value("connection"), head.value("upgrade")), (Some("Upgrade"), Some("lines/1")));
    wire.send(SWITCH).await;
    let head = client.head().await;
    assert_eq!((head.value("connection"), head.value("upgrade")), (Some("Upgrade"), Some("lines/1")));
    assert_eq!((head.status(), head.value("x-own")), (101, Some("1")));
    for absent in ["content-length", "transfer-encoding", "content-type"] {
        assert_eq!(head.value(absent), None);
    }
}

#[tokio::test]
async fn bytes_behind_the_handshake_arrive_on_either_side() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let mut client = proxy.ask(&format!("{UPGRADE}early\n")).await;
    let mut wire = function.accept().await;
    wire.head().await;
    wire.send(format!("{SWITCH}prompt\n")).await;
    client.head().await;
    client.expect("prompt\n").await;
    wire.expect("early\n").await;
    for text in ["a", "bc", "def"] {
        client.send(text).await;
        wire.expect(text).await;
        wire.send(text).await;
        client.expect(text).await;
    }
}

#[tokio::test]
async fn one_side_may_end_while_the_other_goes_on() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let upstream = proxy.function("f", &[&function]);
    for client_first in [true, false] {
        let (client, wire) = tunnel(&proxy, &function).await;
        let (mut first, mut second) = if client_first { (client, wire) } else { (wire, client) };
        first.send("last words").await;
        first.stream.shutdown().await.unwrap();
        assert_eq!(second.ended().await, b"last words");
        assert_eq!(function.endpoint.in_flight(), 1);
        for _ in 0..3 {
            second.send("still here").await;
            first.expect("still here").await;
        }
        second.stream.shutdown().await.unwrap();
        assert_eq!(first.ended().await, b"");
        within(function.endpoint.drained()).await;
    }
    until(|| upstream.totals().tunnels == 0).await;
    assert_eq!(upstream.totals().finished_with(101), 2);
}

#[tokio::test]
async fn a_side_that_vanishes_takes_the_other_with_it() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    for client_vanishes in [true, false] {
        let (client, wire) = tunnel(&proxy, &function).await;
        let (vanishing, mut left) = if client_vanishes { (client, wire) } else { (wire, client) };
        socket2::SockRef::from(&vanishing.stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(vanishing);
        assert_eq!(left.closed().await, b"");
        within(function.endpoint.drained()).await;
    }
}

#[tokio::test]
async fn much_passes_through_in_both_directions_at_once() {
    const SIZE: usize = 8 << 20;
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let (mut client, mut wire) = tunnel(&proxy, &function).await;
    let bytes: Vec<u8> = (0..SIZE).map(|index| (index / 251) as u8).collect();
    let echo = tokio::spawn(async move {
        let (mut reads, mut writes) = wire.stream.split();
        tokio::io::copy(&mut reads, &mut writes).await.unwrap();
        writes.shutdown().await.unwrap();
    });
    let (mut reads, mut writes) = client.stream.split();
    let write = async {
        writes.write_all(&bytes).await.unwrap();
        writes.shutdown().await.unwrap();
    };
    let mut back = Vec::new();
    let read = async { tokio::io::AsyncReadExt::read_to_end(&mut reads, &mut back).await.unwrap() };
    within(async { tokio::join!(write, read) }).await;
    assert!(back == bytes, "{} of {SIZE} bytes, or others", back.len());
    within(echo).await.unwrap();
    within(function.endpoint.drained()).await;
}

#[tokio::test]
async fn an_answer_other_than_101_is_relayed_and_the_connection_goes_on() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let mut client = proxy.ask(UPGRADE).await;
    let mut wire = function.accept().await;
    wire.head().await;
    wire.send("HTTP/1.1 426 Upgrade Required\r\nsec-websocket-version: 13\r\ncontent-length: 3\r\n\r\nno\n")
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.head.status(), answer.body.as_str()), (426, "no\n"));
    assert_eq!(answer.head.value("sec-websocket-version"), Some("13"));
    within(function.endpoint.drained()).await;
    client.send(GET).await;
    wire.head().await;
    wire.send(ok("plain")).await;
    assert_eq!(client.answer().await.body, "plain");
}

#[tokio::test]
async fn a_function_that_cannot_be_reached_for_a_tunnel_is_a_502() {
    let proxy = Proxy::start().await;
    proxy.function("f", &[]).publish(vec![Function::start().await.die()]);
    let answer = proxy.ask(UPGRADE).await.answer().await;
    assert_eq!(answer.head.status(), 502);
    assert!(answer.body.starts_with("Can't reach service for: f."), "{}", answer.body);
}

#[tokio::test]
async fn a_tunnel_in_which_nothing_moves_ends() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let limit = Duration::from_millis(300);
    proxy.function_with("f", &[&function], Timeouts { tunnel_idle: Some(limit), ..Timeouts::default() });
    let (mut client, mut wire) = tunnel(&proxy, &function).await;
    let end = std::time::Instant::now() + 2 * limit;
    while std::time::Instant::now() < end {
        client.send("x").await;
        wire.expect("x").await;
        tokio::time::sleep(limit / 10).await;
    }
    assert_eq!(client.closed().await, b"");
    assert_eq!(wire.closed().await, b"");
    within(function.endpoint.drained()).await;
}
