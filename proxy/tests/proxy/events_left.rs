//! Connections that are held here and go on in the next process: here, in the next server of this one.

use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::SinkExt;
use roost_proxy::function::Namespace;
use roost_proxy::websocket::codec::Codec;
use roost_proxy::websocket::codec::cloudevents::CloudEvents;
use roost_proxy::websocket::event::Message as Said;
use roost_proxy::websocket::{Bequest, EventMode, Hub};
use roost_proxy::{ClientLimits, Settings, Upstream};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::events::*;
use crate::handover::Shelf;
use crate::support::*;
use crate::{client_groups, extended, leases, secure};

/// What comes behind a process that leaves its connections.
struct Next {
    proxy: Proxy,
    hub: Arc<Hub>,
    upstream: Arc<Upstream>,
}

fn mode() -> EventMode {
    EventMode::new(Codec::CloudEvents(CloudEvents::default()))
}

/// The connections of `held` go on behind another server; `known`: it has the function at once.
async fn hand_over(held: &Held, shelf: &Arc<Shelf>, known: bool) -> Next {
    hand_over_while(held, shelf, known, || {}).await
}

/// The same; `leaving` comes when the first one has begun to leave them.
async fn hand_over_while(held: &Held, shelf: &Arc<Shelf>, known: bool, leaving: impl FnOnce()) -> Next {
    hand_over_to(Settings::default(), held, shelf, known, leaving).await
}

/// The same, to a server of these settings.
async fn hand_over_to(
    settings: Settings,
    held: &Held,
    shelf: &Arc<Shelf>,
    known: bool,
    leaving: impl FnOnce(),
) -> Next {
    let server = held.proxy.server.clone();
    assert_eq!(within(server.hand_over(DEADLINE)).await.cut, 0);
    within(async { tokio::join!(server.leave(), async { leaving() }) }).await;
    assert!(held.hub.is_empty());
    let found = shelf.copies().into_iter().filter(|(name, _)| Bequest::is_name(name)).collect();
    let next_held = roost_proxy::websocket::Held::default();
    let hub = Arc::clone(&next_held.hub);
    let proxy = Proxy::on_this_thread_with(Settings { held: next_held, ..settings }).await;
    proxy.server.keep_held(Arc::<Shelf>::clone(shelf));
    let upstream = proxy.function("f", &[]);
    upstream.publish(vec![Arc::clone(&held.function.endpoint)]);
    if known {
        upstream.set_event_mode(Some(mode()));
    }
    proxy.server.resume_held(Bequest::new(found).expect("a letter")).await;
    assert_eq!(shelf.len(), 0, "what the next one has is in the store no more");
    Next { proxy, hub, upstream }
}

async fn kept(change: impl FnOnce(&mut EventMode)) -> (Held, Arc<Shelf>) {
    let (held, shelf) = (Held::start(change).await, Arc::<Shelf>::default());
    held.proxy.server.keep_held(Arc::<Shelf>::clone(&shelf));
    (held, shelf)
}

#[tokio::test]
async fn a_connection_goes_on_with_its_groups_its_state_and_its_number() {
    let (mut held, shelf) = kept(|mode| mode.events.connected = true).await;
    let mut client = held.connect().await;
    held.function
        .asked()
        .await
        .answer("HTTP/1.1 204 No Content\r\nx-ws-join: room\r\nce-connectionstate: s7\r\n\r\n");
    client.send(Message::text("one")).await.unwrap();
    let asked = held.function.asked().await;
    let (id, number) =
        (asked.value("ce-connectionid").unwrap().to_owned(), asked.value("ce-seq").unwrap().to_owned());
    asked.answer(ok("re one"));
    assert_eq!(hear(&mut client).await, Message::text("re one"));

    let next = hand_over(&held, &shelf, true).await;
    assert_eq!(
        (next.hub.len(), next.hub.group_figures(), next.upstream.totals().events.open),
        (1, [1, 1], 1)
    );
    client.send(Message::text("two")).await.unwrap();
    let asked = held.function.asked().await;
    assert_eq!((asked.text(), asked.value("ce-connectionid")), ("two", Some(&*id)));
    assert_eq!(asked.value("ce-connectionstate"), Some("s7"));
    let follows = number.parse::<u64>().unwrap() + 1;
    assert_eq!(asked.value("ce-seq"), Some(&*follows.to_string()));
    asked.answer(ok("re two"));
    assert_eq!(hear(&mut client).await, Message::text("re two"));
    let namespace: Namespace = "openfaas-fn".parse().unwrap();
    let word = Said { text: true, data: "to the room".into() };
    assert_eq!(next.hub.say_to_group(&namespace, "room", &word, &[]).queued, 1);
    assert_eq!(hear(&mut client).await, Message::text("to the room"));
    drop(next.proxy);
}

