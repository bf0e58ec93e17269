//! Events that find no end: what is kept of them, and what comes of telling them once more.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::SystemTime;

use futures_util::SinkExt;
use http::StatusCode;
use roost_proxy::Caller;
use roost_proxy::websocket::event::{ConnectionId, Identity};
use roost_proxy::websocket::{DeadEvent, Delivery, Keeper, OnError, Reason, Redrive, Subscriptions};
use tokio_tungstenite::tungstenite::Message;

use crate::events::{Held, NOTHING, closed, hear, try_connect, with};
use crate::support::*;

/// Writes down what it is told to keep.
#[derive(Default)]
struct Notes {
    dead: Mutex<Vec<DeadEvent>>,
    opened: Mutex<Vec<ConnectionId>>,
    ended: Mutex<Vec<ConnectionId>>,
}

impl Keeper for Notes {
    fn opened(&self, identity: &Identity) {
        self.opened.lock().unwrap().push(identity.id);
    }

    fn ended(&self, id: ConnectionId) {
        self.ended.lock().unwrap().push(id);
    }

    fn dead(&self, event: DeadEvent) {
        self.dead.lock().unwrap().push(event);
    }
}

impl Notes {
    async fn next(&self) -> DeadEvent {
        until(|| !self.dead.lock().unwrap().is_empty()).await;
        self.dead.lock().unwrap().remove(0)
    }
}

fn redrive(held: &Held) -> Redrive {
    Redrive::new(Caller::new(held.proxy.routes.clone()), Arc::clone(&held.hub))
}

const FAILED: &str = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn an_event_that_failed_is_kept_and_told_again_its_answer_goes_to_the_connection() {
    let notes = Arc::new(Notes::default());
    let mut held = Held::kept_by(Arc::<Notes>::clone(&notes), |mode| mode.on_error = OnError::Ignore).await;
    let mut client = held.connect().await;
    client.send(Message::text("one")).await.unwrap();
    let asked = held.function.asked().await;
    let id = asked.value("ce-id").unwrap().to_owned();
    asked.answer(FAILED);
    let dead = notes.next().await;
    assert_eq!((dead.event, dead.attempts, &dead.of), ("message", 1, held.upstream.key()));
    assert_eq!(
        (dead.failing.reason, dead.failing.status),
        (Reason::Failed, StatusCode::INTERNAL_SERVER_ERROR)
    );
    assert_eq!(
        (dead.request.uri().to_string(), &dead.request.body()[..]),
        ("/room?x=1".to_owned(), &b"one"[..])
    );
    assert_eq!(held.upstream.totals().events.dead, [1, 0, 0]);

    let redrive = redrive(&held);
    let again = tokio::spawn({
        let (redrive, dead) = (redrive.clone(), dead.clone());
        async move { redrive.tell(&dead).await }
    });
    let asked = held.function.asked().await;
    assert_eq!(
        (asked.text(), asked.value("ce-id"), asked.value("ce-attempt")),
        ("one", Some(&*id), Some("2"))
    );
    asked.answer(FAILED);
    let failing = within(again).await.unwrap().unwrap_err();
    assert_eq!((failing.reason, failing.cause.as_str()), (Reason::Failed, "it answered 500"));
    assert!(notes.dead.lock().unwrap().is_empty(), "whoever tells it again has it");

    let again = tokio::spawn({
        let (redrive, dead) = (redrive.clone(), dead.clone());
        async move { redrive.tell(&dead).await }
    });
    held.function.asked().await.answer(with("x-ws-join: lobby\r\nce-connectionstate: new", "late"));
    assert_eq!(within(again).await.unwrap(), Ok(true));
    assert_eq!(hear(&mut client).await, Message::text("late"));
    let member = held.hub.find(dead.connection).unwrap();
    assert_eq!(member.groups().iter().map(|name| &**name).collect::<Vec<_>>(), ["lobby"]);
    // What it wants to be told again is for the connection's own events to say.
    client.send(Message::text("two")).await.unwrap();
    let asked = held.function.asked().await;
    assert_eq!(asked.value("ce-connectionstate"), None);
    asked.answer(NOTHING);

    client.close(None).await.unwrap();
    closed(&mut client).await;
    until(|| held.hub.is_empty()).await;
    let again = tokio::spawn(async move { redrive.tell(&dead).await });
    held.function.asked().await.answer(with("x-ws-join: lobby", "for nobody"));
    assert_eq!(within(again).await.unwrap(), Ok(false));
}

#[tokio::test]
async fn why_an_event_was_not_dealt_with_is_told_apart() {
    let notes = Arc::new(Notes::default());
    let mut held = Held::kept_by(Arc::<Notes>::clone(&notes), |mode| {
        mode.on_error = OnError::Ignore;
        mode.delivery = Delivery::AtMostOnce;
        mode.retries = 0;
    })
    .await;
    let mut client = held.connect().await;
    client.send(Message::text("one")).await.unwrap();
    // It ends the connection without an answer.
    drop(held.function.asked().await);
    let dead = notes.next().await;
    assert_eq!(dead.failing.reason, Reason::Unanswered);

    held.upstream.publish(Vec::new());
    held.upstream.set_unavailable(Some("it does not start".to_owned()));
    client.send(Message::text("two")).await.unwrap();
    let dead = notes.next().await;
    assert_eq!((dead.failing.reason, &dead.request.body()[..]), (Reason::Unavailable, &b"two"[..]));
    assert!(dead.failing.cause.contains("it does not start"), "{}", dead.failing.cause);
    let failing = redrive(&held).tell(&dead).await.unwrap_err();
    assert_eq!(failing.reason, Reason::Unavailable);
    assert_eq!(held.upstream.totals().events.dead, [0, 1, 1]);
}

