//! The dialect of an API Gateway WebSocket API: the JSON of its events, routed by what a message says.
//!
//! Owns the settings of an API, and which route an event takes. What an event looks like is in `event`, how an answer is
//! read in `answer`. The calls with which functions speak to connections are in [`management`], and who may make them is
//! found in [`sigv4`].
//!
//! * `$connect`, `$disconnect` and each message go to the function of their route. An event without a route is no call:
//!   whoever connects may, and a message gets the frame `Forbidden`.
//! * What a function answers to a message is for the client only on a two-way route.
//! * A function that fails does not end the connection: the client gets the frame `Internal server error`.

mod answer;
mod event;
pub mod management;
mod route;
pub mod sigv4;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Request, Response, Uri};
use serde::Serialize;

pub use route::{Expression, InvalidExpression};

use super::{Call, Decoded, Encoded, Terms};
use crate::function::FunctionKey;
use crate::tunnel::CloseFrame;
use crate::websocket::event::{Action, Decision, Event, Message, Outcome, What};

/// The route of clients that want to connect.
pub const CONNECT: &str = "$connect";
/// The route of those that are gone.
pub const DISCONNECT: &str = "$disconnect";
/// The route of messages that have no other.
pub const DEFAULT: &str = "$default";

const FORBIDDEN: &str = "Forbidden";
const INTERNAL_SERVER_ERROR: &str = "Internal server error";

/// 1003: what was sent is of no kind that can be taken.
const UNSUPPORTED: u16 = 1003;

/// A WebSocket API: what its events say of it, and which function is told of them.
#[derive(Debug, Clone)]
pub struct AwsApi {
    /// Its id.
    pub api_id: Box<str>,
    /// The name of its stage.
    pub stage: Box<str>,
    /// The host at which functions find `@connections`: they build the address from this and the stage.
    pub domain_name: Box<str>,
    /// Where in a message its route stands.
    pub selection: Expression,
    /// Its routes by their keys.
    pub routes: BTreeMap<String, Route>,
    /// How functions are asked.
    pub transport: Transport,
    /// What becomes of binary messages.
    pub binary: Binary,
}

/// Where a route leads.
#[derive(Debug, Clone)]
pub struct Route {
    /// To which function.
    pub function: FunctionKey,
    /// What the function answers is for the client.
    pub two_way: bool,
}

/// How a function is asked, and how its answer is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transport {
    /// The event is posted to `/`. The answer counts as it is: its status, its headers, and its body as what is said.
    #[default]
    Http,
    /// The event is posted to `/`. The body of the answer is what a Lambda handler returns: JSON
    /// `{statusCode, headers, body, isBase64Encoded}`, or an error `{errorMessage, errorType}`.
    Lambda,
    /// The same, posted to where the Runtime Interface Emulator of the Lambda images listens.
    Emulator,
}

/// What becomes of a binary message, which API Gateway does not know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Binary {
    /// The function gets it in base64, and is told so; it takes the route `$default`.
    #[default]
    Encoded,
    /// It ends the connection with 1003, as in API Gateway.
    Refused,
}

impl Transport {
    fn path(self) -> &'static str {
        match self {
            Self::Http | Self::Lambda => "/",
            Self::Emulator => "/2015-03-31/functions/function/invocations",
        }
    }
}

impl AwsApi {
    /// The request that tells the function of its route of an event.
    pub(super) fn call(&self, event: &Event<'_>) -> Encoded {
        let key = match event.what {
            What::Connect(_) => CONNECT,
            What::Disconnected(_) => DISCONNECT,
            What::Connected | What::Joined(_) | What::Left(_) | What::Messages([]) => {
                return Encoded::Instead(Vec::new());
            }
            What::Messages([message, more @ ..]) => {
                debug_assert!(more.is_empty(), "this dialect takes one message at a time");
                if !message.text && self.binary == Binary::Refused {
                    let close = CloseFrame::new(UNSUPPORTED, "binary messages are not supported");
                    return Encoded::Instead(vec![Action::Close(close)]);
                }
                self.key(message)
            }
        };
        match self.routes.get_key_value(key) {
            Some((key, route)) => Encoded::Call(Box::new(self.call_of(event, key, route))),
            None if matches!(event.what, What::Messages(_)) => {
                Encoded::Instead(vec![Action::Send(error_frame(event, FORBIDDEN))])
            }
            None => Encoded::Instead(Vec::new()),
        }
    }

    fn call_of(&self, event: &Event<'_>, key: &str, route: &Route) -> Call {
        let mut request = Request::new(event::encode(self, event, key));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static(self.transport.path());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Call { function: route.function.clone(), request, terms: Terms { two_way: route.two_way } }
    }

    /// The key of the route that a message takes.
    fn key(&self, message: &Message) -> &str {
        let chosen = if message.text { self.selection.select(&message.data) } else { None };
        chosen
            .filter(|key| ![CONNECT, DISCONNECT].contains(&key.as_str()))
            .and_then(|key| self.routes.get_key_value(&key))
            .map_or(DEFAULT, |(key, _)| key)
    }

    /// What a function says to a client that wants to connect: with 2xx it may, with any other status that can be an answer
    /// it gets that one.
    pub(super) fn decision(&self, event: &Event<'_>, _: Terms, answer: Response<Bytes>) -> Decoded<Decision> {
        answer::decision(self.transport, event, answer)
    }

    /// What a function says to any other event.
    pub(super) fn outcome(
        &self,
        event: &Event<'_>,
        terms: Terms,
        answer: Response<Bytes>,
    ) -> Decoded<Outcome> {
        answer::outcome(self.transport, event, terms, answer)
    }
}

/// What it amounts to that a function has failed, or was not reached.
pub(super) fn failed(event: &Event<'_>, status: u16) -> Outcome {
    let tell = matches!(event.what, What::Messages(_)).then(|| error_frame(event, INTERNAL_SERVER_ERROR));
    Outcome::Failed { status, tell }
}

/// What is known of a request by its id: the connection, and the number of the event there.
fn request_id(event: &Event<'_>) -> String {
    format!("{}.{}", event.of.id, event.place())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorFrame<'a> {
    message: &'a str,
    connection_id: String,
    request_id: String,
}

/// What a client is told of its message that came to nothing, as JSON.
fn error_json(event: &Event<'_>, message: &str) -> Bytes {
    let frame = ErrorFrame { message, connection_id: event.of.id.to_string(), request_id: request_id(event) };
    serde_json::to_vec(&frame).expect("three texts").into()
}

fn error_frame(event: &Event<'_>, message: &str) -> Message {
    Message { text: true, data: error_json(event, message) }
}

/// The headers of a body that is JSON.
fn json_headers() -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))])
}
