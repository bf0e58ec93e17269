//! Whose slots are, and what is to be done about them, without any network.

use super::*;

fn slots(wanted: usize) -> (tempfile::TempDir, Slots) {
    let run = tempfile::tempdir().unwrap();
    let slots = Slots::open(run.path(), wanted).unwrap();
    (run, slots)
}

fn slot(n: usize) -> Attachment {
    Attachment { id: format!("slot_openfaas-fn_{n}"), netns: "/n".into(), address: [10, 0, 0, 9].into() }
}

fn default() -> Namespace {
    Namespace::default()
}

fn id(text: &str) -> ReplicaId {
    text.parse().unwrap()
}

/// What is to be done in the default namespace.
fn task(slots: &Slots) -> Option<Task> {
    match slots.next(Instant::now()) {
        Next::Do(namespace, task) => {
            assert_eq!(namespace, default());
            Some(task)
        }
        Next::Wait(_) => None,
    }
}

fn failure() -> NetworkError {
    NetworkError::Namespace("full".to_owned())
}

#[tokio::test]
async fn as_many_are_made_as_are_wanted() {
    let (_run, slots) = slots(2);
    for n in 0..2 {
        assert!(matches!(task(&slots), Some(Task::Make(_))));
        slots.done(&default(), Outcome::Ready(slot(n)));
    }
    assert_eq!(task(&slots), None);
    assert_eq!(slots.ready(), [(default(), 2)].into());
    slots.take(&default(), &id("a")).unwrap();
    assert!(matches!(task(&slots), Some(Task::Make(_))));
}

#[tokio::test]
async fn none_are_made_where_none_are_wanted() {
    let (_run, slots) = slots(0);
    slots.fill_from_now(&default());
    assert!(slots.are_off() && !slots.adopt(&default(), slot(0)));
    assert_eq!(slots.next(Instant::now()), Next::Wait(None));
}

#[tokio::test]
async fn a_slot_is_taken_once_and_remembered_across_daemons() {
    let (run, slots) = slots(1);
    slots.done(&default(), Outcome::Ready(slot(7)));
    assert_eq!(slots.take(&default(), &id("a")).unwrap(), Some(slot(7)));
    assert_eq!(slots.take(&default(), &id("b")).unwrap(), None);

    let next = Slots::open(run.path(), 1).unwrap();
    assert_eq!(next.of(&id("a")).unwrap(), Some(slot(7).id));
    assert_eq!(next.of(&id("b")).unwrap(), None);
    assert_eq!(next.taken().unwrap(), [("a".to_owned(), slot(7).id)].into());
    next.forget("a").unwrap();
    next.forget("a").unwrap();
    assert!(next.taken().unwrap().is_empty());
}

#[tokio::test]
async fn a_slot_that_cannot_be_noted_is_not_given_away() {
    let (_run, slots) = slots(2);
    slots.done(&default(), Outcome::Ready(slot(1)));
    slots.take(&default(), &id("a")).unwrap();
    slots.done(&default(), Outcome::Ready(slot(2)));
    slots.take(&default(), &id("a")).unwrap_err();
    assert_eq!(slots.of(&id("a")).unwrap(), Some(slot(1).id));
    assert_eq!(slots.take(&default(), &id("b")).unwrap(), Some(slot(2)));
}

#[tokio::test]
async fn a_doubtful_slot_is_checked_before_it_is_ready_and_goes_if_it_is_not_well() {
    let (_run, slots) = slots(2);
    assert!(slots.adopt(&default(), slot(1)) && slots.adopt(&default(), slot(2)));
    assert!(!slots.adopt(&default(), slot(3)), "one more than wanted");
    assert!(!slots.has_ready(&default()));
    assert_eq!(task(&slots), Some(Task::Check(slot(2))));
    slots.done(&default(), Outcome::Ready(slot(2)));
    assert_eq!(task(&slots), Some(Task::Check(slot(1))));
    slots.done(&default(), Outcome::Waste(slot(1).id));
    assert_eq!(task(&slots), Some(Task::Free(slot(1).id)));
    slots.done(&default(), Outcome::Freed);
    assert!(matches!(task(&slots), Some(Task::Make(_))));

    slots.doubt();
    assert_eq!(slots.take(&default(), &id("a")).unwrap(), None);
    assert_eq!(task(&slots), Some(Task::Check(slot(2))));
}

#[tokio::test]
async fn a_failure_puts_the_next_try_off_for_longer_each_time_until_something_changes() {
    let (_run, slots) = slots(1);
    let mut last = Duration::ZERO;
    for _ in 0..4 {
        assert!(matches!(task(&slots), Some(Task::Make(_))));
        slots.done(&default(), Outcome::Failed(None, failure()));
        let now = Instant::now();
        let Next::Wait(Some(then)) = slots.next(now) else { panic!("no pause") };
        assert!(then - now > last, "{last:?}");
        last = then - now;
        slots.look_again();
    }
}

#[tokio::test]
async fn what_a_failure_left_is_taken_apart_before_the_next_is_made() {
    let (_run, slots) = slots(1);
    slots.done(&default(), Outcome::Failed(Some("left".to_owned()), failure()));
    assert_eq!(task(&slots), None);
    slots.look_again();
    assert_eq!(task(&slots), Some(Task::Free("left".to_owned())));
}

#[tokio::test]
async fn the_slots_of_a_namespace_that_ends_are_told_until_they_are_gone_and_no_more_are_made() {
    let (_run, slots) = slots(3);
    let blue: Namespace = "blue".parse().unwrap();
    slots.fill_from_now(&blue);
    slots.done(&blue, Outcome::Ready(slot(1)));
    slots.adopt(&blue, slot(2));
    let all = [slot(1).id, slot(2).id];
    assert_eq!(slots.close(&blue), all);
    assert_eq!(slots.close(&blue), all, "some may have stayed");
    assert_eq!(slots.take(&blue, &id("a")).unwrap(), None);
    slots.closed(&blue);
    assert_eq!(slots.close(&blue), [""; 0]);
    assert_eq!(slots.ready(), [(default(), 0)].into());
}

#[tokio::test]
async fn nothing_is_made_while_somebody_needs_a_network_nor_right_behind_it() {
    let (_run, slots) = slots(1);
    let needed = slots.need();
    assert!(tokio::time::timeout(QUIET * 2, slots.quiet()).await.is_err());
    drop(needed);
    let ended = Instant::now();
    slots.quiet().await;
    assert!(ended.elapsed() >= QUIET);
}

#[test]
fn a_slot_tells_its_namespace_and_no_replica_is_taken_for_one() {
    for namespace in ["openfaas-fn", "blue", "a-b-c"] {
        let namespace: Namespace = namespace.parse().unwrap();
        assert_eq!(namespace_of(&name(&namespace)), Some(namespace));
    }
    for other in ["slot-x-1", "slot_", "slot_blue", "slot__1", "echo-1a2b"] {
        assert_eq!(namespace_of(other), None, "{other}");
    }
    assert!(name(&default()).parse::<ReplicaId>().is_err());
}
