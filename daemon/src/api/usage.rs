//! `/system/usage`: what functions have used, by day.

use std::fmt::Write;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use jiff::civil::Date;
use roost_proxy::function::{FunctionKey, Namespace};
use serde::{Deserialize, Serialize};

use super::extract::Query;
use super::{Api, ApiError};
use crate::function::spec::parse_namespace;
use crate::usage::figures::{Figures, day_of};
use crate::usage::ledger::Asked;

/// The columns of a table, behind the day.
const COLUMNS: &str = "function,namespace,active_seconds,connection_seconds,held_seconds,invocation_active_seconds,\
                       invocations,messages_in,messages_out,units_in,units_out,bytes_in,bytes_out";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Wanted {
    function: String,
    namespace: String,
    from: String,
    to: String,
    step: String,
    format: String,
}

/// One sum for each day, or one for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Step {
    Day,
    Total,
}

#[derive(Debug, Serialize)]
struct Told {
    from: Date,
    to: Date,
    step: Step,
    usage: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    day: Option<Date>,
    function: String,
    namespace: String,
    #[serde(flatten)]
    figures: Shown,
}

/// [`Figures`] as they are told: in seconds, and by names.
#[derive(Debug, Serialize)]
struct Shown {
    active_seconds: f64,
    connection_seconds: f64,
    held_seconds: f64,
    invocation_active_seconds: f64,
    invocations: u64,
    messages_in: u64,
    messages_out: u64,
    units_in: u64,
    units_out: u64,
    bytes_in: u64,
    bytes_out: u64,
}

type Sums = Vec<(Option<Date>, FunctionKey, Figures)>;

pub(super) async fn usage(
    State(api): State<Api>,
    headers: HeaderMap,
    Query(wanted): Query<Wanted>,
) -> Result<Response, ApiError> {
    let (asked, step) = wanted.read(day_of(Timestamp::now()))?;
    let csv = wanted.is_table(&headers)?;
    let (from, to) = (asked.from, asked.to);
    let rows = api.ledger.ask(asked).await;
    let rows = rows.map_err(|error| ApiError::internal(&format!("usage cannot be read: {error}")))?;
    let sums = sum(rows, step);
    if csv {
        return Ok(([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], table(&sums, step)).into_response());
    }
    let usage = sums.into_iter().map(|(day, key, figures)| Line {
        day,
        function: key.name.to_string(),
        namespace: key.namespace.to_string(),
        figures: figures.into(),
    });
    Ok(Json(Told { from, to, step, usage: usage.collect() }).into_response())
}

impl Wanted {
    fn read(&self, today: Date) -> Result<(Asked, Step), ApiError> {
        let day = |field: &str, text: &str, default| match text {
            "" => Ok(default),
            text => text.parse::<Date>().map_err(|_| {
                ApiError::bad_request(format!("{field}: {text:?}: expected a day such as 2026-01-31"))
            }),
        };
        let to = day("to", &self.to, today)?;
        let from = day("from", &self.from, to.first_of_month())?;
        if from > to {
            return Err(ApiError::bad_request(format!("from: {from}: expected a day not behind to, {to}")));
        }
        let step = match self.step.as_str() {
            "" | "day" => Step::Day,
            "total" => Step::Total,
            other => return Err(ApiError::bad_request(format!("step: {other:?}: expected day or total"))),
        };
        let (function, namespace) = self.whose()?;
        Ok((Asked { function, namespace, from, to }, step))
    }

    /// Functions and namespaces that are gone have used something, too: they need not be there.
    fn whose(&self) -> Result<(Option<FunctionKey>, Option<Namespace>), ApiError> {
        let namespace = |text: &str| parse_namespace(text).map_err(ApiError::bad_request);
        if self.function.is_empty() {
            let all = self.namespace.is_empty();
            return Ok((None, if all { None } else { Some(namespace(&self.namespace)?) }));
        }
        let (name, suffix) = match self.function.rsplit_once('.') {
            Some((name, suffix)) => (name, Some(suffix)),
            None => (self.function.as_str(), None),
        };
        if suffix.is_some_and(|suffix| !self.namespace.is_empty() && self.namespace != suffix) {
            return Err(ApiError::bad_request("namespace: expected the one of function"));
        }
        let name = name.parse().map_err(|why| ApiError::bad_request(format!("function: {why}")))?;
        Ok((Some(FunctionKey::new(namespace(suffix.unwrap_or(&self.namespace))?, name)), None))
    }

    fn is_table(&self, headers: &HeaderMap) -> Result<bool, ApiError> {
        match self.format.as_str() {
            "json" => Ok(false),
            "csv" => Ok(true),
            "" => Ok(headers.get_all(header::ACCEPT).iter().any(|accept| {
                let types = accept.to_str().unwrap_or_default().split(',');
                types.map(|one| one.split(';').next().unwrap_or_default().trim()).any(|one| one == "text/csv")
            })),
            other => Err(ApiError::bad_request(format!("format: {other:?}: expected json or csv"))),
        }
    }
}

/// One sum for each day and function, or for each function.
fn sum(rows: Vec<(Date, FunctionKey, Figures)>, step: Step) -> Sums {
    if step == Step::Day {
        return rows.into_iter().map(|(day, key, figures)| (Some(day), key, figures)).collect();
    }
    let mut totals = std::collections::BTreeMap::<FunctionKey, Figures>::new();
    for (_, key, figures) in rows {
        let total = totals.entry(key).or_default();
        *total = total.and(figures);
    }
    totals.into_iter().map(|(key, figures)| (None, key, figures)).collect()
}

