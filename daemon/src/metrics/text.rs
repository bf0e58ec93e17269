//! The text format of Prometheus, version 0.0.4.
//!
//! Owns the syntax: heads, labels, escapes, buckets. Our own, because the names of the contract are not those that
//! encoders of the later OpenMetrics format would let pass: there, every counter ends in `_total`.

use std::fmt::{Display, Write};

use roost_proxy::{BOUNDS, Distribution, Scale, Spread};

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows while the daemon runs.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Three series: `_bucket`, `_sum` and `_count`.
    Histogram,
}

/// A metric.
#[derive(Debug)]
pub(super) struct Family {
    /// Its name.
    pub(super) name: &'static str,
    /// What kind of number it is.
    pub(super) kind: Kind,
    /// The names of its labels, in their order.
    pub(super) labels: &'static [&'static str],
    /// What it says, in one line.
    pub(super) help: &'static str,
}

/// A page of metrics, while it is written.
#[derive(Debug, Default)]
pub(super) struct Page {
    text: String,
    /// The names of those that are on it.
    #[cfg(test)]
    pub(super) written: Vec<&'static str>,
}

/// A metric whose samples are being written.
#[derive(Debug)]
pub(super) struct Samples<'a> {
    text: &'a mut String,
    family: &'static Family,
}

impl Page {
    /// Begins a metric. All its samples have to follow.
    pub(super) fn family(&mut self, family: &'static Family) -> Samples<'_> {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let Family { name, help, .. } = family;
        debug_assert!(!help.contains(['\n', '\\']), "{name}: the help is to be one plain line");
        #[cfg(test)]
        self.written.push(name);
        self.push(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Samples { text: &mut self.text, family }
    }

    /// A metric that is one number.
    pub(super) fn number(&mut self, family: &'static Family, value: impl Display) {
        self.family(family).add(&[], value);
    }

    /// What was written.
    #[must_use]
    pub(super) fn finish(self) -> String {
        self.text
    }

    fn push(&mut self, arguments: std::fmt::Arguments<'_>) {
        push(&mut self.text, arguments);
    }
}

impl Samples<'_> {
    /// A number, with the values of the labels in the order of their names.
    pub(super) fn add(&mut self, labels: &[&str], value: impl Display) {
        self.sample("", labels, None, &value);
    }

    /// A histogram.
    pub(super) fn distribution(&mut self, labels: &[&str], of: &Distribution) {
        for (index, count) in of.cumulative.iter().enumerate() {
            self.sample("_bucket", labels, Some(BOUNDS.get(index).copied()), count);
        }
        self.sample("_sum", labels, None, &of.seconds);
        self.sample("_count", labels, None, &of.count());
    }

    /// A histogram on a scale of its own.
    pub(super) fn spread(&mut self, labels: &[&str], scale: &Scale, of: &Spread) {
        let bounds = scale.bounds().map(Some).chain([None]);
        for (bound, count) in bounds.zip(&of.cumulative) {
            self.sample("_bucket", labels, Some(bound), count);
        }
        self.sample("_sum", labels, None, &scale.told(of.sum));
        self.sample("_count", labels, None, &of.count());
    }

    /// One line. `bound` is the upper end of a bucket; of the last one there is none.
    fn sample(&mut self, suffix: &str, values: &[&str], bound: Option<Option<f64>>, value: &dyn Display) {
        let Family { name, labels, .. } = self.family;
        debug_assert_eq!(labels.len(), values.len(), "{name}: a value for each label");
        push(self.text, format_args!("{name}{suffix}"));
        let mut separator = '{';
        // A label without a value is the same as none.
        for (label, value) in labels.iter().zip(values).filter(|(_, value)| !value.is_empty()) {
            push(self.text, format_args!("{separator}{label}=\""));
            escape(self.text, value);
            self.text.push('"');
            separator = ',';
        }
        match bound {
            Some(Some(bound)) => push(self.text, format_args!("{separator}le=\"{bound}\"}}")),
            Some(None) => push(self.text, format_args!("{separator}le=\"+Inf\"}}")),
            None if separator == ',' => self.text.push('}'),
            None => {}
        }
        push(self.text, format_args!(" {value}\n"));
    }
}

/// Writes the value of a label: three characters have to be written otherwise.
fn escape(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a String takes everything");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use roost_proxy::{Histogram, LIVES};

    use super::*;

    static ANIMALS: Family =
        Family { name: "animals", kind: Kind::Gauge, labels: &["kind", "of"], help: "How many there are." };
    static PLAIN: Family =
        Family { name: "plain_total", kind: Kind::Counter, labels: &[], help: "A number." };
    static TIMES: Family =
        Family { name: "times_seconds", kind: Kind::Histogram, labels: &["code"], help: "How long." };
    static BARE: Family = Family { name: "bare", kind: Kind::Histogram, labels: &[], help: "Unlabelled." };

    #[test]
    fn labels_are_escaped_and_numbers_are_written_plainly() {
        let mut page = Page::default();
        let mut animals = page.family(&ANIMALS);
        animals.add(&["cat", ""], 3);
        animals.add(&["a\\b\"c\nd{}", "ä"], 0.1);
        animals.add(&["small", "large"], 1e-7);
        page.number(&PLAIN, u64::MAX);
        assert_eq!(
            page.finish(),
            "# HELP animals How many there are.\n# TYPE animals gauge\n\
             animals{kind=\"cat\"} 3\n\
             animals{kind=\"a\\\\b\\\"c\\nd{}\",of=\"ä\"} 0.1\n\
             animals{kind=\"small\",of=\"large\"} 0.0000001\n\
             # HELP plain_total A number.\n# TYPE plain_total counter\nplain_total 18446744073709551615\n"
        );
    }

    #[test]
    fn a_histogram_has_cumulative_buckets_a_sum_and_a_count() {
        let histogram = Histogram::default();
        for millis in [1, 30, 20_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let mut page = Page::default();
        page.family(&TIMES).distribution(&["200"], &histogram.read());
        let bounds = ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf"];
        let counts = [1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3];
        let mut expected = "# HELP times_seconds How long.\n# TYPE times_seconds histogram\n".to_owned();
        for (bound, count) in bounds.iter().zip(counts) {
            expected += &format!("times_seconds_bucket{{code=\"200\",le=\"{bound}\"}} {count}\n");
        }
        expected += "times_seconds_sum{code=\"200\"} 20.031\ntimes_seconds_count{code=\"200\"} 3\n";
        assert_eq!(page.finish(), expected);

        let mut page = Page::default();
        let mut spread = Spread { sum: 70_000, ..Spread::default() };
        spread.cumulative[3..].fill(2);
        page.family(&BARE).spread(&[], &LIVES, &spread);
        let text = page.finish();
        assert!(text.contains("bare_bucket{le=\"60\"} 0\nbare_bucket{le=\"300\"} 2\n"), "{text}");
        assert!(text.ends_with("bare_bucket{le=\"+Inf\"} 2\nbare_sum 70\nbare_count 2\n"), "{text}");

        let mut page = Page::default();
        page.family(&BARE).distribution(&[], &Distribution::default());
        let text = page.finish();
        assert!(text.contains("bare_bucket{le=\"0.005\"} 0\n"), "{text}");
        assert!(text.ends_with("bare_bucket{le=\"+Inf\"} 0\nbare_sum 0\nbare_count 0\n"), "{text}");
    }
}
