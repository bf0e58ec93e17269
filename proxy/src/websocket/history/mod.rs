//! What was last said in groups: for those who come later, for those who come back, and for those who watch a group
//! without a WebSocket.
//!
//! Owns a ring for each group of which something is to be kept: because a function of its namespace asks for history, or
//! because somebody watches. Where neither is so, saying something costs one look at a number. Nothing here is on a disk: a
//! process that is killed takes the past along, and the next one counts from the beginning, in another epoch.
//!
//! ```text
//!   say ─► topic (locked) ─► ring: number, bytes ─► members of the group ─► watchers are woken
//!                              ▲                                                 │
//!                              └────────── each reads from where it is ◄─────────┘
//! ```

mod log;
mod sse;
mod topic;
mod watch;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

pub(super) use self::log::{Entry, Log};
pub use self::log::{History, InvalidPlace, Place};
use self::topic::{Cursor, Topic, Watcher};
pub use self::watch::{CannotWatch, Watch, Watching};
use super::event::Message;
use super::hub::{Reach, is_group_name};
use crate::function::{FunctionKey, Namespace};

/// What is kept for those who watch at this moment, whatever functions ask for.
const LIVE: History = History { count: 256, age: Duration::from_secs(60), bytes: 4 << 20 };

/// Of how many groups something is kept.
const MOST_TOPICS: usize = 10_000;

/// How many bytes are kept of all groups together.
const MOST_BYTES: usize = 64 << 20;

/// How often it is seen to that nothing is kept that is too old.
const SWEEP: Duration = Duration::from_secs(15);

/// How long a group of which no function asks for history is remembered: functions may not be known yet.
const GRACE: Duration = Duration::from_secs(60);

type Key = (Namespace, Arc<str>);

/// All of them.
#[derive(Debug)]
pub(super) struct Topics {
    /// What is kept of the groups of each namespace, and which functions ask for it.
    asked: ArcSwap<HashMap<Namespace, Asked>>,
    topics: Mutex<HashMap<Key, Arc<Topic>>>,
    /// How many topics there are, and namespaces of which history is kept.
    some: AtomicUsize,
    bytes: Arc<AtomicUsize>,
    closing: AtomicBool,
    sweeping: AtomicBool,
    hash: RandomState,
    /// Ids of watchers, and epochs.
    counter: AtomicU64,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    watching: AtomicUsize,
    events: AtomicU64,
    behind: AtomicU64,
    lost: AtomicU64,
    resumed: AtomicU64,
}

/// What functions of a namespace ask for. Groups are the namespace's, so the most counts for all of them.
#[derive(Debug, Clone, Default)]
struct Asked {
    by: Vec<(FunctionKey, History)>,
    keep: History,
}

/// What is counted of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HistoryFigures {
    /// Groups of which something is kept.
    pub groups: usize,
    /// The bytes of that.
    pub bytes: usize,
    /// Streams that are open now.
    pub streams: usize,
    /// Events that were sent on them.
    pub events: u64,
    /// Streams that ended because their clients did not keep up.
    pub behind: u64,
    /// Clients that came back to a stream and got all that they had missed.
    pub resumed: u64,
    /// Those of which some was gone.
    pub lost: u64,
}

/// A message of a group, as it is kept.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Its number.
    pub place: Place,
    /// When it was said.
    pub at: SystemTime,
    /// What.
    pub message: Message,
}

/// What is kept of a group, from a place on.
#[derive(Debug, Clone, Default)]
pub struct Past {
    /// Where a client is that has seen all of it; `None` where nothing was ever kept.
    pub place: Option<Place>,
    /// The messages, in order.
    pub messages: Vec<Kept>,
    /// Nothing is missing between the place that was asked for and the first of them.
    pub whole: bool,
    /// There are more.
    pub more: bool,
}

/// The history of a group, for another process.
#[derive(Debug)]
pub(super) struct Bequeathed {
    pub(super) namespace: Namespace,
    pub(super) group: Arc<str>,
    /// Before its first message.
    pub(super) place: Place,
    pub(super) entries: Vec<Entry>,
}

impl Default for Topics {
    fn default() -> Self {
        Self {
            asked: ArcSwap::default(),
            topics: Mutex::default(),
            some: AtomicUsize::new(0),
            bytes: Arc::default(),
            closing: AtomicBool::new(false),
            sweeping: AtomicBool::new(false),
            hash: RandomState::new(),
            counter: AtomicU64::new(0),
            counts: Counts::default(),
        }
    }
}

impl Topics {
    /// A function asks for this history from now on, or for none.
    pub(super) fn ask(self: &Arc<Self>, function: &FunctionKey, history: Option<History>) {
        let before = self.asked.load_full();
        let known = before.get(&function.namespace).and_then(|asked| asked.of(function));
        if known == history {
            return;
        }
        self.asked.rcu(|asked| {
            let mut asked = HashMap::clone(asked);
            let of = asked.entry(function.namespace.clone()).or_default();
            of.by.retain(|(by, _)| by != function);
            of.by.extend(history.map(|history| (function.clone(), history)));
            of.keep = of.by.iter().fold(History::default(), |keep, (_, history)| keep.most(*history));
            if of.by.is_empty() {
                asked.remove(&function.namespace);
            }
            asked
        });
        self.count_some();
        if history.is_some() {
            self.sweep_from_now_on();
        } else {
            self.sweep(Duration::ZERO);
        }
    }

