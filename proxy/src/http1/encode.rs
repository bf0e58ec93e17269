//! Messages, written.
//!
//! Owns what a head says of its connection and of the length of its body, whatever the headers it is given say of that,
//! and how the body is told apart from what follows. Pure: into the [`Outbox`].

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderName, TE, TRAILER, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::ext::ReasonPhrase;

use super::outbox::Outbox;

/// How a body that is sent ends.
#[derive(Debug)]
pub(super) struct Encoder {
    kind: Kind,
    /// The head says that the connection ends with this message.
    last: bool,
    /// The trailers that were announced and may be sent.
    trailers: Vec<HeaderName>,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// So many bytes are left.
    Length(u64),
    Chunked,
    /// With the connection.
    Close,
    /// Nothing is sent, whatever there is.
    Nothing,
}

/// A body is not as long as it was said to be.
#[derive(Debug, thiserror::Error)]
#[error("the body is not as long as its head says")]
pub(super) struct WrongLength;

/// What is known of a body before it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// There is none.
    Empty,
    Known(u64),
    Unknown,
}

impl Size {
    pub(super) fn of<B: http_body::Body>(body: &B) -> Self {
        if body.is_end_stream() {
            return Self::Empty;
        }
        body.size_hint().exact().map_or(Self::Unknown, Self::Known)
    }
}

/// What a client is told of its connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told<'a> {
    pub(super) method: &'a Method,
    /// The version that the client speaks.
    pub(super) version: Version,
    pub(super) keep_alive: bool,
    /// It wants to have trailers.
    pub(super) trailers: bool,
}

impl<'a> Told<'a> {
    /// A client of HTTP/1.1 that wants nothing in particular.
    pub(super) fn plainly(method: &'a Method, keep_alive: bool) -> Self {
        Self { method, version: Version::HTTP_11, keep_alive, trailers: false }
    }
}

impl Encoder {
    /// For a body of known length, whose head was written.
    pub(super) fn of_length(length: u64) -> Self {
        Self { kind: Kind::Length(length), last: false, trailers: Vec::new() }
    }

    /// For an answer whose head was written, to a client of HTTP/1.1: of this length, or in chunks.
    pub(super) fn of_answer(length: Option<u64>, last: bool) -> Self {
        Self { kind: length.map_or(Kind::Chunked, Kind::Length), last, trailers: Vec::new() }
    }

    /// Does the connection end with this message?
    pub(super) fn is_last(&self) -> bool {
        self.last
    }

    /// Is there nothing (more) to be sent?
    pub(super) fn is_done(&self) -> bool {
        matches!(self.kind, Kind::Length(0) | Kind::Nothing)
    }

    /// A piece of the body, `last` if it is known that nothing follows.
    pub(super) fn put(&mut self, outbox: &mut Outbox, data: Bytes, last: bool) -> Result<(), WrongLength> {
        if data.is_empty() {
            return Ok(());
        }
        match &mut self.kind {
            Kind::Nothing => return Ok(()),
            Kind::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(WrongLength)?;
                outbox.put(data, b"");
            }
            Kind::Close => outbox.put(data, b""),
            Kind::Chunked => {
                hexadecimal(outbox.front(), data.len());
                if last {
                    self.kind = Kind::Nothing;
                }
                outbox.put(data, if last { b"\r\n0\r\n\r\n" } else { b"\r\n" });
            }
        }
        Ok(())
    }

    /// The end of the body.
    pub(super) fn finish(
        &mut self,
        outbox: &mut Outbox,
        trailers: Option<&HeaderMap>,
    ) -> Result<(), WrongLength> {
        match std::mem::replace(&mut self.kind, Kind::Nothing) {
            Kind::Length(1..) => Err(WrongLength),
            Kind::Length(0) | Kind::Close | Kind::Nothing => Ok(()),
            Kind::Chunked => {
                let front = outbox.front();
                front.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten() {
                    if self.trailers.contains(name) {
                        header(front, name, value);
                    }
                }
                front.extend_from_slice(b"\r\n");
                Ok(())
            }
        }
    }
}

/// Writes the head of a request to a function. `upgrade`: it asks to change the protocol.
pub(super) fn request(front: &mut Vec<u8>, request: &Request<()>, size: Size) -> Encoder {
    front.extend_from_slice(request.method().as_str().as_bytes());
    front.push(b' ');
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    front.extend_from_slice(path.as_bytes());
    front.extend_from_slice(b" HTTP/1.1\r\n");
    let keeps_length = size == Size::Empty;
    headers(front, request.headers(), |name| *name != CONTENT_LENGTH || keeps_length);
    let kind = match size {
        Size::Empty => Kind::Nothing,
        Size::Known(length) => {
            content_length(front, length);
            Kind::Length(length)
        }
        Size::Unknown => {
            front.extend_from_slice(b"transfer-encoding: chunked\r\n");
            Kind::Chunked
        }
    };
    front.extend_from_slice(b"\r\n");
    let trailers = if kind == Kind::Chunked { announced(request.headers()) } else { Vec::new() };
    Encoder { kind, last: false, trailers }
}

