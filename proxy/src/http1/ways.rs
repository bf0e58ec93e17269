//! Both ways of a head, one beside the other: for the property that holds them to the same bytes, and for the fuzz target
//! that looks at these bytes.
//!
//! Owns nothing: it calls what the server, the handler and the express call, in their order, without what is between them.

use bytes::Bytes;
#[cfg(feature = "fuzzing")]
use bytes::BytesMut;
use http::{HeaderValue, Method, Request, Version};
use http_body_util::Full;

use super::DEFAULT_HEADERS;
#[cfg(feature = "fuzzing")]
use super::Malformed;
#[cfg(feature = "fuzzing")]
use super::decoder::Decoded;
use super::decoder::Decoder;
use super::encode::{self, Encoder, Size, Told};
use super::head::{self, Bounds};
use super::relay::{self, Added, Said};
use crate::call::Call;
use crate::{headers, strict, trace};

const BOUNDS: Bounds = Bounds { size: 1 << 20, headers: DEFAULT_HEADERS };
const PEER: &str = "192.0.2.1";

/// The replica's address, which is its `Host`.
pub(crate) const HOST: &str = "10.62.0.9:8080";

/// What a call is called whose client does not say.
pub(crate) const CALL_ID: &str = "the-call";

fn call() -> Call {
    Call { id: HeaderValue::from_static(CALL_ID), start: 7 }
}

/// A head as it is written, what body is behind the one that came, and whether another message may follow that.
pub(crate) type Written = (Vec<u8>, Decoder, bool);

/// The head for the function on the short way.
pub(crate) fn short_request(head: &Bytes) -> Option<Written> {
    relay::plain(head, DEFAULT_HEADERS, |plain| {
        let (path, query) = plain.target.split_once('?').map_or((plain.target, None), |(p, q)| (p, Some(q)));
        let id = plain.call_id.unwrap_or(CALL_ID.as_bytes());
        let (host, peer, secure) = (HOST.as_bytes(), PEER, false);
        let added = Added { path, query, host, peer, secure, call_id: id, start: 7 };
        let mut front = Vec::new();
        plain.write(&mut front, &added);
        Some((front, Decoder::of_length(plain.length), plain.keep_alive))
    })
}

/// The same on the long way, if it is let in there.
pub(crate) fn long_request(head: &Bytes) -> Option<Written> {
    let head = head::read_request(head, BOUNDS).ok()?;
    let body = Full::new(Bytes::from_static(if head.body.is_done() { b"" } else { b"x" }));
    strict::check(&head.request.clone().map(|()| body)).ok()?;
    let mut call = call();
    if let Some(id) = head.request.headers().get(headers::X_CALL_ID).filter(|id| !id.is_empty()) {
        call.id = id.clone();
    }
    let (mut parts, ()) = head.request.into_parts();
    trace::pass_on(&mut parts.headers, None);
    let upgrade = headers::offers_upgrade(parts.version, &parts.headers);
    headers::to_function(
        &mut parts,
        &call,
        (PEER.parse().ok().map(|ip: std::net::IpAddr| (ip, 5)))?.into(),
        upgrade,
    );
    parts.headers.insert(http::header::HOST, HeaderValue::from_static(HOST));
    let size = match head.body.left() {
        Some(0) => Size::Empty,
        Some(length) => Size::Known(length),
        None => Size::Unknown,
    };
    let mut front = Vec::new();
    let _encoder: Encoder = encode::request(&mut front, &Request::from_parts(parts, ()), size);
    Some((front, head.body, head.keep_alive))
}

/// The head for a client of HTTP/1.1 on the short way.
pub(crate) fn short_response(
    head: &Bytes,
    method: &Method,
    asked_with: Option<&'static str>,
) -> Option<Written> {
    let asked_with = asked_with.map(str::as_bytes);
    let call_id = CALL_ID.as_bytes();
    let said = Said { method, call_id, start: 7, asked_with, keep_alive: true };
    let mut front = Vec::new();
    let relayed = relay::response(head, &mut front, &said);
    assert_eq!(relayed.is_some(), !front.is_empty(), "half a head");
    relayed.map(|relayed| (front, relayed.body, relayed.keep_alive))
}

/// The same on the long way.
pub(crate) fn long_response(
    head: &Bytes,
    method: &Method,
    asked_with: Option<&'static str>,
) -> Option<Written> {
    let mut read = head::read_response(head, BOUNDS, method).ok()?;
    let (status, has_body) = (read.response.status(), !read.body.is_done());
    let asked_with = asked_with.map(HeaderValue::from_static);
    headers::to_client(status, read.response.headers_mut(), &call(), asked_with, has_body);
    let size = if has_body { read.body.left().map_or(Size::Unknown, Size::Known) } else { Size::Empty };
    let told = Told { method, version: Version::HTTP_11, keep_alive: true, trailers: false };
    let mut front = Vec::new();
    let _encoder: Encoder = encode::response(&mut front, &read.response, size, told);
    Some((front, read.body, read.keep_alive))
}

/// A stream of bytes, as it comes: in pieces.
#[cfg(feature = "fuzzing")]
#[derive(Debug)]
pub(crate) struct Stream<'a> {
    input: BytesMut,
    rest: std::slice::Chunks<'a, u8>,
}

#[cfg(feature = "fuzzing")]
impl<'a> Stream<'a> {
    pub(crate) fn of(bytes: &'a [u8], piece: usize) -> Self {
        Self { input: BytesMut::new(), rest: bytes.chunks(piece.max(1)) }
    }

    fn more(&mut self) -> bool {
        self.rest.next().map(|piece| self.input.extend_from_slice(piece)).is_some()
    }

    /// The next head; `None` if there is no more, or not all of one.
    pub(crate) fn head(&mut self, of_request: bool) -> Result<Option<Bytes>, Malformed> {
        let take = if of_request { head::take_request } else { head::take_response };
        let mut seen = 0;
        loop {
            if !self.input.is_empty()
                && let Some(head) = take(&mut self.input, &mut seen, BOUNDS)?
            {
                return Ok(Some(head));
            }
            if !self.more() {
                return Ok(None);
            }
        }
    }

    /// The body that is behind it; `None` if it does not come to its end.
    pub(crate) fn body(&mut self, mut decoder: Decoder) -> Result<Option<Vec<u8>>, Malformed> {
        let mut body = Vec::new();
        loop {
            match decoder.decode(&mut self.input)? {
                Decoded::Data(data) => body.extend_from_slice(&data),
                Decoded::Trailers(_) | Decoded::End => return Ok(Some(body)),
                Decoded::More if self.more() => {}
                Decoded::More => return Ok(decoder.finish().then_some(body)),
            }
        }
    }
}
