//! The end of a WebSocket that neither side has asked for: who is told what, and where among the frames.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use roost_proxy::{Drained, Endpoint, Placement, Timeouts};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::*;
use crate::websocket::*;

/// What a function would see of a client's message, the key being zeros.
fn masked(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap();
    assert!(length < 126);
    [&[0x81, 0x80 | length, 0, 0, 0, 0][..], text.as_bytes()].concat()
}

/// A function made with a library: sends back what comes, and tells with what each of its sockets ended.
struct Echo {
    endpoint: std::sync::Arc<Endpoint>,
    listener: TcpListener,
}

impl Echo {
    async fn start(proxy: &Proxy) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::new("echo-1".parse().unwrap(), listener.local_addr().unwrap());
        proxy.function("f", &[]).publish(vec![endpoint.clone()]);
        Self { endpoint, listener }
    }

    async fn open(&self, proxy: &Proxy) -> (WebSocketStream<TcpStream>, JoinHandle<Option<CloseFrame>>) {
        let client = TcpStream::connect(proxy.address).await.unwrap();
        let function = async {
            let stream = self.listener.accept().await.unwrap().0;
            tokio_tungstenite::accept_async(stream).await.unwrap()
        };
        let (client, function) = within(async {
            tokio::join!(tokio_tungstenite::client_async("ws://roost/function/f", client), function)
        })
        .await;
        (client.unwrap().0, tokio::spawn(echo(function)))
    }
}

/// Sends texts back until the other side says goodbye, and gives its words.
async fn echo(mut socket: WebSocketStream<TcpStream>) -> Option<CloseFrame> {
    let mut last = None;
    while let Some(message) = socket.next().await {
        match message.unwrap() {
            Message::Close(frame) => last = frame,
            message if message.is_text() => socket.send(message).await.unwrap(),
            _ => {}
        }
    }
    last
}

fn goodbye(code: u16, reason: &str) -> CloseFrame {
    CloseFrame { code: CloseCode::from(code), reason: reason.into() }
}

async fn next(socket: &mut WebSocketStream<TcpStream>) -> Message {
    within(socket.next()).await.unwrap().unwrap()
}

async fn assert_over(socket: &mut WebSocketStream<TcpStream>) {
    let end = within(socket.next()).await;
    assert!(end.as_ref().is_none_or(|end| matches!(end, Err(Error::ConnectionClosed))), "{end:?}");
}

#[tokio::test]
async fn the_sockets_of_an_endpoint_that_ends_are_closed_with_a_word_to_both_sides() {
    let proxy = Proxy::start().await;
    let echo = Echo::start(&proxy).await;
    let (mut socket, function) = echo.open(&proxy).await;
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(next(&mut socket).await, Message::text("hello"));
    echo.endpoint.close();
    echo.endpoint.end_tunnels(Duration::ZERO);
    assert_eq!(next(&mut socket).await, Message::Close(Some(goodbye(1012, "service restart"))));
    assert_over(&mut socket).await;
    assert_eq!(within(function).await.unwrap(), Some(goodbye(1001, "going away")));
    drop(socket);
    within(echo.endpoint.drained()).await;
}

#[tokio::test]
async fn a_side_that_does_not_read_of_the_end_is_not_waited_for_without_limit() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let (mut client, mut wire) = open(&proxy, &function).await;
    function.endpoint.end_tunnels(Duration::ZERO);
    expect(&mut client, &close(1012, "service restart")).await;
    assert_eq!(hear_close(&mut wire).await[..2], 1001_u16.to_be_bytes());
    // Neither answers; what they still send is read and forgotten.
    client.send(masked("too late")).await;
    wire.send(plain(0x81, b"too late")).await;
    assert_eq!((client.ended().await, wire.ended().await), (Vec::new(), Vec::new()));
    within(function.endpoint.drained()).await;
}

