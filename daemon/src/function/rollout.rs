//! Which replicas to start and which to drain: a decision from data to data.
//!
//! Start-first: replicas of the newest revision are started beside those that serve, and these go when as many of
//! the new ones are ready as are wanted. Until then the revision that serves is kept whole, so a revision that
//! never comes up takes nothing away. A function that wants no replicas loses them all, and neither revision is the
//! wiser for it. No I/O, no clock.

use roost_proxy::function::ReplicaId;

/// What a revision wants, and whether a replica of it could be started now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The revision.
    pub revision: String,
    /// How many replicas it wants.
    pub replicas: usize,
    /// Is its image here, and is it not waiting out a back-off?
    pub startable: bool,
}

/// How far a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// From its first step until it has answered its probe.
    Starting,
    /// Everything is made, but its process was not started.
    Created,
    /// It takes requests.
    Ready,
    /// It was ready and says that it can take no more for now.
    Busy,
    /// It was ready, takes no requests and is frozen.
    Paused,
    /// It takes no new requests and ends when the last is answered.
    Draining,
    /// It is being ended and taken apart.
    Stopping,
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
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// How many replicas to start of the newest revision.
    pub start_newest: usize,
    /// How many replicas to start of the revision that serves.
    pub start_serving: usize,
    /// Which replicas to drain.
    pub drain: Vec<ReplicaId>,
    /// Has the newest revision as many ready replicas as it wants, and at least one?
    pub complete: bool,
}

/// Decides. `serving` is the last revision that was complete, if it is not `newest` itself.
#[must_use]
pub fn plan(newest: &Target, serving: Option<&Target>, replicas: &[View]) -> Plan {
    let live = |revision: &str| {
        replicas
            .iter()
            .filter(|r| r.revision == revision && matches!(r.phase, Phase::Starting | Phase::Ready))
            .collect::<Vec<_>>()
    };
    let live_newest = live(&newest.revision);
    let ready = live_newest.iter().filter(|r| r.phase == Phase::Ready).count();
    let idle = newest.replicas == 0;
    let complete = !idle && ready >= newest.replicas;
    let missing = |target: &Target, live: usize| {
        if target.startable { target.replicas.saturating_sub(live) } else { 0 }
    };

    let keep_serving = serving.filter(|_| !complete);
    let start_serving = keep_serving.map_or(0, |serving| missing(serving, live(&serving.revision).len()));
    let less_serving = keep_serving
        .filter(|_| !idle)
        .map_or_else(Vec::new, |serving| surplus(&live(&serving.revision), serving.replicas));
    // Without a revision that was ever complete, whatever answers is better than nothing until the newest is.
    let serves = |r: &View| match serving {
        Some(serving) => serving.revision == r.revision,
        None => r.phase == Phase::Ready,
    };
    let drain = replicas
        .iter()
        .filter(|r| matches!(r.phase, Phase::Starting | Phase::Ready))
        .filter(|r| r.revision != newest.revision && (idle || complete || !serves(r)))
        .map(|r| r.id.clone())
        .chain(surplus(&live_newest, newest.replicas))
        .chain(less_serving)
        .collect();
    Plan { start_newest: missing(newest, live_newest.len()), start_serving, drain, complete }
}

