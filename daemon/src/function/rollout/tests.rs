//! Tables: what is done next in each situation.

use super::Phase::{Busy, Created, Draining, Paused, Ready, Starting, Stopping};
use super::*;

fn target(revision: &str, startable: bool) -> Target {
    Target { revision: revision.into(), startable, failed: false }
}

fn failed(revision: &str) -> Target {
    Target { failed: true, ..target(revision, false) }
}

fn views(list: &[(&str, &str, Phase)]) -> Vec<View> {
    let view = |(id, revision, phase): &(&str, &str, Phase)| View {
        id: id.parse().unwrap(),
        revision: (*revision).into(),
        phase: *phase,
        connections: 0,
    };
    list.iter().map(view).collect()
}

fn wish<'a>(newest: &'a Target, serving: Option<&'a Target>, replicas: usize) -> Wish<'a> {
    Wish { newest, serving, replicas, recreate: false, asleep: false, rest: Rung::Stopped }
}

fn recreated<'a>(newest: &'a Target, serving: Option<&'a Target>) -> Wish<'a> {
    Wish { recreate: true, ..wish(newest, serving, 1) }
}

/// The revisions of what is started, `+` behind those that only stand by, then the replicas and their steps.
fn told(plan: &Plan) -> (Vec<String>, Vec<String>) {
    let starts = plan.start.iter().map(|s| format!("{}{}", s.revision, if s.stand { "+" } else { "" }));
    let steps = plan.steps.iter().map(|(id, step)| format!("{step:?} {id}").to_lowercase());
    let mut steps: Vec<String> = steps.collect();
    steps.sort();
    (starts.collect(), steps)
}

fn starts(plan: &Plan) -> Vec<String> {
    told(plan).0
}

fn steps(plan: &Plan) -> Vec<String> {
    told(plan).1
}

const NOTHING: [&str; 0] = [];

#[test]
fn a_first_deploy_starts_what_is_wanted_and_no_more_while_they_start() {
    let newest = target("b", true);
    assert_eq!(starts(&plan(&wish(&newest, None, 2), &[])), ["b", "b"]);
    let starting = views(&[("r1", "b", Starting), ("r2", "b", Starting)]);
    let next = plan(&wish(&newest, None, 2), &starting);
    assert_eq!((starts(&next).len(), next.complete), (0, false));
}

#[test]
fn nothing_starts_while_it_cannot_and_what_serves_is_left_alone() {
    let (newest, serving) = (target("b", false), target("a", true));
    let next = plan(&wish(&newest, Some(&serving), 1), &views(&[("o1", "a", Ready)]));
    assert_eq!(told(&next), (vec![], vec![]));
}

#[test]
fn an_update_is_complete_when_all_new_ones_are_ready_and_only_then_do_the_old_ones_go() {
    let (newest, serving) = (target("b", true), target("a", true));
    let half = views(&[("o1", "a", Ready), ("o2", "a", Ready), ("n1", "b", Ready), ("n2", "b", Starting)]);
    let next = plan(&wish(&newest, Some(&serving), 2), &half);
    assert_eq!((told(&next), next.complete), ((vec![], vec![]), false));
    let all = views(&[("o1", "a", Ready), ("o2", "a", Busy), ("n1", "b", Ready), ("n2", "b", Ready)]);
    let next = plan(&wish(&newest, Some(&serving), 2), &all);
    assert_eq!((steps(&next), next.complete), (vec!["end o1".to_owned(), "end o2".to_owned()], true));
}

#[test]
fn a_replica_that_dies_while_its_successor_cannot_start_is_replaced_by_its_own_kind() {
    let (newest, serving) = (target("b", false), target("a", true));
    let one_left = views(&[("o1", "a", Ready), ("o2", "a", Stopping)]);
    assert_eq!(starts(&plan(&wish(&newest, Some(&serving), 2), &one_left)), ["a"]);
}

#[test]
fn what_serves_is_made_whole_while_its_successor_still_comes_up() {
    let (newest, serving) = (target("b", true), target("a", true));
    // The old replica died, or the host was rebooted, in the middle of an update.
    let next = plan(&wish(&newest, Some(&serving), 1), &[]);
    assert_eq!(starts(&next), ["b", "a"]);
    let next =
        plan(&wish(&newest, Some(&serving), 1), &views(&[("n1", "b", Starting), ("o1", "a", Stopping)]));
    assert_eq!(starts(&next), ["a"]);
}

