//! How long to wait before trying again. A decision from data to data: the caller brings the time.

use std::time::{Duration, Instant};

/// Failures in a row, and when the next try may be made.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    /// The first failure is followed by a pause of `first`, each further one by twice the pause before, up to `longest`.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0, until: None }
    }

    /// Notes a failure at `now`. Failures within a pause belong to the one that began it: replicas that are started
    /// together fail together.
    pub fn fail(&mut self, now: Instant) {
        if self.until(now).is_some() {
            return;
        }
        let pause = self.first.saturating_mul(1 << self.failures.min(20)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        self.until = Some(now + pause);
    }

    /// Notes a failure that is made good at once.
    pub fn forgive(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.until = None;
    }

    /// Notes that all is well: the next failure is the first again.
    pub fn reset(&mut self) {
        self.failures = 0;
        self.until = None;
    }

    /// Failures in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// When the next try may be made, if not at once.
    #[must_use]
    pub fn until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_again_after_a_success() {
        let now = Instant::now();
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        assert_eq!(backoff.until(now), None);
        let mut at = now;
        for seconds in [1, 2, 4, 5, 5] {
            backoff.fail(at);
            let next = at + Duration::from_secs(seconds);
            assert_eq!(backoff.until(at), Some(next));
            at = next;
        }
        assert_eq!(backoff.until(at), None);
        backoff.reset();
        backoff.fail(now);
        assert_eq!((backoff.failures(), backoff.until(now)), (1, Some(now + Duration::from_secs(1))));
    }

    #[test]
    fn failures_within_a_pause_count_as_one() {
        let now = Instant::now();
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        backoff.fail(now);
        backoff.fail(now);
        assert_eq!((backoff.failures(), backoff.until(now)), (1, Some(now + Duration::from_secs(1))));
    }

    #[test]
    fn a_thousand_failures_do_not_overflow() {
        let now = Instant::now();
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        for minute in 0..1000 {
            let now = now + Duration::from_secs(60 * minute);
            backoff.fail(now);
            assert!(backoff.until(now).is_some_and(|until| until <= now + Duration::from_secs(60)));
        }
    }
}
