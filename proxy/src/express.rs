//! The short way of a request: for those that ask for nothing but to be passed on, to functions that ask for nothing more
//! than that, while there is a replica with a connection that has nothing to do. That is most of them.
//!
//! Owns the question whether a request goes this way, and its state until the head of the answer is there. What
//! happens to it is the same as on the long way through `handler`: it is claimed, counted, limited in time and passed on
//! with the same headers. It only is not taken apart for that: its head goes from buffer to buffer
//! ([`relay`](crate::http1::relay)). Whatever is not plain goes the long way, and so does whatever could not be sent; at that
//! point nothing has been counted.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Response};
use tokio::time::Instant;

use crate::access_log::{Note, Record};
use crate::body::{Exchange, FunctionBody, IdleTimer, Payload, RequestBody, ResponseBody, Source};
use crate::call::Call;
use crate::client::Busy;
use crate::client_body::ClientBody;
use crate::error::Error;
use crate::forward::{self, Answer};
use crate::handler::{self, Handler};
use crate::http1::relay::{self, Added, Relayed, Said};
use crate::http1::replica::{Connection, Failure};
use crate::path::{self, Target};
use crate::upstream::{Timeouts, Upstream};
use crate::websocket;

/// Where requests come from.
#[derive(Debug)]
pub(crate) struct Origin {
    /// The address of the client, as text.
    pub(crate) peer: Box<str>,
    /// It speaks TLS.
    pub(crate) secure: bool,
    /// How many headers its requests may have.
    pub(crate) max_headers: usize,
}

/// A request that is on its way to a function.
#[derive(Debug)]
pub(crate) struct Express {
    connection: Box<Connection>,
    exchange: Arc<Exchange>,
    record: Record,
    call: Call,
    method: Method,
    keep_alive: bool,
    /// The content type of the request.
    asked_with: Option<Bytes>,
    timeouts: Timeouts,
    /// When there has to be an answer.
    due: Option<Instant>,
    failure: Option<Failure>,
    _busy: Option<Busy>,
}

/// What came of one.
pub(crate) enum Arrived {
    /// The head of an answer, as it came.
    Head(Bytes),
    Failed(Error),
}

impl Handler {
    /// Sends the request of this head, if it may go the short way. `body` makes its body, of so many bytes.
    pub(crate) fn express(
        &self,
        head: &Bytes,
        origin: &Origin,
        body: impl FnOnce(u64) -> ClientBody,
    ) -> Option<Express> {
        if self.spans || self.log.is_kept() || self.gate.has_limits() || self.routes.has_domains() {
            return None;
        }
        relay::plain(head, origin.max_headers, |plain| {
            let (path, query) = match plain.target.split_once('?') {
                Some((path, query)) => (path, Some(query)),
                None => (plain.target, None),
            };
            let Target::Function(path) = path::read(path) else { return None };
            if path.is_deferred() || websocket::may_be_group(path.rest()) {
                return None;
            }
            let upstream = self.routes.find(path.segment())?;
            if upstream.asks_for_upgrade(&plain.method) {
                return None;
            }
            let timeouts = upstream.timeouts_of_plain(plain.length)?;
            let claim = upstream.take_at_once()?;
            let mut connection = claim.endpoint().reuse()?;
            let call = self.ids.call(plain.call_id.and_then(|id| HeaderValue::from_bytes(id).ok()));
            let added = Added {
                path: path.rest(),
                query,
                host: claim.endpoint().host().as_bytes(),
                peer: &origin.peer,
                secure: origin.secure,
                call_id: call.id.as_bytes(),
                start: call.start,
            };
            connection.put_head(|front| plain.write(front, &added));
            let exchange = Arc::new(Exchange::new(claim));
            let body = if plain.length == 0 { ClientBody::empty() } else { body(plain.length) };
            connection
                .put_body(RequestBody::new(Payload::Client(body), &exchange, timeouts.idle), plain.length);
            // What this wakes is asked again for the head of the answer.
            let failure = match connection.poll_upload(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Err(_)) if connection.is_untouched() => return None,
                Poll::Ready(Err(failure)) => Some(failure),
                Poll::Ready(Ok(())) | Poll::Pending => None,
            };
            upstream.next_turn();
            Some(Express {
                due: timeouts.request.map(|limit| exchange.began() + limit),
                record: Record::begin(&upstream, Note::default()),
                asked_with: plain.content_type.map(|value| head.slice_ref(value)),
                method: plain.method.clone(),
                keep_alive: plain.keep_alive,
                connection,
                exchange,
                call,
                timeouts,
                failure,
                _busy: None,
            })
        })
    }
}

