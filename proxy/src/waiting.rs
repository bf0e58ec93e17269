//! The waiting room: callers for whom there is no endpoint yet.
//!
//! Owns the queue and what is said to those who cannot be served. First come, first served; bounded by the caller's
//! capacity. What they wait for is handed to them directly, so nobody is overtaken and nobody wakes in vain.
//! Never knows what is waited for, and keeps no time: a caller that gives up drops its [`Place`].
//!
//! ```text
//!            enter: served at once ─────────────────────────────► T
//!              │
//!  newcomer ───┼─ refused, or full ─────────────────────────────► E / Full
//!              │
//!              └─ Place ──┬─ serve: T, in order ────────────────► T
//!                         ├─ refuse ────────────────────────────► E
//!                         └─ dropped: leaves the queue; a T that was already on its way is dropped with it
//! ```
//!
//! No wake-up is lost: `enter` looks once more for a `T` *under the lock* before it queues, and whoever makes a `T`
//! available calls `serve` afterwards, under the same lock. Either the newcomer sees it, or it is in the queue.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

/// A queue of callers waiting for a `T`, refused with an `E`.
pub(crate) struct WaitingRoom<T, E>(Arc<Mutex<Queue<T, E>>>);

struct Queue<T, E> {
    /// Who waits, by ticket: tickets only grow, so the map is in order of arrival and any of them can leave cheaply.
    waiting: BTreeMap<u64, oneshot::Sender<Result<T, E>>>,
    next: u64,
    refusal: Option<E>,
}

/// What a newcomer gets.
pub(crate) enum Entry<T, E> {
    /// What it came for, without waiting.
    Served(T),
    /// Nobody is being served now.
    Refused(E),
    /// So many are waiting already.
    Full,
    /// A place in the queue.
    Place(Place<T, E>),
}

/// A place in the queue: await it. Dropping it leaves the queue.
pub(crate) struct Place<T, E> {
    room: Arc<Mutex<Queue<T, E>>>,
    ticket: u64,
    call: oneshot::Receiver<Result<T, E>>,
}

fn lock<T, E>(room: &Mutex<Queue<T, E>>) -> MutexGuard<'_, Queue<T, E>> {
    // No caller's code can leave the queue half changed, so a panic while it was held says nothing about it.
    room.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T, E: Clone> WaitingRoom<T, E> {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Queue { waiting: BTreeMap::new(), next: 0, refusal: None })))
    }

    /// How many wait now.
    pub(crate) fn len(&self) -> usize {
        lock(&self.0).waiting.len()
    }

    /// Serves a newcomer if `take` can, else queues it behind at most `capacity − 1` others.
    pub(crate) fn enter(&self, capacity: usize, take: impl FnOnce() -> Option<T>) -> Entry<T, E> {
        let mut queue = lock(&self.0);
        if let Some(served) = take() {
            return Entry::Served(served);
        }
        if let Some(refusal) = &queue.refusal {
            return Entry::Refused(refusal.clone());
        }
        if queue.waiting.len() >= capacity {
            return Entry::Full;
        }
        let (caller, call) = oneshot::channel();
        let ticket = queue.next;
        queue.next += 1;
        queue.waiting.insert(ticket, caller);
        Entry::Place(Place { room: Arc::clone(&self.0), ticket, call })
    }

    /// Runs `change`, then hands what `take` gives to those who wait, in order, until it gives no more.
    ///
    /// The lock is held over both, so that two calls do not interleave.
    pub(crate) fn serve(&self, change: impl FnOnce(), take: impl Fn() -> Option<T>) {
        let mut queue = lock(&self.0);
        change();
        queue.refusal = None;
        while !queue.waiting.is_empty() {
            let Some(served) = take() else { break };
            let mut served = Ok(served);
            // One that went away gives it back, and it goes to the next.
            while let Some((_, caller)) = queue.waiting.pop_first() {
                match caller.send(served) {
                    Ok(()) => break,
                    Err(back) => served = back,
                }
            }
        }
    }

    /// Turns away everybody who waits, and every newcomer that cannot be served, until the next [`serve`](Self::serve)
    /// or [`wait_again`](Self::wait_again).
    pub(crate) fn refuse(&self, refusal: &E) {
        let mut queue = lock(&self.0);
        queue.refusal = Some(refusal.clone());
        while let Some((_, caller)) = queue.waiting.pop_first() {
            // One that went away needs no answer.
            drop(caller.send(Err(refusal.clone())));
        }
    }

    /// Lets newcomers wait again.
    pub(crate) fn wait_again(&self) {
        lock(&self.0).refusal = None;
    }
}

impl<T, E> Future for Place<T, E> {
    type Output = Result<T, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // A caller is dropped only after it was sent something, or together with the room, which this place keeps.
        Pin::new(&mut self.call).poll(cx).map(|call| call.expect("whoever leaves the queue was called"))
    }
}

