//! The lines of calls: one a function, which call of it is next, and how many are made at once.
//!
//! Owns the order of calls and what was counted. Pure: it makes no call, writes nothing and reads no clock. Times are
//! milliseconds of Unix time.
//!
//! ```text
//!             ┌──────── again, later ───────────┐
//!             ▼                                 │
//!  new ─► delayed ─► ready ─► begun ─► ended    │      a key of order: only its first is in delayed or ready
//!             │         │        └──────────────┘      a line whose function takes nothing is closed: one knocks, when
//!             └─────────┴─► too old: begun, to be buried       the pause is over, and opens it, or closes it for longer
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use roost_proxy::function::FunctionKey;
use tokio_util::sync::CancellationToken;

use super::invocation::Failure;

/// The pauses between two knocks at a function that takes nothing, in milliseconds.
const KNOCKS: (i64, i64) = (1000, 30_000);

/// How many calls of a function are buried at once, and how many callbacks are tried again.
const BURIED_AT_ONCE: usize = 16;
const CALLED_BACK_AT_ONCE: usize = 16;

/// A function's part of the queue, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueLoad {
    /// Calls that have not begun.
    pub pending: usize,
    /// Calls that have begun: at the function, or with their callback.
    pub in_flight: usize,
    /// When the oldest call that is not over was taken over, in milliseconds of Unix time.
    pub oldest: Option<i64>,
    /// The bytes that its calls take.
    pub bytes: u64,
    /// Calls that were taken over, ever.
    pub submitted_total: u64,
    /// Calls that came to an end of their own, good or bad, ever.
    pub processed_total: u64,
    /// Calls that were cancelled, or dropped with their function, ever.
    pub dropped_total: u64,
    /// Attempts behind the first one of a call, ever.
    pub retried_total: u64,
    /// Calls that became dead letters, ever.
    pub dead_total: u64,
    /// Calls that had begun when a daemon ended, and began again, ever.
    pub redelivered_total: u64,
}

impl QueueLoad {
    /// How long ago the oldest call that is not over was taken over.
    #[must_use]
    pub fn age(&self, now: Timestamp) -> Option<Duration> {
        let millis = self.oldest.map(|oldest| now.as_millisecond().saturating_sub(oldest))?;
        Some(Duration::from_millis(u64::try_from(millis).unwrap_or(0)))
    }
}

/// What is known of a call here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: Box<str>,
    pub(super) priority: u8,
    pub(super) order_key: Option<Arc<str>>,
    pub(super) accepted: i64,
    /// Not before.
    pub(super) due: i64,
    /// Not any more.
    pub(super) expires: Option<i64>,
    /// Bytes.
    pub(super) weight: u64,
    /// Attempts that have begun.
    pub(super) attempts: u32,
    /// Its function has answered, and its callback is not done.
    pub(super) answered: bool,
    /// It is a dead letter, and was counted as one.
    pub(super) dead: bool,
    /// The names of the files of its bodies.
    pub(super) files: Vec<Box<str>>,
}

/// What is to be done with a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Task {
    /// To be made.
    Make,
    /// Its answer is to be sent.
    CallBack,
    /// It is too old: to be buried.
    Expired,
    /// Nobody took it for too long: to be buried.
    GivenUp(Failure),
}

/// A call whose turn it is.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    pub(super) number: u64,
    pub(super) function: FunctionKey,
    pub(super) task: Task,
    /// Attempts, this one included if it is one.
    pub(super) attempts: u32,
    /// Nobody wants it any more.
    pub(super) cancelled: CancellationToken,
}

/// How a turn ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The call is over.
    Done,
    /// The call is over: it is a dead letter.
    Dead,
    /// It is to have another turn, not before a moment.
    Again { due: i64 },
    /// Its function has answered; its callback is to be sent, not before a moment. Names the file of the answer, if that
    /// is new; `dead`: it is a dead letter, too.
    Answered { due: i64, file: Option<Box<str>>, dead: bool },
    /// Its function took nothing. Calls that were taken over before a moment are given up with it.
    NotTaken { now: i64, over: i64, failure: Failure },
    /// It has not begun after all.
    PutBack,
}

