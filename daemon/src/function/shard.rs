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
    /// Is there to be a replica only because of an update, and has nobody asked for one?
    unasked: bool,
    /// Has it ceased to want replicas since that was last asked?
    fell_idle: bool,
}

impl Shard {
    /// A shard that is to have so many replicas for now.
    #[must_use]
    pub fn new(desired: u32, now: Instant) -> Self {
        let idle_since = (desired == 0).then_some(now);
        Self { desired, scaler: Scaler::new(now), idle_since, unasked: false, fell_idle: false }
    }

    /// How many replicas there are to be.
    #[must_use]
    pub fn desired(&self) -> u32 {
        self.desired
    }

    /// Whoever runs the host decided.
    pub fn tell(&mut self, desired: u32, now: Instant) {
        self.unasked = false;
        self.told(desired, now);
    }

    /// An update decided: what slept is to come up only to be known to be good.
    pub fn update(&mut self, desired: u32, now: Instant) {
        self.unasked |= self.desired == 0;
        self.told(desired, now);
    }

    /// The update is done: what is there is what there is to be.
    pub fn updated(&mut self) {
        self.unasked = false;
    }

    /// Is there to be a replica only because of an update, and has nobody asked for one?
    #[must_use]
    pub fn is_unasked(&self) -> bool {
        self.unasked
    }

    /// Has it ceased to want replicas since this was last asked?
    pub fn has_fallen_idle(&mut self) -> bool {
        std::mem::take(&mut self.fell_idle)
    }

    /// What the schedule says now was heeded before.
    pub fn heed(&mut self, policy: &Policy, clock: &Zoned) {
        self.scaler.heed(policy, clock);
    }

    /// Decides by what was seen; tells if that changes anything.
    pub fn look(
        &mut self,
        policy: &Policy,
        seen: &Observation,
        now: Instant,
        clock: &Zoned,
    ) -> Option<Decision> {
        self.unasked &= seen.waiting == 0 && seen.queued == 0;
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

    fn told(&mut self, desired: u32, now: Instant) {
        self.scaler.told(desired, now);
        self.set(desired, now);
    }

    fn set(&mut self, desired: u32, now: Instant) {
        if (desired == 0) != (self.desired == 0) {
            self.idle_since = (desired == 0).then_some(now);
            self.fell_idle = desired == 0;
        }
        self.desired = desired;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(shard: &mut Shard, waiting: u64) {
        let seen = Observation { desired: shard.desired(), waiting, ..Observation::default() };
        shard.look(&Policy::default(), &seen, Instant::now(), &Zoned::now());
    }

    #[test]
    fn it_falls_idle_once_each_time_and_not_again_while_it_rests() {
        let now = Instant::now();
        let mut shard = Shard::new(0, now);
        assert!(!shard.has_fallen_idle(), "it never wanted any");
        for _ in 0..2 {
            shard.tell(1, now);
            assert!(!shard.has_fallen_idle());
            shard.tell(0, now);
            assert!(shard.has_fallen_idle() && !shard.has_fallen_idle());
            shard.tell(0, now);
            assert!(!shard.has_fallen_idle());
        }
    }

    #[test]
    fn what_an_update_woke_is_unasked_until_somebody_asks_or_the_update_is_done() {
        let now = Instant::now();
        let woken = || {
            let mut shard = Shard::new(0, now);
            shard.update(1, now);
            look(&mut shard, 0);
            shard.update(1, now);
            assert!(shard.is_unasked(), "one update behind the other");
            shard
        };
        let mut shard = woken();
        look(&mut shard, 1);
        assert!(!shard.is_unasked());
        let mut shard = woken();
        shard.updated();
        assert!(!shard.is_unasked());
        let mut shard = woken();
        shard.tell(2, now);
        assert!(!shard.is_unasked());
        let mut shard = Shard::new(1, now);
        shard.update(2, now);
        assert!(!shard.is_unasked(), "it was awake");
    }
}
