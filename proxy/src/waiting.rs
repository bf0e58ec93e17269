//! The waiting room: callers for whom there is no endpoint yet, or no room at any.
//!
//! Owns the queue and what is said to those who cannot be served. Each key has a line of its own, and so have the callers
//! without one; in a line, first come, first served. Bounded by the caller's capacity, over all lines. What they wait for
//! is handed to them directly, so nobody is overtaken and nobody wakes in vain.
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
//! No wake-up is lost. `enter` says that somebody waits, and then looks once more for a `T`, all *under the lock*, before
//! it queues. Whoever makes a `T` available afterwards asks whether [`anybody`](WaitingRoom::anybody) waits, and if so
//! serves, under the same lock. Both steps of both are sequentially consistent, so that either the newcomer sees the `T`,
//! or its maker sees the newcomer. If nobody waits, this costs the maker one load.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;

use crate::ask::{Ask, Lack};
use crate::placement::ReplicaKey;

/// Callers waiting for a `T`, refused with an `E`.
pub(crate) struct WaitingRoom<T, E>(Arc<Room<T, E>>);

struct Room<T, E> {
    queue: Mutex<Queue<T, E>>,
    /// How many wait. More than that for a moment, while somebody who enters looks again.
    waiting: AtomicUsize,
}

struct Queue<T, E> {
    /// No line is empty.
    lines: HashMap<Option<ReplicaKey>, Line<T, E>>,
    len: usize,
    next: u64,
    refusal: Option<E>,
}

/// Who waits, by ticket: tickets only grow, so the map is in order of arrival and any of them can leave cheaply.
type Line<T, E> = BTreeMap<u64, Waiter<T, E>>;

struct Waiter<T, E> {
    ask: Ask,
    caller: oneshot::Sender<Result<T, E>>,
}

/// What a newcomer gets.
pub(crate) enum Entry<T, E> {
    /// What it came for, without waiting.
    Served(T),
    /// It is not to wait.
    Refused(E),
    /// So many are waiting already.
    Full,
    /// A place in the queue, for want of this.
    Place(Place<T, E>, Lack),
}

/// A place in the queue: await it. Dropping it leaves the queue.
pub(crate) struct Place<T, E> {
    room: Arc<Room<T, E>>,
    key: Option<ReplicaKey>,
    /// `None` once it was called.
    ticket: Option<u64>,
    call: oneshot::Receiver<Result<T, E>>,
}

/// The queue, locked. Says how many wait when it is let go of.
struct Held<'a, T, E> {
    queue: MutexGuard<'a, Queue<T, E>>,
    waiting: &'a AtomicUsize,
}

impl<T, E> Room<T, E> {
    fn lock(&self) -> Held<'_, T, E> {
        // No caller's code can leave the queue half changed, so a panic while it was held says nothing about it.
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        Held { queue, waiting: &self.waiting }
    }
}

impl<T, E: Clone> WaitingRoom<T, E> {
    pub(crate) fn new() -> Self {
        let queue = Queue { lines: HashMap::new(), len: 0, next: 0, refusal: None };
        Self(Arc::new(Room { queue: Mutex::new(queue), waiting: AtomicUsize::new(0) }))
    }

    /// Does anybody wait, or is about to?
    pub(crate) fn anybody(&self) -> bool {
        self.0.waiting.load(Ordering::SeqCst) > 0
    }

