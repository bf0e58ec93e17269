//! Functions with a replica for each key.

use std::sync::Arc;
use std::time::Duration;

use roost_proxy::function::FunctionKey;
use roost_proxy::{Ask, Caller, Endpoint, Error, HeldKeys, Placement, Timeouts, Upstream, UpstreamLimits};
use tokio::sync::Semaphore;

use crate::support::*;

fn keyed(source: &str, max_keys: usize) -> Placement {
    Placement { key: Some(source.parse().unwrap()), max_keys, ..Placement::default() }
}

fn upstream(placement: Placement) -> Arc<Upstream> {
    let upstream = Upstream::new(FunctionKey::from_route("f").unwrap(), UpstreamLimits::default());
    upstream.set_placement(placement);
    upstream
}

fn endpoint(id: &str, key: &str) -> Arc<Endpoint> {
    Endpoint::of_key(id.parse().unwrap(), "127.0.0.1:1".parse().unwrap(), Some(key.parse().unwrap()))
}

fn of_key(key: &str) -> Ask {
    Ask::default().of_key(key.parse().unwrap())
}

/// What a replica of `key` that says `answer` is reached at.
async fn replica(key: &str, answer: &'static str) -> Arc<Endpoint> {
    let (endpoint, _) = Function::start().await.serve(answer);
    Endpoint::of_key(endpoint.id().clone(), endpoint.address(), Some(key.parse().unwrap()))
}

#[tokio::test]
async fn each_request_goes_to_the_replica_of_its_key_and_waits_for_it_alone() {
    let proxy = Proxy::start().await;
    let upstream = proxy.function("f", &[]);
    upstream.set_placement(keyed("path[1]", 5));
    let demanded = || async { tokio::time::timeout(Duration::ZERO, upstream.demand()).await.is_ok() };
    let a = replica("a", "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na").await;
    upstream.publish(vec![Arc::clone(&a)]);
    assert_eq!(proxy.get("/function/f/a/rest").await.body, "a");
    assert!(!demanded().await);
    let function = Function::start().await;
    let mut waiting = proxy.ask("GET /function/f/b%20c/rest?q HTTP/1.1\r\nhost: h\r\n\r\n").await;
    until(|| upstream.load().waiting == 1).await;
    assert!(demanded().await);
    assert_eq!(upstream.waiting_keys(), [("b c".parse().unwrap(), 1)]);
    assert_eq!(proxy.get("/function/f/a").await.body, "a", "others do not wait with it");
    let address = function.endpoint.address();
    let b = Endpoint::of_key("f-b".parse().unwrap(), address, Some("b c".parse().unwrap()));
    assert_eq!(b.key().unwrap().as_str(), "b c");
    upstream.publish(vec![a, b]);
    let mut wire = function.accept().await;
    assert_eq!(wire.head().await.line, "GET /b%20c/rest?q HTTP/1.1", "the key stays in the path");
    wire.send(ok("of b")).await;
    assert_eq!(waiting.answer().await.body, "of b");
    assert!(upstream.waiting_keys().is_empty());
}

#[tokio::test]
async fn a_request_without_a_key_is_told_where_it_belongs() {
    let proxy = Proxy::start().await;
    let upstream = proxy.function("f", &[]);
    upstream.publish(vec![Endpoint::new("f-1".parse().unwrap(), "127.0.0.1:1".parse().unwrap())]);
    for (source, path) in [
        ("path[1]", "/function/f"),
        ("path[2]", "/function/f/a/"),
        ("query:room", "/function/f/a?room="),
        ("header:x-room", "/function/f/a"),
        ("path[1]", "/async-function/f/"),
    ] {
        upstream.set_placement(keyed(source, 5));
        let answer = proxy.get(path).await;
        assert_eq!(answer.head.status(), 400, "{source} {path}");
        assert_eq!(answer.body, format!("this function needs a key: {source}\n"));
        assert_eq!(answer.head.value("retry-after"), None);
    }
    assert_eq!(proxy.get("/async-function/f/a").await.head.status(), 202);
    assert_eq!(upstream.load().in_flight, 0, "a replica without a key is for nobody here");
    until(|| upstream.totals().finished_with(400) == 4).await;
}

