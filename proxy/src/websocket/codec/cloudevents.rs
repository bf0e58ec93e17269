//! `CloudEvents` 1.0 over HTTP, with the types and attributes of Azure Web PubSub: the body of a request is what the client
//! said, and the body of the answer is what it is told.
//!
//! Owns the requests. A message is a request in binary mode: each attribute is a header `ce-…`, encoded as the HTTP binding
//! of `CloudEvents` says, so that no text of a client can end a header. Where the function takes batches, messages come in
//! batched mode. Ours are the attributes `seq`, `attempt`, `clientip`, `closecode`, `closedby`, `durationms` and `group`, and
//! the types `roost.group.joined` and `roost.group.left`, of which Azure has none.
//!
//! Answers are read in `answer`, and those to a client that wants to connect in `connect`.

mod answer;
mod batch;
mod connect;
mod verbs;
mod webhook;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Uri};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::json;
use sha2::Sha256;

pub(super) use answer::outcome;
pub(super) use connect::decision;
pub(super) use webhook::{allows, question};

use super::{Call, Encoded, Terms};
use crate::websocket::event::{Event, What};
use crate::websocket::validation::Validation;

const CE_SPECVERSION: HeaderName = HeaderName::from_static("ce-specversion");
const CE_TYPE: HeaderName = HeaderName::from_static("ce-type");
const CE_SOURCE: HeaderName = HeaderName::from_static("ce-source");
const CE_ID: HeaderName = HeaderName::from_static("ce-id");
const CE_TIME: HeaderName = HeaderName::from_static("ce-time");
const CE_SIGNATURE: HeaderName = HeaderName::from_static("ce-signature");
const CE_USER_ID: HeaderName = HeaderName::from_static("ce-userid");
const CE_CONNECTION_ID: HeaderName = HeaderName::from_static("ce-connectionid");
const CE_HUB: HeaderName = HeaderName::from_static("ce-hub");
const CE_EVENT_NAME: HeaderName = HeaderName::from_static("ce-eventname");
const CE_SUBPROTOCOL: HeaderName = HeaderName::from_static("ce-subprotocol");
const CE_CONNECTION_STATE: HeaderName = HeaderName::from_static("ce-connectionstate");
/// Without it, Azure's own SDK says 404.
const CE_AWPSVERSION: HeaderName = HeaderName::from_static("ce-awpsversion");
const CE_SEQ: HeaderName = HeaderName::from_static("ce-seq");
const CE_ATTEMPT: HeaderName = HeaderName::from_static("ce-attempt");
const CE_CLIENT_IP: HeaderName = HeaderName::from_static("ce-clientip");
const CE_CLOSE_CODE: HeaderName = HeaderName::from_static("ce-closecode");
const CE_CLOSED_BY: HeaderName = HeaderName::from_static("ce-closedby");
const CE_DURATION_MS: HeaderName = HeaderName::from_static("ce-durationms");
const CE_GROUP: HeaderName = HeaderName::from_static("ce-group");
const WEBHOOK_REQUEST_ORIGIN: HeaderName = HeaderName::from_static("webhook-request-origin");

const JSON: &str = "application/json; charset=utf-8";
const TEXT: &str = "text/plain";
const BINARY: &str = "application/octet-stream";

/// What a `ce-` header does not hold as it is: space, quotation mark, percent sign, and what is not printable ASCII.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// How this dialect is spoken to a function.
#[derive(Debug, Clone)]
pub struct CloudEvents {
    /// What the function is told as the origin of events, by the name of a host.
    pub origin: HeaderValue,
    /// With what the id of a connection is signed, so that the function knows that its events are from here: none, one, or
    /// two while one takes the place of the other.
    pub keys: Vec<SigningKey>,
    /// Messages are sent in batched mode, also one alone.
    pub batch: bool,
    /// Where the function takes events; `None` for the path that the client asked. Handlers of Azure's SDK take them at
    /// `/api/webpubsub/hubs/NAME/`, unless they are told another.
    pub path: Option<PathAndQuery>,
    /// The function is asked if it takes events of `origin`, before the first one; with what came of that.
    pub validation: Option<Validation>,
}

impl Default for CloudEvents {
    fn default() -> Self {
        Self {
            origin: HeaderValue::from_static("roost"),
            keys: Vec::new(),
            batch: false,
            path: None,
            validation: None,
        }
    }
}

/// A secret that this host and a function share. Clones are of the same one: what replaces it replaces it everywhere.
#[derive(Clone)]
pub struct SigningKey(Arc<ArcSwap<Box<[u8]>>>);

impl SigningKey {
    /// Of this secret.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(secret.into())))
    }

    /// Signs with another secret from now on.
    pub fn replace(&self, secret: &[u8]) {
        self.0.store(Arc::new(secret.into()));
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

/// The attributes of an event by their headers, as text: what a header cannot hold is not yet encoded.
type Attributes<'a> = Vec<(HeaderName, Cow<'a, str>)>;

impl CloudEvents {
    /// The request that tells a function of an event.
    pub(super) fn call(&self, event: &Event<'_>) -> Encoded {
        let (headers, body) = match event.what {
            What::Messages([]) => return Encoded::Instead(Vec::new()),
            What::Messages(messages) if self.batch || messages.len() > 1 => {
                let content_type = HeaderValue::from_static(batch::MEDIA_TYPE);
                (HeaderMap::from_iter([(CONTENT_TYPE, content_type)]), batch::encode(self, event, messages))
            }
            _ => {
                let (content_type, body) = content(event);
                let mut headers = encode(self.attributes(event));
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
                (headers, body)
            }
        };
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path.clone().map_or_else(|| uri(&event.of.path), Uri::from);
        *request.headers_mut() = headers;
        request.headers_mut().insert(WEBHOOK_REQUEST_ORIGIN, self.origin.clone());
        Encoded::Call(Box::new(Call {
            function: event.of.function.clone(),
            request,
            terms: Terms::default(),
        }))
    }

