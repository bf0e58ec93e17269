//! Times that come again, as cron's five fields say them: minute, hour, day of the month, month, day of the week.
//!
//! Owns the reading of an expression, and when it was and will be due in a time zone. Reads no clock.
//!
//! Where clocks are set forward, what was to be in the hour that is left out is due at its end; where they are set
//! back, what is in the hour that comes twice is due the first time. An expression for every hour goes by the time that
//! passes instead: every five minutes stays every five minutes.

use std::str::FromStr;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::AmbiguousOffset;
use jiff::{Span, Timestamp, ToSpan, Zoned};

/// How many days are looked at, and months passed over: enough for a leap day on a given day of the week, which may be
/// forty years away.
const SEARCHED: usize = 3000;

/// The hours of a day, all of them.
const EVERY_HOUR: u64 = (1 << 24) - 1;

/// How many days the months have at most.
const LONGEST: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// A cron expression. One bit for each value that a field may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    /// Sunday is 0.
    weekdays: u64,
    /// Both fields of days are restricted, and one of them is enough.
    either: bool,
}

/// Why a text is not a cron expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// It does not have five fields, and is no name.
    #[error(
        "expected five fields (minute, hour, day of the month, month, day of the week), or @hourly, @daily, \
             @weekly, @monthly or @yearly"
    )]
    Fields,
    /// A field cannot be read.
    #[error(
        "{text:?}: expected a number from {min} to {max} for the {field}, or *, a range, a list or a step"
    )]
    Field {
        /// What was written.
        text: String,
        /// Which field.
        field: &'static str,
        /// Its least value.
        min: u32,
        /// Its greatest value.
        max: u32,
    },
    /// No month has such a day.
    #[error("there is no such day")]
    Never,
}

/// A field: what it is called, its values, and their names, the first of which stands for the least value.
struct Field {
    name: &'static str,
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const MINUTE: Field = Field { name: "minute", min: 0, max: 59, names: &[] };
const HOUR: Field = Field { name: "hour", min: 0, max: 23, names: &[] };
const DAY: Field = Field { name: "day of the month", min: 1, max: 31, names: &[] };
const MONTH: Field = Field {
    name: "month",
    min: 1,
    max: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
/// Sunday is 0 and 7.
const WEEKDAY: Field = Field {
    name: "day of the week",
    min: 0,
    max: 7,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
};

impl FromStr for Cron {
    type Err = CronError;

    fn from_str(text: &str) -> Result<Self, CronError> {
        let text = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            text => text,
        };
        let mut fields = text.split_ascii_whitespace();
        let mut field = || fields.next().ok_or(CronError::Fields);
        let [minute, hour, day, month, weekday] = [field()?, field()?, field()?, field()?, field()?];
        if fields.next().is_some() {
            return Err(CronError::Fields);
        }
        let weekdays = WEEKDAY.read(weekday)?;
        let cron = Self {
            minutes: MINUTE.read(minute)?,
            hours: HOUR.read(hour)?,
            days: DAY.read(day)?,
            months: MONTH.read(month)?,
            weekdays: (weekdays | weekdays >> 7) & 0x7f,
            either: !day.starts_with('*') && !weekday.starts_with('*'),
        };
        let possible = (1..)
            .zip(LONGEST)
            .any(|(month, longest)| has(cron.months, month) && cron.days & ((1 << (longest + 1)) - 1) != 0);
        if possible || cron.either { Ok(cron) } else { Err(CronError::Never) }
    }
}

impl Field {
    /// A list of values, ranges and steps, as bits.
    fn read(&self, text: &str) -> Result<u64, CronError> {
        text.split(',').try_fold(0, |bits, item| Some(bits | self.item(item)?)).ok_or_else(|| {
            CronError::Field {
                text: text.chars().take(64).collect(),
                field: self.name,
                min: self.min,
                max: self.max,
            }
        })
    }

    /// `*`, `a`, `a-b`, each with `/step` behind it. `a/step` goes on to the end.
    fn item(&self, text: &str) -> Option<u64> {
        let (range, step) = match text.split_once('/') {
            Some((range, step)) => (range, Some(number(step)?)),
            None => (text, None),
        };
        let (first, last) = match (range.split_once('-'), step) {
            _ if range == "*" => (self.min, self.max),
            (Some((first, last)), _) => (self.value(first)?, self.end(last)?),
            (None, None) => (self.value(range)?, self.value(range)?),
            (None, Some(_)) => (self.value(range)?, self.max),
        };
        let step = usize::try_from(step.unwrap_or(1)).ok().filter(|step| *step > 0)?;
        let bits = (first..=last).step_by(step).fold(0, |bits, value| bits | 1 << value);
        (first <= last).then_some(bits)
    }

    /// The last value of a range. A week may end with its Sunday.
    fn end(&self, text: &str) -> Option<u32> {
        match self.value(text)? {
            0 if self.max == WEEKDAY.max => Some(WEEKDAY.max),
            value => Some(value),
        }
    }

