//! Who comes to a group and who goes: of users, whose first connection joins and whose last one leaves.
//!
//! Owns the lines in which functions are told, one for each group and function: what happens in one group is told in its
//! order, and different groups do not wait for each other. Whether there is something to tell, the hub finds out under its
//! lock. Nothing here is kept over the end of the process.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::SystemTime;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::Shared;
use super::counters::{JOINED, LEFT};
use super::event::{Action, Event, Outcome, What};
use super::invoke::{Teller, Told};
use super::member::Member;
use crate::function::FunctionKey;

/// How many changes wait to be told, of all groups. More are lost, and counted.
const MOST_WAITING: usize = 10_000;

/// How many functions are told at once.
const AT_ONCE: usize = 32;

/// The first connection of a user is in a group now, or the last one is not any more.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) group: Arc<str>,
    /// The connection by which it is so.
    pub(super) member: Arc<Member>,
    pub(super) joined: bool,
    pub(super) at: SystemTime,
}

/// Whoever is told of changes. Called under locks: it only notes them.
#[derive(Default)]
pub(super) struct Listener(OnceLock<Box<dyn Fn(Change) + Send + Sync>>);

impl Listener {
    pub(super) fn tell(&self, change: Change) {
        if let Some(listener) = self.0.get() {
            listener(change);
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}

/// What is still to be told.
pub(super) struct Lines {
    lines: Mutex<Waiting>,
    places: Semaphore,
    sequence: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    lines: HashMap<Line, VecDeque<Change>>,
    count: usize,
}

type Line = (FunctionKey, Arc<str>);

impl Default for Lines {
    fn default() -> Self {
        Self { lines: Mutex::default(), places: Semaphore::new(AT_ONCE), sequence: AtomicU64::new(0) }
    }
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing happens under the lock that could leave it half done.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `true` if the line was empty: somebody has to see to it from now on.
    fn push(&self, line: &Line, change: Change) -> Result<bool, Change> {
        let mut waiting = self.lock();
        if waiting.count >= MOST_WAITING {
            return Err(change);
        }
        waiting.count += 1;
        match waiting.lines.entry(line.clone()) {
            Entry::Occupied(mut entry) => {
                entry.get_mut().push_back(change);
                Ok(false)
            }
            Entry::Vacant(entry) => {
                entry.insert(VecDeque::from([change]));
                Ok(true)
            }
        }
    }

    /// The next of a line; without one the line is no more.
    fn next(&self, line: &Line) -> Option<Change> {
        let mut waiting = self.lock();
        let next = waiting.lines.get_mut(line).and_then(VecDeque::pop_front);
        match next {
            Some(_) => waiting.count -= 1,
            None => drop(waiting.lines.remove(line)),
        }
        next
    }
}

impl Shared {
    /// Hears of who comes and goes from now on.
    pub(super) fn listen(self: &Arc<Self>) {
        let shared = Arc::downgrade(self);
        let listener = move |change| {
            if let Some(shared) = Weak::upgrade(&shared) {
                shared.note(change);
            }
        };
        if self.hub.listener.0.set(Box::new(listener)).is_err() {
            debug!("somebody else is told already who comes and goes");
        }
    }

    fn note(self: &Arc<Self>, change: Change) {
        let line = (change.member.identity().function.clone(), Arc::clone(&change.group));
        match self.lines.push(&line, change) {
            Ok(false) => {}
            Ok(true) => {
                let Ok(handle) = Handle::try_current() else {
                    debug!("nobody is told who comes and goes: there is no runtime");
                    return;
                };
                let (shared, cut) = (Arc::clone(self), self.cut.clone());
                let telling = async move { shared.tell_line(line).await };
                let telling = async move { cut.run_until_cancelled_owned(telling).await };
                self.tracker.spawn_on(telling, &handle);
            }
            Err(Change { member, group, joined, .. }) => {
                let function = &line.0;
                member.counters().event(kind(joined), 2, std::time::Duration::ZERO);
                warn!(%function, "function {function}: who came to or left group {group:?} is not told: {MOST_WAITING} are waiting");
            }
        }
    }

    async fn tell_line(self: Arc<Self>, line: Line) {
        while let Some(change) = self.lines.next(&line) {
            let Ok(_place) = self.lines.places.acquire().await else { return };
            self.tell(&change).await;
        }
    }

    /// Tells the function. What it answers may be said to groups.
    async fn tell(&self, change: &Change) {
        let Change { group, member, joined, at } = change;
        let Some(settings) = member.upstream().event_mode() else { return };
        let (began, counters) = (Instant::now(), member.counters());
        let event = Event {
            of: member.identity(),
            sequence: Some(self.lines.sequence.fetch_add(1, Relaxed) + 1),
            attempt: 1,
            at: *at,
            state: None,
            what: if *joined { What::Joined(group) } else { What::Left(group) },
        };
        let told = Teller { shared: self, settings: &settings, counters, key: None }.happened(event).await;
        let outcome = match &told {
            Told::Answered(Outcome::Done(_)) => 0,
            Told::Answered(Outcome::Failed { .. }) => 1,
            Told::Unanswered { .. } => 2,
        };
        counters.event(kind(*joined), outcome, began.elapsed());
        let Told::Answered(Outcome::Done(actions)) = told else { return };
        let namespace = &member.identity().function.namespace;
        for action in actions {
            if let Action::Publish { group, message, exclude_self } = action {
                let me = [member.identity().id];
                let except = if exclude_self { &me[..] } else { &[] };
                self.hub.say_to_group(namespace, &group, &message, except);
            }
        }
    }
}

/// The place of such an event among those that are counted.
fn kind(joined: bool) -> usize {
    if joined { JOINED } else { LEFT }
}
