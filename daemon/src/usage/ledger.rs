//! What functions have used, by day, kept across restarts and crashes.
//!
//! Owns the one task that reads the meters of the proxy and writes days down: every [`BEAT`] if there is something new, at
//! midnight UTC, and when the daemon ends. A daemon that is killed loses what came since the last beat.
//!
//! ```text
//!   meters of the proxy ──beat: what came since the last one──► book (today) ──if it has changed──► store (days)
//!                                                                  └────────────► a question: both, as of now ◄──┘
//! ```

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::civil::Date;
use jiff::{Span, Timestamp};
use roost_proxy::Upstream;
use roost_proxy::function::{FunctionKey, Namespace};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{info, warn};

use super::book::Book;
pub use super::book::Row;
use super::figures::{Figures, day_of, midnight_behind};
use crate::function::registry::Registry;
use crate::store::{Store, StoreError};

/// How often what is new is written down: each time is one write to what may be an SD card.
const BEAT: Duration = Duration::from_secs(10);

/// What functions have used.
pub struct Ledger {
    store: Arc<Store>,
    registry: Arc<Registry>,
    /// Days before today that are kept.
    keep_days: u16,
    state: Mutex<State>,
    /// Held while days are written: one after the other, so that none is written over by what was there before.
    writer: tokio::sync::Mutex<()>,
}

/// What is known between two beats.
struct State {
    book: Book,
    /// How far each function was read.
    read: HashMap<FunctionKey, Read>,
    /// Functions that are gone, as long as something of them goes on.
    ending: Vec<(FunctionKey, Read)>,
    /// When that was.
    at: Instant,
}

struct Read {
    upstream: Arc<Upstream>,
    figures: Figures,
}

/// Of which functions and days.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Of this function only.
    pub function: Option<FunctionKey>,
    /// Of this namespace only.
    pub namespace: Option<Namespace>,
    /// The first day.
    pub from: Date,
    /// The last day.
    pub to: Date,
}

impl Asked {
    fn of(&self, day: Date, function: &FunctionKey) -> bool {
        (self.from..=self.to).contains(&day)
            && self.function.as_ref().is_none_or(|only| only == function)
            && self.namespace.as_ref().is_none_or(|only| *only == function.namespace)
    }
}

impl Read {
    /// What came since the last time.
    fn more(&mut self) -> Figures {
        let now = Figures::from(self.upstream.metered());
        now.since(std::mem::replace(&mut self.figures, now))
    }
}

impl State {
    /// Reads all meters. Lengths are by the monotonic clock; the time of day only says which day they are of.
    fn beat(&mut self, functions: Vec<(FunctionKey, Arc<Upstream>)>) {
        let (now, wall) = (Instant::now(), Timestamp::now());
        let over = now.saturating_duration_since(std::mem::replace(&mut self.at, now));
        let mut last = std::mem::take(&mut self.read);
        for (key, upstream) in functions {
            let known = last.remove(&key);
            let mut read = match known {
                Some(read) if Arc::ptr_eq(&read.upstream, &upstream) => read,
                other => {
                    // Another one of the same name.
                    self.ending.extend(other.map(|read| (key.clone(), read)));
                    Read { upstream, figures: Figures::default() }
                }
            };
            self.book.add(&key, read.more(), over, wall);
            self.read.insert(key, read);
        }
        self.ending.extend(last);
        for (key, read) in &mut self.ending {
            self.book.add(key, read.more(), over, wall);
        }
        // Whoever uses a function has its upstream.
        self.ending.retain(|(_, read)| Arc::strong_count(&read.upstream) > 1);
    }
}

