//! `roost events`: what is decided about replicas, one line a decision, as it is decided.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use jiff::Timestamp;
use serde::Deserialize;

use super::top_table::plain;
use super::wait::pause;
use crate::api::Decision;
use crate::args::Global;
use crate::client::Client;
use crate::name::Target;
use crate::output::Output;

/// The longest line that is taken, in bytes: a decision is far shorter.
const MAX_LINE: u64 = 64 * 1024;
/// How long a daemon that went away is left alone.
const PAUSE: Duration = Duration::from_secs(1);

const NOTES: &str = "\
It goes on until Ctrl-C, over restarts of the daemon too. Decisions from before are in the daemon's log, and the last one of \
a function in 'roost describe'.

Examples:
  roost events
  roost events chat --json | jq .reason";

/// Follow what is decided about replicas, and why
#[derive(Debug, Args)]
#[command(after_help = NOTES)]
pub(crate) struct EventsArgs {
    /// Only of this function
    name: Option<String>,
    /// It always does
    #[arg(short, long, hide = true)]
    follow: bool,
}

/// What an event says.
#[derive(Debug, Deserialize)]
struct Told {
    function: String,
    namespace: String,
    #[serde(flatten)]
    decision: Decision,
}

/// How many events were not read fast enough.
#[derive(Debug, Deserialize)]
struct Missed {
    count: u64,
}

pub(crate) fn run(args: &EventsArgs, global: &Global, out: &mut Output) -> Result<()> {
    let client = super::connect(global)?;
    let target = args.name.as_deref().map(|name| Target::new(name, global.namespace.as_deref()));
    let target = target.transpose()?;
    let mut parameters = Vec::new();
    if let Some(target) = &target {
        parameters.push(("function", target.name.as_str()));
    }
    let namespace = target.as_ref().map_or(global.namespace.as_deref(), |target| target.namespace.as_deref());
    parameters.extend(namespace.map(|namespace| ("namespace", namespace)));

    let mut stream = client.events(&parameters)?;
    loop {
        follow(stream, out)?;
        out.note(format!("roost: {} went away; waiting for it", client.gateway()));
        stream = again(&client, &parameters)?;
        out.note(format!("roost: {} is back", client.gateway()));
    }
}

/// The stream of a daemon that was there before.
fn again(client: &Client, parameters: &[(&str, &str)]) -> Result<Box<dyn Read>> {
    loop {
        pause(PAUSE);
        match client.events(parameters) {
            Err(error) if error.is_passing() => {}
            found => return Ok(found?),
        }
    }
}

/// Shows events until the stream ends.
fn follow(stream: Box<dyn Read>, out: &mut Output) -> Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut line, mut kind) = (String::new(), String::new());
    loop {
        line.clear();
        match reader.by_ref().take(MAX_LINE).read_line(&mut line) {
            Ok(0) => return Ok(()),
            Ok(_) if !line.ends_with('\n') => {
                bail!("an event is not understood: it is too long, or broke off")
            }
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            // It went away in the middle of it.
            Err(_) => return Ok(()),
        }
        match line.trim_end().split_once(": ") {
            Some(("event", name)) => name.clone_into(&mut kind),
            Some(("data", data)) => show(&kind, data, out)?,
            // Numbers, comments and the empty lines between events.
            _ => {}
        }
    }
}

fn show(kind: &str, data: &str, out: &mut Output) -> Result<()> {
    match kind {
        "scaled" if out.json => out.line(data)?,
        "scaled" => out.line(text(&serde_json::from_str(data).context("an event is not understood")?))?,
        "missed" => {
            let Missed { count } = serde_json::from_str(data).context("an event is not understood")?;
            out.note(format!("roost: {count} events were missed: they came faster than they were read"));
        }
        // Of a newer daemon.
        _ => {}
    }
    Ok(())
}

fn text(Told { function, namespace, decision }: &Told) -> String {
    let Decision { at, key, from, to, reason } = decision;
    let at = at.parse().map_or_else(|_| at.clone(), |at: Timestamp| format!("{at:.3}"));
    let key = key.as_ref().map(|key| format!(" [{key}]")).unwrap_or_default();
    plain(&format!("{at} {function}.{namespace}{key} {from} → {to}: {reason}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_decision_is_one_line() {
        let told = |text: &str| super::text(&serde_json::from_str(text).unwrap());
        let text = r#"{"function":"a","namespace":"b","at":"2026-01-31T12:00:00.123456789Z","from":1,"to":4,
            "reason":"35 in\nflight"}"#;
        assert_eq!(told(text), "2026-01-31T12:00:00.123Z a.b 1 → 4: 35 in flight");
        let of_key =
            r#"{"function":"a","namespace":"b","at":"x","key":"room","from":1,"to":0,"reason":"idle"}"#;
        assert_eq!(told(of_key), "x a.b [room] 1 → 0: idle");
    }
}
