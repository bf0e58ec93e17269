//! What the labels and annotations of a function say of how it is scaled.
//!
//! Owns their names, their defaults and every rule about what is valid in them. Pure.

use std::num::NonZeroU32;
use std::time::Duration;

use roost_proxy::Placement;

use crate::function::spec::Deployment;
use crate::scaling::schedule::Schedule;

/// How a function is scaled.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// At least so many replicas, unless it is idle and may have none.
    pub min: u32,
    /// At most so many replicas; with keys, at most so many keys.
    pub max: u32,
    /// What load each replica is to carry; `None`: nothing is scaled by load.
    pub load: Option<LoadTarget>,
    /// When it is to have no replicas at all; `None`: never.
    pub zero: Option<Zero>,
    /// How much one replica takes at a time.
    pub cap: Cap,
    /// Where its requests go.
    pub placement: Placement,
    /// Are old replicas gone before new ones start? Always with keys: there is at most one replica of a key.
    pub recreate: bool,
    /// How long a replica that is to go may go on with what it has; `None`: as long as the daemon's settings say.
    pub drain: Option<Duration>,
    /// What is kept of a function that has no replicas.
    pub rest: Rest,
    /// At what times it has more replicas at least.
    pub schedule: Schedule,
}

/// The load that each replica is to carry.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadTarget {
    /// Load of which kind.
    pub measure: Measure,
    /// As much for each replica, `target` × `target-proportion`.
    pub per_replica: f64,
    /// At most so many replicas more at a time, and then a pause; `None`: as many as are needed.
    pub step: Option<NonZeroU32>,
    /// Fewer replicas only when no more were needed for so long.
    pub down_window: Duration,
}

/// A kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Requests in flight and open connections.
    Capacity,
    /// Requests that are answered in a second.
    Rps,
    /// Processor time, in thousandths of a core.
    Cpu,
    /// Deferred calls that wait.
    Queue,
}

/// When a function is to have no replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zero {
    /// When it was idle for so long.
    pub after: Duration,
    /// What idle is.
    pub by: IdleBy,
}

/// What keeps a function from being idle, beside requests and deferred calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdleBy {
    /// Every open connection.
    Connections,
    /// Data that moves on one.
    Traffic,
}

/// How much one replica takes at a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cap {
    /// So many requests and connections; `None`: any number.
    pub per_replica: Option<NonZeroU32>,
    /// How long a request waits when all replicas are at their cap.
    pub wait: Duration,
}

/// What is kept ready of a function that has no replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    /// The first rung; `None`: as the host's memory allows.
    pub state: Option<Rung>,
    /// After so long a paused replica is replaced by a created one.
    pub paused_for: Duration,
    /// After so long a created one is removed.
    pub created_for: Duration,
}

/// What is kept ready, the readiest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// A replica that ran, frozen.
    Paused,
    /// A replica whose process was not started yet.
    Created,
    /// No replica.
    Stopped,
}

impl Default for Policy {
    /// As without any setting.
    fn default() -> Self {
        unimplemented!("being written")
    }
}

impl Policy {
    /// Is there never to be more than one replica at a time, whatever happens?
    #[must_use]
    pub fn is_singleton(&self) -> bool {
        self.recreate && self.max == 1 && self.placement.key.is_none()
    }

    /// Does a label or annotation of this name say only how replicas are scaled and chosen, so that they do not see it?
    #[must_use]
    pub fn is_setting_name(name: &str) -> bool {
        let _ = name;
        unimplemented!("being written")
    }

    /// Reads the labels and annotations of a deployment.
    ///
    /// # Errors
    /// With every mistake in them, each with the name of its label or annotation.
    pub fn parse(deployment: &Deployment) -> Result<Self, Vec<String>> {
        let _ = deployment;
        unimplemented!("being written")
    }
}

impl Rest {
    /// What is to be kept of a function that has had no replicas for `idle`, and when that changes. `short`: has the
    /// host little memory left?
    #[must_use]
    pub fn rung(&self, idle: Duration, short: bool) -> (Rung, Option<Duration>) {
        let _ = (idle, short);
        unimplemented!("being written")
    }
}
