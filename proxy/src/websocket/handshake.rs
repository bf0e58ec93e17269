//! What a client asks for when it wants a WebSocket, and how it is told that it has one.
//!
//! Owns what is a valid handshake (RFC 6455, section 4) and its answer, as headers. Whether the client may come at all
//! is not known here. Pure.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::deflate::Deflate;
use crate::headers;

/// What a key is answered with: the digest of it and of this.
const ANSWER: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// How many subprotocols a client may offer.
const MAX_SUBPROTOCOLS: usize = 64;

/// A valid handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opening {
    accept: HeaderValue,
    /// The subprotocols that the client offers, each once, in its order.
    pub(crate) subprotocols: Vec<String>,
    deflate: Option<(Deflate, HeaderValue)>,
}

/// Why there is no WebSocket for a request that asks for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is not a GET of HTTP/1.1.
    Method,
    /// Its `Connection` does not say `upgrade`.
    Connection,
    /// It speaks another version of the protocol, or does not say which.
    Version,
    /// Its key is not 16 bytes of base64, or there is none or more than one.
    Key,
    /// What it offers as subprotocols are no names, or too many.
    Subprotocols,
}

impl Opening {
    /// Reads the handshake of a request whose `Upgrade` names `websocket`.
    pub(crate) fn read(request: &Parts) -> Result<Self, Refusal> {
        let headers = &request.headers;
        if request.method != Method::GET || request.version != Version::HTTP_11 {
            return Err(Refusal::Method);
        }
        if !headers.get_all(CONNECTION).iter().flat_map(headers::tokens).any(is_upgrade) {
            return Err(Refusal::Connection);
        }
        if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return Err(Refusal::Version);
        }
        let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
        let (Some(key), None) = (keys.next(), keys.next()) else { return Err(Refusal::Key) };
        if !is_key(key.as_bytes()) {
            return Err(Refusal::Key);
        }
        Ok(Self {
            accept: accept(key),
            subprotocols: read_subprotocols(headers)?,
            deflate: Deflate::negotiate(headers),
        })
    }

    /// Does the client offer this subprotocol?
    pub(crate) fn offers(&self, subprotocol: &str) -> bool {
        self.subprotocols.iter().any(|offered| offered == subprotocol)
    }

    /// No compression, whatever the client offers.
    pub(crate) fn without_deflate(self) -> Self {
        Self { deflate: None, ..self }
    }

    /// Whether, and how, messages may be compressed.
    pub(crate) fn deflate(&self) -> Option<Deflate> {
        self.deflate.as_ref().map(|(deflate, _)| *deflate)
    }

    /// The headers of the 101. A subprotocol that the client did not offer is not named: it would have to go.
    pub(crate) fn answer(&self, subprotocol: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(5);
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.accept.clone());
        let subprotocol = subprotocol.filter(|subprotocol| self.offers(subprotocol));
        if let Some(subprotocol) = subprotocol.and_then(|name| HeaderValue::from_str(name).ok()) {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, subprotocol);
        }
        if let Some((_, answer)) = &self.deflate {
            headers.insert(SEC_WEBSOCKET_EXTENSIONS, answer.clone());
        }
        headers
    }
}

impl Refusal {
    /// 426 for another version, 400 for what is no handshake.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::Method | Self::Connection | Self::Key | Self::Subprotocols => StatusCode::BAD_REQUEST,
        }
    }

    /// What the client is told.
    pub(crate) fn to_response(self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from(format!("{self}\n")));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        if self == Self::Version {
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        }
        response
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Method => "a WebSocket is asked for by a GET of HTTP/1.1",
            Self::Connection => "Connection: expected upgrade",
            Self::Version => "Sec-WebSocket-Version: expected 13",
            Self::Key => "Sec-WebSocket-Key: expected one, of 16 bytes in base64",
            Self::Subprotocols => "Sec-WebSocket-Protocol: expected names, at most 64",
        })
    }
}

/// The answer to a key.
pub(crate) fn accept(key: &HeaderValue) -> HeaderValue {
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), ANSWER].concat());
    HeaderValue::try_from(BASE64_STANDARD.encode(digest)).expect("base64 is visible ASCII")
}

fn is_upgrade(token: &[u8]) -> bool {
    token.eq_ignore_ascii_case(b"upgrade")
}

/// Is it base64 of 16 bytes? Of the last character four bits mean nothing, and not all clients leave them zero.
fn is_key(key: &[u8]) -> bool {
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    key.len() == 24 && key.strip_suffix(b"==").is_some_and(|key| key.iter().all(is_base64))
}

