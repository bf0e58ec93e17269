//! Which replicas to start, to rest and to end: a decision from data to data.
//!
//! Start-first: replicas of the newest revision are started beside those that serve, and these go when as many of
//! the new ones are ready as are wanted. Until then the revision that serves is kept whole, so a revision that
//! never comes up takes nothing away. One that slept sleeps on, as long as nobody asks for it.
//!
//! Recreate: whatever is of another revision is gone before anything starts, and there are never more replicas than are
//! wanted, in whatever phase. A newest revision that failed gives way to the one that served, and is not tried again.
//!
//! A function that wants no replicas keeps at most one, ready to be woken, as far as its rest allows. No I/O, no clock.

use roost_proxy::function::ReplicaId;

use crate::scaling::Rung;

/// A revision that replicas may be of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The revision.
    pub revision: String,
    /// Is its image here, and is it not waiting out a back-off?
    pub startable: bool,
    /// Did a replica of it fail, so that what served before is the better choice where there cannot be both?
    pub failed: bool,
}

/// What there is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish<'a> {
    /// The revision that is wanted.
    pub newest: &'a Target,
    /// The last one that was complete, if it is not the newest itself.
    pub serving: Option<&'a Target>,
    /// How many replicas.
    pub replicas: usize,
    /// Do old ones end before new ones start?
    pub recreate: bool,
    /// Is what served asleep, and nobody asks for it? Then it is left as it is: the newest comes up to be known to be good.
    pub asleep: bool,
    /// What is kept when there are to be no replicas.
    pub rest: Rung,
}

/// How far a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// From its first step until it has answered its probe.
    Starting,
    /// Everything is made, or being made, but its process is not to be started yet.
    Created,
    /// It takes requests.
    Ready,
    /// It was ready and says that it can take no more for now.
    Busy,
    /// It was ready, takes no requests, and is frozen once the last one is answered.
    Paused,
    /// It takes no new requests and ends when the last is answered.
    Draining,
    /// It is being ended and taken apart.
    Stopping,
}

impl Phase {
    /// Is it on its way to take requests, or could it be?
    #[must_use]
    pub fn is_live(self) -> bool {
        !matches!(self, Self::Draining | Self::Stopping)
    }

    /// Was it ready, and does it work on what it has?
    fn works(self) -> bool {
        matches!(self, Self::Ready | Self::Busy)
    }

    /// How much is lost with it: the least first.
    fn worth(self) -> u8 {
        match self {
            Self::Draining | Self::Stopping => 0,
            Self::Created => 1,
            Self::Paused => 2,
            Self::Starting => 3,
            Self::Busy | Self::Ready => 4,
        }
    }
}

/// A replica, as the plan sees it. Given in the order in which they were started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Which replica.
    pub id: ReplicaId,
    /// Its revision.
    pub revision: String,
    /// How far it is.
    pub phase: Phase,
    /// How many connections are open to it.
    pub connections: usize,
}

/// A replica to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Of which revision.
    pub revision: String,
    /// Is it only to be made, and its process to wait?
    pub stand: bool,
}

/// What a replica is to do. It may be doing so already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Take requests.
    Run,
    /// Be frozen.
    Pause,
    /// End.
    End,
}

/// What to do next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// What to start.
    pub start: Vec<Start>,
    /// What those that are there are to do. Of those that are not named nothing is asked.
    pub steps: Vec<(ReplicaId, Step)>,
    /// Has the newest revision as many ready replicas as are wanted, and at least one?
    pub complete: bool,
}

/// Decides.
#[must_use]
pub fn plan(wish: &Wish<'_>, replicas: &[View]) -> Plan {
    match (wish.replicas, wish.recreate) {
        (0, _) => rest(wish, replicas),
        (_, false) => start_first(wish, replicas),
        (_, true) => recreate(wish, replicas),
    }
}

fn start_first(wish: &Wish<'_>, replicas: &[View]) -> Plan {
    let mut plan = Plan { complete: is_complete(wish, replicas), ..Plan::default() };
    plan.fill(wish.newest, wish.replicas, replicas, 0);
    let kept = wish.serving.filter(|_| !plan.complete && !wish.asleep);
    if let Some(serving) = kept {
        plan.fill(serving, wish.replicas, replicas, 0);
    }
    let counts = |r: &View| {
        r.revision == wish.newest.revision
            || wish.serving.is_some_and(|serving| serving.revision == r.revision)
    };
    let answered = replicas.iter().any(|r| r.phase == Phase::Ready && counts(r));
    for other in live(replicas).filter(|r| r.revision != wish.newest.revision) {
        let stays = match wish.serving {
            _ if plan.complete => false,
            Some(serving) if serving.revision == other.revision => true,
            // One that was overtaken before it was complete may be all that answers for now.
            Some(_) => other.phase == Phase::Ready && !answered,
            // Without a revision that was ever complete, whatever answers is better than nothing until the newest is.
            None => other.phase.works(),
        };
        if !stays {
            plan.end(other);
        }
    }
    plan
}

