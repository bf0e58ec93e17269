//! A line of the access log: an entry as JSON.
//!
//! Owns the names of the fields. `docs/access-log.md` explains each of them, which a test compares. Pure.

use jiff::Timestamp;
use roost_proxy::function::ReplicaId;
use roost_proxy::{AccessEntry, EntryKind};
use serde::{Serialize, Serializer};
use tracing::debug;

/// The fields, in the order in which they stand in a line. What is not known is left out.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(serialize_with = "shown")]
    time: Stamp,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<String>,
    method: &'a str,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<&'a str>,
    #[serde(serialize_with = "debugged")]
    protocol: http::Version,
    status: u16,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_byte: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waited: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_in: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_out: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<std::net::SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    call_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replica: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    referer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    span_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    broken: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subprotocol: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages_in: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages_out: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    category: Option<&'a str>,
}

/// A time that shows itself to the millisecond.
struct Stamp(Timestamp);

fn shown<S: Serializer>(stamp: &Stamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{:.3}", stamp.0))
}

fn debugged<S: Serializer>(version: &http::Version, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{version:?}"))
}

/// Appends the line of `entry`, with its end.
pub(super) fn write_line(entry: &AccessEntry, to: &mut Vec<u8>) {
    let began = to.len();
    if let Err(error) = serde_json::to_writer(&mut *to, &line(entry)) {
        // Into memory, of texts and numbers: there is nothing that could fail.
        debug!("a line of the access log cannot be made: {error}");
        return to.truncate(began);
    }
    to.push(b'\n');
}

fn line(entry: &AccessEntry) -> Line<'_> {
    let seconds = |duration: std::time::Duration| duration.as_micros() as f64 / 1e6;
    let trace = entry.trace.as_ref();
    let span = |id: u64| format!("{id:016x}");
    let tunnel = entry.tunnel.as_deref().filter(|_| entry.kind == EntryKind::Tunnel);
    let messages = tunnel.and_then(|tunnel| tunnel.messages);
    let close = tunnel.map(|tunnel| tunnel.close);
    Line {
        time: Stamp(Timestamp::try_from(entry.time).unwrap_or_default()),
        kind: match entry.kind {
            EntryKind::Request => "request",
            EntryKind::Tunnel => "tunnel",
            EntryKind::Call => "call",
        },
        function: entry.function.as_ref().map(ToString::to_string),
        method: entry.method.as_str(),
        path: &entry.path,
        query: entry.query.as_deref(),
        protocol: entry.version,
        status: entry.status,
        seconds: seconds(entry.duration),
        first_byte: entry.first_byte.map(seconds),
        waited: entry.waited.map(seconds),
        bytes_in: entry.received,
        bytes_out: entry.sent,
        peer: entry.peer,
        user: entry.user.as_deref(),
        call_id: entry.call_id.as_deref(),
        replica: entry.replica.as_ref().map(ReplicaId::as_str),
        user_agent: entry.user_agent.as_deref(),
        referer: entry.referer.as_deref(),
        trace_id: trace.map(|trace| format!("{:032x}", trace.trace_id)),
        parent_id: trace.and_then(|trace| trace.parent_id).map(span),
        span_id: trace.and_then(|trace| trace.span_id).map(span),
        broken: entry.broken,
        subprotocol: tunnel.and_then(|tunnel| tunnel.subprotocol.as_deref()),
        messages_in: messages.map(|[of_client, _]| of_client),
        messages_out: messages.map(|[_, to_client]| to_client),
        code: close.and_then(|close| close.code),
        by: close.and_then(|close| close.by),
        category: close.map(|close| close.category),
    }
}