    /// How many wait now.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().len
    }

    /// How many wait in each line that is of a key.
    pub(crate) fn keys(&self) -> Vec<(ReplicaKey, usize)> {
        let held = self.0.lock();
        held.lines.iter().filter_map(|(key, line)| Some((key.clone()?, line.len()))).collect()
    }

    /// Serves a newcomer if `take` can and nobody waits in its line, else queues it behind at most `capacity − 1` others,
    /// if `admit` lets it: it is told what there is a lack of, and the keys that somebody waits for.
    pub(crate) fn enter(
        &self,
        ask: &Ask,
        capacity: usize,
        take: impl Fn(&Ask) -> Result<T, Lack>,
        admit: impl FnOnce(Lack, &mut dyn Iterator<Item = &ReplicaKey>) -> Result<(), E>,
    ) -> Entry<T, E> {
        // Before the lock, so that it is dropped behind it.
        let mut unsent = Vec::new();
        let mut held = self.0.lock();
        held.announce();
        // Whoever made room for those in front may not have come to serve them yet.
        let lack = match held.serve(&ask.key, &take, &mut unsent) {
            Some(lack) => lack,
            None => match take(ask) {
                Ok(served) => return Entry::Served(served),
                Err(lack) => lack,
            },
        };
        if let Some(refusal) = &held.refusal {
            return Entry::Refused(refusal.clone());
        }
        if let Err(refusal) = admit(lack, &mut held.lines.keys().flatten()) {
            return Entry::Refused(refusal);
        }
        if held.len >= capacity {
            return Entry::Full;
        }
        let (caller, call) = oneshot::channel();
        let ticket = held.push(Waiter { ask: ask.clone(), caller });
        Entry::Place(
            Place { room: Arc::clone(&self.0), key: ask.key.clone(), ticket: Some(ticket), call },
            lack,
        )
    }

    /// Runs `change`, then hands what `take` gives to those who wait, each line in its order, until it gives no more.
    /// Newcomers may wait (again).
    ///
    /// The lock is held over both, so that two calls do not interleave.
    pub(crate) fn change(&self, change: impl FnOnce(), take: impl Fn(&Ask) -> Result<T, Lack>) {
        let mut unsent = Vec::new();
        let mut held = self.0.lock();
        change();
        held.refusal = None;
        held.serve_all(&take, &mut unsent);
    }

    /// Hands what `take` gives to those who wait, each line in its order, until it gives no more.
    pub(crate) fn serve_all(&self, take: impl Fn(&Ask) -> Result<T, Lack>) {
        let mut unsent = Vec::new();
        self.0.lock().serve_all(&take, &mut unsent);
    }

    /// Hands what `take` gives to those who wait in the line of `key`, in order, until it gives no more.
    pub(crate) fn serve(&self, key: Option<&ReplicaKey>, take: impl Fn(&Ask) -> Result<T, Lack>) {
        let mut unsent = Vec::new();
        self.0.lock().serve(&key.cloned(), &take, &mut unsent);
    }

    /// Turns away everybody who waits, and every newcomer that cannot be served, until the next
    /// [`change`](Self::change) or [`wait_again`](Self::wait_again).
    pub(crate) fn refuse(&self, refusal: &E) {
        let mut held = self.0.lock();
        held.refusal = Some(refusal.clone());
        held.len = 0;
        for waiter in held.lines.drain().flat_map(|(_, line)| line.into_values()) {
            // One that went away needs no answer.
            drop(waiter.caller.send(Err(refusal.clone())));
        }
    }

    /// Turns away those who wait in the line of `key`. Newcomers are not.
    pub(crate) fn refuse_key(&self, key: &ReplicaKey, refusal: &E) {
        let mut held = self.0.lock();
        let line = held.lines.remove(&Some(key.clone())).unwrap_or_default();
        held.len -= line.len();
        for waiter in line.into_values() {
            // One that went away needs no answer.
            drop(waiter.caller.send(Err(refusal.clone())));
        }
    }

    /// Lets newcomers wait again.
    pub(crate) fn wait_again(&self) {
        self.0.lock().refusal = None;
    }
}

impl<T, E> Held<'_, T, E> {
    /// Says that one more waits than is in the queue, for all to see who look at anything after this.
    fn announce(&self) {
        self.waiting.store(self.len + 1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }
}

impl<T, E> Queue<T, E> {
    fn push(&mut self, waiter: Waiter<T, E>) -> u64 {
        let ticket = self.next;
        self.next += 1;
        self.len += 1;
        self.lines.entry(waiter.ask.key.clone()).or_default().insert(ticket, waiter);
        ticket
    }

    /// Serves the line of `key` and says what kept it from serving all of it. What a caller that went away was to get is
    /// put into `unsent`, to be dropped when the lock is not held.
    fn serve(
        &mut self,
        key: &Option<ReplicaKey>,
        take: &impl Fn(&Ask) -> Result<T, Lack>,
        unsent: &mut Vec<Result<T, E>>,
    ) -> Option<Lack> {
        let line = self.lines.get_mut(key)?;
        while let Some(first) = line.first_entry() {
            match take(&first.get().ask) {
                Ok(served) => {
                    self.len -= 1;
                    unsent.extend(first.remove().caller.send(Ok(served)).err());
                }
                Err(lack) => return Some(lack),
            }
        }
        self.lines.remove(key);
        None
    }

