//! When something last moved.
//!
//! Owns one moment, to the millisecond, that is written while bytes move and read by whoever wants to know. Never knows
//! what moved.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The last time that something moved, if ever.
#[derive(Debug)]
pub(crate) struct Traffic {
    began: Instant,
    /// Milliseconds from `began`, and one more; 0 as long as nothing has moved.
    moved: AtomicU64,
}

impl Default for Traffic {
    fn default() -> Self {
        Self { began: Instant::now(), moved: AtomicU64::new(0) }
    }
}

impl Traffic {
    /// What [`mark`](Self::mark) told of another one, which began `age` ago.
    pub(crate) fn resumed(age: Duration, mark: u64) -> Self {
        let now = Instant::now();
        Self { began: now.checked_sub(age).unwrap_or(now), moved: mark.into() }
    }

    /// When something last moved, as a number that counts from when this began. 0 if nothing ever has.
    pub(crate) fn mark(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Something moved at `now`.
    pub(crate) fn touch(&self, now: Instant) {
        let milliseconds = now.saturating_duration_since(self.began).as_millis();
        let moved = u64::try_from(milliseconds).unwrap_or(u64::MAX - 1) + 1;
        // Of a function, all lanes write it: it goes from one to the other once in a millisecond, not for each message.
        if self.moved.load(Ordering::Relaxed) != moved {
            self.moved.store(moved, Ordering::Relaxed);
        }
    }

    /// When something last moved.
    pub(crate) fn last(&self) -> Option<Instant> {
        let moved = self.moved.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.began + Duration::from_millis(moved))
    }

    /// When this began.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// When something last moved; as long as nothing has, when this began.
    pub(crate) fn last_or_began(&self) -> Instant {
        self.last().unwrap_or(self.began)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_resumed_goes_on_from_where_the_other_was() {
        const HOUR: Duration = Duration::from_secs(3600);
        let first = Traffic::default();
        let quiet = Traffic::resumed(2 * HOUR, first.mark());
        assert!(quiet.last().is_none() && quiet.last_or_began().elapsed() >= 2 * HOUR);
        first.touch(first.began() + HOUR);
        let moved = Traffic::resumed(2 * HOUR, first.mark());
        assert_eq!(moved.last().unwrap(), moved.began() + HOUR);
        assert!(moved.last().unwrap().elapsed() >= HOUR);
        moved.touch(Instant::now());
        assert!(moved.mark() > first.mark());
    }
}
