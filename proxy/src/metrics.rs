//! What is counted for each function.
//!
//! Owns plain counters and the shape of histograms. Never names a metric or a format: whoever exports them reads
//! [`Totals`], whoever scales reads [`Load`]. Counting takes no lock, and memory only when a function answers with a
//! status for the first time.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crate::handshakes::Handshakes;
use crate::tunnel::{Tally, WebSockets};
use crate::websocket::{EventCounters, EventTotals};

/// The upper bounds of a histogram's buckets, in seconds: Prometheus' defaults. Behind the last there is one more bucket
/// for all that took longer.
pub const BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The same, in nanoseconds: a request is sorted in without floating point.
const BOUNDS_NANOS: [u64; 11] = [
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

const BUCKETS: usize = BOUNDS.len() + 1;

/// The status under which a request is counted whose client left before there was an answer. No function's answer can
/// have reached anybody then; the number is the one that other proxies use for it.
pub const CLIENT_LEFT: u16 = 499;

/// How long things took.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Not cumulative: one addition a request.
    buckets: [AtomicU64; BUCKETS],
    /// Wraps after five centuries.
    nanos: AtomicU64,
}

/// A histogram at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Distribution {
    /// How many took at most as long as each of [`BOUNDS`], and, last, how many there were.
    pub cumulative: [u64; BUCKETS],
    /// How long all of them took together, in seconds.
    pub seconds: f64,
}

impl Histogram {
    /// Counts one that took `duration`.
    pub fn observe(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_NANOS.iter().position(|bound| nanos <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.nanos.fetch_add(nanos, Relaxed);
    }

    /// What was counted so far.
    #[must_use]
    pub fn read(&self) -> Distribution {
        let mut count = 0;
        let cumulative = self.buckets.each_ref().map(|bucket| {
            count += bucket.load(Relaxed);
            count
        });
        Distribution { cumulative, seconds: Duration::from_nanos(self.nanos.load(Relaxed)).as_secs_f64() }
    }
}

impl Distribution {
    /// Adds those of another one.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.cumulative.iter_mut().zip(other.cumulative) {
            *count += more;
        }
        self.seconds += other.seconds;
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.cumulative[BUCKETS - 1]
    }
}

/// The answers with one status. They form a list that only grows: functions use a handful of statuses, so the walk is
/// short, and whoever walks needs no lock.
#[derive(Debug)]
struct Outcomes {
    status: u16,
    durations: Histogram,
    next: OnceLock<Box<Outcomes>>,
}

/// Why a request that waited, or wanted to, was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// So many were waiting already.
    Full,
    /// No replica came in time.
    Late,
    /// It was known that none would come.
    Unavailable,
    /// As many were at the replicas as may be.
    Capacity,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Claims held now.
    in_flight: AtomicUsize,
    tunnels: AtomicUsize,
    started: AtomicU64,
    finished: AtomicU64,
    /// What is added to `finished` to give the requests of this function's life. May wrap.
    earlier: AtomicU64,
    sent_bytes: AtomicU64,
    refused: [AtomicU64; 4],
    cold_starts: Histogram,
    pub(crate) websockets: Tally,
    pub(crate) events: EventCounters,
    outcomes: OnceLock<Box<Outcomes>>,
}

/// A function's load, read without stopping anybody: the numbers are each right, but not of one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Claims held: requests at a replica until their last byte, and open tunnels.
    pub in_flight: usize,
    /// Upgraded connections that are open now.
    pub tunnels: usize,
    /// Requests in the waiting room.
    pub waiting: usize,
    /// Requests that began, ever.
    pub started_total: u64,
    /// Requests that ended, ever; those that became tunnels ended with their 101.
    pub finished_total: u64,
}

/// All that was counted of a function since this process began.
#[derive(Debug, Clone)]
pub struct Totals {
    /// What is going on now, and how many there were.
    pub load: Load,
    /// Upgraded connections that are open now.
    pub tunnels: usize,
    /// Body bytes to clients, those of ended tunnels included.
    pub sent_bytes: u64,
    /// How long requests waited for a replica that were served in the end.
    pub cold_starts: Distribution,
    /// Requests that were turned away because the waiting room was full.
    pub refused_full: u64,
    /// Requests that were turned away because they had waited for too long.
    pub refused_late: u64,
    /// Requests that were turned away because it was known that no replica would come.
    pub refused_unavailable: u64,
    /// Requests that were turned away because the replicas had as many as they may have, or as many
    /// keys had replicas as may.
    pub refused_capacity: u64,
    /// What its WebSockets carried and how they ended.
    pub websockets: WebSockets,
    /// What its connections in event mode carried and how they ended.
    pub events: EventTotals,
    /// For each status, in the order in which they first came: how long the requests took from their arrival to the last
    /// byte of the answer, or to the head of a 101. [`CLIENT_LEFT`] is that of requests whose clients left unanswered.
    pub outcomes: Vec<(u16, Distribution)>,
}

impl Totals {
    /// How many requests ended with `status`.
    #[must_use]
    pub fn finished_with(&self, status: u16) -> u64 {
        self.outcomes.iter().find(|(of, _)| *of == status).map_or(0, |(_, durations)| durations.count())
    }
}

