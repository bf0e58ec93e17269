//! What triggers have done: counted by function and by what triggered it.
//!
//! Owns the counts. Those of a function go with it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use roost_proxy::function::FunctionKey;

use super::topics::Source;

/// What the clock is called among sources.
pub(crate) const CLOCK: &str = "cron";

/// Counts. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Figures(Arc<Mutex<All>>);

#[derive(Debug, Default)]
struct All {
    of: BTreeMap<(FunctionKey, String), Counts>,
    connected: BTreeMap<String, bool>,
}

/// Of one function and one source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls that the queue has taken.
    pub fired: u64,
    /// Runs that were due and not made.
    pub missed: u64,
    /// Calls that the queue will never take.
    pub failed: u64,
}

impl Figures {
    /// The queue has taken a call.
    pub fn fired(&self, function: &FunctionKey, source: &str) {
        self.count(function, source, |counts| counts.fired += 1);
    }

    /// So many runs were due and not made.
    pub fn missed(&self, function: &FunctionKey, source: &str, runs: u64) {
        self.count(function, source, |counts| counts.missed += runs);
    }

    /// The queue will never take a call.
    pub fn failed(&self, function: &FunctionKey, source: &str) {
        self.count(function, source, |counts| counts.failed += 1);
    }

    /// A broker or a directory can be reached, or cannot.
    pub fn connected(&self, source: &Source, connected: bool) {
        self.lock().connected.insert(source.to_string(), connected);
    }

    /// Forgets what was counted of functions that are no more.
    pub fn retain(&self, is_there: impl Fn(&FunctionKey) -> bool) {
        self.lock().of.retain(|(function, _), _| is_there(function));
    }

    /// All counts, by function and source.
    #[must_use]
    pub fn counts(&self) -> Vec<(FunctionKey, String, Counts)> {
        let all = self.lock();
        all.of
            .iter()
            .map(|((function, source), counts)| (function.clone(), source.clone(), *counts))
            .collect()
    }

    /// Which sources can be reached.
    #[must_use]
    pub fn connections(&self) -> Vec<(String, bool)> {
        self.lock().connected.iter().map(|(source, connected)| (source.clone(), *connected)).collect()
    }

    fn count(&self, function: &FunctionKey, source: &str, add: impl FnOnce(&mut Counts)) {
        add(self.lock().of.entry((function.clone(), source.to_owned())).or_default());
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