    /// What is to be kept of the groups of a namespace.
    fn keep(&self, namespace: &Namespace) -> Option<History> {
        self.asked.load().get(namespace).map(|asked| asked.keep)
    }

    /// Keeps a message if it is to be kept, and has `speak` say it to members: in the same order for all.
    pub(super) fn say(
        self: &Arc<Self>,
        namespace: &Namespace,
        group: &str,
        message: &Message,
        speak: impl FnOnce() -> Reach,
    ) -> Reach {
        if self.some.load(Relaxed) == 0 {
            return speak();
        }
        let keep = self.keep(namespace);
        loop {
            let topic = match keep {
                Some(_) if is_group_name(group) => self.find_or_make(namespace, group),
                _ => self.find(namespace, group),
            };
            let Some(topic) = topic else { return speak() };
            let mut said = topic.said();
            if said.dropped {
                drop(said);
                self.forget(namespace, group, &topic);
                continue;
            }
            let (now, watched) = (Instant::now(), topic.watchers() > 0);
            said.log.push(Entry::new(message, SystemTime::now(), now));
            // Otherwise it comes from an earlier process, and it is not known yet what is asked for.
            if keep.is_some() || watched {
                said.touched = now;
                trim(&mut said, keep, watched, now);
            } else {
                within_all(&mut said, 0);
            }
            let reach = speak();
            drop(said);
            topic.wake(|_| true);
            return reach;
        }
    }

    /// What is kept of a group behind `after`, up to `limit` messages.
    pub(super) fn past(
        &self,
        namespace: &Namespace,
        group: &str,
        after: Option<Place>,
        limit: usize,
    ) -> Past {
        let nothing = Past { whole: after.is_none(), ..Past::default() };
        let (Some(keep), Some(topic)) = (self.keep(namespace), self.find(namespace, group)) else {
            return nothing;
        };
        let (said, now) = (topic.said(), Instant::now());
        let log = &said.log;
        let known = after.filter(|place| place.epoch == log.epoch());
        let shown = log.shown(known.map_or(0, |place| place.number), keep, now);
        let kept = |(number, entry): (u64, &Entry)| Kept {
            place: log.place(number),
            at: entry.at,
            message: entry.message.clone(),
        };
        let mut messages: Vec<Kept> = shown.take(limit.saturating_add(1)).map(kept).collect();
        let more = messages.len() > limit;
        messages.truncate(limit);
        let seen = known.map_or(0, |place| place.number);
        let first = messages.first().map_or(log.last() + 1, |kept| kept.place.number);
        let whole = after.is_none() || (known.is_some() && seen <= log.last() && seen + 1 >= first);
        let last = messages.last().map_or(log.last(), |kept| kept.place.number);
        Past { place: Some(log.place(last)), messages, whole, more }
    }

    /// A group has somebody who wants to hear who comes and goes.
    pub(super) fn of_presence(&self, namespace: &Namespace, group: &str) -> Option<Arc<Topic>> {
        if self.counts.watching.load(Relaxed) == 0 {
            return None;
        }
        self.find(namespace, group).filter(|topic| topic.wants_presence())
    }

    /// Tells of somebody who came, or went.
    pub(super) fn changed(topic: &Topic, user: &str, joined: bool) {
        topic.changed(sse::presence(user, joined));
    }

    /// Ends the streams of one function, or all, and lets no more in then.
    pub(super) fn end(&self, function: Option<&FunctionKey>) {
        if function.is_none() {
            self.closing.store(true, Relaxed);
        }
        for (_, topic) in self.all() {
            topic.end(|watcher| function.is_none_or(|function| watcher.function.as_ref() == Some(function)));
        }
    }

    pub(super) fn figures(&self) -> HistoryFigures {
        let Counts { watching, events, behind, lost, resumed } = &self.counts;
        HistoryFigures {
            groups: self.lock().len(),
            bytes: self.bytes.load(Relaxed),
            streams: watching.load(Relaxed),
            events: events.load(Relaxed),
            behind: behind.load(Relaxed),
            resumed: resumed.load(Relaxed),
            lost: lost.load(Relaxed),
        }
    }

    /// All that is kept of groups, for another process.
    pub(super) fn bequeath(&self) -> Vec<Bequeathed> {
        let wanted = self.asked.load();
        let all = self.all().into_iter().filter(|((namespace, _), _)| wanted.contains_key(namespace));
        let bequeathed = all.map(|((namespace, group), topic)| {
            let said = topic.said();
            let (place, entries) = said.log.parts();
            Bequeathed { namespace, group, place, entries: entries.cloned().collect() }
        });
        bequeathed.collect()
    }

