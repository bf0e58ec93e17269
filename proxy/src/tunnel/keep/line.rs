//! Where one direction of a kept tunnel stands.
//!
//! Owns the marks. A mark says: all that was read until then is written, so much it was, and so stand the frames. There
//! are two of them, and one number says which counts: a process that is killed while it writes one has the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::memory::{LineRecord, MARK};
use super::{Frames, Keep, Sender};

/// One direction at a moment when nothing was held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// What the kernel counts on the socket that is read from.
    pub(super) consumed: u64,
    /// What it counts on the other one.
    pub(super) written: u64,
    /// Where in the buffer the bytes begin that come behind this.
    pub(super) start: u16,
    pub(super) frames: Frames,
}

/// One direction's place in the kept memory.
#[derive(Debug)]
pub(in crate::tunnel) struct Line {
    keep: Arc<Keep>,
    slot: u32,
    side: u8,
    /// What the kernel counts, less what this process has moved: consumed and written.
    base: [u64; 2],
}

impl Line {
    pub(super) fn new(keep: &Arc<Keep>, slot: u32, side: usize, base: [u64; 2]) -> Self {
        Self { keep: Arc::clone(keep), slot, side: u8::from(side != super::CLIENT), base }
    }

    fn record(&self) -> &LineRecord {
        self.keep.line(self.slot, self.side.into())
    }

    /// All that was read is written, `moved` bytes by this process.
    pub(super) fn mark(&self, moved: u64, frames: &Frames) {
        let [consumed, written] = self.base.map(|base| base.wrapping_add(moved));
        write(self.record(), &Mark { consumed, written, start: 0, frames: *frames });
    }

    /// Takes a buffer for what comes.
    pub(super) fn take_buffer(&self) -> u32 {
        self.keep.take_buffer(self.record())
    }

    /// The buffer it has, if it has one.
    pub(super) fn buffer(&self) -> Option<u32> {
        Some(self.record().buffer.load(Ordering::Relaxed)).filter(|number| *number != 0)
    }

    pub(super) fn give_buffer(&self) {
        self.keep.give_buffer(self.record());
    }

    /// The bytes of the buffer it has.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the record says that it is this direction's, which has one `Line`, and whoever writes has that mutably.
        self.buffer().map_or(&[], |number| unsafe { self.keep.memory.bytes(number) })
    }

    /// The same, to be written.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and this is the `Line`, mutably.
        self.buffer().map_or(&mut [], |number| unsafe { self.keep.memory.bytes_mut(number) })
    }
}

/// Writes a mark beside the one that counts, then lets it count.
pub(super) fn write(record: &LineRecord, mark: &Mark) {
    let next = record.which.load(Ordering::Relaxed) ^ 1;
    let [left, messages, header, rest] = mark.frames.to_words();
    // The frames leave the highest 16 bits to us.
    let rest = rest | u64::from(mark.start) << 48;
    let words = [mark.consumed, mark.written, left, messages, header, rest];
    for (place, word) in marks(record, next).iter().zip(words) {
        place.store(word, Ordering::Relaxed);
    }
    record.which.store(next, Ordering::Release);
}

/// The mark that counts.
pub(super) fn read(record: &LineRecord, sender: Sender) -> Mark {
    let words = marks(record, record.which.load(Ordering::Acquire));
    let [consumed, written, left, messages, header, rest] =
        words.each_ref().map(|word| word.load(Ordering::Relaxed));
    Mark {
        consumed,
        written,
        start: (rest >> 48) as u16,
        frames: Frames::of_words([left, messages, header, rest & ((1 << 48) - 1)], sender),
    }
}

fn marks(record: &LineRecord, which: u32) -> &[AtomicU64; MARK] {
    &record.marks[which as usize & 1]
}
