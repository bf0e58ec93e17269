//! What `roost connections` and `roost groups` have in common: what is said, how it is ended, how it is shown.

use std::io::{self, IsTerminal, Read};

use anyhow::{Context, Result, bail};
use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use crate::api::{Closed, Connection, Told};
use crate::args::Global;
use crate::duration::age;
use crate::failure::usage;
use crate::output::Output;

/// The longest message that a daemon takes, in bytes.
const MAX_MESSAGE: u64 = 1 << 20;

/// What is said.
#[derive(Debug, Args)]
pub(super) struct Words {
    /// What to say; @FILE says a file. Without it stdin is said
    #[arg(short, long, value_name = "DATA")]
    data: Option<String>,
    /// Say it as a binary message. Without it, what is UTF-8 is a text
    #[arg(long)]
    binary: bool,
}

/// Whom it is not said to.
#[derive(Debug, Args)]
pub(super) struct Except {
    /// Not to this connection; may be repeated
    #[arg(long, value_name = "ID")]
    exclude: Vec<String>,
}

/// With what a connection is closed.
#[derive(Debug, Args)]
pub(super) struct Ending {
    /// Close code
    #[arg(long, value_name = "CODE", default_value = "1000")]
    code: String,
    /// Reason, at most 123 bytes
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
}

/// The parameters of a call.
pub(super) type Parameters<'a> = Vec<(&'a str, &'a str)>;

/// Which namespace is meant.
pub(super) fn scope(global: &Global) -> Parameters<'_> {
    global.namespace.as_deref().map(|namespace| ("namespace", namespace)).into_iter().collect()
}

impl Words {
    pub(super) fn parameters<'a>(&self, mut scope: Parameters<'a>) -> Parameters<'a> {
        if self.binary {
            scope.push(("type", "binary"));
        }
        scope
    }

    /// All of it.
    pub(super) fn read(&self) -> Result<Vec<u8>> {
        match self.data.as_deref() {
            Some(data) => match data.strip_prefix('@') {
                Some("-") => limited(io::stdin()).context("cannot read stdin"),
                Some(path) => std::fs::File::open(path)
                    .map_err(Into::into)
                    .and_then(limited)
                    .with_context(|| format!("cannot read {path}")),
                None => Ok(data.as_bytes().to_vec()),
            },
            None if io::stdin().is_terminal() => Err(usage("there is nothing to say: use -d, or stdin")),
            None => limited(io::stdin()).context("cannot read stdin"),
        }
    }
}

impl Except {
    pub(super) fn parameters<'a>(&'a self, mut scope: Parameters<'a>) -> Parameters<'a> {
        scope.extend(self.exclude.iter().map(|id| ("exclude", id.as_str())));
        scope
    }
}

impl Ending {
    pub(super) fn parameters<'a>(&'a self, mut scope: Parameters<'a>) -> Parameters<'a> {
        scope.push(("code", &self.code));
        scope.push(("reason", &self.reason));
        scope
    }
}

fn limited(source: impl Read) -> Result<Vec<u8>> {
    let mut words = Vec::new();
    source.take(MAX_MESSAGE + 1).read_to_end(&mut words)?;
    if words.len() as u64 > MAX_MESSAGE {
        bail!("it is longer than {MAX_MESSAGE} bytes");
    }
    Ok(words)
}

/// Connections, a line each.
pub(super) fn show(values: Vec<Value>, quiet: bool, out: &mut Output) -> Result<()> {
    if out.json {
        return out.value(&values);
    }
    let connections: Vec<Connection> =
        values.into_iter().map(serde_json::from_value).collect::<Result<_, _>>()?;
    if quiet {
        return connections.iter().try_for_each(|connection| Ok(out.line(&connection.id)?));
    }
    if connections.is_empty() {
        out.note("No connections are held here.");
        return Ok(());
    }
    Ok(out.table(&rows(&connections, Timestamp::now()))?)
}

fn rows(connections: &[Connection], now: Timestamp) -> Vec<Vec<String>> {
    let head = ["ID", "FUNCTION", "USER", "GROUPS", "PEER", "IN", "OUT", "IDLE", "AGE"];
    let row = |of: &Connection| {
        vec![
            of.id.clone(),
            of.function.clone(),
            of.user.clone().unwrap_or_default(),
            of.groups.join(","),
            of.peer.clone(),
            of.messages.r#in.to_string(),
            of.messages.out.to_string(),
            age(&of.last_active, now),
            age(&of.since, now),
        ]
    };
    std::iter::once(head.map(str::to_owned).to_vec()).chain(connections.iter().map(row)).collect()
}

/// To how many something was said.
pub(super) fn told(told: Told, out: &mut Output) -> Result<()> {
    if out.json {
        return out.value(&told);
    }
    let slow = match told.too_slow {
        0 => String::new(),
        count => format!("; {count} did not keep up, and are closed"),
    };
    Ok(out.line(format!("Said to {}{slow}", told.queued))?)
}

/// How many were closed.
pub(super) fn closed(closed: Closed, out: &mut Output) -> Result<()> {
    if out.json { out.value(&closed) } else { Ok(out.line(format!("Closed {}", closed.closed))?) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_one_line() {
        let text = r#"{"id":"i","function":"f","groups":["a","b"],"peer":"::1","messages":{"in":1,"out":2},
            "since":"1970-01-01T00:00:00Z","lastActive":"1970-01-01T00:01:00Z"}"#;
        let rows = rows(&[serde_json::from_str(text).unwrap()], Timestamp::from_second(90).unwrap());
        assert_eq!(rows[1], ["i", "f", "", "a,b", "::1", "1", "2", "30s", "1m"]);
        assert_eq!(rows[0].len(), rows[1].len());
    }
}
