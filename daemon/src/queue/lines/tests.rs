use proptest::prelude::*;

use super::*;

fn key(name: &str) -> FunctionKey {
    FunctionKey::from_route(name).unwrap()
}

fn entry(id: &str) -> Entry {
    Entry {
        id: id.into(),
        priority: 4,
        order_key: None,
        accepted: 0,
        due: 0,
        expires: None,
        weight: 10,
        attempts: 0,
        answered: false,
        dead: false,
        files: Vec::new(),
    }
}

/// The numbers of calls that begin, and what is done with them.
fn begin(lines: &mut Lines, now: i64, limit: usize) -> Vec<u64> {
    lines.begin(now, 1000, |_| limit).into_iter().map(|turn| turn.number).collect()
}

fn failure() -> Failure {
    Failure { status: 503, cause: "nobody".into() }
}

#[test]
fn calls_begin_in_their_order_so_many_at_once() {
    let (f, g, mut lines) = (key("f"), key("g"), Lines::default());
    for number in 1..=4 {
        lines.push(&f, number, entry("x"));
    }
    lines.push(&g, 5, entry("x"));
    assert_eq!(begin(&mut lines, 0, 2), [1, 2, 5]);
    assert_eq!(begin(&mut lines, 0, 2), [0; 0]);
    assert!(lines.end(&f, 2, &End::Done).is_some());
    assert_eq!(begin(&mut lines, 0, 2), [3]);
    assert!(lines.end(&f, 2, &End::Done).is_none(), "it has ended");
    assert_eq!((lines.waiting(&f), lines.in_flight()), (3, 3));
    assert_eq!(lines.size(&f).bytes, 40);
}

#[test]
fn the_greater_priority_goes_first_and_a_delay_is_kept() {
    let (f, mut lines) = (key("f"), Lines::default());
    lines.push(&f, 1, entry("low"));
    lines.push(&f, 2, Entry { priority: 9, ..entry("high") });
    lines.push(&f, 3, Entry { priority: 9, due: 100, ..entry("later") });
    assert_eq!(lines.next_due(), Some(100));
    assert_eq!(begin(&mut lines, 99, 1), [2]);
    assert_eq!(begin(&mut lines, 100, 2), [3], "before the one of less");
    assert_eq!(begin(&mut lines, 100, 3), [1]);
    assert_eq!(lines.next_due(), None);
}

#[test]
fn calls_of_one_key_are_one_behind_the_other_also_over_another_turn() {
    let (f, mut lines) = (key("f"), Lines::default());
    let keyed = |key: &str| Entry { order_key: Some(key.into()), ..entry("x") };
    for (number, key) in [(1, "a"), (2, "a"), (3, "b"), (4, "a")] {
        lines.push(&f, number, keyed(key));
    }
    assert_eq!(begin(&mut lines, 0, 10), [1, 3]);
    lines.end(&f, 1, &End::Again { due: 50 });
    assert_eq!(begin(&mut lines, 49, 10), [0; 0], "nobody overtakes it");
    assert_eq!(begin(&mut lines, 50, 10), [1]);
    lines.end(&f, 1, &End::Done);
    assert_eq!(begin(&mut lines, 50, 10), [2]);
    lines.end(&f, 2, &End::Dead);
    assert_eq!(begin(&mut lines, 50, 10), [4]);
    lines.end(&f, 4, &End::Done);
    lines.push(&f, 5, keyed("a"));
    assert_eq!(begin(&mut lines, 50, 10), [5]);
}

