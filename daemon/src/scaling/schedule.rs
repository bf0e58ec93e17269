//! At what times a function has more replicas at least.
//!
//! Owns the spelling of a schedule: `CRON=N; CRON=N`. Pure: the time is an argument, and its zone is the schedule's.

use jiff::{Timestamp, ToSpan, Zoned};

use crate::cron::Cron;

/// How many times a schedule may name.
const MAX_ENTRIES: usize = 32;

/// Times with the fewest replicas from then on; the last that passed holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schedule {
    entries: Box<[Entry]>,
}

/// From each of these times on, at least so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    times: Cron,
    replicas: u32,
}

impl Schedule {
    /// Reads a schedule in which each number is `max` at most.
    ///
    /// # Errors
    /// With what was expected in its place.
    pub fn parse(text: &str, max: u32) -> Result<Self, String> {
        let entries = text.trim().trim_end_matches(';').split(';').map(|entry| {
            let (times, replicas) = entry
                .rsplit_once('=')
                .ok_or_else(|| format!("{:?}: expected CRON=N; CRON=N", shortened(entry)))?;
            let times = times.parse().map_err(|why| format!("{:?}: {why}", shortened(times)))?;
            match replicas.trim().parse() {
                Ok(replicas) if replicas <= max => Ok(Entry { times, replicas }),
                _ => Err(format!(
                    "{:?}: expected behind = a number of replicas from 0 to {max}",
                    shortened(entry)
                )),
            }
        });
        let entries: Box<[Entry]> = entries.take(MAX_ENTRIES + 1).collect::<Result<_, String>>()?;
        if entries.len() > MAX_ENTRIES {
            return Err(format!("expected at most {MAX_ENTRIES} times"));
        }
        Ok(Self { entries })
    }

    /// Since when so many replicas at least are to be there, by the last time that passed in the year before `clock`. Of
    /// two that are due at once the later in the text holds.
    #[must_use]
    pub fn in_force(&self, clock: &Zoned) -> Option<(Timestamp, u32)> {
        if self.entries.is_empty() {
            return None;
        }
        let year_ago = clock.checked_sub(1.year()).ok()?;
        let passed = self.entries.iter().filter_map(|entry| Some((entry.times.last(clock)?, entry.replicas)));
        let last = passed.filter(|(at, _)| *at > year_ago).max_by_key(|(at, _)| at.timestamp());
        last.map(|(at, replicas)| (at.timestamp(), replicas))
    }

    /// How many replicas at least are to be there at `clock`; `None` where it says nothing.
    #[must_use]
    pub fn minimum(&self, clock: &Zoned) -> Option<u32> {
        self.in_force(clock).map(|(_, replicas)| replicas)
    }

    /// When it says something new for the first time after `clock`.
    #[must_use]
    pub fn next(&self, clock: &Zoned) -> Option<Zoned> {
        self.entries.iter().filter_map(|entry| entry.times.next(clock)).min()
    }
}

/// The beginning of a text, for an error.
fn shortened(text: &str) -> String {
    text.trim().chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use jiff::civil::DateTime;
    use jiff::tz::TimeZone;

    use super::*;

    fn at(text: &str) -> Zoned {
        text.parse::<DateTime>().unwrap().to_zoned(TimeZone::UTC).unwrap()
    }

    #[test]
    fn the_last_time_that_passed_holds_until_the_next() {
        let schedule = Schedule::parse("0 8 * * mon-fri = 3; 0 20 * * *=0;", 3).unwrap();
        // 15 May 2026 is a Friday.
        for (clock, minimum, next) in [
            ("2026-05-15T07:59:59", 0, "2026-05-15T08:00"),
            ("2026-05-15T08:00:00", 3, "2026-05-15T20:00"),
            ("2026-05-15T19:59:59", 3, "2026-05-15T20:00"),
            ("2026-05-15T20:00:00", 0, "2026-05-16T20:00"),
            ("2026-05-16T12:00:00", 0, "2026-05-16T20:00"),
        ] {
            assert_eq!(schedule.minimum(&at(clock)), Some(minimum), "{clock}");
            assert_eq!(schedule.next(&at(clock)), Some(at(next)), "{clock}");
        }
        let (since, minimum) = schedule.in_force(&at("2026-05-17T12:00")).unwrap();
        assert_eq!((since, minimum), (at("2026-05-16T20:00").timestamp(), 0));
        let at_once = Schedule::parse("0 8 * * *=1; 0 8 * * *=2", 3).unwrap();
        assert_eq!(at_once.minimum(&at("2026-05-15T08:00")), Some(2));
        assert_eq!(Schedule::default().minimum(&at("2026-05-15T08:00")), None);
        assert_eq!(Schedule::default().next(&at("2026-05-15T08:00")), None);
    }

    #[test]
    fn what_is_a_year_ago_and_more_does_not_hold() {
        let schedule = Schedule::parse("0 0 29 2 *=2", 2).unwrap();
        assert_eq!(schedule.minimum(&at("2025-02-27T00:00")), Some(2));
        assert_eq!(schedule.minimum(&at("2025-03-01T00:00")), None);
        assert_eq!(schedule.next(&at("2025-03-01T00:00")), Some(at("2028-02-29T00:00")));
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        let many = ["* * * * *=1"; 33].join(";");
        for (text, expected) in [
            ("", "\"\": expected CRON=N"),
            ("0 8 * * *", "\"0 8 * * *\": expected CRON=N"),
            ("0 8 * * *=1;;0 9 * * *=2", "\"\": expected CRON=N"),
            ("0 8 * *=1", "\"0 8 * *\": expected five fields"),
            ("0 25 * * *=1", "\"25\": expected a number from 0 to 23"),
            ("0 8 * * *=4", "expected behind = a number of replicas from 0 to 3"),
            ("0 8 * * *=", "expected behind = a number of replicas from 0 to 3"),
            ("0 8 * * *=-1", "expected behind = a number of replicas from 0 to 3"),
            (&many, "expected at most 32 times"),
        ] {
            let why = Schedule::parse(text, 3).unwrap_err();
            assert!(why.contains(expected), "{text}: {why}");
        }
        assert!(Schedule::parse(many.trim_end_matches("=1").rsplit_once(';').unwrap().0, 3).is_ok());
    }
}