/// Lines of CSV. No name has anything in it that would have to be quoted. Lengths are exact.
fn table(sums: &Sums, step: Step) -> String {
    let mut text = String::new();
    if step == Step::Day {
        text.push_str("day,");
    }
    text.push_str(COLUMNS);
    text.push_str("\r\n");
    for (day, key, figures) in sums {
        let Figures { active, connection, held, invocation_active, invocations, messages, units, bytes } =
            figures;
        let day = day.map(|day| format!("{day},")).unwrap_or_default();
        let lengths = [active, connection, held, invocation_active].map(|length| exact(*length)).join(",");
        let counts = [messages, units, bytes].map(|[of, to]| format!("{of},{to}")).join(",");
        writeln!(text, "{day}{},{},{lengths},{invocations},{counts}\r", key.name, key.namespace)
            .expect("a text takes all");
    }
    text
}

fn exact(length: Duration) -> String {
    format!("{}.{:09}", length.as_secs(), length.subsec_nanos())
}

impl From<Figures> for Shown {
    fn from(figures: Figures) -> Self {
        let Figures { active, connection, held, invocation_active, invocations, messages, units, bytes } =
            figures;
        let [[messages_in, messages_out], [units_in, units_out], [bytes_in, bytes_out]] =
            [messages, units, bytes];
        Self {
            active_seconds: active.as_secs_f64(),
            connection_seconds: connection.as_secs_f64(),
            held_seconds: held.as_secs_f64(),
            invocation_active_seconds: invocation_active.as_secs_f64(),
            invocations,
            messages_in,
            messages_out,
            units_in,
            units_out,
            bytes_in,
            bytes_out,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &str) -> Wanted {
        let mut wanted = Wanted::default();
        for (name, value) in text.split('&').filter_map(|pair| pair.split_once('=')) {
            let field = match name {
                "function" => &mut wanted.function,
                "namespace" => &mut wanted.namespace,
                "from" => &mut wanted.from,
                "to" => &mut wanted.to,
                "step" => &mut wanted.step,
                _ => &mut wanted.format,
            };
            value.clone_into(field);
        }
        wanted
    }

    #[test]
    fn without_days_it_is_this_month_and_a_function_is_named_as_elsewhere() {
        let today: Date = "2026-11-27".parse().unwrap();
        let read = |text: &str| wanted(text).read(today).map_err(|error| error.text);
        let asked = |function: Option<&str>, namespace: Option<&str>, from: &str, to: &str| Asked {
            function: function.map(|name| FunctionKey::from_route(name).unwrap()),
            namespace: namespace.map(|name| name.parse().unwrap()),
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
        };
        for (text, expected) in [
            ("", (asked(None, None, "2026-11-01", "2026-11-27"), Step::Day)),
            ("to=2026-02-10&step=total", (asked(None, None, "2026-02-01", "2026-02-10"), Step::Total)),
            (
                "namespace=blue&from=2026-11-27",
                (asked(None, Some("blue"), "2026-11-27", "2026-11-27"), Step::Day),
            ),
            (
                "function=a.blue&step=day",
                (asked(Some("a.blue"), None, "2026-11-01", "2026-11-27"), Step::Day),
            ),
            (
                "function=a&namespace=blue",
                (asked(Some("a.blue"), None, "2026-11-01", "2026-11-27"), Step::Day),
            ),
        ] {
            assert_eq!(read(text), Ok(expected), "{text}");
        }
        for (text, expected) in [
            ("from=yesterday", "from: \"yesterday\": expected a day such as 2026-01-31"),
            ("to=2026-02-30", "to: \"2026-02-30\": expected a day such as 2026-01-31"),
            ("from=2026-12-01", "from: 2026-12-01: expected a day not behind to, 2026-11-27"),
            ("step=hour", "step: \"hour\": expected day or total"),
            ("function=a.blue&namespace=red", "namespace: expected the one of function"),
        ] {
            assert_eq!(read(text).unwrap_err(), expected);
        }
        assert!(read("function=UPPER").is_err() && read("namespace=UPPER").is_err());
    }

    #[test]
    fn a_table_is_asked_for_by_name_or_by_type() {
        for (text, accept, expected) in [
            ("", "", Some(false)),
            ("", "text/csv", Some(true)),
            ("", "application/xml, text/csv;q=0.9", Some(true)),
            ("", "application/json, text/csvx", Some(false)),
            ("format=json", "text/csv", Some(false)),
            ("format=csv", "application/json", Some(true)),
            ("format=xml", "", None),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
            assert_eq!(wanted(text).is_table(&headers).ok(), expected, "{text} {accept}");
        }
    }

    #[test]
    fn a_table_has_a_line_for_each_sum_and_lengths_to_the_nanosecond() {
        let key = |name| FunctionKey::from_route(name).unwrap();
        let figures = Figures {
            active: Duration::new(61, 7),
            connection: Duration::from_secs(90),
            invocations: 3,
            messages: [1, 2],
            units: [3, 4],
            bytes: [5, 6],
            ..Figures::default()
        };
        let day: Date = "2026-01-31".parse().unwrap();
        let rows = vec![(day, key("a.blue"), figures), (day.tomorrow().unwrap(), key("a.blue"), figures)];
        let by_day = table(&sum(rows.clone(), Step::Day), Step::Day);
        let line = "a,blue,61.000000007,90.000000000,0.000000000,0.000000000,3,1,2,3,4,5,6\r\n";
        assert_eq!(by_day, format!("day,{COLUMNS}\r\n2026-01-31,{line}2026-02-01,{line}"));
        let total = table(&sum(rows, Step::Total), Step::Total);
        let line = "a,blue,122.000000014,180.000000000,0.000000000,0.000000000,6,2,4,6,8,10,12\r\n";
        assert_eq!(total, format!("{COLUMNS}\r\n{line}"));
    }
}
