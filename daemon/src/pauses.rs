//! The pauses between tries of something that no event tells of: each twice the one before, up to a longest.
//!
//! Owns how long they are. Never tries anything, and has no last one: whoever tries knows when to give up. Pauses that
//! a controller plans instead of sleeping through are `function::backoff`'s.

use std::time::Duration;

/// The pauses of one row of tries.
#[derive(Debug, Clone)]
pub struct Pauses {
    next: Duration,
    longest: Duration,
}

impl Pauses {
    /// The first pause, and the longest.
    #[must_use]
    pub fn new((first, longest): (Duration, Duration)) -> Self {
        Self { next: first.min(longest), longest }
    }

    /// Sleeps through the next pause.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.take()).await;
    }

    /// How long the next pause is; the one behind it is longer.
    #[must_use]
    pub fn take(&mut self) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(self.longest);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        for (first, longest, expected) in
            [(1, 5, [1, 2, 4, 5, 5]), (4, 4, [4, 4, 4, 4, 4]), (9, 3, [3, 3, 3, 3, 3])]
        {
            let mut pauses = Pauses::new((Duration::from_secs(first), Duration::from_secs(longest)));
            let taken: Vec<u64> = (0..5).map(|_| pauses.take().as_secs()).collect();
            assert_eq!(taken, expected, "{first} {longest}");
        }
    }
}
