//! Clients that come to a WebSocket with a token: where it may be, what the function sees of it, and for how long it lets
//! them stay.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::SinkExt;
use roost_proxy::{
    Access, AccessEntry, AccessLog, AccessLogOptions, AccessSink, ClientLimits, RequiredClaim, Settings,
    Timeouts, Upstream, UpstreamLimits,
};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::events::{Client, Held, NOTHING, closed, hear};
use crate::support::*;
use crate::websocket::{SWITCH, close, expect, hear_close, plain};

pub(crate) const TOKEN: Access = Access { internal: false, login: false, token: true };

/// A request for a WebSocket of `f`, with more behind its path and among its headers.
fn handshake(path: &str, headers: &str) -> String {
    format!(
        "GET /function/f{path} HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
}

/// Connects with this token in the query.
pub(crate) async fn connect(held: &Held, token: &str) -> Result<Client, tungstenite::Error> {
    connect_to(held.proxy.address, token).await
}

pub(crate) async fn connect_to(proxy: SocketAddr, token: &str) -> Result<Client, tungstenite::Error> {
    let client = TcpStream::connect(proxy).await.unwrap();
    let url = format!("ws://roost/function/f/room?x=1&access_token={token}");
    within(tokio_tungstenite::client_async(url, client)).await.map(|(client, _)| client)
}

fn grace(upstream: &Arc<Upstream>, token_grace: Option<Duration>) {
    let limits = upstream.limits();
    let timeouts = Timeouts { token_grace, ..limits.timeouts };
    upstream.set_limits(UpstreamLimits { timeouts, ..limits });
}

pub(crate) fn expired(frame: Option<CloseFrame>) -> bool {
    frame.is_some_and(|frame| (u16::from(frame.code), &*frame.reason) == (1008, "token expired"))
}

struct Lines(mpsc::Sender<AccessEntry>);

impl AccessSink for Lines {
    fn take(&self, entry: Box<AccessEntry>) {
        self.0.try_send(*entry).unwrap();
    }
}

#[tokio::test]
async fn a_token_in_the_query_or_behind_a_subprotocol_reaches_the_function_in_its_header_alone() {
    let (lines, mut log) = mpsc::channel(64);
    let options = AccessLogOptions { query: true, ..AccessLogOptions::default() };
    let access_log = AccessLog::new(options, Lines(lines));
    let proxy = Proxy::with(Settings { access_log, ..Settings::default() }).await;
    let function = Function::start().await;
    let upstream = proxy.function("f", &[&function]);
    upstream.set_access(TOKEN);
    for (path, headers, asked, offered, answered, agreed) in [
        ("/a?access_token=sub%3Dada&x=1", "", "/a?x=1", None, None, None),
        ("/a", "sec-websocket-protocol: bearer, sub=ada\r\n", "/a", None, None, Some("bearer")),
        ("/a", "sec-websocket-protocol: chat, bearer, sub=ada\r\n", "/a", Some("chat"), None, Some("bearer")),
        (
            "/a",
            "sec-websocket-protocol: chat\r\nsec-websocket-protocol: bearer, sub=ada\r\n",
            "/a",
            Some("chat"),
            Some("chat"),
            Some("chat"),
        ),
        ("/a?x=1", "authorization: Bearer sub=ada\r\n", "/a?x=1", None, None, None),
    ] {
        let mut client = proxy.ask(&handshake(path, headers)).await;
        let mut wire = function.accept().await;
        let head = wire.head().await;
        assert_eq!(head.line, format!("GET {asked} HTTP/1.1"));
        assert_eq!(head.value("authorization"), Some("Bearer sub=ada"));
        assert_eq!(head.value("sec-websocket-protocol"), offered, "{headers}");
        let protocol = answered.map(|name| format!("sec-websocket-protocol: {name}\r\n")).unwrap_or_default();
        wire.send(SWITCH.replace("\r\n\r\n", &format!("\r\n{protocol}\r\n"))).await;
        let head = client.head().await;
        assert_eq!((head.status(), head.value("sec-websocket-protocol")), (101, agreed), "{headers}");
        drop((client, wire));
        for _line in ["request", "tunnel"] {
            let entry = within(log.recv()).await.unwrap();
            assert!(!format!("{entry:?}").contains("access_token"), "{entry:?}");
            assert_eq!(entry.user.as_deref(), Some("ada"), "{entry:?}");
        }
    }
    // Nor is it told of where nobody asks for one, or nobody is let in.
    for (name, token, status) in [("f", "forged", 401), ("none", "sub%3Dada", 404)] {
        let asked = handshake(&format!("?access_token={token}&x=1"), "");
        let answer =
            proxy.ask(&asked.replace("function/f", &format!("function/{name}"))).await.answer().await;
        assert_eq!(answer.head.status(), status);
        let entry = within(log.recv()).await.unwrap();
        assert_eq!(entry.query.as_deref(), Some("x=1"), "{entry:?}");
    }
    // A plain request has a header for it.
    let plain = proxy.get("/function/f?access_token=sub%3Dada").await;
    assert_eq!(plain.head.status(), 401);
    let events =
        "GET /function/f?access_token=sub%3Dada HTTP/1.1\r\nhost: h\r\naccept: text/event-stream\r\n\r\n";
    let _client = proxy.ask(events).await;
    let head = function.accept().await.head().await;
    assert_eq!((&*head.line, head.value("authorization")), ("GET / HTTP/1.1", Some("Bearer sub=ada")));
}

#[tokio::test]
async fn a_held_connection_has_what_its_token_says_and_agrees_upon_no_token() {
    let mut held = Held::start(|mode| mode.events.connect = true).await;
    held.upstream.set_access(TOKEN);
    let token = "sub=ada~role=a~role=b~webpubsub.group=lobby~webpubsub.group=news";
    for (protocols, offered, agreed) in
        [("bearer, TOKEN", "[]", "bearer"), ("bearer, TOKEN, chat", r#"["chat"]"#, "chat")]
    {
        let protocols = format!("sec-websocket-protocol: {}\r\n", protocols.replace("TOKEN", token));
        let mut client = held.proxy.ask(&handshake("/room?x=1", &protocols)).await;
        let asked = held.function.asked().await;
        assert_eq!(asked.value("ce-userid"), Some("ada"));
        let told: serde_json::Value = serde_json::from_str(asked.text()).unwrap();
        assert_eq!(told["claims"]["role"], serde_json::json!(["a", "b"]));
        assert_eq!(told["query"], serde_json::json!({ "x": ["1"] }));
        assert_eq!(told["subprotocols"].to_string(), offered);
        let chosen = if offered == "[]" { "{}" } else { r#"{"subprotocol":"chat"}"# };
        asked.answer(ok(chosen));
        let head = client.head().await;
        assert_eq!((head.status(), head.value("sec-websocket-protocol")), (101, Some(agreed)));
        assert_eq!(held.hub.group_figures(), [2, 2], "the groups that its token names");
        drop(client);
        until(|| held.hub.is_empty()).await;
    }
    // Whom the function does not know yet, it is not asked about.
    for path in ["/room?access_token=forged", "/room"] {
        let answer = held.proxy.ask(&handshake(path, "")).await.answer().await;
        assert_eq!(answer.head.status(), 401);
        assert!(answer.head.value("www-authenticate").unwrap().starts_with("Bearer "));
    }
    assert!(held.hub.is_empty() && held.upstream.load().in_flight == 0);
}

#[tokio::test]
async fn a_token_that_counts_and_does_not_say_enough_lets_nobody_in() {
    let proxy = Proxy::start().await;
    let upstream = proxy.function("f", &[]);
    upstream.set_access(TOKEN);
    upstream.set_required_claims(vec![RequiredClaim { name: "role".into(), text: "editor".into() }]);
    for path in ["/a?access_token=role%3Dreader", "/a?access_token=sub%3Deditor"] {
        let answer = proxy.ask(&handshake(path, "")).await.answer().await;
        assert_eq!(answer.head.status(), 403);
        let challenge = "Bearer realm=\"roost\", error=\"insufficient_scope\"";
        assert_eq!(answer.head.value("www-authenticate"), Some(challenge));
        assert_eq!(answer.body, "function f.openfaas-fn asks for a token that says role=editor\n");
    }
    assert_eq!(upstream.load().waiting, 0);
    let _client = proxy.ask(&handshake("/a?access_token=role%3Deditor", "")).await;
    until(|| upstream.load().waiting == 1).await;
}

#[tokio::test]
async fn a_websocket_that_goes_through_is_closed_on_both_sides_when_its_token_expires() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let upstream = proxy.function("f", &[&function]);
    upstream.set_access(TOKEN);
    grace(&upstream, Some(Duration::from_millis(200)));
    let began = Instant::now();
    let mut client = proxy.ask(&handshake("?access_token=sub%3Dada~for%3D300", "")).await;
    let mut wire = function.accept().await;
    wire.head().await;
    wire.send(SWITCH).await;
    assert_eq!(client.head().await.status(), 101);
    // Bytes that move are no reason to stay.
    wire.send(plain(0x81, b"hi")).await;
    expect(&mut client, &plain(0x81, b"hi")).await;
    expect(&mut client, &close(1008, "token expired")).await;
    assert!((500..1500).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    assert_eq!(hear_close(&mut wire).await, [&1008_u16.to_be_bytes()[..], b"token expired"].concat());

    grace(&upstream, None);
    let mut client = proxy.ask(&handshake("?access_token=sub%3Dada~for%3D50", "")).await;
    let mut wire = function.accept().await;
    wire.head().await;
    wire.send(SWITCH).await;
    client.head().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    wire.send(plain(0x81, b"on")).await;
    expect(&mut client, &plain(0x81, b"on")).await;
}

#[tokio::test]
async fn a_held_connection_is_closed_when_its_token_expires_unless_its_client_gives_another_one() {
    let mut held = Held::start(|mode| mode.auto_response = vec![("ping".into(), "pong".into())]).await;
    held.upstream.set_access(TOKEN);
    let (mut renewed, mut other) = (
        connect(&held, "sub=ada~for=400").await.unwrap(),
        connect(&held, "sub=grace~for=400").await.unwrap(),
    );
    for (token, answer) in [
        ("forged", r#"{"type":"auth","ok":false,"error":"no key of this host verifies it"}"#),
        ("sub=ada~for=9000", r#"{"type":"auth","ok":false,"error":"it is of another user"}"#),
        ("sub=grace", r#"{"type":"auth","ok":false,"error":"it does not say when it expires"}"#),
    ] {
        other.send(Message::text(format!(r#"{{"type":"auth","token":"{token}"}}"#))).await.unwrap();
        assert_eq!(hear(&mut other).await, Message::text(answer));
    }
    renewed.send(Message::text(r#"{"type":"auth","token":"sub=ada~for=60000"}"#)).await.unwrap();
    let answer = hear(&mut renewed).await.into_text().unwrap();
    assert!(answer.starts_with(r#"{"type":"auth","ok":true,"until":"#), "{answer}");
    assert!(expired(closed(&mut other).await));
    renewed.send(Message::text("here")).await.unwrap();
    let asked = held.function.asked().await;
    assert_eq!(asked.text(), "here", "and of no token was the function told");
    asked.answer(NOTHING);
    until(|| held.upstream.totals().events.open == 1).await;

    // What is no limit, and what is no setting.
    grace(&held.upstream, None);
    let mut stays = connect(&held, "sub=ada~for=50").await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    stays.send(Message::text("ping")).await.unwrap();
    assert_eq!(hear(&mut stays).await, Message::text("pong"));
    grace(&held.upstream, Some(Duration::ZERO));
    stays.send(Message::text("ping")).await.unwrap();
    assert!(expired(closed(&mut stays).await), "the setting counts for connections that are open");
}

#[tokio::test]
async fn another_token_has_to_say_as_much_as_the_first_one() {
    let held = Held::start(|_| {}).await;
    held.upstream.set_access(TOKEN);
    held.upstream.set_required_claims(vec![RequiredClaim { name: "role".into(), text: "editor".into() }]);
    let mut client = connect(&held, "sub=ada~role=editor~for=60000").await.unwrap();
    for (token, answer) in [
        (
            "sub=ada~role=reader~for=90000",
            r#"{"type":"auth","ok":false,"error":"function f.openfaas-fn asks for a token that says role=editor"}"#,
        ),
        ("sub=ada~role=editor~for=90000", r#"{"type":"auth","ok":true,"until":"#),
    ] {
        client.send(Message::text(format!(r#"{{"type":"auth","token":"{token}"}}"#))).await.unwrap();
        let told = hear(&mut client).await.into_text().unwrap();
        assert!(told.starts_with(answer), "{told}");
    }
}

#[tokio::test]
async fn a_message_is_the_functions_where_nobody_came_with_a_token_or_none_is_taken_so() {
    let mut held = Held::start(|mode| mode.renewal = false).await;
    let auth = r#"{"type":"auth","token":"sub=ada"}"#;
    let mut open = held.connect().await;
    open.send(Message::text(auth)).await.unwrap();
    let asked = held.function.asked().await;
    assert_eq!(asked.text(), auth);
    asked.answer(NOTHING);
    held.upstream.set_access(TOKEN);
    let mut client = connect(&held, "sub=ada~for=60000").await.unwrap();
    client.send(Message::text(auth)).await.unwrap();
    assert_eq!(held.function.asked().await.text(), auth);
}

#[tokio::test]
async fn each_user_has_so_many_connections_and_opens_them_so_fast() {
    let clients = ClientLimits {
        user_connections: NonZeroUsize::new(2),
        user_handshakes: Some("4/h burst 4".parse().unwrap()),
        ..ClientLimits::default()
    };
    let proxy = Proxy::on_this_thread_with(Settings { clients, ..Settings::default() }).await;
    let function = Arc::new(Function::start().await);
    let upstream = proxy.function("f", &[&function]);
    upstream.set_access(TOKEN);
    let open = async |user: &str| {
        let mut client = proxy.ask(&handshake(&format!("?access_token=sub%3D{user}"), "")).await;
        let mut wire = function.accept().await;
        wire.head().await;
        wire.send(SWITCH).await;
        assert_eq!(client.head().await.status(), 101);
        (client, wire)
    };
    let (first, _second, _other) = (open("ada").await, open("ada").await, open("grace").await);
    let refused = async || proxy.ask(&handshake("?access_token=sub%3Dada", "")).await.answer().await;
    let answer = refused().await;
    assert_eq!((answer.head.status(), answer.head.value("retry-after")), (429, Some("5")));
    assert_eq!(answer.body, "you have as many connections open as you may have\n");
    drop(first);
    until(|| upstream.load().in_flight == 2).await;
    let _third = open("ada").await;
    let answer = refused().await;
    assert_eq!(answer.body, "you open connections faster than you may\n");
    assert!(answer.head.value("retry-after").unwrap().parse::<u32>().unwrap() > 5);
    // Requests are no connections.
    let _request =
        proxy.ask("GET /function/f HTTP/1.1\r\nhost: h\r\nauthorization: Bearer sub=ada\r\n\r\n").await;
    function.accept().await.head().await;
}