#[tokio::test]
async fn who_may_not_connect_leaves_no_dead_letter_and_no_ghost() {
    let notes = Arc::new(Notes::default());
    let mut held = Held::kept_by(Arc::<Notes>::clone(&notes), |mode| {
        mode.events = Subscriptions { connect: true, disconnected: true, ..Default::default() };
    })
    .await;
    let connecting = tokio::spawn(try_connect(held.proxy.address));
    held.function.asked().await.answer(FAILED);
    assert!(within(connecting).await.unwrap().is_err());
    until(|| !notes.ended.lock().unwrap().is_empty()).await;
    assert!(notes.opened.lock().unwrap().is_empty() && notes.dead.lock().unwrap().is_empty());
    let handshakes = held.upstream.totals().events.handshakes;
    let [one] = &handshakes[..] else { panic!("{handshakes:?}") };
    assert_eq!((one.status.is_some_and(|status| status >= 500), one.took.count()), (true, 1));
    assert_eq!(one.reason, "function");

    // Nor does one whose function ends without a word.
    let connecting = tokio::spawn(try_connect(held.proxy.address));
    drop(held.function.asked().await);
    assert!(within(connecting).await.unwrap().is_err());
    until(|| notes.ended.lock().unwrap().len() == 2).await;
    assert!(notes.opened.lock().unwrap().is_empty() && notes.dead.lock().unwrap().is_empty());
    assert_eq!(held.upstream.totals().events.dead, [0, 0, 0]);
}

#[tokio::test]
async fn a_connection_that_opens_behind_an_update_is_noted_and_one_nobody_asks_of_is_forgotten() {
    let notes = Arc::new(Notes::default());
    let held = Held::kept_by(Arc::<Notes>::clone(&notes), |_| {}).await;
    let mut first = held.connect().await;
    until(|| held.upstream.totals().events.open == 1).await;
    assert!(notes.opened.lock().unwrap().is_empty());
    let mut mode = (*held.upstream.event_mode().unwrap()).clone();
    mode.events.disconnected = true;
    held.upstream.set_event_mode(Some(mode.clone()));
    let mut second = held.connect().await;
    until(|| notes.opened.lock().unwrap().len() == 1).await;
    // Nobody asks any more when they end.
    mode.events.disconnected = false;
    held.upstream.set_event_mode(Some(mode));
    for client in [&mut first, &mut second] {
        client.close(None).await.unwrap();
    }
    until(|| notes.ended.lock().unwrap().len() == 2).await;
    assert!(notes.ended.lock().unwrap().contains(&notes.opened.lock().unwrap()[0]));
}

#[tokio::test]
async fn the_end_of_a_connection_is_noted_as_told_when_the_function_was_told_and_not_before() {
    let notes = Arc::new(Notes::default());
    let mut held = Held::kept_by(Arc::<Notes>::clone(&notes), |mode| mode.events.disconnected = true).await;
    let mut client = held.connect().await;
    client.close(None).await.unwrap();
    let asked = held.function.asked().await;
    assert_eq!((asked.value("ce-eventname"), asked.value("ce-seq")), (Some("disconnected"), Some("2")));
    assert!(notes.ended.lock().unwrap().is_empty(), "if this process ends now, the next one has to tell it");
    asked.answer(NOTHING);
    until(|| !notes.ended.lock().unwrap().is_empty()).await;
    assert_eq!(*notes.ended.lock().unwrap(), *notes.opened.lock().unwrap());
}

#[tokio::test]
async fn the_end_of_a_connection_that_nobody_saw_is_told_once_without_a_number_and_noted_as_told() {
    let notes = Arc::new(Notes::default());
    let mut held = Held::kept_by(Arc::<Notes>::clone(&notes), |mode| mode.events.disconnected = true).await;
    let id = ConnectionId::random();
    held.proxy.server.lost(vec![Identity {
        id,
        function: held.upstream.key().clone(),
        path: "/room".into(),
        user: Box::<str>::from("ada").into(),
        subprotocol: OnceLock::new(),
        peer: [192, 0, 2, 1].into(),
        host: None,
        user_agent: None,
        since: SystemTime::now(),
    }]);
    let asked = held.function.asked().await;
    assert_eq!(
        ["ce-eventname", "ce-connectionid", "ce-id", "ce-userid", "ce-closedby"]
            .map(|name| asked.value(name)),
        [
            Some("disconnected"),
            Some(&*id.to_string()),
            Some(&*format!("{id}.end")),
            Some("ada"),
            Some("host")
        ]
    );
    assert_eq!(asked.value("ce-seq"), None, "how many came before is not known");
    assert!(notes.ended.lock().unwrap().is_empty());
    asked.answer(NOTHING);
    until(|| !notes.ended.lock().unwrap().is_empty()).await;
    assert_eq!(*notes.ended.lock().unwrap(), [id]);
}
