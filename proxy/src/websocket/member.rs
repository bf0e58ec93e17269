//! A connection as others see it: who it is, what it carried, and the way to say something to it.
//!
//! Owns the counters of one connection and the names of its groups. Whoever has it may say something; only its own task
//! reads what the client says.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::Instant;

use super::counters::EventCounters;
use super::deflate::Deflate;
use super::ending::Ending;
use super::event::{Identity, Message};
use super::outbound::{Outbound, Said};
use super::returns::Return;
use super::settings::{GROUPS, OUTBOUND, Subscriptions};
use super::spoken::Spoken;
use super::sweep::Dirty;
use crate::upstream::Upstream;

/// One connection.
#[derive(Debug)]
pub struct Member {
    identity: Identity,
    upstream: Arc<Upstream>,
    began: Instant,
    pub(super) outbound: Outbound,
    /// How messages are compressed, if that was agreed upon.
    pub(super) deflate: OnceLock<Deflate>,
    /// What is kept for its client to come back, if it may.
    pub(super) returns: OnceLock<Box<Return>>,
    /// The names of its groups.
    pub(super) groups: Mutex<Vec<Arc<str>>>,
    /// The client has its 101.
    open: AtomicBool,
    pub(super) messages: [AtomicU64; 2],
    pub(super) bytes: [AtomicU64; 2],
    /// Milliseconds from `began` to when a message last came or went.
    active: AtomicU64,
}

/// What a connection has carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// Messages from the client, and to it.
    pub messages: [u64; 2],
    /// The bytes of those.
    pub bytes: [u64; 2],
}

impl Member {
    pub(super) fn new(identity: Identity, upstream: Arc<Upstream>, outbound: usize) -> Arc<Self> {
        Arc::new(Self {
            identity,
            upstream,
            began: Instant::now(),
            outbound: Outbound::new(outbound),
            deflate: OnceLock::new(),
            returns: OnceLock::new(),
            groups: Mutex::default(),
            open: AtomicBool::new(false),
            messages: Default::default(),
            bytes: Default::default(),
            active: AtomicU64::new(0),
        })
    }

    /// One of an earlier process, so old, and so long without a word.
    pub(super) fn resumed(
        identity: Identity,
        upstream: Arc<Upstream>,
        age: Duration,
        idle: Duration,
        carried: [[u64; 2]; 2],
    ) -> Arc<Self> {
        let now = Instant::now();
        let began = now.checked_sub(age).unwrap_or(now);
        let active = u64::try_from(age.saturating_sub(idle).as_millis()).unwrap_or(u64::MAX);
        let [messages, bytes] = carried.map(|pair| pair.map(AtomicU64::new));
        Arc::new(Self {
            identity,
            upstream,
            began,
            outbound: Outbound::new(OUTBOUND),
            deflate: OnceLock::new(),
            returns: OnceLock::new(),
            groups: Mutex::default(),
            open: AtomicBool::new(false),
            messages,
            bytes,
            active: AtomicU64::new(active),
        })
    }

    /// When it was opened.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Its function.
    pub(super) fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    pub(super) fn counters(&self) -> &EventCounters {
        &self.upstream.counters().events
    }

    /// Has the client been let in? What is said to it before waits.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.load(Relaxed)
    }

    pub(super) fn opened(&self) {
        self.open.store(true, Relaxed);
    }

    /// How long it has been there.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// When a message last came or went.
    #[must_use]
    pub fn last_active(&self) -> SystemTime {
        self.identity.since + Duration::from_millis(self.active.load(Relaxed))
    }

    /// How long ago a message last came or went.
    pub(super) fn idle_since(&self) -> Instant {
        self.began + Duration::from_millis(self.active.load(Relaxed))
    }

    pub(super) fn carried_in(&self, bytes: usize) {
        self.carried(0, bytes, Instant::now());
        self.counters().received(bytes);
    }

    fn carried(&self, way: usize, bytes: usize, at: Instant) {
        self.messages[way].fetch_add(1, Relaxed);
        self.bytes[way].fetch_add(bytes as u64, Relaxed);
        let since = at.saturating_duration_since(self.began);
        let milliseconds = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        self.active.store(milliseconds, Relaxed);
    }

    /// What it has carried.
    #[must_use]
    pub fn has_carried(&self) -> Carried {
        Carried {
            messages: self.messages.each_ref().map(|count| count.load(Relaxed)),
            bytes: self.bytes.each_ref().map(|count| count.load(Relaxed)),
        }
    }

    /// How many bytes wait for the client to read them.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.outbound.bytes()
    }

    /// The names of its groups.
    #[must_use]
    pub fn groups(&self) -> Vec<Arc<str>> {
        self.lock_groups().clone()
    }

    /// In how many groups it may be, by what its function asks of connections now.
    #[must_use]
    pub fn most_groups(&self) -> usize {
        self.upstream.event_mode().map_or(GROUPS, |mode| mode.max_groups)
    }

    /// Does its function want to hear of users that come to groups, or leave them?
    pub(super) fn wants_to_hear_of(&self, joined: bool) -> bool {
        let events = self.upstream.event_mode().map_or_else(Subscriptions::default, |mode| mode.events);
        if joined { events.joined } else { events.left }
    }

    pub(super) fn lock_groups(&self) -> MutexGuard<'_, Vec<Arc<str>>> {
        // Nothing happens under the lock that could leave it half done.
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something to the client, behind everything that was said before.
    pub fn say(&self, message: &Message) -> Said {
        self.speak(&Spoken::new(message))
    }

    pub(super) fn speak(&self, spoken: &Spoken<'_>) -> Said {
        let frame = spoken.to(self.deflate.get().copied());
        let said = self.say_frame(frame, Outbound::say);
        self.note_said(said, spoken);
        said
    }

    /// The same for its own task, which is going to write it.
    pub(super) fn speak_of_task(&self, message: &Message) -> Said {
        let spoken = Spoken::new(message);
        let said = self.say_frame(spoken.to(self.deflate.get().copied()), Outbound::say_of_task);
        self.note_said(said, &spoken);
        said
    }

    /// The same as one of many, who are written to when it was said to all of them.
    pub(super) fn speak_of_many(self: &Arc<Self>, spoken: &Spoken<'_>, dirty: &mut Dirty) -> Said {
        let said = self.say_frame(spoken.to(self.deflate.get().copied()), |outbound, frame| {
            let (said, sweep) = outbound.say_of_many(frame, spoken.fanout.clone());
            if let Some(sweep) = sweep {
                dirty.add(sweep, self);
            }
            said
        });
        self.note_said(said, spoken);
        said
    }

    /// Has `say` say it, and keeps it where its client may come back.
    fn say_frame(&self, frame: Bytes, say: impl FnOnce(&Outbound, Bytes) -> Said) -> Said {
        match self.returns.get() {
            None => say(&self.outbound, frame),
            Some(returns) => returns.say(&self.outbound, frame, say),
        }
    }

    fn note_said(&self, said: Said, spoken: &Spoken<'_>) {
        if said == Said::Queued {
            self.carried(1, spoken.message.data.len(), spoken.at);
            self.counters().sent(spoken.message);
        } else {
            self.counters().dropped(said);
        }
    }

    /// Ends the connection, behind everything that was said before. `false` if it ends already.
    pub fn end(&self, ending: Ending) -> bool {
        self.outbound.end(ending)
    }
}