impl Upstream {
    /// The limits for a request with a body of `length` bytes, if it may go the short way.
    fn timeouts_of_plain(&self, length: u64) -> Option<Timeouts> {
        let limits = self.limits_now();
        let (bounds, timeouts) = (&limits.bounds, &limits.timeouts);
        let bounded = bounds.requests.is_some()
            || bounds.body.is_some_and(|most| length > most)
            || bounds.body_time.is_some() && length > 0;
        let plain = self.access().is_open()
            && !self.compresses()
            && !bounded
            && timeouts.header.is_none()
            && self.placement.load().is_none();
        plain.then_some(*timeouts)
    }
}

impl Express {
    pub(crate) fn while_busy(self, busy: Busy) -> Self {
        Self { _busy: Some(busy), ..self }
    }

    pub(crate) fn method(&self) -> &Method {
        &self.method
    }

    /// May another request follow?
    pub(crate) fn keeps_alive(&self) -> bool {
        self.keep_alive
    }

    /// When there has to be an answer.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Arrived> {
        let failed = match self.failure.take() {
            Some(failure) => failure,
            None => match std::task::ready!(self.connection.poll_raw_head(cx)) {
                Ok(head) => return Poll::Ready(Arrived::Head(head)),
                Err(failure) => failure,
            },
        };
        Poll::Ready(Arrived::Failed(forward::no_answer(self.exchange.claim(), &failed)))
    }

    /// There was no answer in time.
    pub(crate) fn late(&self) -> Error {
        let function = self.exchange.claim().upstream().key().clone();
        Error::RequestTimeout { function, limit: self.timeouts.request.unwrap_or(Duration::ZERO) }
    }

    /// Writes the head of the answer for the client, if it may go the short way, too.
    pub(crate) fn relay(&self, head: &Bytes, front: &mut Vec<u8>, keep_alive: bool) -> Option<Relayed> {
        let said = Said {
            method: &self.method,
            call_id: self.call.id.as_bytes(),
            start: self.call.start,
            asked_with: self.asked_with.as_deref(),
            keep_alive,
        };
        relay::response(head, front, &said)
    }

    /// The answer's body, with all that ends when it ends.
    pub(crate) fn into_body(mut self, relayed: &Relayed) -> (FunctionBody, Option<Busy>) {
        self.record.status = relayed.status.as_u16();
        self.record.answered_by(self.exchange.claim().endpoint().id());
        relayed.follow(&mut self.connection);
        let end = self.due.filter(|_| self.timeouts.request_body);
        let idle = IdleTimer::new(self.timeouts.idle, None).until(end);
        (FunctionBody::new(Source::Http1(self.connection), self.exchange, idle, self.record), self._busy)
    }

    /// The answer of this head, for the long way; `None` if it is only a word in between.
    pub(crate) fn read_head(&mut self, head: &Bytes) -> Result<Option<Response<()>>, Error> {
        let read = self.connection.read_head(head, &self.method);
        read.map_err(|failure| forward::no_answer(self.exchange.claim(), &failure))
    }

    /// An answer that goes the long way.
    pub(crate) fn into_response(self, response: Response<()>) -> Response<ResponseBody> {
        let Self { connection, exchange, call, asked_with, timeouts, due, record, .. } = self;
        let answer = Answer { response, source: Source::Http1(connection), exchange };
        if answer.response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
            return refused(record, &handler::unasked_switch(&answer), &call);
        }
        let asked_with = asked_with.and_then(|value| HeaderValue::from_maybe_shared(value).ok());
        let timer = due.map(|due| Box::pin(tokio::time::sleep_until(due)));
        handler::pass_on(answer, timer, &call, asked_with, &timeouts, record)
    }

    /// What to tell the client in place of an answer.
    pub(crate) fn refuse(self, error: &Error) -> Response<ResponseBody> {
        refused(self.record, error, &self.call)
    }
}

fn refused(mut record: Record, error: &Error, call: &Call) -> Response<ResponseBody> {
    record.status = error.status(false).as_u16();
    handler::refuse(error, call, false)
}
