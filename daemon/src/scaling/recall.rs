//! What was lately: how fast a counter went, and how many replicas were needed.
//!
//! Owns both memories, each of a bounded size however often something is noted. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Over how long a rate is measured.
const SPAN: Duration = Duration::from_secs(2);

/// So far apart at least are two counts that are remembered.
const APART: Duration = Duration::from_millis(250);

/// A rate is not taken for higher than if it had been so for this long: two looks may be a moment apart.
const SHORTEST: Duration = Duration::from_secs(1);

/// How fast a counter goes up.
#[derive(Debug, Clone, Default)]
pub(super) struct Rate {
    /// The newest that is as old as the span, or else the oldest, comes first.
    counts: VecDeque<(Instant, u64)>,
    newest: Option<(Instant, u64)>,
}

impl Rate {
    /// It stands at `count` now.
    pub(super) fn note(&mut self, count: u64, now: Instant) {
        self.newest = Some((now, count));
        let since = |at: &(Instant, u64)| now.saturating_duration_since(at.0);
        if self.counts.back().is_none_or(|last| since(last) >= APART) {
            self.counts.push_back((now, count));
        }
        while self.counts.get(1).is_some_and(|second| since(second) >= SPAN) {
            self.counts.pop_front();
        }
    }

    /// By how much it went up in a second, of late; `None` until it was noted twice.
    pub(super) fn per_second(&self) -> Option<f64> {
        let ((then, before), (now, count)) = (*self.counts.front()?, self.newest?);
        let time = now.saturating_duration_since(then);
        #[expect(clippy::cast_precision_loss, reason = "nobody answers 2^53 requests in two seconds")]
        let more = count.saturating_sub(before) as f64;
        (!time.is_zero()).then(|| more / time.max(SHORTEST).as_secs_f64())
    }
}

/// How many replicas were needed, and when: of all that was noted what may still be the highest. The numbers fall from
/// the oldest to the newest, so there are never more than there are numbers.
#[derive(Debug, Clone, Default)]
pub(super) struct Needs(VecDeque<(Instant, u32)>);

impl Needs {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// So many are needed now.
    pub(super) fn note(&mut self, replicas: u32, now: Instant) {
        while self.0.back().is_some_and(|(_, fewer)| *fewer <= replicas) {
            self.0.pop_back();
        }
        self.0.push_back((now, replicas));
    }

    /// What was `window` ago or longer counts no more; the newest always does.
    pub(super) fn forget(&mut self, now: Instant, window: Duration) {
        while self.0.len() > 1
            && self.0.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= window)
        {
            self.0.pop_front();
        }
    }

    /// The most of what counts.
    pub(super) fn highest(&self) -> Option<u32> {
        self.0.front().map(|(_, replicas)| *replicas)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_two_seconds_however_often_it_is_noted() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut rate = Rate::default();
        rate.note(1000, at(0));
        assert_eq!(rate.per_second(), None);
        // Three in a moment are not three hundred in a second.
        rate.note(1003, at(10));
        assert_eq!(rate.per_second(), Some(3.0));
        for millis in 11..=4000 {
            rate.note(1003 + millis / 10, at(millis));
            assert!(rate.counts.len() <= 10, "{}", rate.counts.len());
        }
        let now = rate.per_second().unwrap();
        assert!((95.0..105.0).contains(&now), "{now}");
        // It stands still.
        for millis in (4000..=7000).step_by(500) {
            rate.note(1403, at(millis));
        }
        assert_eq!(rate.per_second(), Some(0.0));
    }

    #[test]
    fn the_most_that_was_needed_counts_for_a_window_to_the_moment() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let window = Duration::from_secs(30);
        let mut needs = Needs::default();
        assert_eq!(needs.highest(), None);
        for (now, replicas, highest) in
            [(0, 2, 2), (1, 5, 5), (2, 3, 5), (3, 1, 5), (30, 1, 5), (31, 1, 3), (32, 1, 1), (100, 0, 0)]
        {
            needs.note(replicas, at(now));
            needs.forget(at(now), window);
            assert_eq!(needs.highest(), Some(highest), "{now}");
        }
    }
}
