//! `roost invoke`: calls a function and streams what it answers, byte for byte, as it comes.

use std::fs::File;
use std::io::{self, Cursor, IsTerminal, Read};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;
use ureq::http::header::{HeaderName, HeaderValue};
use ureq::http::{HeaderMap, Method};

use crate::args::Global;
use crate::client::Payload;
use crate::duration;
use crate::failure::usage;
use crate::name::Target;
use crate::output::Output;

/// How much of the answer is handed on at once, in bytes.
const BUFFER: usize = 32 * 1024;

const EXAMPLES: &str = "\
Examples:
  roost invoke echo -d hi
  roost invoke resize -H 'Content-Type: image/png' < photo.png > small.png
  roost invoke shop --path /orders/7 --query full=1 -X GET
  roost invoke report --async -d may \\
    -H 'X-Callback-Url: http://gateway:8080/function/mail'
  roost invoke report --async --delay 10m --keep-result 1h -d may";

/// Call a function and print what it answers
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct InvokeArgs {
    /// Name of the function
    name: String,
    /// What to send; @FILE sends a file. Without it stdin is sent, unless it is a terminal
    #[arg(short, long, value_name = "DATA")]
    data: Option<String>,
    /// HTTP method
    #[arg(short = 'X', long, default_value = "POST", value_name = "METHOD")]
    method: String,
    /// Header; may be repeated
    #[arg(short = 'H', long, value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// Query parameter; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    query: Vec<String>,
    /// Path below the function
    #[arg(long, value_name = "/PATH", default_value = "", hide_default_value = true)]
    path: String,
    /// Do not wait for the answer: hand the call over, and print its id
    #[arg(short = 'a', long = "async")]
    later: bool,
    #[command(flatten)]
    wishes: Wishes,
    /// Type of what is sent
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
}

/// What may be wished of a call that is handed over.
#[derive(Debug, Args)]
#[command(next_help_heading = "With --async")]
struct Wishes {
    /// Not before so long from now, such as 30s
    #[arg(long, value_name = "DURATION", requires = "later", value_parser = duration::parse)]
    delay: Option<Duration>,
    /// Not any more so long from now: a dead letter then
    #[arg(long, value_name = "DURATION", requires = "later", value_parser = duration::parse)]
    expires: Option<Duration>,
    /// From 0 to 9; those with more begin first [default: 4]
    #[arg(long, value_name = "NUMBER", requires = "later", value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: Option<u8>,
    /// Behind all calls with this key that came before, one at a time
    #[arg(long, value_name = "KEY", requires = "later", value_parser = key)]
    order_key: Option<String>,
    /// Not if there was a call with this key: its id is printed instead
    #[arg(long, value_name = "KEY", requires = "later", value_parser = key)]
    idempotency_key: Option<String>,
    /// Keep the answer so long: roost queue result
    #[arg(long, value_name = "DURATION", requires = "later", value_parser = duration::parse)]
    keep_result: Option<Duration>,
}

impl Wishes {
    /// As headers say it.
    fn headers(&self) -> impl Iterator<Item = (String, String)> {
        let millis = |wish: Option<Duration>| wish.map(|wish| format!("{}ms", wish.as_millis()));
        let all = [
            ("X-Roost-Delay", millis(self.delay)),
            ("X-Roost-Expires", millis(self.expires)),
            ("X-Roost-Priority", self.priority.map(|priority| priority.to_string())),
            ("X-Roost-Order-Key", self.order_key.clone()),
            ("X-Roost-Idempotency-Key", self.idempotency_key.clone()),
            ("X-Roost-Keep-Result", millis(self.keep_result)),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)))
    }
}

pub(crate) fn run(args: &InvokeArgs, global: &Global, out: &mut Output) -> Result<()> {
    let target = Target::new(&args.name, global.namespace.as_deref())?;
    let method = Method::from_bytes(args.method.to_uppercase().as_bytes())
        .map_err(|_| usage(format!("'{}' is not a method", args.method)))?;
    let client = super::connect(global)?;
    let mut headers = args.header.clone();
    headers.extend(args.wishes.headers());
    let typed = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    if let Some(kind) = args.content_type.as_ref().filter(|_| !typed) {
        headers.push(("Content-Type".into(), kind.clone()));
    }
    let payload = payload(args, &method)?;
    let response = client.invoke(method, &address(&target, args)?, &headers, payload)?;
    let status = response.status();
    if args.later && status.is_success() {
        return tell_id(response.headers(), out);
    }
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; BUFFER];
    loop {
        match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => out.raw(&buffer[..count])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => bail!("the answer of {target} broke off: {e}"),
        }
    }
    if !status.is_success() {
        bail!("{target} answered {status}");
    }
    Ok(())
}

/// Prints the id of a call that was handed over now, or before.
fn tell_id(headers: &HeaderMap, out: &mut Output) -> Result<()> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let duplicate = text("x-roost-duplicate");
    let id = duplicate.or_else(|| text("x-call-id")).unwrap_or_default();
    if out.json {
        return out.value(&json!({ "callId": id, "duplicate": duplicate.is_some() }));
    }
    if duplicate.is_some() {
        out.note("A call with this idempotency key was handed over before.");
    }
    Ok(out.line(id)?)
}

