//! Bytes that are to be written and were not yet.
//!
//! Owns their order: a head, a piece of a body, and what stands around it, which go out in one system call. Holds one piece
//! at a time: who reads slowly is sent slowly.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

/// Room for heads that is kept between messages, in bytes.
const KEPT: usize = 4 << 10;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Heads, and the sizes of chunks.
    front: Vec<u8>,
    /// How much of it was written.
    written: usize,
    data: Bytes,
    /// Ends of chunks.
    back: &'static [u8],
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.front.is_empty() && self.data.is_empty() && self.back.is_empty()
    }

    /// Is there a head of which not a byte was written?
    pub(super) fn is_untouched(&self) -> bool {
        !self.front.is_empty() && self.written == 0
    }

    /// Can a piece of a body be put in?
    pub(super) fn has_room(&self) -> bool {
        self.data.is_empty() && self.back.is_empty()
    }

    /// Where a head goes, or what stands in front of the next piece.
    pub(super) fn front(&mut self) -> &mut Vec<u8> {
        debug_assert!(self.has_room(), "what is in front of a piece goes in before it");
        &mut self.front
    }

    /// Puts in a piece of a body, and what ends it.
    pub(super) fn put(&mut self, data: Bytes, back: &'static [u8]) {
        debug_assert!(self.has_room(), "one piece at a time");
        (self.data, self.back) = (data, back);
    }

    /// Gives up what was not written.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Writes all of it.
    pub(super) fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let front = &self.front[self.written..];
            let written = match (front, &*self.data, self.back) {
                (one, [], []) | ([], one, []) => ready!(Pin::new(&mut *to).poll_write(cx, one))?,
                (front, data, back) => {
                    let all = [front, data, back].map(IoSlice::new);
                    ready!(Pin::new(&mut *to).poll_write_vectored(cx, &all))?
                }
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        // TLS may have taken what the socket has not: nobody else would move it on.
        Pin::new(to).poll_flush(cx)
    }

    fn advance(&mut self, mut written: usize) {
        let of_front = written.min(self.front.len() - self.written);
        self.written += of_front;
        written -= of_front;
        if self.written == self.front.len() {
            self.written = 0;
            self.front.clear();
            self.front.shrink_to(KEPT);
        }
        let of_data = written.min(self.data.len());
        self.data.advance(of_data);
        if self.data.is_empty() {
            // Its buffer can be used again.
            self.data = Bytes::new();
        }
        self.back = &self.back[written - of_data..];
    }
}