#[tokio::test]
async fn only_so_many_keys_have_replicas_or_wait_for_them() {
    let upstream = upstream(keyed("path[1]", 2));
    let a = endpoint("f-a", "a");
    upstream.publish(vec![Arc::clone(&a)]);
    let mut waiting: Vec<_> = ["b", "b"].iter().map(|key| (*key, of_key(key))).collect();
    let mut places = Vec::new();
    for (_, ask) in &mut waiting {
        places.push(Box::pin(upstream.acquire_for(ask)));
    }
    for place in &mut places {
        assert!(futures_util::poll!(place).is_pending());
    }
    let (c, ask_a) = (of_key("c"), of_key("a"));
    assert!(matches!(upstream.acquire_for(&c).await, Err(Error::TooManyKeys { max: 2, .. })));
    drop(upstream.acquire_for(&ask_a).await.unwrap());
    // A key that has a replica, though a dead one, is one of them already.
    a.close();
    assert!(futures_util::poll!(Box::pin(upstream.acquire_for(&ask_a))).is_pending());
    drop(places);
    let mut place = Box::pin(upstream.acquire_for(&c));
    assert!(futures_util::poll!(&mut place).is_pending(), "nobody waits for b any more");
    upstream.publish(vec![endpoint("f-c", "c")]);
    assert_eq!(within(place).await.unwrap().endpoint().id().as_str(), "f-c");
    assert_eq!(upstream.totals().refused_capacity, 1);
    let proxy = Proxy::start().await;
    let function = proxy.function("f", &[]);
    function.set_placement(keyed("path[1]", 0));
    let answer = proxy.get("/function/f/a").await;
    assert_eq!((answer.head.status(), answer.head.value("retry-after")), (429, Some("1")));
}

#[tokio::test]
async fn keys_that_are_held_count_though_nobody_waits_and_are_let_in_though_nobody_answers() {
    let upstream = upstream(keyed("path[1]", 2));
    let (a, b, c) = (of_key("a"), of_key("b"), of_key("c"));
    let keys = |keys: &[(&str, Option<&str>)]| -> HeldKeys {
        keys.iter().map(|(key, reason)| (key.parse().unwrap(), reason.map(Arc::from))).collect()
    };
    // Their replicas come up, are busy, or are paused: none of them is published.
    upstream.hold_keys(keys(&[("a", None), ("b", None)]));
    assert!(matches!(within(upstream.acquire_for(&c)).await, Err(Error::TooManyKeys { max: 2, .. })));
    let mut place_a = Box::pin(upstream.acquire_for(&a));
    let mut place_b = Box::pin(upstream.acquire_for(&b));
    assert!(futures_util::poll!(&mut place_a).is_pending() && futures_util::poll!(&mut place_b).is_pending());
    // What is wrong with one key is told to its callers and to nobody else.
    upstream.hold_keys(keys(&[("a", Some("it ends")), ("b", None)]));
    for refused in [within(place_a).await, within(upstream.acquire_for(&a)).await] {
        let error = refused.unwrap_err();
        assert!(error.to_string().contains("it ends") && error.status(false).as_u16() == 503, "{error}");
    }
    assert!(futures_util::poll!(&mut place_b).is_pending());
    upstream.publish(vec![endpoint("f-b", "b"), endpoint("f-a", "a")]);
    assert_eq!(within(place_b).await.unwrap().endpoint().id().as_str(), "f-b");
    assert_eq!(within(upstream.acquire_for(&a)).await.unwrap().endpoint().id().as_str(), "f-a");
    upstream.publish(Vec::new());
    upstream.hold_keys(keys(&[("b", None)]));
    assert!(futures_util::poll!(Box::pin(upstream.acquire_for(&c))).is_pending(), "there is room again");
    assert_eq!(upstream.load().waiting, 0);
}

