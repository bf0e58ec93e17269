//! Calls that no client waits for: taken over on one side, made on the other.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt;
use roost_proxy::{Access, Caller, Error, OwnBody, Timeouts};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::support::*;

#[tokio::test]
async fn a_call_for_later_is_taken_over_as_the_function_is_to_see_it() {
    let proxy = Proxy::start().await;
    proxy.function("f.staging", &[]);
    let mut client = proxy.connect().await;
    for (asked, taken) in [
        ("POST /async-function/f.staging", "POST /"),
        ("POST /async-function/f.staging/a%20b?x=1", "POST /a%20b?x=1"),
        ("GET /async-function/f.staging", "GET /"),
        ("DELETE /async-function/f.staging/", "DELETE /"),
    ] {
        let head = "host: h\r\nx-call-id: mine\r\nconnection: x-hop, te\r\nte: trailers\r\nx-hop: 1";
        client.send(format!("{asked} HTTP/1.1\r\n{head}\r\n\r\n")).await;
        let answer = client.answer().await;
        assert_eq!(answer.body, format!("f.staging as f.staging: {taken} from 127.0.0.1, call mine"));
        assert_eq!((answer.head.status(), answer.head.value("x-call-id")), (202, Some("mine")), "{asked}");
        assert!(answer.head.value("x-start-time").is_some() && answer.head.value("x-served-by").is_some());
    }
}

#[tokio::test]
async fn what_cannot_be_taken_over_is_answered_as_a_call_would_be() {
    let proxy = Proxy::start().await;
    proxy.function("f", &[]);
    for (asked, status, body) in [
        (
            "POST /async-function/g",
            404,
            "error finding function g.openfaas-fn: no such function on this host\n",
        ),
        ("TRACE /async-function/f", 405, ""),
        ("DELETE /async-function/known", 202, ""),
        ("GET /async-function/known", 200, "the result"),
        ("GET /async-function/nothing", 404, "no call nothing is queued or running here\n"),
        ("DELETE /async-function/f", 404, "no call f is queued or running here\n"),
        ("POST /async-function/", 200, "fallback /async-function/ 127.0.0.1"),
    ] {
        let mut wire = proxy.ask(&format!("{asked} HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n")).await;
        let answer = wire.answer().await;
        assert_eq!((answer.head.status(), answer.body.as_str()), (status, body), "{asked}");
    }
}

#[tokio::test]
async fn who_is_answered_before_the_whole_request_is_here_is_told_that_the_connection_ends() {
    let proxy = Proxy::start().await;
    for (length, ends) in [(2, None), (500_000, Some("close"))] {
        let head =
            format!("POST /async-function/g HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\n\r\nhi");
        let answer = proxy.ask(&head).await.answer().await;
        let connection = answer.head.value("connection");
        assert_eq!((answer.head.status(), connection), (404, ends), "{length}");
    }
}

#[tokio::test]
async fn a_function_that_is_not_open_is_not_open_to_later_calls_either() {
    let proxy = Proxy::start().await;
    let upstream = proxy.function("f", &[]);
    let ask = async |asked: &str, headers: &str| {
        let request = format!("{asked} HTTP/1.1\r\nhost: h\r\n{headers}\r\n");
        proxy.ask(&request).await.answer().await.head.status()
    };
    let (call, cancel) = ("POST /async-function/f", "DELETE /async-function/known");
    let word = format!("authorization: {WORD}\r\n");
    upstream.set_access(Access { login: true, ..Access::default() });
    // The intake of these tests would not take a password.
    assert_eq!((ask(call, "").await, ask(call, &word).await), (401, 202));
    assert_eq!((ask(cancel, "").await, ask(cancel, &word).await), (404, 202));
    upstream.set_access(Access { internal: true, ..Access::default() });
    assert_eq!((ask(call, &word).await, ask(cancel, &word).await), (404, 404));
}

fn request(body: &'static str) -> http::Request<OwnBody> {
    let request = http::Request::post("/a?b=c").header("x-own", "1").header("connection", "x-hop");
    request
        .header("x-hop", "1")
        .header("upgrade", "websocket")
        .body(OwnBody::Whole(Bytes::from_static(body.as_bytes())))
        .unwrap()
}

/// One that nobody else wants.
async fn place() -> OwnedSemaphorePermit {
    Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap()
}