    fn value(&self, text: &str) -> Option<u32> {
        let named = (self.min..).zip(self.names).find(|(_, name)| name.eq_ignore_ascii_case(text));
        let value = named.map_or_else(|| number(text), |(value, _)| Some(value))?;
        (self.min..=self.max).contains(&value).then_some(value)
    }
}

/// Digits alone: Rust would also read `+1`.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn has(bits: u64, value: impl Into<i64>) -> bool {
    bits >> value.into() & 1 == 1
}

impl Cron {
    /// When it is due for the first time after `after`; `None` if the calendar ends before.
    #[must_use]
    pub fn next(&self, after: &Zoned) -> Option<Zoned> {
        if self.hours == EVERY_HOUR
            && let Some(soon) = self.of_minutes(after, 1..=60)
        {
            return Some(soon);
        }
        let mut from = after.datetime();
        loop {
            from = self.due_from(from.checked_add(1.minute()).ok()?)?;
            let due = instant(from, after)?;
            if due > after.timestamp() {
                return Some(due.to_zoned(after.time_zone().clone()));
            }
        }
    }

    /// When it was due for the last time, at `at` or before; `None` if the calendar began later.
    #[must_use]
    pub fn last(&self, at: &Zoned) -> Option<Zoned> {
        if self.hours == EVERY_HOUR
            && let Some(recent) = self.of_minutes(at, (-59..=0).rev())
        {
            return Some(recent);
        }
        // Where clocks were set back, what shows a later time may have been before.
        let ambiguous = at.time_zone().to_ambiguous_timestamp(at.datetime()).is_ambiguous();
        let ahead = if ambiguous { 3.hours() } else { Span::new() };
        let mut until = at.datetime().checked_add(ahead).ok()?;
        loop {
            until = self.due_until(until)?;
            let due = instant(until, at)?;
            if due <= at.timestamp() {
                return Some(due.to_zoned(at.time_zone().clone()));
            }
            until = until.checked_sub(1.minute()).ok()?;
        }
    }

    /// The first of these minutes, counted from the one of `at`, that is due.
    fn of_minutes(&self, at: &Zoned, mut minutes: impl Iterator<Item = i64>) -> Option<Zoned> {
        let this = at.timestamp().as_second().div_euclid(60);
        minutes.find_map(|ahead| {
            let due = Timestamp::from_second((this + ahead) * 60).ok()?;
            let civil = at.time_zone().to_datetime(due);
            let is_due = self.is_day(civil.date()) && has(self.minutes, civil.minute());
            is_due.then(|| due.to_zoned(at.time_zone().clone()))
        })
    }

    fn is_day(&self, date: Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        has(self.months, date.month()) && if self.either { day || weekday } else { day && weekday }
    }

    /// The first minute, `from` or later, that it names.
    fn due_from(&self, from: DateTime) -> Option<DateTime> {
        let (mut date, mut hour, mut minute) = (from.date(), from.hour(), from.minute());
        for _ in 0..SEARCHED {
            if self.is_day(date) {
                for hour_due in (hour..24).filter(|hour| has(self.hours, *hour)) {
                    let first = if hour_due == hour { minute } else { 0 };
                    if let Some(due) = (first..60).find(|minute| has(self.minutes, *minute)) {
                        return Some(date.to_datetime(Time::new(hour_due, due, 0, 0).ok()?));
                    }
                }
            }
            let last = if has(self.months, date.month()) { date } else { date.last_of_month() };
            (date, hour, minute) = (last.tomorrow().ok()?, 0, 0);
        }
        None
    }

    /// The last minute, `until` or earlier, that it names.
    fn due_until(&self, until: DateTime) -> Option<DateTime> {
        let (mut date, mut hour, mut minute) = (until.date(), until.hour(), until.minute());
        for _ in 0..SEARCHED {
            if self.is_day(date) {
                for hour_due in (0..=hour).rev().filter(|hour| has(self.hours, *hour)) {
                    let last = if hour_due == hour { minute } else { 59 };
                    if let Some(due) = (0..=last).rev().find(|minute| has(self.minutes, *minute)) {
                        return Some(date.to_datetime(Time::new(hour_due, due, 0, 0).ok()?));
                    }
                }
            }
            let first = if has(self.months, date.month()) { date } else { date.first_of_month() };
            (date, hour, minute) = (first.yesterday().ok()?, 23, 59);
        }
        None
    }
}

/// When clocks in the zone of `zoned` show `civil` first; where they never do, when they are set beyond it.
fn instant(civil: DateTime, zoned: &Zoned) -> Option<Timestamp> {
    let zone = zoned.time_zone();
    let shown = zone.to_ambiguous_timestamp(civil);
    match shown.offset() {
        AmbiguousOffset::Gap { .. } => Some(zone.preceding(shown.later().ok()?).next()?.timestamp()),
        AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => shown.compatible().ok(),
    }
}

#[cfg(test)]
mod tests;
