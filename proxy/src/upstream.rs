//! A function as the proxy sees it: its endpoints, its waiting room, its limits, its counters.
//!
//! Owns who is served, who waits and who is turned away; the [`claim`](self) itself is in a file of its own.
//! The endpoints have one writer, whoever calls [`Upstream::publish`]; readers take a snapshot and hold no lock. Never
//! starts, probes or stops anything.
//!
//! ```text
//!   acquire ─┬─ an endpoint has room ───────────────────────────► Claim
//!            ├─ there is none: wait for `timeouts.waiting` ──┐
//!            ├─ all are at their cap: wait for `cap_wait` ───┼──► Claim, when one is published or released
//!            │    └─ which is zero ──► AtCapacity            ├──► Unavailable, UnknownFunction: there will be none
//!            └─ the room is full ──► WaitingRoomFull         └──► WaitingTimeout, or AtCapacity if they still are
//! ```

use std::fmt;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::Method;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::access::{Access, RequiredClaim};
use crate::ask::{Ask, Lack};
use crate::claim::Claim;
use crate::endpoint::{Endpoint, Vacancy};
use crate::endpoints::Endpoints;
use crate::error::Error;
use crate::function::{FunctionKey, ReplicaId};
use crate::keys::{self, Admission, HeldKeys};
use crate::limits::{Bounds, FunctionGate, Limit};
use crate::meter::{Kind, Metered, Meters};
use crate::metrics::{Counters, Load, Refused, Totals};
use crate::placement::{Placement, ReplicaKey};
use crate::tunnel::{CloseFrame, Traffic};
use crate::waiting::{Entry, Place, WaitingRoom};
use crate::websocket::EventMode;

/// How long each part of a request may take. `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From the claim to the head of the answer.
    pub request: Option<Duration>,
    /// A body on which no byte moves, in either direction.
    pub idle: Option<Duration>,
    /// A tunnel in which no byte moves.
    pub tunnel_idle: Option<Duration>,
    /// How old a tunnel may become.
    pub lifetime: Option<Duration>,
    /// For how long a WebSocket goes on behind the end of its client's token. `None`: whatever becomes of that.
    pub token_grace: Option<Duration>,
    /// From the end of the request, as far as it was sent to the replica, to the head of the answer.
    pub header: Option<Duration>,
    /// Is `request` also the limit of the answer's body, even of one that keeps flowing?
    pub request_body: bool,
    /// To open a connection to a replica.
    pub connect: Duration,
    /// In the waiting room, while there is no replica.
    pub waiting: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            request: Some(Duration::from_secs(300)),
            idle: Some(Duration::from_secs(300)),
            tunnel_idle: Some(Duration::from_secs(3600)),
            lifetime: None,
            token_grace: Some(Duration::ZERO),
            header: None,
            request_body: false,
            connect: Duration::from_secs(5),
            waiting: Duration::from_secs(60),
        }
    }
}

/// What a function asks of its WebSockets. `None` is nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WebSocketLimits {
    /// How long a message of a client may be, in bytes. One that is longer closes it with 1009.
    pub max_message: Option<u64>,
    /// A client that was silent for so long is sent a ping, and closed with 1001 if it does not answer.
    pub keepalive: Option<Duration>,
}

/// The limits of one function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamLimits {
    /// How long things may take.
    pub timeouts: Timeouts,
    /// Of its WebSockets.
    pub websocket: WebSocketLimits,
    /// How many requests may wait at once, for a replica or for room at one.
    pub waiting_capacity: usize,
    /// How many claims, requests in flight and open tunnels together, each replica takes at a time. `None` is no limit.
    pub cap: Option<NonZeroUsize>,
    /// How long a request may wait when all replicas are at their cap. Zero is not at all.
    ///
    /// It is for those who come then. Who came while there was no replica at all goes on waiting for one with room, for
    /// [`Timeouts::waiting`].
    pub cap_wait: Duration,
    /// How much may be sent to it.
    pub bounds: Bounds,
}

impl Default for UpstreamLimits {
    fn default() -> Self {
        Self {
            timeouts: Timeouts::default(),
            websocket: WebSocketLimits::default(),
            waiting_capacity: 10_000,
            cap: None,
            cap_wait: Duration::ZERO,
            bounds: Bounds::default(),
        }
    }
}

impl UpstreamLimits {
    fn most_claims(&self) -> usize {
        self.cap.map_or(usize::MAX, NonZeroUsize::get)
    }
}

