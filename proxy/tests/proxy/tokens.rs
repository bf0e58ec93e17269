//! Functions that ask for a bearer token, and keys that are in one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use roost_proxy::{Access, Endpoint, Placement};

use crate::support::*;

fn asking(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: roost\r\n{headers}\r\n")
}

fn bearing(token: &str) -> String {
    format!("authorization: Bearer {token}\r\n")
}

fn by_subject() -> Placement {
    Placement { key: Some("jwt:sub".parse().unwrap()), max_keys: 5, ..Placement::default() }
}

#[tokio::test]
async fn a_token_is_verified_once_and_its_claim_chooses_the_replica() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let upstream = proxy.function("f", &[]);
    upstream.set_placement(by_subject());
    upstream.set_access(Access { token: true, ..Access::default() });
    let (id, address) = (function.endpoint.id().clone(), function.endpoint.address());
    upstream.publish(vec![Endpoint::of_key(id, address, Some("ada".parse().unwrap()))]);

    let mut client = proxy.ask(&asking("/function/f", &bearing("sub=ada"))).await;
    let mut wire = function.accept().await;
    assert_eq!(wire.head().await.value("authorization"), Some("Bearer sub=ada"), "it is the function's, too");
    wire.send(ok("of ada")).await;
    assert_eq!(client.answer().await.body, "of ada");
    assert_eq!(proxy.verified.load(Ordering::SeqCst), 1);

    let mut other = proxy.ask(&asking("/function/f", &bearing("sub=grace"))).await;
    until(|| upstream.load().waiting == 1).await;
    assert_eq!(upstream.waiting_keys(), [("grace".parse().unwrap(), 1)]);
    let grace = Function::start().await;
    let address = grace.endpoint.address();
    upstream.publish(vec![Endpoint::of_key("f-g".parse().unwrap(), address, Some("grace".parse().unwrap()))]);
    let mut wire = grace.accept().await;
    wire.head().await;
    wire.send(ok("of grace")).await;
    assert_eq!(other.answer().await.body, "of grace");
}

#[tokio::test]
async fn without_a_token_that_counts_nothing_is_asked_for() {
    let proxy = Proxy::start().await;
    let upstream = proxy.function("f", &[]);
    // The key alone asks for one, whatever is asked of callers.
    for access in [Access::default(), Access { token: true, ..Access::default() }] {
        upstream.set_placement(by_subject());
        upstream.set_access(access);
        for path in ["/function/f", "/async-function/f"] {
            for headers in ["", "authorization: Basic sesame\r\n", &bearing("forged")] {
                let answer = proxy.ask(&asking(path, headers)).await.answer().await;
                assert_eq!(answer.head.status(), 401, "{path} {headers}");
                let challenge = "Bearer realm=\"roost\", error=\"invalid_token\"";
                assert_eq!(answer.head.value("www-authenticate"), Some(challenge));
                assert!(answer.body.starts_with("function f.openfaas-fn asks for a valid bearer token: "));
            }
            for token in ["other=ada", "sub="] {
                let answer = proxy.ask(&asking(path, &bearing(token))).await.answer().await;
                assert_eq!(answer.head.status(), 400, "{path} {token}");
                assert_eq!(answer.body, "this function needs a key: jwt:sub\n");
            }
        }
        let answer = proxy.ask(&asking("/async-function/f", &bearing("sub=ada"))).await.answer().await;
        assert_eq!(answer.head.status(), 202);
    }
    assert!(upstream.waiting_keys().is_empty());
    assert!(tokio::time::timeout(std::time::Duration::ZERO, upstream.demand()).await.is_err());
}

#[tokio::test]
async fn a_function_that_asks_for_nothing_has_no_token_looked_at() {
    let proxy = Proxy::start().await;
    let (endpoint, _) = Function::start().await.serve("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let upstream = proxy.function("f", &[]);
    upstream.publish(vec![Arc::clone(&endpoint)]);
    let answer = proxy.ask(&asking("/function/f", &bearing("forged"))).await.answer().await;
    assert_eq!(answer.head.status(), 200);
    assert_eq!(proxy.verified.load(Ordering::SeqCst), 0);
    upstream.set_access(Access { token: true, ..Access::default() });
    for (token, status) in [("forged", 401), ("sub=ada", 200), ("other=x", 200)] {
        let answer = proxy.ask(&asking("/function/f", &bearing(token))).await.answer().await;
        assert_eq!(answer.head.status(), status, "{token}");
    }
    assert_eq!(proxy.verified.load(Ordering::SeqCst), 3);
}
