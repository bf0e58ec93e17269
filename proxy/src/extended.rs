//! WebSockets over HTTP/2 (RFC 8441), made what they are over HTTP/1.1, and their answers back.
//!
//! Owns what only this way in needs: the key of the handshake, which HTTP/2 has none of and which is checked here, and
//! the word to the connection that one of its streams is in use. Everything between is the ordinary way of an upgrade.
//!
//! ```text
//!   CONNECT, :protocol websocket ──► GET, Upgrade: websocket, a key ──► the function
//!                            200 ◄── 101 with the answer to that key ◄──┤
//!           404, 502, … as it is ◄── anything else but success ◄────────┘
//! ```

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, Entry, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::ext::Protocol;
use uuid::Uuid;

use crate::body::ResponseBody;
use crate::client::{Busy, Requests};
use crate::client_body::Upgrade;
use crate::headers;
use crate::websocket::handshake;

/// A WebSocket that was asked for over HTTP/2.
#[derive(Debug)]
pub(crate) struct Extended {
    key: HeaderValue,
    /// The connection is not idle for as long as this is held.
    _busy: Busy,
}

/// The client's side of a tunnel that it asked for.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) upgrade: Upgrade,
    pub(crate) extended: Option<Arc<Extended>>,
}

/// Makes a request for a WebSocket over HTTP/2 the one that it is over HTTP/1.1. Others stay as they are: `false`.
pub(crate) fn translate<B>(request: &mut Request<B>, requests: &Arc<Requests>) -> bool {
    let websocket = |protocol: &Protocol| protocol.as_str().eq_ignore_ascii_case("websocket");
    if request.method() != Method::CONNECT || !request.extensions().get().is_some_and(websocket) {
        return false;
    }
    let key = HeaderValue::try_from(BASE64_STANDARD.encode(Uuid::new_v4().as_bytes()));
    let key = key.expect("base64 is visible ASCII");
    let busy = requests.begin(request.version());
    let host = request.uri().authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok());
    *request.method_mut() = Method::GET;
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    headers::join_cookies(headers);
    if let (Some(host), Entry::Vacant(entry)) = (host, headers.entry(HOST)) {
        entry.insert(host);
    }
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_KEY, key.clone());
    headers.entry(SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
    request.extensions_mut().insert(Arc::new(Extended { key, _busy: busy }));
    true
}

impl Extended {
    /// Of a request that was translated.
    pub(crate) fn of<B>(request: &Request<B>) -> Option<Arc<Self>> {
        request.extensions().get().cloned()
    }

    /// Is this 101 the answer to our key? Whoever does not know it may not know WebSocket at all.
    pub(crate) fn is_answered_by<B>(&self, response: &Response<B>) -> bool {
        headers::is_websocket(response.headers())
            && response.headers().get(SEC_WEBSOCKET_ACCEPT) == Some(&handshake::accept(&self.key))
    }

    /// The answer as HTTP/2 has it. There any success opens the tunnel, so only a 101 may be one.
    pub(crate) fn answer(&self, mut response: Response<ResponseBody>) -> Response<ResponseBody> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            *response.status_mut() = StatusCode::OK;
            for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT] {
                response.headers_mut().remove(name);
            }
        } else if response.status().is_success() {
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response.headers_mut().remove(CONTENT_LENGTH);
            *response.body_mut() = ResponseBody::full("there is no WebSocket here\n");
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    fn requests() -> Arc<Requests> {
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        Requests::new(permit, None, None)
    }

    fn connect(protocol: Option<&'static str>) -> Request<()> {
        let mut request = Request::connect("https://h.example:1/room?x").version(Version::HTTP_2);
        request = request.header("cookie", "a=1").header("cookie", "b=2");
        let mut request = request.body(()).unwrap();
        if let Some(protocol) = protocol {
            request.extensions_mut().insert(Protocol::from_static(protocol));
        }
        request
    }

    #[test]
    fn a_websocket_of_http2_becomes_a_handshake_with_a_host_and_a_key_of_its_own() {
        let requests = requests();
        let (mut one, mut other) = (connect(Some("WebSocket")), connect(Some("websocket")));
        assert!(translate(&mut one, &requests) && translate(&mut other, &requests));
        assert_eq!(
            (one.method(), one.version(), one.uri().path()),
            (&Method::GET, Version::HTTP_11, "/room")
        );
        for (name, value) in [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("host", "h.example:1"),
            ("cookie", "a=1; b=2"),
        ] {
            assert_eq!(one.headers()[name], value);
        }
        let key = |request: &Request<()>| request.headers()[SEC_WEBSOCKET_KEY].clone();
        assert_eq!(BASE64_STANDARD.decode(key(&one)).unwrap().len(), 16);
        assert_ne!(key(&one), key(&other));
        for protocol in [None, Some("connect-udp")] {
            let mut request = connect(protocol);
            assert!(!translate(&mut request, &requests));
            assert_eq!(request.method(), Method::CONNECT);
            assert!(Extended::of(&request).is_none());
        }
    }

    #[test]
    fn only_the_answer_to_the_key_is_one() {
        // The example of RFC 6455.
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        let extended = Extended { key, _busy: requests().begin(Version::HTTP_2) };
        let answer = |accept: &str, protocol: &str| {
            let response = Response::builder().status(101).header(UPGRADE, protocol);
            response.header(SEC_WEBSOCKET_ACCEPT, accept).body(()).unwrap()
        };
        assert!(extended.is_answered_by(&answer("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "WebSocket")));
        assert!(!extended.is_answered_by(&answer("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "other")));
        assert!(!extended.is_answered_by(&answer("S3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "websocket")));
        assert!(!extended.is_answered_by(&Response::new(())));
    }
}
