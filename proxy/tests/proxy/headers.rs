//! Headers, as they are on the wire.

use crate::support::*;

const PRODUCT: &str = concat!("roost/", env!("CARGO_PKG_VERSION"));

#[tokio::test]
async fn a_bare_request_reaches_the_function_with_our_headers_and_no_other() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let mut client = proxy.ask("GET /function/f HTTP/1.1\r\nHost: api.example:81\r\n\r\n").await;
    let mut wire = function.accept().await;
    let seen = wire.head().await;
    let call_id = seen.value("x-call-id").unwrap().to_owned();
    assert_eq!(uuid::Uuid::parse_str(&call_id).unwrap().get_version_num(), 4);
    let start: u64 = seen.value("x-start-time").unwrap().parse().unwrap();
    assert!(start > 1_700_000_000_000_000_000, "nanoseconds, not {start}");
    assert_eq!(
        seen.lines_but(&["x-call-id", "x-start-time"]),
        [
            format!("host: {}", function.endpoint.address()),
            format!("user-agent: {PRODUCT}"),
            "x-forwarded-for: 127.0.0.1".into(),
            "x-forwarded-host: api.example:81".into(),
            "x-forwarded-proto: http".into(),
        ]
    );

    wire.send("HTTP/1.1 207 Odd\r\nX-A: 1\r\nx-a: 2\r\nset-cookie: a\r\nset-cookie: b\r\ncontent-length: 1\r\n\r\nx")
        .await;
    let answer = client.answer().await;
    assert_eq!(answer.head.line, "HTTP/1.1 207 Odd");
    assert_eq!(answer.head.value("x-call-id"), Some(call_id.as_str()));
    assert_eq!(answer.head.value("x-start-time"), Some(start.to_string().as_str()));
    assert_eq!(
        answer.head.lines_but(&["x-call-id", "x-start-time", "date"]),
        [
            "content-length: 1".to_owned(),
            "content-type: text/plain".into(),
            "set-cookie: a".into(),
            "set-cookie: b".into(),
            "x-a: 1".into(),
            "x-a: 2".into(),
            format!("x-served-by: {PRODUCT}"),
        ]
    );
}

#[tokio::test]
async fn the_clients_headers_pass_and_those_of_its_connection_do_not() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let mut client = proxy
        .ask(
            "POST /function/f HTTP/1.1\r\nhost: h\r\nauthorization: Bearer t\r\ncookie: a=1\r\nuser-agent: me\r\n\
             connection: keep-alive, x-mine\r\nx-mine: 1\r\nkeep-alive: timeout=5\r\nte: gzip\r\nupgrade: websocket\r\n\
             proxy-authorization: secret\r\nx-call-id: mine\r\nx-start-time: 1\r\nx-forwarded-for: 10.0.0.9\r\n\
             x-forwarded-host: first\r\nx-forwarded-proto: https\r\ncontent-type: a/b\r\ncontent-length: 2\r\n\r\nhi",
        )
        .await;
    let mut wire = function.accept().await;
    let seen = wire.head().await;
    let starts: Vec<_> = seen.headers.iter().filter(|(name, _)| name == "x-start-time").collect();
    assert_eq!((starts.len(), starts[0].1.as_str()), (2, "1"));
    assert_eq!(
        seen.lines_but(&["x-start-time", "host"]),
        [
            "authorization: Bearer t",
            "content-length: 2",
            "content-type: a/b",
            "cookie: a=1",
            "user-agent: me",
            "x-call-id: mine",
            "x-forwarded-for: 10.0.0.9, 127.0.0.1",
            "x-forwarded-host: first",
            "x-forwarded-proto: https",
        ]
    );
    wire.expect("hi").await;
    wire.send("HTTP/1.1 200 OK\r\nconnection: x-own\r\nx-own: 1\r\nkeep-alive: timeout=5\r\ncontent-length: 2\r\n\r\nok")
        .await;
    let answer = client.answer().await;
    assert_eq!(answer.head.value("x-call-id"), Some("mine"));
    assert_eq!(answer.head.value("content-type"), Some("a/b"), "the request's stands in");
    for gone in ["x-own", "keep-alive"] {
        assert_eq!(answer.head.value(gone), None);
    }
}

#[tokio::test]
async fn an_answer_without_a_body_gets_no_content_type() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let mut client = proxy.connect().await;
    let mut wire = None;
    for (method, answer, length) in [
        ("GET", "204 No Content\r\n", None),
        // hyper gives no length to an answer that cannot have a body.
        ("GET", "304 Not Modified\r\netag: x\r\ncontent-length: 9\r\n", None),
        ("GET", "200 OK\r\ncontent-length: 0\r\n", Some("0")),
        ("HEAD", "200 OK\r\ncontent-length: 9\r\n", Some("9")),
    ] {
        client.send(format!("{method} /function/f HTTP/1.1\r\nhost: h\r\n\r\n")).await;
        if wire.is_none() {
            wire = Some(function.accept().await);
        }
        let wire = wire.as_mut().unwrap();
        wire.head().await;
        wire.send(format!("HTTP/1.1 {answer}\r\n")).await;
        let head = client.head().await;
        assert_eq!(head.value("content-type"), None, "{answer}");
        assert_eq!(head.value("content-length"), length, "{answer}");
    }
}

#[tokio::test]
async fn expect_is_answered_by_the_proxy_once_the_body_is_wanted() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let head = "POST /function/f HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";
    let mut client = proxy.ask(head).await;
    let mut wire = function.accept().await;
    assert_eq!(wire.head().await.value("expect"), None);
    assert_eq!(client.head().await.status(), 100);
    client.send("hi").await;
    wire.expect("hi").await;
    wire.send(ok("ok")).await;
    assert_eq!(client.answer().await.body, "ok");

    // Nobody wants the body of a request to a function that is not there.
    let mut client = proxy.ask(&head.replace("/f ", "/g ")).await;
    assert_eq!(client.head().await.status(), 404);
}