/// All lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    of: BTreeMap<FunctionKey, Line>,
    /// Calls of all lines, and their bytes.
    calls: usize,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Line {
    calls: BTreeMap<u64, Entry>,
    /// The bytes that its calls take.
    bytes: u64,
    /// A hash of their ids, and their numbers.
    ids: BTreeSet<(u64, u64)>,
    /// The greatest priority first: 9 − priority, and the number.
    ready: BTreeSet<(u8, u64)>,
    delayed: BTreeSet<(i64, u64)>,
    /// Calls whose callbacks are to be tried again.
    answered: BTreeSet<(i64, u64)>,
    expiring: BTreeSet<(i64, u64)>,
    /// The calls of each key, in their order.
    keys: HashMap<Arc<str>, VecDeque<u64>>,
    begun: HashMap<u64, Begun>,
    /// Calls that are to be buried because nobody took them.
    given_up: VecDeque<(u64, Failure)>,
    closed: Option<Closed>,
    counts: Counts,
}

#[derive(Debug)]
struct Begun {
    cancelled: CancellationToken,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Making,
    CallingBack,
    Burying,
}

/// A function that takes nothing.
#[derive(Debug, Clone, Copy)]
struct Closed {
    /// When the next one knocks.
    until: i64,
    /// How often it was in vain.
    times: u32,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    submitted: u64,
    processed: u64,
    dropped: u64,
    retried: u64,
    dead: u64,
    redelivered: u64,
}

impl Lines {
    /// A new call.
    pub(super) fn push(&mut self, function: &FunctionKey, number: u64, entry: Entry) {
        self.line(function).counts.submitted += 1;
        self.restore(function, number, entry, false);
    }

    /// A call that was there when the daemon began. It had `begun` when the last one ended, or not.
    pub(super) fn restore(&mut self, function: &FunctionKey, number: u64, entry: Entry, begun: bool) {
        self.calls += 1;
        self.bytes += entry.weight;
        let line = self.line(function);
        line.counts.redelivered += u64::from(begun);
        line.bytes += entry.weight;
        line.ids.insert((hash(&entry.id), number));
        if let Some(expires) = entry.expires {
            line.expiring.insert((expires, number));
        }
        if let Some(key) = &entry.order_key {
            line.keys.entry(Arc::clone(key)).or_default().push_back(number);
        }
        line.calls.insert(number, entry);
        line.enqueue(number);
    }

    fn line(&mut self, function: &FunctionKey) -> &mut Line {
        if !self.of.contains_key(function) {
            self.of.insert(function.clone(), Line::default());
        }
        self.of.get_mut(function).expect("it was just put there")
    }

    /// Calls whose turn it is now; of a function up to `limit_of` it at once, of all up to `most`.
    pub(super) fn begin(
        &mut self,
        now: i64,
        most: usize,
        limit_of: impl Fn(&FunctionKey) -> usize,
    ) -> Vec<Turn> {
        let mut turns = Vec::new();
        for (function, line) in self.of.iter_mut().filter(|(_, line)| !line.calls.is_empty()) {
            if turns.len() >= most {
                break;
            }
            line.bury(now, function, &mut turns);
            line.call_back(now, function, &mut turns);
            line.make(now, most, function, &limit_of, &mut turns);
        }
        turns
    }

    /// When there will be a call whose turn it is, if nothing else happens.
    pub(super) fn next_due(&self) -> Option<i64> {
        self.of.values().filter_map(Line::next_due).min()
    }

