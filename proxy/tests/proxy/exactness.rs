//! Everybody who waits gets exactly one outcome, whatever happens meanwhile: claims that are released, callers that give
//! up, replicas that come and go, caps that change.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;
use roost_proxy::function::FunctionKey;
use roost_proxy::{Ask, Claim, Endpoint, Error, Placement, ReplicaKey, Upstream, UpstreamLimits};

use crate::support::*;

/// The keys that things are about: none, and two.
const KEYS: [Option<&str>; 3] = [None, Some("a"), Some("b")];

fn key(of: usize) -> Option<ReplicaKey> {
    KEYS[of].map(|key| key.parse().unwrap())
}

fn ask(of: usize, tunnel: bool) -> Ask {
    let ask = key(of).map_or_else(Ask::default, |key| Ask::default().of_key(key));
    if tunnel { ask.for_tunnel() } else { ask }
}

/// Two endpoints of each key.
fn endpoints() -> Vec<Arc<Endpoint>> {
    let address = "127.0.0.1:1".parse().unwrap();
    (0..6).map(|n| Endpoint::of_key(format!("r{n}").parse().unwrap(), address, key(n / 2))).collect()
}

fn limits(cap: usize) -> UpstreamLimits {
    UpstreamLimits { cap: NonZeroUsize::new(cap), cap_wait: DEADLINE, ..UpstreamLimits::default() }
}

fn upstream() -> Arc<Upstream> {
    let upstream = Upstream::new(FunctionKey::from_route("f").unwrap(), limits(0));
    let placement = Placement { key: Some("path[1]".parse().unwrap()), max_keys: 2, ..Placement::default() };
    upstream.set_placement(placement);
    upstream
}

#[derive(Debug, Clone)]
enum Step {
    Come {
        of: usize,
        tunnel: bool,
    },
    GiveUp(usize),
    Release(usize),
    /// The endpoints whose bit is set, and no other.
    Publish(u8),
    /// 0 is no cap.
    Cap(usize),
    Unavailable(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0..3_usize, any::<bool>()).prop_map(|(of, tunnel)| Step::Come { of, tunnel }),
        1 => (0..64_usize).prop_map(Step::GiveUp),
        4 => (0..64_usize).prop_map(Step::Release),
        1 => (0..64_u8).prop_map(Step::Publish),
        1 => (0..4_usize).prop_map(Step::Cap),
        1 => prop_oneof![1 => Just(true), 3 => Just(false)].prop_map(Step::Unavailable),
    ];
    proptest::collection::vec(step, 1..120)
}

type Waiter = Pin<Box<dyn Future<Output = Result<Claim, Error>>>>;

/// An upstream, everybody who has asked it for something, and what must hold between them.
struct House {
    upstream: Arc<Upstream>,
    endpoints: Vec<Arc<Endpoint>>,
    published: u8,
    cap: usize,
    /// In order of arrival.
    waiting: Vec<(usize, Waiter)>,
    claims: Vec<Claim>,
}

impl House {
    fn new() -> Self {
        let (waiting, claims) = (Vec::new(), Vec::new());
        Self { upstream: upstream(), endpoints: endpoints(), published: 0, cap: 0, waiting, claims }
    }

    fn take(&mut self, step: &Step) {
        let before: Vec<_> = self.endpoints.iter().map(|endpoint| endpoint.in_flight()).collect();
        match *step {
            Step::Come { of, tunnel } => {
                let (upstream, ask) = (Arc::clone(&self.upstream), ask(of, tunnel));
                self.waiting.push((of, Box::pin(async move { upstream.acquire_for(&ask).await })));
                self.look(self.waiting.len() - 1);
            }
            Step::GiveUp(index) if !self.waiting.is_empty() => {
                drop(self.waiting.remove(index % self.waiting.len()));
            }
            Step::Release(index) if !self.claims.is_empty() => {
                drop(self.claims.swap_remove(index % self.claims.len()));
            }
            Step::GiveUp(_) | Step::Release(_) => {}
            Step::Publish(set) => {
                self.published = set;
                let set = (0..6).filter(|n| set & 1 << n != 0).map(|n| Arc::clone(&self.endpoints[n]));
                self.upstream.publish(set.collect());
            }
            Step::Cap(cap) => {
                self.cap = cap;
                self.upstream.set_limits(limits(cap));
            }
            Step::Unavailable(said) => self.upstream.set_unavailable(said.then(|| "no".into())),
        }
        self.never_above_the_cap(&before);
    }