#[test]
fn a_first_revision_that_was_never_complete_serves_with_what_it_has_until_the_next_is() {
    let newest = target("b", false);
    let replicas = views(&[("o1", "a", Ready), ("o2", "a", Starting)]);
    for recreate in [false, true] {
        let next = plan(&Wish { recreate, ..wish(&newest, None, 1) }, &replicas);
        assert_eq!(steps(&next), ["end o2"]);
    }
    let replicas = views(&[("o1", "a", Ready), ("n1", "b", Ready)]);
    assert_eq!(steps(&plan(&wish(&newest, None, 1), &replicas)), ["end o1"]);
}

#[test]
fn a_revision_that_was_overtaken_before_it_was_complete_goes_at_once() {
    let (newest, serving) = (target("c", true), target("a", true));
    let next = plan(&wish(&newest, Some(&serving), 1), &views(&[("o1", "a", Ready), ("x1", "b", Starting)]));
    assert_eq!(told(&next), (vec!["c".to_owned()], vec!["end x1".to_owned()]));
}

#[test]
fn what_drains_already_is_neither_counted_nor_told_again() {
    let newest = target("b", true);
    let next = plan(&wish(&newest, None, 1), &views(&[("o1", "a", Draining), ("n1", "b", Ready)]));
    assert_eq!((told(&next), next.complete), ((vec![], vec![]), true));
}

#[test]
fn fewer_replicas_are_those_with_the_fewest_connections_and_of_these_the_youngest() {
    let newest = target("b", true);
    let mut replicas =
        views(&[("n1", "b", Ready), ("n2", "b", Ready), ("n3", "b", Ready), ("n4", "b", Starting)]);
    for (wanted, ended) in [(3, vec!["end n4"]), (2, vec!["end n3", "end n4"])] {
        assert_eq!(steps(&plan(&wish(&newest, None, wanted), &replicas)), ended);
    }
    for (replica, connections) in replicas.iter_mut().zip([1, 0, 2]) {
        replica.connections = connections;
    }
    assert_eq!(steps(&plan(&wish(&newest, None, 2), &replicas)), ["end n2", "end n4"]);
    assert_eq!(steps(&plan(&wish(&newest, None, 1), &replicas)), ["end n1", "end n2", "end n4"]);
}

#[test]
fn a_busy_replica_with_connections_stays_rather_than_a_ready_one_without() {
    let newest = target("b", true);
    let mut replicas = views(&[("n1", "b", Ready), ("n2", "b", Busy)]);
    assert_eq!(steps(&plan(&wish(&newest, None, 1), &replicas)), ["end n2"], "neither has any");
    replicas[1].connections = 12;
    assert_eq!(steps(&plan(&wish(&newest, None, 1), &replicas)), ["end n1"]);
}

#[test]
fn what_sleeps_sleeps_on_while_the_newest_comes_up_unless_somebody_asks_for_it() {
    let serving = target("a", true);
    for recreate in [false, true] {
        for (image_is_here, phase) in [(false, Created), (false, Paused), (true, Created)] {
            let newest = target("b", image_is_here);
            let replicas = views(&[("o1", "a", phase)]);
            let asked = Wish { recreate, ..wish(&newest, Some(&serving), 1) };
            let unasked = Wish { asleep: true, ..asked.clone() };
            let (starts, steps) = told(&plan(&unasked, &replicas));
            let expected = match (image_is_here, recreate) {
                (false, _) => (vec![], vec![]),
                (true, false) => (vec!["b".to_owned()], vec![]),
                (true, true) => (vec![], vec!["end o1".to_owned()]),
            };
            assert_eq!((starts, steps), expected, "{recreate} {image_is_here} {phase:?}");
            if !image_is_here {
                assert_eq!(told(&plan(&asked, &replicas)), (vec![], vec!["run o1".to_owned()]));
                assert_eq!(told(&plan(&unasked, &[])), (vec![], vec![]));
            }
        }
    }
    // It came up, and what slept is needed no more.
    let newest = target("b", true);
    let unasked = Wish { asleep: true, ..wish(&newest, Some(&serving), 1) };
    let next = plan(&unasked, &views(&[("o1", "a", Created), ("n1", "b", Ready)]));
    assert_eq!((told(&next), next.complete), ((vec![], vec!["end o1".to_owned()]), true));
    // It does not come up: what slept is not ended for it.
    let failing = failed("b");
    for recreate in [false, true] {
        let unasked = Wish { asleep: true, recreate, ..wish(&failing, Some(&serving), 1) };
        assert_eq!(told(&plan(&unasked, &views(&[("o1", "a", Paused)]))), (vec![], vec![]));
    }
}

