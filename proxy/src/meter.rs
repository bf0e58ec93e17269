//! For how long something is open: connections and invocations, at each replica of a function.
//!
//! Owns the sums. An interval is half-open, and each beginning and end is a few additions under a lock of its function: no
//! allocation, and nothing is awaited. The time is read under that lock, so that it never goes back between two of them, and
//! who comes first and who goes last is certain. All lengths are of the monotonic clock and exact to the nanosecond.
//!
//! ```text
//!   replica a   ├───────┤                open at a   1 1 2 2 1 0 0 0
//!               │   ├───────┤            open at b   0 0 0 1 1 1 1 0
//!   replica b   │       ├───────┤        sum         how much is open, over time
//!                                        union       how many replicas have something open, over time
//! ```
//!
//! The second is the union of the intervals of each replica, summed over the replicas: a replica adds to it for as long as
//! something is open there, however much.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// In units of how many bytes messages are counted, beside their number. One that is longer counts as so many as it takes;
/// one without a byte counts as none.
pub(crate) const UNIT: u64 = 32 << 10;

/// As what a claim is metered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A connection that goes to the replica.
    Tunnel,
    /// An event of a connection that this host holds.
    Invocation,
}

/// What a function has used since this process began, open connections and invocations included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Metered {
    /// The time in which its replicas had a connection each, whatever the number of them: of each replica the union of
    /// its connections.
    pub active: Duration,
    /// The lengths of all its connections, those that go to a replica and those that are held here.
    pub connection: Duration,
    /// The time in which at least one connection was held here.
    pub held: Duration,
    /// The time in which its replicas were at events of connections that are held here: of each replica the union.
    pub invocation_active: Duration,
    /// How often a replica was given such an event. Each try counts.
    pub invocations: u64,
    /// Messages from clients, and to them.
    pub messages: [u64; 2],
    /// The same in units of 32 KiB, each message by itself rounded up.
    pub units: [u64; 2],
    /// The bytes of those; of connections that are no WebSockets, all.
    pub bytes: [u64; 2],
}

/// What connections have carried: from clients, and to them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    pub(crate) messages: [u64; 2],
    pub(crate) units: [u64; 2],
    pub(crate) bytes: [u64; 2],
}

/// Lengths until a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Lengths {
    /// Of all intervals together.
    pub(crate) sum: Duration,
    /// Of the union at each replica, together.
    pub(crate) union: Duration,
    /// How many intervals have begun.
    pub(crate) begun: u64,
}

/// Intervals, as far as they are known at `at`. Pure: whoever calls says what time it is.
#[derive(Debug, Clone, Copy, Default)]
struct Spans {
    at: Option<Instant>,
    /// How many are open.
    open: u32,
    /// At how many replicas.
    busy: u32,
    known: Lengths,
}

impl Spans {
    /// One begins at a replica at which so many are open.
    fn begin(&mut self, at_replica: &mut u32, now: Instant) {
        self.advance(now);
        self.known.begun += 1;
        self.open += 1;
        self.busy += u32::from(*at_replica == 0);
        *at_replica += 1;
    }

    /// One ends.
    fn end(&mut self, at_replica: &mut u32, now: Instant) {
        debug_assert!(self.open > 0 && *at_replica > 0, "more ended than began");
        self.advance(now);
        self.open = self.open.saturating_sub(1);
        self.busy = self.busy.saturating_sub(u32::from(*at_replica == 1));
        *at_replica = at_replica.saturating_sub(1);
    }

    fn advance(&mut self, now: Instant) {
        self.known = self.until(now);
        self.at = Some(now);
    }

    /// The lengths, those that are open included.
    fn until(&self, now: Instant) -> Lengths {
        let since = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        Lengths {
            sum: self.known.sum.saturating_add(since.saturating_mul(self.open)),
            union: self.known.union.saturating_add(since.saturating_mul(self.busy)),
            begun: self.known.begun,
        }
    }
}

/// How many intervals of one kind are open at one replica. Only changed under the lock of its function's [`Meter`].
#[derive(Debug, Default)]
pub(crate) struct Place(AtomicU32);

impl Place {
    /// How many are open now.
    pub(crate) fn open(&self) -> usize {
        self.0.load(Relaxed) as usize
    }
}

/// The intervals of one kind, at all replicas of a function.
#[derive(Debug, Default)]
pub(crate) struct Meter(Mutex<Spans>);

impl Meter {
    /// One begins there now.
    pub(crate) fn begin(&self, place: &Place) {
        self.change(place, Spans::begin);
    }

