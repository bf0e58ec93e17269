//! Clients that lost their socket and come back to the connection that they had.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use roost_proxy::function::Namespace;
use roost_proxy::websocket::event::Message as Said;
use roost_proxy::websocket::{Bequest, EventMode, Hub};
use roost_proxy::{Placement, Settings};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::client_groups::JOIN;
use crate::events::*;
use crate::handover::Shelf;
use crate::leases::{TOKEN, connect, expired};
use crate::support::*;

const WINDOW: Duration = Duration::from_secs(30);

async fn start(window: Duration) -> Held {
    Held::start(|mode| {
        mode.resume = Some(window);
        mode.events.disconnected = true;
        (mode.events.joined, mode.events.left) = (true, true);
    })
    .await
}

async fn open(address: SocketAddr, function: &str, query: &str) -> (Client, Response) {
    let socket = TcpStream::connect(address).await.unwrap();
    within(client_async(format!("ws://roost/function/{function}{query}"), socket)).await.unwrap()
}

/// The word with the token.
async fn greeted(client: &mut Client) -> Value {
    let Message::Text(text) = hear(client).await else { panic!("no text") };
    let word: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(word["type"], "resume");
    word
}

fn token(word: &Value) -> String {
    word["token"].as_str().unwrap().to_owned()
}

/// The client is gone, without a Close, and the proxy knows it.
async fn lose(client: Client) {
    let mut socket = client.into_inner();
    socket.shutdown().await.unwrap();
    within(socket.read_to_end(&mut Vec::new())).await.unwrap();
}

fn tell_room(hub: &Hub, text: &str) -> usize {
    let space: Namespace = "openfaas-fn".parse().unwrap();
    hub.say_to_group(&space, "room", &Said { text: true, data: text.to_owned().into() }, &[]).queued
}

/// A client whose connection is in a group and has a state, and its token.
async fn in_room(held: &mut Held) -> (Client, String, String) {
    let (mut client, response) = open(held.proxy.address, "f", "?resume").await;
    let word = greeted(&mut client).await;
    assert_eq!((&word["resumed"], word.get("whole")), (&Value::Bool(false), None));
    assert_eq!(response.headers()["x-roost-resume"], token(&word));
    client.send(Message::text("join")).await.unwrap();
    let asked = held.function.asked().await;
    let id = asked.value("ce-connectionid").unwrap().to_owned();
    asked.answer(with("x-ws-join: room\r\nce-connectionstate: s1", "welcome"));
    assert_eq!(hear(&mut client).await, Message::text("welcome"));
    (client, token(&word), id)
}

#[tokio::test]
async fn a_client_that_comes_back_gets_what_it_missed_and_is_who_it_was() {
    let mut held = start(WINDOW).await;
    let (client, first, id) = in_room(&mut held).await;
    assert_eq!(tell_room(&held.hub, "one"), 1);
    // It may have had this, or not: it says that it has had one message.
    lose(client).await;
    assert_eq!(tell_room(&held.hub, "two"), 1);
    let (mut client, response) = open(held.proxy.address, "f", &format!("?resume={first}&seen=1")).await;
    assert_eq!(response.headers()["x-roost-resumed"], "whole");
    let word = greeted(&mut client).await;
    assert_eq!((&word["resumed"], &word["whole"]), (&Value::Bool(true), &Value::Bool(true)));
    assert_ne!(token(&word), first);
    assert_eq!(hear(&mut client).await, Message::text("one"));
    assert_eq!(hear(&mut client).await, Message::text("two"));
    assert_eq!(tell_room(&held.hub, "three"), 1);
    assert_eq!(hear(&mut client).await, Message::text("three"));
    client.send(Message::text("again")).await.unwrap();
    // Nothing was told of meanwhile.
    let asked = held.function.asked().await;
    assert_eq!((asked.text(), asked.value("ce-connectionid")), ("again", Some(&*id)));
    assert_eq!(asked.value("ce-connectionstate"), Some("s1"));
    asked.answer(NOTHING);
    assert_eq!((held.hub.len(), held.upstream.totals().events.returns), (1, [1, 0, 0]));

    // While the loss of its socket is not noticed: the old one ends.
    let (mut other, _) = open(held.proxy.address, "f", &format!("?resume={}&seen=4", token(&word))).await;
    let word = greeted(&mut other).await;
    assert_eq!(word["whole"], true);
    assert!(!matches!(within(client.next()).await, Some(Ok(_))));
    assert_eq!(tell_room(&held.hub, "four"), 1);
    assert_eq!(hear(&mut other).await, Message::text("four"));
    // One that closes its connection is gone.
    other.close(Some(CloseFrame { code: 1000.into(), reason: "".into() })).await.unwrap();
    let asked = held.function.asked().await;
    assert_eq!(asked.value("ce-eventname"), Some("disconnected"));
    asked.answer(NOTHING);
    assert!(held.hub.is_empty());
}