    /// A turn has ended. Gives the entry of a call that is over with it.
    pub(super) fn end(&mut self, function: &FunctionKey, number: u64, end: &End) -> Option<Entry> {
        // The function may have been forgotten, and may even be there again: then the number is none of its.
        let line = self.of.get_mut(function)?;
        let begun = line.begun.remove(&number)?;
        let over = begun.cancelled.is_cancelled() || matches!(end, End::Done | End::Dead);
        if !matches!(end, End::NotTaken { .. } | End::PutBack) && begun.what == What::Making {
            line.closed = None;
        }
        if over {
            let counted = line.calls.get(&number).is_some_and(|entry| entry.dead);
            let counts = &mut line.counts;
            *(match end {
                End::Done if counted => return self.remove(function, number),
                End::Done => &mut counts.processed,
                End::Dead => &mut counts.dead,
                _ => &mut counts.dropped,
            }) += 1;
            return self.remove(function, number);
        }
        line.go_on(number, end, begun.what);
        None
    }

    /// A call is no more. Whoever of its key is next has its turn.
    fn remove(&mut self, function: &FunctionKey, number: u64) -> Option<Entry> {
        let line = self.of.get_mut(function)?;
        let entry = line.calls.remove(&number)?;
        line.forget(number, &entry);
        line.bytes -= entry.weight;
        self.bytes -= entry.weight;
        self.calls -= 1;
        Some(entry)
    }

    /// How many calls of a function are not over.
    pub(super) fn waiting(&self, function: &FunctionKey) -> u64 {
        self.of.get(function).map_or(0, |line| line.calls.len() as u64)
    }

    /// Whose calls are known by this id, whether they have begun or not.
    pub(super) fn functions_of(&self, id: &str) -> Vec<FunctionKey> {
        let known = |(key, line): (&FunctionKey, &Line)| line.known_by(id).next().map(|_| key.clone());
        self.of.iter().filter_map(known).collect()
    }

    /// Ends the calls of this id and these functions: those that have not begun are no more, and their numbers and entries
    /// are given; those that have are told. How many there were of both.
    pub(super) fn cancel(&mut self, id: &str, functions: &[FunctionKey]) -> (usize, Vec<(u64, Entry)>) {
        let (mut found, mut gone) = (0, Vec::new());
        for function in functions {
            let Some(line) = self.of.get_mut(function) else { continue };
            let numbers: Vec<u64> = line.known_by(id).collect();
            found += numbers.len();
            for number in numbers {
                let line = self.of.get_mut(function).expect("it was there");
                match line.begun.get(&number) {
                    Some(begun) => begun.cancelled.cancel(),
                    None => {
                        line.counts.dropped += 1;
                        gone.extend(self.remove(function, number).map(|entry| (number, entry)));
                    }
                }
            }
        }
        (found, gone)
    }

    /// Which calls [`cancel`](Self::cancel) would end at once.
    pub(super) fn cancellable(&self, id: &str, functions: &[FunctionKey]) -> Vec<u64> {
        let lines = functions.iter().filter_map(|function| self.of.get(function));
        let pending = |line: &Line, number: &u64| !line.begun.contains_key(number);
        lines
            .flat_map(|line| line.known_by(id).filter(|number| pending(line, number)).collect::<Vec<_>>())
            .collect()
    }

    /// The numbers of all calls of a function.
    pub(super) fn numbers(&self, function: &FunctionKey) -> Vec<u64> {
        self.of.get(function).map_or_else(Vec::new, |line| line.calls.keys().copied().collect())
    }

    /// Drops all of a function that is no more, and tells the calls that are at it. Gives what had not begun.
    pub(super) fn forget(&mut self, function: &FunctionKey) -> Vec<Entry> {
        let Some(line) = self.of.remove(function) else { return Vec::new() };
        self.calls -= line.calls.len();
        self.bytes -= line.bytes;
        for begun in line.begun.values() {
            begun.cancelled.cancel();
        }
        let pending = line.calls.into_iter().filter(|(number, _)| !line.begun.contains_key(number));
        pending.map(|(_, entry)| entry).collect()
    }

