//! What is said in groups: kept, watched without a WebSocket, and who comes and goes.

use std::sync::Arc;
use std::time::Duration;

use roost_proxy::function::{FunctionKey, Namespace};
use roost_proxy::websocket::codec::Codec;
use roost_proxy::websocket::codec::cloudevents::CloudEvents;
use roost_proxy::websocket::event::Message as Said;
use roost_proxy::websocket::{Bequest, EventMode, History, Hub, Place};
use roost_proxy::{Access, Settings, Timeouts, UpstreamLimits};
use tokio_tungstenite::tungstenite::Message;

use crate::events::*;
use crate::handover::Shelf;
use crate::leases::TOKEN;
use crate::support::*;

const HISTORY: History = History { count: 5, age: Duration::from_secs(3600), bytes: 1 << 20 };

fn space() -> Namespace {
    "openfaas-fn".parse().unwrap()
}

fn key() -> FunctionKey {
    FunctionKey::from_route("f").unwrap()
}

fn say(hub: &Hub, text: &str) {
    hub.say_to_group(&space(), "room", &Said { text: true, data: text.to_owned().into() }, &[]);
}

/// A function that lets its groups be watched, with this history.
async fn watched(history: Option<History>, change: impl FnOnce(&mut EventMode)) -> Held {
    let held = Held::start(|mode| {
        mode.group_events = ["room", "team-*"].into_iter().collect();
        change(mode);
    })
    .await;
    held.hub.ask_for_history(&key(), history);
    held
}

/// One who watches a group.
struct Stream {
    wire: Wire,
    read: String,
    /// The id of the last event, as a browser has it.
    last: String,
}

impl Stream {
    async fn open(held: &Held, query: &str, headers: &str) -> Self {
        Self::at(&held.proxy, query, headers).await
    }

    async fn at(proxy: &Proxy, query: &str, headers: &str) -> Self {
        let request =
            format!("GET /function/f/@groups/room/events{query} HTTP/1.1\r\nhost: roost\r\n{headers}\r\n");
        let mut wire = proxy.ask(&request).await;
        let head = wire.head().await;
        assert_eq!((head.status(), head.value("content-type")), (200, Some("text/event-stream")));
        assert_eq!(head.value("cache-control"), Some("no-store"));
        let mut stream = Self { wire, read: String::new(), last: String::new() };
        let opening = stream.event().await.unwrap();
        assert!(opening.starts_with("retry: "), "{opening}");
        stream
    }

    /// It comes back, as a browser does.
    async fn again(&self, held: &Held) -> Self {
        Self::open(held, "", &format!("last-event-id: {}\r\n", self.last)).await
    }

    /// The lines of the next event but its id; `None` at the end of the stream.
    async fn event(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.find("\n\n") {
                let event: String = self.read.drain(..end + 2).collect();
                if event.starts_with(':') {
                    continue;
                }
                let mut lines = Vec::new();
                for line in event.lines().filter(|line| !line.is_empty()) {
                    match line.strip_prefix("id: ") {
                        Some(id) => id.clone_into(&mut self.last),
                        None => lines.push(line),
                    }
                }
                return Some(lines.join("\n"));
            }
            match within(self.wire.chunk()).await.as_deref() {
                None | Some("") => return None,
                Some(chunk) => self.read += chunk,
            }
        }
    }

    async fn hears(&mut self, texts: &[&str]) {
        for text in texts {
            assert_eq!(self.event().await.as_deref(), Some(&*format!("data: {text}")));
        }
    }
}

#[tokio::test]
async fn who_watches_hears_each_message_once_over_any_number_of_streams_and_no_function_is_asked() {
    let held = watched(Some(HISTORY), |_| {}).await;
    say(&held.hub, "before");
    let mut stream = Stream::open(&held, "", "").await;
    say(&held.hub, "one");
    held.hub.say_to_group(&space(), "room", &Said { text: false, data: vec![0xff, 0].into() }, &[]);
    stream.hears(&["one"]).await;
    assert_eq!(stream.event().await.as_deref(), Some("event: binary\ndata: /wA="));
    let mut again = stream.again(&held).await;
    drop(stream);
    say(&held.hub, "two\nlines");
    assert_eq!(again.event().await.as_deref(), Some("data: two\ndata: lines"));
    let last = again.last.clone();
    drop(again);
    until(|| held.hub.history_figures().streams == 0).await;
    for text in ["three", "four"] {
        say(&held.hub, text);
    }
    let mut again = Stream::open(&held, &format!("?last-event-id={last}"), "").await;
    again.hears(&["three", "four"]).await;
    say(&held.hub, "five");
    again.hears(&["five"]).await;
    assert_eq!(held.upstream.load().in_flight, 0);
    assert_eq!(held.hub.history_figures().resumed, 2);
    // One that never was there gets as much of the past as it asks for.
    Stream::open(&held, "?history=2", "").await.hears(&["four", "five"]).await;
}

