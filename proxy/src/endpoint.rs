//! One replica as the proxy sees it: an address, a count of claims, a pool of connections.
//!
//! Owns the rule that makes withdrawing safe: the count and the `closed` bit are one atomic. A caller that looked at an
//! old set of endpoints either gets its claim before the bit is set, and is counted, or fails, and looks again. So once
//! an endpoint is closed, its count only falls.
//!
//! ```text
//!   open ──close()──► draining (claims > 0) ──last release──► drained
//!     ▲                                                         │
//!     └───────────────────── open() ────────────────────────────┘   published again
//! ```

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::Notify;

use crate::function::ReplicaId;
use crate::pool::{Connection, Pool};
use crate::tunnel::Ends;

/// The bit of the state that refuses new claims; the bits below count claims.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// The address of one replica, and what is going on there.
#[derive(Debug)]
pub struct Endpoint {
    id: ReplicaId,
    address: SocketAddr,
    /// The `Host` of requests, written once.
    host: HeaderValue,
    /// `CLOSED` and the count of claims.
    state: AtomicUsize,
    /// Woken each time the count falls to zero.
    idle: Notify,
    pool: Arc<Pool>,
    /// Speaks to the tunnels.
    ends: Ends,
}

impl Endpoint {
    /// The replica `id` that listens at `address`.
    #[must_use]
    pub fn new(id: ReplicaId, address: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            id,
            address,
            host: HeaderValue::try_from(address.to_string()).expect("an address is visible ASCII"),
            state: AtomicUsize::new(0),
            idle: Notify::new(),
            pool: Arc::default(),
            ends: Ends::default(),
        })
    }

    /// Which replica this is.
    #[must_use]
    pub fn id(&self) -> &ReplicaId {
        &self.id
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Claims held now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.state.load(Ordering::Acquire) & !CLOSED
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
        self.pool.keep(false);
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
        self.pool.keep(true);
        self.state.fetch_and(!CLOSED, Ordering::AcqRel);
    }

    /// The count of claims, `None` when no new one is taken.
    pub(crate) fn load(&self) -> Option<usize> {
        let state = self.state.load(Ordering::Acquire);
        (state & CLOSED == 0).then_some(state)
    }

    /// Counts one more claim, unless closed. Every `true` needs a [`release`](Self::release).
    pub(crate) fn try_claim(&self) -> bool {
        self.state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
                (state & CLOSED == 0).then_some(state + 1)
            })
            .is_ok()
    }

    pub(crate) fn release(&self) {
        let before = self.state.fetch_sub(1, Ordering::AcqRel);
        debug_assert_ne!(before & !CLOSED, 0, "released more than was claimed");
        if before & !CLOSED == 1 {
            self.idle.notify_waiters();
        }
    }

    pub(crate) fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// A connection that was used before.
    pub(crate) fn reuse(&self) -> Option<Connection> {
        self.pool.take()
    }

    /// A new connection, within `limit`.
    pub(crate) async fn connect(&self, limit: Duration) -> std::io::Result<Connection> {
        Connection::open(&self.pool, self.address, limit).await
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
        assert_eq!(endpoint.load(), Some(0));
        endpoint.close();
        assert!(!endpoint.try_claim());
        assert_eq!((endpoint.load(), endpoint.in_flight()), (None, 0));
        endpoint.open();
        assert!(endpoint.try_claim());
        endpoint.close();
        assert_eq!(endpoint.in_flight(), 1, "what is held is still counted");
    }

    #[test]
    fn once_closed_and_without_claims_an_endpoint_stays_so() {
        let (endpoint, stop) = (endpoint(), AtomicBool::new(false));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        if endpoint.try_claim() {
                            endpoint.release();
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
