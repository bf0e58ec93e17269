//! The decision: how many replicas, and why.
//!
//! Owns what has to be remembered from one look to the next. Pure: time is an argument.

use std::fmt;
use std::time::{Duration, Instant};

use jiff::Zoned;

use crate::scaling::policy::Policy;

/// What is going on with a function, or with one key of it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Observation {
    /// How many replicas there are to be now.
    pub desired: u32,
    /// How many take requests.
    pub ready: u32,
    /// Requests at replicas, and open connections.
    pub in_flight: u64,
    /// Open connections alone.
    pub connections: u64,
    /// Requests that wait for a replica.
    pub waiting: u64,
    /// Deferred calls that wait.
    pub queued: u64,
    /// Requests that began, ever.
    pub started: u64,
    /// Requests that ended, ever.
    pub finished: u64,
    /// What the replicas use, in thousandths of a core; `None` if nobody looked.
    pub cpu_millis: Option<f64>,
    /// How long ago data last moved on a connection; `None` if none ever did.
    pub quiet: Option<Duration>,
}

/// A change of how many replicas there are to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// So many.
    pub replicas: u32,
    /// Why.
    pub reason: Reason,
}

/// Why there are to be more or fewer replicas. Shown as text for people.
#[derive(Debug, Clone, PartialEq)]
pub enum Reason {
    /// Somebody waits and there is none.
    Demand,
    /// Being written.
    Other(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// What is remembered of one function, or one key of it, between looks.
#[derive(Debug, Clone)]
pub struct Scaler {
    began: Instant,
}

impl Scaler {
    /// Knows nothing yet, and takes the function for busy until `now`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { began: now }
    }

    /// Somebody asked for `replicas`: what load asks for counts from here.
    pub fn told(&mut self, replicas: u32, now: Instant) {
        let _ = replicas;
        self.began = now;
    }

    /// Decides; `None` if there are to be as many as there are. `clock` is the time on the host's wall.
    pub fn decide(
        &mut self,
        policy: &Policy,
        seen: &Observation,
        now: Instant,
        clock: &Zoned,
    ) -> Option<Decision> {
        let _ = (policy, seen, now, clock);
        unimplemented!("being written")
    }

    /// When to look again even if nothing is heard; `None`: never.
    #[must_use]
    pub fn next_look(&self, policy: &Policy, desired: u32, now: Instant, clock: &Zoned) -> Option<Instant> {
        let _ = (policy, desired, now, clock);
        unimplemented!("being written")
    }
}