#[tokio::test]
async fn a_message_that_is_on_its_way_when_the_end_comes_arrives_whole() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let (mut client, mut wire) = open(&proxy, &function).await;
    let (down, up) = (plain(0x81, b"of the function"), masked("of the client"));
    client.send(&up[..7]).await;
    wire.send(&down[..3]).await;
    expect(&mut wire, &up[..7]).await;
    expect(&mut client, &down[..3]).await;
    function.endpoint.end_tunnels(Duration::ZERO);
    // The rest, and another message that comes with it.
    client.send([&up[7..], &masked("b")[..]].concat()).await;
    wire.send([&down[3..], &plain(0x81, b"b")[..]].concat()).await;
    expect(&mut wire, &up[7..]).await;
    expect(&mut wire, &masked("b")).await;
    expect(&mut client, &down[3..]).await;
    expect(&mut client, &plain(0x81, b"b")).await;
    expect(&mut client, &close(1012, "service restart")).await;
    hear_close(&mut wire).await;
    client.send(CLIENTS_CLOSE).await;
    wire.send(close(1001, "")).await;
    assert_eq!((client.ended().await, wire.ended().await), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn a_message_that_does_not_end_in_time_is_cut_and_nothing_is_put_into_it() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let (mut client, mut wire) = open(&proxy, &function).await;
    let half = &plain(0x82, &[7; 100])[..50];
    wire.send(half).await;
    expect(&mut client, half).await;
    function.endpoint.end_tunnels(Duration::ZERO);
    assert_eq!(client.ended().await, b"");
    hear_close(&mut wire).await;
    wire.send(close(1001, "")).await;
    assert_eq!(wire.ended().await, b"");
}

#[tokio::test]
async fn a_close_between_the_parts_of_a_message_is_no_violation() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let client = TcpStream::connect(proxy.address).await.unwrap();
    let (socket, mut wire) = within(async {
        tokio::join!(tokio_tungstenite::client_async("ws://roost/function/f", client), async {
            let mut wire = function.accept().await;
            let head = wire.head().await;
            let key = head.value("sec-websocket-key").unwrap();
            let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
            wire.send(format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: {accept}\r\n\r\n"
            ))
            .await;
            wire
        })
    })
    .await;
    let mut socket = socket.unwrap().0;
    wire.send(plain(0x01, b"the first part")).await;
    wire.send(plain(0x89, b"p")).await;
    assert_eq!(next(&mut socket).await, Message::Ping("p".into()));
    within(socket.flush()).await.unwrap();
    assert_eq!(wire.bytes(7).await[..2], [0x8a, 0x81]);
    function.endpoint.end_tunnels(Duration::ZERO);
    assert_eq!(next(&mut socket).await, Message::Close(Some(goodbye(1012, "service restart"))));
    hear_close(&mut wire).await;
    wire.send(close(1001, "")).await;
    assert_over(&mut socket).await;
}

#[tokio::test]
async fn compressed_frames_pass_untouched_and_a_close_stands_between_them() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let (mut client, mut wire) = open(&proxy, &function).await;
    // The first part of a deflated message; its bytes are nobody's business.
    let frames = [plain(0x41, &[0xf2, 0x48, 0x88, 0x00, 0x88, 0x02]), plain(0x00, &[0x88; 9])].concat();
    wire.send(&frames).await;
    expect(&mut client, &frames).await;
    function.endpoint.end_tunnels(Duration::ZERO);
    expect(&mut client, &close(1012, "service restart")).await;
}

#[tokio::test]
async fn sockets_end_one_after_the_other_over_the_time_that_is_given() {
    const SOCKETS: u32 = 5;
    const OVER: Duration = Duration::from_millis(500);
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        sockets.push(open(&proxy, &function).await);
    }
    let told = Instant::now();
    function.endpoint.end_tunnels(OVER);
    let ends = sockets.into_iter().map(|(mut client, mut wire)| async move {
        expect(&mut client, &close(1012, "service restart")).await;
        let after = told.elapsed();
        hear_close(&mut wire).await;
        after
    });
    let mut after = futures_util::future::join_all(ends).await;
    after.sort();
    for (turn, after) in (0..).zip(after) {
        assert!(after >= OVER * turn / SOCKETS, "number {turn} after {after:?}");
    }
}

