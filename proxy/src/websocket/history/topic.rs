//! What is said in one group, and those who watch it.
//!
//! Owns one ring, the last comings and goings, and the wakers of the watchers. All of them read the same ring: one who does
//! not keep up costs nothing, and finds one day that it has been left behind.
//!
//! The locks: `said` may be held while members are spoken to, so that all hear of messages in one order. `presence` and
//! `watchers` are held for a moment, and nothing is locked under them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::time::Instant;

use super::log::Log;
use crate::function::FunctionKey;

/// How many comings and goings wait for one who watches.
const PRESENCE: usize = 256;

#[derive(Debug)]
pub(in crate::websocket) struct Topic {
    said: Mutex<Said>,
    presence: Mutex<Changes>,
    watchers: Mutex<HashMap<u64, Watcher>>,
    /// How many of the watchers want to hear who comes and goes.
    of_presence: AtomicUsize,
}

/// What was said.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) log: Log,
    /// It is forgotten: whoever still has it looks for the one that took its place.
    pub(super) dropped: bool,
    /// When something was last said, or somebody last came to watch.
    pub(super) touched: Instant,
    /// How much of it is in the sum of all.
    counted: usize,
    total: Arc<AtomicUsize>,
}

/// Who came and went.
#[derive(Debug, Default)]
struct Changes {
    /// How many there were before those that are kept.
    gone: u64,
    kept: VecDeque<Bytes>,
}

#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) waker: Option<Waker>,
    pub(super) presence: bool,
    /// Of which function it is, if it came through one.
    pub(super) function: Option<FunctionKey>,
    pub(super) ended: bool,
}

/// Where a watcher is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    /// The last message that it was sent.
    pub(super) seen: u64,
    /// How many changes of presence it knows, if it wants to.
    pub(super) changes: Option<u64>,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Event(Bytes),
    /// What should be next is gone.
    Behind,
    /// There is nothing more for it.
    Ended,
}

impl Topic {
    /// One whose bytes are part of `total`.
    pub(super) fn new(log: Log, now: Instant, total: &Arc<AtomicUsize>) -> Self {
        let total = Arc::clone(total);
        let mut said = Said { log, dropped: false, touched: now, counted: 0, total };
        said.settle();
        Self {
            said: Mutex::new(said),
            presence: Mutex::default(),
            watchers: Mutex::default(),
            of_presence: AtomicUsize::new(0),
        }
    }

    pub(super) fn said(&self) -> MutexGuard<'_, Said> {
        lock(&self.said)
    }

    pub(super) fn watchers(&self) -> usize {
        lock(&self.watchers).len()
    }

    pub(super) fn enter(&self, id: u64, watcher: Watcher) {
        if watcher.presence {
            self.of_presence.fetch_add(1, Relaxed);
        }
        lock(&self.watchers).insert(id, watcher);
    }

    /// How many still watch.
    pub(super) fn leave(&self, id: u64) -> usize {
        let mut watchers = lock(&self.watchers);
        if watchers.remove(&id).is_some_and(|watcher| watcher.presence) {
            self.of_presence.fetch_sub(1, Relaxed);
        }
        watchers.len()
    }

    /// How many changes there were.
    pub(super) fn changes(&self) -> u64 {
        let changes = lock(&self.presence);
        changes.gone + changes.kept.len() as u64
    }

    /// Does somebody want to hear who comes and goes?
    pub(super) fn wants_presence(&self) -> bool {
        self.of_presence.load(Relaxed) > 0
    }

    /// Somebody came, or went.
    pub(super) fn changed(&self, event: Bytes) {
        let mut changes = lock(&self.presence);
        if changes.kept.len() == PRESENCE {
            changes.kept.pop_front();
            changes.gone += 1;
        }
        changes.kept.push_back(event);
        drop(changes);
        self.wake(|watcher| watcher.presence);
    }

    /// Has those who wait look again.
    pub(super) fn wake(&self, wanted: impl Fn(&Watcher) -> bool) {
        let mut watchers = lock(&self.watchers);
        let waiting = watchers.values_mut().filter(|watcher| wanted(watcher));
        let wakers: Vec<Waker> = waiting.filter_map(|watcher| watcher.waker.take()).collect();
        drop(watchers);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// There is nothing more for those.
    pub(super) fn end(&self, those: impl Fn(&Watcher) -> bool) {
        for watcher in lock(&self.watchers).values_mut().filter(|watcher| those(watcher)) {
            watcher.ended = true;
        }
        self.wake(|watcher| watcher.ended);
    }

    /// What comes next for the watcher of this id; it is woken when there is something.
    pub(super) fn poll_next(&self, id: u64, cursor: &mut Cursor, cx: &Context<'_>) -> Poll<Next> {
        // First, so that nothing is missed that comes while it looks.
        match lock(&self.watchers).get_mut(&id) {
            Some(watcher) if !watcher.ended => match &mut watcher.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            },
            _ => return Poll::Ready(Next::Ended),
        }
        if let Some(known) = &mut cursor.changes
            && let Some(next) = lock(&self.presence).behind(known)
        {
            return Poll::Ready(next);
        }
        let mut said = self.said();
        if cursor.seen >= said.log.last() {
            return Poll::Pending;
        }
        let event = said.log.event(cursor.seen + 1);
        said.settle();
        match event {
            Some(event) => {
                cursor.seen += 1;
                Poll::Ready(Next::Event(event))
            }
            None => Poll::Ready(Next::Behind),
        }
    }
}

impl Said {
    /// Counts what it has become larger or smaller by.
    pub(super) fn settle(&mut self) {
        let bytes = self.log.bytes();
        // What is less is added as well: the sum wraps around to where it belongs.
        self.total.fetch_add(bytes.wrapping_sub(self.counted), Relaxed);
        self.counted = bytes;
    }

    /// How many bytes all of them have.
    pub(super) fn total(&self) -> usize {
        self.total.load(Relaxed)
    }
}

impl Drop for Said {
    fn drop(&mut self) {
        self.total.fetch_sub(self.counted, Relaxed);
    }
}

impl Changes {
    fn behind(&self, known: &mut u64) -> Option<Next> {
        let Some(at) = known.checked_sub(self.gone) else { return Some(Next::Behind) };
        let event = self.kept.get(usize::try_from(at).ok()?)?;
        *known += 1;
        Some(Next::Event(event.clone()))
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing happens under these locks that could leave it half done.
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
