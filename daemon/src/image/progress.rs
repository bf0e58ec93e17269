//! How far a pull is: counters that cost nothing to read, and a line in the log now and then.
//!
//! Owns the numbers. Never decides anything by them.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

/// The longest time between two lines in the log while bytes arrive.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// What is being done for an image at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Nothing yet.
    Waiting,
    /// Asking the registry what the reference means.
    Resolving,
    /// Fetching layers.
    Downloading,
    /// Making a file system of them.
    Unpacking,
    /// It is on this host.
    Done,
}

impl Phase {
    const ALL: [Self; 5] = [Self::Waiting, Self::Resolving, Self::Downloading, Self::Unpacking, Self::Done];

    /// The phase as a word for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Resolving => "resolving",
            Self::Downloading => "downloading",
            Self::Unpacking => "unpacking",
            Self::Done => "done",
        }
    }
}

/// A view on the pull that is done for its holder. Clones see the same.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    // Who joins a pull that is under way looks at that pull's counters from then on.
    seen: Arc<ArcSwap<Counters>>,
}

impl Progress {
    /// A view that sees nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What is being done.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.seen.load().phase()
    }

    /// Bytes that are on this host, of those that the image has. Compressed, as they travel.
    #[must_use]
    pub fn done_bytes(&self) -> u64 {
        self.seen.load().done.load(Ordering::Relaxed)
    }

    /// Bytes that the image has; 0 while that is not known.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.seen.load().total.load(Ordering::Relaxed)
    }

    pub(super) fn follow(&self, counters: &Arc<Counters>) {
        self.seen.store(counters.clone());
    }
}

/// The counters of one pull: written by it, seen by all who wait for it.
#[derive(Debug, Default)]
pub(super) struct Counters {
    phase: AtomicU8,
    done: AtomicU64,
    total: AtomicU64,
    logged: Mutex<Option<(Instant, u64)>>,
}

impl Counters {
    pub(super) fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.phase.load(Ordering::Relaxed)).min(Phase::ALL.len() - 1)]
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(super) fn expect(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
        *self.logged.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), 0));
    }

    /// Counts `bytes` of the image `name`, and logs when it is time to.
    pub(super) fn add(&self, name: &str, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let total = self.total.load(Ordering::Relaxed);
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if logged.is_some_and(|(at, before)| is_news(now.duration_since(at), before, done, total)) {
            *logged = Some((now, done));
            drop(logged);
            tracing::info!(image = name, "fetched {} of {} MB of {name}", megabytes(done), megabytes(total));
        }
    }

    /// Takes back bytes that have to be fetched again.
    pub(super) fn take_back(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Is it time for a line in the log: another quarter is done, or a while has passed? The end has a line of its own.
fn is_news(since: Duration, before: u64, done: u64, total: u64) -> bool {
    let quarter = |bytes: u64| bytes.saturating_mul(4).checked_div(total).unwrap_or(0);
    done < total && (quarter(done) > quarter(before) || since >= LOG_EVERY)
}

/// Bytes as megabytes with one digit behind the point.
pub(super) fn megabytes(bytes: u64) -> String {
    let tenths = bytes.saturating_add(50_000) / 100_000;
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_or_ten_seconds_are_news() {
        let soon = Duration::from_secs(1);
        let later = Duration::from_secs(10);
        let table = [
            (soon, 0, 10, 100, false),
            (soon, 10, 25, 100, true),
            (soon, 25, 49, 100, false),
            (later, 25, 26, 100, true),
            (later, 25, 100, 100, false),
            (later, 0, 0, 0, false),
        ];
        for (since, before, done, total, news) in table {
            assert_eq!(is_news(since, before, done, total), news, "{since:?} {before} {done} {total}");
        }
    }

    #[test]
    fn whoever_joins_sees_what_the_pull_does() {
        let (mine, theirs) = (Progress::new(), Progress::new());
        assert_eq!((mine.phase(), mine.total_bytes()), (Phase::Waiting, 0));
        let counters = Arc::new(Counters::default());
        mine.follow(&counters);
        counters.expect(100);
        counters.enter(Phase::Downloading);
        counters.add("image", 40);
        theirs.follow(&counters);
        for seen in [&mine, &theirs, &mine.clone()] {
            assert_eq!((seen.phase(), seen.done_bytes(), seen.total_bytes()), (Phase::Downloading, 40, 100));
        }
    }

    #[test]
    fn megabytes_are_rounded_to_one_digit() {
        for (bytes, text) in [(0, "0.0"), (50_000, "0.1"), (1_240_000, "1.2"), (10_000_000, "10.0")] {
            assert_eq!(megabytes(bytes), text);
        }
    }
}