/// One function.
pub struct Upstream {
    key: FunctionKey,
    limits: ArcSwap<UpstreamLimits>,
    /// How many claims each endpoint takes, of the limits in force: read for each claim.
    pub(crate) cap: AtomicUsize,
    /// The bits of an [`Access`].
    access: AtomicU8,
    /// What tokens have to say, where one is asked for.
    required_claims: ArcSwapOption<Vec<RequiredClaim>>,
    compress: AtomicBool,
    /// `None` where any replica will do for each request.
    pub(crate) placement: ArcSwapOption<Placement>,
    /// `None` where WebSockets are for the function itself.
    event_mode: ArcSwapOption<EventMode>,
    /// It has nothing to say to a plain `GET`.
    upgrades_alone: AtomicBool,
    pub(crate) endpoints: ArcSwap<Endpoints>,
    /// Those that take no new work and may still have tunnels.
    leaving: Mutex<Vec<Weak<Endpoint>>>,
    /// `None` where none is held.
    held_keys: ArcSwapOption<HeldKeys>,
    /// Counts up with each claim, so that choices among endpoints are spread.
    pub(crate) turn: AtomicUsize,
    waiting: WaitingRoom<Claim, Error>,
    /// Tripped by each place that is taken. Any number of them before somebody looks is one.
    demand: Notify,
    retired: AtomicBool,
    counters: Counters,
    meters: Meters,
    gate: FunctionGate,
    /// On tunnels.
    traffic: Traffic,
    /// Woken by each set of endpoints, and when connections are held.
    published: Notify,
}