#[tokio::test]
async fn a_second_order_to_end_is_for_those_that_are_left_and_for_those_that_still_come() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let upstream = proxy.function("f", &[&function]);
    let mut first = open(&proxy, &function).await;
    let mut second = open(&proxy, &function).await;
    // In a handshake while all others are told.
    let mut late = proxy.ask(UPGRADE).await;
    let mut answering = function.accept().await;
    answering.head().await;
    function.endpoint.end_tunnels(Duration::from_secs(3600));
    answering.send(SWITCH).await;
    assert_eq!(late.head().await.status(), 101);
    expect(&mut late, &close(1012, "service restart")).await;
    function.endpoint.end_tunnels(Duration::ZERO);
    for (client, wire) in [&mut first, &mut second] {
        expect(client, &close(1012, "service restart")).await;
        hear_close(wire).await;
    }
    // Published again, its tunnels stay.
    upstream.publish(Vec::new());
    upstream.publish(vec![function.endpoint.clone()]);
    let (mut client, mut wire) = open(&proxy, &function).await;
    for _ in 0..200 {
        wire.send(plain(0x81, b"hi")).await;
        expect(&mut client, &plain(0x81, b"hi")).await;
        client.send(masked("hi")).await;
        expect(&mut wire, &masked("hi")).await;
    }
}

#[tokio::test]
async fn a_client_whose_function_is_gone_is_told_so() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    for reset in [false, true] {
        let (mut client, mut wire) = open(&proxy, &function).await;
        wire.send(plain(0x81, b"last words")).await;
        expect(&mut client, &plain(0x81, b"last words")).await;
        if reset {
            socket2::SockRef::from(&wire.stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop(wire);
        expect(&mut client, &close(1011, "function exited")).await;
        client.send(CLIENTS_CLOSE).await;
        assert_eq!(client.ended().await, b"");
        drop(client);
        within(function.endpoint.drained()).await;
    }
    // In the middle of a frame there is nothing to say.
    let (mut client, mut wire) = open(&proxy, &function).await;
    wire.send([0x81, 9, b'x']).await;
    drop(wire);
    expect(&mut client, &[0x81, 9, b'x']).await;
    assert_eq!(client.ended().await, b"");
}

#[tokio::test]
async fn of_a_client_that_goes_nothing_is_told_to_the_function() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    for reset in [false, true] {
        let (client, mut wire) = open(&proxy, &function).await;
        if reset {
            socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop(client);
        assert_eq!(wire.closed().await, b"");
        drop(wire);
        within(function.endpoint.drained()).await;
    }
}

#[tokio::test]
async fn two_that_are_closing_are_left_to_it() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let (mut client, mut wire) = open(&proxy, &function).await;
    let (mut witness, _other) = open(&proxy, &function).await;
    client.send(CLIENTS_CLOSE).await;
    expect(&mut wire, CLIENTS_CLOSE).await;
    function.endpoint.end_tunnels(Duration::ZERO);
    expect(&mut witness, &close(1012, "service restart")).await;
    drop(witness);
    wire.send(close(4001, "own words")).await;
    expect(&mut client, &close(4001, "own words")).await;
    drop(wire);
    assert_eq!(client.ended().await, b"");
}

#[tokio::test]
async fn a_socket_in_which_nothing_moves_is_closed_with_a_word_to_both_sides() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let limit = Some(Duration::from_millis(100));
    proxy.function_with("f", &[&function], Timeouts { tunnel_idle: limit, ..Timeouts::default() });
    let (mut client, mut wire) = open(&proxy, &function).await;
    expect(&mut client, &close(1001, "idle")).await;
    assert_eq!(hear_close(&mut wire).await, [&1001_u16.to_be_bytes()[..], b"idle"].concat());
}