    /// Lets the waiter at `index` look for its outcome, and says whether it had one.
    fn look(&mut self, index: usize) -> bool {
        match self.waiting[index].1.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => return false,
            Poll::Ready(Ok(claim)) => {
                assert_eq!(claim.endpoint().key(), key(self.waiting[index].0).as_ref());
                self.claims.push(claim);
            }
            Poll::Ready(Err(error)) => assert!(matches!(error, Error::Unavailable { .. }), "{error}"),
        }
        drop(self.waiting.remove(index));
        true
    }

    fn never_above_the_cap(&self, before: &[usize]) {
        for (endpoint, before) in self.endpoints.iter().zip(before) {
            let now = endpoint.in_flight();
            assert!(now <= *before || self.cap == 0 || now <= self.cap, "{now} of {}", self.cap);
        }
    }

    /// All who wait look for their outcome: who has one came before those of the same key who have none.
    fn everybody_looks(&mut self) {
        let mut blocked = [false; KEYS.len()];
        let mut index = 0;
        while index < self.waiting.len() {
            let of = self.waiting[index].0;
            if self.look(index) {
                assert!(!blocked[of], "somebody was overtaken");
            } else {
                blocked[of] = true;
                index += 1;
            }
        }
        assert_eq!(self.upstream.load().waiting, self.waiting.len());
        for (of, blocked) in blocked.into_iter().enumerate() {
            let free = |n: &usize| {
                let open = self.published & 1 << n != 0 && n / 2 == of;
                open && (self.cap == 0 || self.endpoints[*n].in_flight() < self.cap)
            };
            assert!(!blocked || !(0..6).any(|n| free(&n)), "somebody waits beside a free place");
        }
        let lines: HashMap<_, _> = self.upstream.waiting_keys().into_iter().collect();
        for of in 1..KEYS.len() {
            let waiting = self.waiting.iter().filter(|(waits_for, _)| *waits_for == of).count();
            assert_eq!(lines.get(&key(of).unwrap()).copied().unwrap_or(0), waiting);
        }
    }

    fn counts_are_those_of_the_claims(&self) {
        assert_eq!(self.upstream.load().in_flight, self.claims.len());
        for endpoint in &self.endpoints {
            let held = self.claims.iter().filter(|claim| Arc::ptr_eq(claim.endpoint(), endpoint)).count();
            assert_eq!(endpoint.in_flight(), held);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everybody_has_one_outcome_in_order_and_nobody_waits_beside_a_free_place(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _inside = runtime.enter();
        let mut house = House::new();
        for step in &steps {
            house.take(step);
            house.everybody_looks();
            house.counts_are_those_of_the_claims();
        }
        // The lights go out: whoever is left is told so.
        house.upstream.set_unavailable(Some("closing".into()));
        house.take(&Step::Publish(0));
        house.upstream.retire();
        while let Some((_, mut last)) = house.waiting.pop() {
            let told = last.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            prop_assert!(matches!(told, Poll::Ready(Err(_))));
        }
        house.claims.clear();
        prop_assert!(house.endpoints.iter().all(|endpoint| endpoint.in_flight() == 0 && endpoint.tunnels() == 0));
    }
}

/// A sequence of numbers that looks random and is the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// The same on threads: callers come, give up, hold and release, while endpoints and caps change under them. If one
/// wake-up is lost, some caller waits for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_is_forgotten_when_all_of_it_happens_at_once() {
    const CALLERS: u64 = 24;
    const ROUNDS: usize = 400;
    const CAP: usize = 2;
    let upstream = upstream();
    upstream.set_limits(limits(CAP));
    let endpoints = endpoints();
    upstream.publish(endpoints.clone());
    let served = Arc::new(AtomicUsize::new(0));
    let gave_up = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..CALLERS)
        .map(|seed| {
            let (upstream, served, gave_up) =
                (Arc::clone(&upstream), Arc::clone(&served), Arc::clone(&gave_up));
            tokio::spawn(async move {
                let mut numbers = Numbers(seed);
                for _ in 0..ROUNDS {
                    let ask = ask(numbers.below(3) as usize, numbers.below(2) == 0);
                    let patience = async {
                        for _ in 0..numbers.below(8) {
                            tokio::task::yield_now().await;
                        }
                    };
                    tokio::select! {
                        biased;
                        claim = upstream.acquire_for(&ask) => {
                            let claim = claim.unwrap();
                            assert!(claim.endpoint().in_flight() <= CAP);
                            served.fetch_add(1, Ordering::Relaxed);
                            tokio::task::yield_now().await;
                            drop(claim);
                        }
                        () = patience, if seed % 3 == 0 => {
                            gave_up.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            })
        })
        .collect();
    let done = Arc::new(AtomicBool::new(false));
    let publisher = {
        let (upstream, endpoints, done) = (Arc::clone(&upstream), endpoints.clone(), Arc::clone(&done));
        tokio::spawn(async move {
            let mut numbers = Numbers(99);
            while !done.load(Ordering::Acquire) {
                let set = numbers.below(64);
                upstream.publish(
                    (0..6).filter(|n| set & 1 << n != 0).map(|n| Arc::clone(&endpoints[n])).collect(),
                );
                upstream.set_limits(limits(1 + numbers.below(CAP as u64) as usize));
                tokio::task::yield_now().await;
            }
            // All that is left must be served by this and by the releases that follow.
            upstream.set_limits(limits(CAP));
            upstream.publish(endpoints);
        })
    };
    // The publisher stops while many are still at it: from then on nothing but releases serves those who wait.
    until(|| served.load(Ordering::Relaxed) > CALLERS as usize * ROUNDS / 4).await;
    done.store(true, Ordering::Release);
    within(publisher).await.unwrap();
    for caller in callers {
        within(caller).await.unwrap();
    }
    assert_eq!(served.load(Ordering::Relaxed) + gave_up.load(Ordering::Relaxed), CALLERS as usize * ROUNDS);
    assert_eq!((upstream.load().waiting, upstream.load().in_flight), (0, 0));
    assert!(endpoints.iter().all(|endpoint| endpoint.in_flight() == 0 && endpoint.tunnels() == 0));
}
