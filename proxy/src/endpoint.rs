//! One replica as the proxy sees it: an address, a count of claims, a pool of connections.
//!
//! Owns the rule that makes withdrawing safe: the counts and the `closed` bit are one atomic. A caller that looked at an
//! old set of endpoints either gets its claim before the bit is set, and is counted, or fails, and looks again. So once
//! an endpoint is closed, its count only falls. For the same reason the cap is kept by the claim itself: no two callers
//! can both take the last place.
//!
//! ```text
//!   open ──close()──► draining (claims > 0) ──last release──► drained
//!     ▲                                                         │
//!     └───────────────────── open() ────────────────────────────┘   published again
//! ```

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::Notify;

use crate::affinity::Tag;
use crate::function::ReplicaId;
use crate::http1::replica::Connection;
use crate::http2::Lines;
use crate::meter::Places;
use crate::placement::ReplicaKey;
use crate::pool::{self, Pool};
use crate::tunnel::{Ends, Traffic};

/// The bit of the state that refuses new claims.
const CLOSED: u64 = 1 << 63;

/// One claim for a tunnel, among the bits that count these. They lie between the count of all claims and `CLOSED`.
const TUNNEL: u64 = 1 << 32;

/// What is going on at an endpoint. Ordered as tunnels see it: by the number of tunnels, then by all claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Occupancy {
    /// Claims for tunnels.
    pub(crate) tunnels: usize,
    /// All claims.
    pub(crate) in_flight: usize,
}

/// Does an endpoint take one more claim?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vacancy {
    Free(Occupancy),
    /// It holds as many as it may.
    Full,
    Closed,
}

impl Occupancy {
    fn of(state: u64) -> Self {
        let tunnels = ((state & !CLOSED) / TUNNEL) as usize;
        Self { tunnels, in_flight: (state % TUNNEL) as usize }
    }
}

impl Vacancy {
    fn of(state: u64, cap: usize) -> Self {
        match Occupancy::of(state) {
            _ if state & CLOSED != 0 => Self::Closed,
            held if held.in_flight < cap => Self::Free(held),
            _ => Self::Full,
        }
    }
}

/// The address of one replica, and what is going on there.
#[derive(Debug)]
pub struct Endpoint {
    id: ReplicaId,
    address: SocketAddr,
    key: Option<ReplicaKey>,
    /// What the cookies of its clients hold, once there are any.
    tag: OnceLock<Tag>,
    /// The `Host` of requests, written once.
    host: HeaderValue,
    /// `CLOSED`, the count of claims for tunnels and the count of all claims.
    state: AtomicU64,
    /// All claims there ever were, if it has a key.
    claims: AtomicU64,
    /// Woken each time the count falls to zero.
    idle: Notify,
    pool: Arc<Pool>,
    /// There only if it is asked over HTTP/2.
    lines: Option<Arc<Lines>>,
    /// Speaks to the tunnels.
    ends: Ends,
    /// On them, if it has a key.
    traffic: Traffic,
    /// What is open here of that which is metered.
    places: Places,
}

impl Endpoint {
    /// The replica `id` that listens at `address`.
    #[must_use]
    pub fn new(id: ReplicaId, address: SocketAddr) -> Arc<Self> {
        Self::of_key(id, address, None)
    }

    /// The replica `id` that listens at `address`, and takes requests of `key` only: those without a key, if there is
    /// none.
    #[must_use]
    pub fn of_key(id: ReplicaId, address: SocketAddr, key: Option<ReplicaKey>) -> Arc<Self> {
        Self::with(id, address, key, None)
    }

    /// The same for a replica that is asked over HTTP/2, by prior knowledge. Requests that are to become tunnels are sent
    /// over HTTP/1.1 even so.
    #[must_use]
    pub fn over_http2(id: ReplicaId, address: SocketAddr, key: Option<ReplicaKey>) -> Arc<Self> {
        Self::with(id, address, key, Some(Lines::new(address)))
    }

    fn with(
        id: ReplicaId,
        address: SocketAddr,
        key: Option<ReplicaKey>,
        lines: Option<Arc<Lines>>,
    ) -> Arc<Self> {
        let endpoint = Self {
            id,
            address,
            key,
            tag: OnceLock::new(),
            host: HeaderValue::try_from(address.to_string()).expect("an address is visible ASCII"),
            state: AtomicU64::new(0),
            claims: AtomicU64::new(0),
            idle: Notify::new(),
            pool: Arc::default(),
            lines,
            ends: Ends::default(),
            traffic: Traffic::default(),
            places: Places::default(),
        };
        endpoint.keep(true);
        Arc::new(endpoint)
    }

