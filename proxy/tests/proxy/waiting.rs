//! Functions with no replica yet, and replicas that come and go under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use roost_proxy::function::FunctionKey;
use roost_proxy::{Endpoint, Error, Timeouts, Upstream, UpstreamLimits};

use crate::support::*;

fn upstream(limits: UpstreamLimits) -> Arc<Upstream> {
    Upstream::new(FunctionKey::from_route("f").unwrap(), limits)
}

fn endpoint(id: &str) -> Arc<Endpoint> {
    Endpoint::new(id.parse().unwrap(), "127.0.0.1:1".parse().unwrap())
}

#[tokio::test]
async fn a_request_waits_for_the_first_replica() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let upstream = proxy.function("f", &[]);
    let mut client = proxy.ask("POST /function/f HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nhi").await;
    until(|| upstream.load().waiting == 1).await;
    upstream.publish(vec![Arc::clone(&function.endpoint)]);
    let mut wire = function.accept().await;
    wire.head().await;
    wire.expect("hi").await;
    wire.send(ok("late")).await;
    assert_eq!(client.answer().await.body, "late");
    let totals = upstream.totals();
    assert_eq!(totals.cold_starts.count(), 1);
    assert!(totals.cold_starts.seconds > 0.0, "{totals:?}");
    assert_eq!((totals.refused_full, totals.refused_late, totals.refused_unavailable), (0, 0, 0));
}

#[tokio::test]
async fn requests_that_wait_are_one_demand_and_a_request_that_does_not_is_none() {
    let upstream = upstream(UpstreamLimits::default());
    let demanded = || async { tokio::time::timeout(Duration::ZERO, upstream.demand()).await.is_ok() };
    assert!(!demanded().await);
    let callers: Vec<_> = (0..5)
        .map(|_| {
            let upstream = Arc::clone(&upstream);
            tokio::spawn(async move { upstream.acquire().await.map(drop) })
        })
        .collect();
    until(|| upstream.load().waiting == 5).await;
    assert!(demanded().await);
    assert!(!demanded().await, "five are one");
    upstream.publish(vec![endpoint("r1")]);
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    drop(upstream.acquire().await.unwrap());
    assert!(!demanded().await);
}

#[tokio::test]
async fn a_request_that_cannot_be_served_is_told_why_at_once() {
    let proxy = Proxy::start().await;
    let upstream = proxy.function("f", &[]);
    let mut waiting = proxy.ask(GET).await;
    until(|| upstream.load().waiting == 1).await;
    upstream.set_unavailable(Some("image not found:\nx/y".into()));
    for _ in 0..2 {
        let answer = waiting.answer().await;
        assert_eq!(answer.head.status(), 503);
        assert_eq!(answer.body, "function f.openfaas-fn is not available: image not found: x/y\n");
        assert_eq!(answer.head.value("retry-after"), Some("1"));
        assert_eq!(answer.head.value("x-openfaas-internal"), Some("proxy"));
        waiting = proxy.ask(GET).await;
    }
    until(|| upstream.totals().refused_unavailable == 3).await;
    assert_eq!(upstream.totals().cold_starts.count(), 0);
    upstream.set_unavailable(None);
    let mut waiting = proxy.ask(GET).await;
    until(|| upstream.load().waiting == 1).await;
    upstream.retire();
    assert_eq!(waiting.answer().await.head.status(), 404);
    // Final, whatever its controller still says.
    upstream.publish(Vec::new());
    upstream.set_unavailable(None);
    assert!(matches!(upstream.acquire().await, Err(Error::UnknownFunction { .. })));
}

#[tokio::test]
async fn the_room_is_bounded_and_its_deadline_kept() {
    let timeouts = Timeouts { waiting: Duration::from_millis(50), ..Timeouts::default() };
    let upstream = upstream(UpstreamLimits { timeouts, waiting_capacity: 1, ..UpstreamLimits::default() });
    let mut first = Box::pin(upstream.acquire());
    assert!(futures_util::poll!(&mut first).is_pending());
    assert!(matches!(upstream.acquire().await, Err(Error::WaitingRoomFull { capacity: 1, .. })));
    assert!(matches!(within(first).await, Err(Error::WaitingTimeout { .. })));
    assert_eq!(upstream.load().waiting, 0);
    // A limit of zero is for functions that shall never wait.
    upstream.set_limits(UpstreamLimits { timeouts, waiting_capacity: 0, ..UpstreamLimits::default() });
    assert!(matches!(upstream.acquire().await, Err(Error::WaitingRoomFull { capacity: 0, .. })));
    let totals = upstream.totals();
    assert_eq!((totals.refused_full, totals.refused_late, totals.refused_unavailable), (2, 1, 0));
    assert_eq!(totals.cold_starts.count(), 0);
}

