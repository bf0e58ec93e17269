//! A function as the proxy sees it: its endpoints, its waiting room, its limits, its counters.
//!
//! Owns claiming: choosing an endpoint and counting it in flight is one operation, and its guard is the [`Claim`].
//! The endpoints have one writer, whoever calls [`Upstream::publish`]; readers take a snapshot and hold no lock. Never
//! starts, probes or stops anything.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::access::Access;
use crate::balance::least_loaded;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::function::FunctionKey;
use crate::metrics::{Counters, Load, Refused, Totals};
use crate::tunnel::Traffic;
use crate::waiting::{Entry, WaitingRoom};

/// How long each part of a request may take. `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From the claim to the head of the answer.
    pub request: Option<Duration>,
    /// A body on which no byte moves, in either direction.
    pub idle: Option<Duration>,
    /// A tunnel in which no byte moves.
    pub tunnel_idle: Option<Duration>,
    /// To open a connection to a replica.
    pub connect: Duration,
    /// In the waiting room.
    pub waiting: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            request: Some(Duration::from_secs(300)),
            idle: Some(Duration::from_secs(300)),
            tunnel_idle: Some(Duration::from_secs(3600)),
            connect: Duration::from_secs(5),
            waiting: Duration::from_secs(60),
        }
    }
}

/// The limits of one function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamLimits {
    /// How long things may take.
    pub timeouts: Timeouts,
    /// How many requests may wait for a replica at once.
    pub waiting_capacity: usize,
}

impl Default for UpstreamLimits {
    fn default() -> Self {
        Self { timeouts: Timeouts::default(), waiting_capacity: 1000 }
    }
}

/// One function.
pub struct Upstream {
    key: FunctionKey,
    limits: ArcSwap<UpstreamLimits>,
    /// The bits of an [`Access`].
    access: AtomicU8,
    endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
    /// Counts up with each claim, so that ties among endpoints are spread.
    turn: AtomicUsize,
    waiting: WaitingRoom<Claim, Error>,
    /// Tripped by each place that is taken. Any number of them before somebody looks is one.
    demand: Notify,
    retired: AtomicBool,
    counters: Counters,
    /// On tunnels.
    traffic: Traffic,
}

/// An endpoint, and one in its count of claims. Dropping it releases the claim.
pub struct Claim {
    upstream: Arc<Upstream>,
    endpoint: Arc<Endpoint>,
}

impl Upstream {
    /// The function `key`, with no endpoint yet.
    #[must_use]
    pub fn new(key: FunctionKey, limits: UpstreamLimits) -> Arc<Self> {
        Arc::new(Self {
            key,
            limits: ArcSwap::from_pointee(limits),
            access: AtomicU8::new(Access::default().bits()),
            endpoints: ArcSwap::default(),
            turn: AtomicUsize::new(0),
            waiting: WaitingRoom::new(),
            demand: Notify::new(),
            retired: AtomicBool::new(false),
            counters: Counters::default(),
            traffic: Traffic::default(),
        })
    }

    /// Which function this is.
    #[must_use]
    pub fn key(&self) -> &FunctionKey {
        &self.key
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> UpstreamLimits {
        **self.limits.load()
    }

    /// Replaces the limits, for requests from now on.
    pub fn set_limits(&self, limits: UpstreamLimits) {
        self.limits.store(Arc::new(limits));
    }

    /// What is asked of callers.
    #[must_use]
    pub fn access(&self) -> Access {
        Access::from_bits(self.access.load(Ordering::Relaxed))
    }

    /// Asks this of callers from now on. Requests that were admitted go on.
    pub fn set_access(&self, access: Access) {
        self.access.store(access.bits(), Ordering::Relaxed);
    }

    /// Replaces the endpoints by those that take new work now, and hands claims to those who wait, in their order.
    ///
    /// An endpoint that was in the last set and is not in this one takes no claim any more once this returns, and its
    /// [`drained`](Endpoint::drained) can be awaited. A reason of [`set_unavailable`](Self::set_unavailable) is forgotten.
    pub fn publish(self: &Arc<Self>, endpoints: Vec<Arc<Endpoint>>) {
        let replace = || {
            let endpoints = Arc::new(endpoints);
            let before = self.endpoints.load();
            // Only those that come (back): one that was there and has closed itself has a reason that we have not heard yet.
            for endpoint in endpoints.iter().filter(|new| !before.iter().any(|old| Arc::ptr_eq(old, new))) {
                endpoint.open();
            }
            let last = self.endpoints.swap(Arc::clone(&endpoints));
            // After the swap: whoever fails to claim one of these finds the new set when it looks again.
            for endpoint in last.iter().filter(|old| !endpoints.iter().any(|new| Arc::ptr_eq(old, new))) {
                endpoint.close();
            }
        };
        self.waiting.serve(replace, || self.claim());
        if self.retired.load(Ordering::Acquire) {
            self.waiting.refuse(&self.unknown());
        }
    }

    /// `Some`: as long as there is no endpoint, everybody who waits or comes is told the reason at once. `None`: they
    /// wait (again).
    pub fn set_unavailable(&self, reason: Option<String>) {
        if self.retired.load(Ordering::Acquire) {
            return;
        }
        match reason {
            Some(reason) => {
                let reason = reason.into();
                self.waiting.refuse(&Error::Unavailable { function: self.key.clone(), reason });
            }
            None => self.waiting.wait_again(),
        }
    }

    /// The function was deleted: whoever waits or still comes is told that there is none. Final.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.waiting.refuse(&self.unknown());
    }

