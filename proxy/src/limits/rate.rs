//! Rates: so many in a while, and so many at once.
//!
//! Owns the rule, and how rates are spelt. Pure: time comes in as nanoseconds since some moment that stays the same.
//!
//! The rule is that of a bucket of tokens, kept as one number: the moment at which the bucket will be full again. Each
//! token taken puts it off by the time that one takes to come; it may lie ahead by as much as the whole bucket takes.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The largest number in front of the slash, and the largest burst.
const MOST: u32 = 1_000_000;

/// So many in a while, at most, and at most so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds until one more may come; at least 1.
    interval: u64,
    /// How many may come at once; at least 1.
    burst: u32,
}

impl Rate {
    /// How long the whole bucket takes to fill.
    fn depth(self) -> u64 {
        self.interval.saturating_mul(self.burst.into())
    }
}

/// Takes one token at `now` out of a bucket that would be full at `full_at`. Gives when it will be full then, or how long
/// it is until there is a token.
pub(crate) fn take(full_at: u64, now: u64, interval: u64, depth: u64) -> Result<u64, Duration> {
    let full_at = full_at.max(now).saturating_add(interval);
    match full_at.saturating_sub(depth).checked_sub(now) {
        None | Some(0) => Ok(full_at),
        Some(wait) => Err(Duration::from_nanos(wait)),
    }
}

impl Rate {
    /// As [`take`], of a bucket that others do not share.
    pub(crate) fn take(self, full_at: u64, now: u64) -> Result<u64, Duration> {
        take(full_at, now, self.interval, self.depth())
    }
}

/// A bucket that many take from, without a lock. Costs one load while it has no rate.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    /// 0: there is no rate.
    interval: AtomicU64,
    depth: AtomicU64,
    full_at: AtomicU64,
}

impl Bucket {
    pub(crate) fn set(&self, rate: Option<Rate>) {
        self.depth.store(rate.map_or(0, Rate::depth), Relaxed);
        self.interval.store(rate.map_or(0, |rate| rate.interval), Relaxed);
    }

    /// Takes one token, or says how long it is until there is one.
    pub(crate) fn take(&self, now: impl FnOnce() -> u64) -> Result<(), Duration> {
        let interval = self.interval.load(Relaxed);
        if interval == 0 {
            return Ok(());
        }
        let (now, depth) = (now(), self.depth.load(Relaxed));
        let mut full_at = self.full_at.load(Relaxed);
        loop {
            let next = take(full_at, now, interval, depth)?;
            match self.full_at.compare_exchange_weak(full_at, next, Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(others) => full_at = others,
            }
        }
    }
}

/// Why a text is no rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a rate such as 100/s, 30/m or 100/s burst 500, of at most 1000000")]
pub struct InvalidRate;

/// `100/s`, `30/m`, `1000/h`; and `100/s burst 500`. Without a burst as many may come at once as come in a second, and
/// one at least.
impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        let number = |text: &str| {
            let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let number = if plain { text.parse().ok() } else { None };
            number.filter(|number| (1..=MOST).contains(number)).ok_or(InvalidRate)
        };
        let mut words = text.split_ascii_whitespace();
        let (count, unit) = words.next().and_then(|word| word.split_once('/')).ok_or(InvalidRate)?;
        let seconds: u64 = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(InvalidRate),
        };
        let count = number(count)?;
        let burst = match (words.next(), words.next(), words.next()) {
            (None, ..) => (u64::from(count) / seconds).try_into().unwrap_or(MOST).max(1),
            (Some("burst"), Some(burst), None) => number(burst)?,
            _ => return Err(InvalidRate),
        };
        Ok(Self { interval: (seconds * 1_000_000_000 / u64::from(count)).max(1), burst })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "one every {:?}, {} at once", Duration::from_nanos(self.interval), self.burst)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rates_are_read_as_they_are_spelt_and_nothing_else_is() {
        for (text, interval, burst) in [
            ("100/s", 10_000_000, 100),
            ("1/s", 1_000_000_000, 1),
            ("30/m", 2_000_000_000, 1),
            ("600/m", 100_000_000, 10),
            ("1000000/s", 1_000, 1_000_000),
            ("1/h burst 5", 3_600_000_000_000, 5),
            (" 100/s  burst 500 ", 10_000_000, 500),
        ] {
            assert_eq!(text.parse(), Ok(Rate { interval, burst }), "{text}");
        }
        for text in [
            "",
            "100",
            "/s",
            "0/s",
            "-1/s",
            "+1/s",
            "1.5/s",
            "1/d",
            "1/",
            "1/s burst",
            "1/s burst 0",
            "1/s 5",
            "1/s burst 5 6",
            "1000001/s",
            "1/s burst 1000001",
            "99999999999999999999/s",
        ] {
            assert_eq!(text.parse::<Rate>(), Err(InvalidRate), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_more_come_through_in_any_span_than_the_burst_and_what_comes_in_it(
            interval in 1_u64..50,
            burst in 1_u32..8,
            steps in prop::collection::vec(0_u64..40, 1..200),
        ) {
            let rate = Rate { interval, burst };
            let (mut now, mut full_at, mut admitted) = (1_000, 0, Vec::new());
            for step in steps {
                now += step;
                match rate.take(full_at, now) {
                    Ok(next) => {
                        prop_assert!(next > full_at);
                        full_at = next;
                        admitted.push(now);
                    }
                    Err(wait) => {
                        let wait = u64::try_from(wait.as_nanos()).unwrap();
                        prop_assert!(rate.take(full_at, now + wait).is_ok(), "it may come when it is told to");
                        prop_assert!(rate.take(full_at, now + wait - 1).is_err(), "and not before");
                    }
                }
            }
            for (index, from) in admitted.iter().enumerate() {
                for (behind, to) in admitted[index..].iter().enumerate() {
                    let most = u64::from(burst) + (to - from) / interval;
                    prop_assert!((behind as u64) < most, "more than {most} from {from} to {to}");
                }
            }
        }

        #[test]
        fn whoever_keeps_to_the_rate_is_never_held_up(
            interval in 1_u64..1_000,
            burst in 1_u32..8,
            pauses in prop::collection::vec(0_u64..1_000, 1..100),
        ) {
            let rate = Rate { interval, burst };
            let (mut now, mut full_at) = (0, 0);
            for pause in pauses {
                now += interval + pause;
                full_at = rate.take(full_at, now).unwrap();
            }
        }
    }

    #[test]
    fn a_bucket_that_many_take_from_gives_each_token_once() {
        let bucket = Bucket::default();
        assert_eq!(bucket.take(|| panic!("no rate, and no look at the clock")), Ok(()));
        bucket.set(Some("1/h burst 1000".parse().unwrap()));
        let given: usize = std::thread::scope(|scope| {
            let takers: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..500).filter(|_| bucket.take(|| 5).is_ok()).count()))
                .collect();
            takers.into_iter().map(|taker| taker.join().unwrap()).sum()
        });
        assert_eq!(given, 1000);
        bucket.set(None);
        assert_eq!(bucket.take(|| 5), Ok(()));
    }
}
