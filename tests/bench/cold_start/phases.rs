//! What a cold start consists of, from the daemon's own log: whichever of it the log tells.

use std::time::SystemTime;

use jiff::Timestamp;

use crate::figures::{Figures, shown};

/// In the order in which they are shown.
const NAMES: [&str; 6] = ["wake", "network", "create", "start", "ready", "forward"];

/// Milliseconds of the phases of one start that are known.
pub(crate) type Phase = [Option<f64>; NAMES.len()];

/// Those of many starts.
#[derive(Debug, Default)]
pub(crate) struct Phases([Figures; NAMES.len()]);

impl Phases {
    pub(crate) fn add(&mut self, phases: &Phase) {
        for (figures, phase) in self.0.iter_mut().zip(phases) {
            if let Some(milliseconds) = phase {
                figures.add(std::time::Duration::from_secs_f64(milliseconds.max(0.0) / 1000.0));
            }
        }
    }

    pub(crate) fn shown(&self) -> Vec<String> {
        self.0.iter().map(|figures| shown(figures.median())).collect()
    }
}

/// Reads the phases of a start of `function` from the lines that the daemon wrote meanwhile.
///
/// The line looks like `TIME LEVEL …: ready after 74.1 ms (network 1.2, create 38.0, …) function=FUNCTION`. What comes
/// before it and behind it is left for the wake and for forwarding.
pub(crate) fn read(log: &str, function: &str, sent: SystemTime, first_byte: SystemTime) -> Phase {
    let mut phases = Phase::default();
    let mut lines = log.lines().filter(|line| line.contains(function));
    let Some((head, told)) = lines.find_map(|line| line.split_once("ready after")) else { return phases };
    let told = told.split(')').next().unwrap_or_default();
    if let Some(ready) = time_of(head) {
        phases[0] = number_behind(told, "").map(|all| between(sent, ready) - all);
        phases[5] = Some(between(ready, first_byte));
    }
    for index in 1..5 {
        phases[index] = number_behind(told, NAMES[index]);
    }
    // What was frozen goes on, instead of being started.
    phases[3] = phases[3].or_else(|| number_behind(told, "thaw"));
    phases
}

/// In milliseconds, negative if it is the other way round.
fn between(from: SystemTime, to: SystemTime) -> f64 {
    match to.duration_since(from) {
        Ok(time) => time.as_secs_f64() * 1000.0,
        Err(error) => -error.duration().as_secs_f64() * 1000.0,
    }
}

fn time_of(line: &str) -> Option<SystemTime> {
    let time: Timestamp = line.split(' ').next()?.parse().ok()?;
    Some(time.into())
}

/// The first number behind a word.
fn number_behind(text: &str, word: &str) -> Option<f64> {
    let (_, rest) = text.split_once(word)?;
    let rest = rest.trim_start_matches([' ', ':', '=']);
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    rest[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn phases_are_read_whatever_else_the_log_says() {
        let log = "\
1970-01-01T00:00:01.001Z  INFO x: replica b-1: ready after 7.0 ms (create 1.0) function=b.ns
1970-01-01T00:00:01.003Z  INFO x: a.ns: a request wakes it
1970-01-01T00:00:01.100Z  INFO x: replica a-2: ready after 97.0 ms (network 1.5, create 40.0, start 30, ready 25.5) function=a.ns
1970-01-01T00:00:01.200Z  INFO x: replica start 7: ready after 0.5 ms (thaw 0.5) function=c.ns
";
        let at = |milliseconds| UNIX_EPOCH + Duration::from_millis(milliseconds);
        let rounded = |phases: Phase| phases.map(|phase| phase.map(|ms| (ms * 10.0).round() / 10.0));
        let phases = rounded(read(log, "a.ns", at(1000), at(1102)));
        assert_eq!(phases, [Some(3.0), Some(1.5), Some(40.0), Some(30.0), Some(25.5), Some(2.0)]);
        let phases = rounded(read(log, "c.ns", at(1199), at(1201)));
        assert_eq!(phases, [Some(0.5), None, None, Some(0.5), None, Some(1.0)]);
        assert_eq!(read("", "a.ns", at(0), at(1)), Phase::default());
    }
}
