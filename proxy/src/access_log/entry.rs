//! What the access log knows of a request or a tunnel, and where it goes.
//!
//! Owns which requests are told of, and how much of what a client wrote. Of headers it holds the agent, and the referrer
//! if that is wanted; never another one, so no secret gets in. Never formats or writes: that is the [`AccessSink`]'s.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use http::{Method, Version};

use crate::function::{FunctionKey, ReplicaId};
use crate::trace::Trace;

/// The most that is kept of a text that a client wrote, in bytes.
const MAX_TEXT: usize = 1024;

/// The longest method that is kept whole: no registered one is longer.
const MAX_METHOD: usize = 32;

/// Of what an [`AccessEntry`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A client's request.
    Request,
    /// A tunnel, from its 101 to its end.
    Tunnel,
    /// A call of ours, that no client waits for.
    Call,
}

/// One line of the access log.
#[derive(Debug, Clone)]
pub struct AccessEntry {
    /// Of what this is.
    pub kind: EntryKind,
    /// When it began.
    pub time: SystemTime,
    /// How long it took, to its last byte.
    pub duration: Duration,
    /// The function, if the request is one to a function that there is.
    pub function: Option<FunctionKey>,
    /// The method, or the beginning of one that is too long to be one.
    pub method: Method,
    /// The path as it was sent, or its beginning.
    pub path: Box<str>,
    /// The query, or its beginning, if it is wanted.
    pub query: Option<Box<str>>,
    /// The version of the client's protocol.
    pub version: Version,
    /// Did it come in TLS?
    pub secure: bool,
    /// What the client was answered, or [`CLIENT_LEFT`](crate::CLIENT_LEFT).
    pub status: u16,
    /// Body bytes from the client, as far as they are known.
    pub received: Option<u64>,
    /// Body bytes to the client, as far as they are known.
    pub sent: Option<u64>,
    /// From its arrival to the head of the function's answer.
    pub first_byte: Option<Duration>,
    /// How long it took to get a replica: a cold start, or a place at one.
    pub waited: Option<Duration>,
    /// The other end of the client's connection; none for a call of ours.
    pub peer: Option<SocketAddr>,
    /// Who the client is, if the function asked for it.
    pub user: Option<Box<str>>,
    /// What the call is known by.
    pub call_id: Option<Box<str>>,
    /// The replica that it was sent to.
    pub replica: Option<ReplicaId>,
    /// What the client says it is.
    pub user_agent: Option<Box<str>>,
    /// Where it says it comes from, if that is wanted.
    pub referer: Option<Box<str>>,
    /// The trace that it is part of.
    pub trace: Option<Trace>,
    /// What broke it off, if anything did.
    pub broken: Option<&'static str>,
    /// Of a tunnel.
    pub tunnel: Option<Box<TunnelEntry>>,
}

/// What only a tunnel has.
#[derive(Debug, Clone, Default)]
pub struct TunnelEntry {
    /// How long it took to open it: from the arrival of its request.
    pub opening: Duration,
    /// The protocol that both sides agreed upon within WebSocket.
    pub subprotocol: Option<Box<str>>,
    /// Messages from the client and to it, of a WebSocket.
    pub messages: Option<[u64; 2]>,
    /// How it was closed.
    pub close: TunnelClose,
}

/// How a tunnel was closed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TunnelClose {
    /// The code of the Close, if there was one and it is known.
    pub code: Option<u16>,
    /// Who ended it: `client`, `function`, `host` or `network`, if that is known.
    pub by: Option<&'static str>,
    /// Why, in one word.
    pub category: &'static str,
    /// Is it something to look into?
    pub failed: bool,
}

impl TunnelClose {
    /// Of a tunnel that was broken off so, and closed with this code by somebody.
    pub(super) fn of(broken: Option<&'static str>, closed: Option<(u16, &'static str)>) -> Self {
        let (category, by, failed) = match broken {
            None => ("normal", None, false),
            Some("exited") => ("function_exit", Some("function"), true),
            Some("reset" | "upgrade") => ("network", Some("network"), true),
            Some(ended) => (ended, Some("host"), false),
        };
        Self { code: closed.map(|(code, _)| code), by: closed.map(|(_, by)| by).or(by), category, failed }
    }
}

/// Takes entries.
pub trait AccessSink: Send + Sync {
    /// Takes one. Called in the task of the request: it must not block.
    fn take(&self, entry: Box<AccessEntry>);
}

/// What is told, and how much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AccessLogOptions {
    /// The share of requests that is told of, 0 to 1. Failures always are.
    pub sample: f64,
    /// Are queries?
    pub query: bool,
    /// Are referrers?
    pub referer: bool,
}

impl Default for AccessLogOptions {
    fn default() -> Self {
        Self { sample: 1.0, query: false, referer: false }
    }
}

/// The access log, or none. Clones share it.
#[derive(Clone, Default)]
pub struct AccessLog(Option<Arc<Open>>);

/// A log that somebody reads.
pub(super) struct Open {
    /// Takes the lines.
    lines: Option<Arc<dyn AccessSink>>,
    /// Takes the entries that are spans of ours.
    spans: Option<Arc<dyn AccessSink>>,
    pub(super) options: AccessLogOptions,
    turn: AtomicU64,
}