fn read_subprotocols(headers: &HeaderMap) -> Result<Vec<String>, Refusal> {
    let mut names: Vec<String> = Vec::new();
    for name in headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().flat_map(headers::tokens) {
        let name = str::from_utf8(name).ok().filter(|name| name.bytes().all(is_token));
        let name = name.ok_or(Refusal::Subprotocols)?;
        if !names.iter().any(|known| known == name) {
            if names.len() == MAX_SUBPROTOCOLS {
                return Err(Refusal::Subprotocols);
            }
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// A character of a name, as HTTP has names.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    /// The example of RFC 6455, with `changes` to its headers: a value of none removes it.
    fn request(changes: &[(&'static str, &[&str])]) -> Parts {
        let (mut parts, ()) = Request::new(()).into_parts();
        for (name, value) in [
            ("host", "server.example.com"),
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
        ] {
            parts.headers.insert(name, HeaderValue::from_static(value));
        }
        for (name, values) in changes {
            parts.headers.remove(*name);
            for value in *values {
                parts.headers.append(*name, HeaderValue::from_str(value).unwrap());
            }
        }
        parts
    }

    #[test]
    fn a_valid_handshake_is_answered_with_the_digest_of_its_key() {
        for changes in [
            &[][..],
            &[("connection", &["keep-alive, UPGRADE"][..])],
            &[("connection", &["keep-alive", "upgrade"])],
            &[("sec-websocket-protocol", &[])],
        ] {
            let opening = Opening::read(&request(changes)).unwrap();
            let answer = opening.answer(None);
            assert_eq!(answer.len(), 3);
            assert_eq!(answer["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
            assert_eq!(
                (&answer["upgrade"], &answer["connection"]),
                (&"websocket".parse().unwrap(), &"Upgrade".parse().unwrap())
            );
            assert_eq!(opening.deflate(), None);
        }
        // Not all bits of its last character count.
        assert!(Opening::read(&request(&[("sec-websocket-key", &["dGhlIHNhbXBsZSBub25jZR=="])])).is_ok());
    }

    #[test]
    fn what_is_no_handshake_is_refused_and_told_why() {
        let many: Vec<String> = (0..=MAX_SUBPROTOCOLS).map(|number| number.to_string()).collect();
        for (changes, refusal, status) in [
            (&[("connection", &[][..])][..], Refusal::Connection, 400),
            (&[("connection", &["close"])], Refusal::Connection, 400),
            (&[("sec-websocket-version", &[])], Refusal::Version, 426),
            (&[("sec-websocket-version", &["8"])], Refusal::Version, 426),
            (&[("sec-websocket-key", &[])], Refusal::Key, 400),
            (
                &[("sec-websocket-key", &["dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ=="])],
                Refusal::Key,
                400,
            ),
            (&[("sec-websocket-key", &["dGhlIHNhbXBsZSBub25jZQ="])], Refusal::Key, 400),
            (&[("sec-websocket-key", &["dGhlIHNhbXBsZSBub25jZXh4"])], Refusal::Key, 400),
            (&[("sec-websocket-key", &["dGhlIHNhbXBsZSBub25j*Q=="])], Refusal::Key, 400),
            (&[("sec-websocket-key", &["dGhlIHNhbXBsZSBub25jZXh4eA=="])], Refusal::Key, 400),
            (&[("sec-websocket-protocol", &["chat room"])], Refusal::Subprotocols, 400),
            (&[("sec-websocket-protocol", &["a", "b;c"])], Refusal::Subprotocols, 400),
            (&[("sec-websocket-protocol", &[&many.join(",")])], Refusal::Subprotocols, 400),
        ] {
            assert_eq!(Opening::read(&request(changes)), Err(refusal), "{changes:?}");
            let response = refusal.to_response();
            assert_eq!(response.status(), status);
            assert_eq!(response.headers().get("sec-websocket-version").is_some(), status == 426);
            assert!(response.body().ends_with(b"\n"));
        }
        let mut post = request(&[]);
        post.method = Method::POST;
        assert_eq!(Opening::read(&post), Err(Refusal::Method));
        let mut old = request(&[]);
        old.version = Version::HTTP_10;
        assert_eq!(Opening::read(&old), Err(Refusal::Method));
        assert_eq!(Refusal::Method.status(), 400);
        assert_eq!(Refusal::Version.to_response().headers()["sec-websocket-version"], "13");
    }

    #[test]
    fn subprotocols_are_offered_once_each_in_order_and_only_one_of_them_is_agreed_upon() {
        let offers = request(&[("sec-websocket-protocol", &["b, a,,b", "c"])]);
        let opening = Opening::read(&offers).unwrap();
        assert_eq!(opening.subprotocols, ["b", "a", "c"]);
        assert_eq!(opening.answer(Some("a"))["sec-websocket-protocol"], "a");
        for other in [Some("A"), Some("d"), None] {
            assert!(!opening.answer(other).contains_key("sec-websocket-protocol"), "{other:?}");
        }
    }

    #[test]
    fn compression_is_agreed_upon_where_it_is_offered_and_wanted() {
        let offer =
            request(&[("sec-websocket-extensions", &["permessage-deflate; server_max_window_bits=10"])]);
        let opening = Opening::read(&offer).unwrap();
        assert_eq!(opening.deflate(), Deflate::of_window(10));
        let answer = opening.answer(None)["sec-websocket-extensions"].clone();
        assert!(answer.to_str().unwrap().ends_with("server_max_window_bits=10"));
        let opening = opening.without_deflate();
        assert_eq!(opening.deflate(), None);
        assert!(!opening.answer(None).contains_key("sec-websocket-extensions"));
    }
}
