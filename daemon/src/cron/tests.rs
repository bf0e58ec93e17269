use jiff::tz::TimeZone;

use super::*;

/// Clocks go from 2:00 to 3:00 on 8 March 2026, and from 2:00 back to 1:00 on 1 November.
fn new_york() -> TimeZone {
    TimeZone::posix("EST5EDT,M3.2.0,M11.1.0").unwrap()
}

fn at(text: &str) -> Zoned {
    text.parse::<DateTime>().unwrap().to_zoned(new_york()).unwrap()
}

fn shown(due: Option<Zoned>) -> String {
    due.map_or_else(|| "never".to_owned(), |due| due.strftime("%F %R %Z").to_string())
}

#[test]
fn the_next_and_the_last_time_are_those_that_the_fields_name() {
    for (expression, next, last) in [
        ("* * * * *", "2026-05-13 12:31 EDT", "2026-05-13 12:30 EDT"),
        ("*/20 * * * *", "2026-05-13 12:40 EDT", "2026-05-13 12:20 EDT"),
        ("7/20 * * * *", "2026-05-13 12:47 EDT", "2026-05-13 12:27 EDT"),
        ("0 8 * * *", "2026-05-14 08:00 EDT", "2026-05-13 08:00 EDT"),
        ("30 12 * * *", "2026-05-14 12:30 EDT", "2026-05-13 12:30 EDT"),
        ("0,45 9-17/4 * * *", "2026-05-13 13:00 EDT", "2026-05-13 09:45 EDT"),
        ("0 0 1 * *", "2026-06-01 00:00 EDT", "2026-05-01 00:00 EDT"),
        ("0 0 31 * *", "2026-05-31 00:00 EDT", "2026-03-31 00:00 EDT"),
        ("0 0 29 2 *", "2028-02-29 00:00 EST", "2024-02-29 00:00 EST"),
        // A Sunday as well, as the star in front asks for.
        ("0 0 29 2 */7", "2032-02-29 00:00 EST", "2004-02-29 00:00 EST"),
        // 13 May 2026 is a Wednesday.
        ("0 8 * * mon-fri", "2026-05-14 08:00 EDT", "2026-05-13 08:00 EDT"),
        ("0 8 * * Sat,SUN", "2026-05-16 08:00 EDT", "2026-05-10 08:00 EDT"),
        ("0 8 * * sat-sun", "2026-05-16 08:00 EDT", "2026-05-10 08:00 EDT"),
        ("0 8 * * 7", "2026-05-17 08:00 EDT", "2026-05-10 08:00 EDT"),
        ("0 8 * jan,Jul *", "2026-07-01 08:00 EDT", "2026-01-31 08:00 EST"),
        // One of two restricted fields of days is enough, unless one begins with a star.
        ("0 0 20 * fri", "2026-05-15 00:00 EDT", "2026-05-08 00:00 EDT"),
        ("0 0 */2 * fri", "2026-05-15 00:00 EDT", "2026-05-01 00:00 EDT"),
        ("0 0 31 2 mon", "2027-02-01 00:00 EST", "2026-02-23 00:00 EST"),
        ("@hourly", "2026-05-13 13:00 EDT", "2026-05-13 12:00 EDT"),
        ("@daily", "2026-05-14 00:00 EDT", "2026-05-13 00:00 EDT"),
        ("@weekly", "2026-05-17 00:00 EDT", "2026-05-10 00:00 EDT"),
        ("@monthly", "2026-06-01 00:00 EDT", "2026-05-01 00:00 EDT"),
        (" @yearly ", "2027-01-01 00:00 EST", "2026-01-01 00:00 EST"),
    ] {
        let cron: Cron = expression.parse().unwrap();
        let now = at("2026-05-13T12:30:59");
        assert_eq!(
            (shown(cron.next(&now)), shown(cron.last(&now))),
            (next.into(), last.into()),
            "{expression}"
        );
    }
}

#[test]
fn what_is_no_expression_is_refused_with_its_field() {
    for (text, expected) in [
        ("", "expected five fields"),
        ("* * * *", "expected five fields"),
        ("0 * * * * *", "expected five fields"),
        ("@reboot", "expected five fields"),
        ("60 * * * *", "\"60\": expected a number from 0 to 59 for the minute"),
        ("* 24 * * *", "\"24\": expected a number from 0 to 23"),
        ("* * 0 * *", "\"0\": expected a number from 1 to 31 for the day of the month"),
        ("* * * 13 *", "\"13\": expected a number from 1 to 12"),
        ("* * * * 8", "\"8\": expected a number from 0 to 7"),
        ("* * * mon *", "\"mon\": expected a number from 1 to 12"),
        ("*/0 * * * *", "\"*/0\": expected a number from 0 to 59"),
        ("5-1 * * * *", "\"5-1\": expected a number from 0 to 59"),
        ("+1 * * * *", "\"+1\": expected a number from 0 to 59"),
        ("1,,2 * * * *", "\"1,,2\": expected a number from 0 to 59"),
        ("-5 * * * *", "\"-5\": expected a number from 0 to 59"),
        ("1-2-3 * * * *", "\"1-2-3\": expected a number from 0 to 59"),
        ("*/ * * * *", "\"*/\": expected a number from 0 to 59"),
        ("* * L * *", "\"L\": expected a number from 1 to 31"),
        ("99999999999 * * * *", "expected a number from 0 to 59"),
        ("0 0 31 2 *", "there is no such day"),
        ("0 0 31 4,6,9,11 *", "there is no such day"),
    ] {
        let why = text.parse::<Cron>().unwrap_err().to_string();
        assert!(why.contains(expected), "{text:?}: {why}");
    }
}

