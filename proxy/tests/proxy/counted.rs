//! What is counted of WebSockets, those that go through and those that are held here.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use roost_proxy::function::Namespace;
use roost_proxy::websocket::Filter;
use roost_proxy::websocket::event::Message as Said;
use roost_proxy::{Access, Handshaken, Timeouts};
use tokio_tungstenite::tungstenite::Message;

use crate::events::{HANDSHAKE, Held, NOTHING, closed, hear};
use crate::leases::TOKEN;
use crate::support::*;
use crate::websocket::*;

/// Statuses and reasons, and how many there were, in the order in which each came first.
fn counts(handshakes: &[Handshaken]) -> Vec<(Option<u16>, &'static str, u64)> {
    handshakes.iter().map(|one| (one.status, one.reason, one.took.count())).collect()
}

#[tokio::test]
async fn what_goes_through_is_counted_by_the_length_of_its_messages_its_age_and_its_replica() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let upstream = proxy.function("f", &[&function]);
    let (mut client, mut wire) = open(&proxy, &function).await;
    let replica = function.endpoint.id().clone();
    assert_eq!(upstream.tunnels_of_replicas(), [(replica.clone(), 1)]);
    // A message of 300 bytes in three frames, with a ping between them, and one of ten bytes.
    let parts = [
        frame(0x01, &[b'a'; 100]),
        frame(0x89, b"?"),
        frame(0x00, &[b'b'; 150]),
        frame(0x80, &[b'c'; 50]),
        frame(0x82, &[0; 10]),
    ];
    for part in &parts {
        client.send(part).await;
        expect(&mut wire, part).await;
    }
    wire.send(plain(0x81, b"hello")).await;
    expect(&mut client, &plain(0x81, b"hello")).await;
    until(|| upstream.totals().websockets.sizes.map(|of| of.count()) == [2, 1]).await;
    let sizes = upstream.totals().websockets.sizes;
    assert_eq!(sizes.map(|of| of.sum), [310, 5]);
    // At most 64, 256, 1024 bytes.
    assert_eq!(sizes[0].cumulative[..3], [1, 1, 2]);

    // A replica that goes keeps its connections for a while, and they are counted.
    upstream.publish(Vec::new());
    assert_eq!(upstream.tunnels_of_replicas(), [(replica, 1)]);
    assert_eq!(upstream.totals().websockets.lives.count(), 0);
    client.send(CLIENTS_CLOSE).await;
    expect(&mut wire, CLIENTS_CLOSE).await;
    wire.send(close(1000, "")).await;
    drop((client, wire));
    until(|| upstream.totals().websockets.lives.cumulative[0] == 1).await;
    assert!(upstream.tunnels_of_replicas().is_empty());
}

#[tokio::test]
async fn handshakes_that_go_through_are_counted_with_what_became_of_them_and_why() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let timeouts = Timeouts { waiting: Duration::from_millis(50), ..Timeouts::default() };
    let upstream = proxy.function_with("f", &[&function], timeouts);
    let tunnel = open(&proxy, &function).await;
    let mut refused = proxy.ask(UPGRADE).await;
    let mut wire = function.accept().await;
    wire.head().await;
    wire.send("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(refused.answer().await.head.status(), 403);
    drop(wire);
    upstream.set_access(TOKEN);
    assert_eq!(proxy.ask(UPGRADE).await.answer().await.head.status(), 401);
    upstream.set_access(Access::default());
    upstream.publish(vec![function.die()]);
    assert_eq!(proxy.ask(UPGRADE).await.answer().await.head.status(), 502);
    upstream.publish(Vec::new());
    assert_eq!(proxy.ask(UPGRADE).await.answer().await.head.status(), 504);
    assert_eq!(
        counts(&upstream.totals().websockets.handshakes),
        [
            (Some(101), "", 1),
            (Some(403), "function", 1),
            (Some(401), "token", 1),
            (Some(502), "unreachable", 1),
            (Some(504), "timeout", 1),
        ]
    );
    assert_eq!(upstream.totals().events.handshakes, []);
    drop(tunnel);
}

