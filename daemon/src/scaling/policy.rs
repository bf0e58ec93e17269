//! How a function is scaled, as far as that is for its owner to say.
//!
//! Owns what a policy consists of, and the ladder that a function without replicas goes down. What users write is read
//! in [`super::labels`]. Pure.

use std::num::NonZeroU32;
use std::time::Duration;

use roost_proxy::Placement;

use crate::function::spec::Deployment;
use crate::scaling::labels;
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

impl Measure {
    /// By the name that it has in labels.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let all = [Self::Capacity, Self::Rps, Self::Cpu, Self::Queue];
        all.into_iter().find(|measure| measure.name() == name)
    }

    /// Its name in labels.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Capacity => "capacity",
            Self::Rps => "rps",
            Self::Cpu => "cpu",
            Self::Queue => "queue",
        }
    }
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

/// What is kept ready of a function that has no replicas: a ladder, which it only goes down.
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
        Self::parse(&Deployment::default())
            .unwrap_or_else(|mistakes| unreachable!("where nothing is set nothing is wrong: {mistakes:?}"))
    }
}

impl Policy {
    /// Is there never to be more than one replica at a time, whatever happens?
    #[must_use]
    pub fn is_singleton(&self) -> bool {
        self.recreate && self.max == 1 && self.placement.key.is_none()
    }

    /// As many of `replicas` as there may be, whoever asks for them: of a singleton one, of any other all.
    #[must_use]
    pub fn allowed(&self, replicas: u32) -> u32 {
        if self.is_singleton() { replicas.min(1) } else { replicas }
    }

    /// Reads the labels and annotations of a deployment, and `max_inflight` of its environment.
    ///
    /// # Errors
    /// With every mistake in them, each with the field and the name: `labels.NAME: …`, `annotations.NAME: …`.
    pub fn parse(deployment: &Deployment) -> Result<Self, Vec<String>> {
        labels::read(deployment)
    }

    /// Is `name` a label or annotation that only says how a function is scaled? Replicas that run need not be replaced
    /// where nothing but such differ.
    #[must_use]
    pub fn is_setting_name(name: &str) -> bool {
        labels::NAMES.contains(&name)
    }
}

impl Rest {
    /// What is to be kept of a function that has had no replicas for `idle`, and in how long that changes if all else
    /// stays; `None`: never. `short`: has the host little memory left?
    ///
    /// Each rung is kept for its own time, beginning with the first. When memory is short a rung is kept only if it is
    /// the very one that was asked for, and no longer than its time: what is under it is left out.
    #[must_use]
    pub fn rung(&self, idle: Duration, short: bool) -> (Rung, Option<Duration>) {
        let first = self.state.unwrap_or(Rung::Created);
        let mut until = Duration::ZERO;
        for (rung, time) in [(Rung::Paused, self.paused_for), (Rung::Created, self.created_for)] {
            if rung < first || short && self.state != Some(rung) {
                continue;
            }
            until = until.saturating_add(time);
            if idle < until {
                return (rung, Some(until.saturating_sub(idle)));
            }
        }
        (Rung::Stopped, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_goes_down_the_ladder_each_rung_in_its_time() {
        let (paused_for, created_for) = (Duration::from_secs(10), Duration::from_secs(100));
        let rest = |state| Rest { state, paused_for, created_for };
        for (state, short, at, expected) in [
            (Some(Rung::Paused), false, 0, (Rung::Paused, Some(10))),
            (Some(Rung::Paused), false, 9, (Rung::Paused, Some(1))),
            (Some(Rung::Paused), false, 10, (Rung::Created, Some(100))),
            (Some(Rung::Paused), false, 110, (Rung::Stopped, None)),
            (Some(Rung::Paused), true, 9, (Rung::Paused, Some(1))),
            (Some(Rung::Paused), true, 10, (Rung::Stopped, None)),
            (Some(Rung::Created), false, 0, (Rung::Created, Some(100))),
            (Some(Rung::Created), true, 99, (Rung::Created, Some(1))),
            (Some(Rung::Created), true, 100, (Rung::Stopped, None)),
            (Some(Rung::Stopped), false, 0, (Rung::Stopped, None)),
            (None, false, 0, (Rung::Created, Some(100))),
            (None, false, 100, (Rung::Stopped, None)),
            (None, true, 0, (Rung::Stopped, None)),
        ] {
            let (rung, change) = rest(state).rung(Duration::from_secs(at), short);
            assert_eq!((rung, change.map(|time| time.as_secs())), expected, "{state:?} {short} {at}");
        }
        let at_once = Rest { paused_for: Duration::ZERO, ..rest(Some(Rung::Paused)) };
        assert_eq!(at_once.rung(Duration::ZERO, false), (Rung::Created, Some(created_for)));
    }
}
