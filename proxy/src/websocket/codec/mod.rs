//! Dialects: what an event is as a request to a function, and what the function's answer wants done.
//!
//! Owns the choice among them. Pure: events and answers in, requests and actions out.
//!
//! ```text
//!  Event ──► call ──► Encoded::Call ──(a function answers)──► decision, for Connect ──► Decision
//!              │                    │                     └──► outcome, else ─────────► Outcome
//!              │                    └──(nobody answers)────► failed ─────────────────► Outcome
//!              └────► Encoded::Instead: no function is asked, these actions are all
//! ```
//!
//! A dialect never refuses an answer for what it asks beside: a verb that cannot be read is left out, and complained of.

use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use jiff::Timestamp;

use super::event::{Action, Decision, Event, Outcome, What};
use super::validation::Validation;
use crate::function::FunctionKey;

pub mod aws;
mod body;
pub mod cloudevents;
mod frames;
mod multipart;
#[cfg(test)]
mod samples;

use aws::AwsApi;
use cloudevents::CloudEvents;

/// A dialect, with what it has to know to be spoken.
#[derive(Debug, Clone)]
pub enum Codec {
    /// `CloudEvents` over HTTP, as Azure Web PubSub sends them.
    CloudEvents(CloudEvents),
    /// The events of an API Gateway WebSocket API.
    Aws(AwsApi),
}

/// What becomes of an event.
#[derive(Debug)]
pub enum Encoded {
    /// A function is to be asked.
    Call(Box<Call>),
    /// Nobody is: this is all that is done of it. A client that wants to connect may.
    Instead(Vec<Action>),
}

/// A request that a function is to be sent.
#[derive(Debug)]
pub struct Call {
    /// Which function.
    pub function: FunctionKey,
    /// With its URI from the path on. What only the proxy knows, such as `Host` and `X-Call-Id`, is not among its headers.
    pub request: Request<Bytes>,
    /// For whoever reads the answer.
    pub terms: Terms,
}

/// What has to be known of a [`Call`] to read its answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Terms {
    /// The body of the answer is for the client.
    two_way: bool,
}

impl Terms {
    /// Those of a call whose answer is for the client, or is not.
    pub(super) fn of(two_way: bool) -> Self {
        Self { two_way }
    }

    /// Is the body of the answer for the client?
    pub(super) fn is_two_way(self) -> bool {
        self.two_way
    }
}

/// What an answer means.
#[derive(Debug)]
pub struct Decoded<T> {
    /// What is to be done.
    pub meant: T,
    /// What the function said that means nothing, in words for its log. The rest of its answer counts.
    pub complaints: Vec<String>,
}

impl Codec {
    /// May an event be of several messages? If not, each is an event of its own.
    #[must_use]
    pub fn batches(&self) -> bool {
        match self {
            Self::CloudEvents(settings) => settings.batch,
            Self::Aws(_) => false,
        }
    }

    /// Is a function of this dialect told of WebSockets and of nothing else? What is behind the same address at AWS answers no
    /// plain `GET`.
    #[must_use]
    pub fn is_for_websockets_alone(&self) -> bool {
        matches!(self, Self::Aws(_))
    }

    /// The request that tells a function of an event. Asked again for each attempt.
    #[must_use]
    pub fn call(&self, event: &Event<'_>) -> Encoded {
        match self {
            Self::CloudEvents(settings) => settings.call(event),
            Self::Aws(api) => api.call(event),
        }
    }

    /// What a function says to a client that wants to connect. `event` is what it was told of, by a call with these `terms`.
    #[must_use]
    pub fn decision(&self, event: &Event<'_>, terms: Terms, answer: Response<Bytes>) -> Decoded<Decision> {
        match self {
            Self::CloudEvents(_) => cloudevents::decision(event, answer),
            Self::Aws(api) => api.decision(event, terms, answer),
        }
    }

    /// What a function says to any other event, which it was told by a call with these `terms`.
    #[must_use]
    pub fn outcome(&self, event: &Event<'_>, terms: Terms, answer: Response<Bytes>) -> Decoded<Outcome> {
        match self {
            Self::CloudEvents(_) => cloudevents::outcome(answer),
            Self::Aws(api) => api.outcome(event, terms, answer),
        }
    }

    /// What the function has said of events of this host, and how it is asked; `None` where it need not be.
    pub(super) fn validation(&self) -> Option<(&Validation, impl FnOnce() -> Request<Bytes>)> {
        match self {
            Self::CloudEvents(settings) => settings
                .validation
                .as_ref()
                .map(|validation| (validation, || cloudevents::question(settings))),
            Self::Aws(_) => None,
        }
    }

    /// Does its answer to that allow events of this host? If not, what is wrong with it.
    pub(super) fn allows(&self, status: StatusCode, headers: &HeaderMap) -> Result<(), String> {
        match self {
            Self::CloudEvents(settings) => cloudevents::allows(&settings.origin, status, headers),
            Self::Aws(_) => Ok(()),
        }
    }

    /// A revision is asked once, however often its settings are read.
    pub(crate) fn go_on_with(&mut self, before: &Self) {
        if let (Self::CloudEvents(now), Self::CloudEvents(before)) = (self, before)
            && let (Some(validation), Some(known)) = (&now.validation, &before.validation)
            && validation.is_of_same(known)
        {
            now.validation = Some(known.clone());
        }
    }

    /// What it amounts to that no function answered, where this host would say `status` to a plain request.
    #[must_use]
    pub fn failed(&self, event: &Event<'_>, status: StatusCode) -> Outcome {
        match self {
            Self::CloudEvents(_) => Outcome::Failed { status: status.as_u16(), tell: None },
            Self::Aws(_) => aws::failed(event, status.as_u16()),
        }
    }
}

/// Does the client that `event` is about offer to speak `subprotocol`?
fn offered(event: &Event<'_>, subprotocol: &str) -> bool {
    match event.what {
        What::Connect(handshake) => handshake.subprotocols.iter().any(|offered| offered == subprotocol),
        _ => false,
    }
}

/// The parameters behind the `?` of a path, decoded, in their order.
fn query(path: &str) -> impl Iterator<Item = (String, String)> {
    let text = path.split_once('?').map_or("", |(_, query)| query);
    form_urlencoded::parse(text.as_bytes()).into_owned()
}

/// A time as `2026-11-20T20:38:36.007Z`. `None` for one out of this calendar's reach.
fn rfc3339(at: SystemTime) -> Option<String> {
    Some(Timestamp::try_from(at).ok()?.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

/// Bytes in hexadecimal digits, lower case.
fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16);
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(digit).collect()
}