    fn serve_all(&mut self, take: &impl Fn(&Ask) -> Result<T, Lack>, unsent: &mut Vec<Result<T, E>>) {
        let keys: Vec<_> = self.lines.keys().cloned().collect();
        for key in keys {
            self.serve(&key, take, unsent);
        }
    }

    fn leave(&mut self, key: &Option<ReplicaKey>, ticket: u64) -> Option<Waiter<T, E>> {
        let line = self.lines.get_mut(key)?;
        let left = line.remove(&ticket)?;
        self.len -= 1;
        if line.is_empty() {
            self.lines.remove(key);
        }
        Some(left)
    }
}

impl<T, E> Future for Place<T, E> {
    type Output = Result<T, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // A caller is dropped only after it was sent something, or together with the room, which this place keeps.
        let call = ready!(Pin::new(&mut self.call).poll(cx)).expect("whoever leaves the queue was called");
        self.ticket = None;
        Poll::Ready(call)
    }
}

impl<T, E> Drop for Place<T, E> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        // Outside the lock: what was on its way is dropped with `call`, and its drop may do anything.
        let left = self.room.lock().leave(&self.key, ticket);
        drop(left);
    }
}

impl<T, E> Deref for Held<'_, T, E> {
    type Target = Queue<T, E>;

    fn deref(&self) -> &Queue<T, E> {
        &self.queue
    }
}

impl<T, E> DerefMut for Held<'_, T, E> {
    fn deref_mut(&mut self) -> &mut Queue<T, E> {
        &mut self.queue
    }
}

