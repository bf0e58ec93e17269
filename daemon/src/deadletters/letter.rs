//! A dead letter: the request that came to nothing, and what is known of that.
//!
//! Owns the form in which it is written down, and what of a request is left out: whoever can read the file is not to be
//! anybody else by it.

use std::fmt;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use jiff::Timestamp;
use roost_proxy::function::FunctionKey;
use roost_proxy::websocket::event::ConnectionId;
use roost_proxy::websocket::{DeadEvent, EVENTS, Failing, Reason};
use serde::{Deserialize, Serialize};

use crate::queue::{Failure, Invocation};

/// Headers that are not written down.
const SECRET: [&str; 8] = [
    "authorization",
    "cookie",
    "grip-sig",
    "proxy-authorization",
    "set-cookie",
    "x-amz-security-token",
    "x-api-key",
    "x-auth-token",
];

/// How many bytes of a cause are written down.
const MAX_CAUSE: usize = 1024;

/// What a letter is known by. Of two letters the later one has the greater id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LetterId(u64);

/// A letter that is to be kept.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) head: Head,
    pub(super) body: Bytes,
}

/// A letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Its id.
    pub id: LetterId,
    /// All but the body.
    pub head: Head,
    /// The body of the request.
    pub body: Bytes,
}

/// What is known of a letter, but for its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// When it came to be one.
    pub at: Timestamp,
    /// How often it was sent.
    pub attempts: u32,
    /// What became of the last time.
    pub last: Last,
    /// What was asked.
    pub request: Asked,
    /// What it is.
    #[serde(flatten)]
    pub kind: Kind,
}

/// An attempt that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// When that was known.
    pub at: Timestamp,
    /// In one word: one of [`Reason`]'s names.
    pub reason: String,
    /// The status of the answer, or the one that stands for none.
    pub status: u16,
    /// In words.
    pub cause: String,
}

/// A request, but for its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Such as `POST`.
    pub method: String,
    /// The path, and the query behind it.
    pub path: String,
    /// Names and values; a byte of a value is a character.
    pub headers: Vec<(String, String)>,
}

/// What a letter is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Kind {
    /// An event of a WebSocket.
    Event(OfEvent),
    /// A call of the queue.
    Call(OfCall),
}

/// A call of the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfCall {
    /// What its client knows it by.
    pub id: String,
    /// The function as its client named it.
    pub name: String,
    /// When it was taken over, in milliseconds of Unix time.
    pub accepted: i64,
    /// Where its answer was wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callback: Option<String>,
}

/// An event of a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfEvent {
    /// What happened.
    pub event: String,
    /// On which connection.
    pub connection: String,
    /// Whose connection that is, if not of the function that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// The key of its replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The answer is for the client.
    pub two_way: bool,
}

impl LetterId {
    /// One behind `last`, which tells of `now` if it can.
    pub(super) fn behind(last: Self, now: Timestamp) -> Self {
        let milliseconds = u64::try_from(now.as_millisecond()).unwrap_or(0);
        Self((milliseconds << 16).max(last.0.saturating_add(1)))
    }

    /// That of the entry of this number in a log, written at this time: the same for whoever reads the log.
    #[cfg(feature = "nats")]
    pub(super) fn numbered(at: Timestamp, number: u64) -> Self {
        let milliseconds = u64::try_from(at.as_millisecond()).unwrap_or(0);
        Self((milliseconds << 16) | (number & 0xffff))
    }

    /// The first one of this time.
    pub(super) fn first_at(at: Timestamp) -> Self {
        Self::behind(Self(0), at)
    }

    /// One that is before all.
    pub(super) const NONE: Self = Self(0);