#[tokio::test]
async fn a_token_counts_once_and_for_its_function_and_who_has_none_is_a_new_client() {
    let mut held = start(WINDOW).await;
    let (client, first, id) = in_room(&mut held).await;
    let other = held.proxy.function("g", &[]);
    other.set_event_mode(held.upstream.event_mode().map(|mode| EventMode::clone(&mode)));
    drop(client);
    let (mut wrong, response) = open(held.proxy.address, "g", &format!("?resume={first}&seen=1")).await;
    assert!(!response.headers().contains_key("x-roost-resumed"));
    assert_eq!(greeted(&mut wrong).await["resumed"], false);
    let (mut back, _) = open(held.proxy.address, "f", &format!("?resume={first}&seen=1")).await;
    assert_eq!(greeted(&mut back).await["resumed"], true);
    let (mut late, _) = open(held.proxy.address, "f", &format!("?resume={first}&seen=1")).await;
    assert_eq!(greeted(&mut late).await["resumed"], false);
    late.send(Message::text("who am I")).await.unwrap();
    let asked = held.function.asked().await;
    assert_ne!(asked.value("ce-connectionid"), Some(&*id));
    assert_eq!(asked.value("ce-connectionstate"), None);
    asked.answer(NOTHING);
    assert_eq!(held.upstream.totals().events.returns, [1, 0, 1]);
}

#[tokio::test]
async fn a_client_comes_back_as_the_user_that_it_was_and_stays_as_long_as_its_new_token() {
    let held = Held::start(|mode| mode.resume = Some(WINDOW)).await;
    held.upstream.set_access(TOKEN);
    let asking = |token: &str, more: &str| format!("?access_token={}{more}", token.replace('=', "%3D"));
    let (mut client, _) = open(held.proxy.address, "f", &asking("sub=ada~for=600", "&resume")).await;
    let first = token(&greeted(&mut client).await);
    lose(client).await;
    let back = format!("&resume={first}&seen=0");
    let (mut other, _) = open(held.proxy.address, "f", &asking("sub=grace~for=60000", &back)).await;
    assert_eq!(greeted(&mut other).await["resumed"], false, "it is of somebody else");
    let (mut client, _) = open(held.proxy.address, "f", &asking("sub=ada~for=60000", &back)).await;
    assert_eq!(greeted(&mut client).await["resumed"], true);
    // When one has expired that came later, the first one has expired as well.
    let mut later = connect(&held, "sub=bob~for=600").await.unwrap();
    assert!(expired(closed(&mut later).await));
    let all: Namespace = "openfaas-fn".parse().unwrap();
    held.hub.say_to_each(&all, None, &Said { text: true, data: "still here?".into() }, &[]);
    assert_eq!(hear(&mut client).await, Message::text("still here?"));
}

