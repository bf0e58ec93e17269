//! How long it takes until something that was said to many is written to the last of them.
//!
//! Owns the two moments for one saying. It goes along with each of its frames, and is counted when the last of these is
//! gone, written or not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::time::Instant;

use crate::scale::{FANOUTS, Sizes};

/// Nothing was written.
const NEVER: u64 = u64::MAX;

/// Something that is said to many.
#[derive(Debug)]
pub(super) struct Fanout {
    began: Instant,
    /// Microseconds from `began` to the first write of a frame, and to the last.
    first: AtomicU64,
    last: AtomicU64,
    counted: Arc<Sizes>,
}

impl Fanout {
    /// One that is said from now on, and counted there in the end.
    pub(super) fn new(counted: &Arc<Sizes>) -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            first: AtomicU64::new(NEVER),
            last: AtomicU64::new(0),
            counted: Arc::clone(counted),
        })
    }

    /// One of its frames was written at `now`.
    pub(super) fn written(&self, now: Instant) {
        let since = now.saturating_duration_since(self.began).as_micros();
        let since = u64::try_from(since).unwrap_or(NEVER - 1);
        // A look first: of thousands of frames few change the first, and many are of one moment.
        if since < self.first.load(Relaxed) {
            self.first.fetch_min(since, Relaxed);
        }
        if since > self.last.load(Relaxed) {
            self.last.fetch_max(since, Relaxed);
        }
    }
}

impl Drop for Fanout {
    fn drop(&mut self) {
        let (first, last) = (*self.first.get_mut(), *self.last.get_mut());
        if first != NEVER {
            self.counted.add(&FANOUTS, last.saturating_sub(first));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_counts_is_the_time_from_the_first_write_to_the_last_and_nothing_where_there_was_none() {
        let counted = Arc::default();
        drop(Fanout::new(&counted));
        assert_eq!(counted.read().count(), 0);
        let fanout = Fanout::new(&counted);
        for millis in [30, 10, 20] {
            fanout.written(fanout.began + Duration::from_millis(millis));
        }
        let frame = Arc::clone(&fanout);
        drop(fanout);
        assert_eq!(counted.read().count(), 0, "a frame is still to be written");
        drop(frame);
        assert_eq!((counted.read().count(), counted.read().sum), (1, 20_000));
    }
}