#[tokio::test]
async fn what_waits_on_either_side_is_not_lost_and_half_a_message_is_whole_in_the_end() {
    let (mut held, shelf) = kept(|mode| mode.outbound = 64 << 20).await;
    let mut wire = held.proxy.ask(HANDSHAKE).await;
    assert_eq!(wire.head().await.status(), 101);
    // A message in flight, one behind it, and the half of a third.
    let masked = |text: &[u8]| [&[0x81, 0x80 | text.len() as u8, 0, 0, 0, 0][..], text].concat();
    let third = masked(b"the third one");
    wire.send([&masked(b"first")[..], &masked(b"second"), &third[..9]].concat()).await;
    let first = held.function.asked().await;
    let namespace: Namespace = "openfaas-fn".parse().unwrap();
    let large = Said { text: false, data: vec![7; 8 << 20].into() };
    assert_eq!(held.hub.say_to_each(&namespace, None, &large, &[]).queued, 1);
    let next = hand_over_while(&held, &shelf, false, || first.answer(ok("re first"))).await;
    let reader = tokio::spawn(async move {
        let bytes = wire.bytes(10 + (8 << 20) + 2 + 8).await;
        (wire, bytes)
    });
    next.upstream.set_event_mode(Some(mode()));
    let (mut wire, bytes) = within(reader).await.unwrap();
    assert!(bytes[10..10 + (8 << 20)].iter().all(|byte| *byte == 7));
    assert_eq!(&bytes[10 + (8 << 20)..], b"\x81\x08re first");
    let second = held.function.asked().await;
    assert_eq!(second.text(), "second");
    second.answer(NOTHING);
    wire.send(&third[9..]).await;
    assert_eq!(held.function.asked().await.text(), "the third one");
}

#[tokio::test]
async fn a_connection_that_is_being_closed_is_closed_and_one_whose_function_is_gone_ends() {
    let (held, shelf) = kept(|_| {}).await;
    let mut client = held.connect().await;
    let next = {
        let server = held.proxy.server.clone();
        within(server.hand_over(DEADLINE)).await;
        within(server.leave()).await;
        let found = shelf.copies().into_iter().filter(|(name, _)| Bequest::is_name(name)).collect();
        let proxy = Proxy::on_this_thread().await;
        proxy.server.keep_held(Arc::<Shelf>::clone(&shelf));
        proxy.server.resume_held(Bequest::new(found).unwrap()).await;
        proxy
    };
    let end = within(futures_util::StreamExt::next(&mut client)).await;
    assert!(!matches!(end, Some(Ok(Message::Text(_)))), "{end:?}");
    assert_eq!(shelf.len(), 0);
    drop(next);
}

/// The server of `proxy` ends for another one, which gets no such connection.
async fn ends(proxy: &Proxy) {
    let shelf = Arc::<Shelf>::default();
    proxy.server.keep_held(Arc::<Shelf>::clone(&shelf));
    let server = proxy.server.clone();
    within(server.hand_over(DEADLINE)).await;
    within(server.leave()).await;
    assert_eq!(shelf.len(), 0);
}

const RESTART: &[u8] = b"\x88\x11\x03\xf4service restart";

#[tokio::test]
async fn one_over_http2_is_held_like_any_other_and_closed_when_the_process_leaves() {
    let proxy = Proxy::on_this_thread().await;
    let mut function = Replica::start().await;
    let upstream = proxy.function("f", &[]);
    upstream.publish(vec![Arc::clone(&function.endpoint)]);
    upstream.set_event_mode(Some(mode()));
    let (mut sender, driver) = extended::connect(&proxy).await;
    let (answer, mut sends) = extended::ask(&mut sender, "/function/f/room", "websocket");
    let (head, mut reads) = within(answer).await.unwrap().into_parts();
    assert_eq!(
        (head.status.as_u16(), &head.headers["sec-websocket-protocol"]),
        (200, &"chat".parse().unwrap())
    );
    sends.send_data(Bytes::from_static(b"\x81\x82\0\0\0\0hi"), false).unwrap();
    let asked = function.asked().await;
    assert_eq!((asked.text(), asked.value("ce-subprotocol")), ("hi", Some("chat")));
    asked.answer(ok("back"));
    assert_eq!(extended::read(&mut reads, 6).await, b"\x81\x04back");
    let hears = async {
        assert_eq!(extended::read(&mut reads, RESTART.len()).await, RESTART);
        sends.send_data(Bytes::from_static(b"\x88\x82\0\0\0\0\x03\xf4"), true).unwrap();
    };
    tokio::join!(ends(&proxy), hears);
    driver.abort();
}

