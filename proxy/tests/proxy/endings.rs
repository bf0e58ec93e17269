//! What a function asks of its WebSockets, and how they end that do not keep to it: age, long messages, silent clients, and
//! whoever closes them from outside.

use std::time::{Duration, Instant};

use roost_proxy::{By, CloseFrame, Timeouts, Upstream, UpstreamLimits, WebSocketLimits};

use crate::support::*;
use crate::websocket::*;

/// A function with these limits.
fn with(
    proxy: &Proxy,
    function: &Function,
    websocket: WebSocketLimits,
    timeouts: Timeouts,
) -> std::sync::Arc<Upstream> {
    let upstream = proxy.function_with("f", &[function], timeouts);
    upstream.set_limits(UpstreamLimits { timeouts, websocket, ..UpstreamLimits::default() });
    upstream
}

#[tokio::test]
async fn a_socket_that_is_too_old_is_closed_with_a_word_to_both_sides_however_busy_it_is() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let timeouts = Timeouts { lifetime: Some(Duration::from_millis(200)), ..Timeouts::default() };
    let upstream = with(&proxy, &function, WebSocketLimits::default(), timeouts);
    let began = Instant::now();
    let (mut client, mut wire) = open(&proxy, &function).await;
    let end = close(1001, "lifetime");
    within(async {
        loop {
            wire.send(plain(0x81, b"ten bytes!")).await;
            let frame = client.bytes(12).await;
            if frame[0] == 0x88 {
                break assert_eq!(frame, end);
            }
        }
    })
    .await;
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert_eq!(hear_close(&mut wire).await, end[2..]);
    client.send(CLIENTS_CLOSE).await;
    drop(client);
    drop(wire);
    within(function.endpoint.drained()).await;
    until(|| upstream.totals().websockets.closes == [(Some(1001), By::Host, 1)]).await;
}

#[tokio::test]
async fn a_tunnel_that_is_no_websocket_ends_at_its_age_as_well() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let timeouts = Timeouts { lifetime: Some(Duration::from_millis(50)), ..Timeouts::default() };
    let upstream = with(&proxy, &function, WebSocketLimits::default(), timeouts);
    let mut client = proxy
        .ask("GET /function/f HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: lines/1\r\n\r\n")
        .await;
    let mut wire = function.accept().await;
    wire.head().await;
    wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: lines/1\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 101);
    assert_eq!((client.closed().await, wire.closed().await), (Vec::new(), Vec::new()));
    until(|| upstream.load().tunnels == 0).await;
    assert_eq!(upstream.totals().websockets.closes, [], "it was none");
}

#[tokio::test]
async fn a_message_that_is_too_long_does_not_reach_the_function_and_its_client_is_told() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let limits = WebSocketLimits { max_message: Some(10), ..WebSocketLimits::default() };
    let upstream = with(&proxy, &function, limits, Timeouts::default());
    // One frame is too long, or all parts of a message together are.
    let fragments = [frame(0x01, b"12345"), frame(0x89, b"a ping between"), frame(0x00, b"12345")].concat();
    for (fits, too_long) in [
        (frame(0x82, b"1234567890"), frame(0x82, b"12345678901")),
        (fragments.clone(), frame(0x80, b"1")),
        (frame(0x81, b""), frame(0x02, &[7; 60_000])),
    ] {
        // However the bytes come.
        for piece in [1, 3, usize::MAX] {
            let (mut client, mut wire) = open(&proxy, &function).await;
            let bytes = [&fits[..], &too_long].concat();
            for piece in bytes.chunks(piece.min(bytes.len()).max(bytes.len() / 500)) {
                client.send(piece).await;
            }
            expect(&mut client, &close(1009, "message too big")).await;
            expect(&mut wire, &fits).await;
            assert_eq!(hear_close(&mut wire).await, close(1001, "going away")[2..]);
            // A message of the function may be as long as it likes.
            wire.send(plain(0x82, &[1; 100])).await;
            drop(wire);
            client.send(CLIENTS_CLOSE).await;
            assert_eq!(client.ended().await, b"");
        }
    }
    until(|| upstream.totals().websockets.closes == [(Some(1009), By::Host, 9)]).await;
    let (mut client, mut wire) = open(&proxy, &function).await;
    wire.send(plain(0x82, &[1; 100])).await;
    expect(&mut client, &plain(0x82, &[1; 100])).await;
}