impl Counters {
    pub(crate) fn claimed(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    pub(crate) fn released(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    pub(crate) fn started(&self) {
        self.started.fetch_add(1, Relaxed);
    }

    /// A request ended with `status`, 0 for none, `duration` after it came.
    pub(crate) fn finished(&self, status: u16, duration: Duration) {
        self.finished.fetch_add(1, Relaxed);
        self.durations(if status == 0 { CLIENT_LEFT } else { status }).observe(duration);
    }

    pub(crate) fn tunnel_opened(&self) {
        self.tunnels.fetch_add(1, Relaxed);
    }

    pub(crate) fn tunnel_closed(&self) {
        self.tunnels.fetch_sub(1, Relaxed);
    }

    /// Of connections that are held here, or of those that go through.
    pub(crate) fn handshakes(&self, held: bool) -> &Handshakes {
        if held { &self.events.handshakes } else { &self.websockets.handshakes }
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.sent_bytes.fetch_add(bytes, Relaxed);
    }

    /// A request was served after it had waited.
    pub(crate) fn cold_start(&self, waited: Duration) {
        self.cold_starts.observe(waited);
    }

    pub(crate) fn refused(&self, why: Refused) {
        self.refused[why as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn requests(&self) -> u64 {
        self.finished.load(Relaxed).wrapping_add(self.earlier.load(Relaxed))
    }

    /// Sets what [`requests`](Self::requests) counts on from.
    pub(crate) fn set_requests(&self, count: u64) {
        self.earlier.store(count.wrapping_sub(self.finished.load(Relaxed)), Relaxed);
    }

    pub(crate) fn load(&self, waiting: usize) -> Load {
        Load {
            in_flight: self.in_flight.load(Relaxed),
            tunnels: self.tunnels.load(Relaxed),
            waiting,
            started_total: self.started.load(Relaxed),
            finished_total: self.finished.load(Relaxed),
        }
    }

    pub(crate) fn totals(&self, waiting: usize) -> Totals {
        let [refused_full, refused_late, refused_unavailable, refused_capacity] =
            self.refused.each_ref().map(|count| count.load(Relaxed));
        let mut outcomes = Vec::new();
        let mut at = &self.outcomes;
        while let Some(node) = at.get() {
            outcomes.push((node.status, node.durations.read()));
            at = &node.next;
        }
        Totals {
            load: self.load(waiting),
            tunnels: self.tunnels.load(Relaxed),
            sent_bytes: self.sent_bytes.load(Relaxed),
            cold_starts: self.cold_starts.read(),
            refused_full,
            refused_late,
            refused_unavailable,
            refused_capacity,
            websockets: self.websockets.read(),
            events: self.events.read(),
            outcomes,
        }
    }

    fn durations(&self, status: u16) -> &Histogram {
        let mut at = &self.outcomes;
        loop {
            let first =
                || Box::new(Outcomes { status, durations: Histogram::default(), next: OnceLock::new() });
            let node = at.get_or_init(first);
            if node.status == status {
                return &node.durations;
            }
            at = &node.next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_every_bucket_whose_bound_it_does_not_exceed() {
        for (nanos, first) in [
            (0, 0),
            (5_000_000, 0),
            (5_000_001, 1),
            (24_999_999, 2),
            (1_000_000_000, 7),
            (10_000_000_000, 10),
            (10_000_000_001, 11),
            (u64::MAX, 11),
        ] {
            let histogram = Histogram::default();
            histogram.observe(Duration::from_nanos(nanos));
            let expected: [u64; BUCKETS] = std::array::from_fn(|bucket| u64::from(bucket >= first));
            assert_eq!(histogram.read().cumulative, expected, "{nanos} ns");
        }
        for (seconds, nanos) in BOUNDS.iter().zip(BOUNDS_NANOS) {
            assert_eq!(Duration::from_secs_f64(*seconds), Duration::from_nanos(nanos));
        }
    }

    #[test]
    fn the_sum_is_of_all_durations_in_seconds() {
        let histogram = Histogram::default();
        for millis in [1, 250, 20_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let read = histogram.read();
        assert_eq!((read.count(), read.seconds), (3, 20.251));
    }

    #[test]
    fn statuses_are_counted_apart_and_no_answer_as_the_client_that_left() {
        let counters = Counters::default();
        for status in [200, 404, 200, 0, 999, 200] {
            counters.finished(status, Duration::ZERO);
        }
        let totals = counters.totals(0);
        let counts: Vec<_> = totals.outcomes.iter().map(|(status, d)| (*status, d.count())).collect();
        assert_eq!(counts, [(200, 3), (404, 1), (CLIENT_LEFT, 1), (999, 1)]);
        assert_eq!(totals.load.finished_total, 6);
        assert_eq!((totals.finished_with(200), totals.finished_with(500)), (3, 0));
    }

    #[test]
    fn statuses_that_come_first_at_one_moment_are_all_kept() {
        const THREADS: u16 = 8;
        const ROUNDS: u16 = 200;
        let counters = Counters::default();
        let start = std::sync::Barrier::new(THREADS.into());
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (counters, start) = (&counters, &start);
                scope.spawn(move || {
                    start.wait();
                    for round in 0..ROUNDS {
                        counters.finished(100 + (round + thread * 3) % ROUNDS, Duration::ZERO);
                    }
                });
            }
        });
        let totals = counters.totals(0);
        assert_eq!(totals.outcomes.len(), usize::from(ROUNDS));
        assert!(totals.outcomes.iter().all(|(_, durations)| durations.count() == u64::from(THREADS)));
    }

    #[test]
    fn requests_go_on_from_where_they_are_set() {
        let counters = Counters::default();
        counters.finished(200, Duration::ZERO);
        counters.set_requests(41);
        counters.finished(200, Duration::ZERO);
        assert_eq!(counters.requests(), 42);
        counters.set_requests(0);
        assert_eq!((counters.requests(), counters.load(0).finished_total), (0, 2));
    }
}
