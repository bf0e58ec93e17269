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
/// Lines look like `TIME LEVEL …: FUNCTION: ready after 9.5 ms (network 1.2 ms, create 3 ms, …)`. The time of the first
/// line ends the wake; that of this line begins forwarding.
pub(crate) fn read(log: &str, function: &str, sent: SystemTime, first_byte: SystemTime) -> Phase {
    let mut phases = Phase::default();
    let lines: Vec<_> = log.lines().filter(|line| line.contains(function)).collect();
    let between = |from: SystemTime, to: SystemTime| match to.duration_since(from) {
        Ok(time) => time.as_secs_f64() * 1000.0,
        Err(error) => -error.duration().as_secs_f64() * 1000.0,
    };
    phases[0] = lines.iter().find_map(|line| time_of(line)).map(|woken| between(sent, woken));
    if let Some(line) = lines.iter().find(|line| line.contains("ready after")) {
        phases[5] = time_of(line).map(|ready| between(ready, first_byte));
        let told = line.split_once("ready after").map_or("", |(_, rest)| rest);
        for (index, name) in NAMES.iter().enumerate().filter(|(index, _)| (1..5).contains(index)) {
            phases[index] = number_behind(told, name);
        }
    }
    phases
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
1970-01-01T00:00:01.002Z  INFO x: other.ns: a request wakes it
1970-01-01T00:00:01.003Z  INFO x: a.ns: a request wakes it
1970-01-01T00:00:01.100Z  INFO x: a.ns: ready after 97 ms (network 1.5 ms, create 40 ms, start 30ms, ready 25.5 ms) function=a.ns
";
        let at = |milliseconds| UNIX_EPOCH + Duration::from_millis(milliseconds);
        let phases = read(log, "a.ns", at(1000), at(1102));
        let rounded = phases.map(|phase| phase.map(|ms| (ms * 10.0).round() / 10.0));
        assert_eq!(rounded, [Some(3.0), Some(1.5), Some(40.0), Some(30.0), Some(25.5), Some(2.0)]);
        assert_eq!(read("", "a.ns", at(0), at(1)), Phase::default());
    }
}