#[tokio::test]
async fn sockets_are_closed_with_the_words_of_whoever_asks_for_it() {
    let proxy = Proxy::start().await;
    let (function, other) = (Function::start().await, Function::start().await);
    let upstream = proxy.function("f", &[&function]);
    // Whatever is asked for, nothing is sent that may not be.
    let long = "ö".repeat(100);
    for (code, reason, words) in [
        (4001, "bye", close(4001, "bye")),
        (1000, "", close(1000, "")),
        (1006, "never sent", vec![0x88, 0]),
        (0, "", vec![0x88, 0]),
        (3000, &long, close(3000, &long[..122])),
    ] {
        upstream.publish(vec![function.endpoint.clone()]);
        let (mut client, mut wire) = open(&proxy, &function).await;
        // A replica that goes has sockets as well.
        upstream.publish(vec![other.endpoint.clone()]);
        let (mut second, mut far) = open(&proxy, &other).await;
        assert_eq!(upstream.close_tunnels(CloseFrame::new(code, reason)), 2);
        for (client, wire) in [(&mut client, &mut wire), (&mut second, &mut far)] {
            expect(client, &words).await;
            assert_eq!(hear_close(wire).await, words[2..]);
            client.send(CLIENTS_CLOSE).await;
            wire.send(close(1000, "")).await;
            assert_eq!((client.ended().await, wire.ended().await), (Vec::new(), Vec::new()));
        }
        until(|| upstream.load().tunnels == 0).await;
    }
    // Those that open later stay.
    let (mut client, mut wire) = open(&proxy, &other).await;
    wire.send(plain(0x81, b"hi")).await;
    expect(&mut client, &plain(0x81, b"hi")).await;
    let mut closes = upstream.totals().websockets.closes;
    closes.sort();
    let by = By::Host;
    assert_eq!(closes, [(Some(1000), by, 2), (Some(1005), by, 4), (Some(3000), by, 2), (Some(4001), by, 2)]);
}

#[tokio::test]
async fn a_silent_client_is_pinged_and_its_answer_is_nobody_elses() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let limits = WebSocketLimits { keepalive: Some(Duration::from_millis(50)), ..WebSocketLimits::default() };
    let upstream = with(&proxy, &function, limits, Timeouts::default());
    let (mut client, mut wire) = open(&proxy, &function).await;
    for cut in [1, 4, 9, 14] {
        let ping = client.bytes(10).await;
        assert_eq!(ping[..2], [0x89, 8]);
        let pong = frame(0x8a, &ping[2..]);
        // However it comes, it is swallowed, and what stands around it arrives.
        client.send(&pong[..cut]).await;
        tokio::task::yield_now().await;
        client.send([&pong[cut..], &frame(0x81, b"hi")].concat()).await;
        expect(&mut wire, &frame(0x81, b"hi")).await;
        // Pongs of others pass.
        client.send([frame(0x8a, b"another!"), frame(0x8a, b"")].concat()).await;
        expect(&mut wire, &[frame(0x8a, b"another!"), frame(0x8a, b"")].concat()).await;
    }
    // The function has heard nothing of it, and may speak meanwhile.
    wire.send(plain(0x81, b"still here")).await;
    loop {
        let head = client.bytes(2).await;
        let payload = client.bytes(usize::from(head[1])).await;
        if head[0] == 0x81 {
            break assert_eq!(payload, b"still here");
        }
        assert_eq!(head[0], 0x89);
        client.send(frame(0x8a, &payload)).await;
    }
    assert!(upstream.totals().websockets.pings >= 4);
    assert_eq!(upstream.totals().websockets.unanswered, 0);
}

