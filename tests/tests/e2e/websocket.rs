//! WebSockets through the proxy, by clients of three languages.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use hyper::StatusCode;
use roost_tests::{Host, Image, PATIENCE, Registry, Runner, clients};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

async fn echo() -> (Registry, Host) {
    let registry = Registry::open().await;
    let image = registry.push(&Image::echo(), "echo", "1").await;
    let host = Host::start().await;
    host.deploy("echo", &image).await;
    (registry, host)
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn connect(host: &Host, path: &str) -> Socket {
    connect_async(format!("ws://127.0.0.1:{}{path}", host.port())).await.unwrap().0
}

async fn next(socket: &mut Socket) -> Option<Result<Message, Error>> {
    tokio::time::timeout(PATIENCE, socket.next()).await.expect("a message")
}

#[tokio::test]
async fn messages_of_any_kind_and_size_come_back() {
    let (_registry, host) = echo().await;
    let mut socket = connect(&host, "/function/echo/chat").await;
    let messages = [
        Message::text("hello"),
        Message::text(""),
        Message::binary(vec![0, 255, 10]),
        Message::text("x".repeat(1_000_000)),
        Message::binary(vec![7; 5_000_000]),
    ];
    for message in messages {
        socket.send(message.clone()).await.unwrap();
        let back = next(&mut socket).await.unwrap().unwrap();
        assert!(back == message, "{} bytes came back as {}", message.len(), back.len());
    }
    socket.send(Message::Ping("are you there".into())).await.unwrap();
    assert_eq!(next(&mut socket).await.unwrap().unwrap(), Message::Pong("are you there".into()));
}

#[tokio::test]
async fn the_close_code_crosses_in_both_directions() {
    let (_registry, host) = echo().await;
    let mut socket = connect(&host, "/function/echo").await;
    let frame = CloseFrame { code: CloseCode::Library(4001), reason: "bye".into() };
    socket.close(Some(frame)).await.unwrap();
    let Some(Ok(Message::Close(Some(back)))) = next(&mut socket).await else { panic!("no Close came back") };
    assert_eq!(back.code, CloseCode::Library(4001));
}

#[tokio::test]
async fn many_sockets_are_open_at_once_and_none_is_left() {
    let (_registry, host) = echo().await;
    host.assert_echoes("echo").await;
    let files = host.daemon_files();
    let mut sockets = Vec::new();
    for _ in 0..200 {
        sockets.push(connect(&host, "/function/echo").await);
    }
    for (n, socket) in sockets.iter_mut().enumerate() {
        socket.send(Message::text(n.to_string())).await.unwrap();
    }
    for (n, socket) in sockets.iter_mut().enumerate() {
        assert_eq!(next(socket).await.unwrap().unwrap(), Message::text(n.to_string()));
    }
    assert!(host.daemon_files() > files + 300, "both sides of each socket are open");
    drop(sockets);
    roost_tests::eventually("the end of all tunnels", || async {
        (host.daemon_files() <= files + 8).then_some(())
    })
    .await;
}

#[tokio::test]
async fn bytes_behind_the_handshake_reach_the_function() {
    let (_registry, host) = echo().await;
    let mut stream = TcpStream::connect(("127.0.0.1", host.port())).await.unwrap();
    // A client that does not wait for the answer: the handshake and a masked "hi" in one write.
    let handshake = "GET /function/echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut bytes = handshake.as_bytes().to_vec();
    bytes.extend([0x81, 0x82, 0, 0, 0, 0, b'h', b'i']);
    stream.write_all(&bytes).await.unwrap();
    let mut got = Vec::new();
    let read = async {
        while !got.ends_with(&[0x81, 0x02, b'h', b'i']) {
            assert_ne!(stream.read_buf(&mut got).await.unwrap(), 0, "{}", String::from_utf8_lossy(&got));
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("the message back");
    assert!(got.starts_with(b"HTTP/1.1 101 "));
    assert!(
        String::from_utf8_lossy(&got)
            .to_lowercase()
            .contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=")
    );
}

#[tokio::test]
async fn a_handshake_with_an_unknown_function_or_a_refusal_is_an_http_answer() {
    let (_registry, host) = echo().await;
    let refused = connect_async(format!("ws://127.0.0.1:{}/function/nobody", host.port())).await;
    let Err(Error::Http(response)) = refused else { panic!("{refused:?}") };
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_killed_function_ends_its_sockets_with_a_word() {
    let (_registry, host) = echo().await;
    let mut socket = connect(&host, "/function/echo").await;
    socket.send(Message::text("hi")).await.unwrap();
    assert_eq!(next(&mut socket).await.unwrap().unwrap(), Message::text("hi"));
    host.kill_function("echo");
    assert_eq!(farewell(&mut socket).await, (CloseCode::Error, "function exited".to_owned()));
}

#[tokio::test]
async fn a_daemon_that_ends_closes_its_sockets_with_a_word() {
    let (_registry, mut host) = echo().await;
    let mut socket = connect(&host, "/function/echo").await;
    let ((), words) = tokio::join!(host.restart(), farewell(&mut socket));
    assert_eq!(words, (CloseCode::Restart, "service restart".to_owned()));
    host.assert_echoes("echo").await;
}

/// The Close that comes next, and then the end.
async fn farewell(socket: &mut Socket) -> (CloseCode, String) {
    let Some(Ok(Message::Close(Some(frame)))) = next(socket).await else { panic!("no Close") };
    let end = next(socket).await;
    assert!(end.as_ref().is_none_or(|end| matches!(end, Err(Error::ConnectionClosed))), "{end:?}");
    (frame.code, frame.reason.to_string())
}

#[tokio::test]
async fn an_idle_socket_stays_open() {
    let (_registry, host) = echo().await;
    let mut socket = connect(&host, "/function/echo").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    socket.send(Message::text("still here")).await.unwrap();
    assert_eq!(next(&mut socket).await.unwrap().unwrap(), Message::text("still here"));
}

#[tokio::test]
async fn python_websockets_and_node_ws_echo_through_echo() {
    let (_registry, host) = echo().await;
    let url = format!("ws://127.0.0.1:{}/function/echo", host.port());
    let clients = clients().await;
    for runner in [Runner::Python, Runner::Node] {
        clients.run(runner, &url).await;
    }
}