#[tokio::test]
async fn who_missed_what_is_gone_is_told_so_and_gets_the_rest() {
    let held = watched(Some(HISTORY), |_| {}).await;
    let mut stream = Stream::open(&held, "", "").await;
    say(&held.hub, "0");
    stream.hears(&["0"]).await;
    let last = stream.last.clone();
    drop(stream);
    until(|| held.hub.history_figures().streams == 0).await;
    for number in 1..=6 {
        say(&held.hub, &number.to_string());
    }
    let mut again = Stream::open(&held, "", &format!("last-event-id: {last}\r\n")).await;
    let lost = again.event().await.unwrap();
    assert!(lost.starts_with("event: lost\ndata: {\"reason\":\"some of"), "{lost}");
    again.hears(&["2", "3", "4", "5", "6"]).await;

    for unknown in ["0000000000000001-3", "nonsense"] {
        let mut other = Stream::open(&held, "", &format!("last-event-id: {unknown}\r\n")).await;
        let lost = other.event().await.unwrap();
        assert!(lost.starts_with("event: lost\ndata: {\"reason\":\"nothing is known"), "{lost}");
        other.hears(&["2", "3", "4", "5", "6"]).await;
        // From here on it is whole again.
        let mut back = other.again(&held).await;
        say(&held.hub, "on");
        back.hears(&["on"]).await;
        let back = back.again(&held).await;
        drop(back);
        held.hub.ask_for_history(&key(), None);
        held.hub.ask_for_history(&key(), Some(HISTORY));
        for number in 2..=6 {
            say(&held.hub, &number.to_string());
        }
    }
}

#[tokio::test]
async fn without_history_who_watches_hears_what_is_said_meanwhile_and_nothing_is_kept() {
    let held = watched(None, |_| {}).await;
    say(&held.hub, "nobody");
    assert_eq!(held.hub.history_figures().groups, 0);
    let mut stream = Stream::open(&held, "?history=5", "").await;
    say(&held.hub, "somebody");
    stream.hears(&["somebody"]).await;
    drop(stream);
    until(|| held.hub.history_figures().groups == 0).await;
    assert_eq!(held.hub.history_figures().bytes, 0);
}

#[tokio::test]
async fn a_group_is_watched_only_where_the_function_lets_it_be_and_by_whom_it_lets_in() {
    let mut held = watched(None, |mode| mode.origins = vec!["https://a.example".to_owned()]).await;
    let answer = async |path: &str, headers: &str| {
        let request = format!("GET /function/f/@groups/{path} HTTP/1.1\r\nhost: roost\r\n{headers}\r\n");
        let mut wire = held.proxy.ask(&request).await;
        wire.head().await
    };
    assert_eq!(answer("other/events", "").await.status(), 403);
    assert_eq!(answer("team-7/events", "").await.status(), 200);
    assert_eq!(answer("room/events?history=x", "").await.status(), 400);
    assert_eq!(answer("room/events", "origin: https://b.example\r\n").await.status(), 403);
    let named = answer("room/events", "origin: https://a.example\r\n").await;
    assert_eq!(
        (named.status(), named.value("access-control-allow-origin")),
        (200, Some("https://a.example"))
    );
    assert_eq!(answer("room/events", "").await.value("access-control-allow-origin"), None);
    held.upstream.set_access(Access { login: true, ..Access::default() });
    assert_eq!(answer("room/events", "").await.status(), 401);
    assert_eq!(answer("room/events", &format!("authorization: {WORD}\r\n")).await.status(), 200);
    held.upstream.set_access(Access::default());

    let mut post = held
        .proxy
        .ask("POST /function/f/@groups/room/events HTTP/1.1\r\nhost: r\r\ncontent-length: 0\r\n\r\n")
        .await;
    assert_eq!(post.head().await.status(), 405);
    // Where it is not allowed, the path is the function's.
    let allowed = EventMode::clone(&held.upstream.event_mode().unwrap());
    held.upstream.set_event_mode(Some(EventMode::new(Codec::CloudEvents(CloudEvents::default()))));
    let mut wire =
        held.proxy.ask("GET /function/f/@groups/room/events HTTP/1.1\r\nhost: roost\r\n\r\n").await;
    held.function.asked().await.answer(ok("mine"));
    assert_eq!(wire.answer().await.body, "mine");
    // And where it is, it is not, whatever connection to the function has nothing to do.
    held.upstream.set_event_mode(Some(allowed));
    assert_eq!(answer("room/events", "").await.status(), 200);
}

