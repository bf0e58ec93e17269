//! The access log: what it tells of requests, tunnels and calls, and what it never tells.

use roost_proxy::{
    Access, AccessEntry, AccessLog, AccessLogOptions, AccessSink, CLIENT_LEFT, Caller, EntryKind, Settings,
};
use tokio::sync::mpsc;

use crate::support::*;

/// Where the entries of a test go.
struct Lines(mpsc::Sender<AccessEntry>);

impl AccessSink for Lines {
    fn take(&self, entry: Box<AccessEntry>) {
        self.0.try_send(*entry).expect("a test has few");
    }
}

struct Log(mpsc::Receiver<AccessEntry>);

impl Log {
    async fn next(&mut self) -> AccessEntry {
        within(self.0.recv()).await.unwrap()
    }
}

fn log(options: AccessLogOptions) -> (AccessLog, Log) {
    let (sender, receiver) = mpsc::channel(1024);
    (AccessLog::new(options, Lines(sender)), Log(receiver))
}

async fn logged(options: AccessLogOptions) -> (Proxy, Log) {
    let (access_log, log) = log(options);
    (Proxy::with(Settings { access_log, ..Settings::default() }).await, log)
}

#[tokio::test]
async fn a_request_is_told_of_with_what_it_was_and_what_became_of_it() {
    let (proxy, mut log) = logged(AccessLogOptions::default()).await;
    let function = Function::start().await;
    let upstream = proxy.function("f.staging", &[&function]);
    upstream.set_access(Access { login: true, ..Access::default() });
    let mut client = proxy
        .ask(&format!(
            "POST /function/f.staging/a%20b?secret=1 HTTP/1.1\r\nhost: h\r\nuser-agent: me\r\nreferer: http://x/?t=1\r\n\
             x-call-id: mine\r\nauthorization: {WORD}\r\ncookie: a=1\r\ntransfer-encoding: chunked\r\n\r\n\
             3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        ))
        .await;
    let mut wire = function.accept().await;
    wire.head().await;
    while wire.chunk().await.is_some_and(|chunk| !chunk.is_empty()) {}
    wire.send(ok("an answer")).await;
    client.answer().await;
    let entry = log.next().await;
    assert_eq!(entry.kind, EntryKind::Request);
    assert_eq!(entry.function.as_ref(), Some(upstream.key()));
    assert_eq!(
        (entry.method.as_str(), &*entry.path, entry.status),
        ("POST", "/function/f.staging/a%20b", 200)
    );
    assert_eq!((entry.received, entry.sent), (Some(5), Some(9)));
    assert_eq!(entry.call_id.as_deref(), Some("mine"));
    assert_eq!(entry.user_agent.as_deref(), Some("me"));
    assert_eq!(entry.user.as_deref(), Some(WHO));
    assert_eq!(entry.replica.as_ref(), Some(function.endpoint.id()));
    assert_eq!(entry.peer, Some(client.stream.local_addr().unwrap()));
    assert_eq!(format!("{:?}", entry.version), "HTTP/1.1");
    assert!(entry.first_byte.unwrap() <= entry.duration && entry.waited.unwrap() <= entry.duration);
    assert_eq!(entry.broken, None);
    for secret in ["secret", "sesame", "a=1", "http://x/"] {
        assert!(!format!("{entry:?}").contains(secret), "{secret} in {entry:?}");
    }
}

#[tokio::test]
async fn queries_and_referrers_are_told_of_if_that_is_wanted() {
    let (proxy, mut log) =
        logged(AccessLogOptions { query: true, referer: true, ..AccessLogOptions::default() }).await;
    proxy
        .ask("GET /function/none?a=1 HTTP/1.1\r\nhost: h\r\nreferer: http://x/\r\n\r\n")
        .await
        .answer()
        .await;
    let entry = log.next().await;
    assert_eq!((entry.query.as_deref(), entry.referer.as_deref()), (Some("a=1"), Some("http://x/")));
}

#[tokio::test]
async fn whoever_answers_there_is_one_line() {
    let (proxy, mut log) = logged(AccessLogOptions::default()).await;
    let refused = proxy.function("refused", &[]);
    refused.set_unavailable(Some("broken".into()));
    proxy.function("later", &[]);
    let internal = proxy.function("internal", &[]);
    internal.set_access(Access { internal: true, ..Access::default() });
    let guarded = proxy.function("guarded", &[]);
    guarded.set_access(Access { login: true, ..Access::default() });
    for (asked, status, function) in [
        ("GET /system/x", 200, None),
        ("GET /function/none", 404, None),
        ("GET /function/internal", 404, None),
        ("GET /function/guarded", 401, Some(guarded.key())),
        ("GET /function/refused", 503, Some(refused.key())),
        ("TRACE /function/later", 405, None),
        ("GET /a//b", 301, None),
        (
            "POST /async-function/later",
            202,
            Some(proxy.routes.table().iter().find(|of| of.key().name.as_str() == "later").unwrap().key()),
        ),
    ]
    .map(|(asked, status, function)| (asked, status, function.cloned()))
    {
        let answer = proxy.ask(&format!("{asked} HTTP/1.1\r\nhost: h\r\n\r\n")).await.answer().await;
        assert_eq!(answer.head.status(), status, "{asked}");
        let entry = log.next().await;
        assert_eq!((entry.status, entry.function), (status, function), "{asked}");
        assert_eq!(entry.path, asked.split_once(' ').unwrap().1.into());
    }
}

#[tokio::test]
async fn of_a_sample_all_that_failed_is_still_told_of() {
    let (proxy, mut log) = logged(AccessLogOptions { sample: 0.0, ..AccessLogOptions::default() }).await;
    let (endpoint, _) = Function::start().await.serve("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    proxy.function("well", &[]).publish(vec![endpoint]);
    proxy.function("ill", &[]).set_unavailable(Some("broken".into()));
    for _ in 0..10 {
        assert_eq!(proxy.get("/function/well").await.head.status(), 200);
    }
    assert_eq!(proxy.get("/function/ill").await.head.status(), 503);
    assert_eq!(log.next().await.status, 503, "and nothing before it");

    // A client that leaves before there is an answer, and a body that breaks off.
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let client = proxy.ask(GET).await;
    let mut wire = function.accept().await;
    wire.head().await;
    drop(client);
    assert_eq!(log.next().await.status, CLIENT_LEFT);
    let mut client = proxy.ask(GET).await;
    let mut wire = function.accept().await;
    wire.head().await;
    wire.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc").await;
    client.head().await;
    drop(wire);
    let entry = log.next().await;
    assert_eq!((entry.status, entry.broken, entry.sent), (200, Some("function"), Some(3)));
}

#[tokio::test]
async fn a_tunnel_has_a_line_for_its_request_and_one_for_its_end() {
    let (proxy, mut log) = logged(AccessLogOptions::default()).await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let mut client = proxy
        .ask("GET /function/f HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\nx-call-id: w\r\n\r\n")
        .await;
    let mut wire = function.accept().await;
    wire.head().await;
    wire.send(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-protocol: chat\r\n\r\n",
    )
    .await;
    client.head().await;
    let request = log.next().await;
    assert_eq!((request.kind, request.status), (EntryKind::Request, 101));
    assert_eq!(request.call_id.as_deref(), Some("w"));
    assert!(request.tunnel.is_none());
    // Two messages to the client, one from it; masks count as bytes.
    wire.send(b"\x81\x02hi\x82\x01x").await;
    client.bytes(7).await;
    client.send(b"\x81\x82\0\0\0\0hi").await;
    wire.bytes(8).await;
    function.endpoint.end_tunnels(std::time::Duration::ZERO);
    let close = client.bytes(4 + "service restart".len()).await;
    assert_eq!(close[2..4], 1012_u16.to_be_bytes());
    drop((client, wire));
    let tunnel = log.next().await;
    assert_eq!((tunnel.kind, tunnel.status), (EntryKind::Tunnel, 101));
    assert_eq!(tunnel.call_id.as_deref(), Some("w"));
    assert_eq!(tunnel.replica.as_ref(), Some(function.endpoint.id()));
    assert!(tunnel.time >= request.time);
    assert_eq!((tunnel.received, tunnel.sent), (Some(8), Some(7)));
    let facts = tunnel.tunnel.unwrap();
    assert_eq!((facts.subprotocol.as_deref(), facts.messages), (Some("chat"), Some([1, 2])));
    assert_eq!(
        (facts.close.code, facts.close.by, facts.close.category),
        (Some(1012), Some("host"), "restart")
    );
}

#[tokio::test]
async fn a_call_of_ours_is_told_of_as_one() {
    let (proxy, mut log) = logged(AccessLogOptions::default()).await;
    let (endpoint, _) = Function::start().await.serve("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let upstream = proxy.function("f", &[]);
    upstream.publish(vec![endpoint]);
    let (own, mut of_calls) = self::log(AccessLogOptions::default());
    let caller = Caller::new(proxy.routes.clone()).watched(own, true);
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(1));
    let place = places.acquire_owned().await.unwrap();
    let request = http::Request::post("/x").body(roost_proxy::OwnBody::Whole("hi".into())).unwrap();
    let (response, _place) = within(caller.call(upstream.key(), request, place)).await.unwrap();
    drop(response);
    let entry = of_calls.next().await;
    assert_eq!((entry.kind, &*entry.path, entry.peer), (EntryKind::Call, "/x", None));
    assert!(entry.trace.is_some_and(|trace| trace.span_id.is_some()));
    assert!(entry.call_id.is_some());
    assert!(log.0.try_recv().is_err(), "the server's log tells of clients");
}

#[tokio::test]
async fn long_texts_of_clients_are_cut() {
    let (proxy, mut log) = logged(AccessLogOptions { query: true, ..AccessLogOptions::default() }).await;
    let long = "x".repeat(9000);
    let request = format!(
        "{long} /function/f/{long}?{long} HTTP/1.1\r\nhost: h\r\nuser-agent: {long}\r\nx-call-id: {long}\r\n\r\n"
    );
    assert_eq!(proxy.ask(&request).await.answer().await.head.status(), 405);
    let entry = log.next().await;
    assert!(format!("{entry:?}").len() < 5000);
}

#[tokio::test]
async fn spans_of_traces_that_are_to_be_recorded_are_given_whatever_share_of_lines_is() {
    let no_lines = AccessLogOptions { sample: 0.0, ..AccessLogOptions::default() };
    let all_lines = AccessLogOptions::default();
    for options in [Some(no_lines), Some(all_lines), None] {
        let (lines, mut of_lines) = log(options.unwrap_or_default());
        let lines = if options.is_some() { lines } else { AccessLog::default() };
        let (sender, receiver) = mpsc::channel(1024);
        let (access_log, mut spans) = (lines.with_spans(Lines(sender)), Log(receiver));
        let proxy = Proxy::with(Settings { access_log, spans: true, ..Settings::default() }).await;
        let function = Function::start().await;
        proxy.function("f", &[&function]);
        let (endpoint, _) = Function::start().await.serve("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        proxy.function("g", &[]).publish(vec![endpoint]);
        let traced = |path: &str, flags: &str| {
            format!(
                "GET {path} HTTP/1.1\r\nhost: h\r\ntraceparent: \
                 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}\r\n"
            )
        };
        for (path, flags) in [("/function/g/unwanted", "00"), ("/function/g/wanted", "01")] {
            let request = format!("{}\r\n", traced(path, flags));
            assert_eq!(proxy.ask(&request).await.answer().await.head.status(), 200);
        }
        // No function's, so in no trace.
        proxy.get("/healthz").await;
        let upgrade = "connection: upgrade\r\nupgrade: websocket\r\n\r\n";
        let mut client = proxy.ask(&format!("{}{upgrade}", traced("/function/f/tunnel", "01"))).await;
        let mut wire = function.accept().await;
        wire.head().await;
        wire.send(format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}")).await;
        client.head().await;
        drop((client, wire));

        let wanted = spans.next().await;
        assert_eq!((&*wanted.path, wanted.kind), ("/function/g/wanted", EntryKind::Request), "{options:?}");
        let tunnel = spans.next().await;
        assert_eq!((&*tunnel.path, tunnel.kind), ("/function/f/tunnel", EntryKind::Tunnel), "{options:?}");
        assert!(!tunnel.tunnel.unwrap().opening.is_zero());
        assert!(spans.0.try_recv().is_err(), "each is one span");
        let expected: &[&str] = match options {
            Some(options) if options == all_lines => &[
                "Request /function/f/tunnel",
                "Request /function/g/unwanted",
                "Request /function/g/wanted",
                "Request /healthz",
                "Tunnel /function/f/tunnel",
            ],
            _ => &[],
        };
        let mut told = Vec::new();
        for _ in expected {
            let line = of_lines.next().await;
            told.push(format!("{:?} {}", line.kind, line.path));
        }
        told.sort_unstable();
        assert_eq!(told, expected);
        assert!(of_lines.0.try_recv().is_err());
    }
}
