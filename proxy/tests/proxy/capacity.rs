//! Replicas that take only so much, and who waits for room at them.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use roost_proxy::function::FunctionKey;
use roost_proxy::{Ask, Claim, Endpoint, Error, Timeouts, Upstream, UpstreamLimits};

use crate::support::*;

const UPGRADE: &str =
    "GET /function/f HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: lines/1\r\n\r\n";

fn capped(cap: usize, cap_wait: Duration) -> UpstreamLimits {
    UpstreamLimits { cap: NonZeroUsize::new(cap), cap_wait, ..UpstreamLimits::default() }
}

fn upstream(limits: UpstreamLimits) -> Arc<Upstream> {
    Upstream::new(FunctionKey::from_route("f").unwrap(), limits)
}

fn endpoints<const N: usize>() -> [Arc<Endpoint>; N] {
    std::array::from_fn(|index| {
        Endpoint::new(format!("r{index}").parse().unwrap(), "127.0.0.1:1".parse().unwrap())
    })
}

fn tunnels(endpoints: &[Arc<Endpoint>]) -> Vec<usize> {
    endpoints.iter().map(|endpoint| endpoint.tunnels()).collect()
}

#[tokio::test]
async fn a_request_too_many_is_a_429_at_once_and_so_is_a_handshake() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let upstream = proxy.function("f", &[&function]);
    upstream.set_limits(capped(1, Duration::ZERO));
    let mut first = proxy.ask(GET).await;
    let mut wire = function.accept().await;
    wire.head().await;
    for request in [GET, UPGRADE] {
        let answer = proxy.ask(request).await.answer().await;
        assert_eq!(answer.head.status(), 429);
        assert_eq!(answer.head.value("retry-after"), Some("1"));
        assert_eq!(answer.head.value("x-openfaas-internal"), Some("proxy"));
        assert!(answer.body.starts_with("function f.openfaas-fn is at its capacity: "), "{}", answer.body);
    }
    wire.send(ok("one")).await;
    assert_eq!(first.answer().await.body, "one");
    within(function.endpoint.drained()).await;
    first.send(GET).await;
    wire.head().await;
    wire.send(ok("two")).await;
    assert_eq!(first.answer().await.body, "two");
    until(|| upstream.totals().finished_with(429) == 2).await;
    let totals = upstream.totals();
    assert_eq!((totals.refused_capacity, totals.refused_unavailable, totals.refused_full), (2, 0, 0));
}

#[tokio::test]
async fn an_open_tunnel_takes_a_place_to_its_end() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let upstream = proxy.function("f", &[&function]);
    upstream.set_limits(capped(1, DEADLINE));
    let mut socket = proxy.ask(UPGRADE).await;
    let mut wire = function.accept().await;
    wire.head().await;
    assert_eq!(function.endpoint.tunnels(), 1, "a handshake counts as soon as it is on its way");
    wire.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: lines/1\r\n\r\n").await;
    assert_eq!(socket.head().await.status(), 101);
    assert_eq!((upstream.load().tunnels, upstream.load().in_flight), (1, 1));
    let mut waiting = proxy.ask(GET).await;
    until(|| upstream.load().waiting == 1).await;
    drop(socket);
    drop(wire);
    let mut wire = function.accept().await;
    wire.head().await;
    assert_eq!((function.endpoint.tunnels(), function.endpoint.in_flight()), (0, 1));
    wire.send(ok("room")).await;
    assert_eq!(waiting.answer().await.body, "room");
    assert_eq!(upstream.totals().cold_starts.count(), 0, "there was a replica all the time");
}

#[tokio::test]
async fn those_who_wait_for_room_have_it_in_the_order_of_their_arrival() {
    let upstream = upstream(capped(2, DEADLINE));
    upstream.publish(endpoints::<1>().into());
    let held = [upstream.claim().unwrap(), upstream.claim().unwrap()];
    assert!(upstream.claim().is_none());
    let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(upstream.acquire())).collect();
    for waiter in &mut waiting {
        assert!(futures_util::poll!(waiter).is_pending());
    }
    assert!(tokio::time::timeout(Duration::ZERO, upstream.demand()).await.is_ok());
    drop(held);
    let mut claims: Vec<Claim> = Vec::new();
    for waiter in waiting.drain(..2) {
        claims.push(within(waiter).await.unwrap());
    }
    assert!(futures_util::poll!(&mut waiting[0]).is_pending());
    // One that is served and goes away before it looks hands its place on.
    let mut last = Box::pin(upstream.acquire());
    assert!(futures_util::poll!(&mut last).is_pending());
    drop(claims.pop());
    drop(waiting);
    claims.push(within(last).await.unwrap());
    assert_eq!((upstream.load().in_flight, upstream.load().waiting), (2, 0));
}