    /// All that is said of an event beside its content.
    fn attributes<'a>(&self, event: &Event<'a>) -> Attributes<'a> {
        let of = event.of;
        let connection = of.id.to_string();
        let hub = of.function.name.as_str();
        let (kind, name) = names(&event.what);
        let mut attributes: Attributes<'_> = vec![
            (CE_SPECVERSION, "1.0".into()),
            (CE_AWPSVERSION, "1.0".into()),
            (CE_TYPE, kind.into()),
            (CE_EVENT_NAME, name.into()),
            (CE_SOURCE, format!("/hubs/{hub}/client/{connection}").into()),
            (CE_ID, id(&connection, event).into()),
            (CE_HUB, hub.into()),
            (CE_ATTEMPT, event.attempt.to_string().into()),
            (CE_CLIENT_IP, of.peer.to_string().into()),
        ];
        let mut also = |name: HeaderName, value: Option<Cow<'a, str>>| {
            attributes.extend(value.map(|value| (name, value)));
        };
        // A clock that shows no date of this era says nothing.
        also(CE_TIME, super::rfc3339(event.at).map(Cow::from));
        also(CE_SIGNATURE, self.signature(&connection).map(Cow::from));
        also(CE_SEQ, event.sequence.map(|number| number.to_string().into()));
        also(CE_CONNECTION_ID, Some(connection.into()));
        also(CE_USER_ID, of.user().map(Cow::from));
        also(CE_SUBPROTOCOL, of.subprotocol().map(Cow::from));
        also(CE_CONNECTION_STATE, event.state.map(Cow::from));
        if let What::Disconnected(departure) = event.what {
            also(CE_CLOSE_CODE, Some(departure.code.to_string().into()));
            also(CE_CLOSED_BY, Some(departure.by.name().into()));
            also(CE_DURATION_MS, Some(departure.lasted.as_millis().to_string().into()));
        }
        if let What::Joined(group) | What::Left(group) = event.what {
            also(CE_GROUP, Some(group.into()));
        }
        attributes
    }

    /// `sha256=HEX,sha256=HEX`: the id of a connection, signed with each key.
    fn signature(&self, connection: &str) -> Option<String> {
        let signed = |key: &SigningKey| {
            let mut mac = Hmac::<Sha256>::new_from_slice(&key.0.load()).expect("any length will do");
            mac.update(connection.as_bytes());
            format!("sha256={}", super::hex(&mac.finalize().into_bytes()))
        };
        (!self.keys.is_empty()).then(|| self.keys.iter().map(signed).collect::<Vec<_>>().join(","))
    }
}

/// The id of an event. Those of groups have numbers of their own.
fn id(connection: &str, event: &Event<'_>) -> String {
    let of_group = matches!(event.what, What::Joined(_) | What::Left(_));
    format!("{connection}.{}{}", if of_group { "g" } else { "" }, event.place())
}

/// The type of an event, and its name.
fn names(what: &What<'_>) -> (&'static str, &'static str) {
    match what {
        What::Connect(_) => ("azure.webpubsub.sys.connect", "connect"),
        What::Connected => ("azure.webpubsub.sys.connected", "connected"),
        What::Messages(_) => ("azure.webpubsub.user.message", "message"),
        What::Disconnected(_) => ("azure.webpubsub.sys.disconnected", "disconnected"),
        What::Joined(_) => ("roost.group.joined", "joined"),
        What::Left(_) => ("roost.group.left", "left"),
    }
}

/// The media type of a message.
fn media_type(text: bool) -> &'static str {
    if text { TEXT } else { BINARY }
}

/// The content of an event that is no batch, and its media type.
fn content(event: &Event<'_>) -> (&'static str, Bytes) {
    match event.what {
        What::Messages(messages) => messages
            .first()
            .map_or((BINARY, Bytes::new()), |message| (media_type(message.text), message.data.clone())),
        What::Connected => (JSON, Bytes::from_static(b"{}")),
        What::Disconnected(departure) => (JSON, json!({ "reason": departure.reason }).to_string().into()),
        What::Joined(group) | What::Left(group) => {
            (JSON, json!({ "group": group, "user": event.of.user() }).to_string().into())
        }
        What::Connect(handshake) => (JSON, connect::question(handshake, &event.of.path)),
    }
}

/// The headers of an event in binary mode.
fn encode(attributes: Attributes<'_>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(attributes.len() + 2);
    for (name, value) in attributes {
        let value = if name == CE_CONNECTION_STATE {
            // The function's own, byte for byte: what came in a header goes back in one.
            HeaderValue::from_str(&value).ok()
        } else {
            // Printable ASCII, now.
            HeaderValue::from_str(&Cow::from(utf8_percent_encode(&value, ENCODED))).ok()
        };
        headers.extend(value.map(|value| (name, value)));
    }
    headers
}

/// Where the function is asked. The path is of a URI that was read, and so is a path.
fn uri(path: &str) -> Uri {
    path.parse::<PathAndQuery>().map_or_else(|_| Uri::from_static("/"), Uri::from)
}
