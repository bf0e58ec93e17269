//! When functions are called by the clock, as the annotation `schedule` and those beside it say it.
//!
//! Owns their spelling, that of OpenFaaS's cron-connector: five fields or `@hourly` and its like, `@every 5m`, each with
//! `CRON_TZ=ZONE` before it if wanted, several with `;` between. And when a schedule is due. Pure: the time is an argument.

use std::str::FromStr;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::topics;
use crate::cron::Cron;
use crate::function::spec::Deployment;
use crate::units;

/// The annotation that says when.
pub(crate) const SCHEDULE: &str = "schedule";

/// In which time zone, unless an expression says it itself.
pub(crate) const TIMEZONE: &str = "roost.schedule.timezone";

/// What becomes of runs that were due while nobody could make them.
pub(crate) const MISSED: &str = "roost.schedule.missed";

/// What becomes of a run that is due while the last one goes on.
pub(crate) const OVERLAP: &str = "roost.schedule.overlap";

/// Those of ours.
pub(crate) const NAMES: [&str; 3] = [TIMEZONE, MISSED, OVERLAP];

/// How many schedules a function may have.
const MAX_SCHEDULES: usize = 32;

/// The longest part of a value that an error repeats, in characters.
const MAX_SHOWN: usize = 64;

/// The shortest and the longest time of `@every`, in seconds.
const EVERY: (i64, i64) = (1, 3660 * 24 * 3600);

/// How many times that passed are counted; those before are not.
const MAX_COUNTED: usize = 1000;

/// All schedules of a function.
#[derive(Debug, Clone, PartialEq)]
pub struct Timetable {
    /// Each different from the others.
    pub schedules: Vec<Schedule>,
    /// What becomes of missed runs.
    pub missed: Missed,
    /// What becomes of overlapping runs.
    pub overlap: Overlap,
}

/// One schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// As it was written, its zone with it: what it is known by.
    pub text: String,
    times: Times,
    /// The host's where there is none.
    zone: Option<TimeZone>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Times {
    Cron(Cron),
    /// So many seconds apart.
    Every(i64),
}

/// What becomes of runs that were due while the daemon was down, or the host stood still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// They are left out.
    Skip,
    /// The last of them is made. This is the default: a restart at the wrong moment costs no run, a long one brings no flood.
    Once,
    /// All are made, the last hundred if there are more.
    All,
}

/// What becomes of a run that is due while the last one waits or is being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// It is made, too. This is the default, as with the cron-connector: calls of a function may always overlap.
    Allow,
    /// It is left out.
    Skip,
}

/// Times that a schedule was due.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Due {
    /// The last of them, in their order.
    pub last: Vec<Timestamp>,
    /// How many there were in all, as far as they are counted.
    pub count: u64,
}

/// The schedules of a deployment, if it asks for the clock.
///
/// # Errors
/// With everything that is wrong, each named by its annotation.
pub fn parse(deployment: &Deployment) -> Result<Option<Timetable>, Vec<String>> {
    if !topics::has_clock(deployment) {
        return Ok(None);
    }
    let mut mistakes = Vec::new();
    let zone = setting(deployment, TIMEZONE, &mut mistakes, zone).flatten();
    let missed = setting(deployment, MISSED, &mut mistakes, |text| match text {
        "skip" => Ok(Some(Missed::Skip)),
        "once" => Ok(Some(Missed::Once)),
        "all" => Ok(Some(Missed::All)),
        _ => Err("expected skip, once or all"),
    });
    let overlap = setting(deployment, OVERLAP, &mut mistakes, |text| match text {
        "allow" => Ok(Some(Overlap::Allow)),
        "skip" => Ok(Some(Overlap::Skip)),
        _ => Err("expected allow or skip"),
    });
    let schedules = schedules(deployment, zone.as_deref()).map_err(|why| mistakes.extend(why));
    match schedules {
        Ok(schedules) if mistakes.is_empty() => Ok(Some(Timetable {
            schedules,
            missed: missed.flatten().unwrap_or(Missed::Once),
            overlap: overlap.flatten().unwrap_or(Overlap::Allow),
        })),
        _ => Err(mistakes),
    }
}

fn setting<T, E: std::fmt::Display>(
    deployment: &Deployment,
    name: &str,
    mistakes: &mut Vec<String>,
    read: impl FnOnce(&str) -> Result<T, E>,
) -> Option<T> {
    let place = if deployment.annotations.contains_key(name) { "annotations" } else { "labels" };
    let value = deployment.annotations.get(name).or_else(|| deployment.labels.get(name))?.trim();
    let mistake = |why| mistakes.push(format!("{place}.{name}: {:?}: {why}", shortened(value)));
    read(value).map_err(mistake).ok()
}