    /// A function takes calls, as far as anybody knows: the next one need not wait to knock.
    pub(super) fn reopen(&mut self, function: &FunctionKey) {
        if let Some(closed) = self.of.get_mut(function).and_then(|line| line.closed.as_mut()) {
            closed.until = 0;
        }
    }

    /// Has this call begun, and does nobody want it any more? `None` if it has not begun.
    pub(super) fn is_over(&self, function: &FunctionKey, number: u64) -> Option<bool> {
        Some(self.of.get(function)?.begun.get(&number)?.cancelled.is_cancelled())
    }

    /// A call that goes on elsewhere: it is not here any more, and nothing is counted.
    #[cfg(feature = "nats")]
    pub(super) fn give_back(&mut self, function: &FunctionKey, number: u64) -> Option<Entry> {
        let line = self.of.get_mut(function)?;
        line.begun.remove(&number);
        line.given_up.retain(|(given_up, _)| *given_up != number);
        line.expiring.retain(|(_, expiring)| *expiring != number);
        self.remove(function, number)
    }

    /// The numbers of the calls of a function that have not begun, and are not about to be buried.
    #[cfg(feature = "nats")]
    pub(super) fn idle(&self, function: &FunctionKey) -> Vec<u64> {
        let Some(line) = self.of.get(function) else { return Vec::new() };
        let busy = |number: &u64| {
            line.begun.contains_key(number) || line.given_up.iter().any(|(given_up, _)| given_up == number)
        };
        line.calls.keys().copied().filter(|number| !busy(number)).collect()
    }

    /// Does this function take nothing, as far as anybody knows?
    #[cfg(feature = "nats")]
    pub(super) fn is_closed(&self, function: &FunctionKey) -> bool {
        self.of.get(function).is_some_and(|line| line.closed.is_some())
    }

    /// How many attempts of a call have begun.
    #[cfg(feature = "nats")]
    pub(super) fn attempts(&self, function: &FunctionKey, number: u64) -> Option<u32> {
        Some(self.of.get(function)?.calls.get(&number)?.attempts)
    }

    /// Has this call begun?
    #[cfg(feature = "nats")]
    pub(super) fn has_begun(&self, number: u64) -> bool {
        self.of.values().any(|line| line.begun.contains_key(&number))
    }

    /// A call was taken over that is not here.
    #[cfg(feature = "nats")]
    pub(super) fn count_submitted(&mut self, function: &FunctionKey) {
        self.line(function).counts.submitted += 1;
    }

    /// Calls that have begun.
    pub(super) fn in_flight(&self) -> usize {
        self.of.values().map(|line| line.begun.len()).sum()
    }

    /// Calls that are not over, and the bytes they take; those of this function, too.
    pub(super) fn size(&self, function: &FunctionKey) -> Size {
        let own = self.of.get(function);
        Size { calls: self.calls, bytes: self.bytes, own: own.map_or(0, |line| line.bytes) }
    }

    /// What is going on, by function.
    pub(super) fn loads(&self) -> Vec<(FunctionKey, QueueLoad)> {
        self.of.iter().map(|(key, line)| (key.clone(), line.load())).collect()
    }

    /// The names of all files of calls.
    pub(super) fn files(&self) -> impl Iterator<Item = &str> {
        self.of
            .values()
            .flat_map(|line| line.calls.values())
            .flat_map(|entry| &entry.files)
            .map(|name| &**name)
    }
}

/// How much there is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) calls: usize,
    pub(super) bytes: u64,
    /// Bytes of one function.
    pub(super) own: u64,
}