#[tokio::test]
async fn one_in_tls_is_held_like_any_other_and_closed_when_the_process_leaves() {
    let (proxy, address, config) = secure::start(Settings::default()).await;
    let mut function = Replica::start().await;
    let upstream = proxy.function("f", &[]);
    upstream.publish(vec![Arc::clone(&function.endpoint)]);
    upstream.set_event_mode(Some(mode()));
    let mut client = Wire::over(secure::shake(address, &config, "h.example").await.unwrap());
    client.send([HANDSHAKE.as_bytes(), b"\x81\x82\0\0\0\0hi"].concat()).await;
    assert_eq!(client.head().await.status(), 101);
    let asked = function.asked().await;
    assert_eq!(asked.text(), "hi");
    asked.answer(ok("back"));
    assert_eq!(client.bytes(6).await, b"\x81\x04back");
    let hears = async {
        assert_eq!(client.bytes(RESTART.len()).await, RESTART);
        client.send(b"\x88\x82\0\0\0\0\x03\xf4").await;
    };
    tokio::join!(ends(&proxy), hears);
}

#[tokio::test]
async fn a_client_that_came_with_a_token_may_stay_as_long_and_give_another_one_in_the_next_process() {
    let (held, shelf) = kept(|_| {}).await;
    held.upstream.set_access(leases::TOKEN);
    let mut first = leases::connect(&held, "sub=ada~for=900").await.unwrap();
    let mut second = leases::connect(&held, "sub=grace~for=900").await.unwrap();
    let next = hand_over(&held, &shelf, true).await;
    assert_eq!(next.hub.len(), 2);
    for (token, ok) in [("sub=ada~for=60000", false), ("sub=grace~for=60000", true)] {
        second.send(Message::text(format!(r#"{{"type":"auth","token":"{token}"}}"#))).await.unwrap();
        let answer = hear(&mut second).await.into_text().unwrap();
        assert!(answer.starts_with(&format!(r#"{{"type":"auth","ok":{ok},"#)), "{answer}");
    }
    let words = closed(&mut first).await.expect("a word");
    assert_eq!((u16::from(words.code), &*words.reason), (1008, "token expired"));
    until(|| next.hub.len() == 1).await;
}

#[tokio::test]
async fn a_connection_counts_among_those_of_its_user_in_the_next_process_as_well() {
    let (held, shelf) = kept(|_| {}).await;
    held.upstream.set_access(leases::TOKEN);
    let mut ada = leases::connect(&held, "sub=ada~for=60000").await.unwrap();
    let clients = ClientLimits { user_connections: NonZeroUsize::new(1), ..ClientLimits::default() };
    let settings = Settings { clients, ..Settings::default() };
    let next = hand_over_to(settings, &held, &shelf, true, || {}).await;
    next.upstream.set_access(leases::TOKEN);
    let comes = |token| leases::connect_to(next.proxy.address, token);
    let Err(tungstenite::Error::Http(refused)) = comes("sub=ada~for=60000").await else {
        panic!("let in beside the one that there is")
    };
    assert_eq!(refused.status(), 429);
    let _grace = comes("sub=grace~for=60000").await.unwrap();
    // With it goes its place.
    ada.close(None).await.unwrap();
    closed(&mut ada).await;
    until(|| next.hub.len() == 1).await;
    comes("sub=ada~for=60000").await.unwrap();
}

#[tokio::test]
async fn what_a_client_may_do_by_itself_it_may_with_the_next_process() {
    let (mut held, shelf) = kept(|mode| (mode.client_groups, mode.events.connect) = (true, true)).await;
    let answer = client_groups::gives(r#""roost.join.room","webpubsub.sendToGroup.room""#);
    let asking = async { held.function.asked().await.answer(answer) };
    let (client, ()) = tokio::join!(try_connect(held.proxy.address), asking);
    let mut client = client.unwrap();
    let next = hand_over(&held, &shelf, true).await;
    for text in [client_groups::JOIN, client_groups::SEND] {
        client.send(Message::text(text)).await.unwrap();
    }
    assert_eq!(hear(&mut client).await, Message::text(r#"{"ackId":1,"success":true,"type":"ack"}"#));
    assert_eq!(hear(&mut client).await, Message::text("hi"));
    assert_eq!(hear(&mut client).await, Message::text(client_groups::DONE));
    assert_eq!(next.hub.group_figures(), [1, 1]);
}