impl Upstream {
    /// The function `key`, with no endpoint yet.
    #[must_use]
    pub fn new(key: FunctionKey, limits: UpstreamLimits) -> Arc<Self> {
        Arc::new(Self {
            key,
            limits: ArcSwap::from_pointee(limits),
            cap: AtomicUsize::new(limits.most_claims()),
            access: AtomicU8::new(Access::default().bits()),
            required_claims: ArcSwapOption::empty(),
            compress: AtomicBool::new(false),
            placement: ArcSwapOption::empty(),
            event_mode: ArcSwapOption::empty(),
            upgrades_alone: AtomicBool::new(false),
            endpoints: ArcSwap::default(),
            leaving: Mutex::default(),
            held_keys: ArcSwapOption::empty(),
            turn: AtomicUsize::new(0),
            waiting: WaitingRoom::new(),
            demand: Notify::new(),
            retired: AtomicBool::new(false),
            counters: Counters::default(),
            meters: Meters::default(),
            gate: FunctionGate::new(&limits.bounds),
            traffic: Traffic::default(),
            published: Notify::new(),
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

    /// The same, without a copy.
    pub(crate) fn limits_now(&self) -> arc_swap::Guard<Arc<UpstreamLimits>> {
        self.limits.load()
    }

    pub(crate) fn shared_limits(&self) -> Arc<UpstreamLimits> {
        self.limits.load_full()
    }

    /// Replaces the limits, for requests from now on. Where there is more room now, those who wait have it.
    pub fn set_limits(self: &Arc<Self>, limits: UpstreamLimits) {
        self.limits.store(Arc::new(limits));
        self.cap.store(limits.most_claims(), Ordering::SeqCst);
        self.gate.set(&limits.bounds);
        self.waiting.serve_all(|ask| self.take(ask, &[]));
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

    /// What tokens have to say to be let in, each of them, where one is asked for.
    pub(crate) fn required_claims(&self) -> Arc<Vec<RequiredClaim>> {
        self.required_claims.load_full().unwrap_or_default()
    }

    /// Asks for this from now on.
    pub fn set_required_claims(&self, required: Vec<RequiredClaim>) {
        self.required_claims.store((!required.is_empty()).then(|| Arc::new(required)));
    }

    /// Are answers that are text compressed for clients that take that?
    #[must_use]
    pub fn compresses(&self) -> bool {
        self.compress.load(Ordering::Relaxed)
    }

    /// Compresses answers from now on, or no more.
    pub fn set_compression(&self, compress: bool) {
        self.compress.store(compress, Ordering::Relaxed);
    }

    /// Holds the connections of this function from now on and tells it what happens on them, or no more: those that are open
    /// stay as they are.
    pub fn set_event_mode(&self, mut mode: Option<EventMode>) {
        if let (Some(mode), Some(before)) = (&mut mode, self.event_mode()) {
            mode.codec.go_on_with(&before.codec);
        }
        let alone = mode.as_ref().is_some_and(|mode| mode.codec.is_for_websockets_alone());
        self.upgrades_alone.store(alone, Ordering::Relaxed);
        self.event_mode.store(mode.map(Arc::new));
        self.published.notify_waiters();
    }

    /// Is a plain request of this method none that the function knows? What it has there is a WebSocket.
    pub(crate) fn asks_for_upgrade(&self, method: &Method) -> bool {
        self.upgrades_alone.load(Ordering::Relaxed) && matches!(*method, Method::GET | Method::HEAD)
    }

    /// How connections are held here, once they are.
    ///
    /// Cancel safe.
    pub(crate) async fn held(&self) -> Arc<EventMode> {
        loop {
            let mut changed = pin!(self.published());
            // Registered before the look, so that what changes in between is not missed.
            changed.as_mut().enable();
            if let Some(mode) = self.event_mode() {
                return mode;
            }
            changed.await;
        }
    }

    /// How connections are held here, if they are.
    #[must_use]
    pub fn event_mode(&self) -> Option<Arc<EventMode>> {
        self.event_mode.load_full()
    }

    /// Sends requests there from now on. Those that wait go on waiting for what they came for: after a change of
    /// [`Placement::key`], to the end of their time.
    pub fn set_placement(&self, placement: Placement) {
        let anywhere = placement.affinity.is_none() && placement.key.is_none();
        self.placement.store((!anywhere).then(|| Arc::new(placement)));
    }

    /// Replaces the endpoints by those that take new work now, and hands claims to those who wait, in their order.
    ///
    /// An endpoint that was in the last set and is not in this one takes no claim any more once this returns, and its
    /// [`drained`](Endpoint::drained) can be awaited. A reason of [`set_unavailable`](Self::set_unavailable) is forgotten.
    pub fn publish(self: &Arc<Self>, endpoints: Vec<Arc<Endpoint>>) {
        let replace = || {
            let endpoints = Arc::new(Endpoints::new(endpoints));
            let before = self.endpoints.load();
            // Only those that come (back): one that was there and has closed itself has a reason that we have not heard yet.
            endpoints.without(&before).for_each(|endpoint| endpoint.open());
            let last = self.endpoints.swap(Arc::clone(&endpoints));
            // After the swap: whoever fails to claim one of these finds the new set when it looks again.
            last.without(&endpoints).for_each(|endpoint| endpoint.close());
            let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
            leaving.retain(|one| one.upgrade().is_some_and(|endpoint| endpoint.in_flight() > 0));
            leaving.extend(last.without(&endpoints).map(Arc::downgrade));
        };
        self.waiting.change(replace, |ask| self.take(ask, &[]));
        self.published.notify_waiters();
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
                self.waiting.refuse(&self.unavailable(reason.into()));
            }
            None => self.waiting.wait_again(),
        }
    }

    /// Closes the tunnels that are open now, those of replicas that go included, and tells how many. A WebSocket has
    /// `frame` sent to both sides, between two frames; anything else ends without a word. Those that open later stay.
    pub fn close_tunnels(&self, frame: CloseFrame) -> usize {
        let frame = Arc::new(frame);
        let mut count = 0;
        for endpoint in self.here_or_leaving() {
            count += endpoint.tunnels();
            endpoint.ends().close(Arc::clone(&frame));
        }
        count
    }

    /// The connections that go through to each replica now, those that go included. A replica without one is left out.
    #[must_use]
    pub fn tunnels_of_replicas(&self) -> Vec<(ReplicaId, usize)> {
        let all = self.here_or_leaving().into_iter();
        let counted = all.map(|endpoint| (endpoint.id().clone(), endpoint.places().of(Kind::Tunnel).open()));
        counted.filter(|(_, count)| *count > 0).collect()
    }

    /// The endpoints that take new work, and those that do not and may still have tunnels.
    fn here_or_leaving(&self) -> Vec<Arc<Endpoint>> {
        let now = self.endpoints.load();
        let leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut all: Vec<Arc<Endpoint>> = now.iter().cloned().collect();
        for endpoint in leaving.iter().filter_map(Weak::upgrade) {
            if !all.iter().any(|one| Arc::ptr_eq(one, &endpoint)) {
                all.push(endpoint);
            }
        }
        all
    }

    /// Says for which keys there is a replica in whatever phase, or is to be one: they count against
    /// [`Placement::max_keys`], and their requests may wait, whatever that is. Those who wait for a key with a reason, or
    /// come and could not be served, are told that.
    pub fn hold_keys(&self, keys: HeldKeys) {
        if keys.is_empty() && self.held_keys.load().is_none() {
            return;
        }
        let keys = Arc::new(keys);
        self.held_keys.store((!keys.is_empty()).then(|| Arc::clone(&keys)));
        for (key, reason) in &*keys {
            if let Some(reason) = reason {
                self.waiting.refuse_key(key, &self.unavailable(Arc::clone(reason)));
            }
        }
    }

    /// The function was deleted: whoever waits or still comes is told that there is none. Final.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.waiting.refuse(&self.unknown());
    }

    /// An endpoint without a key, if one takes new work and nobody waits for it.
    #[must_use]
    pub fn claim(self: &Arc<Self>) -> Option<Claim> {
        self.claim_for(&Ask::default())
    }

    /// What is asked for, if it can be had now and nobody waits for it.
    #[must_use]
    pub fn claim_for(self: &Arc<Self>, ask: &Ask) -> Option<Claim> {
        if self.waiting.anybody() { None } else { self.take(ask, &[]).ok() }
    }

    /// An endpoint without a key, or a place in the waiting room until there is one: see
    /// [`acquire_for`](Self::acquire_for).
    ///
    /// # Errors
    /// As there.
    pub async fn acquire(self: &Arc<Self>) -> Result<Claim, Error> {
        self.acquire_for(&Ask::default()).await
    }

    /// What is asked for, or a place in the waiting room until it can be had.
    ///
    /// Cancel safe: dropping the future leaves the room.
    ///
    /// # Errors
    /// When the room is full, a waiting limit passes, or it is known that there will be no endpoint.
    pub async fn acquire_for(self: &Arc<Self>, ask: &Ask) -> Result<Claim, Error> {
        let mut known = None;
        // Where somebody waits, what can be had is theirs.
        if !self.waiting.anybody() {
            match self.take(ask, &[]) {
                Ok(claim) => return Ok(claim),
                Err(lack) => known = Some(lack),
            }
        }
        let limits = self.limits();
        if known == Some(Lack::Room) && limits.cap_wait.is_zero() {
            return Err(self.refused(self.at_capacity()));
        }
        let admit = |lack, keys: &mut dyn Iterator<Item = &ReplicaKey>| match (lack, &ask.key) {
            (Lack::Room, _) if limits.cap_wait.is_zero() => Err(self.at_capacity()),
            (Lack::Endpoint, Some(key)) => self.admit_key(key, keys),
            (Lack::Room, _) | (Lack::Endpoint, None) => Ok(()),
        };
        let take = |ask: &Ask| self.take(ask, &[]);
        match self.waiting.enter(ask, limits.waiting_capacity, take, admit) {
            Entry::Served(claim) => Ok(claim),
            Entry::Refused(error) => Err(self.refused(error)),
            Entry::Full => {
                let (function, capacity) = (self.key.clone(), limits.waiting_capacity);
                Err(self.refused(Error::WaitingRoomFull { function, capacity }))
            }
            Entry::Place(place, lack) => self.wait(ask, place, lack, &limits).await,
        }
    }

    /// Waits to be called, for as long as one may who came for want of this.
    async fn wait(
        &self,
        ask: &Ask,
        place: Place<Claim, Error>,
        lack: Lack,
        limits: &UpstreamLimits,
    ) -> Result<Claim, Error> {
        self.demand.notify_one();
        let began = Instant::now();
        let limit = match lack {
            Lack::Endpoint => limits.timeouts.waiting,
            Lack::Room => limits.cap_wait,
        };
        let called = timeout(limit, place).await;
        let claim =
            called.unwrap_or_else(|_| Err(self.too_late(ask, limit))).map_err(|error| self.refused(error))?;
        if lack == Lack::Endpoint {
            self.counters.cold_start(began.elapsed());
        }
        Ok(claim)
    }

    /// A claim on an endpoint of `key` was released: whoever waits for that has it.
    pub(crate) fn made_room(self: &Arc<Self>, key: Option<&ReplicaKey>) {
        if self.waiting.anybody() {
            self.waiting.serve(key, |ask| self.take(ask, &[]));
        }
    }

    /// Resolves when a request has begun to wait since this last resolved. For one task: whoever starts replicas. It
    /// may have left again; [`load`](Self::load) tells who waits now.
    ///
    /// Cancel safe.
    pub async fn demand(&self) {
        self.demand.notified().await;
    }

    /// Who waits for replicas of keys, and for which: each key with the number of requests.
    #[must_use]
    pub fn waiting_keys(&self) -> Vec<(ReplicaKey, usize)> {
        self.waiting.keys()
    }

    pub(crate) fn anybody_waits(&self) -> bool {
        self.waiting.anybody()
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

    /// How often each of its [`Bounds`] turned something away, since this process began.
    #[must_use]
    pub fn limited(&self) -> [(Limit, u64); Limit::OF_FUNCTION.len()] {
        self.gate.reached()
    }

    /// How long ago something of a message last moved on a tunnel of this function, either way; a ping or a pong is
    /// none. Of protocols other than WebSocket each byte counts. `None` as long as there was nothing. Where replicas have
    /// keys, each of them tells: [`Endpoint::last_traffic`].
    #[must_use]
    pub fn last_traffic(&self) -> Option<Duration> {
        self.traffic.last().map(|last| last.elapsed())
    }

    /// Resolves with each set of endpoints that is published once this was [enabled](tokio::sync::futures::Notified::enable).
    pub(crate) fn published(&self) -> tokio::sync::futures::Notified<'_> {
        self.published.notified()
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

    /// What it has used since this process began. The figures are each right; those of different kinds are not of one
    /// instant.
    #[must_use]
    pub fn metered(&self) -> Metered {
        let (tunnels, invoked) =
            (self.meters.of(Kind::Tunnel).read(), self.meters.of(Kind::Invocation).read());
        let (passed, held) = (self.counters.websockets.carried(), self.counters.events.carried());
        let both = |one: [u64; 2], other: [u64; 2]| [one[0] + other[0], one[1] + other[1]];
        let of_held = self.counters.events.held();
        Metered {
            active: tunnels.union,
            connection: tunnels.sum.saturating_add(of_held.sum),
            held: of_held.union,
            invocation_active: invoked.union,
            invocations: invoked.begun,
            messages: both(passed.messages, held.messages),
            units: both(passed.units, held.units),
            bytes: both(passed.bytes, held.bytes),
        }
    }

    pub(crate) fn meters(&self) -> &Meters {
        &self.meters
    }

    pub(crate) fn gate(&self) -> &FunctionGate {
        &self.gate
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// May somebody wait for a replica of `key`, while others wait for those of `waiting`?
    fn admit_key(
        &self,
        key: &ReplicaKey,
        waiting: &mut dyn Iterator<Item = &ReplicaKey>,
    ) -> Result<(), Error> {
        let max = self.placement.load().as_ref().map_or(0, |placement| placement.max_keys);
        let (endpoints, held) = (self.endpoints.load(), self.held_keys.load());
        match keys::admit(key, held.as_deref(), endpoints.keys(), waiting, max) {
            Admission::Waits => Ok(()),
            Admission::Refused(reason) => Err(self.unavailable(reason)),
            Admission::TooMany => Err(Error::TooManyKeys { function: self.key.clone(), max }),
        }
    }

    fn unavailable(&self, reason: Arc<str>) -> Error {
        Error::Unavailable { function: self.key.clone(), reason }
    }

    fn refused(&self, error: Error) -> Error {
        self.counters.refused(match error {
            Error::WaitingRoomFull { .. } => Refused::Full,
            Error::WaitingTimeout { .. } => Refused::Late,
            Error::AtCapacity { .. } | Error::TooManyKeys { .. } => Refused::Capacity,
            _ => Refused::Unavailable,
        });
        error
    }

    fn unknown(&self) -> Error {
        Error::UnknownFunction { name: self.key.to_string() }
    }

    fn at_capacity(&self) -> Error {
        Error::AtCapacity { function: self.key.clone(), cap: self.cap.load(Ordering::Relaxed) }
    }

    /// What to tell a request that has waited for `limit`: what it would wait for now.
    fn too_late(&self, ask: &Ask, limit: Duration) -> Error {
        let full =
            |endpoint: &Arc<Endpoint>| endpoint.vacancy(self.cap.load(Ordering::Relaxed)) != Vacancy::Closed;
        if self.endpoints.load().of(ask.key.as_ref()).iter().any(full) {
            return self.at_capacity();
        }
        Error::WaitingTimeout { function: self.key.clone(), limit }
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
