//! WebSockets over HTTP/2 (RFC 8441), bridged to functions that speak HTTP/1.1.

use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Method, Request, Response, StatusCode};
use roost_proxy::{Settings, Timeouts};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::support::*;

/// A connection that knows that it may ask for WebSockets.
pub(crate) async fn connect(proxy: &Proxy) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let (sender, connection) = within(h2::client::handshake(stream)).await.unwrap();
    let driver = tokio::spawn(connection);
    // The settings come before any answer.
    let mut sender = within(sender.ready()).await.unwrap();
    let plain = Request::get("http://h/x").body(()).unwrap();
    let (answer, _) = sender.send_request(plain, true).unwrap();
    assert_eq!(within(answer).await.unwrap().status(), StatusCode::OK);
    assert!(sender.is_extended_connect_protocol_enabled());
    (within(sender.ready()).await.unwrap(), driver)
}

pub(crate) fn ask(
    sender: &mut SendRequest<Bytes>,
    path: &str,
    protocol: &'static str,
) -> (ResponseFuture, SendStream<Bytes>) {
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("http://h.example{path}"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(())
        .unwrap();
    request.extensions_mut().insert(Protocol::from_static(protocol));
    sender.send_request(request, false).unwrap()
}

fn switch(head: &Head) -> String {
    let accept = derive_accept_key(head.value("sec-websocket-key").unwrap().as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    )
}

/// An open WebSocket: the client's stream both ways, and the function's end.
async fn open(
    sender: &mut SendRequest<Bytes>,
    function: &Function,
) -> (SendStream<Bytes>, RecvStream, Wire, Response<()>) {
    let (answer, sends) = ask(sender, "/function/f/room?id=1", "websocket");
    let mut wire = function.accept().await;
    let head = wire.head().await;
    assert_eq!(head.line, "GET /room?id=1 HTTP/1.1");
    for (name, value) in [
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "chat"),
        ("cookie", "a=1; b=2"),
        ("x-forwarded-host", "h.example"),
    ] {
        assert_eq!(head.value(name), Some(value));
    }
    wire.send(switch(&head)).await;
    let (head, body) = within(answer).await.unwrap().into_parts();
    (sends, body, wire, Response::from_parts(head, ()))
}

/// The next `count` bytes that come to the client.
pub(crate) async fn read(stream: &mut RecvStream, count: usize) -> Vec<u8> {
    let mut read = Vec::new();
    while read.len() < count {
        let piece = within(stream.data()).await.expect("ended").unwrap();
        stream.flow_control().release_capacity(piece.len()).unwrap();
        read.extend(piece);
    }
    assert_eq!(read.len(), count);
    read
}

#[tokio::test]
async fn a_websocket_over_http2_is_one_over_http1_to_its_function() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let upstream = proxy.function("f", &[&function]);
    let (mut sender, driver) = connect(&proxy).await;
    let (mut sends, mut reads, mut wire, head) = open(&mut sender, &function).await;
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(head.headers()["sec-websocket-protocol"], "chat");
    assert!(head.headers().contains_key("x-call-id"));
    for name in ["connection", "upgrade", "sec-websocket-accept"] {
        assert!(!head.headers().contains_key(name), "{name}");
    }
    let load = upstream.load();
    assert_eq!((load.tunnels, load.in_flight, function.endpoint.tunnels()), (1, 1, 1));
    for text in [&b"\x81\x82\0\0\0\0hi"[..], &[0x7e; 100]] {
        sends.send_data(Bytes::copy_from_slice(text), false).unwrap();
        assert_eq!(wire.bytes(text.len()).await, text);
    }
    wire.send("\u{1}\u{2}ab").await;
    assert_eq!(read(&mut reads, 4).await, b"\x01\x02ab");
    // More than all windows take at once.
    let large = vec![7; 4 << 20];
    let ((), got) = tokio::join!(wire.send(&large), read(&mut reads, large.len()));
    assert!(got == large);
    // Other requests go their way on the same connection.
    let (answer, _) = sender.send_request(Request::get("http://h/x").body(()).unwrap(), true).unwrap();
    assert_eq!(within(answer).await.unwrap().status(), StatusCode::OK);
    // The end of one side is the end of the other.
    sends.send_data(Bytes::new(), true).unwrap();
    assert_eq!(wire.ended().await, b"");
    drop(wire);
    until(|| upstream.load().in_flight == 0).await;
    driver.abort();
}

#[tokio::test]
async fn a_websocket_over_http2_is_closed_with_a_word() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let upstream = proxy.function("f", &[&function]);
    let (mut sender, driver) = connect(&proxy).await;
    let (mut sends, mut reads, mut wire, _) = open(&mut sender, &function).await;
    function.endpoint.end_tunnels(Duration::ZERO);
    let close = read(&mut reads, 19).await;
    assert_eq!(close, [&[0x88, 17][..], &1012_u16.to_be_bytes(), b"service restart"].concat());
    sends.send_data(Bytes::from_static(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xf4]), true).unwrap();
    assert_eq!(wire.bytes(2).await[0], 0x88);
    wire.send([0x88, 2, 0x03, 0xe9]).await;
    // The end of the stream, which is not a reset of it.
    while let Some(piece) = within(reads.data()).await {
        assert_eq!(piece.unwrap(), "");
    }
    drop(wire);
    until(|| upstream.load().in_flight == 0).await;
    driver.abort();
}

#[tokio::test]
async fn a_connection_with_an_open_websocket_is_not_one_without_a_request() {
    let settings = Settings { keep_alive: Duration::from_millis(300), ..Settings::default() };
    let proxy = Proxy::with(settings).await;
    let function = Function::start().await;
    let timeouts = Timeouts { tunnel_idle: None, ..Timeouts::default() };
    let upstream = proxy.function_with("f", &[&function], timeouts);
    let (mut sender, driver) = connect(&proxy).await;
    let (mut sends, mut reads, mut wire, _) = open(&mut sender, &function).await;
    // Two that came later are closed, one after the other, for want of a request.
    for _ in 0..2 {
        let mut idle = proxy.connect().await;
        assert_eq!(idle.ended().await, b"");
    }
    wire.send("still").await;
    assert_eq!(read(&mut reads, 5).await, b"still");
    sends.send_data(Bytes::new(), true).unwrap();
    drop(wire);
    until(|| upstream.load().in_flight == 0).await;
    // With the tunnel ends what kept the connection.
    within(driver).await.unwrap().ok();
}

#[tokio::test]
async fn what_is_no_websocket_is_not_taken_for_one() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let upstream = proxy.function("f", &[&function]);
    let (mut sender, driver) = connect(&proxy).await;
    let wrong =
        "HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n";
    for (answer, status) in [
        (wrong.to_owned(), 502),
        (ok("not me"), 502),
        ("HTTP/1.1 403 x\r\ncontent-length: 2\r\n\r\nno".to_owned(), 403),
    ] {
        let (response, _sends) = ask(&mut sender, "/function/f", "websocket");
        let mut wire = function.accept().await;
        wire.head().await;
        wire.send(&answer).await;
        assert_eq!(within(response).await.unwrap().status(), status, "{answer}");
        drop(wire);
    }
    for (path, protocol, status) in [
        ("/function/none", "websocket", 404),
        ("/system/x", "websocket", 502),
        ("/function/f", "connect-udp", 405),
    ] {
        let (response, _sends) = ask(&mut sender, path, protocol);
        assert_eq!(within(response).await.unwrap().status(), status, "{path} {protocol}");
    }
    until(|| upstream.load().in_flight == 0).await;
    driver.abort();
}
