use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn deployment(annotations: &[(&str, &str)]) -> Deployment {
    let mut all = BTreeMap::from([("topic".to_owned(), "cron-function".to_owned())]);
    all.extend(annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    Deployment { annotations: all, ..Deployment::default() }
}

fn read(annotations: &[(&str, &str)]) -> Result<Timetable, String> {
    let read = parse(&deployment(annotations)).map_err(|mistakes| mistakes.join("\n"));
    read.map(|timetable| timetable.expect("it asks for the clock"))
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn schedule(text: &str) -> Schedule {
    text.parse().unwrap()
}

#[test]
fn only_the_clocks_topic_makes_a_schedule_count() {
    let mut without = deployment(&[("schedule", "nonsense")]);
    without.annotations.insert("topic".into(), "a, b".into());
    assert_eq!(parse(&without), Ok(None));
    without.annotations.insert("topic".into(), "a, cron-function".into());
    assert!(parse(&without).is_err());
}

#[test]
fn several_schedules_are_read_each_once_with_their_zones() {
    let texts = |timetable: Timetable| -> Vec<String> {
        timetable.schedules.into_iter().map(|schedule| schedule.text).collect()
    };
    let plain =
        read(&[("schedule", "*/5 * * * *; @hourly ;@every 1m30s;TZ=UTC 0 8 * * ?;@hourly;")]).unwrap();
    assert_eq!((plain.missed, plain.overlap), (Missed::Once, Overlap::Allow));
    assert_eq!(texts(plain), ["*/5 * * * *", "@hourly", "@every 1m30s", "TZ=UTC 0 8 * * ?"]);
    let zoned = read(&[
        ("schedule", "0 8 * * *;CRON_TZ=UTC 0 9 * * *"),
        (TIMEZONE, "Europe/Berlin"),
        (MISSED, "all"),
        (OVERLAP, "skip"),
    ]);
    let zoned = zoned.unwrap();
    assert_eq!((zoned.missed, zoned.overlap), (Missed::All, Overlap::Skip));
    assert_eq!(texts(zoned), ["CRON_TZ=Europe/Berlin 0 8 * * *", "CRON_TZ=UTC 0 9 * * *"]);
}

#[test]
fn each_mistake_is_named_by_its_annotation() {
    let distinct = (0..33).map(|minute| format!("{minute} * * * *")).collect::<Vec<_>>().join(";");
    for (annotations, expected) in [
        (&[][..], "annotations.schedule: is required with topic: cron-function"),
        (&[("schedule", " ")][..], "annotations.schedule: is required"),
        (
            &[("schedule", "61 * * * *")],
            "annotations.schedule: \"61 * * * *\": \"61\": expected a number from 0 to 59",
        ),
        (&[("schedule", "@hourly;;@daily")], "annotations.schedule: \"\": expected five fields"),
        (&[("schedule", "@every")], "annotations.schedule: \"@every\": expected five fields"),
        (&[("schedule", "@every soon")], "\"@every soon\": expected a duration"),
        (&[("schedule", "@every 500ms")], "expected @every with a duration from 1 s"),
        (&[("schedule", "@every 999999h")], "expected @every with a duration from 1 s"),
        (&[("schedule", "CRON_TZ=Mars/Base 0 8 * * *")], "expected the name of a time zone"),
        (&[("schedule", "TZ=UTC")], "expected five fields"),
        (&[("schedule", distinct.as_str())], "annotations.schedule: expected at most 32"),
        (
            &[("schedule", "@daily"), (TIMEZONE, "Berlin")],
            "annotations.roost.schedule.timezone: \"Berlin\": expected",
        ),
        (
            &[("schedule", "@daily"), (MISSED, "yes")],
            "annotations.roost.schedule.missed: \"yes\": expected skip, once or all",
        ),
        (
            &[("schedule", "@daily"), (OVERLAP, "")],
            "annotations.roost.schedule.overlap: \"\": expected allow or skip",
        ),
    ] {
        let mistakes = read(annotations).unwrap_err();
        assert!(mistakes.contains(expected), "{expected} in {mistakes}");
    }
    let both = read(&[("schedule", "x"), (MISSED, "y")]).unwrap_err();
    assert_eq!(both.lines().count(), 2, "{both}");
}

#[test]
fn schedules_are_due_in_their_zone_and_summer_time_moves_them() {
    let berlin = schedule("CRON_TZ=Europe/Berlin 30 8 * * *");
    // Clocks go forward on 29 March 2026.
    assert_eq!(berlin.next(at("2026-03-28T00:00:00Z")), Some(at("2026-03-28T07:30:00Z")));
    assert_eq!(berlin.next(at("2026-03-28T07:30:00Z")), Some(at("2026-03-29T06:30:00Z")));
    let due = berlin.due(at("2026-03-27T07:30:00Z"), at("2026-03-29T06:30:00Z"), 10);
    assert_eq!(due.last, [at("2026-03-28T07:30:00Z"), at("2026-03-29T06:30:00Z")]);
    assert_eq!(due.count, 2);
}

#[test]
fn the_last_times_are_named_and_all_are_counted() {
    for text in ["TZ=UTC * * * * *", "@every 1m"] {
        let minutes = schedule(text);
        let (last, now) = (at("2026-05-01T10:00:00Z"), at("2026-05-01T10:09:59Z"));
        let due = minutes.due(last, now, 2);
        assert_eq!(due.last, [at("2026-05-01T10:08:00Z"), at("2026-05-01T10:09:00Z")], "{text}");
        assert_eq!(due.count, 9, "{text}");
        assert_eq!(minutes.due(now, last, 2), Due::default(), "{text}: the clock was set back");
        assert_eq!(minutes.due(last, last, 2), Due::default(), "{text}: once each");
        assert_eq!(minutes.due(last, at("2027-05-01T10:00:00Z"), 2).last.len(), 2, "{text}");
    }
    assert_eq!(
        schedule("TZ=UTC * * * * *").due(at("2026-05-01T10:00:00Z"), at("2027-05-01T10:00:00Z"), 1).count,
        1000
    );
}

proptest! {
    #[test]
    fn what_is_next_is_what_is_due_then_and_nothing_before(
        minute in 0..60_u32, hour in 0..24_u32, start in 1_700_000_000_i64..1_900_000_000,
    ) {
        for schedule in [schedule(&format!("CRON_TZ=America/New_York {minute} {hour} * * *")), schedule("@every 7h")] {
            let last = Timestamp::from_second(start).unwrap();
            let next = schedule.next(last).unwrap();
            prop_assert_eq!(schedule.due(last, next, 5).last, vec![next]);
            let before = next.checked_sub(SignedDuration::from_secs(1)).unwrap();
            prop_assert_eq!(schedule.due(last, before, 5).count, 0);
        }
    }
}