/// What to send, and how long it is where that is known.
fn payload(args: &InvokeArgs, method: &Method) -> Result<Payload> {
    let data = args.data.as_deref();
    if let Some(path) = data.and_then(|d| d.strip_prefix('@')) {
        if path == "-" {
            return Ok(Payload::Stream(Box::new(io::stdin()), None));
        }
        let context = || format!("cannot read {path}");
        let file = File::open(path).with_context(context)?;
        let about = file.metadata().with_context(context)?;
        let length = about.is_file().then_some(about.len());
        return Ok(Payload::Stream(Box::new(file), length));
    }
    if let Some(data) = data {
        return Ok(Payload::Bytes(data.as_bytes().to_vec()));
    }
    let bodyless = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::DELETE);
    if bodyless || io::stdin().is_terminal() {
        return Ok(Payload::None);
    }
    // An empty stdin, as under cron, is an empty body: known by its first byte.
    let mut first = [0; 1];
    match io::stdin().read(&mut first).context("cannot read stdin")? {
        0 => Ok(Payload::None),
        _ => Ok(Payload::Stream(Box::new(Cursor::new(first).chain(io::stdin())), None)),
    }
}

/// Path and query of the call.
fn address(target: &Target, args: &InvokeArgs) -> Result<String> {
    let path = args.path.trim_start_matches('/');
    let mut address = format!("/{}/{target}", if args.later { "async-function" } else { "function" });
    if !path.is_empty() {
        address = format!("{address}/{path}");
    }
    for (i, pair) in args.query.iter().enumerate() {
        address.push(if i == 0 && !path.contains('?') { '?' } else { '&' });
        address.push_str(pair);
    }
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == '#';
    if address.contains(bad) {
        return Err(usage("path and query must be percent-encoded: a space is %20, # is %23"));
    }
    Ok(address)
}

/// What a header can carry, and no spaces around it, which it would lose.
fn key(text: &str) -> Result<String, String> {
    if text.is_empty() || text.trim() != text || HeaderValue::from_str(text).is_err() {
        return Err("expected text on one line".to_owned());
    }
    Ok(text.to_owned())
}

/// Reads `Name: value`.
pub(super) fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once([':', '=']).ok_or("write it like 'Name: value'")?;
    let (name, value) = (name.trim(), value.trim());
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("'{name}' is not a header's name"))?;
    HeaderValue::from_str(value)
        .map_err(|_| format!("the value of '{name}' holds what a header cannot carry"))?;
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: InvokeArgs,
    }

    fn address_of(line: &[&str]) -> Option<String> {
        let args = Line::try_parse_from(["invoke", "a"].iter().chain(line)).ok()?.args;
        address(&Target::new("a", Some("dev")).unwrap(), &args).ok()
    }

    #[test]
    fn path_and_query_follow_the_name() {
        let table: [(&[&str], Option<&str>); 7] = [
            (&[], Some("/function/a.dev")),
            (&["-a", "--path", "b"], Some("/async-function/a.dev/b")),
            (&["--path", "/b/c"], Some("/function/a.dev/b/c")),
            (&["--query", "x=1", "--query", "y=2"], Some("/function/a.dev?x=1&y=2")),
            (&["--path", "b?z=0", "--query", "x=1"], Some("/function/a.dev/b?z=0&x=1")),
            (&["--query", "x=a b"], None),
            (&["--path", "a\nb"], None),
        ];
        for (line, expected) in table {
            assert_eq!(address_of(line).as_deref(), expected, "{line:?}");
        }
    }

    #[test]
    fn wishes_are_headers_of_calls_that_are_handed_over_and_of_no_others() {
        let wishes = |line: &[&str]| {
            let args = Line::try_parse_from(["invoke", "a"].iter().chain(line)).ok()?.args;
            Some(args.wishes.headers().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>())
        };
        let all =
            "-a --delay 1m30s --expires 2h --priority 9 --order-key k --idempotency-key i --keep-result 90";
        let all: Vec<_> = all.split(' ').collect();
        let expected = [
            "X-Roost-Delay: 90000ms",
            "X-Roost-Expires: 7200000ms",
            "X-Roost-Priority: 9",
            "X-Roost-Order-Key: k",
            "X-Roost-Idempotency-Key: i",
            "X-Roost-Keep-Result: 90000ms",
        ];
        assert_eq!(wishes(&all).unwrap(), expected);
        assert_eq!(wishes(&["-a"]).unwrap(), [""; 0]);
        for refused in [
            &["--delay", "1s"][..],
            &["--keep-result", "1s"],
            &["-a", "--priority", "10"],
            &["-a", "--delay", "soon"],
            &["-a", "--order-key", " k"],
            &["-a", "--idempotency-key", ""],
        ] {
            assert_eq!(wishes(refused), None, "{refused:?}");
        }
    }

    #[test]
    fn headers_are_read_both_ways_and_checked() {
        assert_eq!(header("X-A: b: c"), Ok(("X-A".into(), "b: c".into())));
        assert_eq!(header("X-A=b"), Ok(("X-A".into(), "b".into())));
        assert!(header("X A: b").is_err() && header("novalue").is_err() && header("a: b\nc: d").is_err());
    }
}