    /// Goes on with what an earlier process has kept.
    pub(super) fn inherit(self: &Arc<Self>, bequeathed: Vec<Bequeathed>) {
        let now = Instant::now();
        let mut topics = self.lock();
        for Bequeathed { namespace, group, place, entries } in bequeathed {
            if topics.len() >= MOST_TOPICS || !is_group_name(&group) {
                continue;
            }
            let mut log = Log::new(place.epoch, place.number);
            entries.into_iter().for_each(|entry| log.push(entry));
            let topic = || Arc::new(Topic::new(log, now, &self.bytes));
            topics.entry((namespace, group)).or_insert_with(topic);
        }
        drop(topics);
        self.count_some();
        self.sweep_from_now_on();
    }

    fn find(&self, namespace: &Namespace, group: &str) -> Option<Arc<Topic>> {
        self.lock().get(&(namespace.clone(), group.into())).cloned()
    }

    fn find_or_make(self: &Arc<Self>, namespace: &Namespace, group: &str) -> Option<Arc<Topic>> {
        if let Some(topic) = self.find(namespace, group) {
            return Some(topic);
        }
        if self.lock().len() >= MOST_TOPICS {
            self.make_room();
        }
        let mut topics = self.lock();
        if topics.len() >= MOST_TOPICS {
            warn!("of group {group:?} nothing is kept: there are {MOST_TOPICS} of which something is");
            return None;
        }
        let make = || {
            let epoch = self.hash.hash_one((self.counter.fetch_add(1, Relaxed), SystemTime::now()));
            Arc::new(Topic::new(Log::new(epoch, 0), Instant::now(), &self.bytes))
        };
        let topic = Arc::clone(topics.entry((namespace.clone(), group.into())).or_insert_with(make));
        drop(topics);
        self.count_some();
        Some(topic)
    }

    /// Forgets groups of which nothing is left.
    fn make_room(&self) {
        for ((namespace, group), topic) in self.all() {
            let mut said = topic.said();
            if said.log.len() == 0 && topic.watchers() == 0 {
                said.dropped = true;
                drop(said);
                self.forget(&namespace, &group, &topic);
            }
        }
    }

    fn forget(&self, namespace: &Namespace, group: &str, topic: &Arc<Topic>) {
        let mut topics = self.lock();
        let key = (namespace.clone(), Arc::<str>::from(group));
        if topics.get(&key).is_some_and(|known| Arc::ptr_eq(known, topic)) {
            topics.remove(&key);
        }
        drop(topics);
        self.count_some();
    }

    fn all(&self) -> Vec<(Key, Arc<Topic>)> {
        self.lock().iter().map(|(key, topic)| (key.clone(), Arc::clone(topic))).collect()
    }

    fn count_some(&self) {
        let topics = self.lock();
        self.some.store(topics.len() + self.asked.load().len(), Relaxed);
    }

    /// Drops what is too old, and what nobody has asked for since `grace`.
    fn sweep(&self, grace: Duration) {
        let now = Instant::now();
        for ((namespace, group), topic) in self.all() {
            let (keep, watched) = (self.keep(&namespace), topic.watchers() > 0);
            let mut said = topic.said();
            if keep.is_none() && said.touched + grace > now {
                continue;
            }
            trim(&mut said, keep, watched, now);
            if keep.is_none() && !watched {
                said.dropped = true;
                drop(said);
                self.forget(&namespace, &group, &topic);
            }
        }
    }

    /// Sees to it now and then, as long as there is something.
    fn sweep_from_now_on(self: &Arc<Self>) {
        if self.sweeping.swap(true, Relaxed) {
            return;
        }
        let Ok(handle) = Handle::try_current() else {
            debug!("nobody sweeps: there is no runtime");
            self.sweeping.store(false, Relaxed);
            return;
        };
        let topics = Arc::downgrade(self);
        handle.spawn(async move {
            loop {
                sleep(SWEEP).await;
                let Some(topics) = Weak::upgrade(&topics) else { return };
                topics.sweep(GRACE);
                if topics.some.load(Relaxed) == 0 {
                    topics.sweeping.store(false, Relaxed);
                    return;
                }
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Topic>>> {
        // Nothing happens under the lock that could leave it half done.
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asked {
    fn of(&self, function: &FunctionKey) -> Option<History> {
        self.by.iter().find(|(by, _)| by == function).map(|(_, history)| *history)
    }
}

/// Keeps of a group what is asked for, within what all groups may have. Those who watch get the last message in any case.
fn trim(said: &mut topic::Said, keep: Option<History>, watched: bool, now: Instant) {
    let live = if watched { LIVE } else { History::default() };
    let least = usize::from(watched && said.touched + LIVE.age > now);
    said.log.trim(&keep.unwrap_or_default().most(live), least, now);
    within_all(said, least);
}

/// Keeps no more than what all groups may have together, but the `least` last ones.
fn within_all(said: &mut topic::Said, least: usize) {
    said.settle();
    while said.total() > MOST_BYTES && said.log.len() > least && said.log.drop_oldest() {
        said.settle();
    }
}