impl Line {
    /// Puts a call where it belongs, unless another one of its key is before it. It is not looked whether it is due: that is
    /// done where there is a clock.
    fn enqueue(&mut self, number: u64) {
        let Some(entry) = self.calls.get(&number) else { return };
        let of_key = entry.order_key.as_ref().and_then(|key| self.keys.get(key));
        if of_key.is_some_and(|of_key| of_key.front() != Some(&number)) {
            return;
        }
        if entry.answered {
            self.answered.insert((entry.due, number));
        } else if entry.due > 0 {
            self.delayed.insert((entry.due, number));
        } else {
            self.ready.insert((9_u8.saturating_sub(entry.priority), number));
        }
    }

    fn unqueue(&mut self, number: u64, entry: &Entry) {
        self.delayed.remove(&(entry.due, number));
        self.answered.remove(&(entry.due, number));
        self.ready.remove(&(9_u8.saturating_sub(entry.priority), number));
    }

    /// A call is no more.
    fn forget(&mut self, number: u64, entry: &Entry) {
        self.unqueue(number, entry);
        self.ids.remove(&(hash(&entry.id), number));
        if let Some(expires) = entry.expires {
            self.expiring.remove(&(expires, number));
        }
        let Some(key) = &entry.order_key else { return };
        let Some(of_key) = self.keys.get_mut(key) else { return };
        let was_first = of_key.front() == Some(&number);
        of_key.retain(|other| *other != number);
        let next = of_key.front().copied();
        if of_key.is_empty() {
            self.keys.remove(key);
        }
        if was_first && let Some(next) = next {
            self.enqueue(next);
        }
    }

    /// Begins burials.
    fn bury(&mut self, now: i64, function: &FunctionKey, turns: &mut Vec<Turn>) {
        while self.count(What::Burying) < BURIED_AT_ONCE {
            let (number, task) = if let Some(given_up) = self.given_up.pop_front() {
                (given_up.0, Task::GivenUp(given_up.1))
            } else {
                let due = self.expiring.first().copied().filter(|(expires, _)| *expires <= now);
                let Some(first) = due else { return };
                self.expiring.remove(&first);
                (first.1, Task::Expired)
            };
            // What has begun meanwhile goes its way, and so does what was answered.
            let Some(entry) = self.calls.get(&number).cloned() else { continue };
            if self.begun.contains_key(&number) || entry.answered {
                continue;
            }
            self.unqueue(number, &entry);
            turns.push(self.turn(number, function, task, entry.attempts));
        }
    }

    /// Begins to send answers again.
    fn call_back(&mut self, now: i64, function: &FunctionKey, turns: &mut Vec<Turn>) {
        while self.count(What::CallingBack) < CALLED_BACK_AT_ONCE {
            let Some(first) = self.answered.first().copied().filter(|(due, _)| *due <= now) else { return };
            self.answered.remove(&first);
            let Some(entry) = self.calls.get(&first.1) else { continue };
            turns.push(self.turn(first.1, function, Task::CallBack, entry.attempts));
        }
    }

    /// Begins calls.
    fn make(
        &mut self,
        now: i64,
        most: usize,
        function: &FunctionKey,
        limit_of: impl Fn(&FunctionKey) -> usize,
        turns: &mut Vec<Turn>,
    ) {
        while let Some((due, number)) = self.delayed.first().copied().filter(|(due, _)| *due <= now) {
            self.delayed.remove(&(due, number));
            if let Some(entry) = self.calls.get_mut(&number) {
                entry.due = 0;
                self.enqueue(number);
            }
        }
        if self.ready.is_empty() {
            return;
        }
        let limit = match self.closed {
            Some(closed) => usize::from(closed.until <= now),
            None => limit_of(function),
        };
        while turns.len() < most && self.count(What::Making) < limit {
            let Some((_, number)) = self.ready.pop_first() else { return };
            let Some(entry) = self.calls.get_mut(&number) else { continue };
            entry.attempts += 1;
            let attempts = entry.attempts;
            self.counts.retried += u64::from(attempts > 1);
            turns.push(self.turn(number, function, Task::Make, attempts));
        }
    }