#[tokio::test]
async fn frames_and_lengths_of_what_is_held_are_counted_and_why_a_client_is_not_let_in() {
    let mut held = Held::start(|mode| {
        mode.origins = vec!["https://a.example".to_owned()];
        mode.auto_response = vec![("ping".into(), "pong".into())];
    })
    .await;
    let mut client = held.proxy.ask(HANDSHAKE).await;
    assert_eq!(client.head().await.status(), 101);
    for part in [
        frame(0x01, b"he"),
        frame(0x89, b"?"),
        frame(0x00, b"ll"),
        frame(0x80, b"o"),
        frame(0x8a, b"!"),
        frame(0x81, b"ping"),
    ] {
        client.send(part).await;
    }
    expect(&mut client, &plain(0x8a, b"?")).await;
    expect(&mut client, &plain(0x81, b"pong")).await;
    held.function.asked().await.answer(ok("HELLO!"));
    expect(&mut client, &plain(0x81, b"HELLO!")).await;
    client.send(CLIENTS_CLOSE).await;
    expect(&mut client, &close(1000, "")).await;
    drop(client);
    until(|| held.upstream.totals().events.lives.cumulative[0] == 1).await;
    let events = held.upstream.totals().events;
    // Continuations, texts, binary ones, Closes, pings and pongs.
    assert_eq!(events.frames, [[2, 2, 0, 1, 1, 1], [0, 2, 0, 1, 0, 1]]);
    // What is answered at once is no message of the function.
    assert_eq!(events.sizes.map(|of| (of.count(), of.sum)), [(1, 5), (1, 6)]);

    let foreign = HANDSHAKE.replace("host: roost", "host: roost\r\norigin: https://b.example");
    let strange = HANDSHAKE.replace("sec-websocket-version: 13", "sec-websocket-version: 8");
    for (request, status) in [(&foreign, 403), (&strange, 426), (&foreign, 403)] {
        assert_eq!(held.proxy.ask(request).await.answer().await.head.status(), status);
    }
    held.upstream.set_access(TOKEN);
    assert_eq!(held.proxy.ask(HANDSHAKE).await.answer().await.head.status(), 401);
    assert_eq!(
        counts(&held.upstream.totals().events.handshakes),
        [(Some(101), "", 1), (Some(403), "origin", 2), (Some(426), "malformed", 1), (Some(401), "token", 1),]
    );
}

#[tokio::test]
async fn what_is_said_to_many_takes_until_the_slowest_of_them_has_it() {
    const LONG: usize = 12 << 20;
    let space: Namespace = "openfaas-fn".parse().unwrap();
    let held = Held::start(|mode| mode.outbound = 3 * LONG).await;
    let mut slow = held.connect().await;
    until(|| held.hub.len() == 1).await;
    let message = |text: bool, data: Vec<u8>| Said { text, data: data.into() };
    for member in held.hub.list(&space, &Filter::default(), None, 1) {
        // More than the kernel holds for one who does not read.
        for _ in 0..2 {
            member.say(&message(false, vec![7; LONG]));
        }
    }
    let mut quick = held.connect().await;
    until(|| held.hub.len() == 2).await;
    held.hub.say_to_each(&space, None, &message(true, b"all".to_vec()), &[]);
    assert_eq!(hear(&mut quick).await, Message::text("all"));
    let wait = Duration::from_millis(50);
    tokio::time::sleep(wait).await;
    assert_eq!(held.hub.fanouts().count(), 0, "one of them does not have it");
    for _ in 0..2 {
        assert_eq!(hear(&mut slow).await.len(), LONG);
    }
    assert_eq!(hear(&mut slow).await, Message::text("all"));
    until(|| held.hub.fanouts().count() == 1).await;
    assert!(u128::from(held.hub.fanouts().sum) >= wait.as_micros(), "{:?}", held.hub.fanouts());
    held.hub.say_to_each(&space, None, &message(true, b"again".to_vec()), &[]);
    for client in [&mut slow, &mut quick] {
        assert_eq!(hear(client).await, Message::text("again"));
    }
    until(|| held.hub.fanouts().count() == 2).await;
    // What is said to one alone is no such thing.
    let mut held = held;
    slow.send(Message::text("hi")).await.unwrap();
    held.function.asked().await.answer(NOTHING);
    slow.close(None).await.unwrap();
    assert_eq!(closed(&mut slow).await, None);
    assert!(slow.next().await.is_none_or(|end| end.is_err()));
    assert_eq!(held.hub.fanouts().count(), 2);
}
