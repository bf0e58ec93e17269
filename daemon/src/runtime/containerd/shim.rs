//! Keeps starts off a shim that is about to end.
//!
//! Replicas of a namespace share one shim process. It ends when the last of its containers is deleted; a
//! container that is created in that moment finds a shim that still listens but no longer serves, and fails.
//! So a deletion that may be the last one has the namespace to itself; creations, and deletions that leave
//! others behind, run side by side. The same order keeps the control group of a namespace from being removed
//! under a replica that is just being put there.
//!
//! Where there is no shim yet, the first creation begins one, and has the namespace to itself until it is there: of two that
//! begin one at the same time each may take the other's socket for one that nobody serves, and put its own in its place. One of
//! them then runs for ever, and nobody knows it (containerd 1.6).
//!
//! It also lets calls to a shim be made a few at a time. A shim learns of each process that ends, those of runc among them,
//! through a queue of 32, and reads it when it makes no container; while the queue is full it reaps one process a second.
//! A hundred replicas that were made or removed at once did that to it (containerd 1.6).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use roost_proxy::function::{Namespace, ReplicaId};
use tokio::sync::{
    Mutex as AsyncMutex, OwnedMutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, Semaphore,
    SemaphorePermit,
};

/// How many calls that begin processes one shim works on at a time. It makes one container after the other all the same.
const BEGINNINGS_AT_ONCE: usize = 4;

/// How many calls that end processes one shim works on at a time. Each is the end of up to three: runc to kill, runc to
/// delete, and what was killed. They have turns of their own: one may wait for a process that does not die.
const ENDS_AT_ONCE: usize = 4;

/// The gates of all namespaces. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Gates {
    // Never held over an await: it only guards two small maps.
    namespaces: Arc<Mutex<HashMap<Namespace, Gate>>>,
}

#[derive(Debug, Default)]
struct Gate {
    order: Arc<RwLock<()>>,
    /// Held by the creation that may begin the shim.
    first: Arc<AsyncMutex<()>>,
    turns: Turns,
    /// Replicas known to be in the shim. One too few costs a little time; one too many (a shim that died with all
    /// its replicas) is taken out when that replica is stopped.
    settled: HashSet<ReplicaId>,
}

/// The turns of calls to the shim of a namespace. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Turns {
    beginnings: Arc<Semaphore>,
    ends: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        let of = |at_once| Arc::new(Semaphore::new(at_once));
        Self { beginnings: of(BEGINNINGS_AT_ONCE), ends: of(ENDS_AT_ONCE) }
    }
}

impl Turns {
    /// Waits for a turn to begin a process; it lasts as long as the permit.
    pub(super) async fn begin(&self) -> SemaphorePermit<'_> {
        self.beginnings.acquire().await.expect("turns are never closed")
    }

    /// Waits for a turn to end a process; it lasts as long as the permit.
    pub(super) async fn end(&self) -> SemaphorePermit<'_> {
        self.ends.acquire().await.expect("turns are never closed")
    }
}

/// A creation under way.
#[derive(Debug)]
pub(super) struct Entering {
    _order: OwnedRwLockReadGuard<()>,
    /// It may begin the shim.
    _first: Option<OwnedMutexGuard<()>>,
}