fn recreate(wish: &Wish<'_>, replicas: &[View]) -> Plan {
    let mut plan = Plan { complete: is_complete(wish, replicas), ..Plan::default() };
    let begun = live(replicas).any(|r| r.revision == wish.newest.revision);
    let current = match wish.serving {
        Some(serving) if wish.newest.failed || !(wish.newest.startable || begun) => serving,
        _ => wish.newest,
    };
    let others: Vec<&View> = replicas.iter().filter(|r| r.revision != current.revision).collect();
    if !(current.startable || begun || wish.serving.is_some()) {
        // Nothing can take over yet: what answers goes on.
        others.iter().filter(|r| r.phase.is_live() && !r.phase.works()).for_each(|r| plan.end(r));
        return plan;
    }
    others.iter().filter(|r| r.phase.is_live()).for_each(|r| plan.end(r));
    if wish.asleep && current.revision != wish.newest.revision {
        return plan;
    }
    let ending = replicas.iter().filter(|r| r.revision == current.revision && !r.phase.is_live()).count();
    // As long as any other is there, nothing is started.
    let room_taken = if others.is_empty() { ending } else { wish.replicas };
    plan.fill(current, wish.replicas, replicas, room_taken);
    plan
}

/// Nothing is to take requests. At most one replica is kept, of the revision that was last complete.
fn rest(wish: &Wish<'_>, replicas: &[View]) -> Plan {
    let mut plan = Plan::default();
    let current = wish.serving.unwrap_or(wish.newest);
    let of_current = || live(replicas).filter(|r| r.revision == current.revision);
    let find = |phase: Phase| of_current().find(|r| r.phase == phase);
    let kept = match wish.rest {
        Rung::Stopped => None,
        Rung::Created => find(Phase::Created),
        Rung::Paused => find(Phase::Paused).or_else(|| find(Phase::Ready)).or_else(|| find(Phase::Created)),
    };
    if let Some(ready) = kept.filter(|r| r.phase == Phase::Ready) {
        plan.steps.push((ready.id.clone(), Step::Pause));
    }
    live(replicas).filter(|r| kept.is_none_or(|kept| kept.id != r.id)).for_each(|r| plan.end(r));
    let alone = if wish.recreate { replicas.is_empty() } else { true };
    // Who rests paused ran before: what is made now can only be created.
    if kept.is_none() && wish.rest != Rung::Stopped && current.startable && !current.failed && alone {
        plan.start.push(Start { revision: current.revision.clone(), stand: true });
    }
    plan
}

fn is_complete(wish: &Wish<'_>, replicas: &[View]) -> bool {
    let ready = |r: &&View| r.revision == wish.newest.revision && r.phase == Phase::Ready;
    replicas.iter().filter(ready).count() >= wish.replicas
}

fn live(replicas: &[View]) -> impl Iterator<Item = &View> {
    replicas.iter().filter(|r| r.phase.is_live())
}

impl Plan {
    fn end(&mut self, replica: &View) {
        self.steps.push((replica.id.clone(), Step::End));
    }

    /// Makes the replicas of a revision `wanted` many, of which `taken` places cannot be used: those that are worth most
    /// stay, and run.
    fn fill(&mut self, target: &Target, wanted: usize, replicas: &[View], taken: usize) {
        let mut own: Vec<&View> = live(replicas).filter(|r| r.revision == target.revision).collect();
        // Behind each other: what is worth most, has the most connections, takes requests, and is the oldest (the sort is
        // stable).
        own.sort_by_key(|r| std::cmp::Reverse((r.phase.worth(), r.connections, r.phase == Phase::Ready)));
        let (stay, go) = own.split_at(own.len().min(wanted));
        let asleep = |r: &&&View| matches!(r.phase, Phase::Created | Phase::Paused);
        self.steps.extend(stay.iter().filter(asleep).map(|r| (r.id.clone(), Step::Run)));
        go.iter().for_each(|r| self.end(r));
        if target.startable {
            let missing = wanted.saturating_sub(stay.len() + taken);
            let start = Start { revision: target.revision.clone(), stand: false };
            self.start.extend(std::iter::repeat_n(start, missing));
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