#[test]
fn where_nobody_takes_calls_one_knocks_less_and_less_often() {
    let (f, mut lines) = (key("f"), Lines::default());
    for number in 1..=3 {
        lines.push(&f, number, entry("x"));
    }
    let not_taken = |now: i64| End::NotTaken { now, over: -1, failure: failure() };
    assert_eq!(begin(&mut lines, 0, 2), [1, 2]);
    lines.end(&f, 1, &not_taken(0));
    lines.end(&f, 2, &not_taken(0));
    assert_eq!(begin(&mut lines, 1999, 2), [0; 0]);
    assert_eq!(lines.next_due(), Some(2000));
    assert_eq!(begin(&mut lines, 2000, 2), [1]);
    assert_eq!(begin(&mut lines, 9000, 2), [0; 0], "one");
    lines.end(&f, 1, &not_taken(9000));
    assert_eq!(lines.next_due(), Some(13_000));
    lines.reopen(&f);
    let turns = lines.begin(9001, 10, |_| 2);
    assert_eq!((turns.len(), turns[0].attempts), (1, 1), "those were no attempts");
    lines.end(&f, 1, &End::Done);
    assert_eq!(begin(&mut lines, 9001, 2), [2, 3]);
}

#[test]
fn what_nobody_took_for_too_long_is_buried_with_the_reason() {
    let (f, mut lines) = (key("f"), Lines::default());
    for (number, accepted) in [(1, 10), (2, 20), (3, 30)] {
        lines.push(&f, number, Entry { accepted, ..entry("x") });
    }
    assert_eq!(begin(&mut lines, 0, 1), [1]);
    lines.end(&f, 1, &End::NotTaken { now: 40, over: 20, failure: failure() });
    let turns = lines.begin(41, 10, |_| 1);
    let tasks: Vec<_> = turns.iter().map(|turn| (turn.number, turn.task.clone())).collect();
    assert_eq!(tasks, [(1, Task::GivenUp(failure())), (2, Task::GivenUp(failure()))]);
    lines.end(&f, 1, &End::Dead);
    lines.end(&f, 2, &End::Again { due: 60 });
    assert_eq!(lines.next_due(), Some(60), "the disk did not take it");
    assert_eq!(lines.begin(60, 10, |_| 0)[0].task, Task::Expired);
    let load = lines.loads()[0].1;
    assert_eq!((load.dead_total, load.pending, load.in_flight), (1, 1, 1));
}

#[test]
fn what_expires_is_buried_unless_it_is_at_work_or_was_answered() {
    let (f, mut lines) = (key("f"), Lines::default());
    for number in 1..=3 {
        lines.push(&f, number, Entry { expires: Some(100), ..entry("x") });
    }
    assert_eq!(begin(&mut lines, 0, 2), [1, 2]);
    lines.end(&f, 2, &End::Answered { due: 500, file: None, dead: false });
    let turns = lines.begin(100, 10, |_| 0);
    assert_eq!((turns.len(), turns[0].number, &turns[0].task), (1, 3, &Task::Expired));
    assert_eq!(lines.next_due(), Some(500));
    assert_eq!(
        lines.begin(500, 10, |_| 0)[0].task,
        Task::CallBack,
        "callbacks take nothing from the function"
    );
}

#[test]
fn while_as_many_are_buried_as_may_be_nothing_is_due() {
    let (f, mut lines) = (key("f"), Lines::default());
    for number in 1..=20 {
        lines.push(&f, number, Entry { expires: Some(100), ..entry("x") });
    }
    let turns = lines.begin(200, 100, |_| 0);
    assert_eq!((turns.len(), lines.next_due()), (BURIED_AT_ONCE, None));
    lines.end(&f, turns[0].number, &End::Dead);
    assert_eq!(lines.next_due(), Some(100));
}

#[test]
fn a_dead_letter_whose_callback_is_tried_again_is_counted_once() {
    let (f, mut lines) = (key("f"), Lines::default());
    lines.push(&f, 1, entry("x"));
    assert_eq!(begin(&mut lines, 0, 1), [1]);
    lines.end(&f, 1, &End::Answered { due: 1, file: None, dead: true });
    assert_eq!(begin(&mut lines, 1, 1), [1]);
    lines.end(&f, 1, &End::Done);
    let load = lines.loads()[0].1;
    assert_eq!((load.dead_total, load.processed_total, load.pending), (1, 0, 0));
}