/// A deletion under way.
#[derive(Debug)]
pub(super) enum Leaving {
    /// Others stay.
    OneOfSeveral(#[expect(dead_code, reason = "held")] OwnedRwLockReadGuard<()>),
    /// Perhaps nobody stays.
    Last(#[expect(dead_code, reason = "held")] OwnedRwLockWriteGuard<()>),
}

impl Gates {
    /// Waits until a replica can be created in `namespace`; it can while the guard lives.
    pub(super) async fn enter(&self, namespace: &Namespace) -> Entering {
        let (order, first) = self.with(namespace, |gate| (gate.order.clone(), gate.first.clone()));
        let there = || self.with(namespace, |gate| !gate.settled.is_empty());
        // The shim of those that are there stays while the order is held.
        let held = order.clone().read_owned().await;
        if there() {
            return Entering { _order: held, _first: None };
        }
        // Whoever has to wait for the first one must not hold up those that leave.
        drop(held);
        let first = first.lock_owned().await;
        let order = order.read_owned().await;
        Entering { _order: order, _first: (!there()).then_some(first) }
    }

    /// The replica `id` is in the shim.
    pub(super) fn settle(&self, namespace: &Namespace, id: &ReplicaId) {
        self.with(namespace, |gate| gate.settled.insert(id.clone()));
    }

    /// Waits until the replica `id` can be deleted.
    pub(super) async fn leave(&self, namespace: &Namespace, id: &ReplicaId) -> Leaving {
        let (order, others) = self.with(namespace, |gate| {
            gate.settled.remove(id);
            (gate.order.clone(), !gate.settled.is_empty())
        });
        if others {
            Leaving::OneOfSeveral(order.read_owned().await)
        } else {
            Leaving::Last(order.write_owned().await)
        }
    }

    /// The turns of calls to the shim of `namespace`.
    pub(super) fn turns(&self, namespace: &Namespace) -> Turns {
        self.with(namespace, |gate| gate.turns.clone())
    }

    fn with<T>(&self, namespace: &Namespace, act: impl FnOnce(&mut Gate) -> T) -> T {
        // A panic elsewhere cannot leave these maps half-changed.
        let mut namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        act(namespaces.entry(namespace.clone()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn the_first_one_comes_alone_and_others_side_by_side() {
        let gates = Gates::default();
        let namespace = Namespace::default();
        let (one, two): (ReplicaId, ReplicaId) = ("a-1".parse().unwrap(), "a-2".parse().unwrap());
        let first = gates.enter(&namespace).await;
        let (mut second, mut third) = (Box::pin(gates.enter(&namespace)), Box::pin(gates.enter(&namespace)));
        assert!((&mut second).now_or_never().is_none() && (&mut third).now_or_never().is_none());
        assert!(gates.enter(&"other".parse().unwrap()).now_or_never().is_some());
        // It has failed: another one is the first.
        drop(first);
        let second = second.await;
        assert!((&mut third).now_or_never().is_none());
        gates.settle(&namespace, &one);
        drop(second);
        let third = third.await;
        let fourth = gates.enter(&namespace).now_or_never().expect("there is a shim");
        drop((third, fourth));

        // While the last one waits to leave nobody needs to be alone, and nobody knows that.
        gates.settle(&namespace, &two);
        drop(gates.leave(&namespace, &one).await);
        let entering = gates.enter(&namespace).await;
        assert!(gates.leave(&namespace, &two).now_or_never().is_none());
        drop(entering);
        assert!(gates.enter(&namespace).now_or_never().is_some());
    }

    #[tokio::test]
    async fn the_last_one_leaves_alone_and_others_side_by_side() {
        let gates = Gates::default();
        let namespace = Namespace::default();
        let (one, two): (ReplicaId, ReplicaId) = ("a-1".parse().unwrap(), "a-2".parse().unwrap());
        gates.settle(&namespace, &one);
        gates.settle(&namespace, &two);

        let entering = gates.enter(&namespace).await;
        let first = gates.leave(&namespace, &one).now_or_never().expect("another one stays");
        assert!(matches!(first, Leaving::OneOfSeveral(_)));
        assert!(gates.leave(&namespace, &two).now_or_never().is_none(), "the last one waits for the start");
        drop((entering, first));

        let last = gates.leave(&namespace, &two).await;
        assert!(matches!(last, Leaving::Last(_)));
        assert!(gates.enter(&namespace).now_or_never().is_none(), "a start waits for the last one");
        assert!(gates.enter(&"other".parse().unwrap()).now_or_never().is_some());
    }
}