    /// One ends there now.
    pub(crate) fn end(&self, place: &Place) {
        self.change(place, Spans::end);
    }

    fn change(&self, place: &Place, change: impl FnOnce(&mut Spans, &mut u32, Instant)) {
        let mut spans = self.lock();
        let mut open = place.0.load(Relaxed);
        change(&mut spans, &mut open, Instant::now());
        place.0.store(open, Relaxed);
    }

    /// The lengths until now.
    pub(crate) fn read(&self) -> Lengths {
        let spans = self.lock();
        spans.until(Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, Spans> {
        // Nothing happens under the lock that could leave it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many of each kind are open at one replica.
#[derive(Debug, Default)]
pub(crate) struct Places {
    tunnels: Place,
    invocations: Place,
}

impl Places {
    pub(crate) fn of(&self, kind: Kind) -> &Place {
        match kind {
            Kind::Tunnel => &self.tunnels,
            Kind::Invocation => &self.invocations,
        }
    }
}

/// What is open at the replicas of a function, by kind.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    tunnels: Meter,
    invocations: Meter,
}

impl Meters {
    pub(crate) fn of(&self, kind: Kind) -> &Meter {
        match kind {
            Kind::Tunnel => &self.tunnels,
            Kind::Invocation => &self.invocations,
        }
    }
}

/// How many units a message takes that goes on by `bytes`, and how many bytes are then left of the last of them; `left` is
/// what was left before, 0 for a message that begins.
pub(crate) fn units(left: u64, bytes: u64) -> (u64, u64) {
    let units = bytes.saturating_sub(left).div_ceil(UNIT);
    (units, left + units * UNIT - bytes)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    /// From and to, in nanoseconds.
    type Interval = (u64, u64);

    /// What is to be told at `now`, found out another way: of each replica the intervals are clipped and merged.
    fn swept(replicas: &[Vec<Interval>], now: u64) -> (u128, u128) {
        let (mut sum, mut union) = (0, 0);
        for intervals in replicas {
            let mut clipped: Vec<Interval> =
                intervals.iter().map(|(from, to)| (*from.min(&now), *to.min(&now))).collect();
            clipped.sort_unstable();
            let mut covered = 0;
            for (from, to) in clipped {
                sum += u128::from(to - from);
                union += u128::from(to.saturating_sub(from.max(covered)));
                covered = covered.max(to);
            }
        }
        (sum, union)
    }

    /// The same by what is tested: as it would be told when all until `now` has happened.
    fn metered(replicas: &[Vec<Interval>], now: u64) -> (u128, u128) {
        let start = Instant::now();
        let at = |nanos| start + Duration::from_nanos(nanos);
        let mut events: Vec<(u64, bool, usize)> = Vec::new();
        for (replica, intervals) in replicas.iter().enumerate() {
            for (from, to) in intervals {
                events.extend([(*from, true, replica), (*to, false, replica)]);
            }
        }
        // At one moment what begins comes first: an interval without a length has to begin before it ends.
        events.sort_by_key(|(time, begins, _)| (*time, !begins));
        let (mut spans, mut open) = (Spans::default(), vec![0; replicas.len()]);
        for (time, begins, replica) in events.into_iter().filter(|(time, ..)| *time <= now) {
            if begins {
                spans.begin(&mut open[replica], at(time));
            } else {
                spans.end(&mut open[replica], at(time));
            }
        }
        let Lengths { sum, union, .. } = spans.until(at(now));
        (sum.as_nanos(), union.as_nanos())
    }

    fn any_replicas() -> impl Strategy<Value = Vec<Vec<Interval>>> {
        let times = prop_oneof![0_u64..20, 0_u64..5_000_000_000];
        let lengths = prop_oneof![Just(0_u64), 0_u64..20, 0_u64..3_000_000_000];
        let interval = (times, lengths).prop_map(|(from, length)| (from, from + length));
        prop::collection::vec(prop::collection::vec(interval, 0..12), 0..5)
    }

    proptest! {
        #[test]
        fn at_any_moment_sum_and_union_are_what_a_sweep_over_all_intervals_finds(
            replicas in any_replicas(),
            now in prop_oneof![0_u64..30, 0_u64..9_000_000_000],
        ) {
            prop_assert_eq!(metered(&replicas, now), swept(&replicas, now));
        }

        #[test]
        fn where_a_replica_has_one_at_a_time_the_union_is_the_sum(
            steps in prop::collection::vec((0_u64..1_000_000, 0_u64..1_000_000), 0..30),
            replicas in 1_usize..4,
            now in 0_u64..30_000_000,
        ) {
            let mut all = vec![Vec::new(); replicas];
            let mut free = vec![0; replicas];
            for (number, (pause, length)) in steps.into_iter().enumerate() {
                let replica = number % replicas;
                let from = free[replica] + pause;
                free[replica] = from + length;
                all[replica].push((from, from + length));
            }
            let (sum, union) = metered(&all, now);
            prop_assert_eq!(sum, union);
        }

        #[test]
        fn a_message_takes_the_units_of_its_length_in_however_many_parts_it_comes(
            parts in prop::collection::vec(prop_oneof![0_u64..10, 0_u64..100_000, Just(UNIT), Just(UNIT - 1)], 0..10),
        ) {
            let (mut all, mut left) = (0, 0);
            for part in &parts {
                let (more, now) = units(left, *part);
                prop_assert!(now < UNIT);
                (all, left) = (all + more, now);
            }
            prop_assert_eq!(all, parts.iter().sum::<u64>().div_ceil(UNIT));
        }
    }

    #[test]
    fn two_connections_that_overlap_are_active_from_the_first_to_the_last_moment() {
        let (t1, t2, t3, t4) = (1_000, 2_500, 4_000, 7_001);
        let both = [vec![(t1, t3), (t2, t4)]];
        let of = |now| metered(&both, now);
        assert_eq!(of(t4), (u128::from((t3 - t1) + (t4 - t2)), u128::from(t4 - t1)));
        assert_eq!(of(1_000_000), of(t4), "nothing is added once both have ended");
        assert_eq!(of(t3), (u128::from((t3 - t1) + (t3 - t2)), u128::from(t3 - t1)), "one is open");
        assert_eq!(of(t1), (0, 0));
        // At two replicas, each is active by itself.
        let apart = [vec![(t1, t3)], vec![(t2, t4)]];
        assert_eq!(metered(&apart, t4).1, u128::from((t3 - t1) + (t4 - t2)));
    }

    #[test]
    fn a_million_intervals_leave_no_nanosecond_out() {
        const REPLICAS: usize = 5;
        const INTERVALS: usize = 1_000_000;
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        let start = Instant::now();
        let (mut spans, mut open) = (Spans::default(), [0; REPLICAS]);
        let mut all: Vec<Vec<Interval>> = vec![Vec::new(); REPLICAS];
        let mut running: Vec<(usize, u64)> = Vec::new();
        let (mut now, mut begun) = (0, 0);
        while begun < INTERVALS || !running.is_empty() {
            now += random(1000);
            let at = start + Duration::from_nanos(now);
            // Few are open at a time, so that replicas are often idle, too.
            if begun < INTERVALS && (running.is_empty() || random(12) > running.len() as u64) {
                let replica = random(REPLICAS as u64) as usize;
                spans.begin(&mut open[replica], at);
                running.push((replica, now));
                begun += 1;
            } else {
                let (replica, from) = running.swap_remove(random(running.len() as u64) as usize);
                spans.end(&mut open[replica], at);
                all[replica].push((from, now));
            }
        }
        let Lengths { sum, union, begun } = spans.until(start + Duration::from_nanos(now + 1));
        assert_eq!((sum.as_nanos(), union.as_nanos()), swept(&all, now));
        assert_eq!((begun, spans.open, spans.busy), (INTERVALS as u64, 0, 0));
    }

    #[test]
    fn whoever_comes_and_goes_at_once_nothing_is_left_open_and_no_time_is_counted_twice() {
        const THREADS: u32 = 4;
        let (meter, places, began) = (Meter::default(), [Place::default(), Place::default()], Instant::now());
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (meter, places) = (&meter, &places);
                scope.spawn(move || {
                    for round in 0..5_000 {
                        let place = &places[(round + thread as usize) % 2];
                        meter.begin(place);
                        meter.end(place);
                    }
                });
            }
        });
        let (lengths, took) = (meter.read(), began.elapsed());
        assert_eq!(lengths.begun, 5_000 * u64::from(THREADS));
        assert!(lengths.union <= took * 2 && lengths.union <= lengths.sum && lengths.sum <= took * THREADS);
        assert_eq!(meter.read().sum, lengths.sum, "nothing is open");
        assert!(places.iter().all(|place| place.0.load(Relaxed) == 0));
    }
}
