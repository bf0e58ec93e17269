//! Functions that have hosts of their own.

use roost_proxy::Access;
use roost_proxy::function::FunctionKey;

use crate::support::*;

fn get(path: &str, host: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")
}

fn give(proxy: &Proxy, function: &str, domain: &str) {
    proxy.routes.set_domains(&FunctionKey::from_route(function).unwrap(), &[domain.to_owned()]);
}

#[tokio::test]
async fn all_of_a_host_is_its_functions_and_nothing_else_is_there() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let (other, _) = Function::start().await.serve("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\no");
    proxy.function("other", &[]).publish(vec![other]);
    give(&proxy, "f", "f.example.org");
    let mut client = proxy.connect().await;
    let mut wire = None;
    for path in [
        "/",
        "/a//b/../c?d=e",
        "/system/functions",
        "/function/other/x",
        "/function/f",
        "/async-function/f",
        "//",
        "/healthz",
    ] {
        client.send(get(path, "f.example.org:8080")).await;
        if wire.is_none() {
            wire = Some(function.accept().await);
        }
        let wire = wire.as_mut().unwrap();
        let head = wire.head().await;
        assert_eq!(head.line, format!("GET {path} HTTP/1.1"));
        assert_eq!(head.value("x-forwarded-host"), Some("f.example.org:8080"));
        wire.send(ok("f")).await;
        assert_eq!(client.answer().await.body, "f");
    }
    // Elsewhere everything is where it was.
    assert_eq!(proxy.ask(&get("/function/other", "roost")).await.answer().await.body, "o");
    let body = proxy.ask(&get("/system/functions", "roost")).await.answer().await.body;
    assert!(body.starts_with("fallback"), "{body}");
}

#[tokio::test]
async fn a_host_of_its_own_opens_no_door_that_its_function_keeps_shut() {
    let proxy = Proxy::start().await;
    let (endpoint, counts) = Function::start().await.serve("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let upstream = proxy.function("f", &[]);
    upstream.publish(vec![endpoint]);
    give(&proxy, "f", "f.example.org");
    upstream.set_access(Access { login: true, ..Access::default() });
    let status = |more: &str| {
        let request = format!("GET / HTTP/1.1\r\nhost: f.example.org\r\n{more}\r\n");
        let proxy = &proxy;
        async move { proxy.ask(&request).await.answer().await.head.status() }
    };
    assert_eq!(status("").await, 401);
    assert_eq!(status(&format!("authorization: {WORD}\r\n")).await, 200);
    upstream.set_access(Access { internal: true, ..Access::default() });
    assert_eq!(status("").await, 404);
    assert_eq!(counts[1].load(std::sync::atomic::Ordering::SeqCst), 1);
    let connect = "CONNECT f.example.org:80 HTTP/1.1\r\nhost: f.example.org\r\n\r\n";
    assert_eq!(proxy.ask(connect).await.head().await.status(), 405);
}

#[tokio::test]
async fn a_websocket_goes_to_the_function_of_its_host() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    give(&proxy, "f", "f.example.org");
    let mut client = proxy
        .ask("GET /room HTTP/1.1\r\nhost: F.example.org\r\nconnection: upgrade\r\nupgrade: lines\r\n\r\n")
        .await;
    let mut wire = function.accept().await;
    assert_eq!(wire.head().await.line, "GET /room HTTP/1.1");
    wire.send("HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: lines\r\n\r\nhello").await;
    assert_eq!(client.head().await.status(), 101);
    client.expect("hello").await;
}