impl<T, E> Drop for Place<T, E> {
    fn drop(&mut self) {
        // Outside the lock: what was on its way is dropped with `call`, and its drop may do anything.
        let left = lock(&self.room).waiting.remove(&self.ticket);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::sync::Barrier;

    use super::*;

    type Room = WaitingRoom<usize, &'static str>;

    fn place(room: &Room) -> Place<usize, &'static str> {
        match room.enter(usize::MAX, || None) {
            Entry::Place(place) => place,
            _ => panic!("expected a place"),
        }
    }

    /// A source of the numbers 0, 1, … below `limit`.
    fn numbers(limit: usize) -> impl Fn() -> Option<usize> {
        let next = AtomicUsize::new(0);
        move || {
            let number = next.fetch_add(1, Ordering::Relaxed);
            (number < limit).then_some(number)
        }
    }

    #[tokio::test]
    async fn those_who_wait_are_served_in_the_order_of_their_arrival() {
        let room = Room::new();
        let places: Vec<_> = (0..5).map(|_| place(&room)).collect();
        room.serve(|| (), numbers(3));
        assert_eq!(room.len(), 2);
        room.serve(|| (), || Some(9));
        let mut served = Vec::new();
        for place in places {
            served.push(place.await.unwrap());
        }
        assert_eq!(served, [0, 1, 2, 9, 9]);
    }

    #[tokio::test]
    async fn one_that_went_away_takes_nothing_with_it() {
        let room = Room::new();
        let (first, second, third) = (place(&room), place(&room), place(&room));
        drop(first);
        drop(second);
        assert_eq!(room.len(), 1);
        room.serve(|| (), numbers(1));
        assert_eq!(third.await, Ok(0));
    }

    #[tokio::test]
    async fn what_was_handed_to_one_that_goes_away_before_it_looks_is_dropped() {
        let room: WaitingRoom<Arc<()>, ()> = WaitingRoom::new();
        let token = Arc::new(());
        let Entry::Place(place) = room.enter(1, || None) else { panic!("expected a place") };
        room.serve(|| (), || Some(Arc::clone(&token)));
        assert_eq!(Arc::strong_count(&token), 2);
        drop(place);
        assert_eq!(Arc::strong_count(&token), 1);
    }

    #[tokio::test]
    async fn the_room_is_bounded_and_a_place_that_is_left_is_free_again() {
        let room = Room::new();
        let Entry::Place(first) = room.enter(1, || None) else { panic!("expected a place") };
        assert!(matches!(room.enter(1, || None), Entry::Full));
        drop(first);
        assert!(matches!(room.enter(1, || None), Entry::Place(_)));
    }

    #[tokio::test]
    async fn a_refusal_reaches_those_who_wait_and_those_who_come_until_it_is_withdrawn() {
        let room = Room::new();
        let waiting = place(&room);
        room.refuse(&"no");
        assert_eq!(waiting.await, Err("no"));
        assert!(matches!(room.enter(9, || None), Entry::Refused("no")));
        assert!(matches!(room.enter(9, || Some(1)), Entry::Served(1)));
        room.wait_again();
        let waiting = place(&room);
        room.refuse(&"no");
        room.serve(|| (), || Some(2));
        assert_eq!(waiting.await, Err("no"));
        assert!(matches!(room.enter(9, || None), Entry::Place(_)));
    }

    /// In each round one caller comes and one thing is made, at the same moment: the caller must get it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_up_is_lost_between_looking_and_queueing() {
        const ROUNDS: usize = 20_000;
        let room = Arc::new(Room::new());
        let available = Arc::new(AtomicUsize::new(0));
        let start = Arc::new(Barrier::new(2));
        let take = |available: &AtomicUsize| {
            available.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1)).ok()
        };
        let caller = {
            let (room, available, start) = (Arc::clone(&room), Arc::clone(&available), Arc::clone(&start));
            tokio::spawn(async move {
                for _ in 0..ROUNDS {
                    start.wait().await;
                    match room.enter(usize::MAX, || take(&available)) {
                        Entry::Served(_) => {}
                        Entry::Place(place) => drop(place.await.unwrap()),
                        _ => panic!("never full, never refused"),
                    }
                }
            })
        };
        let maker = {
            let (room, available) = (Arc::clone(&room), Arc::clone(&available));
            tokio::spawn(async move {
                for _ in 0..ROUNDS {
                    start.wait().await;
                    available.fetch_add(1, Ordering::AcqRel);
                    room.serve(|| (), || take(&available));
                }
            })
        };
        tokio::time::timeout(Duration::from_secs(60), async {
            caller.await.unwrap();
            maker.await.unwrap();
        })
        .await
        .expect("a caller waits for ever");
        assert_eq!((room.len(), available.load(Ordering::Acquire)), (0, 0));
    }
}
