//! `roost deadletters`: what functions could not be brought to deal with.

use anyhow::Result;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::held::{Parameters, scope};
use crate::api::{AllRedriven, DeadLetter, WholeDeadLetter};
use crate::args::Global;
use crate::client::Client;
use crate::duration::age;
use crate::failure::Partly;
use crate::output::{Output, bytes};

const EXAMPLES: &str = "\
Examples:
  roost deadletters list --function chat
  roost deadletters show 01a2b3c4d5e60000
  roost deadletters show 01a2b3c4d5e60000 --body > message
  roost deadletters redrive 01a2b3c4d5e60000
  roost deadletters redrive --function chat
  roost deadletters rm --function chat

An event of a WebSocket that the daemon holds, or a queued call, becomes one when its function has failed with it, or \
could not be had, and the tries are over. An event goes when it is sent again and dealt with, a call when it is queued \
again; both when they are removed, or are too old.";

/// List, show, send again and remove what functions could not be brought to deal with
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DeadLettersArgs {
    #[command(subcommand)]
    verb: DeadLettersVerb,
}

#[derive(Debug, Subcommand)]
enum DeadLettersVerb {
    /// List dead letters, the oldest first
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show all there is to know about one
    #[command(visible_alias = "describe")]
    Show(ShowArgs),
    /// Send dead letters to their function again
    Redrive(WhichArgs),
    /// Remove dead letters
    #[command(visible_alias = "rm")]
    Remove(WhichArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Those of this function
    #[arg(long, value_name = "NAME")]
    function: Option<String>,
    /// Print the ids only
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// Id of the dead letter
    id: String,
    /// Print the body, and nothing else
    #[arg(long)]
    body: bool,
}

#[derive(Debug, Args)]
struct WhichArgs {
    /// Ids of the dead letters
    #[arg(value_name = "ID", required_unless_present = "function", conflicts_with = "function")]
    ids: Vec<String>,
    /// All of this function
    #[arg(long, value_name = "NAME")]
    function: Option<String>,
}

pub(crate) fn run(args: &DeadLettersArgs, global: &Global, out: &mut Output) -> Result<()> {
    let client = super::connect(global)?;
    match &args.verb {
        DeadLettersVerb::List(args) => list(args, &client, global, out),
        DeadLettersVerb::Show(args) => show(args, &client, global, out),
        DeadLettersVerb::Redrive(WhichArgs { function: Some(function), .. }) => {
            redrive_all(function, &client, global, out)
        }
        DeadLettersVerb::Redrive(WhichArgs { ids, .. }) => {
            let sent =
                ids.iter().map(|id| (id.clone(), json!({ "id": id }), client.redrive(id, &scope(global))));
            super::remove::tell_each("Dealt with:", "redriven", sent, out)
        }
        DeadLettersVerb::Remove(WhichArgs { function: Some(function), .. }) => {
            let removed = client.remove_letters(&of(function, global))?;
            if out.json { out.value(&removed) } else { Ok(out.line(format!("Removed {}", removed.removed))?) }
        }
        DeadLettersVerb::Remove(WhichArgs { ids, .. }) => {
            let gone = ids
                .iter()
                .map(|id| (id.clone(), json!({ "id": id }), client.remove_letter(id, &scope(global))));
            super::remove::tell_each("Removed", "removed", gone, out)
        }
    }
}

fn of<'a>(function: &'a str, global: &'a Global) -> Parameters<'a> {
    let mut parameters = scope(global);
    parameters.push(("function", function));
    parameters
}

fn list(args: &ListArgs, client: &Client, global: &Global, out: &mut Output) -> Result<()> {
    let parameters = args.function.as_deref().map_or_else(|| scope(global), |function| of(function, global));
    let values = client.held(&["deadletters"], "letters", &parameters)?;
    if out.json {
        return out.value(&values);
    }
    let letters: Vec<DeadLetter> =
        values.into_iter().map(serde_json::from_value).collect::<Result<_, _>>()?;
    if args.quiet {
        return letters.iter().try_for_each(|letter| Ok(out.line(&letter.id)?));
    }
    if letters.is_empty() {
        out.note("No dead letters.");
        return Ok(());
    }
    Ok(out.table(&rows(&letters, Timestamp::now()))?)
}

fn rows(letters: &[DeadLetter], now: Timestamp) -> Vec<Vec<String>> {
    let head = ["ID", "FUNCTION", "WHAT", "REASON", "STATUS", "ATTEMPTS", "SIZE", "AGE", "CAUSE"];
    let row = |of: &DeadLetter| {
        vec![
            of.id.clone(),
            of.function.clone(),
            what(of),
            of.reason.clone(),
            of.status.to_string(),
            of.attempts.to_string(),
            bytes(of.size),
            age(&of.at, now),
            of.cause.clone(),
        ]
    };
    std::iter::once(head.map(str::to_owned).to_vec()).chain(letters.iter().map(row)).collect()
}

/// An event by its name, a call by what it asks for.
fn what(of: &DeadLetter) -> String {
    if of.event.is_empty() { format!("{} {}", of.method, of.path) } else { of.event.clone() }
}

fn show(args: &ShowArgs, client: &Client, global: &Global, out: &mut Output) -> Result<()> {
    let value: Value = client.letter(&args.id, &scope(global))?;
    if out.json {
        return out.value(&value);
    }
    let WholeDeadLetter { letter: of, headers, body, is_base64_encoded } = serde_json::from_value(value)?;
    if args.body {
        let body = if is_base64_encoded { BASE64_STANDARD.decode(body)? } else { body.into_bytes() };
        return Ok(out.raw(&body)?);
    }
    let rows = [
        ("ID:", of.id),
        ("Function:", format!("{}.{}", of.function, of.namespace)),
        ("Event:", of.event),
        ("Connection:", of.connection),
        ("Call:", of.call),
        ("Given up:", of.at),
        ("Attempts:", of.attempts.to_string()),
        ("Last attempt:", of.last_attempt),
        ("Reason:", of.reason),
        ("Status:", of.status.to_string()),
        ("Cause:", of.cause),
        ("Request:", format!("{} {}", of.method, of.path)),
    ];
    let headers = headers.into_iter().map(|(name, value)| vec![String::new(), format!("{name}: {value}")]);
    // What a letter of its kind does not have is not shown.
    let rows = rows.into_iter().filter(|(_, value)| !value.is_empty());
    let rows = rows.map(|(name, value)| vec![name.to_owned(), value]).chain(headers);
    out.table(&rows.collect::<Vec<_>>())?;
    let body = if is_base64_encoded { format!("({} of binary data: --body)", bytes(of.size)) } else { body };
    Ok(out.line(format!("\n{body}"))?)
}

/// Sends all that are there now, page by page.
fn redrive_all(function: &str, client: &Client, global: &Global, out: &mut Output) -> Result<()> {
    let (mut all, mut after) = (AllRedriven::default(), None);
    loop {
        let mut parameters = of(function, global);
        parameters.extend(after.as_deref().map(|after| ("after", after)));
        let page = client.redrive_letters(&parameters)?;
        all.redriven += page.redriven;
        all.failed += page.failed;
        all.stopped = page.stopped;
        match page.next {
            Some(next) if all.stopped.is_none() => after = Some(next),
            _ => break,
        }
    }
    if out.json {
        out.value(&all)?;
    } else {
        out.line(format!("Dealt with {}, failed {}", all.redriven, all.failed))?;
    }
    match &all.stopped {
        Some(why) => anyhow::bail!("the others were not tried: {why}"),
        None if all.failed > 0 => Err(Partly(all.failed, all.redriven + all.failed).into()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_one_line() {
        let text = r#"{"id":"01a2b3c4d5e60000","function":"f","event":"message","reason":"failed","status":500,"attempts":4,
            "size":5,"at":"1970-01-01T00:00:00Z","cause":"it answered 500"}"#;
        let rows = rows(&[serde_json::from_str(text).unwrap()], Timestamp::from_second(90).unwrap());
        let expected =
            ["01a2b3c4d5e60000", "f", "message", "failed", "500", "4", "5 B", "1m", "it answered 500"];
        assert_eq!(rows[1], expected);
        assert_eq!(rows[0].len(), rows[1].len());
    }
}
