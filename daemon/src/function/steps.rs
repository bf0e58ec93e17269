//! What a replica's way to being ready is spent on, step by step: for the log, for metrics, and for whoever makes it
//! shorter.

use std::fmt;
use std::time::{Duration, Instant};

use crate::metrics::Timings;

/// Steps one behind the other, and how long each took. Shown as `74.1 ms (network 1.2, create 38.0, …)`.
#[derive(Debug, Clone)]
pub struct Steps {
    began: Instant,
    last: Instant,
    done: Vec<(&'static str, Duration)>,
}

impl Steps {
    /// None yet; the first begins now.
    #[must_use]
    pub fn begin() -> Self {
        let now = Instant::now();
        Self { began: now, last: now, done: Vec::new() }
    }

    /// The step `name` ends, and the next one begins.
    pub fn done(&mut self, name: &'static str) {
        let now = Instant::now();
        self.done.push((name, now - self.last));
        self.last = now;
    }

    /// Counts each step by its name.
    pub fn count(&self, timings: &Timings<&'static str>) {
        for (name, duration) in &self.done {
            timings.observe(*name, *duration);
        }
    }
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
        write!(f, "{:.1} ms (", millis(self.last - self.began))?;
        for (n, (name, duration)) in self.done.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{name} {:.1}", millis(*duration))?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_with_their_sum() {
        let began = Instant::now();
        let millis = Duration::from_millis;
        let done = vec![("network", Duration::from_micros(1_250)), ("create", millis(38))];
        let steps = Steps { began, last: began + Duration::from_micros(39_250), done };
        assert_eq!(steps.to_string(), "39.2 ms (network 1.2, create 38.0)");
        let timings = Timings::default();
        steps.count(&timings);
        steps.count(&timings);
        let counted: Vec<_> =
            timings.read().iter().map(|(name, read)| (*name, read.count(), read.seconds)).collect();
        assert_eq!(counted, [("create", 2, 0.076), ("network", 2, 0.002_5)]);
    }
}
