//! The client's side of a connection: its socket, with limits on silence.
//!
//! Owns the timers of a connection that has no request: keep-alive, and how long a request head may take. Also a write
//! that makes no progress, and the last moments of the socket. Never reads HTTP: what a request is, the server says by
//! counting ([`Busy`]).
//!
//! ```text
//!   quiet ──first byte──► head ──request──► busy ──last byte of the answer──► quiet
//!     │ keep_alive          │ header_timeout   │ stall: a write pends
//!     ▼                     ▼                  ▼
//!   closed                closed             closed
//! ```
//!
//! A connection that never said a byte has no more than `header_timeout` to say the first one.
//!
//! One timer serves all of them, and is set when it fires, not when something moves: a busy connection never touches it.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::lanes::Seat;
use crate::limits::Place;
use crate::stream::Stream;

/// The first bytes of HTTP/2 without an upgrade.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2";

/// How many files a connection takes: its own socket, and one to a replica.
pub(crate) const FILES_EACH: u32 = 2;

/// Why a connection ends whose head is not there in time.
pub(crate) const SLOW_HEAD: &str = "the request head took too long";

/// After our last byte: how long, and for how many bytes, we go on reading. Closing a socket with unread bytes in it
/// resets the connection, and the reset may overtake the answer.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 16 << 20;

/// The limits of a client's connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// From the first byte of a request to the end of its head.
    pub(crate) header: Duration,
    /// Between two requests.
    pub(crate) keep_alive: Duration,
    /// A write that makes no progress.
    pub(crate) stall: Duration,
}

/// What the tasks of one connection tell its socket.
#[derive(Debug)]
pub(crate) struct Requests {
    /// Begun, ever.
    begun: AtomicU64,
    /// Ended, ever. Equal to `begun`: the connection is not busy.
    ended: AtomicU64,
    /// Close with a reset, so that the client cannot take what it has for the whole.
    reset: AtomicBool,
    /// The connection's place among those allowed, for as long as the socket is in use.
    _permit: OwnedSemaphorePermit,
    /// And that of the connection to a replica that it may need.
    onward: Mutex<Option<OwnedSemaphorePermit>>,
    /// Its place on a lane, as long.
    _seat: Option<Seat>,
    /// And its place among those of this client, where they are counted.
    _place: Option<Place>,
}

/// A request that is going on. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Busy {
    requests: Arc<Requests>,
    /// The end of the connection is the only end of body that this client knows.
    http10: bool,
}

impl Requests {
    /// `permit` is for [`FILES_EACH`] files.
    pub(crate) fn new(
        mut permit: OwnedSemaphorePermit,
        seat: Option<Seat>,
        place: Option<Place>,
    ) -> Arc<Self> {
        Arc::new(Self {
            onward: Mutex::new(permit.split(1)),
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            reset: AtomicBool::new(false),
            _permit: permit,
            _seat: seat,
            _place: place,
        })
    }

    pub(crate) fn begin(self: &Arc<Self>, version: http::Version) -> Busy {
        self.begun.fetch_add(1, Ordering::Relaxed);
        Busy { requests: Arc::clone(self), http10: version < http::Version::HTTP_11 }
    }
}

