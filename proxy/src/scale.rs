//! Histograms of what is no time of a request: how long messages are, how long connections last.
//!
//! Owns their scales. Everything is counted in whole units, with two relaxed additions and no floating point.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How many bounds a scale has. Behind the last there is one more bucket, for all that is more.
pub(crate) const STEPS: usize = 11;

/// The upper bounds of buckets, and the unit that they are in.
#[derive(Debug, PartialEq, Eq)]
pub struct Scale {
    bounds: [u64; STEPS],
    /// So many units make one of what is told.
    unit: u32,
}

/// Of messages, in bytes: 64 B to 64 MiB, each four times the last.
pub static SIZES: Scale = Scale {
    bounds: [64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20],
    unit: 1,
};

/// Of the lives of connections, in milliseconds, told in seconds: 1 s to a week.
pub static LIVES: Scale = Scale {
    bounds: [
        1_000,
        10_000,
        60_000,
        300_000,
        900_000,
        3_600_000,
        10_800_000,
        21_600_000,
        43_200_000,
        86_400_000,
        604_800_000,
    ],
    unit: 1_000,
};

/// Of what is said to many, in microseconds, told in seconds: 100 µs to 10 s.
pub static FANOUTS: Scale = Scale {
    bounds: [100, 500, 1_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000, 10_000_000],
    unit: 1_000_000,
};

impl Scale {
    /// The upper bounds, as they are told: in bytes, or in seconds.
    pub fn bounds(&self) -> impl Iterator<Item = f64> {
        self.bounds.iter().map(|bound| self.told(*bound))
    }

    /// So many units, as they are told.
    #[must_use]
    pub fn told(&self, units: u64) -> f64 {
        units as f64 / f64::from(self.unit)
    }

    /// The bucket of something so large.
    pub(crate) fn bucket(&self, units: u64) -> usize {
        self.bounds.iter().position(|bound| units <= *bound).unwrap_or(STEPS)
    }
}

/// How often something was how large, while it is counted. Which scale it is on, whoever counts knows.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    buckets: [AtomicU64; STEPS + 1],
    sum: AtomicU64,
}

/// The same at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spread {
    /// How many were at most as large as each of the bounds of its [`Scale`], and, last, how many there were.
    pub cumulative: [u64; STEPS + 1],
    /// How large all of them were together, in the units of that.
    pub sum: u64,
}

impl Sizes {
    /// Counts one of so many units.
    pub(crate) fn add(&self, scale: &Scale, units: u64) {
        self.buckets[scale.bucket(units)].fetch_add(1, Relaxed);
        self.sum.fetch_add(units, Relaxed);
    }

    /// Counts those in each bucket, which are so large together.
    pub(crate) fn add_all(&self, buckets: &[u32; STEPS + 1], sum: u64) {
        for (bucket, count) in self.buckets.iter().zip(buckets).filter(|(_, count)| **count > 0) {
            bucket.fetch_add(u64::from(*count), Relaxed);
        }
        if sum > 0 {
            self.sum.fetch_add(sum, Relaxed);
        }
    }

    /// How large all of them were together.
    pub(crate) fn sum(&self) -> u64 {
        self.sum.load(Relaxed)
    }

    pub(crate) fn read(&self) -> Spread {
        let mut count = 0;
        let cumulative = self.buckets.each_ref().map(|bucket| {
            count += bucket.load(Relaxed);
            count
        });
        Spread { cumulative, sum: self.sum() }
    }
}

impl Spread {
    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.cumulative[STEPS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scale_goes_up_and_one_counts_in_every_bucket_whose_bound_it_does_not_exceed() {
        for scale in [&SIZES, &LIVES, &FANOUTS] {
            assert!(scale.bounds.is_sorted_by(|one, next| one < next), "{scale:?}");
            for (at, bound) in scale.bounds.into_iter().enumerate() {
                assert_eq!((scale.bucket(bound), scale.bucket(bound + 1)), (at, at + 1), "{bound}");
            }
            assert_eq!((scale.bucket(0), scale.bucket(u64::MAX)), (0, STEPS));
        }
        assert_eq!(LIVES.bounds().take(3).collect::<Vec<_>>(), [1.0, 10.0, 60.0]);
        assert_eq!(FANOUTS.bounds().next(), Some(0.0001));
    }

    #[test]
    fn those_that_are_counted_together_count_as_each_by_itself() {
        let (each, together) = (Sizes::default(), Sizes::default());
        let mut buckets = [0; STEPS + 1];
        for size in [0, 64, 65, 1 << 30, 65] {
            each.add(&SIZES, size);
            buckets[SIZES.bucket(size)] += 1;
        }
        together.add_all(&buckets, each.sum());
        let read = each.read();
        assert_eq!((read, read.count(), read.sum), (together.read(), 5, (1 << 30) + 194));
        assert_eq!((read.cumulative[0], read.cumulative[1], read.cumulative[10]), (2, 4, 4));
    }
}