#[test]
fn fewer_replicas_are_fewer_of_what_serves_during_an_update() {
    let (newest, serving) = (target("b", false), target("a", true));
    let replicas = views(&[("o1", "a", Ready), ("o2", "a", Ready)]);
    assert_eq!(steps(&plan(&wish(&newest, Some(&serving), 1), &replicas)), ["end o2"]);
}

#[test]
fn what_rests_runs_before_anything_is_started() {
    let newest = target("b", true);
    let replicas = views(&[("c1", "b", Created), ("p1", "b", Paused)]);
    let next = plan(&wish(&newest, None, 1), &replicas);
    assert_eq!(told(&next), (vec![], vec!["end c1".to_owned(), "run p1".to_owned()]));
    let next = plan(&wish(&newest, None, 3), &replicas);
    assert_eq!(told(&next), (vec!["b".to_owned()], vec!["run c1".to_owned(), "run p1".to_owned()]));
}

#[test]
fn a_function_that_wants_none_keeps_what_its_rest_allows() {
    let (newest, serving) = (target("b", true), target("a", true));
    let none: &[&str] = &NOTHING;
    for (rest, replicas, started, asked) in [
        (Rung::Stopped, &[("n1", "b", Ready), ("n2", "b", Created)][..], none, &["end n1", "end n2"][..]),
        (Rung::Stopped, &[], none, none),
        (Rung::Created, &[("n1", "b", Ready)], &["b+"], &["end n1"]),
        (Rung::Created, &[("n1", "b", Paused)], &["b+"], &["end n1"]),
        (Rung::Created, &[("n1", "b", Created), ("n2", "b", Draining)], none, none),
        (Rung::Created, &[("n1", "b", Created), ("n2", "b", Created)], none, &["end n2"]),
        (Rung::Paused, &[("n1", "b", Ready), ("n2", "b", Ready)], none, &["end n2", "pause n1"]),
        (Rung::Paused, &[("n1", "b", Ready), ("n2", "b", Paused)], none, &["end n1"]),
        (Rung::Paused, &[("n1", "b", Starting)], &["b+"], &["end n1"]),
        (Rung::Paused, &[("n1", "b", Created)], none, none),
        (Rung::Created, &[("o1", "a", Created)], &["b+"], &["end o1"]),
    ] {
        let next = plan(&Wish { rest, ..wish(&newest, None, 0) }, &views(replicas));
        let expected = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(told(&next), (expected(started), expected(asked)), "{rest:?} {replicas:?}");
        assert!(!next.complete);
    }
    let next = plan(&Wish { rest: Rung::Created, ..wish(&newest, Some(&serving), 0) }, &[]);
    assert_eq!(starts(&next), ["a+"], "the one that is known to come up");
    let next = plan(&Wish { rest: Rung::Created, ..wish(&failed("b"), None, 0) }, &[]);
    assert_eq!(starts(&next), NOTHING);
}

#[test]
fn recreate_ends_the_old_before_it_starts_the_new() {
    let (newest, serving) = (target("b", true), target("a", true));
    let next = plan(&recreated(&newest, Some(&serving)), &views(&[("o1", "a", Ready)]));
    assert_eq!(told(&next), (vec![], vec!["end o1".to_owned()]));
    for phase in [Draining, Stopping] {
        assert_eq!(
            starts(&plan(&recreated(&newest, Some(&serving)), &views(&[("o1", "a", phase)]))),
            NOTHING
        );
        // One that ends by itself is no other case.
        assert_eq!(starts(&plan(&recreated(&newest, None), &views(&[("n1", "b", phase)]))), NOTHING);
    }
    assert_eq!(starts(&plan(&recreated(&newest, Some(&serving)), &[])), ["b"]);
}

#[test]
fn recreate_leaves_what_serves_alone_until_the_new_can_start() {
    let (newest, serving) = (target("b", false), target("a", true));
    let next = plan(&recreated(&newest, Some(&serving)), &views(&[("o1", "a", Ready)]));
    assert_eq!(told(&next), (vec![], vec![]));
    assert_eq!(starts(&plan(&recreated(&newest, Some(&serving)), &[])), ["a"]);
}

#[test]
fn recreate_goes_back_to_what_served_when_the_new_fails() {
    let (newest, serving) = (failed("b"), target("a", true));
    assert_eq!(starts(&plan(&recreated(&newest, Some(&serving)), &views(&[("n1", "b", Stopping)]))), NOTHING);
    assert_eq!(starts(&plan(&recreated(&newest, Some(&serving)), &[])), ["a"]);
    let next = plan(&recreated(&newest, Some(&serving)), &views(&[("o1", "a", Ready)]));
    assert_eq!(told(&next), (vec![], vec![]));
}
