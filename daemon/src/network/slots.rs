//! Slots: networks that are attached ahead, so that a cold start has not to wait for plugins.
//!
//! ```text
//!      fill: ADD                  take: a link, replica → slot               detach: DEL, then the link
//!   ∅ ───────────▶ ready ────────────────────────────────────────▶ taken ─────────────────────────────▶ ∅
//!                  ▲   │ rules were cleared away
//!      CHECK: well │   ▼              CHECK: not well                 DEL
//!                doubtful ◀── daemon   ──────────────────▶ waste ───────────▶ ∅
//!                             starts
//! ```
//!
//! Owns which slots there are and whose they are. A slot is an attachment like any other, with a name that no replica can
//! have; what is noted beyond that is a link from the replica to its slot, made in one step before the slot is given away
//! and removed when nothing is left of the slot. So whenever a daemon ends, the next one finds each slot either clean or
//! with its replica's name on it, and a network that somebody had is never given to anybody else.
//!
//! Never runs a plugin: what is to be done is told by [`Slots::next`], and done in `fill.rs`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use roost_cni::Attachment;
use roost_proxy::function::{Namespace, ReplicaId};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{NetworkError, files};
use crate::pauses::Pauses;

/// How names of slots begin. Names of replicas have no underscore.
const PREFIX: &str = "slot_";

/// For how long nobody must have needed a network before slots are filled: whoever is starting needs the processor.
const QUIET: Duration = Duration::from_millis(250);

/// The pauses between tries to fill a slot, once one failed.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// The slots of all namespaces.
#[derive(Debug)]
pub(super) struct Slots {
    /// The links, by replica.
    links: PathBuf,
    /// How many are to be ready in each namespace.
    wanted: usize,
    state: Mutex<State>,
    changed: Notify,
    /// Held by whoever makes, checks or frees one.
    pub(super) work: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    pools: BTreeMap<Namespace, Pool>,
    /// How many need a network right now.
    needed: usize,
    /// Since when nobody does, if nobody does.
    quiet_since: Instant,
}

/// The slots of one namespace.
#[derive(Debug)]
struct Pool {
    ready: VecDeque<Attachment>,
    doubtful: Vec<Attachment>,
    /// Names of those that are to go.
    waste: Vec<String>,
    /// Something of it is being worked on.
    at_work: bool,
    /// It ends: nothing more is made.
    closed: bool,
    /// When it is tried again, after a failure.
    again: Option<Instant>,
    pauses: Pauses,
}

impl Pool {
    fn new() -> Self {
        let (ready, doubtful, waste, at_work, closed, again) = Default::default();
        Self { ready, doubtful, waste, at_work, closed, again, pauses: Pauses::new(PAUSE) }
    }

    fn holds(&self) -> usize {
        self.ready.len() + self.doubtful.len()
    }
}

/// What is to be done about slots.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// This, in this namespace. Whoever is told does it, and tells the outcome.
    Do(Namespace, Task),
    /// Nothing, until then or until something changes.
    Wait(Option<Instant>),
}

/// Something to be done about one slot.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Make one of this name.
    Make(String),
    /// See whether this one is still as it was made.
    Check(Attachment),
    /// Take this one apart.
    Free(String),
}

/// How that ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is ready.
    Ready(Attachment),
    /// Nothing is left of it.
    Freed,
    /// It is no good, and is to be taken apart.
    Waste(String),
    /// Something failed; what is left, if anything, is to be taken apart.
    Failed(Option<String>, NetworkError),
}

/// Somebody needs a network, until this is dropped.
pub(super) struct Needed<'a>(&'a Slots);

impl Drop for Needed<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.needed -= 1;
        state.quiet_since = Instant::now();
        drop(state);
        self.0.changed.notify_one();
    }
}

impl Slots {
    /// Slots with their links under `run`, `wanted` in each namespace. Only the default one's are made from the start.
    pub(super) fn open(run: &Path, wanted: usize) -> Result<Self, NetworkError> {
        let links = run.join("slots");
        std::fs::create_dir_all(&links)
            .map_err(|source| NetworkError::File { path: links.clone(), source })?;
        let state = State { pools: BTreeMap::new(), needed: 0, quiet_since: Instant::now() };
        let slots =
            Self { links, wanted, state: state.into(), changed: Notify::new(), work: Default::default() };
        slots.fill_from_now(&Namespace::default());
        Ok(slots)
    }

