//! The JSON of an event.
//!
//! Owns its shape, which is that of API Gateway's events field by field.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::HeaderMap;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::{AwsApi, request_id};
use crate::websocket::codec::query;
use crate::websocket::event::{Event, Handshake, Message, What};

/// What API Gateway says of a Close that had no code.
const NO_STATUS: u16 = 1005;
const NO_STATUS_REASON: &str = "Client-side close frame status not set";

type Pairs = BTreeMap<String, String>;
type Lists = BTreeMap<String, Vec<String>>;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Json<'a> {
    #[serde(flatten)]
    headers: Option<Headers>,
    #[serde(flatten)]
    query: Option<Query>,
    request_context: Context<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Cow<'a, str>>,
    is_base64_encoded: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Headers {
    headers: Pairs,
    multi_value_headers: Lists,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Query {
    query_string_parameters: Pairs,
    multi_value_query_string_parameters: Lists,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Context<'a> {
    route_key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    event_type: &'static str,
    extended_request_id: String,
    request_time: String,
    message_direction: &'static str,
    stage: &'a str,
    connected_at: u64,
    request_time_epoch: u64,
    identity: Identity<'a>,
    request_id: String,
    domain_name: &'a str,
    connection_id: String,
    api_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    authorizer: Option<Authorizer<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disconnect_status_code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disconnect_reason: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Identity<'a> {
    source_ip: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Authorizer<'a> {
    principal_id: &'a str,
}

/// The body of the request that tells the function of the route `key` of an event.
pub(super) fn encode(api: &AwsApi, event: &Event<'_>, key: &str) -> Bytes {
    let (headers, query, body, base64) = match event.what {
        What::Connect(handshake) => {
            (Some(of_handshake(event, handshake)), parameters(&event.of.path), None, false)
        }
        What::Disconnected(_) => (Some(of_departure(api)), None, None, false),
        What::Messages([message, ..]) => {
            let (body, base64) = body(message);
            (None, None, Some(body), base64)
        }
        What::Messages([]) | What::Connected | What::Joined(_) | What::Left(_) => (None, None, None, false),
    };
    let context = context(api, event, key);
    let json = Json { headers, query, request_context: context, body, is_base64_encoded: base64 };
    serde_json::to_vec(&json).expect("text, numbers, and maps of text").into()
}

fn context<'a>(api: &'a AwsApi, event: &Event<'a>, key: &'a str) -> Context<'a> {
    let of = event.of;
    let id = request_id(event);
    let (event_type, message_id, departure) = match event.what {
        What::Connect(_) | What::Connected => ("CONNECT", None, None),
        What::Messages(_) | What::Joined(_) | What::Left(_) => ("MESSAGE", Some(id.clone()), None),
        What::Disconnected(departure) => ("DISCONNECT", None, Some(departure)),
    };
    Context {
        route_key: key,
        message_id,
        event_type,
        extended_request_id: id.clone(),
        request_time: common_log_time(event.at),
        message_direction: "IN",
        stage: &api.stage,
        connected_at: milliseconds(of.since),
        request_time_epoch: milliseconds(event.at),
        identity: Identity { source_ip: of.peer.to_string(), user_agent: of.user_agent.as_deref() },
        request_id: id,
        domain_name: &api.domain_name,
        connection_id: of.id.to_string(),
        api_id: &api.api_id,
        authorizer: of.user().map(|principal_id| Authorizer { principal_id }),
        disconnect_status_code: departure.map(|departure| departure.code),
        disconnect_reason: departure.map(|departure| match &*departure.reason {
            "" if departure.code == NO_STATUS => NO_STATUS_REASON,
            reason => reason,
        }),
    }
}

/// A message as the text of `body`, and whether that is base64.
fn body(message: &Message) -> (Cow<'_, str>, bool) {
    match std::str::from_utf8(&message.data) {
        Ok(text) if message.text => (text.into(), false),
        _ => (BASE64_STANDARD.encode(&message.data).into(), true),
    }
}

fn of_handshake(event: &Event<'_>, handshake: &Handshake) -> Headers {
    let mut lists = written(&handshake.headers);
    let mut also = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            lists.entry(name.to_owned()).or_insert_with(|| vec![value]);
        }
    };
    also("Host", event.of.host.as_deref().map(str::to_owned));
    also("X-Forwarded-For", Some(event.of.peer.to_string()));
    let offers = &handshake.subprotocols;
    also("Sec-WebSocket-Protocol", (!offers.is_empty()).then(|| offers.join(", ")));
    Headers { headers: last(&lists), multi_value_headers: lists }
}

/// What API Gateway says instead of the client's headers when a connection is gone.
fn of_departure(api: &AwsApi) -> Headers {
    let headers: Pairs =
        [("Host", &*api.domain_name), ("x-api-key", ""), ("X-Forwarded-For", ""), ("x-restapi", "")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
    let lists = headers.iter().map(|(name, value)| (name.clone(), vec![value.clone()])).collect();
    Headers { headers, multi_value_headers: lists }
}

/// The parameters of a path, if it has any.
fn parameters(path: &str) -> Option<Query> {
    let mut lists = Lists::new();
    for (name, value) in query(path) {
        lists.entry(name).or_default().push(value);
    }
    let query = Query { query_string_parameters: last(&lists), multi_value_query_string_parameters: lists };
    (!query.query_string_parameters.is_empty()).then_some(query)
}

/// The last value of each list.
fn last(lists: &Lists) -> Pairs {
    lists.iter().filter_map(|(name, values)| Some((name.clone(), values.last()?.clone()))).collect()
}

fn written(headers: &HeaderMap) -> Lists {
    let mut lists = Lists::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        lists.entry(spelling(name.as_str())).or_default().push(value);
    }
    lists
}

/// The name of a header as functions look for it. In events of API Gateway it is spelt as the client did, which is not
/// known here: names are written as browsers write them, but those that begin with `x-` (browsers send none) in lower
/// case, except `X-Forwarded-…` and `X-Amzn-…`.
fn spelling(name: &str) -> String {
    if name.starts_with("x-") && !name.starts_with("x-forwarded-") && !name.starts_with("x-amzn-") {
        return name.to_owned();
    }
    let mut begins = true;
    let spelt: String = name
        .chars()
        .map(|c| {
            let spelt = if begins { c.to_ascii_uppercase() } else { c };
            begins = c == '-';
            spelt
        })
        .collect();
    spelt.replace("Websocket", "WebSocket")
}

/// `20/Nov/2026:20:38:36 +0000`. A time out of this calendar's reach is the first of its days.
fn common_log_time(at: SystemTime) -> String {
    let at = Timestamp::try_from(at).unwrap_or(Timestamp::UNIX_EPOCH);
    at.to_zoned(TimeZone::UTC).strftime("%d/%b/%Y:%H:%M:%S %z").to_string()
}

/// Since 1970.
fn milliseconds(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