#[tokio::test]
async fn a_call_of_our_own_that_waits_for_a_replica_is_in_nobodys_way() {
    let proxy = Proxy::start().await;
    let (waiting, caller) = (proxy.function("f", &[]), Caller::new(proxy.routes.clone()));
    let function = Function::start().await;
    let (endpoint, _) = function.serve("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let healthy = proxy.function("g", &[]);
    healthy.publish(vec![endpoint.clone()]);
    let places = Arc::new(Semaphore::new(1));
    let place = async || Arc::clone(&places).acquire_owned().await.unwrap();
    let first = {
        let (caller, key, place) = (caller.clone(), waiting.key().clone(), place().await);
        tokio::spawn(async move { caller.call(&key, request(""), place).await.map(|(_, place)| place) })
    };
    let (_, place) =
        within(async { caller.call(healthy.key(), request(""), place().await).await }).await.unwrap();
    assert_eq!(waiting.load().waiting, 1);
    // There is a replica, and no place: neither waits with the other in its hands.
    waiting.publish(vec![endpoint.clone()]);
    within(async {
        while waiting.load().waiting > 0 {
            tokio::task::yield_now().await;
        }
        endpoint.drained().await;
    })
    .await;
    assert!(!first.is_finished());
    drop(place);
    drop(within(first).await.unwrap().unwrap());
}

#[tokio::test]
async fn a_call_of_our_own_goes_the_way_of_a_request() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let upstream = proxy.function("f", &[&function]);
    let caller = Caller::new(proxy.routes.clone());
    let calling = async {
        let (response, _place) = caller.call(upstream.key(), request("hello"), place().await).await.unwrap();
        assert_eq!((response.status().as_u16(), upstream.load().in_flight), (200, 1));
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hi");
    };
    let answering = async {
        let mut wire = function.accept().await;
        let head = wire.head().await;
        assert_eq!(head.line, "POST /a?b=c HTTP/1.1");
        assert_eq!(head.value("x-call-id").unwrap().len(), 36);
        assert!(head.value("x-start-time").is_some());
        assert_eq!(head.value("user-agent"), Some(roost_proxy::PRODUCT));
        let rest = head.lines_but(&["x-call-id", "x-start-time", "user-agent", "host"]);
        assert_eq!(rest, ["content-length: 5", "x-own: 1"]);
        wire.expect("hello").await;
        wire.send(ok("hi")).await;
        wire
    };
    let (_wire, ()) = tokio::join!(answering, calling);
    within(function.endpoint.drained()).await;
    let load = upstream.load();
    assert_eq!((load.in_flight, load.started_total, load.finished_total), (0, 1, 1));
}

#[tokio::test]
async fn a_body_of_our_own_is_whole_at_the_second_endpoint_when_the_first_takes_no_connection() {
    let proxy = Proxy::start().await;
    let (dead, living) = (Function::start().await.die(), Function::start().await);
    let upstream = proxy.function("f", &[]);
    upstream.publish(vec![dead, living.endpoint.clone()]);
    let caller = Caller::new(proxy.routes.clone());
    let (_endpoint, counts) = living.serve("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    // Whichever endpoint has its turn first: of two calls one begins at the dead one.
    for _ in 0..2 {
        let (response, _place) =
            within(caller.call(upstream.key(), request("hello"), place().await)).await.unwrap();
        within(response.into_body().collect()).await.unwrap();
    }
    assert_eq!(counts[1].load(std::sync::atomic::Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_call_of_our_own_that_gets_no_answer_says_why() {
    let proxy = Proxy::start().await;
    let caller = Caller::new(proxy.routes.clone());
    let timeouts = Timeouts { waiting: std::time::Duration::ZERO, ..Timeouts::default() };
    let upstream = proxy.function_with("f", &[], timeouts);
    let key = upstream.key().clone();
    let error = within(caller.call(&key, request(""), place().await)).await.unwrap_err();
    assert!(matches!(error, Error::WaitingTimeout { .. }), "{error}");

    for answer in ["", "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"] {
        let function = Function::start().await;
        upstream.publish(vec![function.endpoint.clone()]);
        let closing = async {
            let mut wire = function.accept().await;
            wire.head().await;
            wire.send(answer).await;
        };
        let (called, ()) = tokio::join!(within(caller.call(&key, request(""), place().await)), closing);
        let error = called.unwrap_err();
        assert!(matches!(error, Error::NoAnswer { .. }), "{error}");
    }

    proxy.routes.remove(&key);
    let error = within(caller.call(&key, request(""), place().await)).await.unwrap_err();
    assert!(matches!(error, Error::UnknownFunction { .. }), "{error}");
}
