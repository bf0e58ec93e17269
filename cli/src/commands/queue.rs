//! `roost queue`: the calls that nobody waits for.

use std::io::{self, Read};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use ureq::http::{HeaderMap, StatusCode};

use super::invoke::header;
use super::list::namespaces;
use crate::api::QueueLine;
use crate::args::Global;
use crate::client::Client;
use crate::duration;
use crate::failure::usage;
use crate::output::{Output, bytes};

/// How much of an answer is handed on at once, in bytes.
const BUFFER: usize = 32 * 1024;

const EXAMPLES: &str = "\
Calls are handed over with `roost invoke --async`, or POST /async-function/NAME, and made one after the other as the \
function takes them. OLDEST is the age of the oldest that is not over. DONE, RETRIED and DEAD are counted since roostd \
began; dead ones are in `roost deadletters`.

Examples:
  roost queue
  roost queue -A
  roost queue --function report
  roost queue cancel 3f6c0f2e-8c1e-4a52-9f5b-0b3a1c1f7a11
  roost queue result 3f6c0f2e-8c1e-4a52-9f5b-0b3a1c1f7a11 > report.pdf";

/// Show what calls wait that were handed over with --async, cancel one, print a result
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub(crate) struct QueueArgs {
    #[command(subcommand)]
    verb: Option<QueueVerb>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Of this function
    #[arg(long, value_name = "NAME")]
    function: Option<String>,
    /// Of all namespaces
    #[arg(short = 'A', long, conflicts_with_all = ["namespace", "function"])]
    all_namespaces: bool,
}

#[derive(Debug, Subcommand)]
enum QueueVerb {
    /// End a call, whether it waits or is being made
    Cancel(CallArgs),
    /// Print what a call was answered with, if that was to be kept (--keep-result)
    Result(CallArgs),
}

#[derive(Debug, Args)]
struct CallArgs {
    /// Id of the call
    #[arg(value_name = "CALL-ID")]
    id: String,
    /// Header, where the function asks its callers for one; may be repeated
    #[arg(short = 'H', long, value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(String, String)>,
}

pub(crate) fn run(args: &QueueArgs, global: &Global, out: &mut Output) -> Result<()> {
    let client = super::connect(global)?;
    match &args.verb {
        None => list(&args.list, &client, global, out),
        Some(QueueVerb::Cancel(args)) => {
            let id = args.id()?;
            client.cancel_call(id, &args.header)?;
            if out.json {
                out.value(&json!({ "cancelled": id }))
            } else {
                Ok(out.line(format!("Cancelled {id}"))?)
            }
        }
        Some(QueueVerb::Result(args)) => result(args, &client, out),
    }
}

impl CallArgs {
    fn id(&self) -> Result<&str> {
        // These are no names in a URL, however they are written.
        match self.id.as_str() {
            "" | "." | ".." => Err(usage(format!("'{}' is not the id of a call", self.id))),
            id => Ok(id),
        }
    }
}

fn list(args: &ListArgs, client: &Client, global: &Global, out: &mut Output) -> Result<()> {
    let mut values = Vec::new();
    for namespace in namespaces(client, args.all_namespaces, global)? {
        let mut parameters = Vec::new();
        parameters.extend(namespace.as_deref().map(|namespace| ("namespace", namespace)));
        parameters.extend(args.function.as_deref().map(|function| ("function", function)));
        match client.queue(&parameters) {
            // It has ended meanwhile.
            Err(error) if args.all_namespaces && error.status() == Some(400) => {}
            found => values.extend(found?),
        }
    }
    if out.json {
        return out.value(&values);
    }
    let lines: serde_json::Result<Vec<QueueLine>> = values.into_iter().map(serde_json::from_value).collect();
    let lines = lines.context("a line of the queue is not understood")?;
    if lines.is_empty() {
        out.note("No calls were handed over.");
        return Ok(());
    }
    Ok(out.table(&rows(&lines, args.all_namespaces))?)
}