#[tokio::test]
async fn the_wait_for_room_has_a_limit_and_a_cold_start_has_its_own() {
    let short = Duration::from_millis(30);
    let upstream = upstream(capped(1, short));
    let mut cold: Vec<_> = (0..3).map(|_| Box::pin(upstream.acquire())).collect();
    for waiter in &mut cold {
        assert!(futures_util::poll!(waiter).is_pending());
    }
    upstream.publish(endpoints::<1>().into());
    let mut cold = cold.into_iter();
    let first = within(cold.next().unwrap()).await.unwrap();
    assert!(matches!(within(upstream.acquire()).await, Err(Error::AtCapacity { cap: 1, .. })));
    upstream.set_limits(capped(1, Duration::ZERO));
    assert!(matches!(within(upstream.acquire()).await, Err(Error::AtCapacity { cap: 1, .. })));
    assert_eq!(upstream.load().waiting, 2, "who came before the replica waits on for it");
    drop(first);
    drop(within(cold.next().unwrap()).await.unwrap());
    drop(within(cold.next().unwrap()).await.unwrap());
    assert_eq!(upstream.totals().cold_starts.count(), 3);
    assert_eq!(upstream.totals().refused_capacity, 2);
}

#[tokio::test]
async fn a_cold_start_that_ends_in_a_crowd_is_a_429_and_one_that_does_not_end_a_503() {
    let waiting = Duration::from_millis(30);
    let timeouts = Timeouts { waiting, ..Timeouts::default() };
    let upstream = upstream(UpstreamLimits { timeouts, ..capped(1, Duration::ZERO) });
    assert!(matches!(within(upstream.acquire()).await, Err(Error::WaitingTimeout { .. })));
    let mut late = Box::pin(upstream.acquire());
    let mut served = Box::pin(upstream.acquire());
    assert!(futures_util::poll!(&mut served).is_pending());
    assert!(futures_util::poll!(&mut late).is_pending());
    upstream.publish(endpoints::<1>().into());
    let _claim = within(served).await.unwrap();
    assert!(matches!(within(late).await, Err(Error::AtCapacity { .. })));
}

#[tokio::test]
async fn a_higher_cap_and_another_replica_serve_those_who_wait() {
    let upstream = upstream(capped(1, DEADLINE));
    let [a, b] = endpoints();
    upstream.publish(vec![Arc::clone(&a)]);
    let _held = upstream.claim().unwrap();
    let mut waiting: Vec<_> = (0..4).map(|_| Box::pin(upstream.acquire())).collect();
    for waiter in &mut waiting {
        assert!(futures_util::poll!(waiter).is_pending());
    }
    upstream.set_limits(capped(2, DEADLINE));
    assert_eq!((a.in_flight(), upstream.load().waiting), (2, 3));
    upstream.publish(vec![Arc::clone(&a), Arc::clone(&b)]);
    assert_eq!((a.in_flight(), b.in_flight(), upstream.load().waiting), (2, 2, 1));
    upstream.set_limits(UpstreamLimits::default());
    let mut claims = Vec::new();
    for waiter in waiting {
        claims.push(within(waiter).await.unwrap());
    }
    assert_eq!(a.in_flight() + b.in_flight(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn handshakes_at_one_moment_spread_evenly() {
    let upstream = upstream(UpstreamLimits::default());
    let endpoints = endpoints::<4>();
    upstream.publish(endpoints.to_vec());
    // Requests in flight do not count where tunnels go.
    let requests: Vec<_> = (0..3).map(|_| upstream.claim().unwrap()).collect();
    let claims: Vec<_> = (0..35)
        .map(|_| {
            let upstream = Arc::clone(&upstream);
            tokio::spawn(async move { upstream.acquire_for(&Ask::default().for_tunnel()).await.unwrap() })
        })
        .collect();
    let mut held = Vec::new();
    for claim in claims {
        held.push(within(claim).await.unwrap());
    }
    let mut spread = tunnels(&endpoints);
    spread.sort_unstable();
    assert_eq!(spread, [8, 9, 9, 9]);
    drop((held, requests));
    assert_eq!(tunnels(&endpoints), [0; 4]);
}
