//! When the runs of schedules come next, as the clock has it: told to who looks at a function.
//!
//! Owns the last that the clock said. Never computes a time: what is told is what the clock waits for.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use roost_proxy::function::FunctionKey;
use serde::Serialize;

/// A schedule, and when it is due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Next {
    /// As it was written, its zone with it.
    pub schedule: String,
    /// When it is due for the next time. In the past: the queue does not take the run. None if it never is again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Timestamp>,
}

/// The next runs of all functions. Copies are the same one.
#[derive(Debug, Clone, Default)]
pub struct Ahead(Arc<ArcSwap<BTreeMap<FunctionKey, Vec<Next>>>>);

impl Ahead {
    /// Those of one function, in the order in which its schedules are written; none while the clock has not seen it yet.
    #[must_use]
    pub fn of(&self, function: &FunctionKey) -> Vec<Next> {
        self.0.load().get(function).cloned().unwrap_or_default()
    }

    /// Takes the place of all that was told before.
    pub(super) fn tell(&self, all: BTreeMap<FunctionKey, Vec<Next>>) {
        if **self.0.load() != all {
            self.0.store(Arc::new(all));
        }
    }
}