/// Writes the head of an answer to a client.
pub(super) fn response(front: &mut Vec<u8>, response: &Response<()>, size: Size, told: Told<'_>) -> Encoder {
    let status = response.status();
    status_line(front, status, told.version, response.extensions().get());
    // A length beside no body says how long it would be.
    let of_head = *told.method == Method::HEAD;
    let chunks = told.version == Version::HTTP_11 && can_have_body(status) && !of_head;
    headers(front, response.headers(), |name| {
        (*name != CONTENT_LENGTH || of_head && can_have_body(status)) && (*name != TRAILER || chunks)
    });
    let kind = match size {
        _ if !can_have_body(status) => Kind::Nothing,
        _ if of_head => Kind::Nothing,
        Size::Empty => {
            content_length(front, 0);
            Kind::Nothing
        }
        Size::Known(length) => {
            content_length(front, length);
            Kind::Length(length)
        }
        Size::Unknown if told.version == Version::HTTP_11 => {
            front.extend_from_slice(b"transfer-encoding: chunked\r\n");
            Kind::Chunked
        }
        Size::Unknown => Kind::Close,
    };
    let said = response.headers().get(CONNECTION);
    let last = !told.keep_alive || kind == Kind::Close || said.is_some_and(|said| said == "close");
    match (told.version, last) {
        _ if said.is_some() => {}
        (Version::HTTP_10, false) => front.extend_from_slice(b"connection: keep-alive\r\n"),
        (Version::HTTP_10, true) | (_, false) => {}
        (_, true) => front.extend_from_slice(b"connection: close\r\n"),
    }
    if !response.headers().contains_key(DATE) {
        front.extend_from_slice(b"date: ");
        front.extend_from_slice(&date());
        front.extend_from_slice(b"\r\n");
    }
    front.extend_from_slice(b"\r\n");
    let trailers =
        if kind == Kind::Chunked && told.trailers { announced(response.headers()) } else { Vec::new() };
    Encoder { kind, last, trailers }
}

/// Writes an answer to what was not understood, the last of its connection.
pub(super) fn refusal(front: &mut Vec<u8>, status: StatusCode) {
    let mut empty = Response::new(());
    *empty.status_mut() = status;
    let _nothing: Encoder = response(front, &empty, Size::Empty, Told::plainly(&Method::GET, false));
}

pub(super) fn can_have_body(status: StatusCode) -> bool {
    !status.is_informational() && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

fn status_line(front: &mut Vec<u8>, status: StatusCode, version: Version, reason: Option<&ReasonPhrase>) {
    if (status, version, reason) == (StatusCode::OK, Version::HTTP_11, None) {
        front.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    front.extend_from_slice(if version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    front.extend_from_slice(status.as_str().as_bytes());
    front.push(b' ');
    match reason {
        Some(reason) => front.extend_from_slice(reason.as_bytes()),
        None => front.extend_from_slice(status.canonical_reason().unwrap_or("Unknown").as_bytes()),
    }
    front.extend_from_slice(b"\r\n");
}

/// Writes the headers for which `kept` is true. The coding is ours to say.
fn headers(front: &mut Vec<u8>, headers: &HeaderMap, kept: impl Fn(&HeaderName) -> bool) {
    for (name, value) in headers {
        if *name != TRANSFER_ENCODING && kept(name) {
            header(front, name, value);
        }
    }
}

fn header(front: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
    front.reserve(name.len() + value.len() + 4);
    front.extend_from_slice(name);
    front.extend_from_slice(b": ");
    front.extend_from_slice(value);
    front.extend_from_slice(b"\r\n");
}

pub(super) fn content_length(front: &mut Vec<u8>, length: u64) {
    front.extend_from_slice(b"content-length: ");
    front.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    front.extend_from_slice(b"\r\n");
}

/// The line in front of a chunk.
fn hexadecimal(front: &mut Vec<u8>, length: usize) {
    let mut line = *b"0000000000000000\r\n";
    let (mut left, mut at) = (length, 16);
    while left > 0 || at == 16 {
        at -= 1;
        line[at] = b"0123456789abcdef"[left % 16];
        left /= 16;
    }
    front.extend_from_slice(&line[at..]);
}

/// The trailers that a head announces, without those that say how the message is to be read.
fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    let names =
        headers.get_all(TRAILER).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    names
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .filter(|name| !NO_TRAILERS.contains(name))
        .collect()
}

/// Headers that mean something only in front of a body.
const NO_TRAILERS: [HeaderName; 15] = [
    http::header::AUTHORIZATION,
    http::header::CACHE_CONTROL,
    http::header::CONTENT_ENCODING,
    CONTENT_LENGTH,
    http::header::CONTENT_RANGE,
    http::header::CONTENT_TYPE,
    CONNECTION,
    http::header::HOST,
    http::header::MAX_FORWARDS,
    http::header::SET_COOKIE,
    http::header::UPGRADE,
    TRAILER,
    TRANSFER_ENCODING,
    TE,
    http::header::EXPECT,
];

/// The time, as `Date` has it. Written once a second.
pub(super) fn date() -> [u8; 29] {
    thread_local! {
        static WRITTEN: Cell<(u64, [u8; 29])> = const { Cell::new((0, [b' '; 29])) };
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (second, text) = WRITTEN.get();
    if second == now {
        return text;
    }
    let written = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(now));
    let mut text = [b' '; 29];
    for (to, from) in text.iter_mut().zip(written.bytes()) {
        *to = from;
    }
    WRITTEN.set((now, text));
    text
}
