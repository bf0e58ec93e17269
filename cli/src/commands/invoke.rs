//! `roost invoke`: calls a function and streams what it answers, byte for byte, as it comes.

use std::fs::File;
use std::io::{self, Cursor, IsTerminal, Read};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;
use ureq::http::Method;
use ureq::http::header::{HeaderName, HeaderValue};

use crate::args::Global;
use crate::client::Payload;
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
    -H 'X-Callback-Url: http://gateway:8080/function/mail'";

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
    /// Type of what is sent
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
}

pub(crate) fn run(args: &InvokeArgs, global: &Global, out: &mut Output) -> Result<()> {
    let target = Target::new(&args.name, global.namespace.as_deref())?;
    let method = Method::from_bytes(args.method.to_uppercase().as_bytes())
        .map_err(|_| usage(format!("'{}' is not a method", args.method)))?;
    let client = super::connect(global)?;
    let mut headers = args.header.clone();
    let typed = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    if let Some(kind) = args.content_type.as_ref().filter(|_| !typed) {
        headers.push(("Content-Type".into(), kind.clone()));
    }
    let payload = payload(args, &method)?;
    let response = client.invoke(method, &address(&target, args)?, &headers, payload)?;
    let status = response.status();
    if args.later && status.is_success() {
        let id = response.headers().get("x-call-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
        return if out.json { out.value(&json!({ "callId": id })) } else { Ok(out.line(id)?) };
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

fn header(text: &str) -> Result<(String, String), String> {
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
    fn headers_are_read_both_ways_and_checked() {
        assert_eq!(header("X-A: b: c"), Ok(("X-A".into(), "b: c".into())));
        assert_eq!(header("X-A=b"), Ok(("X-A".into(), "b".into())));
        assert!(header("X A: b").is_err() && header("novalue").is_err() && header("a: b\nc: d").is_err());
    }
}
