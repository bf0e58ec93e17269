//! One direction of a tunnel.
//!
//! Owns the bytes between two sockets that were read and not yet written, and where they stand among the frames. It is
//! polled, and has no future of its own: where it stands is a few fields, and takes no memory beside them. Any future that
//! polls it may be dropped: nothing is lost, and another one goes on where it was. Never decides when to stop, but for
//! a message that is too long.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::io::poll_read_buf;
use tracing::debug;

use super::frames::{Counts, Frames};
use super::keep::{BUFFER, Held, Origin};
use super::ping::Ping;
use super::pump::Activity;
use super::screen::{Screen, Verdict};
use super::side::{ReadHalf, WriteHalf};

/// Bytes from one socket to another.
#[derive(Debug)]
pub(super) struct Way<'a> {
    pub(super) from: ReadHalf<'a>,
    pub(super) to: WriteHalf<'a>,
    /// Stands behind the last byte that was written.
    pub(super) frames: Frames,
    /// Bytes that were written.
    pub(super) moved: u64,
    /// The end of `from` was passed on to `to`.
    pub(super) ended: bool,
    /// `from` has ended.
    over: bool,
    /// What comes next is not to be passed on.
    refused: bool,
    /// What was read. A quiet direction has no buffer: one is taken when there is something to read, and given back
    /// when that is written.
    held: Held,
    /// So much of `held` is written.
    written: usize,
    /// Looks at what may be written, where that is asked for.
    pub(super) screen: Option<Box<Screen>>,
    /// Is to be put in at the next boundary.
    pub(super) ping: Option<Box<Ping>>,
}

/// Which socket failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failed {
    From,
    To,
    /// None: what comes next is not to go on.
    TooLong,
}

impl<'a> Way<'a> {
    /// From `origin` on.
    pub(super) fn new(from: ReadHalf<'a>, to: WriteHalf<'a>, origin: Origin) -> Self {
        let Origin { held, written, frames } = origin;
        Self {
            from,
            to,
            frames,
            moved: 0,
            ended: false,
            over: false,
            refused: false,
            held,
            written,
            screen: None,
            ping: None,
        }
    }

    /// Moves bytes until `from` ends.
    pub(super) fn poll_pump(
        &mut self,
        cx: &mut Context<'_>,
        activity: &Activity<'_>,
    ) -> Poll<Result<(), Failed>> {
        while !self.over {
            ready!(self.poll_pass(cx, activity))?;
            // A socket holds nothing back; TLS may.
            ready!(Pin::new(&mut self.to).poll_flush(cx)).map_err(|_| Failed::To)?;
            self.over = !ready!(self.poll_read(cx, activity)).map_err(|_| Failed::From)?;
        }
        // What was held back will not become more.
        self.poll_write_all(cx, self.held.len(), activity).map_err(|_| Failed::To)
    }

    /// Writes what may be written of what was read, and what is to be put in.
    fn poll_pass(&mut self, cx: &mut Context<'_>, activity: &Activity<'_>) -> Poll<Result<(), Failed>> {
        loop {
            if self.ping.is_some() && self.frames.at_boundary() {
                ready!(self.poll_ping(cx, activity)).map_err(|_| Failed::To)?;
            }
            if self.written == self.held.len() {
                return Poll::Ready(Ok(()));
            }
            let Some(length) = self.may_pass()? else { return Poll::Ready(Ok(())) };
            let mut end = self.written + length;
            if self.ping.is_some()
                && let Some(whole) = self.frames.last_boundary(&self.held[self.written..end])
            {
                end = self.written + whole;
            }
            ready!(self.poll_write_all(cx, end, activity)).map_err(|_| Failed::To)?;
        }
    }

    /// How much of what is held may be written now; `None`: nothing, before more comes.
    fn may_pass(&mut self) -> Result<Option<usize>, Failed> {
        let Some(screen) = &mut self.screen else { return Ok(Some(self.held.len() - self.written)) };
        match screen.look(self.frames, &self.held[self.written..]) {
            Verdict::Pass(length) => Ok(Some(length)),
            Verdict::Swallow(length) => {
                self.written += length;
                Ok(Some(0))
            }
            Verdict::Wait => Ok(None),
            Verdict::TooLong => {
                self.refused = true;
                Err(Failed::TooLong)
            }
        }
    }