#[tokio::test]
async fn nobody_comes_back_without_the_user_that_there_was_nor_with_one_where_there_was_none() {
    let held = Held::start(|mode| mode.resume = Some(WINDOW)).await;
    held.upstream.set_access(TOKEN);
    let address = held.proxy.address;
    let comes = async |token: &str, more: &str| {
        let query = format!("?access_token={}&resume{more}", token.replace('=', "%3D"));
        let (mut client, _) = open(address, "f", &query).await;
        let word = greeted(&mut client).await;
        (client, word)
    };
    for (first, strangers, same) in [
        ("sub=ada", ["team=a", "sub=~team=a", "sub=grace"], "sub=ada~team=b"),
        ("team=a", ["sub=ada", "sub=a", "sub=grace~team=a"], "team=b"),
    ] {
        let (client, word) = comes(first, "").await;
        lose(client).await;
        let back = format!("={}&seen=0", token(&word));
        for stranger in strangers {
            assert_eq!(comes(stranger, &back).await.1["resumed"], false, "{first} {stranger}");
        }
        assert_eq!(comes(same, &back).await.1["resumed"], true, "{first} {same}");
    }
}

#[tokio::test]
async fn who_comes_back_may_with_groups_what_its_new_token_says() {
    let held = Held::start(|mode| (mode.resume, mode.client_groups) = (Some(WINDOW), true)).await;
    held.upstream.set_access(TOKEN);
    let comes = async |claims: &str, more: &str| {
        let query = format!("?access_token={}&resume{more}", claims.replace('=', "%3D"));
        let (mut client, _) = open(held.proxy.address, "f", &query).await;
        let word = greeted(&mut client).await;
        (client, word)
    };
    let (client, word) = comes("sub=ada~role=roost.join~for=60000", "").await;
    lose(client).await;
    let back = format!("={}&seen=0", token(&word));
    let (mut client, word) = comes("sub=ada~role=roost.send~for=60000", &back).await;
    assert_eq!(word["resumed"], true);
    client.send(Message::text(JOIN)).await.unwrap();
    let answer = hear(&mut client).await.into_text().unwrap();
    assert!(answer.contains("Forbidden"), "{answer}");
}

