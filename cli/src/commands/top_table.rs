//! What `roost top` shows, from what the daemon tells: rates between two looks, one row a function, columns that fit.
//!
//! Pure: time and the terminal's width are arguments.

use std::collections::HashMap;
use std::time::Instant;

use jiff::Timestamp;
use serde::Serialize;

use super::list::phase;
use crate::api::{Decision, Function};
use crate::duration::age;
use crate::output;

/// The least width at which a decision says something.
const MIN_DECISION: usize = 12;
/// The least width of a name.
const MIN_NAME: usize = 16;

const TITLES: [&str; COLUMNS] = [
    "NAME",
    "STATE",
    "READY",
    "RPS",
    "IN-FLIGHT",
    "CONNS",
    "WAITING",
    "QUEUED",
    "CPU",
    "MEMORY",
    "LAST DECISION",
];
const COLUMNS: usize = 11;
const NAME: usize = 0;
const DECISION: usize = 10;
/// Whose numbers are easier to compare when their ends are below each other.
const NUMBERS: std::ops::RangeInclusive<usize> = 3..=9;
/// The columns that go when there is no room, in this order. The name stays.
const SPARE: [usize; 10] = [DECISION, 9, 8, 1, 7, 6, 4, 5, 3, 2];

/// One function at one moment. What its host does not tell is `None`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) namespace: String,
    phase: String,
    pub(super) ready: u64,
    pub(super) desired: u64,
    /// Requests that ended in a second since the last look.
    pub(super) rps: Option<f64>,
    in_flight: Option<u64>,
    connections: Option<u64>,
    waiting: Option<u64>,
    queued: Option<u64>,
    /// Thousandths of a core.
    cpu: Option<f64>,
    memory_bytes: Option<f64>,
    last_decision: Option<Decision>,
}

/// What the rows are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Sort {
    /// The busiest first
    Rps,
    Name,
}

/// How many requests of each function had ended, by namespace and name.
type Finished = HashMap<(String, String), u64>;

/// Makes rates of counts, by remembering the last ones.
#[derive(Debug, Default)]
pub(super) struct Meter {
    before: Option<(Instant, Finished)>,
}

impl Meter {
    /// What was found `now`. Rates are since the last time that this was called.
    pub(super) fn rows(&mut self, functions: &[Function], now: Instant, sort: Sort) -> Vec<Row> {
        let mut rows: Vec<Row> = functions.iter().map(|function| self.row(function, now)).collect();
        let name = |a: &Row, b: &Row| (&a.name, &a.namespace).cmp(&(&b.name, &b.namespace));
        rows.sort_by(|a, b| match sort {
            Sort::Rps => rate(b).total_cmp(&rate(a)).then(name(a, b)),
            Sort::Name => name(a, b),
        });
        let finished = functions.iter().filter_map(|f| Some((of(f), f.status.as_ref()?.load?.finished)));
        self.before = Some((now, finished.collect()));
        rows
    }

    fn row(&self, function: &Function, now: Instant) -> Row {
        let status = function.status.as_ref();
        let load = status.and_then(|status| status.load);
        let rps = load.and_then(|load| {
            let (then, counts) = self.before.as_ref()?;
            // A daemon that began anew counts from zero.
            let ended = load.finished.checked_sub(*counts.get(&of(function))?)?;
            let seconds = now.saturating_duration_since(*then).as_secs_f64();
            (seconds > 0.0).then(|| ended as f64 / seconds)
        });
        Row {
            name: function.name.clone(),
            namespace: function.namespace.clone(),
            phase: phase(function),
            ready: function.available_replicas,
            desired: function.replicas,
            rps,
            in_flight: load.map(|load| load.in_flight),
            connections: load.map(|load| load.connections),
            waiting: load.map(|load| load.waiting),
            queued: load.and_then(|load| load.queued),
            cpu: function.usage.as_ref().map(|usage| usage.cpu),
            memory_bytes: function.usage.as_ref().map(|usage| usage.total_memory_bytes),
            last_decision: status.and_then(|status| status.scaling.last_decision.clone()),
        }
    }
}

fn of(function: &Function) -> (String, String) {
    (function.namespace.clone(), function.name.clone())
}

