//! What a function's answer means.
//!
//! Owns how each [`Transport`]'s is read. Whatever was there to be read and could not be is a failure of the function, as
//! in API Gateway.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use http::{Response, StatusCode};
use serde_json::{Map, Value};

use super::{INTERNAL_SERVER_ERROR, Transport, error_json, failed, json_headers};
use crate::websocket::codec::{Decoded, Terms, body, offered};
use crate::websocket::event::{Acceptance, Action, Decision, Event, Message, Outcome};

/// Lambda says so of an error of the function, with status 200.
const FUNCTION_ERROR: HeaderName = HeaderName::from_static("x-amz-function-error");

/// The most headers that a handler's answer has.
const MAX_HEADERS: usize = 128;

/// The most characters of a function's own words in a complaint.
const MAX_QUOTED: usize = 80;

const NOT_OFFERED: &str = "The function chose a subprotocol that the client does not offer.\n";

/// An answer, however it came.
#[derive(Debug, Default)]
struct Said {
    /// `None` where the function says none.
    status: Option<StatusCode>,
    headers: HeaderMap,
    body: Option<Message>,
}

/// Reads the answer to the event that a client wants to connect.
pub(super) fn decision(
    transport: Transport,
    event: &Event<'_>,
    answer: Response<Bytes>,
) -> Decoded<Decision> {
    let mut complaints = Vec::new();
    let said = read(transport, answer, &mut complaints).and_then(|said| match said.status {
        Some(status) if status.as_u16() >= 200 => Ok((status, said)),
        status => Err(format!("status {status:?}: expected one from 200 on")),
    });
    let meant = match said {
        Err(why) => {
            complaints.push(why);
            body::relayed(StatusCode::BAD_GATEWAY, json_headers(), error_json(event, INTERNAL_SERVER_ERROR))
        }
        Ok((status, said)) if status.is_success() => accept(event, &said.headers, &mut complaints),
        Ok((status, said)) => {
            body::relayed(status, said.headers, said.body.map(|message| message.data).unwrap_or_default())
        }
    };
    Decoded { meant, complaints }
}

fn accept(event: &Event<'_>, headers: &HeaderMap, complaints: &mut Vec<String>) -> Decision {
    let chosen = headers.get(SEC_WEBSOCKET_PROTOCOL).map(|value| String::from_utf8_lossy(value.as_bytes()));
    match chosen.as_deref().map(str::trim).filter(|chosen| !chosen.is_empty()) {
        Some(chosen) if !offered(event, chosen) => {
            complaints.push(format!("{SEC_WEBSOCKET_PROTOCOL}: expected one that the client offers"));
            body::unusable(NOT_OFFERED)
        }
        chosen => {
            let subprotocol = chosen.map(str::to_owned);
            Decision::Accept(Acceptance { subprotocol, ..Acceptance::default() })
        }
    }
}

/// Reads the answer to any other event. A status that a handler returns says nothing there: a proxy integration passes on what
/// it says, whatever that is. It has failed if it threw an error.
pub(super) fn outcome(
    transport: Transport,
    event: &Event<'_>,
    terms: Terms,
    answer: Response<Bytes>,
) -> Decoded<Outcome> {
    let mut complaints = Vec::new();
    let meant = match read(transport, answer, &mut complaints) {
        Err(why) => {
            complaints.push(why);
            failed(event, StatusCode::BAD_GATEWAY.as_u16())
        }
        Ok(Said { status: Some(status), .. }) if transport == Transport::Http && !status.is_success() => {
            failed(event, status.as_u16())
        }
        Ok(said) => {
            let reply = said.body.filter(|message| terms.two_way && !message.data.is_empty());
            Outcome::Done(reply.map(Action::Send).into_iter().collect())
        }
    };
    Decoded { meant, complaints }
}