impl Busy {
    /// The answer broke off. HTTP/1.1 and 2 mark the end of a body; HTTP/1.0 may take any end for it but a reset.
    pub(crate) fn broke_off(&self) {
        if self.http10 {
            self.requests.reset.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.requests.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// A client's socket.
#[derive(Debug)]
pub(crate) struct ClientSocket {
    bare: BareSocket,
    /// What was read and is to be read again.
    unread: Bytes,
    limits: Limits,
    timer: Option<Pin<Box<Sleep>>>,
    /// `Requests::begun` as it was when last looked at: a difference means that a head was read to its end.
    seen: u64,
    /// HTTP/2 sends frames that belong to no request: no byte begins a head there.
    http2: Option<bool>,
    quiet_since: Instant,
    head_since: Option<Instant>,
    stalled_since: Option<Instant>,
    lingering: Option<Linger>,
}

/// The same without the limits: one that is no longer HTTP, and may be open for hours.
#[derive(Debug)]
pub(crate) struct BareSocket {
    stream: Stream,
    requests: Arc<Requests>,
}

#[derive(Debug)]
struct Linger {
    until: Instant,
    bytes_left: usize,
}

impl ClientSocket {
    pub(crate) fn new(stream: Stream, requests: Arc<Requests>, limits: Limits) -> Self {
        Self {
            bare: BareSocket { stream, requests },
            unread: Bytes::new(),
            limits,
            timer: None,
            seen: 0,
            http2: None,
            quiet_since: Instant::now(),
            head_since: None,
            stalled_since: None,
            lingering: None,
        }
    }

    /// The bytes alone, once they are no longer HTTP.
    pub(crate) fn into_bare(self) -> BareSocket {
        self.bare
    }

    /// Has something come that was not read yet? Asks the kernel.
    pub(crate) fn has_unread(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        SockRef::from(self.bare.stream.socket()).peek(&mut byte).is_ok_and(|read| read > 0)
    }

    /// Has `bytes` read again, in front of what is still to come.
    pub(crate) fn unread(&mut self, bytes: Bytes) {
        self.unread = bytes;
    }

    /// Is a request going on? Also notices requests that came and went since the last look.
    fn busy(&mut self) -> bool {
        let begun = self.bare.requests.begun.load(Ordering::Relaxed);
        if begun != self.seen {
            self.seen = begun;
            self.head_since = None;
            self.quiet_since = Instant::now();
        }
        begun != self.bare.requests.ended.load(Ordering::Relaxed)
    }

    /// Bytes came: if no request is going on, they begin one.
    fn note_read(&mut self, bytes: &[u8]) {
        let http2 = *self.http2.get_or_insert_with(|| bytes.starts_with(HTTP2_PREFACE));
        if !http2 && !bytes.is_empty() && !self.busy() {
            self.head_since.get_or_insert_with(Instant::now);
        }
    }

    /// `Ready` with an error once `due` has passed; else the task is woken then.
    fn poll_limit(&mut self, cx: &mut Context<'_>, due: Instant, what: &'static str) -> Poll<io::Error> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() > due {
            timer.as_mut().reset(due);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= due {
                return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            timer.as_mut().reset(due);
        }
    }

    fn poll_quiet(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.busy() {
            return Poll::Pending;
        }
        match self.head_since {
            Some(since) => self.poll_limit(cx, since + self.limits.header, SLOW_HEAD),
            // Not a byte yet: whoever connects to ask does so.
            None if self.http2.is_none() => self.poll_limit(
                cx,
                self.quiet_since + self.limits.header.min(self.limits.keep_alive),
                "no request came",
            ),
            None => self.poll_limit(cx, self.quiet_since + self.limits.keep_alive, "no request came"),
        }
    }

    fn note_write<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled_since = None;
            self.quiet_since = Instant::now();
            return written;
        }
        let since = *self.stalled_since.get_or_insert_with(Instant::now);
        self.poll_limit(cx, since + self.limits.stall, "the client does not read").map(Err)
    }

    /// Reads and forgets until the client closes too, for a short while.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = self.lingering.as_ref().map_or_else(Instant::now, |linger| linger.until);
        let mut scratch = [0; 4096];
        while let Some(linger) = &mut self.lingering {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.bare.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    match linger.bytes_left.checked_sub(buffer.filled().len()) {
                        Some(left) => linger.bytes_left = left,
                        None => return Poll::Ready(()),
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.poll_limit(cx, until, "linger").map(drop),
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for ClientSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.unread.is_empty() {
            let again = this.unread.len().min(buffer.remaining());
            buffer.put_slice(&this.unread[..again]);
            this.unread.advance(again);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        match Pin::new(&mut this.bare.stream).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) => {
                this.note_read(&buffer.filled()[before..]);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => this.poll_quiet(cx).map(Err),
        }
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.bare.stream).poll_write(cx, bytes);
        self.note_write(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.bare.stream).poll_write_vectored(cx, bytes);
        self.note_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.bare.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.bare.stream.is_tls() {
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(&mut self.bare.stream).poll_flush(cx);
        self.note_write(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.bare.stream).poll_shutdown(cx))?;
            self.lingering = Some(Linger { until: Instant::now() + LINGER, bytes_left: LINGER_BYTES });
        }
        self.poll_linger(cx).map(Ok)
    }
}

impl BareSocket {
    /// It is held here, and needs no connection to a replica of its own: another client may have the place of that.
    pub(crate) fn hold(&self) {
        let onward = self.requests.onward.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(onward);
    }

    pub(crate) fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }
}

impl Drop for BareSocket {
    fn drop(&mut self) {
        if self.requests.reset.load(Ordering::Relaxed) {
            // Without this the close would look like the end of the body.
            if let Err(error) = SockRef::from(self.stream.socket()).set_linger(Some(Duration::ZERO)) {
                tracing::debug!(%error, "a truncated answer cannot be reset");
            }
        }
    }
}