#[test]
fn ids_are_found_and_calls_cancelled() {
    let (f, g, mut lines) = (key("f"), key("g"), Lines::default());
    for (function, number, id) in [(&f, 1, "one"), (&f, 2, "two"), (&f, 3, "one"), (&g, 4, "one")] {
        lines.push(function, number, entry(id));
    }
    let turns = lines.begin(0, 1, |_| 1);
    assert_eq!(lines.functions_of("one"), [f.clone(), g.clone()]);
    assert!(lines.functions_of("three").is_empty());
    assert_eq!(lines.cancellable("one", std::slice::from_ref(&f)), [3]);
    let (found, gone) = lines.cancel("one", std::slice::from_ref(&f));
    assert_eq!((found, gone.len(), gone[0].0), (2, 1, 3));
    assert!(turns[0].cancelled.is_cancelled());
    assert_eq!(lines.is_over(&f, 1), Some(true));
    assert!(lines.end(&f, 1, &End::Again { due: 0 }).is_some(), "it does not come back");
    assert_eq!(lines.loads()[0].1.dropped_total, 2);
    assert_eq!(lines.functions_of("one"), [g]);
}

#[test]
fn a_function_that_is_forgotten_leaves_nothing() {
    let (f, mut lines) = (key("f"), Lines::default());
    lines.push(&f, 1, entry("x"));
    lines.push(&f, 2, entry("x"));
    let turns = lines.begin(0, 1, |_| 1);
    assert_eq!(lines.forget(&f).len(), 1);
    assert!(turns[0].cancelled.is_cancelled());
    assert_eq!((lines.size(&f).bytes, lines.size(&f).calls, lines.in_flight()), (0, 0, 0));
    lines.push(&f, 3, entry("x"));
    assert!(lines.end(&f, 1, &End::Done).is_none(), "an end of the one before");
    assert_eq!(begin(&mut lines, 0, 1), [3]);
}

#[test]
fn what_a_disk_did_not_take_is_put_back() {
    let (f, mut lines) = (key("f"), Lines::default());
    lines.push(&f, 1, Entry { expires: Some(50), ..entry("x") });
    assert_eq!(begin(&mut lines, 0, 1), [1]);
    lines.end(&f, 1, &End::PutBack);
    let turns = lines.begin(0, 1, |_| 1);
    assert_eq!(turns[0].attempts, 1);
    lines.end(&f, 1, &End::PutBack);
    assert_eq!(lines.begin(50, 1, |_| 1)[0].task, Task::Expired);
    lines.end(&f, 1, &End::PutBack);
    assert_eq!(lines.begin(50, 1, |_| 1)[0].task, Task::Expired);
}

#[derive(Debug, Clone)]
enum Step {
    Push { key: Option<u8>, priority: u8, delay: i64 },
    Begin,
    End(u8, u8),
    Cancel(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (proptest::option::of(0..3_u8), 0..10_u8, 0..20_i64)
            .prop_map(|(key, priority, delay)| Step::Push { key, priority, delay }),
        3 => Just(Step::Begin),
        3 => (any::<u8>(), 0..6_u8).prop_map(|(which, how)| Step::End(which, how)),
        1 => any::<u8>().prop_map(Step::Cancel),
    ]
}