/// The answer, or why there is none that can be read.
fn read(transport: Transport, answer: Response<Bytes>, complaints: &mut Vec<String>) -> Result<Said, String> {
    let (head, data) = answer.into_parts();
    if transport == Transport::Http {
        let body = body::message(&head.headers, data);
        return Ok(Said { status: Some(head.status), headers: head.headers, body: Some(body) });
    }
    if head.headers.contains_key(&FUNCTION_ERROR) {
        return Err(format!("{FUNCTION_ERROR}: the handler failed"));
    }
    if !head.status.is_success() {
        return Err(format!("status {}: the handler was not run", head.status.as_u16()));
    }
    if data.trim_ascii().is_empty() {
        return Ok(Said::default());
    }
    match serde_json::from_slice(&data) {
        Ok(Value::Object(members)) => of_handler(&members, complaints),
        Ok(Value::Null) => Ok(Said::default()),
        Ok(_) => Err("the handler's answer: expected an object, or null".into()),
        Err(why) => Err(format!("the handler's answer: expected JSON: {why}")),
    }
}

/// What a handler has returned.
fn of_handler(members: &Map<String, Value>, complaints: &mut Vec<String>) -> Result<Said, String> {
    let status = match members.get("statusCode") {
        None if members.get("errorMessage").is_some_and(Value::is_string) => {
            return Err("errorMessage: the handler failed".into());
        }
        None | Some(Value::Null) => None,
        Some(value) => Some(status(value).ok_or("statusCode: expected a number of 100 to 599")?),
    };
    let encoded = members.get("isBase64Encoded").is_some_and(|value| *value == Value::Bool(true));
    let body = match members.get("body") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) if encoded => {
            let data = BASE64_STANDARD
                .decode(text)
                .map_err(|_| "body: expected base64, as isBase64Encoded is true")?;
            Some(Message { text: false, data: data.into() })
        }
        Some(Value::String(text)) => Some(Message { text: true, data: text.clone().into() }),
        Some(_) => return Err("body: expected a string".into()),
    };
    Ok(Said { status, headers: headers(members, complaints), body })
}

/// A status, which may be written as text.
fn status(value: &Value) -> Option<StatusCode> {
    let number = match value {
        Value::String(text) => text.parse().ok()?,
        number => u16::try_from(number.as_u64()?).ok()?,
    };
    StatusCode::from_u16(number).ok().filter(|status| status.as_u16() < 600)
}

/// The headers that a handler names, each with one value or with several; no more than [`MAX_HEADERS`].
fn headers(members: &Map<String, Value>, complaints: &mut Vec<String>) -> HeaderMap {
    let fields = ["headers", "multiValueHeaders"].into_iter();
    let mut named = fields.flat_map(|field| {
        let members = members.get(field).and_then(Value::as_object).into_iter().flatten();
        members.flat_map(|(name, value)| {
            let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            values.iter().map(move |value| (name, value))
        })
    });
    let mut headers = HeaderMap::new();
    for (name, value) in named.by_ref().take(MAX_HEADERS) {
        match header(name, value) {
            // What both fields name counts once.
            Some((name, value)) if headers.get_all(&name).iter().any(|had| *had == value) => {}
            Some((name, value)) => headers.extend([(name, value)]),
            None => {
                let name: String = name.chars().take(MAX_QUOTED).collect();
                complaints
                    .push(format!("header {name:?} is left out: expected a name, and a text as its value"));
            }
        }
    }
    if named.next().is_some() {
        complaints.push(format!("headers: those behind the first {MAX_HEADERS} are left out"));
    }
    headers
}

fn header(name: &str, value: &Value) -> Option<(HeaderName, HeaderValue)> {
    let value = match value {
        Value::String(text) => HeaderValue::from_str(text),
        Value::Number(number) => HeaderValue::from_str(&number.to_string()),
        Value::Bool(yes) => Ok(HeaderValue::from_static(if *yes { "true" } else { "false" })),
        _ => return None,
    };
    Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value.ok()?))
}