#[test]
fn an_hour_that_is_left_out_is_made_up_for_and_one_that_comes_twice_counts_once() {
    for (expression, from, next, last) in [
        ("30 2 * * *", "2026-03-08T01:59", "2026-03-08 03:00 EDT", "2026-03-07 02:30 EST"),
        ("30 2 * * *", "2026-03-08T03:00", "2026-03-09 02:30 EDT", "2026-03-08 03:00 EDT"),
        ("30 1 * * *", "2026-11-01T01:29", "2026-11-01 01:30 EDT", "2026-10-31 01:30 EDT"),
        ("30 1 * * *", "2026-11-01T01:45", "2026-11-02 01:30 EST", "2026-11-01 01:30 EDT"),
        ("30 1 * * *", "2026-11-01T02:00", "2026-11-02 01:30 EST", "2026-11-01 01:30 EDT"),
        // Every hour goes by the time that passes.
        ("*/30 * * * *", "2026-03-08T01:45", "2026-03-08 03:00 EDT", "2026-03-08 01:30 EST"),
        ("*/30 * * * *", "2026-11-01T01:45", "2026-11-01 01:00 EST", "2026-11-01 01:30 EDT"),
        ("*/30 * * * *", "2026-11-01T02:00", "2026-11-01 02:30 EST", "2026-11-01 02:00 EST"),
    ] {
        let (cron, from): (Cron, _) = (expression.parse().unwrap(), at(from));
        assert_eq!((shown(cron.next(&from)), shown(cron.last(&from))), (next.into(), last.into()), "{from}");
    }
    // The second time round, what was due the first time was.
    let cron: Cron = "30 1 * * *".parse().unwrap();
    let second = at("2026-11-01T01:10").checked_add(1.hour()).unwrap();
    assert_eq!(shown(cron.last(&second)), "2026-11-01 01:30 EDT");
    assert_eq!(shown(cron.next(&second)), "2026-11-02 01:30 EST");
}

#[test]
fn the_end_of_the_calendar_is_no_mistake() {
    let [first, last] = [Timestamp::MIN, Timestamp::MAX].map(|time| time.to_zoned(TimeZone::UTC));
    let cron: Cron = "0 0 1 6 *".parse().unwrap();
    assert_eq!((cron.next(&last), cron.last(&first)), (None, None));
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    fn field(min: u32, max: u32) -> impl Strategy<Value = String> {
        let range = (min..=max).prop_flat_map(move |from| (Just(from), from..=max));
        prop_oneof![
            Just("*".to_owned()),
            (1..=max).prop_map(|step| format!("*/{step}")),
            (min..=max).prop_map(|value| value.to_string()),
            range.prop_map(|(from, to)| format!("{from}-{to}")),
            proptest::collection::vec(min..=max, 1..4).prop_map(|values| values
                .iter()
                .map(u32::to_string)
                .collect::<Vec<_>>()
                .join(",")),
        ]
    }

    fn expression() -> impl Strategy<Value = Cron> {
        let fields = (field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 7));
        fields.prop_filter_map("there is no such day", |(minute, hour, day, month, weekday)| {
            format!("{minute} {hour} {day} {month} {weekday}").parse().ok()
        })
    }

    proptest! {
        /// Of the years around both changes of the clocks.
        #[test]
        fn what_comes_next_is_the_last_when_it_has_come(cron in expression(), second in 1_760_000_000..1_800_000_000_i64) {
            let now = Timestamp::from_second(second).unwrap().to_zoned(new_york());
            let (next, last) = (cron.next(&now).unwrap(), cron.last(&now).unwrap());
            let before = next.checked_sub(1.second()).unwrap();
            prop_assert!(last <= now && now < next);
            prop_assert_eq!(cron.next(&last), Some(next.clone()));
            prop_assert_eq!(cron.next(&before), Some(next.clone()));
            prop_assert_eq!(cron.last(&before), Some(last));
            prop_assert_eq!(cron.last(&next), Some(next));
        }

        #[test]
        fn no_text_is_too_much(text in ".{0,40}") {
            text.parse::<Cron>().ok();
        }
    }
}
