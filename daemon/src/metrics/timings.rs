//! How long calls took, by whatever tells them apart.
//!
//! Owns the table. Not for the path of a request: it takes a lock. Bounded: whoever names calls takes the names from
//! a fixed set, and if that is not so, the rest is not counted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use roost_proxy::{Distribution, Histogram};

/// The most kinds of calls that are told apart.
const MAX_KINDS: usize = 1024;

/// A histogram for each kind of call. Clones share them.
#[derive(Debug)]
pub struct Timings<K>(Arc<Mutex<BTreeMap<K, Histogram>>>);

impl<K> Clone for Timings<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> Default for Timings<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Ord + Clone> Timings<K> {
    /// Counts a call.
    pub fn observe(&self, kind: K, duration: Duration) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if table.len() < MAX_KINDS || table.contains_key(&kind) {
            table.entry(kind).or_default().observe(duration);
        } else {
            tracing::debug!("so many kinds of calls are counted already that this one is not");
        }
    }

    /// All kinds, in their order.
    #[must_use]
    pub fn read(&self) -> Vec<(K, Distribution)> {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.iter().map(|(kind, durations)| (kind.clone(), durations.read())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_counted_apart_and_there_are_never_too_many() {
        let timings = Timings::default();
        for kind in 0..MAX_KINDS + 5 {
            timings.observe(kind, Duration::from_millis(1));
        }
        timings.observe(3, Duration::from_millis(1));
        let read = timings.read();
        assert_eq!(read.len(), MAX_KINDS);
        assert_eq!((read[3].0, read[3].1.count(), read[4].1.count()), (3, 2, 1));
    }
}