    /// The one that is spelt so.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_ours = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if is_ours { u64::from_str_radix(text, 16).ok().map(Self) } else { None }
    }
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Draft {
    pub(super) fn of_event(event: DeadEvent) -> Self {
        let DeadEvent { function, of, connection, event, key, two_way, request, attempts, failing } = event;
        let now = Timestamp::now();
        let (parts, body) = request.into_parts();
        let value = |value: &HeaderValue| value.as_bytes().iter().copied().map(char::from).collect();
        let kept = parts.headers.iter().filter(|(name, _)| !SECRET.contains(&name.as_str()));
        let headers = kept.map(|(name, text)| (name.as_str().to_owned(), value(text))).collect();
        let asked = Asked { method: parts.method.to_string(), path: parts.uri.to_string(), headers };
        let kind = Kind::Event(OfEvent {
            event: event.to_owned(),
            connection: connection.to_string(),
            of: (of != function).then(|| of.to_string()),
            key: key.map(|key| key.to_string()),
            two_way,
        });
        let head = Head { at: now, attempts, last: Last::new(now, &failing), request: asked, kind };
        Self { head, body }
    }

    /// That of a call, whose last attempt came to this.
    pub(super) fn of_call(
        call: &Invocation,
        body: Bytes,
        attempts: u32,
        failure: &Failure,
        reason: &str,
    ) -> Self {
        let now = Timestamp::now();
        let mut cause = failure.cause.clone();
        cause.truncate(cause.floor_char_boundary(MAX_CAUSE));
        let last = Last { at: now, reason: reason.to_owned(), status: failure.status, cause };
        let (method, path, headers) = call.asked();
        let kept = headers.iter().filter(|(name, _)| !SECRET.contains(&name.as_str()));
        let request =
            Asked { method: method.to_owned(), path: path.to_owned(), headers: kept.cloned().collect() };
        let kind = Kind::Call(OfCall {
            id: call.id.clone(),
            name: call.name.clone(),
            accepted: call.accepted,
            callback: call.callback.clone(),
        });
        Self { head: Head { at: now, attempts, last, request, kind }, body }
    }

    /// About how many bytes of memory it takes.
    pub(super) fn size(&self) -> usize {
        let headers = &self.head.request.headers;
        let headers: usize = headers.iter().map(|(name, value)| name.len() + value.len() + 48).sum();
        512 + headers + self.head.request.path.len() + self.head.last.cause.len() + self.body.len()
    }
}

impl Last {
    pub(super) fn new(at: Timestamp, failing: &Failing) -> Self {
        let mut cause = failing.cause.clone();
        cause.truncate(cause.floor_char_boundary(MAX_CAUSE));
        Self { at, reason: failing.reason.name().to_owned(), status: failing.status.as_u16(), cause }
    }

    fn failing(&self) -> Failing {
        let reason = Reason::ALL.into_iter().find(|reason| reason.name() == self.reason);
        Failing {
            reason: reason.unwrap_or(Reason::Unanswered),
            status: StatusCode::from_u16(self.status).unwrap_or(StatusCode::BAD_GATEWAY),
            cause: self.cause.clone(),
        }
    }
}

impl Letter {
    /// The event that it tells of, as one of `function`'s. `None` where it tells of none that can be.
    pub(super) fn event(&self, function: FunctionKey) -> Option<DeadEvent> {
        let Kind::Event(event) = &self.head.kind else { return None };
        let key = match &event.key {
            Some(key) => Some(key.parse().ok()?),
            None => None,
        };
        let of = match &event.of {
            Some(of) => FunctionKey::from_route(of).ok()?,
            None => function.clone(),
        };
        Some(DeadEvent {
            function,
            of,
            connection: ConnectionId::parse(&event.connection)?,
            event: EVENTS.into_iter().find(|name| *name == event.event)?,
            key,
            two_way: event.two_way,
            request: self.request()?,
            attempts: self.head.attempts,
            failing: self.head.last.failing(),
        })
    }

    /// The call that it tells of, to be made once more. `None` where it tells of none.
    pub(super) fn call(&self, function: FunctionKey) -> Option<Invocation> {
        let Kind::Call(of) = &self.head.kind else { return None };
        let asked = &self.head.request;
        let headers = asked.headers.clone();
        let mut call = Invocation::of_parts(function, of.id.clone(), &asked.method, &asked.path, headers);
        call.name = of.name.clone();
        call.callback = of.callback.clone();
        Some(call)
    }

    fn request(&self) -> Option<Request<Bytes>> {
        let asked = &self.head.request;
        let mut request = Request::new(self.body.clone());
        *request.method_mut() = Method::from_bytes(asked.method.as_bytes()).ok()?;
        *request.uri_mut() = asked.path.parse::<Uri>().ok()?;
        for (name, value) in &asked.headers {
            let bytes: Option<Vec<u8>> = value.chars().map(|char| u8::try_from(char).ok()).collect();
            let value = HeaderValue::from_maybe_shared(Bytes::from(bytes?)).ok()?;
            request.headers_mut().append(HeaderName::from_bytes(name.as_bytes()).ok()?, value);
        }
        Some(request)
    }
}