#[tokio::test]
async fn what_is_no_websocket_passes_and_ends_without_a_word() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let (mut client, mut wire) = open(&proxy, &function).await;
    for text in ["neither frames", "nor anything like them"] {
        client.send(text).await;
        wire.expect(text).await;
        wire.send(text).await;
        client.expect(text).await;
    }
    function.endpoint.end_tunnels(Duration::ZERO);
    assert_eq!((client.closed().await, wire.closed().await), (Vec::new(), Vec::new()));
    within(function.endpoint.drained()).await;
}

#[tokio::test]
async fn a_server_that_ends_closes_its_sockets_with_a_word() {
    let proxy = Proxy::start().await;
    let echo = Echo::start(&proxy).await;
    let mut sockets = Vec::new();
    for _ in 0..3 {
        sockets.push(echo.open(&proxy).await);
    }
    let server = proxy.server.clone();
    let down = tokio::spawn(async move { server.shutdown(DEADLINE).await });
    for (mut socket, function) in sockets {
        assert_eq!(next(&mut socket).await, Message::Close(Some(goodbye(1012, "service restart"))));
        assert_over(&mut socket).await;
        assert_eq!(within(function).await.unwrap(), Some(goodbye(1001, "going away")));
    }
    assert_eq!(within(down).await.unwrap(), Drained { cut: 0 });
}

#[tokio::test]
async fn a_socket_that_does_not_answer_the_end_of_a_server_is_cut_at_its_deadline() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let (mut client, mut wire) = open(&proxy, &function).await;
    let drained = within(proxy.server.shutdown(Duration::from_millis(100))).await;
    assert_eq!(drained, Drained { cut: 1 });
    assert_eq!(client.closed().await, close(1012, "service restart"));
    hear_close(&mut wire).await;
    within(function.endpoint.drained()).await;
}

#[tokio::test]
async fn messages_are_traffic_and_signs_of_life_are_none() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let upstream = proxy.function("f", &[&function]);
    let (mut client, mut wire) = open(&proxy, &function).await;
    let (ping, pong) = (plain(0x89, b"p"), [0x8a, 0x81, 0, 0, 0, 0, b'p']);
    wire.send(&ping).await;
    expect(&mut client, &ping).await;
    client.send(pong).await;
    expect(&mut wire, &pong).await;
    // What was last passed on is counted before anything else is read.
    assert_eq!(upstream.last_traffic(), None);
    client.send(masked("hi")).await;
    expect(&mut wire, &masked("hi")).await;
    until(|| upstream.last_traffic().is_some()).await;
    let ago = upstream.last_traffic().unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    wire.send(plain(0x8a, b"")).await;
    expect(&mut client, &plain(0x8a, b"")).await;
    assert!(upstream.last_traffic().unwrap() >= ago + Duration::from_millis(18));
}

#[tokio::test]
async fn the_traffic_of_a_key_is_counted_by_its_own_replica() {
    let proxy = Proxy::start().await;
    let upstream = proxy.function("f", &[]);
    let key = Some("query:k".parse().unwrap());
    upstream.set_placement(Placement { key, max_keys: 2, ..Placement::default() });
    let functions = [("a", Function::start().await), ("b", Function::start().await)];
    let endpoints = functions.each_ref().map(|(key, function)| {
        let id = format!("f-{key}").parse().unwrap();
        Endpoint::of_key(id, function.endpoint.address(), Some(key.parse().unwrap()))
    });
    upstream.publish(endpoints.to_vec());
    let mut sides = Vec::new();
    for (key, function) in &functions {
        let mut client = proxy.ask(&UPGRADE.replacen("/f ", &format!("/f?k={key} "), 1)).await;
        let mut wire = function.accept().await;
        wire.head().await;
        wire.send(SWITCH).await;
        assert_eq!(client.head().await.status(), 101);
        sides.push((client, wire));
    }
    let (client, wire) = &mut sides[0];
    client.send(masked("hi")).await;
    expect(wire, &masked("hi")).await;
    until(|| endpoints[0].last_traffic().is_some()).await;
    assert_eq!((endpoints[1].last_traffic(), upstream.last_traffic()), (None, None));
}
