//! `roost usage`: what functions have used of connections, by day.

use std::io::Read;

use anyhow::Result;
use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use crate::args::Global;
use crate::output::{Output, bytes};

const NOTES: &str = "\
ACTIVE is the time in which replicas had WebSockets, however many each; CONNECTIONS adds up the time of every one of them. \
Of connections that the host holds (roost.websocket: events), HELD is the time in which there was one, and INVOKED the time in \
which replicas were at work for them. What is open counts until now. Days are of UTC. Seconds to the nanosecond: --csv.

Examples:
  roost usage
  roost usage --function chat --from 2026-01-01 --to 2026-01-31 --total
  roost usage --from 2026-01-01 --csv > usage.csv";

/// Show what functions have used of connections, by day
#[derive(Debug, Args)]
#[command(after_help = NOTES)]
pub(crate) struct UsageArgs {
    /// Only of this function
    #[arg(long, value_name = "NAME")]
    function: Option<String>,
    /// The first day, such as 2026-01-31 [default: the first of the last day's month]
    #[arg(long, value_name = "DAY")]
    from: Option<String>,
    /// The last day [default: today]
    #[arg(long, value_name = "DAY")]
    to: Option<String>,
    /// All days in one sum
    #[arg(long)]
    total: bool,
    /// Print CSV, for spreadsheets
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

#[derive(Debug, Deserialize)]
struct Told {
    usage: Vec<Line>,
}

#[derive(Debug, Deserialize)]
struct Line {
    day: Option<String>,
    function: String,
    namespace: String,
    active_seconds: f64,
    connection_seconds: f64,
    held_seconds: f64,
    invocation_active_seconds: f64,
    invocations: u64,
    messages_in: u64,
    messages_out: u64,
    bytes_in: u64,
    bytes_out: u64,
}

pub(crate) fn run(args: &UsageArgs, global: &Global, out: &mut Output) -> Result<()> {
    let client = super::connect(global)?;
    let mut parameters = vec![("step", if args.total { "total" } else { "day" })];
    for (name, value) in [
        ("function", &args.function),
        ("namespace", &global.namespace),
        ("from", &args.from),
        ("to", &args.to),
    ] {
        parameters.extend(value.as_deref().map(|value| (name, value)));
    }
    if args.csv {
        parameters.push(("format", "csv"));
        let mut table = Vec::new();
        client.usage(&parameters)?.read_to_end(&mut table)?;
        return Ok(out.raw(&table)?);
    }
    let told: Value = serde_json::from_reader(client.usage(&parameters)?)?;
    if out.json {
        return out.value(&told);
    }
    let Told { usage } = serde_json::from_value(told)?;
    Ok(out.table(&rows(&usage, args.total))?)
}

fn rows(lines: &[Line], total: bool) -> Vec<Vec<String>> {
    let mut head =
        vec!["FUNCTION", "ACTIVE", "CONNECTIONS", "HELD", "INVOKED", "INVOCATIONS", "MESSAGES", "BYTES"];
    if !total {
        head.insert(0, "DAY");
    }
    let mut rows: Vec<Vec<String>> = vec![head.into_iter().map(str::to_owned).collect()];
    for line in lines {
        let mut row: Vec<String> =
            if total { Vec::new() } else { vec![line.day.clone().unwrap_or_default()] };
        row.push(format!("{}.{}", line.function, line.namespace));
        let lengths =
            [line.active_seconds, line.connection_seconds, line.held_seconds, line.invocation_active_seconds];
        row.extend(lengths.map(length));
        row.push(line.invocations.to_string());
        row.push(line.messages_in.saturating_add(line.messages_out).to_string());
        row.push(bytes(line.bytes_in.saturating_add(line.bytes_out)));
        rows.push(row);
    }
    rows
}

/// Seconds for people: `12.3s`, `4h05m12s`.
fn length(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1}s");
    }
    let whole = seconds as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours == 0 {
        format!("{minutes}m{seconds:02}s")
    } else {
        format!("{hours}h{minutes:02}m{seconds:02}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_day_unless_it_is_the_sum_of_all() {
        let told: Told = serde_json::from_str(
            r#"{"from":"2026-01-01","usage":[{"day":"2026-01-31","function":"chat","namespace":"blue",
                "active_seconds":59.94,"connection_seconds":14712.9,"held_seconds":0,"invocation_active_seconds":61,
                "invocations":2,"messages_in":3,"messages_out":4,"units_in":3,"units_out":4,"bytes_in":1000,
                "bytes_out":24}]}"#,
        )
        .unwrap();
        let by_day = rows(&told.usage, false);
        assert_eq!(
            by_day[1],
            ["2026-01-31", "chat.blue", "59.9s", "4h05m12s", "0.0s", "1m01s", "2", "7", "1.0 KiB"]
        );
        let total = rows(&told.usage, true);
        assert_eq!((&total[0][0], &total[1][..]), (&"FUNCTION".to_owned(), &by_day[1][1..]));
    }
}
