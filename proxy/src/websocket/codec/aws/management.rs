//! The calls with which functions speak to connections: `POST`, `GET` and `DELETE` of `/@connections/ID`.
//!
//! Owns how they are read and how they are answered, as the SDKs expect it: the class of an error is in the header
//! `x-amzn-ErrorType`, without which a 410 is no `GoneException` to them. Pure; who may make a call is asked of
//! [`sigv4`](super::sigv4), and what it does is the hub's.

use std::net::IpAddr;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use serde::Serialize;
use serde_json::json;

use crate::websocket::codec::{body, rfc3339};
use crate::websocket::event::{ConnectionId, Message};

const SEGMENT: &str = "@connections";
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// What a caller says a message is, if the rule that UTF-8 is text does not suit it: `text` or `binary`. Also as `?type=`.
const X_WS_FRAME: HeaderName = HeaderName::from_static("x-ws-frame");

/// What is asked of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// That it is told something.
    Post,
    /// What is known of it.
    Get,
    /// That it ends.
    Delete,
}

/// A call to `/@connections/ID`.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    /// What stands in the path before `/@connections`, such as `/prod`. Without the slash that some clients put behind it.
    pub prefix: &'a str,
    /// Of which connection. `None` if no connection can have the id that is asked for: it is [`gone`].
    pub connection: Option<ConnectionId>,
    /// What. `None` for a method that means nothing here: it is [`not_allowed`].
    pub verb: Option<Verb>,
}

/// Reads a call; `None` if `path`, which has no query, is no such address.
#[must_use]
pub fn read<'a>(method: &Method, path: &'a str) -> Option<Asked<'a>> {
    let (front, id) = path.rsplit_once('/')?;
    let (prefix, segment) = front.rsplit_once('/')?;
    // Some clients write it as %40connections.
    if decoded(segment).as_deref() != Some(SEGMENT) || id.is_empty() {
        return None;
    }
    let verb = match *method {
        Method::POST => Some(Verb::Post),
        Method::GET => Some(Verb::Get),
        Method::DELETE => Some(Verb::Delete),
        _ => None,
    };
    let prefix = prefix.trim_end_matches('/');
    Some(Asked { prefix, connection: decoded(id).and_then(|id| ConnectionId::parse(&id)), verb })
}

fn decoded(segment: &str) -> Option<String> {
    percent_encoding::percent_decode_str(segment).decode_utf8().ok().map(Into::into)
}

/// The message of a POST. What the SDKs say as its content type tells nothing: it is text if it is UTF-8, unless `?type=` or
/// the header `X-Ws-Frame` says what it is.
///
/// # Errors
/// The answer to a caller who says something else there, or says text of what is none.
#[expect(clippy::result_large_err, reason = "it is made at most once for a call")]
pub fn message(query: Option<&str>, headers: &HeaderMap, data: Bytes) -> Result<Message, Response<Bytes>> {
    let in_query = form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .find_map(|(name, value)| (name == "type").then(|| value.into_owned()));
    let in_header =
        || headers.get(X_WS_FRAME).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let text = match in_query.or_else(in_header).as_deref() {
        None => body::is_text(&data),
        Some("text") if body::is_text(&data) => true,
        Some("text") => return Err(bad_request("the body is no text: expected UTF-8")),
        Some("binary") => false,
        Some(_) => return Err(bad_request("type: expected text or binary")),
    };
    Ok(Message { text, data })
}

/// To a POST that was done.
#[must_use]
pub fn sent() -> Response<Bytes> {
    empty(StatusCode::OK)
}

/// To a DELETE that was done.
#[must_use]
pub fn deleted() -> Response<Bytes> {
    empty(StatusCode::NO_CONTENT)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Found<'a> {
    connected_at: Option<String>,
    identity: FoundIdentity<'a>,
    last_active_at: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FoundIdentity<'a> {
    source_ip: String,
    user_agent: &'a str,
}

/// To a GET: of whom a connection is, since when, and when something was said on it last.
#[must_use]
pub fn found(
    peer: IpAddr,
    user_agent: Option<&str>,
    since: SystemTime,
    last_active: SystemTime,
) -> Response<Bytes> {
    let found = Found {
        connected_at: rfc3339(since),
        identity: FoundIdentity { source_ip: peer.to_string(), user_agent: user_agent.unwrap_or_default() },
        last_active_at: rfc3339(last_active),
    };
    json(StatusCode::OK, serde_json::to_vec(&found).expect("texts").into())
}

/// There is no such connection, or no more.
#[must_use]
pub fn gone() -> Response<Bytes> {
    error(StatusCode::GONE, "GoneException", "Gone")
}

/// The caller may not do this.
#[must_use]
pub fn forbidden(why: &str) -> Response<Bytes> {
    error(StatusCode::FORBIDDEN, "ForbiddenException", why)
}

/// The message is longer than `limit` bytes.
#[must_use]
pub fn too_large(limit: u64) -> Response<Bytes> {
    let why = format!("the message is too long: at most {limit} bytes");
    error(StatusCode::PAYLOAD_TOO_LARGE, "PayloadTooLargeException", &why)
}

/// The connection has more to be told than it can take.
#[must_use]
pub fn too_many(why: &str) -> Response<Bytes> {
    error(StatusCode::TOO_MANY_REQUESTS, "LimitExceededException", why)
}