/// The name of a zone that this host knows.
fn zone(name: &str) -> Result<Option<String>, &'static str> {
    match TimeZone::get(name) {
        Ok(_) => Ok(Some(name.to_owned())),
        Err(_) => Err("expected the name of a time zone that this host knows, such as Europe/Berlin or UTC"),
    }
}

fn schedules(deployment: &Deployment, zone: Option<&str>) -> Result<Vec<Schedule>, Vec<String>> {
    let text = deployment.annotations.get(SCHEDULE).map_or("", |text| text.trim());
    if text.is_empty() {
        let why = format!("annotations.{SCHEDULE}: is required with {}: {}", topics::TOPIC, topics::CLOCK);
        return Err(vec![why]);
    }
    let (mut schedules, mut mistakes) = (Vec::new(), Vec::new());
    for entry in text.trim_end_matches(';').split(';').map(str::trim).take(MAX_SCHEDULES + 1) {
        let text = match zone {
            Some(zone) if !entry.contains("TZ=") => format!("CRON_TZ={zone} {entry}"),
            _ => entry.to_owned(),
        };
        match text.parse::<Schedule>() {
            Ok(schedule) if schedules.contains(&schedule) => {}
            Ok(schedule) => schedules.push(schedule),
            Err(why) => mistakes.push(format!("annotations.{SCHEDULE}: {:?}: {why}", shortened(entry))),
        }
    }
    if schedules.len() > MAX_SCHEDULES {
        mistakes.push(format!("annotations.{SCHEDULE}: expected at most {MAX_SCHEDULES} of them"));
    }
    if mistakes.is_empty() { Ok(schedules) } else { Err(mistakes) }
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_SHOWN).collect()
}

impl FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (zone, times) = match text.strip_prefix("CRON_TZ=").or_else(|| text.strip_prefix("TZ=")) {
            Some(rest) => {
                let (name, times) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                zone(name)?;
                (Some(TimeZone::get(name).map_err(|why| why.to_string())?), times.trim())
            }
            None => (None, text),
        };
        let times = match times.strip_prefix("@every ") {
            Some(time) => Times::Every(every(time.trim())?),
            // Either stands for any value in the connector.
            None => Times::Cron(times.replace('?', "*").parse().map_err(|why| format!("{why}"))?),
        };
        Ok(Self { text: text.to_owned(), times, zone })
    }
}

fn every(text: &str) -> Result<i64, String> {
    let time = units::duration(text).map_err(|why| why.to_string())?;
    i64::try_from(time.as_secs())
        .ok()
        .filter(|seconds| (EVERY.0..=EVERY.1).contains(seconds))
        .ok_or_else(|| format!("expected @every with a duration from {} s to {} s", EVERY.0, EVERY.1))
}

impl Schedule {
    fn zone(&self) -> TimeZone {
        self.zone.clone().unwrap_or_else(TimeZone::system)
    }

    /// When it is due for the first time after `last`, which is when it was due before, or when it was first seen.
    #[must_use]
    pub fn next(&self, last: Timestamp) -> Option<Timestamp> {
        match self.times {
            Times::Cron(cron) => Some(cron.next(&last.to_zoned(self.zone()))?.timestamp()),
            Times::Every(seconds) => last.checked_add(SignedDuration::from_secs(seconds)).ok(),
        }
    }

    /// When it was due behind `last`, which is when it was due before, and until `now`, `now` itself included. Of these the
    /// last `most`.
    #[must_use]
    pub fn due(&self, last: Timestamp, now: Timestamp, most: usize) -> Due {
        match self.times {
            Times::Cron(cron) => self.due_by(cron, last, now, most),
            Times::Every(seconds) => due_every(seconds, last, now, most),
        }
    }

    fn due_by(&self, cron: Cron, last: Timestamp, now: Timestamp, most: usize) -> Due {
        let zone = self.zone();
        let back = |at: Timestamp| Some(cron.last(&at.to_zoned(zone.clone()))?.timestamp());
        let before = |due: &Timestamp| back(due.checked_sub(SignedDuration::from_secs(1)).ok()?);
        let all = std::iter::successors(back(now), before).take_while(|due| *due > last).take(MAX_COUNTED);
        let mut due = Due::default();
        for at in all {
            due.count += 1;
            if due.last.len() < most {
                due.last.push(at);
            }
        }
        due.last.reverse();
        due
    }
}

fn due_every(seconds: i64, last: Timestamp, now: Timestamp, most: usize) -> Due {
    let passed = now.duration_since(last).as_secs();
    let count = passed.div_euclid(seconds).max(0);
    let first = (count - i64::try_from(most).unwrap_or(i64::MAX)).max(0);
    let at = |nth: i64| last.checked_add(SignedDuration::from_secs(nth * seconds)).ok();
    Due { last: (first + 1..=count).filter_map(at).collect(), count: count.unsigned_abs() }
}

#[cfg(test)]
mod tests;