    fn turn(&mut self, number: u64, function: &FunctionKey, task: Task, attempts: u32) -> Turn {
        let cancelled = CancellationToken::new();
        let what = match task {
            Task::Make => What::Making,
            Task::CallBack => What::CallingBack,
            Task::Expired | Task::GivenUp(_) => What::Burying,
        };
        self.begun.insert(number, Begun { cancelled: cancelled.clone(), what });
        Turn { number, function: function.clone(), task, attempts, cancelled }
    }

    /// How many turns there are of a kind.
    fn count(&self, what: What) -> usize {
        self.begun.values().filter(|begun| begun.what == what).count()
    }

    /// A turn has ended, and the call goes on.
    fn go_on(&mut self, number: u64, end: &End, what: What) {
        let Some(entry) = self.calls.get_mut(&number) else { return };
        match end {
            End::Again { due } if what == What::Burying => {
                self.expiring.insert((*due, number));
                return;
            }
            End::Again { due } => entry.due = *due,
            End::Answered { due, file, dead } => {
                (entry.due, entry.answered) = (*due, true);
                entry.files.extend(file.clone());
                entry.dead |= dead;
                self.counts.dead += u64::from(*dead);
            }
            End::NotTaken { now, over, failure } => {
                // That was no attempt: nobody saw it.
                entry.attempts = entry.attempts.saturating_sub(1);
                let times = self.closed.map_or(0, |closed| closed.times);
                let pause = KNOCKS.0.saturating_mul(1 << times.min(16)).min(KNOCKS.1);
                self.closed = Some(Closed { until: now + pause, times: times + 1 });
                let old = self.calls.iter().take_while(|(_, entry)| entry.accepted <= *over);
                let old = old.filter(|(number, entry)| !entry.answered && !self.begun.contains_key(number));
                self.given_up = old.map(|(number, _)| (*number, failure.clone())).collect();
            }
            End::PutBack => match (what, entry.expires) {
                (What::Making, _) => entry.attempts = entry.attempts.saturating_sub(1),
                (What::Burying, Some(expires)) => {
                    self.expiring.insert((expires, number));
                    return;
                }
                (What::CallingBack, _) | (What::Burying, None) => {}
            },
            End::Done | End::Dead => {}
        }
        self.enqueue(number);
    }

    fn next_due(&self) -> Option<i64> {
        let knock = self.closed.filter(|_| !self.ready.is_empty() && self.count(What::Making) == 0);
        // Where as many are at work as may be, the end of one of them is what comes next.
        let first = |set: &BTreeSet<(i64, u64)>, what: What, most: usize| {
            set.first().map(|(at, _)| *at).filter(|_| self.count(what) < most)
        };
        let due = first(&self.delayed, What::Making, usize::MAX);
        let answered = first(&self.answered, What::CallingBack, CALLED_BACK_AT_ONCE);
        let expires = first(&self.expiring, What::Burying, BURIED_AT_ONCE);
        [due, answered, expires, knock.map(|closed| closed.until)].into_iter().flatten().min()
    }

    /// The numbers of the calls of an id.
    fn known_by(&self, id: &str) -> impl Iterator<Item = u64> {
        let hash = hash(id);
        let same = self.ids.range((hash, 0)..=(hash, u64::MAX)).map(|(_, number)| *number);
        same.filter(move |number| self.calls.get(number).is_some_and(|entry| *entry.id == *id))
    }

    fn load(&self) -> QueueLoad {
        let Counts { submitted, processed, dropped, retried, dead, redelivered } = self.counts;
        QueueLoad {
            pending: self.calls.len() - self.begun.len(),
            in_flight: self.begun.len(),
            oldest: self.calls.first_key_value().map(|(_, entry)| entry.accepted),
            bytes: self.bytes,
            submitted_total: submitted,
            processed_total: processed,
            dropped_total: dropped,
            retried_total: retried,
            dead_total: dead,
            redelivered_total: redelivered,
        }
    }
}

fn hash(id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