#[tokio::test]
async fn pings_of_ours_are_no_traffic_and_do_not_keep_a_tunnel_from_being_idle() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let limits = WebSocketLimits { keepalive: Some(Duration::from_millis(20)), ..WebSocketLimits::default() };
    let idle = Duration::from_millis(300);
    let timeouts = Timeouts { tunnel_idle: Some(idle), ..Timeouts::default() };
    let upstream = with(&proxy, &function, limits, timeouts);
    let (mut client, mut wire) = open(&proxy, &function).await;
    let mut answered = 0;
    let payload = within(async {
        loop {
            let head = client.bytes(2).await;
            let payload = client.bytes(usize::from(head[1])).await;
            if head[0] == 0x88 {
                break payload;
            }
            client.send(frame(0x8a, &payload)).await;
            answered += 1;
        }
    })
    .await;
    assert!(answered > 0);
    assert_eq!(payload, close(1001, "idle")[2..]);
    assert_eq!(hear_close(&mut wire).await, close(1001, "idle")[2..]);
    assert_eq!(upstream.last_traffic(), None);
}

#[tokio::test]
async fn a_ping_stands_between_two_frames_and_waits_for_the_end_of_one() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let limits =
        WebSocketLimits { keepalive: Some(Duration::from_millis(100)), ..WebSocketLimits::default() };
    let upstream = with(&proxy, &function, limits, Timeouts::default());
    let (mut client, mut wire) = open(&proxy, &function).await;
    let message = plain(0x82, &[9; 60]);
    wire.send(&message[..20]).await;
    expect(&mut client, &message[..20]).await;
    until(|| upstream.totals().websockets.pings == 1).await;
    // The ends of two frames in one piece: the ping is behind the last of them that is whole.
    wire.send([&message[20..], &plain(0x81, b"x"), &message[..9]].concat()).await;
    expect(&mut client, &[&message[20..], &plain(0x81, b"x")].concat()).await;
    let ping = client.bytes(10).await;
    assert_eq!(ping[..2], [0x89, 8]);
    expect(&mut client, &message[..9]).await;
    wire.send(&message[9..]).await;
    expect(&mut client, &message[9..]).await;
}

#[tokio::test]
async fn who_has_said_goodbye_is_not_pinged() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let every = Duration::from_millis(50);
    let limits = WebSocketLimits { keepalive: Some(every), ..WebSocketLimits::default() };
    let upstream = with(&proxy, &function, limits, Timeouts::default());
    let (mut witness, _wire) = open(&proxy, &function).await;
    let (mut of_client, mut its_wire) = open(&proxy, &function).await;
    of_client.send(CLIENTS_CLOSE).await;
    let (mut of_function, mut other_wire) = open(&proxy, &function).await;
    other_wire.send(close(4000, "")).await;
    // Another one is pinged again and again meanwhile.
    for _ in 0..4 {
        let ping = witness.bytes(10).await;
        witness.send(frame(0x8a, &ping[2..])).await;
    }
    its_wire.send(close(1000, "")).await;
    drop(its_wire);
    let end = of_client.ended().await;
    let pings_before = end.windows(2).filter(|two| *two == [0x89, 8]).count();
    assert!(end.ends_with(&close(1000, "")) && pings_before <= 1, "{end:?}");
    drop(other_wire);
    let end = of_function.ended().await;
    assert!(end.ends_with(&close(4000, "")), "{end:?}");
    drop((of_client, of_function));
    until(|| upstream.totals().websockets.closes.len() == 2).await;
    let mut closes = upstream.totals().websockets.closes;
    closes.sort();
    assert_eq!(closes, [(Some(1000), By::Client, 1), (Some(4000), By::Function, 1)]);
}

