//! Which runs of a schedule are to be made now.
//!
//! Owns what becomes of those that were missed. Pure: the time is an argument.

use jiff::{SignedDuration, Timestamp};

use super::schedule::{Missed, Schedule};

/// How many missed runs are made up for at most.
pub(crate) const MAX_CATCH_UP: usize = 100;

/// How late a run may be and is not missed yet: the clock is looked at once in half of it.
const PUNCTUAL: SignedDuration = SignedDuration::from_secs(60);

/// How far the clock may be set back until schedules begin anew from what it shows. Less is waited out.
const SET_BACK: SignedDuration = SignedDuration::from_hours(1);

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The times for which there is a run, in their order.
    pub runs: Vec<Timestamp>,
    /// How many times there were for which there is none.
    pub missed: u64,
    /// Up to when all is dealt with, once these runs are made; as before where there is nothing.
    pub settled: Timestamp,
}

/// What is to be done at `now` of a schedule that is settled up to `last`, in a daemon that is up since `since`.
#[must_use]
pub fn plan(schedule: &Schedule, missed: Missed, last: Timestamp, since: Timestamp, now: Timestamp) -> Plan {
    let most = if missed == Missed::All { MAX_CATCH_UP } else { 1 };
    let due = schedule.due(last, now, most);
    let Some(&newest) = due.last.last() else { return Plan { settled: last, ..Plan::default() } };
    let in_time = newest >= since && now.duration_since(newest) <= PUNCTUAL;
    let runs = if missed == Missed::Skip && !in_time { Vec::new() } else { due.last };
    Plan { missed: due.count - runs.len() as u64, runs, settled: newest }
}

/// Up to when a schedule counts as settled that is noted as settled up to `last`, where the clock shows `now`.
#[must_use]
pub fn rebased(last: Timestamp, now: Timestamp) -> Timestamp {
    if last.duration_since(now) > SET_BACK { now } else { last }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("2026-05-01T{text}Z").parse().unwrap()
    }

    #[test]
    fn what_was_missed_is_made_up_for_as_it_was_asked() {
        let minutes: Schedule = "TZ=UTC * * * * *".parse().unwrap();
        // Settled, up since, now, and what is done under each policy: the runs' minutes and how many are missed.
        type Done = (&'static [&'static str], u64);
        let cases: &[(&str, &str, &str, [Done; 3])] = &[
            ("10:00:00", "09:00:00", "10:00:59", [(&[], 0), (&[], 0), (&[], 0)]),
            (
                "10:00:00",
                "09:00:00",
                "10:01:00",
                [(&["10:01:00"], 0), (&["10:01:00"], 0), (&["10:01:00"], 0)],
            ),
            // Down from 10:00:30 to 10:03:30.
            (
                "10:00:00",
                "10:03:30",
                "10:03:30",
                [(&[], 3), (&["10:03:00"], 2), (&["10:01:00", "10:02:00", "10:03:00"], 0)],
            ),
            // Up all the time, but it stood still.
            (
                "10:00:00",
                "09:00:00",
                "10:02:10",
                [(&["10:02:00"], 1), (&["10:02:00"], 1), (&["10:01:00", "10:02:00"], 0)],
            ),
            // Due in the very moment of the start.
            (
                "10:00:00",
                "10:01:00",
                "10:01:00",
                [(&["10:01:00"], 0), (&["10:01:00"], 0), (&["10:01:00"], 0)],
            ),
        ];
        for (last, since, now, expected) in cases {
            for (missed, (runs, left_out)) in
                [Missed::Skip, Missed::Once, Missed::All].into_iter().zip(expected)
            {
                let plan = plan(&minutes, missed, at(last), at(since), at(now));
                let runs: Vec<Timestamp> = runs.iter().map(|run| at(run)).collect();
                assert_eq!((&plan.runs, plan.missed), (&runs, *left_out), "{missed:?} {last} {since} {now}");
                let settled = if runs.is_empty() && *left_out == 0 {
                    at(last)
                } else {
                    at(&format!("{}:00", &now[..5]))
                };
                assert_eq!(plan.settled, settled, "{missed:?} {last} {since} {now}");
            }
        }
    }

    #[test]
    fn a_daily_run_that_is_long_overdue_is_no_longer_in_time_for_skip() {
        let daily: Schedule = "TZ=UTC 0 10 * * *".parse().unwrap();
        let late = plan(&daily, Missed::Skip, at("09:00:00"), at("09:00:00"), at("10:01:01"));
        assert_eq!((late.runs, late.missed), (Vec::new(), 1));
    }

    #[test]
    fn a_flood_is_bounded() {
        let often: Schedule = "@every 1s".parse().unwrap();
        let plan = plan(&often, Missed::All, at("10:00:00"), at("12:00:00"), at("12:00:00"));
        assert_eq!((plan.runs.len(), plan.missed), (MAX_CATCH_UP, 7100));
        assert_eq!(plan.runs.last(), Some(&at("12:00:00")));
    }

    #[test]
    fn a_clock_that_is_set_back_a_little_is_waited_for_and_far_back_begins_anew() {
        assert_eq!(rebased(at("10:00:00"), at("09:30:00")), at("10:00:00"));
        assert_eq!(rebased(at("10:00:00"), at("10:30:00")), at("10:00:00"));
        assert_eq!(rebased(at("10:00:00"), at("08:59:59")), at("08:59:59"));
    }
}