    /// Puts the ping in. This stands at a boundary.
    fn poll_ping(&mut self, cx: &mut Context<'_>, activity: &Activity<'_>) -> Poll<io::Result<()>> {
        // None is begun behind a Close, in either direction.
        if self.ping.as_ref().is_some_and(|ping| !ping.has_begun()) && !activity.may_ping() {
            self.ping = None;
        }
        while let Some(ping) = self.ping.as_deref_mut() {
            let length = ready!(Pin::new(&mut self.to).poll_write(cx, ping.rest()))?;
            if length == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            ping.advance(length);
            if ping.rest().is_empty() {
                self.ping = None;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Passes the end on. A side that has already gone needs no telling: what the other direction finds there is the
    /// news.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        self.ended = true;
        poll_end(&mut self.to, cx).map_err(|_| Failed::To)
    }

    /// Moves what has come so far, as far as it makes whole frames; where there is a part of a frame behind the last
    /// boundary that was already passed on, all of that frame. Stops there. At the end of `from`, or in an opaque
    /// stream, no such place may come, and it stops where it is.
    pub(super) async fn settle(&mut self, activity: &Activity<'_>) -> Result<(), Failed> {
        if !self.frames.are_known() || self.refused {
            return Ok(());
        }
        if self.ping.as_ref().is_some_and(|ping| ping.has_begun()) {
            poll_fn(|cx| self.poll_ping(cx, activity)).await.map_err(|_| Failed::To)?;
        }
        self.ping = None;
        if self.held.len() == self.written {
            self.clear();
            self.held.take_buffer();
            // Without waiting. What is wrong with the socket, whoever waits for it will find.
            self.from.try_read_buf(&mut self.held).ok();
        }
        loop {
            self.settle_screened(activity).await?;
            if self.refused {
                return Ok(());
            }
            let whole = self.frames.last_boundary(&self.held[self.written..]);
            let goal = self.written + whole.unwrap_or(self.held.len() - self.written);
            self.write_all(goal, activity).await?;
            self.to.flush().await.map_err(|_| Failed::To)?;
            if whole.is_some() {
                return Ok(());
            }
            if !poll_fn(|cx| self.poll_read(cx, activity)).await.map_err(|_| Failed::From)? {
                return Ok(());
            }
        }
    }

    /// Moves whole frames as far as the screen lets them, where there is one: what it takes out is not to come at the end.
    async fn settle_screened(&mut self, activity: &Activity<'_>) -> Result<(), Failed> {
        while self.screen.is_some() && self.written < self.held.len() {
            let Ok(Some(length)) = self.may_pass() else { break };
            let end = self.written + length;
            let whole = self.frames.last_boundary(&self.held[self.written..end]);
            if length > 0 && whole == Some(0) {
                break;
            }
            let end = whole.map_or(end, |whole| self.written + whole);
            self.write_all(end, activity).await?;
        }
        Ok(())
    }

    /// Drops what was read and not written. The frames go on behind it.
    pub(super) fn forget(&mut self) {
        self.frames.feed(&self.held[self.written..]);
        self.held.forget();
        self.written = 0;
    }

    /// Reads more, all that was read before being written or held back. `false` at the end.
    fn poll_read(&mut self, cx: &mut Context<'_>, activity: &Activity<'_>) -> Poll<io::Result<bool>> {
        self.clear();
        if !self.held.has_buffer() {
            // Nothing is held while nothing comes.
            ready!(self.from.poll_readable(cx))?;
            self.held.take_buffer();
        }
        // `try_read_buf` would do, but this one also knows that a short read has emptied the socket.
        let read = poll_read_buf(Pin::new(&mut self.from), cx, &mut self.held);
        if read.is_pending() && self.held.is_empty() {
            self.held.done(false, self.moved, &self.frames);
        }
        let length = ready!(read)?;
        activity.heard(self.frames.sender());
        Poll::Ready(Ok(length > 0))
    }

    /// Gives the buffer back, unless more is to be expected at once. What is held back is kept: part of a header or of a
    /// pong. Does nothing where that was done.
    fn clear(&mut self) {
        if self.written < self.held.len() {
            if self.held.has_buffer() {
                self.held.hold_back(self.written);
                self.written = 0;
            }
        } else if self.written > 0 {
            let more = self.held.len() >= BUFFER;
            self.held.done(more, self.moved, &self.frames);
            self.written = 0;
        }
    }

    async fn write_all(&mut self, end: usize, activity: &Activity<'_>) -> Result<(), Failed> {
        poll_fn(|cx| self.poll_write_all(cx, end, activity)).await.map_err(|_| Failed::To)
    }

    /// Writes what is held, up to `end`.
    fn poll_write_all(
        &mut self,
        cx: &mut Context<'_>,
        end: usize,
        activity: &Activity<'_>,
    ) -> Poll<io::Result<()>> {
        while self.written < end {
            ready!(self.poll_write(cx, end, activity))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes some of what is held, up to `end`.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        end: usize,
        activity: &Activity<'_>,
    ) -> Poll<io::Result<()>> {
        let length = ready!(Pin::new(&mut self.to).poll_write(cx, &self.held[self.written..end]))?;
        if length == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let (known, closed, mut counts) = (self.frames.are_known(), self.frames.closed(), Counts::default());
        let data = self.frames.count(&self.held[self.written..self.written + length], &mut counts);
        if known {
            activity.count(self.frames.sender(), &counts);
        } else {
            activity.count_opaque(self.frames.sender(), length);
        }
        if known && !self.frames.are_known() {
            debug!("what passes through a tunnel are no WebSocket frames");
            activity.lost_track();
        }
        if self.frames.closed() && !closed {
            activity.closed(self.frames.sender());
        }
        if let Some(screen) = &mut self.screen {
            screen.passed(length);
        }
        self.written += length;
        self.moved += length as u64;
        activity.moved(data);
        Poll::Ready(Ok(()))
    }
}

/// Ends the writing to a socket that may already be gone.
pub(super) fn poll_end(to: &mut WriteHalf<'_>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    match ready!(Pin::new(to).poll_shutdown(cx)) {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
        ended => Poll::Ready(ended),
    }
}

/// Reads `from` and forgets what comes, until it ends or `done` says so of the frames.
pub(super) async fn discard(
    from: &mut ReadHalf<'_>,
    frames: &mut Frames,
    done: impl Fn(&Frames) -> bool,
) -> io::Result<()> {
    while !done(frames) {
        poll_fn(|cx| from.poll_readable(cx)).await?;
        let mut scratch = Vec::with_capacity(BUFFER);
        if from.read_buf(&mut scratch).await? == 0 {
            break;
        }
        frames.feed(&scratch);
    }
    Ok(())
}