impl Ledger {
    /// Goes on with what the last daemon has written down. Blocks.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn open(store: Arc<Store>, registry: Arc<Registry>, keep_days: u16) -> Result<Arc<Self>, StoreError> {
        let today = day_of(Timestamp::now());
        let book = Book::of(store.days(today, Date::MAX, |_, _| true)?);
        let (read, ending) = (HashMap::new(), Vec::new());
        let state = Mutex::new(State { book, read, ending, at: Instant::now() });
        Ok(Arc::new(Self { store, registry, keep_days, state, writer: tokio::sync::Mutex::default() }))
    }

    /// Writes down what is new, and forgets days that are too old, until it is dropped.
    pub async fn keep(self: Arc<Self>) {
        let mut pruned = None;
        loop {
            let today = day_of(Timestamp::now());
            if pruned != Some(today) {
                pruned = self.prune(today).await.then_some(today);
            }
            sleep(until_beat(Timestamp::now())).await;
            self.write().await;
        }
    }

    /// Writes down what is new. What cannot be written now may be at the next time.
    pub async fn write(&self) {
        let _writer = self.writer.lock().await;
        let rows = self.beat().book.changed();
        if rows.is_empty() {
            return;
        }
        let store = Arc::clone(&self.store);
        let written = spawn_blocking(move || store.put_days(&rows).map(|()| rows)).await;
        match written.expect("writing does not panic") {
            Ok(rows) => self.lock().book.written(&rows, day_of(Timestamp::now())),
            Err(error) => warn!("what functions have used cannot be written: {error}"),
        }
    }

    /// What was used, by day and function, in that order; until now, what goes on included.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn ask(&self, asked: Asked) -> Result<Vec<Row>, StoreError> {
        // Before the store: a day that is settled meanwhile is there.
        let new = self.beat().book.all();
        let (store, of) = (Arc::clone(&self.store), asked.clone());
        let old = spawn_blocking(move || store.days(of.from, of.to, |day, function| of.of(day, function)));
        let old = old.await.expect("reading does not panic")?;
        let new = new.into_iter().filter(|(day, function, _)| asked.of(*day, function));
        let rows: BTreeMap<_, _> =
            old.into_iter().chain(new).map(|(day, function, figures)| ((day, function), figures)).collect();
        Ok(rows.into_iter().map(|((day, function), figures)| (day, function, figures)).collect())
    }

    async fn prune(&self, today: Date) -> bool {
        let Ok(first) = today.checked_sub(Span::new().days(self.keep_days)) else { return true };
        let store = Arc::clone(&self.store);
        match spawn_blocking(move || store.remove_days_before(first)).await.expect("it does not panic") {
            Ok(0) => true,
            Ok(count) => {
                info!("what functions have used before {first} is forgotten: {count} records");
                true
            }
            Err(error) => {
                warn!("what functions have used before {first} cannot be forgotten: {error}");
                false
            }
        }
    }

    /// Reads all meters.
    fn beat(&self) -> MutexGuard<'_, State> {
        // Before the lock: the registry has one of its own.
        let functions = self.registry.observe();
        let functions = functions.into_iter().map(|function| (function.key, function.upstream)).collect();
        let mut state = self.lock();
        state.beat(functions);
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long it is until the next beat: there is one at midnight, so that days end in time.
fn until_beat(now: Timestamp) -> Duration {
    let midnight = midnight_behind(now).map(|midnight| midnight.duration_since(now).unsigned_abs());
    midnight.map_or(BEAT, |midnight| midnight.min(BEAT))
}

#[cfg(test)]
mod tests {
    use roost_proxy::UpstreamLimits;

    use super::*;

    #[test]
    fn there_is_a_beat_at_midnight() {
        let until = |text: &str| until_beat(text.parse().unwrap()).as_secs_f64();
        assert_eq!(until("2026-03-01T12:00:00Z"), 10.0);
        assert_eq!(until("2026-03-01T23:59:57.5Z"), 2.5);
        assert_eq!(until("2026-03-01T00:00:00Z"), 10.0);
    }

    #[test]
    fn a_function_that_is_gone_is_read_as_long_as_something_of_it_goes_on() {
        let key = FunctionKey::from_route("echo").unwrap();
        let upstream = || Upstream::new(key.clone(), UpstreamLimits::default());
        let mut state =
            State { book: Book::default(), read: HashMap::new(), ending: Vec::new(), at: Instant::now() };
        let (first, second) = (upstream(), upstream());
        state.beat(vec![(key.clone(), Arc::clone(&first))]);
        assert!(Arc::ptr_eq(&state.read[&key].upstream, &first) && state.ending.is_empty());
        state.beat(vec![(key.clone(), Arc::clone(&second))]);
        assert!(Arc::ptr_eq(&state.read[&key].upstream, &second));
        assert_eq!(state.ending.len(), 1, "the first one is still used");
        drop(first);
        state.beat(vec![]);
        assert_eq!((state.read.len(), state.ending.len()), (0, 1), "the second one is");
        drop(second);
        state.beat(vec![]);
        assert!(state.ending.is_empty() && state.book.all().is_empty());
    }
}
