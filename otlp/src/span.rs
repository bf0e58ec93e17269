//! What a span says of a request or a tunnel.
//!
//! Owns the names of the attributes: those of OpenTelemetry's semantic conventions for HTTP servers and for functions
//! where there are such, else ours, which begin with `roost.`. `docs/opentelemetry.md` explains each of them, which a test
//! compares. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Method, Version};
use roost_proxy::function::ReplicaId;
use roost_proxy::{AccessEntry, CLIENT_LEFT, EntryKind};

use crate::message::{
    ExportTraceServiceRequest, HAS_IS_REMOTE, IS_REMOTE, InstrumentationScope, KeyValue, Resource,
    ResourceSpans, SAMPLED, ScopeSpans, Span, SpanKind, Status, StatusCode, Value,
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Who broke it off if the client did.
const CLIENT: &str = "client";

/// The spans of these entries, as the collector is sent them.
pub(crate) fn request(entries: &[Box<AccessEntry>], host: Option<&str>) -> ExportTraceServiceRequest {
    let mut attributes = Attributes::default();
    attributes.text("service.name", "roost");
    attributes.text("service.version", VERSION);
    attributes.maybe("host.name", host);
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes: attributes.0 }),
            scope_spans: vec![ScopeSpans {
                scope: Some(InstrumentationScope { name: "roost".to_owned(), version: VERSION.to_owned() }),
                spans: entries.iter().filter_map(|entry| span(entry)).collect(),
            }],
        }],
    }
}

/// The span of an entry, if it is one of ours.
fn span(entry: &AccessEntry) -> Option<Span> {
    let trace = entry.trace?;
    let span_id = trace.span_id?;
    let opening = entry.tunnel.as_ref().map_or(Duration::ZERO, |tunnel| tunnel.opening);
    let remote = if trace.parent_id.is_some() { IS_REMOTE } else { 0 };
    let code = if failed(entry) { StatusCode::Error } else { StatusCode::Unset };
    Some(Span {
        trace_id: trace.trace_id.to_be_bytes().into(),
        span_id: span_id.to_be_bytes().into(),
        parent_span_id: trace.parent_id.map(|id| id.to_be_bytes().into()).unwrap_or_default(),
        name: name(entry),
        kind: match entry.kind {
            EntryKind::Request | EntryKind::Tunnel => SpanKind::Server,
            // It was taken from the queue of calls that nobody waits for.
            EntryKind::Call => SpanKind::Consumer,
        }
        .into(),
        start_time_unix_nano: nanoseconds(entry.time.checked_sub(opening).unwrap_or(entry.time)),
        end_time_unix_nano: nanoseconds(entry.time.checked_add(entry.duration).unwrap_or(entry.time)),
        attributes: attributes(entry),
        status: Some(Status { code: code.into() }),
        flags: if trace.sampled { SAMPLED } else { 0 } | HAS_IS_REMOTE | remote,
    })
}

/// Few different ones: never with what a client chose freely.
fn name(entry: &AccessEntry) -> String {
    let method = if is_known(&entry.method) { entry.method.as_str() } else { "HTTP" };
    match &entry.function {
        Some(function) => format!("{method} {function}"),
        None => method.to_owned(),
    }
}

fn attributes(entry: &AccessEntry) -> Vec<KeyValue> {
    let mut attributes = Attributes::default();
    let method = entry.method.as_str();
    if is_known(&entry.method) {
        attributes.text("http.request.method", method);
    } else {
        attributes.text("http.request.method", "_OTHER");
        attributes.text("http.request.method_original", method);
    }
    if entry.status != CLIENT_LEFT {
        attributes.number("http.response.status_code", entry.status.into());
    }
    attributes.text("url.path", &entry.path);
    attributes.text("url.scheme", if entry.secure { "https" } else { "http" });
    attributes.maybe("network.protocol.version", version(entry.version));
    attributes
        .maybe("client.address", entry.peer.map(|peer| peer.ip().to_canonical().to_string()).as_deref());
    attributes.maybe("user_agent.original", entry.user_agent.as_deref());
    attributes.maybe("error.type", error_type(entry).as_deref());
    attributes.maybe("faas.name", entry.function.as_ref().map(ToString::to_string).as_deref());
    attributes.maybe("faas.instance", entry.replica.as_ref().map(ReplicaId::as_str));
    attributes.maybe("roost.call_id", entry.call_id.as_deref());
    if let Some(waited) = entry.waited {
        attributes.push("roost.waited", Value::Double(waited.as_secs_f64()));
    }
    if let Some(close) = entry.tunnel.as_ref().map(|tunnel| tunnel.close) {
        attributes.text("roost.tunnel.category", close.category);
        if let Some(code) = close.code {
            attributes.number("roost.tunnel.code", code.into());
        }
    }
    attributes.0
}

/// What went wrong, if anything did, in one word.
fn error_type(entry: &AccessEntry) -> Option<String> {
    match &entry.tunnel {
        Some(tunnel) => tunnel.close.failed.then(|| tunnel.close.category.to_owned()),
        None if entry.status >= 500 => Some(entry.status.to_string()),
        None if entry.status == CLIENT_LEFT => Some(CLIENT.to_owned()),
        None => entry.broken.map(str::to_owned),
    }
}

/// Did this side of it fail? Clients may leave when they like, and ask for what there is not.
fn failed(entry: &AccessEntry) -> bool {
    match &entry.tunnel {
        Some(tunnel) => tunnel.close.failed,
        None => entry.status >= 500 || entry.broken.is_some_and(|by| by != CLIENT),
    }
}

/// Is it a method that the conventions name?
fn is_known(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET
            | Method::HEAD
            | Method::POST
            | Method::PUT
            | Method::DELETE
            | Method::CONNECT
            | Method::OPTIONS
            | Method::TRACE
            | Method::PATCH
    )
}

fn version(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_11 => Some("1.1"),
        Version::HTTP_2 => Some("2"),
        Version::HTTP_3 => Some("3"),
        _ => None,
    }
}

/// Nanoseconds of Unix time, within what there is room for: until 2554.
fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Attributes, in the order in which they came.
#[derive(Default)]
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn push(&mut self, key: &str, value: Value) {
        self.0.push(KeyValue::new(key, value));
    }

    fn text(&mut self, key: &str, text: &str) {
        self.push(key, Value::String(text.to_owned()));
    }

    fn maybe(&mut self, key: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(key, text);
        }
    }

    fn number(&mut self, key: &str, number: i64) {
        self.push(key, Value::Int(number));
    }
}

#[cfg(test)]
mod tests;