#[tokio::test]
async fn what_is_said_to_those_who_wait_reaches_all_keys() {
    let upstream = upstream(keyed("path[1]", 5));
    let asks = [of_key("a"), of_key("b")];
    for end in 0..2 {
        let mut places: Vec<_> = asks.iter().map(|ask| Box::pin(upstream.acquire_for(ask))).collect();
        for place in &mut places {
            assert!(futures_util::poll!(place).is_pending());
        }
        if end == 0 {
            upstream.set_unavailable(Some("no".into()));
        } else {
            upstream.retire();
        }
        for place in places {
            let error = within(place).await.unwrap_err();
            assert_eq!(error.status(false).as_u16(), if end == 0 { 503 } else { 404 });
        }
        assert_eq!((upstream.load().waiting, upstream.waiting_keys().len()), (0, 0));
        upstream.set_unavailable(None);
    }
}

#[tokio::test]
async fn a_key_is_served_in_order_and_its_wait_has_a_limit() {
    let upstream = upstream(keyed("query:k", 3));
    let timeouts = Timeouts { waiting: Duration::from_millis(30), ..Timeouts::default() };
    upstream.set_limits(UpstreamLimits {
        timeouts,
        cap: std::num::NonZeroUsize::new(1),
        ..UpstreamLimits::default()
    });
    let (a, b) = (of_key("a"), of_key("b"));
    assert!(matches!(within(upstream.acquire_for(&a)).await, Err(Error::WaitingTimeout { .. })));
    let limits = UpstreamLimits { cap_wait: DEADLINE, ..upstream.limits() };
    upstream.set_limits(UpstreamLimits { timeouts: Timeouts::default(), ..limits });
    let (end_a, end_b) = (endpoint("f-a", "a"), endpoint("f-b", "b"));
    upstream.publish(vec![Arc::clone(&end_a), Arc::clone(&end_b)]);
    let held = [upstream.claim_for(&a).unwrap(), upstream.claim_for(&b).unwrap()];
    let mut places: Vec<_> = [&a, &b, &a].map(|ask| Box::pin(upstream.acquire_for(ask))).into();
    for place in &mut places {
        assert!(futures_util::poll!(place).is_pending());
    }
    let [of_a, of_b] = held;
    drop(of_b);
    let second_a = places.pop().unwrap();
    let of_b = within(places.pop().unwrap()).await.unwrap();
    assert_eq!(
        (of_b.endpoint().id().as_str(), upstream.waiting_keys()),
        ("f-b", vec![("a".parse().unwrap(), 2)])
    );
    drop(of_a);
    let first = within(places.pop().unwrap()).await.unwrap();
    assert_eq!(upstream.load().waiting, 1);
    drop(first);
    assert_eq!(within(second_a).await.unwrap().endpoint().id().as_str(), "f-a");
}

#[tokio::test]
async fn a_call_of_ours_goes_the_same_way() {
    let proxy = Proxy::start().await;
    let upstream = proxy.function("f", &[]);
    upstream.set_placement(keyed("path[1]", 5));
    upstream.publish(vec![
        replica("a", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-own: a\r\n\r\n").await,
        replica("b", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-own: b\r\n\r\n").await,
    ]);
    let caller = Caller::new(proxy.routes.clone());
    let places = Arc::new(Semaphore::new(1));
    let call = |path: &str| {
        let request = http::Request::builder()
            .uri(path)
            .body(roost_proxy::OwnBody::Whole(bytes::Bytes::new()))
            .unwrap();
        let place = Arc::clone(&places).try_acquire_owned().unwrap();
        let caller = &caller;
        async move { caller.call(&FunctionKey::from_route("f").unwrap(), request, place).await }
    };
    for key in ["a", "b", "a"] {
        let (response, _) = within(call(&format!("/{key}/x"))).await.unwrap();
        assert_eq!(response.headers()["x-own"], key);
    }
    assert!(matches!(within(call("/")).await, Err(Error::MissingKey { .. })));
}