    /// Which replica this is.
    #[must_use]
    pub fn id(&self) -> &ReplicaId {
        &self.id
    }

    /// Whose requests it takes.
    #[must_use]
    pub fn key(&self) -> Option<&ReplicaKey> {
        self.key.as_ref()
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Claims held now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.occupancy().in_flight
    }

    /// Those of them that are for tunnels: open ones, and handshakes that have not been answered yet.
    #[must_use]
    pub fn tunnels(&self) -> usize {
        self.occupancy().tunnels
    }

    fn occupancy(&self) -> Occupancy {
        Occupancy::of(self.state.load(Ordering::Acquire))
    }

    /// How many claims there were since it was made. Counted for the replicas of keys alone: of others the function's own
    /// counters tell.
    #[must_use]
    pub fn claims_total(&self) -> u64 {
        self.claims.load(Ordering::Relaxed)
    }

    /// How long ago something of a message last moved on a tunnel of this replica. Noted for the replicas of keys alone: of
    /// others [`Upstream::last_traffic`](crate::Upstream::last_traffic) tells.
    #[must_use]
    pub fn last_traffic(&self) -> Option<Duration> {
        self.traffic.last().map(|last| last.elapsed())
    }

    pub(crate) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    pub(crate) fn places(&self) -> &Places {
        &self.places
    }

    /// Resolves when no claim is left. After [`close`](Self::close), or after the endpoint was published no more, none
    /// can come.
    pub async fn drained(&self) {
        loop {
            let mut woken = pin!(self.idle.notified());
            // Registered before the look, so that a release in between is not missed.
            woken.as_mut().enable();
            if self.in_flight() == 0 {
                return;
            }
            woken.await;
        }
    }

    /// Takes no new claim and drops idle connections. Claims that are held run on.
    pub fn close(&self) {
        self.state.fetch_or(CLOSED, Ordering::AcqRel);
        self.keep(false);
    }

    /// Ends the tunnels to this replica: those that are open spread evenly over `over`, the first of them now; those
    /// that still open, at once. A WebSocket is closed with 1012 to its client and 1001 to the function, between two
    /// frames, and has ended at most 11 seconds after its turn; mostly it takes no longer than the two need to answer.
    /// [`drained`](Self::drained) tells when all have.
    ///
    /// Called again, no tunnel's turn is later than it was. It is not taken back for any tunnel that is open; an
    /// endpoint that is published again keeps those that open then.
    pub fn end_tunnels(&self, over: Duration) {
        self.ends.pace(over);
    }

    pub(crate) fn ends(&self) -> &Ends {
        &self.ends
    }

    /// Takes claims (again).
    pub(crate) fn open(&self) {
        self.ends.recall();
        self.keep(true);
        self.state.fetch_and(!CLOSED, Ordering::AcqRel);
    }

    /// Is there room for one more claim, where there may be `cap`?
    pub(crate) fn vacancy(&self, cap: usize) -> Vacancy {
        Vacancy::of(self.state.load(Ordering::Acquire), cap)
    }

    /// Counts one more claim for a request, unless closed or full. Every `true` needs a [`release`](Self::release).
    pub(crate) fn try_claim(&self, cap: usize) -> bool {
        self.try_count(cap, 1, |_| true)
    }

    /// The same for a tunnel, and only if there are no more and no fewer tunnels than `seen`: of callers that have seen
    /// the same numbers and chosen the same endpoint, one gets it and the others look again.
    pub(crate) fn try_claim_tunnel(&self, cap: usize, seen: usize) -> bool {
        self.try_count(cap, 1 + TUNNEL, |held| held.tunnels == seen)
    }

    /// The same for one that there was before this process: it is there, whatever the cap.
    pub(crate) fn try_claim_tunnel_again(&self) -> bool {
        self.try_count(usize::MAX, 1 + TUNNEL, |_| true)
    }