    /// Are there to be none at all?
    pub(super) fn are_off(&self) -> bool {
        self.wanted == 0
    }

    /// From here on there are slots for this namespace.
    pub(super) fn fill_from_now(&self, namespace: &Namespace) {
        if self.wanted > 0 && !self.state().pools.contains_key(namespace) {
            self.state().pools.insert(namespace.clone(), Pool::new());
            self.changed.notify_one();
        }
    }

    /// Somebody needs a network: slots can wait.
    pub(super) fn need(&self) -> Needed<'_> {
        self.state().needed += 1;
        Needed(self)
    }

    /// How many are ready, by namespace.
    pub(super) fn ready(&self) -> BTreeMap<Namespace, usize> {
        self.state().pools.iter().map(|(namespace, pool)| (namespace.clone(), pool.ready.len())).collect()
    }

    /// The addresses of those that are ready.
    pub(super) fn ready_addresses(&self) -> Vec<IpAddr> {
        self.state().pools.values().flat_map(|pool| &pool.ready).map(|slot| slot.address).collect()
    }

    pub(super) fn has_ready(&self, namespace: &Namespace) -> bool {
        self.state().pools.get(namespace).is_some_and(|pool| !pool.ready.is_empty())
    }

    /// Does any slot have an address that a replica could have?
    pub(super) fn hold_some(&self, namespace: &Namespace) -> bool {
        self.state().pools.get(namespace).is_some_and(|pool| pool.at_work || pool.holds() > 0)
    }

    // --- Whose they are ---------------------------------------------------------------------------------------------

    /// Gives a ready slot to a replica, for ever. `None` if none is ready.
    pub(super) fn take(
        &self,
        namespace: &Namespace,
        id: &ReplicaId,
    ) -> Result<Option<Attachment>, NetworkError> {
        let mut state = self.state();
        let Some(pool) = state.pools.get_mut(namespace) else { return Ok(None) };
        let Some(slot) = pool.ready.pop_front() else { return Ok(None) };
        let path = self.links.join(id.as_str());
        match std::os::unix::fs::symlink(&slot.id, &path) {
            Ok(()) => Ok(Some(slot)),
            Err(source) => {
                // Nobody has it.
                pool.ready.push_front(slot);
                Err(NetworkError::File { path, source })
            }
        }
    }

    /// The slot that a replica has.
    pub(super) fn of(&self, id: &ReplicaId) -> Result<Option<String>, NetworkError> {
        read_link(&self.links.join(id.as_str()))
    }

    /// A replica has no slot any more. Only when nothing is left of that slot.
    pub(super) fn forget(&self, replica: &str) -> Result<(), NetworkError> {
        files::remove(self.links.join(replica))
    }

    /// All that are taken: the slot, by the replica's name.
    pub(super) fn taken(&self) -> Result<HashMap<String, String>, NetworkError> {
        let failed = |source| NetworkError::File { path: self.links.clone(), source };
        let mut taken = HashMap::new();
        for entry in std::fs::read_dir(&self.links).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if let (Ok(replica), Some(slot)) = (entry.file_name().into_string(), read_link(&entry.path())?) {
                taken.insert(replica, slot);
            }
        }
        Ok(taken)
    }

    // --- What is to be done -----------------------------------------------------------------------------------------

    /// A slot that an earlier daemon made and nobody took. Tells whether there is a use for it.
    pub(super) fn adopt(&self, namespace: &Namespace, slot: Attachment) -> bool {
        self.fill_from_now(namespace);
        let mut state = self.state();
        let Some(pool) = state.pools.get_mut(namespace) else { return false };
        let has_use = pool.holds() < self.wanted;
        if has_use {
            pool.doubtful.push(slot);
        }
        has_use
    }

    /// Something was done to the host that may have done harm to all of them.
    pub(super) fn doubt(&self) {
        for pool in self.state().pools.values_mut() {
            pool.doubtful.extend(pool.ready.drain(..));
        }
        self.changed.notify_one();
    }

    /// What is to be done next. What it concerns counts as being worked on until [`Slots::done`].
    pub(super) fn next(&self, now: Instant) -> Next {
        let mut state = self.state();
        let mut again: Option<Instant> = None;
        for (namespace, pool) in &mut state.pools {
            if let Some(then) = pool.again.filter(|then| *then > now) {
                again = Some(again.map_or(then, |earlier| earlier.min(then)));
                continue;
            }
            let task = if let Some(slot) = pool.waste.pop() {
                Task::Free(slot)
            } else if let Some(slot) = pool.doubtful.pop() {
                Task::Check(slot)
            } else if !pool.closed && pool.ready.len() < self.wanted {
                Task::Make(name(namespace))
            } else {
                continue;
            };
            pool.at_work = true;
            return Next::Do(namespace.clone(), task);
        }
        Next::Wait(again)
    }

    /// What was to be done is done, or failed: then it is put off, for longer each time.
    pub(super) fn done(&self, namespace: &Namespace, outcome: Outcome) {
        let mut state = self.state();
        let Some(pool) = state.pools.get_mut(namespace) else { return };
        pool.at_work = false;
        match outcome {
            Outcome::Ready(slot) => {
                pool.ready.push_back(slot);
                (pool.again, pool.pauses) = (None, Pauses::new(PAUSE));
            }
            Outcome::Freed => {}
            Outcome::Waste(slot) => pool.waste.push(slot),
            Outcome::Failed(left, why) => {
                pool.waste.extend(left);
                match pool.again.replace(Instant::now() + pool.pauses.take()) {
                    None => warn!("no network is ready for the next replica in {namespace}: {why}"),
                    Some(_) => debug!("still no network is ready for the next replica in {namespace}: {why}"),
                }
            }
        }
    }

    /// A slot that is not needed more than its address is. It is the caller's to take apart.
    pub(super) fn give_up(&self, namespace: &Namespace) -> Option<Attachment> {
        self.state().pools.get_mut(namespace)?.doubtful.pop()
    }

    /// One that was given up and could not be taken apart: it is to be tried again.
    pub(super) fn discard(&self, namespace: &Namespace, slot: String) {
        if let Some(pool) = self.state().pools.get_mut(namespace) {
            pool.waste.push(slot);
        }
        self.changed.notify_one();
    }

    /// An address came back, or rules changed: worth a new look.
    pub(super) fn look_again(&self) {
        let now = Instant::now();
        for pool in self.state().pools.values_mut() {
            // Still a failure, but one that may be over.
            pool.again = pool.again.map(|then| then.min(now));
        }
        self.changed.notify_one();
    }

    /// Makes no more for a namespace: the names of all that there are, to be taken apart.
    pub(super) fn close(&self, namespace: &Namespace) -> Vec<String> {
        let mut state = self.state();
        let Some(pool) = state.pools.get_mut(namespace) else { return Vec::new() };
        pool.closed = true;
        let unused = pool.ready.drain(..).chain(pool.doubtful.drain(..)).map(|slot| slot.id);
        pool.waste.extend(unused);
        pool.waste.clone()
    }

    /// Nothing is left of a namespace's slots.
    pub(super) fn closed(&self, namespace: &Namespace) {
        self.state().pools.remove(namespace);
    }

    /// Resolves when something has changed.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Resolves when nobody has needed a network for a while.
    pub(super) async fn quiet(&self) {
        loop {
            let since = Some(self.state()).filter(|state| state.needed == 0).map(|state| state.quiet_since);
            match since {
                None => self.changed().await,
                Some(since) if since.elapsed() >= QUIET => return,
                Some(since) => tokio::time::sleep_until(since + QUIET).await,
            }
        }
    }

    /// Held for a look-up and a link, never across an await.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The namespace of a slot; `None` if it is a replica's own attachment.
pub(super) fn namespace_of(attachment: &str) -> Option<Namespace> {
    attachment.strip_prefix(PREFIX)?.split_once('_')?.0.parse().ok()
}

/// A name that no slot had.
fn name(namespace: &Namespace) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{PREFIX}{namespace}_{:x}", now.as_nanos())
}

fn read_link(path: &Path) -> Result<Option<String>, NetworkError> {
    match std::fs::read_link(path) {
        Ok(slot) => Ok(slot.into_os_string().into_string().ok()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(NetworkError::File { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests;