#[tokio::test]
async fn a_client_comes_back_by_the_key_of_its_connection_alone_to_the_next_process_too() {
    let (held, shelf) = (start(WINDOW).await, Arc::<Shelf>::default());
    held.proxy.server.keep_held(Arc::<Shelf>::clone(&shelf));
    let by_team = Placement { key: Some("jwt:team".parse().unwrap()), max_keys: 5, ..Placement::default() };
    held.upstream.set_access(TOKEN);
    held.upstream.set_placement(by_team.clone());
    let comes = async |address: SocketAddr, claims: &str, more: &str| {
        let query = format!("?access_token={}&resume{more}", claims.replace('=', "%3D"));
        let (mut client, _) = open(address, "f", &query).await;
        let word = greeted(&mut client).await;
        (client, word)
    };
    let (client, word) = comes(held.proxy.address, "sub=ada~team=a", "").await;
    lose(client).await;
    let back = format!("={}&seen=0", token(&word));
    let (other, word) = comes(held.proxy.address, "sub=ada~team=b", &back).await;
    assert_eq!(word["resumed"], false);
    drop(other);
    let (client, word) = comes(held.proxy.address, "sub=ada~team=a", &back).await;
    assert_eq!(word["resumed"], true);
    lose(client).await;

    let back = format!("={}&seen=0", token(&word));
    let server = held.proxy.server.clone();
    assert_eq!(within(server.hand_over(DEADLINE)).await.cut, 0);
    within(server.leave()).await;
    let found = shelf.copies().into_iter().filter(|(name, _)| Bequest::is_name(name)).collect();
    let proxy = Proxy::on_this_thread_with(Settings::default()).await;
    proxy.server.keep_held(Arc::<Shelf>::clone(&shelf));
    let upstream = proxy.function("f", &[]);
    upstream.set_access(TOKEN);
    upstream.set_placement(by_team);
    upstream.set_event_mode(held.upstream.event_mode().map(|mode| EventMode::clone(&mode)));
    proxy.server.resume_held(Bequest::new(found).expect("a letter")).await;
    for (claims, resumed) in [("sub=ada~team=b", false), ("team=a", false), ("sub=ada~team=a", true)] {
        assert_eq!(comes(proxy.address, claims, &back).await.1["resumed"], resumed, "{claims}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_come_in_time_is_gone_and_what_is_too_much_is_not_kept() {
    let mut held = start(WINDOW).await;
    let (client, first, _) = in_room(&mut held).await;
    drop(client);
    let text = "x".repeat(100 << 10);
    for _ in 0..5 {
        assert_eq!(tell_room(&held.hub, &text), 1);
    }
    let (mut client, response) = open(held.proxy.address, "f", &format!("?resume={first}&seen=1")).await;
    assert_eq!(response.headers()["x-roost-resumed"], "partial");
    let word = greeted(&mut client).await;
    assert_eq!(word["whole"], false);
    for _ in 0..2 {
        assert_eq!(hear(&mut client).await, Message::text(&*text));
    }

    let mut held = start(Duration::from_millis(200)).await;
    let (client, first, id) = in_room(&mut held).await;
    drop(client);
    let asked = held.function.asked().await;
    assert_eq!(
        (asked.value("ce-eventname"), asked.value("ce-closecode")),
        (Some("disconnected"), Some("1006"))
    );
    assert_eq!(asked.value("ce-connectionid"), Some(&*id));
    asked.answer(NOTHING);
    assert!(held.hub.is_empty());
    let (mut client, _) = open(held.proxy.address, "f", &format!("?resume={first}&seen=1")).await;
    assert_eq!(greeted(&mut client).await["resumed"], false);
    // One that is ended while it is away is not waited for.
    let mut held = start(WINDOW).await;
    let (client, ..) = in_room(&mut held).await;
    drop(client);
    let server = held.proxy.server.clone();
    let ended = tokio::spawn(async move { server.shutdown(DEADLINE).await });
    held.function.asked().await.answer(NOTHING);
    assert_eq!(within(ended).await.unwrap().cut, 0);
}

#[tokio::test]
async fn a_client_comes_back_to_the_next_process_whether_its_socket_was_left_to_it_or_not() {
    let (mut held, shelf) = (start(WINDOW).await, Arc::<Shelf>::default());
    held.proxy.server.keep_held(Arc::<Shelf>::clone(&shelf));
    let (client, first, id) = in_room(&mut held).await;
    let (mut other, second, _) = in_room(&mut held).await;
    drop(client);
    until(|| tell_room(&held.hub, "one") == 2).await;
    let server = held.proxy.server.clone();
    assert_eq!(within(server.hand_over(DEADLINE)).await.cut, 0);
    within(server.leave()).await;
    assert!(held.hub.is_empty());

    let found = shelf.copies().into_iter().filter(|(name, _)| Bequest::is_name(name)).collect();
    let next = roost_proxy::websocket::Held::default();
    let hub = Arc::clone(&next.hub);
    let proxy = Proxy::on_this_thread_with(Settings { held: next, ..Settings::default() }).await;
    proxy.server.keep_held(Arc::<Shelf>::clone(&shelf));
    let upstream = proxy.function("f", &[]);
    upstream.publish(vec![Arc::clone(&held.function.endpoint)]);
    upstream.set_event_mode(held.upstream.event_mode().map(|mode| EventMode::clone(&mode)));
    proxy.server.resume_held(Bequest::new(found).expect("a letter")).await;
    assert_eq!(tell_room(&hub, "two"), 2);
    assert_eq!(hear(&mut other).await, Message::text("one"));
    assert_eq!(hear(&mut other).await, Message::text("two"));
    for (token, own) in [(first, true), (second, false)] {
        let (mut client, response) = open(proxy.address, "f", &format!("?resume={token}&seen=1")).await;
        assert_eq!(response.headers()["x-roost-resumed"], "whole");
        assert_eq!(greeted(&mut client).await["whole"], true);
        assert_eq!(hear(&mut client).await, Message::text("one"));
        assert_eq!(hear(&mut client).await, Message::text("two"));
        client.send(Message::text("me")).await.unwrap();
        let asked = held.function.asked().await;
        assert_eq!((asked.text(), asked.value("ce-connectionstate")), ("me", Some("s1")));
        assert_eq!(asked.value("ce-connectionid") == Some(&*id), own);
        asked.answer(NOTHING);
    }
}
