//! `roost groups history` and `roost groups watch`: what was said in a group, and what is being said.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use super::held::scope;
use super::top_table::plain;
use super::wait::pause;
use crate::args::Global;
use crate::client::Client;
use crate::output::Output;

/// The longest line that is taken, in bytes: a message of 1 MiB, in base64.
const MAX_LINE: u64 = 4 << 20;
/// How long a daemon that went away is left alone.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    /// Name of the group
    group: String,
}

#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// Name of the group
    group: String,
    /// Begin with so many of the last messages that are kept
    #[arg(long, value_name = "COUNT", default_value = "0", hide_default_value = true)]
    history: String,
    /// Show which users come and go as well
    #[arg(long)]
    presence: bool,
}

/// A message that is kept.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Kept {
    at: String,
    text: Option<String>,
    base64: Option<String>,
}

/// What comes on the stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Event {
    id: Option<String>,
    kind: String,
    data: Vec<String>,
}

pub(super) fn history(args: &HistoryArgs, global: &Global, out: &mut Output) -> Result<()> {
    let messages = super::connect(global)?.history(&args.group, &scope(global))?;
    if out.json {
        return out.value(&messages);
    }
    if messages.is_empty() {
        out.note("Nothing is kept: see roost.websocket.history.");
    }
    messages.into_iter().try_for_each(|message| Ok(out.line(line(serde_json::from_value(message)?))?))
}

fn line(Kept { at, text, base64 }: Kept) -> String {
    let said = text.or_else(|| base64.map(|data| format!("(binary) {data}"))).unwrap_or_default();
    plain(&format!("{at} {said}"))
}

pub(super) fn watch(args: &WatchArgs, global: &Global, out: &mut Output) -> Result<()> {
    let client = super::connect(global)?;
    let mut parameters = scope(global);
    parameters.push(("history", &args.history));
    if args.presence {
        parameters.push(("presence", "true"));
    }
    let mut last = String::new();
    let mut stream = client.watch(&args.group, &parameters, &last)?;
    loop {
        follow(stream, &mut last, out)?;
        out.note(format!("roost: {} went away; waiting for it", client.gateway()));
        stream = again(&client, &args.group, &parameters, &last)?;
        out.note(format!("roost: {} is back", client.gateway()));
    }
}

/// The stream of a daemon that was there before, behind what was seen.
fn again(client: &Client, group: &str, parameters: &[(&str, &str)], last: &str) -> Result<Box<dyn Read>> {
    loop {
        pause(PAUSE);
        match client.watch(group, parameters, last) {
            Err(error) if error.is_passing() => {}
            found => return Ok(found?),
        }
    }
}

/// Shows events until the stream ends. `last` is the id of the last one, from event to event.
fn follow(stream: impl Read, last: &mut String, out: &mut Output) -> Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(event) = next(&mut reader)? {
        if let Some(id) = &event.id {
            id.clone_into(last);
        }
        show(&event, last, out)?;
    }
    Ok(())
}

/// The next event that is whole; `None` at the end of the stream.
fn next(reader: &mut impl BufRead) -> Result<Option<Event>> {
    let mut event = Event::default();
    let mut line = String::new();
    loop {
        line.clear();
        match reader.by_ref().take(MAX_LINE).read_line(&mut line) {
            Ok(0) => return Ok(None),
            Ok(_) if !line.ends_with('\n') => {
                bail!("an event is not understood: it is too long, or broke off")
            }
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            // It went away in the middle of it.
            Err(_) => return Ok(None),
        }
        let line = line.trim_end_matches('\n');
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "id" => event.id = Some(value.to_owned()),
            "event" => value.clone_into(&mut event.kind),
            "data" => event.data.push(value.to_owned()),
            "" if line.is_empty() && event != Event::default() => return Ok(Some(event)),
            // Comments, and what is for browsers.
            _ => {}
        }
    }
}

fn show(event: &Event, id: &str, out: &mut Output) -> Result<()> {
    if event.data.is_empty() {
        return Ok(());
    }
    let data = event.data.join("\n");
    let kind = if event.kind.is_empty() { "message" } else { &event.kind };
    let known = || serde_json::from_str::<Value>(&data).context("an event is not understood");
    if out.json {
        let said = if matches!(kind, "message" | "binary") { Value::from(data.as_str()) } else { known()? };
        return Ok(out.line(json!({ "id": id, "event": kind, "data": said }))?);
    }
    match kind {
        "message" => event.data.iter().try_for_each(|line| Ok(out.line(plain(line))?)),
        "binary" => Ok(out.line(plain(&format!("(binary) {data}")))?),
        "lost" => {
            let reason = known()?["reason"].as_str().unwrap_or("some of it is gone").to_owned();
            out.note(format!("roost: {}", plain(&reason)));
            Ok(())
        }
        "presence" => {
            out.note(format!("roost: {}", plain(&presence(&known()?))));
            Ok(())
        }
        // Of a newer daemon.
        _ => Ok(()),
    }
}

fn presence(told: &Value) -> String {
    let name = |of: &Value| of.as_str().unwrap_or_default().to_owned();
    if let Value::Array(users) = &told["users"] {
        let names: Vec<String> = users.iter().map(|user| name(&user["id"])).collect();
        let more = if told["more"] == true { " and others" } else { "" };
        return if names.is_empty() {
            "no user is here".to_owned()
        } else {
            format!("{}{more} here", names.join(", "))
        };
    }
    format!("{} {}", name(&told["user"]), name(&told["event"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_one_by_one_and_what_is_no_event_is_passed_over() {
        let stream = "retry: 1000\nid: e-1\n\n:\n\nid: e-2\ndata: a\ndata: \ndata: id: b\n\n\
                      event: presence\ndata: {}\n\ndata: broken off\n";
        let mut reader = stream.as_bytes();
        let mut events = Vec::new();
        while let Some(event) = next(&mut reader).unwrap() {
            events.push(event);
        }
        let event = |id: Option<&str>, kind: &str, data: &[&str]| Event {
            id: id.map(str::to_owned),
            kind: kind.to_owned(),
            data: data.iter().map(|line| (*line).to_owned()).collect(),
        };
        assert_eq!(
            events,
            [
                event(Some("e-1"), "", &[]),
                event(Some("e-2"), "", &["a", "", "id: b"]),
                event(None, "presence", &["{}"])
            ]
        );
    }

    #[test]
    fn who_comes_and_goes_is_told_in_words() {
        for (told, words) in [
            (json!({ "event": "joined", "user": "ada" }), "ada joined"),
            (json!({ "event": "here", "users": [] }), "no user is here"),
            (
                json!({ "event": "here", "users": [{ "id": "ada" }, { "id": "bob" }], "more": true }),
                "ada, bob and others here",
            ),
        ] {
            assert_eq!(presence(&told), words);
        }
    }

    #[test]
    fn a_message_that_is_kept_is_one_line() {
        let said = |text: Option<&str>, base64: Option<&str>| {
            let given = |text: Option<&str>| text.map(str::to_owned);
            line(Kept { at: "2026".to_owned(), text: given(text), base64: given(base64) })
        };
        assert_eq!(said(Some("a\nb"), None), "2026 a b");
        assert_eq!(said(None, Some("aGk=")), "2026 (binary) aGk=");
    }
}
