//! Doors for the fuzz targets in `fuzz/`, and for nobody else.
//!
//! Owns nothing: each function is one call of what the proxy uses itself.

#![allow(missing_docs, reason = "no part of the interface")]

use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue, Request, StatusCode};

use crate::call::Call;
use crate::headers;
use crate::path::{self, Target};
use crate::tunnel::{Frames, Sender};
use crate::websocket::frame::{Decoder, Incoming, Limits};

/// The call that all requests are.
pub const CALL_ID: &str = "the-call";

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
    crate::strict::check(&request.clone().map(|()| http_body_util::Empty::<bytes::Bytes>::new())).is_err()
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
    decoder: Decoder,
}

impl Messages {
    pub fn new(max_message: usize, deflate: bool) -> Self {
        let limits = Limits { max_message, deflate, ..Limits::default() };
        Self { limits, decoder: Decoder::new(limits) }
    }

    /// The next thing, or the code with which the connection ends.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Came>, u16> {
        let came = self.decoder.next(input).map_err(|violation| violation.code)?;
        Ok(came.map(|came| match came {
            Incoming::Message(message) => Came::Message { text: message.text, data: message.data.into() },
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
        self.decoder = Decoder::from_state(self.limits, state.clone()).expect("a state that was left is one");
        assert_eq!(self.decoder.state(), state);
    }
}