impl<T, E> Drop for Held<'_, T, E> {
    fn drop(&mut self) {
        self.waiting.store(self.queue.len, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::sync::Barrier;

    use super::*;

    type Room = WaitingRoom<usize, &'static str>;

    fn key(key: &str) -> Ask {
        Ask::default().of_key(key.parse().unwrap())
    }

    fn enter(room: &Room, capacity: usize, made: Option<usize>) -> Entry<usize, &'static str> {
        room.enter(&Ask::default(), capacity, |_| made.ok_or(Lack::Endpoint), |_, _| Ok(()))
    }

    fn place_of(room: &Room, ask: &Ask) -> Place<usize, &'static str> {
        match room.enter(ask, usize::MAX, |_| Err(Lack::Endpoint), |_, _| Ok(())) {
            Entry::Place(place, Lack::Endpoint) => place,
            _ => panic!("expected a place"),
        }
    }

    fn place(room: &Room) -> Place<usize, &'static str> {
        place_of(room, &Ask::default())
    }

    /// A source of the numbers 0, 1, … below `limit`.
    fn numbers(limit: usize) -> impl Fn(&Ask) -> Result<usize, Lack> {
        let next = AtomicUsize::new(0);
        move |_| {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number < limit { Ok(number) } else { Err(Lack::Room) }
        }
    }

    #[tokio::test]
    async fn those_who_wait_are_served_in_the_order_of_their_arrival() {
        let room = Room::new();
        let places: Vec<_> = (0..5).map(|_| place(&room)).collect();
        room.serve(None, numbers(3));
        assert_eq!(room.len(), 2);
        room.serve(None, |_| Ok(9));
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
        room.serve(None, numbers(1));
        assert_eq!(third.await, Ok(0));
    }

    #[tokio::test]
    async fn what_was_handed_to_one_that_goes_away_before_it_looks_is_dropped() {
        let room: WaitingRoom<Arc<()>, ()> = WaitingRoom::new();
        let token = Arc::new(());
        let entry = room.enter(&Ask::default(), 1, |_| Err(Lack::Endpoint), |_, _| Ok(()));
        let Entry::Place(place, _) = entry else { panic!("expected a place") };
        room.serve(None, |_| Ok(Arc::clone(&token)));
        assert_eq!(Arc::strong_count(&token), 2);
        drop(place);
        assert_eq!(Arc::strong_count(&token), 1);
    }

    #[tokio::test]
    async fn the_room_is_bounded_and_a_place_that_is_left_is_free_again() {
        let room = Room::new();
        let first = place(&room);
        assert!(matches!(enter(&room, 1, None), Entry::Full));
        drop(first);
        assert!(matches!(enter(&room, 1, None), Entry::Place(..)));
    }

    #[tokio::test]
    async fn a_refusal_reaches_those_who_wait_and_those_who_come_until_it_is_withdrawn() {
        let room = Room::new();
        let waiting = place(&room);
        room.refuse(&"no");
        assert_eq!(waiting.await, Err("no"));
        assert!(matches!(enter(&room, 9, None), Entry::Refused("no")));
        assert!(matches!(enter(&room, 9, Some(1)), Entry::Served(1)));
        room.wait_again();
        let waiting = place(&room);
        room.refuse(&"no");
        room.change(|| (), |_| Ok(2));
        assert_eq!(waiting.await, Err("no"));
        assert!(matches!(enter(&room, 9, None), Entry::Place(..)));
    }

    #[tokio::test]
    async fn a_newcomer_does_not_overtake_those_who_wait_though_nobody_has_served_them_yet() {
        let room = Room::new();
        let first = place(&room);
        let numbers = numbers(2);
        let entry = room.enter(&Ask::default(), 9, &numbers, |_, _| Ok(()));
        assert!(matches!(entry, Entry::Served(1)));
        assert_eq!(first.await, Ok(0));
        let second = place(&room);
        let entry = room.enter(&Ask::default(), 9, &numbers, |lack, _| {
            assert_eq!(lack, Lack::Room);
            Err("there is no room")
        });
        assert!(matches!(entry, Entry::Refused("there is no room")));
        room.serve(None, |_| Ok(3));
        assert_eq!(second.await, Ok(3));
        assert!(!room.anybody());
    }

    #[tokio::test]
    async fn each_key_has_a_line_of_its_own_that_is_gone_with_the_last_who_waits() {
        let room = Room::new();
        let (a, b) = (place_of(&room, &key("a")), place_of(&room, &key("b")));
        let (second_a, none) = (place_of(&room, &key("a")), place(&room));
        let mut keys = room.keys();
        keys.sort();
        assert_eq!(keys, [("a".parse().unwrap(), 2), ("b".parse().unwrap(), 1)]);
        room.serve(Some(&"b".parse().unwrap()), |ask| {
            assert_eq!(ask.key, key("b").key);
            Ok(1)
        });
        assert_eq!(b.await, Ok(1));
        drop(second_a);
        room.change(|| (), |ask| if ask.key.is_some() { Ok(2) } else { Err(Lack::Endpoint) });
        assert_eq!(a.await, Ok(2));
        drop(place_of(&room, &key("d")));
        assert_eq!((room.len(), room.keys().len(), room.0.lock().lines.len()), (1, 0, 1));
        let c = place_of(&room, &key("c"));
        room.refuse(&"no");
        assert_eq!((c.await, none.await), (Err("no"), Err("no")));
        assert!(room.0.lock().lines.is_empty() && !room.anybody());
    }

    /// In each round one caller comes and one thing is made, at the same moment, by somebody who looks whether anybody
    /// waits and takes no lock if not: the caller must get it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_up_is_lost_between_looking_and_queueing() {
        const ROUNDS: usize = 20_000;
        let room = Arc::new(Room::new());
        let available = Arc::new(AtomicUsize::new(0));
        let start = Arc::new(Barrier::new(2));
        let take = |available: &AtomicUsize| {
            let taken = available.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1));
            taken.map_err(|_| Lack::Room)
        };
        let caller = {
            let (room, available, start) = (Arc::clone(&room), Arc::clone(&available), Arc::clone(&start));
            tokio::spawn(async move {
                for _ in 0..ROUNDS {
                    start.wait().await;
                    match room.enter(&Ask::default(), 1, |_| take(&available), |_, _| Ok(())) {
                        Entry::Served(_) => {}
                        Entry::Place(place, _) => drop(place.await.unwrap()),
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
                    available.fetch_add(1, Ordering::SeqCst);
                    if room.anybody() {
                        room.serve(None, |_| take(&available));
                    }
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
