//! Functions that are not open to everyone.

use roost_proxy::Access;

use crate::support::*;

const UPGRADE: &str = "connection: upgrade\r\nupgrade: websocket\r\n";

fn asking(name: &str, headers: &str) -> String {
    format!("GET /function/{name} HTTP/1.1\r\nhost: roost\r\nx-call-id: c\r\n{headers}\r\n")
}

#[tokio::test]
async fn an_internal_function_looks_from_outside_as_if_there_were_none() {
    let proxy = Proxy::start().await;
    let (endpoint, counts) = Function::start().await.serve("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let upstream = proxy.function("f", &[]);
    upstream.publish(vec![endpoint]);
    upstream.set_access(Access { internal: true, ..Access::default() });
    let spoofed = "x-forwarded-for: 10.63.0.9\r\nforwarded: for=10.63.0.9\r\nx-real-ip: 10.63.0.9\r\n";
    for headers in ["", UPGRADE, spoofed] {
        let there = proxy.ask(&asking("f", headers)).await.answer().await;
        let not_there = proxy.ask(&asking("g", headers)).await.answer().await;
        assert_eq!(there.head.line, not_there.head.line);
        assert_eq!(there.body, not_there.body.replace("g.openfaas-fn", "f.openfaas-fn"), "{headers}");
        let lines = |answer: &Answer| answer.head.lines_but(&["x-start-time", "date"]);
        assert_eq!(lines(&there), lines(&not_there), "{headers}");
    }
    assert_eq!(upstream.load().started_total, 0);
    assert_eq!(counts[1].load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_function_that_asks_who_calls_never_sees_what_the_caller_said() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let upstream = proxy.function("f", &[&function]);
    upstream.set_access(Access { login: true, ..Access::default() });
    for headers in ["", UPGRADE, "authorization: Basic wrong\r\n"] {
        let answer = proxy.ask(&asking("f", headers)).await.answer().await;
        assert_eq!(answer.head.status(), 401, "{headers}");
        assert_eq!(answer.head.value("www-authenticate"), Some("Basic realm=\"roost\""));
        assert_eq!(answer.body, "function f.openfaas-fn asks for a user of this host and a password\n");
    }
    assert_eq!(upstream.totals().finished_with(401), 3);

    let word = format!("authorization: {WORD}\r\n");
    let mut client = proxy.ask(&asking("f", &word)).await;
    let mut wire = function.accept().await;
    assert_eq!(wire.head().await.value("authorization"), None);
    wire.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi").await;
    assert_eq!(client.answer().await.body, "hi");

    let mut client = proxy.ask(&asking("f", &format!("{word}{UPGRADE}"))).await;
    let mut wire = function.accept().await;
    let head = wire.head().await;
    assert_eq!((head.value("upgrade"), head.value("authorization")), (Some("websocket"), None));
    wire.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 101);
}