    /// An endpoint, if one takes new work.
    #[must_use]
    pub fn claim(self: &Arc<Self>) -> Option<Claim> {
        self.claim_besides(&[])
    }

    /// An endpoint, or a place in the waiting room until there is one.
    ///
    /// Cancel safe: dropping the future leaves the room.
    ///
    /// # Errors
    /// When the room is full, the waiting limit passes, or it is known that there will be no endpoint.
    pub async fn acquire(self: &Arc<Self>) -> Result<Claim, Error> {
        if let Some(claim) = self.claim() {
            return Ok(claim);
        }
        let limits = self.limits();
        match self.waiting.enter(limits.waiting_capacity, || self.claim()) {
            Entry::Served(claim) => Ok(claim),
            Entry::Refused(error) => Err(self.refused(Refused::Unavailable, error)),
            Entry::Full => {
                let (function, capacity) = (self.key.clone(), limits.waiting_capacity);
                Err(self.refused(Refused::Full, Error::WaitingRoomFull { function, capacity }))
            }
            Entry::Place(place) => {
                self.demand.notify_one();
                let began = Instant::now();
                match timeout(limits.timeouts.waiting, place).await {
                    Ok(Ok(claim)) => {
                        self.counters.cold_start(began.elapsed());
                        Ok(claim)
                    }
                    Ok(Err(error)) => Err(self.refused(Refused::Unavailable, error)),
                    Err(_) => {
                        let (function, limit) = (self.key.clone(), limits.timeouts.waiting);
                        Err(self.refused(Refused::Late, Error::WaitingTimeout { function, limit }))
                    }
                }
            }
        }
    }

    /// Resolves when a request has begun to wait since this last resolved. For one task: whoever starts replicas. It
    /// may have left again; [`load`](Self::load) tells who waits now.
    ///
    /// Cancel safe.
    pub async fn demand(&self) {
        self.demand.notified().await;
    }

    fn refused(&self, why: Refused, error: Error) -> Error {
        self.counters.refused(why);
        error
    }

    /// What is going on now.
    #[must_use]
    pub fn load(&self) -> Load {
        self.counters.load(self.waiting.len())
    }

    /// All that was counted since this process began.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.counters.totals(self.waiting.len())
    }

    /// How long ago something of a message last moved on a tunnel of this function, either way; a ping or a pong is
    /// none. Of protocols other than WebSocket each byte counts. `None` as long as there was nothing.
    #[must_use]
    pub fn last_traffic(&self) -> Option<Duration> {
        self.traffic.last().map(|last| last.elapsed())
    }

    pub(crate) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// How many requests this function has answered in its life, as far as it is known: see
    /// [`set_requests`](Self::set_requests).
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.counters.requests()
    }

    /// Lets [`requests`](Self::requests) count on from `count`: what an earlier process counted, or 0 for a function
    /// that begins anew.
    pub fn set_requests(&self, count: u64) {
        self.counters.set_requests(count);
    }

    /// An endpoint that is none of `tried`, if one takes new work.
    pub(crate) fn claim_besides(self: &Arc<Self>, tried: &[Arc<Endpoint>]) -> Option<Claim> {
        loop {
            let endpoints = self.endpoints.load();
            // One endpoint is the common case, and needs no turn.
            let turn = if endpoints.len() > 1 { self.turn.fetch_add(1, Ordering::Relaxed) } else { 0 };
            let chosen = least_loaded(endpoints.len(), turn, |index| {
                let endpoint = &endpoints[index];
                if tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint)) { None } else { endpoint.load() }
            })?;
            let endpoint = &endpoints[chosen];
            // Fails when it was closed since: look again, the set has changed or it counts as draining now.
            if endpoint.try_claim() {
                self.counters.claimed();
                return Some(Claim { upstream: Arc::clone(self), endpoint: Arc::clone(endpoint) });
            }
        }
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    fn unknown(&self) -> Error {
        Error::UnknownFunction { name: self.key.to_string() }
    }
}

impl Claim {
    /// The function.
    #[must_use]
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// The replica.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.upstream.counters.released();
        self.endpoint.release();
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("function", self.upstream.key())
            .field("replica", self.endpoint.id())
            .finish()
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("key", &self.key)
            .field("endpoints", &self.endpoints.load())
            .field("load", &self.load())
            .finish_non_exhaustive()
    }
}