proptest! {
    /// Whatever happens, each call comes to one end, none of a key overtakes another one, no more are at work than may be, and in
    /// the end nothing is left.
    #[test]
    fn no_call_is_lost_or_doubled(steps in proptest::collection::vec(step(), 1..120), limit in 1..4_usize) {
        let (f, mut lines, mut now, mut next) = (key("f"), Lines::default(), 0_i64, 0_u64);
        let mut keys: HashMap<u64, u8> = HashMap::new();
        let (mut at_work, mut over): (Vec<Turn>, BTreeSet<u64>) = (Vec::new(), BTreeSet::new());
        let mut all = |lines: &mut Lines, step: Option<&Step>, now: &mut i64, next: &mut u64,
                       at_work: &mut Vec<Turn>, over: &mut BTreeSet<u64>| {
            *now += 7;
            match step {
                Some(Step::Push { key, priority, delay }) => {
                    *next += 1;
                    if let Some(key) = key {
                        keys.insert(*next, *key);
                    }
                    let order_key = key.map(|key| key.to_string().as_str().into());
                    let due = if *delay > 0 { *now + delay } else { 0 };
                    let id = next.to_string();
                    lines.push(&f, *next, Entry { order_key, priority: *priority, due, accepted: *now, ..entry(&id) });
                }
                Some(Step::Begin) => at_work.extend(lines.begin(*now, 100, |_| limit)),
                Some(Step::Cancel(which)) if *next > 0 => {
                    let number = u64::from(*which) % *next + 1;
                    let (_, gone) = lines.cancel(&number.to_string(), std::slice::from_ref(&f));
                    for (number, _) in gone {
                        assert!(over.insert(number));
                    }
                }
                Some(Step::End(which, how)) if !at_work.is_empty() => {
                    let turn = at_work.swap_remove(usize::from(*which) % at_work.len());
                    let end = match how {
                        0 => End::Again { due: *now + 20 },
                        1 => End::Answered { due: *now + 20, file: None, dead: false },
                        2 => End::NotTaken { now: *now, over: *now - 300, failure: failure() },
                        3 => End::PutBack,
                        4 => End::Dead,
                        _ => End::Done,
                    };
                    if lines.end(&f, turn.number, &end).is_some() {
                        assert!(over.insert(turn.number));
                    }
                }
                _ => {}
            }
            let making = at_work.iter().filter(|turn| turn.task == Task::Make);
            assert!(making.clone().count() <= limit);
            let mut of_key = BTreeSet::new();
            for turn in at_work.iter().filter(|turn| turn.task == Task::Make && !turn.cancelled.is_cancelled()) {
                let Some(key) = keys.get(&turn.number) else { continue };
                assert!(of_key.insert(*key), "two of a key at once");
                let before = (1..turn.number).filter(|other| keys.get(other) == Some(key));
                for other in before {
                    assert!(over.contains(&other), "{} has overtaken {other}", turn.number);
                }
            }
        };
        for step in &steps {
            all(&mut lines, Some(step), &mut now, &mut next, &mut at_work, &mut over);
        }
        let mut rounds = 0;
        while over.len() < next as usize {
            rounds += 1;
            prop_assert!(rounds < 2000, "{} of {next} are over", over.len());
            now += 10_000;
            all(&mut lines, Some(&Step::Begin), &mut now, &mut next, &mut at_work, &mut over);
            while !at_work.is_empty() {
                all(&mut lines, Some(&Step::End(0, 5)), &mut now, &mut next, &mut at_work, &mut over);
            }
        }
        prop_assert_eq!(lines.size(&f).calls, 0);
        prop_assert_eq!(lines.size(&f).bytes, 0);
        prop_assert_eq!(lines.next_due(), None);
    }
}

#[cfg(feature = "nats")]
#[test]
fn a_call_that_is_given_back_is_nowhere_and_counts_for_nothing_and_the_next_of_its_key_has_its_turn() {
    let (mut lines, f) = (Lines::default(), key("f"));
    for number in 1..=3 {
        let order_key = (number < 3).then(|| "k".into());
        lines.push(&f, number, Entry { order_key, ..entry("x") });
    }
    let begun: Vec<u64> = lines.begin(0, 10, |_| 1).iter().map(|turn| turn.number).collect();
    assert_eq!((begun, lines.idle(&f), lines.attempts(&f, 1)), (vec![1], vec![2, 3], Some(1)));
    assert!(lines.has_begun(1) && !lines.has_begun(2));
    assert!(lines.give_back(&f, 1).is_some());
    assert_eq!((lines.in_flight(), lines.waiting(&f), lines.give_back(&f, 1)), (0, 2, None));
    let begun: Vec<u64> = lines.begin(0, 10, |_| 2).iter().map(|turn| turn.number).collect();
    assert_eq!(begun, [2, 3]);
    let load = lines.loads()[0].1;
    assert_eq!((load.processed_total, load.dropped_total, load.dead_total), (0, 0, 0));

    lines.end(&f, 2, &End::NotTaken { now: 0, over: -1, failure: failure() });
    assert!(lines.is_closed(&f));
}