fn rows(lines: &[QueueLine], with_namespace: bool) -> Vec<Vec<String>> {
    let head = ["NAME", "PENDING", "IN-FLIGHT", "OLDEST", "SIZE", "DONE", "RETRIED", "DEAD"];
    let row = |of: &QueueLine| {
        let name = if with_namespace { format!("{}.{}", of.name, of.namespace) } else { of.name.clone() };
        let oldest = of.oldest_seconds.map_or_else(|| "-".to_owned(), |age| duration::coarse(age as i64));
        vec![
            name,
            of.pending.to_string(),
            of.in_flight.to_string(),
            oldest,
            bytes(of.bytes),
            of.processed.to_string(),
            of.retried.to_string(),
            of.dead.to_string(),
        ]
    };
    std::iter::once(head.map(str::to_owned).to_vec()).chain(lines.iter().map(row)).collect()
}

fn result(args: &CallArgs, client: &Client, out: &mut Output) -> Result<()> {
    let id = args.id()?;
    let response = client.result_of_call(id, &args.header)?;
    if response.status() == StatusCode::ACCEPTED {
        bail!("{id} is not over yet{}", again(response.headers()));
    }
    let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let status: Option<u16> = text("x-function-status").and_then(|status| status.parse().ok());
    if let Some(lack) = text("x-roost-result") {
        bail!("the answer to {id} was not kept: {}", lacking(lack));
    }
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; BUFFER];
    loop {
        match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => out.raw(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => bail!("the result broke off: {error}"),
        }
    }
    match status {
        Some(status) if status >= 400 => bail!("the call was answered with {status}"),
        _ => Ok(()),
    }
}

/// When to ask again, if that is said.
fn again(headers: &HeaderMap) -> String {
    let seconds = headers.get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
    seconds.map_or_else(String::new, |seconds| format!("; ask again in {}", duration::coarse(seconds)))
}

fn lacking(why: &str) -> &str {
    match why {
        "too-large" => "it is too large",
        "unreadable" => "it cannot be read",
        why => why,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        global: Global,
        #[command(flatten)]
        args: QueueArgs,
    }

    #[test]
    fn a_function_is_one_line() {
        let text = r#"[{"name":"report","namespace":"dev","pending":140,"inFlight":10,"oldestSeconds":125.5,"bytes":5000,
            "submitted":1,"processed":7,"retried":2,"dead":1,"dropped":0,"redelivered":3},
            {"name":"idle","namespace":"dev","bytes":0}]"#;
        let lines: Vec<QueueLine> = serde_json::from_str(text).unwrap();
        let short = rows(&lines, false);
        assert_eq!(short[1], ["report", "140", "10", "2m", "4.9 KiB", "7", "2", "1"]);
        assert_eq!(short[2], ["idle", "0", "0", "-", "0 B", "0", "0", "0"]);
        assert_eq!(short[0].len(), short[1].len());
        assert_eq!(rows(&lines, true)[1][0], "report.dev");
    }

    #[test]
    fn it_is_listed_or_one_call_is_meant() {
        let read = |line: &str| {
            let words = std::iter::once("queue").chain(line.split_whitespace());
            Line::try_parse_from(words).ok().map(|line| (line.global.namespace, line.args))
        };
        let (_, args) = read("").unwrap();
        assert!(args.verb.is_none() && args.list.function.is_none());
        let (namespace, args) = read("--function f -n dev").unwrap();
        assert_eq!((namespace.as_deref(), args.list.function.as_deref()), (Some("dev"), Some("f")));
        assert!(read("-A").unwrap().1.list.all_namespaces);
        let (_, args) = read("result a/b -H authorization:x").unwrap();
        let Some(QueueVerb::Result(call)) = args.verb else { panic!("{args:?}") };
        assert_eq!((call.id.as_str(), call.header.len()), ("a/b", 1));
        assert!(matches!(read("cancel x").unwrap().1.verb, Some(QueueVerb::Cancel(_))));
        for refused in
            ["cancel", "result", "cancel a b", "-A -n dev", "-A --function f", "--function f cancel x"]
        {
            assert!(read(refused).is_none(), "{refused}");
        }
    }

    #[test]
    fn who_asks_too_early_hears_when_to_ask_again() {
        let said = HeaderMap::from_iter([(ureq::http::header::RETRY_AFTER, "1".parse().unwrap())]);
        assert_eq!(again(&said), "; ask again in 1s");
        assert_eq!(again(&HeaderMap::new()), "");
    }
}
