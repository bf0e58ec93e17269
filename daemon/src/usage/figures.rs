//! What a function has used, in figures that can be added, and told apart by days.
//!
//! Owns the arithmetic. Knows neither clocks nor files.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use roost_proxy::Metered;
use serde::{Deserialize, Serialize};

const SECONDS_OF_DAY: i64 = 24 * 3600;

/// What was used. In the store a figure that is not there is zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// The time in which replicas had a connection each, however many: added up over replicas.
    pub active: Duration,
    /// The lengths of all connections.
    pub connection: Duration,
    /// The time in which this host held a connection, or several.
    pub held: Duration,
    /// The time in which replicas were at events of such connections.
    pub invocation_active: Duration,
    /// How often they were given one.
    pub invocations: u64,
    /// Messages from clients, and to them.
    pub messages: [u64; 2],
    /// The same in units of 32 KiB.
    pub units: [u64; 2],
    /// The bytes of those.
    pub bytes: [u64; 2],
}

impl From<Metered> for Figures {
    fn from(metered: Metered) -> Self {
        let Metered { active, connection, held, invocation_active, invocations, messages, units, bytes } =
            metered;
        Self { active, connection, held, invocation_active, invocations, messages, units, bytes }
    }
}

impl Figures {
    /// Nothing was used.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        self.each(other, Duration::saturating_add, u64::saturating_add)
    }

    /// What has come since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        self.each(earlier, Duration::saturating_sub, u64::saturating_sub)
    }

    fn each(
        self,
        other: Self,
        length: fn(Duration, Duration) -> Duration,
        count: fn(u64, u64) -> u64,
    ) -> Self {
        let pair = |one: [u64; 2], other: [u64; 2]| [count(one[0], other[0]), count(one[1], other[1])];
        Self {
            active: length(self.active, other.active),
            connection: length(self.connection, other.connection),
            held: length(self.held, other.held),
            invocation_active: length(self.invocation_active, other.invocation_active),
            invocations: count(self.invocations, other.invocations),
            messages: pair(self.messages, other.messages),
            units: pair(self.units, other.units),
            bytes: pair(self.bytes, other.bytes),
        }
    }

    /// The lengths of `part` of the time `whole` that these are of, and no counts.
    fn lengths(self, part: Duration, whole: Duration) -> Self {
        let share = |length: Duration| {
            let nanos = length.as_nanos().saturating_mul(part.as_nanos()) / whole.as_nanos().max(1);
            let seconds = u64::try_from(nanos / 1_000_000_000).unwrap_or(u64::MAX);
            Duration::new(seconds, (nanos % 1_000_000_000) as u32)
        };
        Self {
            active: share(self.active),
            connection: share(self.connection),
            held: share(self.held),
            invocation_active: share(self.invocation_active),
            ..Self::default()
        }
    }

    /// By days: what was used in the time `over` that ended at `until`. Where that is of more than one day, each has its
    /// share of the lengths, and the last one all counts. Nothing is lost: all days together are the whole.
    #[must_use]
    pub fn by_day(self, over: Duration, until: Timestamp) -> Vec<(Date, Self)> {
        let mut at = until.checked_sub(over).unwrap_or(until);
        let (mut days, mut rest) = (Vec::new(), self);
        loop {
            match midnight_behind(at).filter(|midnight| *midnight < until) {
                Some(midnight) => {
                    let part = midnight.duration_since(at).unsigned_abs();
                    let of_day = self.lengths(part, over);
                    days.push((day_of(at), of_day));
                    rest = rest.since(of_day);
                    at = midnight;
                }
                None => {
                    days.push((day_of(at), rest));
                    return days;
                }
            }
        }
    }
}

/// The day in UTC.
#[must_use]
pub fn day_of(at: Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date()
}

/// The next midnight in UTC; none at the end of time.
#[must_use]
pub fn midnight_behind(at: Timestamp) -> Option<Timestamp> {
    let day = at.as_second().div_euclid(SECONDS_OF_DAY);
    Timestamp::from_second((day + 1) * SECONDS_OF_DAY).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn used(seconds: u64, messages: u64) -> Figures {
        let length = Duration::from_secs(seconds);
        Figures { active: length, connection: length * 2, messages: [messages, 0], ..Figures::default() }
    }

    #[test]
    fn days_change_at_midnight_utc() {
        let split = |seconds, until| used(seconds, 5).by_day(Duration::from_secs(seconds), at(until));
        let day = |text: &str| text.parse::<Date>().unwrap();
        assert_eq!(split(10, "2026-03-01T00:00:10Z"), [(day("2026-03-01"), used(10, 5))]);
        assert_eq!(split(10, "2026-03-01T00:00:00Z"), [(day("2026-02-28"), used(10, 5))]);
        assert_eq!(
            split(10, "2026-03-01T00:00:04Z"),
            [(day("2026-02-28"), used(6, 0)), (day("2026-03-01"), used(4, 5))]
        );
        assert_eq!(
            split(86_410, "2026-03-02T00:00:05Z"),
            [
                (day("2026-02-28"), used(5, 0)),
                (day("2026-03-01"), used(86_400, 0)),
                (day("2026-03-02"), used(5, 5))
            ]
        );
        assert_eq!(split(0, "2026-03-02T00:00:00Z"), [(day("2026-03-02"), used(0, 5))]);
    }

    proptest! {
        #[test]
        fn all_days_together_are_the_whole(
            nanos in 0_u64..400_000_000_000_000,
            until in 0_i64..4_000_000_000,
            connections in 1_u32..1_000_000,
            messages in any::<u32>(),
        ) {
            let over = Duration::from_nanos(nanos);
            let whole = Figures {
                active: over,
                connection: over.saturating_mul(connections),
                messages: [u64::from(messages), 7],
                ..Figures::default()
            };
            let until = Timestamp::from_second(until).unwrap();
            let days = whole.by_day(over, until);
            let sum = days.iter().fold(Figures::default(), |sum, (_, figures)| sum.and(*figures));
            prop_assert_eq!(sum, whole);
            prop_assert!(days.is_sorted_by(|(one, _), (next, _)| one < next));
            for (day, figures) in days {
                prop_assert!(figures.active <= Duration::from_secs(86_400), "{} has {:?}", day, figures.active);
            }
        }
    }
}