/// The replicas over what is wanted: those that still start first, then the youngest.
fn surplus(live: &[&View], wanted: usize) -> Vec<ReplicaId> {
    let (starting, ready): (Vec<_>, Vec<_>) = live.iter().partition(|r| r.phase == Phase::Starting);
    let over = live.len().saturating_sub(wanted);
    starting.iter().rev().chain(ready.iter().rev()).take(over).map(|r: &&&View| r.id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(revision: &str, replicas: usize, startable: bool) -> Target {
        Target { revision: revision.into(), replicas, startable }
    }

    fn views(list: &[(&str, &str, Phase)]) -> Vec<View> {
        list.iter()
            .map(|(id, revision, phase)| View {
                id: id.parse().unwrap(),
                revision: (*revision).into(),
                phase: *phase,
            })
            .collect()
    }

    fn drained(plan: &Plan) -> Vec<&str> {
        plan.drain.iter().map(ReplicaId::as_str).collect()
    }

    use Phase::{Draining, Ready, Starting, Stopping};

    #[test]
    fn a_first_deploy_starts_what_is_wanted_and_no_more_while_they_start() {
        let newest = target("b", 2, true);
        assert_eq!(plan(&newest, None, &[]).start_newest, 2);
        let starting = views(&[("r1", "b", Starting), ("r2", "b", Starting)]);
        let next = plan(&newest, None, &starting);
        assert_eq!((next.start_newest, next.complete), (0, false));
    }

    #[test]
    fn an_update_keeps_the_old_until_all_of_the_new_are_ready() {
        let (newest, serving) = (target("b", 2, true), target("a", 2, true));
        let half =
            views(&[("o1", "a", Ready), ("o2", "a", Ready), ("n1", "b", Ready), ("n2", "b", Starting)]);
        let next = plan(&newest, Some(&serving), &half);
        assert_eq!((next.start_newest, next.start_serving, drained(&next)), (0, 0, vec![]));
        let all = views(&[("o1", "a", Ready), ("o2", "a", Ready), ("n1", "b", Ready), ("n2", "b", Ready)]);
        let next = plan(&newest, Some(&serving), &all);
        assert_eq!((drained(&next), next.complete), (vec!["o1", "o2"], true));
    }

    #[test]
    fn a_replica_that_dies_while_its_successor_cannot_start_is_replaced_by_its_own_kind() {
        let (newest, serving) = (target("b", 1, false), target("a", 2, true));
        let one_left = views(&[("o1", "a", Ready), ("o2", "a", Stopping)]);
        let next = plan(&newest, Some(&serving), &one_left);
        assert_eq!((next.start_newest, next.start_serving, drained(&next)), (0, 1, vec![]));
    }

    #[test]
    fn what_serves_is_made_whole_while_its_successor_still_comes_up() {
        let (newest, serving) = (target("b", 2, true), target("a", 1, true));
        // The old replica died, or the host was rebooted, in the middle of an update.
        for replicas in
            [views(&[]), views(&[("n1", "b", Starting), ("n2", "b", Ready), ("o1", "a", Stopping)])]
        {
            assert_eq!(plan(&newest, Some(&serving), &replicas).start_serving, 1);
        }
        let whole = views(&[("n1", "b", Starting), ("n2", "b", Ready), ("o1", "a", Ready)]);
        assert_eq!(plan(&newest, Some(&serving), &whole).start_serving, 0);
    }

    #[test]
    fn a_first_revision_that_was_never_complete_serves_with_what_it_has_until_the_next_is() {
        let newest = target("b", 1, false);
        let replicas = views(&[("o1", "a", Ready), ("o2", "a", Starting)]);
        assert_eq!(drained(&plan(&newest, None, &replicas)), vec!["o2"]);
        let replicas = views(&[("o1", "a", Ready), ("n1", "b", Ready)]);
        assert_eq!(drained(&plan(&newest, None, &replicas)), vec!["o1"]);
    }

    #[test]
    fn a_revision_that_was_overtaken_before_it_was_complete_goes_at_once() {
        let (newest, serving) = (target("c", 1, true), target("a", 1, true));
        let replicas = views(&[("o1", "a", Ready), ("x1", "b", Starting)]);
        let next = plan(&newest, Some(&serving), &replicas);
        assert_eq!((next.start_newest, drained(&next)), (1, vec!["x1"]));
    }

    #[test]
    fn what_drains_already_is_neither_counted_nor_drained_again() {
        let newest = target("b", 1, true);
        let replicas = views(&[("o1", "a", Draining), ("n1", "b", Ready)]);
        let next = plan(&newest, None, &replicas);
        assert_eq!((next.start_newest, drained(&next), next.complete), (0, vec![], true));
    }

    #[test]
    fn a_function_that_wants_none_loses_all_and_completes_nothing() {
        let replicas = views(&[("o1", "a", Ready), ("x1", "x", Ready), ("n1", "b", Starting)]);
        for serving in [Some(target("a", 0, true)), None] {
            let next = plan(&target("b", 0, true), serving.as_ref(), &replicas);
            assert_eq!((drained(&next), next.complete), (vec!["o1", "x1", "n1"], false));
            assert_eq!((next.start_newest, next.start_serving), (0, 0));
            assert!(!plan(&target("b", 0, true), serving.as_ref(), &[]).complete);
        }
    }

    #[test]
    fn fewer_replicas_are_fewer_of_what_serves_during_an_update() {
        let (newest, serving) = (target("b", 1, false), target("a", 1, true));
        let replicas = views(&[("o1", "a", Ready), ("o2", "a", Ready)]);
        assert_eq!(drained(&plan(&newest, Some(&serving), &replicas)), vec!["o2"]);
    }

    #[test]
    fn fewer_replicas_drain_those_that_start_before_those_that_serve() {
        let newest = target("b", 1, true);
        let replicas = views(&[("n1", "b", Ready), ("n2", "b", Ready), ("n3", "b", Starting)]);
        assert_eq!(drained(&plan(&newest, None, &replicas)), vec!["n3", "n2"]);
    }
}
