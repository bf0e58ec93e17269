//! A function that is asked if it takes events of this host, before the first one.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::SinkExt;
use roost_proxy::websocket::codec::Codec;
use roost_proxy::websocket::codec::cloudevents::CloudEvents;
use roost_proxy::websocket::{EventMode, Validation};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::events::*;
use crate::support::*;

const YES: &str = "HTTP/1.1 200 OK\r\nwebhook-allowed-origin: roost\r\ncontent-length: 0\r\n\r\n";
const NO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// What a revision asks for.
fn codec(revision: &str) -> Codec {
    let validation = Some(Validation::of(revision));
    Codec::CloudEvents(CloudEvents { validation, ..CloudEvents::default() })
}

async fn start() -> Held {
    Held::start(|mode| (mode.codec, mode.retries) = (codec("1"), 0)).await
}

fn another(held: &Held, revision: &str) {
    let mode = (*held.upstream.event_mode().unwrap()).clone();
    held.upstream.set_event_mode(Some(EventMode { codec: codec(revision), ..mode }));
}

/// The next request, which is the question.
async fn question(held: &mut Held) -> Asked {
    let asked = held.function.asked().await;
    assert_eq!(asked.line(), "OPTIONS / HTTP/1.1");
    assert_eq!(
        (asked.value("webhook-request-origin"), asked.value("ce-awpsversion")),
        (Some("roost"), Some("1.0"))
    );
    asked
}

/// What a client is told that may not connect.
async fn refusal(proxy: SocketAddr) -> (u16, String) {
    match try_connect(proxy).await {
        Err(tungstenite::Error::Http(answer)) => {
            let body = answer.body().clone().unwrap_or_default();
            (answer.status().as_u16(), String::from_utf8(body).unwrap())
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_question_comes_before_the_first_event_of_a_revision_and_once() {
    let mut held = start().await;
    let opening: Vec<_> = (0..3).map(|_| tokio::spawn(try_connect(held.proxy.address))).collect();
    let asked = question(&mut held).await;
    // All of them wait for one answer.
    assert!(opening.iter().all(|client| !client.is_finished()));
    asked.answer(YES);
    let mut clients = Vec::new();
    for client in opening {
        clients.push(within(client).await.unwrap().unwrap());
    }
    let client = &mut clients[0];
    client.send(Message::text("one")).await.unwrap();
    let asked = held.function.asked().await;
    assert_eq!(asked.text(), "one");
    asked.answer(NOTHING);
    // Settings that are read once more are of the same revision.
    another(&held, "1");
    client.send(Message::text("two")).await.unwrap();
    let asked = held.function.asked().await;
    assert_eq!(asked.text(), "two");
    asked.answer(NOTHING);
    // Another revision is asked before it hears of a connection that was open before.
    another(&held, "2");
    client.send(Message::text("three")).await.unwrap();
    question(&mut held).await.answer(YES);
    let asked = held.function.asked().await;
    assert_eq!(asked.text(), "three");
    asked.answer(ok("re three"));
    assert_eq!(hear(client).await, Message::text("re three"));
}

#[tokio::test]
async fn a_function_that_says_no_gets_no_event_and_is_asked_again_later() {
    let mut held = start().await;
    let address = held.proxy.address;
    let refused = tokio::spawn(async move { refusal(address).await });
    question(&mut held).await.answer(NO);
    let (status, why) = within(refused).await.unwrap();
    assert_eq!(status, 502);
    assert!(
        why.starts_with("function f.openfaas-fn does not take events of this host: expected 2xx with"),
        "{why}"
    );
    // For a while nobody asks: the next one that the function hears of is the one behind that.
    assert_eq!(refusal(address).await, (502, why));
    let handshakes = held.upstream.totals().events.handshakes;
    assert!(matches!(&handshakes[..], [one] if one.reason == "function" && one.took.count() == 2));
    later().await;
    let opening = tokio::spawn(try_connect(address));
    question(&mut held).await.answer(YES);
    let mut client = within(opening).await.unwrap().unwrap();

    // A connection that was open before is closed at its next message, which the function does not get.
    another(&held, "2");
    client.send(Message::text("lost")).await.unwrap();
    question(&mut held).await.answer("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
    let frame = closed(&mut client).await.unwrap();
    assert_eq!(u16::from(frame.code), 1013);
    assert_eq!(held.upstream.totals().events.dead, [0, 0, 1]);
    later().await;
    let opening = tokio::spawn(try_connect(address));
    question(&mut held).await.answer(YES);
    let mut client = within(opening).await.unwrap().unwrap();
    client.send(Message::text("heard")).await.unwrap();
    assert_eq!(held.function.asked().await.text(), "heard");
}

/// So much later that a function may be asked once more.
async fn later() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(10)).await;
    tokio::time::resume();
}
