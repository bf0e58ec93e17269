//! Connections that are held here: what functions are told, and what clients hear of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use roost_proxy::function::Namespace;
use roost_proxy::websocket::codec::Codec;
use roost_proxy::websocket::codec::cloudevents::CloudEvents;
use roost_proxy::websocket::{Delivery, EventMode, Forgetful, Hub, Keeper, OnError, Subscriptions};
use roost_proxy::{Endpoint, Server, Settings, Upstream};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::support::*;

pub(crate) type Client = WebSocketStream<TcpStream>;

/// A function whose connections are held, at one replica that the test answers for.
pub(crate) struct Held {
    pub(crate) proxy: Proxy,
    pub(crate) hub: Arc<Hub>,
    pub(crate) function: Replica,
    pub(crate) upstream: Arc<Upstream>,
}

/// A replica whose requests come one behind the other, on whichever connection.
pub(crate) struct Replica {
    pub(crate) endpoint: Arc<Endpoint>,
    asked: mpsc::Receiver<Asked>,
}

/// What it is asked.
pub(crate) struct Asked {
    head: Head,
    body: Vec<u8>,
    answer: oneshot::Sender<String>,
}

impl Replica {
    pub(crate) async fn start() -> Self {
        let function = Function::start().await;
        let (tell, asked) = mpsc::channel(64);
        let endpoint = Arc::clone(&function.endpoint);
        tokio::spawn(async move {
            loop {
                let (mut wire, tell) = (function.accept_later().await, tell.clone());
                tokio::spawn(async move {
                    while let Some(head) = wire.try_head().await {
                        let length = head.value("content-length").map_or(0, |length| length.parse().unwrap());
                        let (body, (answer, answered)) = (wire.bytes(length).await, oneshot::channel());
                        if tell.send(Asked { head, body, answer }).await.is_err() {
                            return;
                        }
                        let Ok(answer) = answered.await else { return };
                        wire.send(answer).await;
                    }
                });
            }
        });
        Self { endpoint, asked }
    }

    pub(crate) async fn asked(&mut self) -> Asked {
        within(self.asked.recv()).await.unwrap()
    }
}

impl Asked {
    pub(crate) fn line(&self) -> &str {
        &self.head.line
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.head.value(name)
    }

    pub(crate) fn answer(self, answer: impl Into<String>) {
        self.answer.send(answer.into()).unwrap();
    }
}

pub(crate) const NOTHING: &str = "HTTP/1.1 204 No Content\r\n\r\n";