#[tokio::test]
async fn a_publish_serves_everybody_who_waits_evenly() {
    let upstream = upstream(UpstreamLimits::default());
    let mut waiters: Vec<_> = (0..90).map(|_| Box::pin(upstream.acquire())).collect();
    for waiter in &mut waiters {
        assert!(futures_util::poll!(waiter).is_pending());
    }
    drop(waiters.split_off(60));
    assert_eq!(upstream.load().waiting, 60);
    let endpoints = vec![endpoint("a"), endpoint("b"), endpoint("c")];
    upstream.publish(endpoints.clone());
    let mut claims = Vec::new();
    for waiter in waiters {
        claims.push(within(waiter).await.unwrap());
    }
    assert!(endpoints.iter().all(|endpoint| endpoint.in_flight().abs_diff(20) <= 2), "{upstream:?}");
    assert_eq!(upstream.load().in_flight, 60);
    drop(claims);
    assert_eq!((upstream.load().in_flight, endpoints[0].in_flight()), (0, 0));
}

#[tokio::test]
async fn an_endpoint_is_drained_when_its_last_claim_goes_and_can_come_back() {
    let upstream = upstream(UpstreamLimits::default());
    let endpoint = endpoint("a");
    within(endpoint.drained()).await;
    upstream.publish(vec![Arc::clone(&endpoint)]);
    let (first, second) = (upstream.claim().unwrap(), upstream.claim().unwrap());
    upstream.publish(Vec::new());
    assert!(upstream.claim().is_none());
    let mut drained = Box::pin(endpoint.drained());
    assert!(futures_util::poll!(&mut drained).is_pending());
    drop(first);
    assert!(futures_util::poll!(&mut drained).is_pending());
    drop(second);
    within(drained).await;
    upstream.publish(vec![Arc::clone(&endpoint)]);
    assert!(upstream.claim().is_some());
    endpoint.close();
    assert!(upstream.claim().is_none(), "closed, though still published");
}

/// Claims race with publishes that swap one endpoint for another. Once a removed endpoint says that it is drained,
/// nobody may hold or get a claim on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_claim_is_made_on_an_endpoint_after_it_was_withdrawn() {
    let upstream = upstream(UpstreamLimits::default());
    let endpoints = [endpoint("a"), endpoint("b")];
    let gone = Arc::new([AtomicBool::new(false), AtomicBool::new(true)]);
    let claims = Arc::new(AtomicUsize::new(0));
    upstream.publish(vec![Arc::clone(&endpoints[0])]);
    let stop = Arc::new(AtomicBool::new(false));
    let claimers: Vec<_> = (0..3)
        .map(|_| {
            let (upstream, gone, stop, claims) =
                (Arc::clone(&upstream), Arc::clone(&gone), Arc::clone(&stop), Arc::clone(&claims));
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let claim = upstream.acquire().await.unwrap();
                    let index = usize::from(claim.endpoint().id().as_str() == "b");
                    assert!(!gone[index].load(Ordering::SeqCst), "claimed after it was drained");
                    claims.fetch_add(1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    assert!(!gone[index].load(Ordering::SeqCst), "drained while claimed");
                }
            })
        })
        .collect();
    for round in 0..5_000 {
        let (old, new) = (round % 2, (round + 1) % 2);
        gone[new].store(false, Ordering::SeqCst);
        upstream.publish(vec![Arc::clone(&endpoints[new])]);
        within(endpoints[old].drained()).await;
        gone[old].store(true, Ordering::SeqCst);
        tokio::task::yield_now().await;
    }
    stop.store(true, Ordering::SeqCst);
    for claimer in claimers {
        within(claimer).await.unwrap();
    }
    assert!(claims.load(Ordering::SeqCst) > 0);
    assert_eq!(upstream.load().in_flight, 0);
}