#[tokio::test]
async fn a_client_that_answers_no_ping_is_closed_and_its_function_sees_it_go() {
    let proxy = Proxy::on_this_thread().await;
    let function = Function::start().await;
    let limits = WebSocketLimits { keepalive: Some(Duration::from_secs(25)), ..WebSocketLimits::default() };
    let upstream = with(&proxy, &function, limits, Timeouts::default());
    let (mut client, mut wire) = open(&proxy, &function).await;
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    // Without a deadline: time goes by as fast as nothing happens.
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"ping timeout") {
        assert_ne!(tokio::io::AsyncReadExt::read_buf(&mut client.stream, &mut bytes).await.unwrap(), 0);
    }
    assert_eq!(bytes[..2], [0x89, 8]);
    assert_eq!(bytes[10..], close(1001, "ping timeout"));
    let took = began.elapsed().as_secs_f64();
    assert!((42.0..51.0).contains(&took), "{took}");
    let mut rest = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut wire.stream, &mut rest).await.unwrap();
    assert_eq!(rest, b"", "in nobody's name");
    assert_eq!(upstream.totals().websockets.unanswered, 1);
}

#[tokio::test]
async fn frames_are_counted_by_kind_and_direction_while_the_socket_is_open() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let upstream = proxy.function("f", &[&function]);
    let (mut client, mut wire) = open(&proxy, &function).await;
    let up = [frame(0x81, b"a"), frame(0x02, b"b"), frame(0x89, b""), frame(0x80, b"c")].concat();
    client.send(&up).await;
    expect(&mut wire, &up).await;
    let down = [plain(0x82, b"d"), plain(0x8a, b""), plain(0x82, b"e")].concat();
    wire.send(&down).await;
    expect(&mut client, &down).await;
    until(|| upstream.totals().websockets.frames == [[1, 1, 1, 0, 1, 0], [0, 0, 2, 0, 0, 1]]).await;
    assert_eq!(upstream.load().tunnels, 1);
    // What is no frame passes and is counted as that.
    wire.send([0x8f, 0, 1, 2]).await;
    expect(&mut client, &[0x8f, 0, 1, 2]).await;
    until(|| upstream.totals().websockets.untracked == 1).await;
}

#[tokio::test]
async fn a_client_that_goes_without_a_word_is_counted_as_that_and_not_as_the_function_that_goes_then() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let upstream = proxy.function("f", &[&function]);
    for (times, reset) in [(1, false), (2, true)] {
        let (client, mut wire) = open(&proxy, &function).await;
        if reset {
            socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop(client);
        assert_eq!(wire.closed().await, b"", "nothing is said in its name");
        drop(wire);
        until(|| upstream.totals().websockets.closes == [(Some(1006), By::Network, times)]).await;
    }
}

#[tokio::test]
async fn a_client_that_ends_only_its_writing_still_gets_messages_and_is_not_asked_what_it_cannot_answer() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let limits = WebSocketLimits { keepalive: Some(Duration::from_millis(50)), ..WebSocketLimits::default() };
    with(&proxy, &function, limits, Timeouts::default());
    let (mut witness, _wire) = open(&proxy, &function).await;
    let (mut client, mut wire) = open(&proxy, &function).await;
    client.send(frame(0x81, b"last words")).await;
    tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await.unwrap();
    assert_eq!(wire.ended().await, frame(0x81, b"last words"));
    let mut expected = Vec::new();
    for _ in 0..3 {
        let ping = witness.bytes(10).await;
        witness.send(frame(0x8a, &ping[2..])).await;
        wire.send(plain(0x81, b"still here")).await;
        expected.extend(plain(0x81, b"still here"));
    }
    wire.send(close(1000, "")).await;
    expected.extend(close(1000, ""));
    drop(wire);
    let got = client.ended().await;
    assert!(got.ends_with(&expected), "{got:?}");
    // One may have come before the end.
    assert!(got.len() <= expected.len() + 10, "{got:?}");
}

#[tokio::test]
async fn who_never_ends_its_side_is_reset_a_second_after_ours_has_ended() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let (mut client, wire) = open(&proxy, &function).await;
    // The function is gone without a word, and the client answers our Close and then neither reads nor ends.
    drop(wire);
    expect(&mut client, &close(1011, "function exited")).await;
    client.send(CLIENTS_CLOSE).await;
    assert_eq!(client.ended().await, b"");
    within(function.endpoint.drained()).await;
    let error = within(async {
        loop {
            if let Err(error) = tokio::io::AsyncWriteExt::write_all(&mut client.stream, b"x").await {
                break error;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(
        matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe),
        "{error}"
    );
}