#[tokio::test]
async fn who_does_not_read_is_left_behind_and_the_others_go_on() {
    let held = watched(Some(HISTORY), |_| {}).await;
    let mut fast = Stream::open(&held, "", "").await;
    let mut slow = Stream::open(&held, "", "").await;
    let text = "x".repeat(256 << 10);
    for _ in 0..64 {
        say(&held.hub, &text);
        fast.hears(&[&text]).await;
    }
    let mut heard = 0;
    while slow.event().await.is_some() {
        heard += 1;
    }
    assert!(heard < 64);
    until(|| held.hub.history_figures().behind == 1).await;
    // As if it had been there for the first one alone.
    let first = slow.last.rsplit_once('-').unwrap().0.to_owned() + "-1";
    let mut again = Stream::open(&held, "", &format!("last-event-id: {first}\r\n")).await;
    assert!(again.event().await.unwrap().starts_with("event: lost"));
    assert_eq!(held.hub.history_figures().lost, 1);
}

#[tokio::test]
async fn streams_end_with_their_function_at_their_age_and_with_the_server() {
    let held = watched(None, |_| {}).await;
    let mut stream = Stream::open(&held, "", "").await;
    held.hub.end_watching(&FunctionKey::from_route("g").unwrap());
    say(&held.hub, "still");
    stream.hears(&["still"]).await;
    held.hub.end_watching(&key());
    assert_eq!(stream.event().await, None);

    let timeouts = Timeouts { lifetime: Some(Duration::from_millis(300)), ..Timeouts::default() };
    held.upstream.set_limits(UpstreamLimits { timeouts, ..UpstreamLimits::default() });
    assert_eq!(Stream::open(&held, "", "").await.event().await, None);
    held.upstream.set_limits(UpstreamLimits::default());

    let mut stream = Stream::open(&held, "", "").await;
    let server = held.proxy.server.clone();
    assert_eq!(within(server.shutdown(DEADLINE)).await.cut, 0);
    assert_eq!(stream.event().await, None);
}

#[tokio::test]
async fn what_is_kept_goes_on_in_the_next_process_under_the_same_numbers() {
    let (held, shelf) = (watched(Some(HISTORY), |_| {}).await, Arc::<Shelf>::default());
    held.proxy.server.keep_held(Arc::<Shelf>::clone(&shelf));
    let mut stream = Stream::open(&held, "", "").await;
    say(&held.hub, "one");
    stream.hears(&["one"]).await;
    let server = held.proxy.server.clone();
    within(server.hand_over(DEADLINE)).await;
    say(&held.hub, "late");
    within(server.leave()).await;
    assert_eq!(stream.event().await, None);

    let found = shelf.copies().into_iter().filter(|(name, _)| Bequest::is_name(name)).collect();
    let next = roost_proxy::websocket::Held::default();
    let hub = Arc::clone(&next.hub);
    let proxy = Proxy::on_this_thread_with(Settings { held: next, ..Settings::default() }).await;
    proxy.server.keep_held(Arc::<Shelf>::clone(&shelf));
    let mut bequest = Bequest::new(found).expect("a letter");
    proxy.server.resume_groups(&mut bequest);
    proxy.server.resume_held(bequest).await;
    // Before the function is known.
    say(&hub, "nobody asks for that yet");
    let upstream = proxy.function("f", &[]);
    upstream.set_event_mode(held.upstream.event_mode().map(|mode| EventMode::clone(&mode)));
    hub.ask_for_history(&key(), Some(HISTORY));
    let mut again = Stream::at(&proxy, "", &format!("last-event-id: {}\r\n", stream.last)).await;
    say(&hub, "new");
    again.hears(&["late", "nobody asks for that yet", "new"]).await;
    let past = hub.past(&space(), "room", None, 2);
    assert_eq!((past.messages.len(), past.more, past.whole), (2, true, true));
    assert_eq!(past.messages[0].place.number, 1);
    let rest = hub.past(&space(), "room", past.place, 10);
    assert!(rest.whole && !rest.more && rest.messages.len() == 2);
    let elsewhere = Place { epoch: 1, number: 1 };
    assert!(!hub.past(&space(), "room", Some(elsewhere), 10).whole);
}