fn rate(row: &Row) -> f64 {
    row.rps.unwrap_or(0.0)
}

/// All functions in one line.
pub(super) fn summary(rows: &[Row]) -> String {
    let (ready, desired) = rows.iter().fold((0, 0), |(r, d), row| (r + row.ready, d + row.desired));
    // Not `sum`: that of nothing is -0.
    let rps = rows.iter().map(rate).fold(0.0, |sum, rps| sum + rps);
    let functions = if rows.len() == 1 { "function" } else { "functions" };
    format!("{} {functions}, {ready} of {desired} replicas ready, {rps:.1} requests a second", rows.len())
}

/// The table, its titles first. With a width, no line is longer: decisions are cut, then columns left out.
pub(super) fn lines(rows: &[Row], with_namespace: bool, width: Option<usize>, now: Timestamp) -> Vec<String> {
    let table: Vec<[String; COLUMNS]> = std::iter::once(TITLES.map(str::to_owned))
        .chain(rows.iter().map(|row| cells(row, with_namespace, now)))
        .collect();
    let mut widths: [usize; COLUMNS] =
        std::array::from_fn(|i| table.iter().map(|row| row[i].chars().count()).max().unwrap_or(0));
    let mut shown = [true; COLUMNS];
    if let Some(width) = width {
        fit(&mut widths, &mut shown, width);
    }
    let line = |row: &[String; COLUMNS]| {
        let cells = row.iter().enumerate().filter(|(i, _)| shown[*i]).map(|(i, cell)| {
            let (cell, width) = (cut(cell, widths[i]), widths[i]);
            if NUMBERS.contains(&i) { format!("{cell:>width$}") } else { format!("{cell:width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    table.iter().map(line).collect()
}

/// Makes room until the columns are at most `width` wide.
fn fit(widths: &mut [usize; COLUMNS], shown: &mut [bool; COLUMNS], width: usize) {
    let total = |widths: &[usize; COLUMNS], shown: &[bool; COLUMNS]| -> usize {
        let columns = widths.iter().zip(shown).filter(|(_, shown)| **shown);
        columns.map(|(width, _)| width + 2).sum::<usize>().saturating_sub(2)
    };
    if total(widths, shown) <= width {
        return;
    }
    widths[NAME] = widths[NAME].min(MIN_NAME.max(width / 3)).min(width);
    for spare in SPARE {
        let over = total(widths, shown).saturating_sub(width);
        if spare == DECISION && widths[DECISION] >= over + MIN_DECISION {
            widths[DECISION] -= over;
        }
        shown[spare] = total(widths, shown) <= width;
    }
}

/// At most so many characters.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain((width > 0).then_some('…')).collect()
}

fn cells(row: &Row, with_namespace: bool, now: Timestamp) -> [String; COLUMNS] {
    let number = |number: Option<u64>| number.map_or_else(unknown, |number| number.to_string());
    let name = if with_namespace { format!("{}.{}", row.name, row.namespace) } else { row.name.clone() };
    [
        plain(&name),
        plain(&row.phase),
        format!("{}/{}", row.ready, row.desired),
        row.rps.map_or_else(unknown, |rps| format!("{rps:.1}")),
        number(row.in_flight),
        number(row.connections),
        number(row.waiting),
        number(row.queued),
        row.cpu.map_or_else(unknown, |cpu| format!("{cpu:.0}m")),
        row.memory_bytes.map_or_else(unknown, |bytes| output::bytes(bytes as u64)),
        row.last_decision.as_ref().map(|decision| told(decision, now)).unwrap_or_default(),
    ]
}

fn unknown() -> String {
    "-".to_owned()
}

/// A decision and how long ago it was.
pub(super) fn told(decision: &Decision, now: Timestamp) -> String {
    let Decision { at, key, from, to, reason } = decision;
    let key = key.as_ref().map(|key| format!(" [{key}]")).unwrap_or_default();
    plain(&format!("{from}→{to} {} ago{key}: {reason}", age(at, now)))
}

/// Without what a terminal would take for an order.
pub(super) fn plain(text: &str) -> String {
    text.replace(char::is_control, " ")
}

impl Row {
    /// For tests of those who order or show rows.
    #[cfg(test)]
    fn of(text: &str) -> Self {
        let function: Function = serde_json::from_str(text).unwrap();
        Meter::default().row(&function, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn functions(text: &str) -> Vec<Function> {
        serde_json::from_str(text).unwrap()
    }

    fn now() -> Timestamp {
        Timestamp::from_second(100).unwrap()
    }

    const BUSY: &str = r#"{"name":"chat","namespace":"openfaas-fn","replicas":4,"availableReplicas":3,
        "usage":{"cpu":120.4,"totalMemoryBytes":14890000},
        "status":{"phase":"Ready","load":{"inFlight":37,"connections":35,"waiting":2,"queued":140,"started":99,"finished":60},
        "scaling":{"desired":4,"lastDecision":{"at":"1970-01-01T00:01:36Z","from":1,"to":4,"key":"a\u001bb",
        "reason":"35 in flight"}}}}"#;

    #[test]
    fn rates_are_between_two_looks_and_of_what_counts_on() {
        let look = |a: u64, b: u64| {
            functions(&format!(
                r#"[{{"name":"a","status":{{"load":{{"finished":{a}}}}}}},
                    {{"name":"b","status":{{"load":{{"finished":{b}}}}}}},{{"name":"foreign"}}]"#
            ))
        };
        let (mut meter, began) = (Meter::default(), Instant::now());
        let mut rates = |after: u64, a, b| {
            let rows = meter.rows(&look(a, b), began + Duration::from_secs(after), Sort::Rps);
            rows.into_iter().map(|row| (row.name, row.rps)).collect::<Vec<_>>()
        };
        let row = |name: &str, rps: Option<f64>| (name.to_owned(), rps);
        assert_eq!(rates(0, 7, 7), [row("a", None), row("b", None), row("foreign", None)]);
        assert_eq!(rates(2, 8, 107), [row("b", Some(50.0)), row("a", Some(0.5)), row("foreign", None)]);
        // The daemon began anew.
        assert_eq!(rates(4, 3, 107), [row("a", None), row("b", Some(0.0)), row("foreign", None)]);
        let rows = meter.rows(&look(3, 200), began + Duration::from_secs(5), Sort::Name);
        assert_eq!(rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["a", "b", "foreign"]);
        assert_eq!(summary(&rows), "3 functions, 0 of 0 replicas ready, 93.0 requests a second");
    }

    #[test]
    fn a_function_is_one_line_and_what_is_not_told_is_a_dash() {
        let rows = [Row::of(BUSY), Row::of(r#"{"name":"foreign","availableReplicas":1,"replicas":1}"#)];
        assert_eq!(
            lines(&rows, false, None, now()),
            [
                "NAME     STATE  READY  RPS  IN-FLIGHT  CONNS  WAITING  QUEUED   CPU    MEMORY  LAST DECISION",
                "chat     Ready  3/4      -         37     35        2     140  120m  14.2 MiB  1→4 4s ago [a b]: 35 in flight",
                "foreign  Ready  1/1      -          -      -        -       -     -         -",
            ]
        );
        assert!(lines(&rows[..1], true, None, now())[1].starts_with("chat.openfaas-fn  "));
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_and_the_name_is_seen_to_the_last() {
        let long = BUSY.replace("chat", &"n".repeat(63));
        let rows = [Row::of(BUSY), Row::of(&long)];
        for width in 1..200 {
            let lines = lines(&rows, true, Some(width), now());
            let widest = lines.iter().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= width, "{widest} at {width}: {lines:#?}");
            assert!(width < 5 || lines[1].starts_with("chat"), "{lines:?}");
        }
        let at = |width| lines(&[Row::of(BUSY)], false, Some(width), now()).swap_remove(1);
        assert!(at(98).ends_with("1→4 4s ago [a b]: 35 …"), "{}", at(98));
        assert!(at(86).ends_with("14.2 MiB"), "{}", at(86));
        assert!(at(64).ends_with("120m") && at(63).ends_with(" 140"), "{} {}", at(64), at(63));
    }
}
