//! What one direction has read and not yet written.
//!
//! Owns the bytes, in memory of this process alone or in memory that outlives it, and hides which. A direction that is
//! quiet has no buffer in either.

use std::cell::Cell;
use std::mem;

use bytes::BufMut;
use bytes::buf::UninitSlice;

use super::line::Line;
use super::memory::BUFFER;
use crate::tunnel::frames::Frames;

thread_local! {
    /// The buffer that was last given back on this thread: the next message needs one, too.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Puts a buffer by.
fn spare(mut buffer: Vec<u8>) {
    if buffer.capacity() >= BUFFER {
        buffer.clear();
        // One that is there already goes instead, or this one if the thread is about to end.
        SPARE.try_with(|spare| spare.set(buffer)).ok();
    }
}

/// Bytes in their order.
#[derive(Debug)]
pub(in crate::tunnel) enum Held {
    Own(Vec<u8>),
    /// In the buffer of the line, as far as this.
    Kept(Line, usize),
}

impl Held {
    pub(in crate::tunnel) fn own(bytes: Vec<u8>) -> Self {
        Self::Own(bytes)
    }

    /// The first `length` bytes of the buffer that `line` has.
    pub(super) fn kept(line: Line, length: usize) -> Self {
        Self::Kept(line, length)
    }

    /// Is there room for what comes, without a new buffer?
    pub(in crate::tunnel) fn has_buffer(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.capacity() >= BUFFER,
            Self::Kept(line, _) => line.buffer().is_some(),
        }
    }

    /// Takes a buffer, if there is none.
    pub(in crate::tunnel) fn take_buffer(&mut self) {
        match self {
            Self::Own(bytes) => {
                if bytes.is_empty() {
                    *bytes = SPARE.try_with(Cell::take).unwrap_or_default();
                }
                bytes.reserve_exact(BUFFER);
            }
            Self::Kept(line, _) => {
                if line.buffer().is_none() {
                    line.take_buffer();
                }
            }
        }
    }

    /// All of it was written, and so many bytes by this process: it is forgotten, and the buffer given back unless it is
    /// to be `reused`.
    pub(in crate::tunnel) fn done(&mut self, reused: bool, moved: u64, frames: &Frames) {
        match self {
            Self::Own(bytes) if reused => bytes.clear(),
            Self::Own(bytes) => spare(mem::take(bytes)),
            Self::Kept(line, length) => {
                // In this order: bytes that count are in a buffer that is ours.
                line.mark(moved, frames);
                *length = 0;
                if !reused {
                    line.give_buffer();
                }
            }
        }
    }

    /// The first `written` bytes were written, and the rest has to wait for more, in as little memory as it takes. Not for
    /// a tunnel that is to outlive the process: nothing is held back there.
    pub(in crate::tunnel) fn hold_back(&mut self, written: usize) {
        match self {
            Self::Own(bytes) => {
                let rest = bytes[written..].to_vec();
                spare(mem::replace(bytes, rest));
            }
            Self::Kept(..) => debug_assert!(false, "what is read is written, all of it"),
        }
    }

    /// Drops what there is. Not for a tunnel that is to outlive the process.
    pub(in crate::tunnel) fn forget(&mut self) {
        match self {
            Self::Own(bytes) => spare(mem::take(bytes)),
            Self::Kept(line, length) => {
                *length = 0;
                line.give_buffer();
            }
        }
    }
}

impl std::ops::Deref for Held {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Kept(line, length) => &line.bytes()[..*length],
        }
    }
}

// SAFETY: `chunk_mut` is the part behind what is held, `advance_mut` holds more of it, and both see to their bounds.
unsafe impl BufMut for Held {
    fn remaining_mut(&self) -> usize {
        match self {
            Self::Own(bytes) => bytes.capacity() - bytes.len(),
            Self::Kept(line, length) => line.bytes().len() - length,
        }
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        match self {
            Self::Own(bytes) => UninitSlice::uninit(bytes.spare_capacity_mut()),
            Self::Kept(line, length) => UninitSlice::new(&mut line.bytes_mut()[*length..]),
        }
    }

    unsafe fn advance_mut(&mut self, count: usize) {
        match self {
            // SAFETY: what is asked of our caller is what this asks of us.
            Self::Own(bytes) => unsafe { bytes.advance_mut(count) },
            Self::Kept(line, length) => {
                let end = *length + count;
                assert!(end <= line.bytes().len(), "more than there was room for");
                *length = end;
            }
        }
    }
}