/// The caller has said something that means nothing.
#[must_use]
pub fn bad_request(why: &str) -> Response<Bytes> {
    error(StatusCode::BAD_REQUEST, "BadRequestException", why)
}

/// The method is none of a connection's.
#[must_use]
pub fn not_allowed() -> Response<Bytes> {
    let why = "expected POST, GET or DELETE";
    let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowedException", why);
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST, GET, DELETE"));
    answer
}

fn empty(status: StatusCode) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::new());
    *answer.status_mut() = status;
    answer
}

fn json(status: StatusCode, body: Bytes) -> Response<Bytes> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn error(status: StatusCode, class: &'static str, message: &str) -> Response<Bytes> {
    let mut answer = json(status, json!({ "message": message }).to_string().into());
    answer.headers_mut().insert(ERROR_TYPE, HeaderValue::from_static(class));
    answer
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const ID: &str = "AAECAwQFBgcICQoLDA0ODw";

    #[test]
    fn a_call_is_a_method_and_the_id_behind_the_last_segment_but_one() {
        let id = ConnectionId::parse(ID);
        assert!(id.is_some());
        for (method, path, expected) in [
            (Method::POST, format!("/@connections/{ID}"), Some(("", id, Some(Verb::Post)))),
            (Method::GET, format!("/prod/@connections/{ID}"), Some(("/prod", id, Some(Verb::Get)))),
            (
                Method::DELETE,
                format!("/fn/chat/%40connections/{ID}"),
                Some(("/fn/chat", id, Some(Verb::Delete))),
            ),
            (Method::PUT, format!("/@connections/{ID}"), Some(("", id, None))),
            (Method::GET, format!("/prod//@connections/{ID}"), Some(("/prod", id, Some(Verb::Get)))),
            // What is spelt with escapes is the same id.
            (
                Method::POST,
                format!("/@connections/{}", ID.replace('A', "%41")),
                Some(("", id, Some(Verb::Post))),
            ),
            (Method::POST, "/@connections/L0SM9cOFvHcCIhw%3D".into(), Some(("", None, Some(Verb::Post)))),
            (Method::POST, "/@connections/%ff".into(), Some(("", None, Some(Verb::Post)))),
            (Method::POST, "/@connections/".into(), None),
            (Method::POST, "/@connections".into(), None),
            (Method::POST, format!("/@connections/{ID}/"), None),
            (Method::POST, format!("/x@connections/{ID}"), None),
            (Method::POST, format!("@connections/{ID}"), None),
            (Method::POST, String::new(), None),
        ] {
            let expected = expected.map(|(prefix, connection, verb)| Asked { prefix, connection, verb });
            assert_eq!(read(&method, &path), expected, "{method} {path}");
        }
    }

    #[test]
    fn what_is_posted_is_text_if_it_is_utf_8_and_the_caller_says_nothing_else() {
        for (query, header, data, expected) in [
            (None, None, &b"hi"[..], Ok(true)),
            (None, None, b"", Ok(true)),
            (None, None, b"\xff", Ok(false)),
            (Some("type=binary"), None, b"hi", Ok(false)),
            (Some("a=1&type=text"), Some("binary"), b"hi", Ok(true)),
            (None, Some("binary"), b"hi", Ok(false)),
            (None, Some("text"), b"hi", Ok(true)),
            (Some("type=text"), None, b"\xff", Err(400)),
            (Some("type=x"), None, b"hi", Err(400)),
            (None, Some("TEXT"), b"hi", Err(400)),
        ] {
            let headers =
                header.map(|value| (X_WS_FRAME, HeaderValue::from_static(value))).into_iter().collect();
            let read = message(query, &headers, Bytes::from_static(data));
            let read = read.map(|message| message.text).map_err(|answer| answer.status().as_u16());
            assert_eq!(read, expected, "{query:?} {header:?} {data:?}");
        }
    }

    #[test]
    fn an_error_names_its_class_in_a_header_and_its_reason_in_json() {
        for (answer, status, class) in [
            (gone(), 410, "GoneException"),
            (forbidden("no \"key\""), 403, "ForbiddenException"),
            (too_large(1024), 413, "PayloadTooLargeException"),
            (too_many("slower"), 429, "LimitExceededException"),
            (bad_request("what?"), 400, "BadRequestException"),
            (not_allowed(), 405, "MethodNotAllowedException"),
        ] {
            assert_eq!(
                (answer.status().as_u16(), &answer.headers()["x-amzn-ErrorType"]),
                (status, &class.parse().unwrap())
            );
            let body: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
            assert!(body["message"].is_string(), "{body}");
        }
        assert_eq!((sent().status(), sent().body().len()), (StatusCode::OK, 0));
        assert_eq!((deleted().status(), deleted().body().len()), (StatusCode::NO_CONTENT, 0));
    }

    #[test]
    fn what_is_found_of_a_connection_is_when_and_from_where_it_came() {
        let since = UNIX_EPOCH + Duration::from_millis(1_795_207_116_007);
        let answer = found([192, 0, 2, 1].into(), Some("ws"), since, since + Duration::from_secs(1));
        let body: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
        assert_eq!(
            body,
            json!({
                "connectedAt": "2026-11-20T20:38:36.007Z",
                "identity": { "sourceIp": "192.0.2.1", "userAgent": "ws" },
                "lastActiveAt": "2026-11-20T20:38:37.007Z",
            })
        );
    }
}