impl AccessLog {
    /// A log that goes to `sink`.
    #[must_use]
    pub fn new(options: AccessLogOptions, sink: impl AccessSink + 'static) -> Self {
        Self::open_for(Some(Arc::new(sink)), None, options)
    }

    /// The same lines, or none; and `sink` takes each entry that is a span of ours in a trace that is to be recorded,
    /// whatever share of the lines is written. A tunnel is one span: it comes at its end, and its request does not.
    #[must_use]
    pub fn with_spans(&self, sink: impl AccessSink + 'static) -> Self {
        let (lines, options) = match &self.0 {
            Some(open) => (open.lines.clone(), open.options),
            None => (None, AccessLogOptions::default()),
        };
        Self::open_for(lines, Some(Arc::new(sink)), options)
    }

    fn open_for(
        lines: Option<Arc<dyn AccessSink>>,
        spans: Option<Arc<dyn AccessSink>>,
        options: AccessLogOptions,
    ) -> Self {
        Self(Some(Arc::new(Open { lines, spans, options, turn: AtomicU64::new(0) })))
    }

    /// Is there one?
    pub(crate) fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn open(&self) -> Option<&Arc<Open>> {
        self.0.as_ref()
    }
}

impl Open {
    /// Is this one of those that are told of, whatever comes of them?
    pub(super) fn samples(&self) -> bool {
        self.options.sample >= 1.0
            || is_sampled(self.turn.fetch_add(1, Ordering::Relaxed), self.options.sample)
    }

    /// Gives an entry that has ended to those who want it; `told` is whether it is a line.
    pub(super) fn give(&self, entry: Box<AccessEntry>, told: bool) {
        let is_span = entry.trace.is_some_and(|trace| trace.is_recorded());
        match (self.lines.as_ref().filter(|_| told), self.spans.as_ref().filter(|_| is_span)) {
            (Some(lines), Some(spans)) => {
                spans.take(entry.clone());
                lines.take(entry);
            }
            (Some(sink), None) | (None, Some(sink)) => sink.take(entry),
            (None, None) => {}
        }
    }

    /// Gives an entry that is no span of its own: one is to come that is.
    pub(super) fn give_line(&self, entry: &AccessEntry) {
        if let Some(lines) = &self.lines {
            lines.take(Box::new(entry.clone()));
        }
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AccessLog").field(&self.0.as_ref().map(|open| open.options)).finish()
    }
}

/// Is number `turn` among the share? Evenly spread, but in no step that clients might have too: multiples of the golden
/// ratio, of which the fraction counts.
fn is_sampled(turn: u64, share: f64) -> bool {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let fraction = (turn.wrapping_mul(STEP) >> 32) as f64 / f64::from(u32::MAX);
    fraction < share
}

/// A method that is no longer than one may be.
pub(super) fn method(method: &Method) -> Method {
    match method.as_str().as_bytes() {
        text if text.len() > MAX_METHOD => Method::from_bytes(&text[..MAX_METHOD]).unwrap_or_default(),
        _ => method.clone(),
    }
}

/// What is kept of bytes that are meant to be text. A copy: they are part of a larger buffer.
pub(super) fn text(bytes: &[u8]) -> Box<str> {
    let cut = &bytes[..bytes.len().min(MAX_TEXT)];
    String::from_utf8_lossy(cut).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_sampled_as_the_share_says_and_not_in_a_row() {
        for (share, least, most) in [(0.0, 0, 0), (0.01, 95, 105), (0.5, 4_990, 5_010), (0.9, 8_990, 9_010)] {
            let sampled = (0..10_000).filter(|turn| is_sampled(*turn, share)).count();
            assert!((least..=most).contains(&sampled), "{share}: {sampled}");
        }
        // Nor does one of two that take turns get all of it.
        for parity in [0, 1] {
            let sampled = (0..10_000).filter(|turn| turn % 2 == parity && is_sampled(*turn, 0.1)).count();
            assert!((490..=510).contains(&sampled), "{sampled}");
        }
    }

    #[test]
    fn how_a_tunnel_was_closed_is_told_in_one_word_and_by_whom() {
        for (broken, closed, category, by, failed) in [
            (None, None, "normal", None, false),
            (None, Some((1000, "client")), "normal", Some("client"), false),
            (Some("restart"), Some((1012, "host")), "restart", Some("host"), false),
            (Some("idle"), None, "idle", Some("host"), false),
            (Some("exited"), Some((1011, "function")), "function_exit", Some("function"), true),
            (Some("reset"), None, "network", Some("network"), true),
            (Some("upgrade"), None, "network", Some("network"), true),
        ] {
            let code = closed.map(|(code, _)| code);
            assert_eq!(TunnelClose::of(broken, closed), TunnelClose { code, by, category, failed });
        }
    }

    #[test]
    fn of_a_text_no_more_is_kept_than_helps() {
        assert_eq!(&*text(b"curl/8"), "curl/8");
        assert_eq!(text(&[b'a'; 5000]).len(), MAX_TEXT);
        assert_eq!(&*text(b"a\xffb"), "a\u{fffd}b");
        assert_eq!(method(&Method::GET), Method::GET);
        assert_eq!(method(&Method::from_bytes(&[b'X'; 5000]).unwrap()).as_str().len(), MAX_METHOD);
    }
}
