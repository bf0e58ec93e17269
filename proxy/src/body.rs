//! Bodies on their way through, and what hangs on their ends.
//!
//! Owns the end of a request: whoever polls a body to its end, or drops it, releases the claim, returns the connection
//! and closes the record. A body that broke off ends in an error, never in an end of stream, so that whoever writes it resets the
//! stream or closes the connection short of its length. Never buffers: one frame in, one frame out.

use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::debug;

use crate::access_log::Record;
use crate::claim::Claim;
use crate::client::Busy;
use crate::client_body::{ClientBody, ClientBodyError};
use crate::compress::Compressed;
use crate::http1::replica::{BodyFailure, Connection};
use crate::http2::{Download, Replayed};
use crate::limits::Bounded;
use crate::pool;
use crate::sent::Watched;

/// Any error.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("no byte moved for {0:?}")]
    Idle(Duration),
    #[error("the answer was not whole within the request limit")]
    Request,
    #[error("the client's body broke off")]
    Client(#[source] ClientBodyError),
    #[error("the stored body cannot be read")]
    Stored(#[source] io::Error),
    #[error("the function's body broke off")]
    Function(#[source] Box<BodyFailure>),
    #[error("the function's stream broke off")]
    Stream(#[source] h2::Error),
    #[error("the client's body is longer than {0} bytes")]
    TooLarge(u64),
    #[error("the client's body took longer than {0:?}")]
    Late(Duration),
}

/// One request at one replica: the claim, and when a byte last moved in either direction.
///
/// Shared by the two bodies; the claim is released when both are done.
#[derive(Debug)]
pub(crate) struct Exchange {
    claim: Claim,
    began: Instant,
    /// Milliseconds from `began` to the last byte.
    moved: AtomicU64,
    /// Bytes of the request's body that have come.
    received: AtomicU64,
}

impl Exchange {
    pub(crate) fn new(claim: Claim) -> Self {
        Self { claim, began: Instant::now(), moved: AtomicU64::new(0), received: AtomicU64::new(0) }
    }

    pub(crate) fn claim(&self) -> &Claim {
        &self.claim
    }

    pub(crate) fn into_claim(self) -> Claim {
        self.claim
    }

    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    fn touch(&self) {
        let milliseconds = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(milliseconds, Ordering::Relaxed);
    }

    fn last_moved(&self) -> Instant {
        self.began + Duration::from_millis(self.moved.load(Ordering::Relaxed))
    }
}

/// Fires when nothing moved for a while, or when all is to be over. Set anew when it fires, not at each byte.
#[derive(Debug)]
pub(crate) struct IdleTimer {
    limit: Option<Duration>,
    /// Whatever moves.
    end: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl IdleTimer {
    /// `sleep` is any timer that is at hand, wherever it is set to.
    pub(crate) fn new(limit: Option<Duration>, sleep: Option<Pin<Box<Sleep>>>) -> Self {
        Self { limit, end: None, sleep }
    }

    /// Fires at `end` as well.
    pub(crate) fn until(self, end: Option<Instant>) -> Self {
        Self { end, ..self }
    }

    /// Is all to be over now?
    fn is_over(&self) -> bool {
        self.end.is_some_and(|end| end <= Instant::now())
    }

    /// `Ready` when `last_moved` is as long ago as the limit, or all is to be over.
    fn poll_expired(&mut self, cx: &mut Context<'_>, last_moved: impl Fn() -> Instant) -> Poll<Broken> {
        loop {
            let idle = self.limit.map(|limit| last_moved() + limit);
            let Some(due) = idle.into_iter().chain(self.end).min() else { return Poll::Pending };
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if sleep.deadline() > due {
                sleep.as_mut().reset(due);
            }
            ready!(sleep.as_mut().poll(cx));
            if Instant::now() >= due {
                let limit = self.limit.filter(|_| idle == Some(due));
                return Poll::Ready(limit.map_or(Broken::Request, Broken::Idle));
            }
            sleep.as_mut().reset(due);
        }
    }
}

/// A body of ours that is not all in memory. What it tells of its length has to be true.
pub struct StoredBody(Pin<Box<dyn Body<Data = Bytes, Error = io::Error> + Send + Sync>>);

impl StoredBody {
    /// These bytes, as they are read.
    #[must_use]
    pub fn new(body: impl Body<Data = Bytes, Error = io::Error> + Send + Sync + 'static) -> Self {
        Self(Box::pin(body))
    }
}

impl Body for StoredBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

impl fmt::Debug for StoredBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredBody").field("size", &self.0.size_hint()).finish()
    }
}

/// A body of ours: whole, or as it is read.
#[derive(Debug)]
pub enum OwnBody {
    /// All of it.
    Whole(Bytes),
    /// What is still to be read.
    Stored(StoredBody),
}

impl From<OwnBody> for Payload {
    fn from(body: OwnBody) -> Self {
        match body {
            OwnBody::Whole(bytes) => Self::Own(Full::new(bytes)),
            OwnBody::Stored(body) => Self::Stored(body),
        }
    }
}

/// What a function is sent: the bytes of a client as they come, or bytes of ours.
#[derive(Debug)]
pub(crate) enum Payload {
    Client(ClientBody),
    Bounded(Box<Bounded>),
    Own(Full<Bytes>),
    /// Bytes that were put by.
    Stored(StoredBody),
    /// Either, of which somebody wants to know the end.
    Watched(Box<Watched>),
    /// Any, which is sent once more.
    Replayed(Box<Replayed>),
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Client(body) => Pin::new(body).poll_frame(cx).map_err(Broken::Client),
            Self::Bounded(body) => body.poll_frame(cx),
            Self::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Stored(body) => Pin::new(body).poll_frame(cx).map_err(Broken::Stored),
            Self::Watched(body) => Pin::new(&mut **body).poll_frame(cx),
            Self::Replayed(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Client(body) => body.is_end_stream(),
            Self::Bounded(body) => body.is_end_stream(),
            Self::Own(body) => body.is_end_stream(),
            Self::Stored(body) => body.is_end_stream(),
            Self::Watched(body) => body.is_end_stream(),
            Self::Replayed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Client(body) => body.size_hint(),
            Self::Bounded(body) => body.size_hint(),
            Self::Own(body) => body.size_hint(),
            Self::Stored(body) => body.size_hint(),
            Self::Watched(body) => body.size_hint(),
            Self::Replayed(body) => body.size_hint(),
        }
    }
}

/// A body on its way to a function.
#[derive(Debug)]
pub(crate) struct RequestBody {
    inner: Payload,
    /// `None` when there is no body: then nothing hangs on it.
    exchange: Option<Arc<Exchange>>,
    idle: IdleTimer,
}

impl RequestBody {
    pub(crate) fn new(inner: Payload, exchange: &Arc<Exchange>, idle: Option<Duration>) -> Self {
        let exchange = (!inner.is_end_stream()).then(|| Arc::clone(exchange));
        Self { inner, exchange, idle: IdleTimer::new(idle, None) }
    }

    /// The body, if it was not sent.
    pub(crate) fn into_inner(self) -> Payload {
        self.inner
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(frame) => {
                if let Some(exchange) = &this.exchange {
                    exchange.touch();
                    if let Some(Ok(frame)) = &frame
                        && let Some(data) = frame.data_ref()
                    {
                        exchange.received.fetch_add(data.len() as u64, Ordering::Relaxed);
                    }
                }
                Poll::Ready(frame)
            }
            Poll::Pending => match &this.exchange {
                Some(exchange) => {
                    this.idle.poll_expired(cx, || exchange.last_moved()).map(|expired| Some(Err(expired)))
                }
                None => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Where the body of an answer comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// All of a connection.
    Http1(Box<Connection>),
    /// A stream of one that is shared.
    Http2(Box<Download>),
}

impl Source {
    /// Is there nothing (more) to come?
    pub(crate) fn is_read(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_read(),
            Self::Http2(download) => download.is_end_stream(),
        }
    }

    /// How many bytes are left, if that is known.
    fn left(&self) -> Option<u64> {
        match self {
            Self::Http1(connection) => connection.left(),
            Self::Http2(download) => download.size_hint().exact(),
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self {
            Self::Http1(connection) => {
                connection.poll_frame(cx).map_err(|failure| Broken::Function(Box::new(failure)))
            }
            Self::Http2(download) => Pin::new(&mut **download).poll_frame(cx),
        }
    }
}

/// A function's body on its way to the client, with all that ends when it ends.
#[derive(Debug)]
pub(crate) struct FunctionBody {
    idle: IdleTimer,
    /// Gone once the body has ended.
    lease: Option<Lease>,
    record: Record,
}

/// What a body holds until its end.
#[derive(Debug)]
struct Lease {
    source: Source,
    exchange: Arc<Exchange>,
}

impl FunctionBody {
    pub(crate) fn new(source: Source, exchange: Arc<Exchange>, idle: IdleTimer, record: Record) -> Self {
        let mut body = Self { idle, lease: Some(Lease { source, exchange }), record };
        if body.is_end_stream() {
            body.end();
        }
        body
    }

    fn is_end_stream(&self) -> bool {
        self.lease.as_ref().is_none_or(|lease| lease.source.is_read())
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.lease.as_ref().map_or(Some(0), |lease| lease.source.left());
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    /// The last byte was read: the connection can serve another request.
    fn end(&mut self) {
        if let Some(Lease { source, exchange }) = self.lease.take() {
            self.record.received = exchange.received.load(Ordering::Relaxed);
            if let Source::Http1(connection) = source {
                pool::rest(connection, exchange.claim().endpoint().pool());
            }
            drop(exchange);
        }
    }

    /// Cuts the connection, if this was not the end.
    fn fail(&mut self, broken: Broken) -> Broken {
        self.record.broken = Some(match broken {
            Broken::Idle(_) => "idle",
            Broken::Request => "request",
            Broken::Client(_) | Broken::TooLarge(_) | Broken::Late(_) => "client",
            Broken::Stored(_) => "host",
            Broken::Function(_) | Broken::Stream(_) => "function",
        });
        if let Some(lease) = self.lease.take() {
            self.record.received = lease.exchange.received.load(Ordering::Relaxed);
            let claim = lease.exchange.claim();
            debug!(function = %claim.upstream().key(), replica = %claim.endpoint().id(), %broken, "an answer broke off");
        }
        broken
    }
}

impl FunctionBody {
    /// What was sent to the client is not what was read, but so many bytes.
    pub(crate) fn sent_as(&mut self, bytes: u64) {
        self.record.sent = bytes;
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Some(lease) = &mut self.lease else { return Poll::Ready(None) };
        match lease.source.poll_frame(cx) {
            Poll::Ready(Some(Ok(_))) if self.idle.is_over() => {
                Poll::Ready(Some(Err(self.fail(Broken::Request))))
            }
            Poll::Ready(Some(Ok(frame))) => {
                lease.exchange.touch();
                if let Some(data) = frame.data_ref() {
                    self.record.sent += data.len() as u64;
                }
                // Nobody asks a body of known length again after its last byte.
                if self.is_end_stream() {
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(broken))) => Poll::Ready(Some(Err(self.fail(broken)))),
            Poll::Ready(None) => {
                self.end();
                Poll::Ready(None)
            }
            Poll::Pending => {
                let expired = ready!(self.idle.poll_expired(cx, || lease.exchange.last_moved()));
                Poll::Ready(Some(Err(self.fail(expired))))
            }
        }
    }
}

impl Body for FunctionBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        Self::poll_frame(&mut self, cx)
    }

    fn is_end_stream(&self) -> bool {
        Self::is_end_stream(self)
    }
}

impl Drop for FunctionBody {
    fn drop(&mut self) {
        if let Some(lease) = &self.lease {
            self.record.received = lease.exchange.received.load(Ordering::Relaxed);
            self.record.broken.get_or_insert("client");
        }
    }
}

/// The body of an answer.
#[derive(Debug)]
pub struct ResponseBody {
    kind: Kind,
    busy: Option<Busy>,
}

enum Kind {
    Full(Full<Bytes>),
    Function(FunctionBody),
    Boxed(UnsyncBoxBody<Bytes, BoxError>),
    Compressed(Box<Compressed>),
}

impl ResponseBody {
    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self::full(Bytes::new())
    }

    /// These bytes.
    #[must_use]
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self { kind: Kind::Full(Full::new(bytes.into())), busy: None }
    }

    /// Whatever `body` yields.
    #[must_use]
    pub fn boxed<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self { kind: Kind::Boxed(body.map_err(Into::into).boxed_unsync()), busy: None }
    }

    pub(crate) fn function(body: FunctionBody) -> Self {
        Self { kind: Kind::Function(body), busy: None }
    }

    /// Is all of it there?
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self.kind, Kind::Full(_))
    }

    /// Are these the bytes of a function, as they come?
    pub(crate) fn is_of_function(&self) -> bool {
        matches!(self.kind, Kind::Function(_))
    }

    /// The bytes of a function, compressed as long as `place` is held. Others stay as they are.
    pub(crate) fn compressed(self, place: OwnedSemaphorePermit) -> Self {
        let kind = match self.kind {
            Kind::Function(body) => Kind::Compressed(Box::new(Compressed::new(body, place))),
            other => other,
        };
        Self { kind, ..self }
    }

    /// Keeps the client's connection busy until this body is done.
    pub(crate) fn while_busy(mut self, busy: Busy) -> Self {
        self.busy = Some(busy);
        self
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(match &mut self.kind {
            Kind::Full(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Kind::Function(body) => body.poll_frame(cx).map_err(Into::into),
            Kind::Boxed(body) => Pin::new(body).poll_frame(cx),
            Kind::Compressed(body) => body.poll_frame(cx),
        });
        if let (Some(Err(_)), Some(busy)) = (&frame, &self.busy) {
            busy.broke_off();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(body) => body.is_end_stream(),
            Kind::Function(body) => body.is_end_stream(),
            Kind::Boxed(body) => body.is_end_stream(),
            Kind::Compressed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(body) => body.size_hint(),
            Kind::Function(body) => body.size_hint(),
            Kind::Boxed(body) => body.size_hint(),
            Kind::Compressed(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full",
            Self::Function(_) => "Function",
            Self::Boxed(_) => "Boxed",
            Self::Compressed(_) => "Compressed",
        })
    }
}
