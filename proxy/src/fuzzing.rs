//! Doors for the fuzz targets in `fuzz/`, and for nobody else.
//!
//! Owns nothing: each function is one call of what the proxy uses itself.

#![allow(missing_docs, reason = "no part of the interface")]

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};

use crate::call::Call;
use crate::headers;
use crate::http1::Decoder;
use crate::http1::ways::{self, Stream, Written};
use crate::path::{self, Target};
use crate::tunnel::{Frames, Sender};
use crate::websocket::frame::{Decoder as Client, Incoming, Limits};

/// The call that all requests are, and the host that functions see.
pub const CALL_ID: &str = ways::CALL_ID;
pub const REPLICA: &str = ways::HOST;

fn call() -> Call {
    Call { id: HeaderValue::from_static(CALL_ID), start: 7 }
}

/// What a function gets of a client's headers; with whether it is asked to switch protocols.
pub fn to_function(request: Request<()>, peer: SocketAddr) -> (HeaderMap, bool) {
    let mut parts = request.into_parts().0;
    let upgrade = headers::offers_upgrade(parts.version, &parts.headers);
    headers::to_function(&mut parts, &call(), peer, upgrade);
    (parts.headers, upgrade)
}

/// What a client gets of a function's headers.
pub fn to_client(status: StatusCode, mut headers: HeaderMap) -> HeaderMap {
    headers::to_client(status, &mut headers, &call(), None, true);
    headers
}

/// Is a request of these headers refused?
pub fn is_refused(request: &Request<()>) -> bool {
    crate::strict::check(&request.clone().map(|()| http_body_util::Empty::<Bytes>::new())).is_err()
}

/// Where a path leads.
#[derive(Debug, PartialEq, Eq)]
pub enum Path {
    Function { segment: String, rest: String, deferred: bool },
    Redirect(String),
    Other,
}

pub fn read_path(path: &str) -> Path {
    match path::read(path) {
        Target::Function(found) => Path::Function {
            segment: found.segment().to_owned(),
            rest: found.rest().to_owned(),
            deferred: found.is_deferred(),
        },
        Target::Redirect(path) => Path::Redirect(path),
        Target::Call(_) | Target::Other => Path::Other,
    }
}

/// One direction of a WebSocket.
#[derive(Debug)]
pub struct Tracker(Frames);

impl Tracker {
    pub fn new(of_client: bool) -> Self {
        Self(Frames::of(if of_client { Sender::Client } else { Sender::Function }))
    }

    pub fn feed(&mut self, bytes: &[u8]) -> bool {
        self.0.feed(bytes)
    }

    pub fn last_boundary(&self, bytes: &[u8]) -> Option<usize> {
        self.0.last_boundary(bytes)
    }

    pub fn at_boundary(&self) -> bool {
        self.0.at_boundary()
    }

    pub fn is_known(&self) -> bool {
        self.0.are_known()
    }

    pub fn closed(&self) -> bool {
        self.0.closed()
    }

    pub fn messages(&self) -> u64 {
        self.0.messages()
    }
}

/// What a client of event mode says.
#[derive(Debug, PartialEq, Eq)]
pub enum Came {
    Message { text: bool, data: Vec<u8> },
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

/// What is read of one client.
#[derive(Debug)]
pub struct Messages {
    limits: Limits,
    decoder: Client,
}

impl Messages {
    pub fn new(max_message: usize, deflate: bool) -> Self {
        let limits = Limits { max_message, deflate, ..Limits::default() };
        Self { limits, decoder: Client::new(limits) }
    }

    /// The next thing, or the code with which the connection ends.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Came>, u16> {
        let came = self.decoder.next(input).map_err(|violation| violation.code)?;
        Ok(came.map(|came| match came {
            Incoming::Message(message, _) => Came::Message { text: message.text, data: message.data.into() },
            Incoming::Ping(data) => Came::Ping(data.into()),
            Incoming::Pong(data) => Came::Pong(data.into()),
            Incoming::Close(close) => Came::Close(close),
        }))
    }

    /// How much memory is held for it.
    pub fn held(&self) -> usize {
        self.decoder.held()
    }

    /// Goes on as another process does.
    pub fn hand_over(&mut self) {
        let state = self.decoder.state();
        self.decoder = Client::from_state(self.limits, state.clone()).expect("a state that was left is one");
        assert_eq!(self.decoder.state(), state);
    }
}

/// A message of HTTP/1 that came, and what is written of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// As it came.
    pub head: Bytes,
    /// As it goes on: the short way, if it may, and the long one.
    pub short: Option<Vec<u8>>,
    pub long: Vec<u8>,
    /// All of it. `None` if it does not come to its end, or is broken.
    pub body: Option<Vec<u8>>,
    /// How long it is said to be; `None` if it is in chunks or ends with its connection.
    pub length: Option<u64>,
    /// May another message follow?
    pub keep_alive: bool,
}

/// The messages that a peer sends, in pieces of so many bytes, until one is refused or is the last.
fn messages(
    stream: &[u8],
    piece: usize,
    of_request: bool,
    write: impl Fn(&Bytes) -> (Option<Written>, Option<Written>),
) -> Vec<Message> {
    let (mut stream, mut found) = (Stream::of(stream, piece), Vec::new());
    while let Ok(Some(head)) = stream.head(of_request) {
        let (short, Some((long, decoder, keep_alive))) = write(&head) else { break };
        let short = short.map(|(front, body, keeps)| {
            assert_eq!((body, keeps), (decoder, keep_alive), "two ways, two bodies");
            front
        });
        let length = if decoder == Decoder::Close { None } else { decoder.left() };
        let body = stream.body(decoder).ok().flatten();
        let goes_on = keep_alive && body.is_some();
        found.push(Message { head, short, long, body, length, keep_alive });
        if !goes_on {
            break;
        }
    }
    found
}

pub fn requests(stream: &[u8], piece: usize) -> Vec<Message> {
    messages(stream, piece, true, |head| (ways::short_request(head), ways::long_request(head)))
}

pub fn answers(stream: &[u8], piece: usize, method: &Method) -> Vec<Message> {
    let write =
        |head: &Bytes| (ways::short_response(head, method, None), ways::long_response(head, method, None));
    messages(stream, piece, false, write)
}
