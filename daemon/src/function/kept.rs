//! The replicas of a function, as its controller keeps them.
//!
//! Owns what each was told and how far it is. Whether there are to be more or fewer is decided elsewhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use roost_proxy::function::{FunctionKey, ReplicaId};
use roost_proxy::{Endpoint, ReplicaKey};
use tokio::sync::watch;

use crate::function::replica::Order;
use crate::function::rollout::{Phase, Step, View};

/// One replica.
#[derive(Debug)]
pub struct Kept {
    /// Which.
    pub id: ReplicaId,
    /// Its revision.
    pub revision: String,
    /// What it is for.
    pub key: Option<ReplicaKey>,
    /// How far it is.
    pub phase: Phase,
    /// Has it said itself that it rests, as its phase says that it is to?
    pub rests: bool,
    /// Where it answers, once it was ready.
    pub endpoint: Option<Arc<Endpoint>>,
    /// What it is told.
    pub orders: watch::Sender<Order>,
    /// When it was started, or adopted.
    pub started_at: Timestamp,
    /// Since when it takes requests.
    pub ready_since: Option<Instant>,
}

impl Kept {
    /// As the plan sees it.
    #[must_use]
    pub fn view(&self) -> View {
        View {
            id: self.id.clone(),
            revision: self.revision.clone(),
            phase: self.phase,
            connections: self.endpoint.as_ref().map_or(0, |endpoint| endpoint.tunnels()),
        }
    }

    /// How far it is, to people: one that is to rest may have something to do before.
    #[must_use]
    pub fn shown(&self) -> Phase {
        match self.phase {
            Phase::Created if !self.rests => Phase::Starting,
            Phase::Paused if !self.rests => Phase::Draining,
            phase => phase,
        }
    }

    /// It is made and waits, or is frozen.
    pub fn is_at_rest(&mut self) {
        self.rests = matches!(self.phase, Phase::Created | Phase::Paused);
    }

    /// Tells it to take a step, if that is another one than it takes. One that is to be frozen or to end has
    /// `drain` for what it has; one that is to end hears nothing more.
    pub fn tell(&mut self, step: Step, drain: Duration) {
        let (order, phase) = match (step, self.phase) {
            (_, Phase::Draining | Phase::Stopping) => return,
            (Step::Run, Phase::Created | Phase::Paused) => (Order::Run, Phase::Starting),
            (Step::Run, phase) => (Order::Run, phase),
            (Step::Pause, _) => (Order::Pause(drain), Phase::Paused),
            (Step::End, _) => (Order::End(drain), Phase::Draining),
        };
        self.rests &= phase == self.phase;
        self.phase = phase;
        self.orders.send_if_modified(|last| std::mem::replace(last, order) != order);
    }

    /// It is ready. One that was told otherwise meanwhile does as it was told.
    pub fn is_ready(&mut self, endpoint: Arc<Endpoint>, now: Instant) {
        self.endpoint = Some(endpoint);
        if *self.orders.borrow() == Order::Run && matches!(self.phase, Phase::Starting | Phase::Busy) {
            self.phase = Phase::Ready;
            self.ready_since = Some(now);
        }
    }

    /// It takes no requests for now.
    pub fn is_busy(&mut self) {
        if self.phase == Phase::Ready {
            self.phase = Phase::Busy;
        }
    }

    /// It ends; `true` if nobody told it to.
    pub fn ends(&mut self) -> bool {
        let unasked = self.phase.is_live();
        self.phase = Phase::Stopping;
        unasked
    }
}

/// A new id for a replica of `key`: its name, as much of it as fits, and eight random letters or digits.
#[must_use]
pub fn new_replica_id(key: &FunctionKey) -> ReplicaId {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    const LONGEST_NAME: usize = 54;
    let random = uuid::Uuid::new_v4().into_bytes();
    let suffix: String = random[8..].iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect();
    let name: String = key.name.as_str().chars().take(LONGEST_NAME).collect();
    format!("{name}-{suffix}").parse().expect("a name, a dash and letters are a label")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replica_ids_begin_with_the_name_and_stay_valid_for_the_longest() {
        let long = FunctionKey::from_route(&"a".repeat(63)).unwrap();
        assert_eq!(new_replica_id(&long).as_str().len(), 63);
        let short = FunctionKey::from_route("echo").unwrap();
        assert!(new_replica_id(&short).as_str().starts_with("echo-"));
        assert_ne!(new_replica_id(&short), new_replica_id(&short));
    }
}
