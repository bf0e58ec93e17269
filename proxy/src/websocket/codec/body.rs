//! Is a body text or binary, and is it too long to be passed on?
//!
//! Owns the rules that all dialects have in common. Pure.

use bytes::Bytes;
use http::header::{
    self, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TRAILER, TRANSFER_ENCODING,
};
use http::{Response, StatusCode};

use crate::websocket::event::{Decision, Message};

/// The most bytes of a function's answer that a client gets which may not connect. More is cut.
pub(super) const MAX_REFUSAL: usize = 64 * 1024;

/// Headers that speak of the function's connection or of the length of its answer.
const NOT_RELAYED: [HeaderName; 10] = [
    CONTENT_LENGTH,
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TRAILER,
    TRANSFER_ENCODING,
];

/// What the names of headers begin with that are for this host.
const OURS: [&str; 3] = ["ce-", "sec-websocket-", "x-ws-"];

/// The media type of a body, in lower case and without parameters; `None` where nothing is said of it.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.as_bytes();
    let end = value.iter().position(|byte| *byte == b';').unwrap_or(value.len());
    let name = String::from_utf8_lossy(value[..end].trim_ascii()).to_ascii_lowercase();
    (!name.is_empty()).then_some(name)
}

/// A body as one message: text if its media type says text, JSON or nothing, and it is valid; else binary.
pub(super) fn message(headers: &HeaderMap, data: Bytes) -> Message {
    let says_text = media_type(headers).is_none_or(|name| {
        name.starts_with("text/")
            || name == "application/json"
            || name.starts_with("application/") && name.ends_with("+json")
    });
    Message { text: says_text && is_text(&data), data }
}

/// May these bytes be a text message?
pub(super) fn is_text(data: &[u8]) -> bool {
    std::str::from_utf8(data).is_ok()
}

/// Tells a client that may not connect what the function said.
pub(super) fn relayed(status: StatusCode, mut headers: HeaderMap, mut body: Bytes) -> Decision {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    let ours = headers.keys().filter(|name| OURS.iter().any(|prefix| name.as_str().starts_with(prefix)));
    let ours: Vec<HeaderName> = ours.cloned().collect();
    for name in named.iter().chain(&ours).chain(&NOT_RELAYED) {
        headers.remove(name);
    }
    body.truncate(MAX_REFUSAL);
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    Decision::Refuse(answer)
}

/// Tells a client that may not connect that it is not its fault.
pub(super) fn unusable(why: &'static str) -> Decision {
    let mut answer = Response::new(Bytes::from_static(why.as_bytes()));
    *answer.status_mut() = StatusCode::BAD_GATEWAY;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Decision::Refuse(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(content_type: Option<&str>) -> HeaderMap {
        content_type.map(|value| (CONTENT_TYPE, value.parse().unwrap())).into_iter().collect()
    }

    #[test]
    fn a_body_is_text_if_its_type_says_so_or_nothing_and_it_is_valid() {
        for (content_type, data, text) in [
            (None, &b"hi"[..], true),
            (None, b"\xff", false),
            (Some("text/plain"), b"hi", true),
            (Some("Text/HTML; charset=utf-8"), b"hi", true),
            (Some("text/plain"), b"\xc3\x28", false),
            (Some(" application/JSON ;charset=utf-8"), b"{}", true),
            (Some("application/problem+json"), b"{}", true),
            (Some("application/octet-stream"), b"hi", false),
            (Some("application/octet-stream; x=text/plain"), b"hi", false),
            (Some("image/png"), b"hi", false),
            (Some("textual/plain"), b"hi", false),
            (Some(";"), b"hi", true),
        ] {
            let message = message(&typed(content_type), Bytes::from_static(data));
            assert_eq!((message.text, &message.data[..]), (text, data), "{content_type:?}");
        }
    }

    #[test]
    fn what_a_refused_client_gets_is_the_functions_answer_without_what_is_of_its_connection() {
        let given = [
            ("content-type", "application/json"),
            ("www-authenticate", "Bearer"),
            ("set-cookie", "a=1"),
            ("content-length", "70000"),
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("sec-websocket-accept", "x"),
            ("x-ws-join", "g"),
            ("ce-connectionstate", "s"),
        ];
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(name, value.parse().unwrap());
        }
        let Decision::Refuse(answer) =
            relayed(StatusCode::UNAUTHORIZED, headers, Bytes::from(vec![b'x'; 70_000]))
        else {
            panic!("accepted")
        };
        assert_eq!((answer.status(), answer.body().len()), (StatusCode::UNAUTHORIZED, MAX_REFUSAL));
        let mut left: Vec<_> = answer.headers().keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-type", "set-cookie", "www-authenticate"]);
    }
}