    fn try_count(&self, cap: usize, claim: u64, if_still: impl Fn(Occupancy) -> bool) -> bool {
        let counted = |state| match Vacancy::of(state, cap) {
            Vacancy::Free(held) if if_still(held) => Some(state + claim),
            _ => None,
        };
        let claimed = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, counted).is_ok();
        if claimed && self.key.is_some() {
            self.claims.fetch_add(1, Ordering::Relaxed);
        }
        claimed
    }

    /// Takes back a claim, which was for a tunnel or not.
    ///
    /// Sequentially consistent: whoever releases looks next whether anybody waits, and whoever waits has said so before
    /// looking here. One of the two sees the other.
    pub(crate) fn release(&self, tunnel: bool) {
        let claim = if tunnel { 1 + TUNNEL } else { 1 };
        let held = Occupancy::of(self.state.fetch_sub(claim, Ordering::SeqCst));
        debug_assert!(held.in_flight > 0 && (!tunnel || held.tunnels > 0), "released more than was claimed");
        if held.in_flight == 1 {
            self.idle.notify_waiters();
        }
    }

    /// What the cookies of its clients hold, made of its id when it is asked for the first time.
    pub(crate) fn tag(&self, make: impl FnOnce(&ReplicaId) -> Tag) -> Tag {
        *self.tag.get_or_init(|| make(&self.id))
    }

    pub(crate) fn host(&self) -> &HeaderValue {
        &self.host
    }

    fn keep(&self, keep: bool) {
        // Of those of HTTP/1 that were to become tunnels and did not, none is for other requests.
        self.pool.keep(keep && self.lines.is_none());
        if let Some(lines) = &self.lines {
            lines.keep(keep);
        }
    }

    /// The connections of HTTP/2, if it is asked over these.
    pub(crate) fn lines(&self) -> Option<&Arc<Lines>> {
        self.lines.as_ref()
    }

    /// A connection that was used before.
    pub(crate) fn reuse(&self) -> Option<Box<Connection>> {
        self.pool.take()
    }

    /// A new connection, within `limit`.
    pub(crate) async fn connect(&self, limit: Duration) -> std::io::Result<Box<Connection>> {
        pool::open(self.address, limit).await
    }

    /// Where connections rest that have nothing to do.
    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    fn endpoint() -> Arc<Endpoint> {
        Endpoint::new("f-1".parse().unwrap(), "127.0.0.1:1".parse().unwrap())
    }

    #[test]
    fn who_looked_before_the_close_and_claims_after_it_gets_nothing() {
        let endpoint = endpoint();
        assert!(matches!(endpoint.vacancy(1), Vacancy::Free(_)));
        endpoint.close();
        assert!(!endpoint.try_claim(1));
        assert_eq!((endpoint.vacancy(1), endpoint.in_flight()), (Vacancy::Closed, 0));
        endpoint.open();
        assert!(endpoint.try_claim(1));
        endpoint.close();
        assert_eq!(endpoint.in_flight(), 1, "what is held is still counted");
    }

    #[test]
    fn requests_and_tunnels_are_counted_together_up_to_the_cap_and_tunnels_also_alone() {
        let endpoint = endpoint();
        assert!(endpoint.try_claim(2) && endpoint.try_claim_tunnel(2, 0));
        assert_eq!((endpoint.in_flight(), endpoint.tunnels()), (2, 1));
        assert_eq!(endpoint.vacancy(2), Vacancy::Full);
        assert!(!endpoint.try_claim(2) && !endpoint.try_claim_tunnel(2, 1));
        assert!(!endpoint.try_claim_tunnel(3, 0), "another tunnel came since");
        assert!(endpoint.try_claim_tunnel(3, 1));
        endpoint.close();
        assert_eq!((endpoint.in_flight(), endpoint.tunnels()), (3, 2));
        for tunnel in [true, false, true] {
            endpoint.release(tunnel);
        }
        assert_eq!((endpoint.in_flight(), endpoint.tunnels()), (0, 0));
    }

    #[test]
    fn callers_at_one_moment_never_get_more_than_the_cap() {
        const CAP: usize = 3;
        let (endpoint, most) = (endpoint(), std::sync::atomic::AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..20_000 {
                        let tunnel = round % 2 == 0;
                        let seen = endpoint.tunnels();
                        if if tunnel { endpoint.try_claim_tunnel(CAP, seen) } else { endpoint.try_claim(CAP) }
                        {
                            most.fetch_max(endpoint.in_flight(), Ordering::Relaxed);
                            endpoint.release(tunnel);
                        }
                    }
                });
            }
        });
        assert!((1..=CAP).contains(&most.load(Ordering::Relaxed)), "{most:?}");
        assert_eq!((endpoint.in_flight(), endpoint.tunnels()), (0, 0));
    }

    #[test]
    fn once_closed_and_without_claims_an_endpoint_stays_so() {
        let (endpoint, stop) = (endpoint(), AtomicBool::new(false));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        if endpoint.try_claim(usize::MAX) {
                            endpoint.release(false);
                        }
                    }
                });
            }
            for _ in 0..2_000 {
                endpoint.close();
                while endpoint.in_flight() > 0 {
                    thread::yield_now();
                }
                assert!((0..100).all(|_| endpoint.in_flight() == 0), "a claim came after the close");
                endpoint.open();
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(endpoint.in_flight(), 0);
    }
}
