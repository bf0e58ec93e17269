//! `roost logs`: what a function wrote, line by line, as it comes.

use std::io::{BufRead, BufReader, ErrorKind, Read};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use jiff::Timestamp;

use crate::api::LogRecord;
use crate::args::Global;
use crate::duration;
use crate::name::Target;
use crate::output::Output;

/// The longest line that is taken, in bytes: the daemon splits long ones far below.
const MAX_LINE: u64 = 4 * 1024 * 1024;

const EXAMPLES: &str = "\
Examples:
  roost logs echo -f
  roost logs echo --since 10m --tail 100
  roost logs echo --json | jq .text";

/// Print what a function wrote to stdout and stderr
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LogsArgs {
    /// Name of the function
    name: String,
    /// Go on printing as it writes
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines
    #[arg(long, visible_alias = "lines", value_name = "COUNT")]
    tail: Option<u64>,
    /// Only what is younger: 5m, 1h30m, or a moment in RFC 3339
    #[arg(long, alias = "since-time", value_name = "DURATION|MOMENT")]
    since: Option<String>,
    /// Only this replica
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
    /// Print the time of each line (the default)
    #[arg(long, overrides_with = "no_timestamps")]
    timestamps: bool,
    /// Print the lines only
    #[arg(long)]
    no_timestamps: bool,
    /// Print the replica of each line
    #[arg(long)]
    show_instance: bool,
}

pub(crate) fn run(args: &LogsArgs, global: &Global, out: &mut Output) -> Result<()> {
    let target = Target::new(&args.name, global.namespace.as_deref())?;
    let since = args.since.as_deref().map(|text| duration::since(text, Timestamp::now())).transpose();
    let since = since.map_err(crate::failure::usage)?;
    let client = super::connect(global)?;
    let tail = args.tail.map_or_else(|| "-1".to_owned(), |count| count.to_string());
    let mut parameters =
        vec![("name", target.name.as_str()), ("follow", if args.follow { "true" } else { "false" })];
    parameters.push(("tail", &tail));
    parameters.extend(target.namespace.as_deref().map(|ns| ("namespace", ns)));
    parameters.extend(args.instance.as_deref().map(|id| ("instance", id)));
    parameters.extend(since.as_deref().map(|moment| ("since", moment)));
    if args.tail == Some(0) && !args.follow {
        return Ok(());
    }
    let mut reader = BufReader::new(client.logs(&parameters)?);
    let mut line = String::new();
    loop {
        line.clear();
        match reader.by_ref().take(MAX_LINE).read_line(&mut line) {
            Ok(0) => return Ok(()),
            Ok(_) => show(line.trim_end(), args, out)?,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => bail!("the log of {target} broke off: {e}"),
        }
    }
}

fn show(line: &str, args: &LogsArgs, out: &mut Output) -> Result<()> {
    if line.is_empty() {
        return Ok(());
    }
    if out.json {
        return Ok(out.line(line)?);
    }
    let record: LogRecord =
        serde_json::from_str(line).with_context(|| anyhow!("a line of the log is not understood"))?;
    Ok(out.line(text(&record, !args.no_timestamps, args.show_instance))?)
}

fn text(record: &LogRecord, time: bool, instance: bool) -> String {
    let mut parts = Vec::new();
    if time {
        parts.push(record.timestamp.as_str());
    }
    if instance {
        parts.push(&record.instance);
    }
    parts.push(record.text.trim_end_matches('\n'));
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_carries_what_was_asked_for() {
        let record = LogRecord { instance: "a-1".into(), timestamp: "T".into(), text: "hello\n".into() };
        assert_eq!(text(&record, true, false), "T hello");
        assert_eq!(text(&record, false, true), "a-1 hello");
        assert_eq!(text(&record, false, false), "hello");
    }
}
