//! A function, or one key of it, as far as the number of its replicas goes.
//!
//! Owns how many there are to be, and what is kept when there are none. A function without keys is one shard. Decides by
//! [`crate::scaling`] and starts nothing.

use std::time::{Duration, Instant};

use jiff::Zoned;

use crate::memory;
use crate::scaling::{Decision, Observation, Policy, Rung, Scaler};

/// One shard.
#[derive(Debug)]
pub struct Shard {
    desired: u32,
    scaler: Scaler,
    /// Since when there are to be no replicas.
    idle_since: Option<Instant>,
}

impl Shard {
    /// A shard that is to have so many replicas for now.
    #[must_use]
    pub fn new(desired: u32, now: Instant) -> Self {
        Self { desired, scaler: Scaler::new(now), idle_since: (desired == 0).then_some(now) }
    }

    /// How many replicas there are to be.
    #[must_use]
    pub fn desired(&self) -> u32 {
        self.desired
    }

    /// Somebody else decided: whoever runs the host, or an update.
    pub fn tell(&mut self, desired: u32, now: Instant) {
        self.scaler.told(desired, now);
        self.set(desired, now);
    }

    /// Decides by what was seen; tells if that changes anything.
    pub fn look(
        &mut self,
        policy: &Policy,
        seen: &Observation,
        now: Instant,
        clock: &Zoned,
    ) -> Option<Decision> {
        let decision = self.scaler.decide(policy, seen, now, clock)?;
        let changes = decision.replicas != self.desired;
        self.set(decision.replicas, now);
        changes.then_some(decision)
    }

    /// When to look again even if nothing happens.
    #[must_use]
    pub fn due(&self, policy: &Policy, now: Instant, clock: &Zoned) -> Option<Instant> {
        let look = self.scaler.next_look(policy, self.desired, now, clock);
        let rung = self.rung(policy, now).1.map(|change| now + change);
        [look, rung].into_iter().flatten().min()
    }

    /// What is kept while there are to be no replicas, and in how long that changes.
    #[must_use]
    pub fn rung(&self, policy: &Policy, now: Instant) -> (Rung, Option<Duration>) {
        match self.idle_since {
            // Keys come and go: what is kept of each would have no bound.
            Some(_) if policy.placement.key.is_some() && policy.rest.state.is_none() => (Rung::Stopped, None),
            Some(since) => policy.rest.rung(now.saturating_duration_since(since), memory::is_short()),
            None => (Rung::Stopped, None),
        }
    }

    fn set(&mut self, desired: u32, now: Instant) {
        if (desired == 0) != (self.desired == 0) {
            self.idle_since = (desired == 0).then_some(now);
        }
        self.desired = desired;
    }
}
