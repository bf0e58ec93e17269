//! Bytes that came and were not taken yet.
//!
//! Owns how much is read at once, and where to. The first bytes of a message go through a buffer that all connections of a
//! thread share, so that a connection that waits has none; what is known to come goes where it will stay.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::Decoder;

/// The shared buffer: heads and small bodies fit.
const SHARED: usize = 8 << 10;

/// The most that is read at once, and so the largest piece of a body.
const MOST: usize = 64 << 10;

thread_local! {
    static BUFFER: RefCell<Box<[u8; SHARED]>> = RefCell::new(Box::new([0; SHARED]));
}

/// What came.
#[derive(Debug, Default)]
pub(super) struct Input {
    pub(super) bytes: BytesMut,
    /// How much of a head was looked at.
    pub(super) seen: usize,
    /// The last read filled its buffer: more may be there.
    full: bool,
    /// There was a large buffer.
    large: bool,
}

impl Input {
    /// Reads, when nothing is known of what comes. `Ready(0)` is the end.
    pub(super) fn poll_read<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
    ) -> Poll<io::Result<usize>> {
        BUFFER.with_borrow_mut(|shared| {
            let mut window = ReadBuf::new(&mut shared[..]);
            ready!(Pin::new(from).poll_read(cx, &mut window))?;
            let read = window.filled();
            self.full = read.len() == SHARED;
            self.bytes.extend_from_slice(read);
            Poll::Ready(Ok(read.len()))
        })
    }

    /// A message is over: what waits for the next one needs no large buffer.
    pub(super) fn settle(&mut self) {
        if self.large && self.bytes.is_empty() {
            *self = Self::default();
        }
    }

    /// Is more of a body of known length there than what came with its head? Then it is read before that is passed on, so
    /// that both are written at once.
    pub(super) fn is_short_of(&self, body: &Decoder) -> bool {
        let left = if let Decoder::Length(left) = body { *left } else { 0 };
        self.full && self.bytes.len() <= SHARED && left > self.bytes.len() as u64
    }

    /// Reads of a body.
    pub(super) fn poll_read_body<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        body: &Decoder,
    ) -> Poll<io::Result<usize>> {
        let expected = match body.left() {
            Some(left) => {
                let left = usize::try_from(left).unwrap_or(usize::MAX);
                left.saturating_sub(self.bytes.len()).min(MOST)
            }
            None if self.full => MOST,
            None => 0,
        };
        if expected <= SHARED {
            return self.poll_read(cx, from);
        }
        // With some room to spare: of a buffer that is filled to its end it is not known whether that was all.
        self.bytes.reserve(expected + 1);
        self.large = true;
        let read = ready!(poll_read_buf(Pin::new(from), cx, &mut self.bytes))?;
        self.full = self.bytes.len() == self.bytes.capacity();
        Poll::Ready(Ok(read))
    }
}