/// An answer with `headers`, and a body of text.
pub(crate) fn with(headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n{headers}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

impl Held {
    pub(crate) async fn start(change: impl FnOnce(&mut EventMode)) -> Self {
        Self::kept_by(Arc::new(Forgetful), change).await
    }

    pub(crate) async fn kept_by(keeper: Arc<dyn Keeper>, change: impl FnOnce(&mut EventMode)) -> Self {
        let held = roost_proxy::websocket::Held { keeper, ..Default::default() };
        let hub = Arc::clone(&held.hub);
        let proxy = Proxy::on_this_thread_with(Settings { held, ..Settings::default() }).await;
        let function = Replica::start().await;
        let upstream = proxy.function("f", &[]);
        upstream.publish(vec![Arc::clone(&function.endpoint)]);
        let mut mode = EventMode::new(Codec::CloudEvents(CloudEvents::default()));
        change(&mut mode);
        upstream.set_event_mode(Some(mode));
        Self { proxy, hub, function, upstream }
    }

    pub(crate) async fn connect(&self) -> Client {
        try_connect(self.proxy.address).await.unwrap()
    }
}

pub(crate) async fn try_connect(proxy: SocketAddr) -> Result<Client, tungstenite::Error> {
    let client = TcpStream::connect(proxy).await.unwrap();
    let (client, _) =
        within(tokio_tungstenite::client_async("ws://roost/function/f/room?x=1", client)).await?;
    Ok(client)
}

pub(crate) const HANDSHAKE: &str = "GET /function/f HTTP/1.1\r\nhost: roost\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";

pub(crate) async fn hear(client: &mut Client) -> Message {
    within(client.next()).await.unwrap().unwrap()
}

pub(crate) async fn closed(client: &mut Client) -> Option<CloseFrame> {
    loop {
        if let Message::Close(frame) = hear(client).await {
            return frame;
        }
    }
}

#[tokio::test]
async fn a_message_is_a_request_whose_answer_is_the_reply_and_no_handshake_reaches_the_function() {
    let mut held = Held::start(|_| {}).await;
    let mut client = held.connect().await;
    client.send(Message::text("hello")).await.unwrap();
    let asked = held.function.asked().await;
    assert_eq!((asked.head.line.as_str(), asked.text()), ("POST /room?x=1 HTTP/1.1", "hello"));
    assert_eq!(asked.value("ce-type"), Some("azure.webpubsub.user.message"));
    assert!(asked.value("content-type").unwrap().starts_with("text/plain"));
    asked.answer(ok("back"));
    assert_eq!(hear(&mut client).await, Message::text("back"));

    client.send(Message::binary(vec![0, 159, 146, 150])).await.unwrap();
    let asked = held.function.asked().await;
    assert_eq!(asked.value("content-type"), Some("application/octet-stream"));
    assert_eq!(asked.body, [0, 159, 146, 150]);
    asked.answer(NOTHING);

    client.close(None).await.unwrap();
    assert_eq!(closed(&mut client).await, None);
    until(|| held.upstream.totals().events.open == 0).await;
}

#[tokio::test]
async fn one_event_is_in_flight_at_a_time_and_messages_keep_their_order() {
    let mut held = Held::start(|_| {}).await;
    let mut client = held.connect().await;
    for number in 0..10 {
        client.send(Message::text(number.to_string())).await.unwrap();
    }
    for number in 0..10 {
        let asked = held.function.asked().await;
        assert_eq!(asked.text(), number.to_string());
        assert_eq!(held.upstream.load().in_flight, 1);
        asked.answer(ok(&format!("re {number}")));
        assert_eq!(hear(&mut client).await, Message::text(format!("re {number}")));
    }
}

#[tokio::test]
async fn a_full_mailbox_stops_the_client_and_nothing_is_lost() {
    let mut held = Held::start(|mode| mode.mailbox = 2).await;
    let client = held.connect().await;
    let (mut say, mut hear) = client.split();
    let text = |number: u32| format!("{number:06}").repeat(2_000);
    let saying = tokio::spawn(async move {
        for number in 0..2_000 {
            say.send(Message::text(text(number))).await.unwrap();
        }
        say
    });
    for number in 0..2_000 {
        let asked = held.function.asked().await;
        assert_eq!(asked.text(), text(number));
        // 24 MB do not fit into what the kernel holds of one connection.
        assert!(number > 100 || !saying.is_finished());
        asked.answer(ok("ok"));
        assert_eq!(within(hear.next()).await.unwrap().unwrap(), Message::text("ok"));
    }
    drop(within(saying).await.unwrap());
}

#[tokio::test]
async fn a_ping_is_answered_here() {
    let held = Held::start(|_| {}).await;
    let mut client = held.connect().await;
    client.send(Message::Ping("are you there".into())).await.unwrap();
    assert_eq!(hear(&mut client).await, Message::Pong("are you there".into()));
}

#[tokio::test]
async fn a_function_that_is_asked_decides_who_may_connect_and_hears_of_the_end() {
    let mut held = Held::start(|mode| {
        mode.events =
            Subscriptions { connect: true, connected: true, disconnected: true, ..Default::default() };
    })
    .await;
    let connecting = |address| tokio::spawn(async move { try_connect(address).await });
    let refused = connecting(held.proxy.address);
    let asked = held.function.asked().await;
    assert_eq!(asked.value("ce-type"), Some("azure.webpubsub.sys.connect"));
    asked.answer("HTTP/1.1 403 Forbidden\r\ncontent-length: 4\r\n\r\nno!\n");
    let Err(tungstenite::Error::Http(response)) = within(refused).await.unwrap() else {
        panic!("was let in")
    };
    assert_eq!((response.status().as_u16(), response.body().as_deref()), (403, Some(&b"no!\n"[..])));

    let accepted = connecting(held.proxy.address);
    let asked = held.function.asked().await;
    assert_eq!(asked.value("ce-type"), Some("azure.webpubsub.sys.connect"));
    asked.answer(with("ce-connectionstate: s1", r#"{"userId":"ada","groups":["g"]}"#));
    let mut client = within(accepted).await.unwrap().unwrap();
    let asked = held.function.asked().await;
    assert_eq!(asked.value("ce-type"), Some("azure.webpubsub.sys.connected"));
    assert_eq!((asked.value("ce-userid"), asked.value("ce-connectionstate")), (Some("ada"), Some("s1")));
    asked.answer(NOTHING);
    client.close(Some(CloseFrame { code: 4001.into(), reason: "enough".into() })).await.unwrap();
    let asked = held.function.asked().await;
    assert_eq!(asked.value("ce-type"), Some("azure.webpubsub.sys.disconnected"));
    assert_eq!((asked.value("ce-closecode"), asked.value("ce-closedby")), (Some("4001"), Some("client")));
    assert!(asked.text().contains("enough"), "{}", asked.text());
    asked.answer(NOTHING);
}

#[tokio::test]
async fn a_client_that_leaves_while_it_is_judged_leaves_nothing_behind() {
    let mut held = Held::start(|mode| mode.events.connect = true).await;
    let connecting = {
        let address = held.proxy.address;
        tokio::spawn(async move { try_connect(address).await })
    };
    let asked = held.function.asked().await;
    assert_eq!(held.hub.len(), 1);
    connecting.abort();
    until(|| held.hub.is_empty()).await;
    assert_eq!(held.upstream.totals().events.open, 0);
    drop(asked);
}

#[tokio::test]
async fn what_is_said_to_a_group_reaches_all_of_it_and_not_who_is_left_out() {
    let mut held = Held::start(|_| {}).await;
    let (mut one, mut two, mut other) = (held.connect().await, held.connect().await, held.connect().await);
    for client in [&mut one, &mut two] {
        client.send(Message::text("join")).await.unwrap();
        held.function.asked().await.answer("HTTP/1.1 204 No Content\r\nx-ws-join: room\r\n\r\n");
    }
    until(|| held.hub.group_figures() == [1, 2]).await;
    other.send(Message::text("hi all")).await.unwrap();
    held.function.asked().await.answer(with("x-ws-broadcast: group=room", "hi 1!"));
    assert_eq!(hear(&mut two).await, Message::text("hi 1!"));
    assert_eq!(hear(&mut one).await, Message::text("hi 1!"));
    one.send(Message::text("me too")).await.unwrap();
    held.function.asked().await.answer(with("x-ws-broadcast: group=room;exclude-self", "hi 2!"));
    assert_eq!(hear(&mut two).await, Message::text("hi 2!"));
    one.send(Message::text("and me?")).await.unwrap();
    held.function.asked().await.answer(ok("to you alone"));
    assert_eq!(hear(&mut one).await, Message::text("to you alone"), "who is left out hears nothing of it");
    one.send(Message::text("bye")).await.unwrap();
    let bye = "HTTP/1.1 204 No Content\r\nx-ws-leave: room\r\nx-ws-close: 4002 good bye\r\n\r\n";
    held.function.asked().await.answer(bye);
    assert_eq!(closed(&mut one).await, Some(CloseFrame { code: 4002.into(), reason: "good bye".into() }));
    drop(two);
    until(|| held.hub.group_figures() == [0, 0]).await;
}

#[tokio::test]
async fn a_failed_handler_closes_with_1011_and_a_missing_function_with_1013() {
    let mut held = Held::start(|mode| mode.retries = 0).await;
    let mut client = held.connect().await;
    client.send(Message::text("fail")).await.unwrap();
    held.function.asked().await.answer("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(u16::from(closed(&mut client).await.unwrap().code), 1011);

    held.upstream.publish(Vec::new());
    held.upstream.set_unavailable(Some("it cannot be started".to_owned()));
    let mut client = held.connect().await;
    client.send(Message::text("anybody?")).await.unwrap();
    assert_eq!(u16::from(closed(&mut client).await.unwrap().code), 1013);
}

#[tokio::test]
async fn what_was_not_sent_is_tried_again_and_what_may_have_been_only_if_asked_for() {
    for (delivery, expected) in [(Delivery::AtMostOnce, 1), (Delivery::AtLeastOnce, 4)] {
        let mut held = Held::start(|mode| {
            mode.delivery = delivery;
            mode.on_error = OnError::Ignore;
        })
        .await;
        let mut client = held.connect().await;
        client.send(Message::text("event")).await.unwrap();
        let mut ids = Vec::new();
        for attempt in 1..=expected {
            let asked = held.function.asked().await;
            assert_eq!(asked.value("ce-attempt"), Some(&*attempt.to_string()));
            ids.push(asked.value("ce-id").unwrap().to_owned());
            asked.answer("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n");
        }
        ids.dedup();
        assert_eq!(ids.len(), 1, "one event has one id");
        client.send(Message::text("next")).await.unwrap();
        let asked = held.function.asked().await;
        assert_eq!((asked.text(), asked.value("ce-attempt")), ("next", Some("1")));
    }

    let mut held = Held::start(|_| {}).await;
    held.upstream.publish(Vec::new());
    held.upstream.set_unavailable(Some("it is being started".to_owned()));
    let mut client = held.connect().await;
    client.send(Message::text("event")).await.unwrap();
    until(|| held.upstream.totals().events.retries == 1).await;
    held.upstream.publish(vec![Arc::clone(&held.function.endpoint)]);
    let asked = held.function.asked().await;
    assert_eq!((asked.text(), asked.value("ce-attempt")), ("event", Some("2")));
}

#[tokio::test]
async fn a_deploy_closes_nothing_and_the_next_message_goes_to_the_new_replica() {
    let mut held = Held::start(|_| {}).await;
    let mut client = held.connect().await;
    client.send(Message::text("one")).await.unwrap();
    let asked = held.function.asked().await;
    let mut new = Replica::start().await;
    held.upstream.publish(vec![Arc::clone(&new.endpoint)]);
    client.send(Message::text("two")).await.unwrap();
    asked.answer(ok("from the old one"));
    assert_eq!(hear(&mut client).await, Message::text("from the old one"));
    let asked = new.asked().await;
    assert_eq!(asked.text(), "two");
    asked.answer(ok("from the new one"));
    assert_eq!(hear(&mut client).await, Message::text("from the new one"));
    held.upstream.publish(Vec::new());
    client.send(Message::text("three")).await.unwrap();
    until(|| held.upstream.load().waiting == 1).await;
    held.upstream.publish(vec![Arc::clone(&new.endpoint)]);
    assert_eq!(new.asked().await.text(), "three");
}

#[tokio::test]
async fn the_end_of_the_host_closes_with_1012_and_tells_the_function() {
    let mut held = Held::start(|mode| mode.events.disconnected = true).await;
    let mut client = held.connect().await;
    let server: Server = held.proxy.server.clone();
    let ending = tokio::spawn(async move { server.shutdown(DEADLINE).await });
    assert_eq!(u16::from(closed(&mut client).await.unwrap().code), 1012);
    let asked = held.function.asked().await;
    assert_eq!((asked.value("ce-closecode"), asked.value("ce-closedby")), (Some("1012"), Some("host")));
    assert!(!ending.is_finished(), "it does not wait for the function");
    asked.answer(NOTHING);
    assert_eq!(within(ending).await.unwrap().cut, 0);
}

#[tokio::test]
async fn a_client_that_is_silent_is_asked_and_given_up() {
    let held = Held::start(|mode| {
        mode.ping_interval = Some(Duration::from_millis(50));
        mode.ping_timeout = Duration::from_secs(1);
    })
    .await;
    let mut wire = held.proxy.ask(HANDSHAKE).await;
    assert_eq!(wire.head().await.status(), 101);
    assert_eq!(wire.bytes(2).await, [0x89, 0], "a ping");
    wire.send([0x8a, 0x80, 0, 0, 0, 0]).await;
    assert_eq!(wire.bytes(2).await, [0x89, 0], "another one, for the first was answered");
    assert_eq!(&wire.bytes(4).await, b"\x88\x0e\x03\xe9");
    wire.expect("ping timeout").await;
    until(|| held.upstream.totals().events.open == 0).await;
    let events = held.upstream.totals().events;
    assert_eq!((events.pings, events.unanswered_pings), (2, 1));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_when_too_much_waits_for_it() {
    let held = Held::start(|mode| mode.outbound = 1 << 20).await;
    let mut wire = held.proxy.ask(HANDSHAKE).await;
    assert_eq!(wire.head().await.status(), 101);
    let namespace: Namespace = "openfaas-fn".parse().unwrap();
    let message = roost_proxy::websocket::event::Message { text: true, data: "x".repeat(100_000).into() };
    let mut reach = held.hub.say_to_each(&namespace, None, &message, &[]);
    while reach.queued == 1 {
        tokio::task::yield_now().await;
        reach = held.hub.say_to_each(&namespace, None, &message, &[]);
    }
    assert_eq!((reach.queued, reach.too_slow), (0, 1));
    assert_eq!(held.hub.say_to_each(&namespace, None, &message, &[]).queued, 0);
    let read = wire.ended_with(b"\x88\x0a\x03\xf5too slow").await;
    assert!(read > 1_000_000, "{read}");
}

#[tokio::test]
async fn what_is_no_handshake_is_refused() {
    let held = Held::start(|mode| mode.origins = vec!["https://roost.example".to_owned()]).await;
    let start = "GET /function/f HTTP/1.1\r\nhost: roost\r\nupgrade: websocket\r\nconnection: upgrade\r\n";
    let key = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (headers, status) in [
        (format!("{key}sec-websocket-version: 12\r\n"), 426),
        (key.to_owned(), 426),
        ("sec-websocket-version: 13\r\n".to_owned(), 400),
        ("sec-websocket-version: 13\r\nsec-websocket-key: short\r\n".to_owned(), 400),
        (format!("{key}sec-websocket-version: 13\r\norigin: https://evil.example\r\n"), 403),
        (format!("{key}sec-websocket-version: 13\r\norigin: https://Roost.example\r\n"), 101),
    ] {
        let mut wire = held.proxy.ask(&format!("{start}{headers}\r\n")).await;
        let head = wire.head().await;
        assert_eq!(head.status(), status, "{headers}");
        let is_named = head.value("sec-websocket-version") == Some("13");
        assert_eq!(is_named, status == 426, "{headers}");
        if status == 101 {
            assert_eq!(head.value("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        }
    }
    let unasked =
        "GET /function/f HTTP/1.1\r\nhost: roost\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n";
    assert_eq!(held.proxy.ask(&format!("{unasked}{key}\r\n")).await.head().await.status(), 400);
}

#[tokio::test]
async fn an_answer_of_several_parts_is_as_many_frames_and_a_broken_one_is_a_failure_that_says_why() {
    let mut held = Held::start(|mode| mode.on_error = OnError::Ignore).await;
    let mut client = held.connect().await;
    let answer = |body: &str| {
        let length = body.len();
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: multipart/mixed; boundary=b\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    client.send(Message::text("one")).await.unwrap();
    let parts =
        "--b\r\n\r\nhi\r\n--b\r\nContent-Type: application/octet-stream\r\n\r\nab\r\n--b\r\n\r\n\r\n--b--";
    held.function.asked().await.answer(answer(parts));
    for expected in [Message::text("hi"), Message::binary(&b"ab"[..]), Message::text("")] {
        assert_eq!(hear(&mut client).await, expected);
    }
    client.send(Message::text("two")).await.unwrap();
    held.function.asked().await.answer(answer("--b\r\n\r\nnever said\r\n"));
    client.send(Message::text("three")).await.unwrap();
    held.function.asked().await.answer(ok("re three"));
    assert_eq!(hear(&mut client).await, Message::text("re three"), "nothing of it was said");
    let totals = held.upstream.totals().events;
    assert_eq!((totals.events[2], totals.dead), ([2, 1, 0], [1, 0, 0]));
}