/// Lets `count` connections of `user` in, each into the group.
async fn come(held: &mut Held, user: &str, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let address = held.proxy.address;
        let connecting = tokio::spawn(async move { try_connect(address).await });
        let asked = held.function.asked().await;
        assert_eq!(asked.value("ce-eventname"), Some("connect"));
        asked.answer(with("x-any: 1", &format!(r#"{{"userId":"{user}","groups":["room"]}}"#)));
        clients.push(within(connecting).await.unwrap().unwrap());
    }
    clients
}

#[tokio::test]
async fn a_function_is_told_of_a_users_first_connection_in_a_group_and_of_its_last_in_order() {
    let mut held = watched(None, |mode| {
        mode.events.connect = true;
        (mode.events.joined, mode.events.left) = (true, true);
    })
    .await;
    let mut ada = come(&mut held, "ada", 1).await;
    let asked = held.function.asked().await;
    assert_eq!(asked.value("ce-type"), Some("roost.group.joined"));
    assert_eq!((asked.value("ce-eventname"), asked.value("ce-group")), (Some("joined"), Some("room")));
    assert_eq!((asked.value("ce-userid"), asked.text()), (Some("ada"), r#"{"group":"room","user":"ada"}"#));
    // What it answers may be said to groups.
    asked.answer(with("x-ws-broadcast: group=room", "ada is here"));
    assert_eq!(hear(&mut ada[0]).await, Message::text("ada is here"));

    let mut stream = Stream::open(&held, "?presence=true", "").await;
    let here = stream.event().await.unwrap();
    assert_eq!(
        here,
        r#"event: presence
data: {"event":"here","more":false,"users":[{"connections":1,"id":"ada"}]}"#
    );
    let mut more = come(&mut held, "ada", 1).await;
    let mut bob = come(&mut held, "bob", 1).await;
    let asked = held.function.asked().await;
    assert_eq!((asked.value("ce-eventname"), asked.value("ce-userid")), (Some("joined"), Some("bob")));
    assert_eq!(held.hub.users_of(&space(), "room", None, 10), [("ada".into(), 2), ("bob".into(), 1)]);
    // While this one is not answered, what comes behind it in the group waits.
    bob[0].close(None).await.unwrap();
    until(|| held.hub.len() == 2).await;
    more.remove(0).close(None).await.unwrap();
    until(|| held.hub.len() == 1).await;
    ada.remove(0).close(None).await.unwrap();
    until(|| held.hub.is_empty()).await;
    asked.answer(NOTHING);
    for user in ["bob", "ada"] {
        let asked = held.function.asked().await;
        assert_eq!((asked.value("ce-eventname"), asked.value("ce-userid")), (Some("left"), Some(user)));
        asked.answer(NOTHING);
    }
    for (event, user) in [("joined", "bob"), ("left", "bob"), ("left", "ada")] {
        let expected = format!("event: presence\ndata: {{\"event\":\"{event}\",\"user\":\"{user}\"}}");
        // Before that, what was said in the group.
        let mut told = stream.event().await.unwrap();
        while told.starts_with("data: ") {
            told = stream.event().await.unwrap();
        }
        assert_eq!(told, expected);
    }
    until(|| held.upstream.totals().events.events[5] == [2, 0, 0]).await;
    assert_eq!(held.upstream.totals().events.events[4], [2, 0, 0]);
}

#[tokio::test]
async fn a_group_is_watched_by_whoever_has_a_role_for_it_for_as_long_as_the_token_counts() {
    let held = watched(None, |_| {}).await;
    held.upstream.set_access(TOKEN);
    let asked = |token: &str| {
        format!(
            "GET /function/f/@groups/room/events HTTP/1.1\r\nhost: roost\r\nauthorization: Bearer {token}\r\n\r\n"
        )
    };
    for (token, status) in [("forged", 401), ("sub=ada", 403), ("sub=ada~role=roost.join.other", 403)] {
        let answer = held.proxy.ask(&asked(token)).await.answer().await;
        assert_eq!(answer.head.status(), status, "{token}");
    }
    let authorization = |token: &str| format!("authorization: Bearer {token}\r\n");
    let mut stays = Stream::open(&held, "", &authorization("sub=ada~role=roost.join.room")).await;
    let mut ends = Stream::open(&held, "", &authorization("webpubsub.group=room~for=200")).await;
    assert_eq!(within(ends.event()).await, None, "the token ended");
    say(&held.hub, "hello");
    assert_eq!(stays.event().await.unwrap(), "data: hello");
}
