//! What is to be said to one client, until its socket takes it.
//!
//! Owns the queue and its bound. Anybody may say something; the connection's task alone takes it, in the order in which it
//! was said. What ends a connection is said last: behind it nothing is taken any more.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;

use super::ending::Ending;

/// How many frames one system call takes.
const FRAMES_AT_ONCE: usize = 32;

/// What became of something that was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// It waits for the socket.
    Queued,
    /// So much waits already that this client does not keep up. The connection ends for it.
    TooSlow,
    /// The connection ends, or has ended.
    Gone,
}

/// The queue of one connection.
#[derive(Debug)]
pub(crate) struct Outbound {
    queue: Mutex<Queue>,
    task: AtomicWaker,
    /// How many bytes may wait.
    limit: AtomicUsize,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Bytes>,
    /// Of `frames`, and of what the task has taken and not written yet.
    bytes: usize,
    end: Option<Ending>,
    /// Nothing more is taken.
    closed: bool,
}

/// What the connection's task has taken and not written yet.
#[derive(Debug, Default)]
pub(super) struct Batch {
    frames: VecDeque<Bytes>,
    bytes: usize,
}

impl Outbound {
    pub(crate) fn new(limit: usize) -> Self {
        Self { queue: Mutex::default(), task: AtomicWaker::new(), limit: AtomicUsize::new(limit) }
    }

    /// Says a frame.
    pub(crate) fn say(&self, frame: Bytes) -> Said {
        let said = {
            let mut queue = self.lock();
            if queue.closed {
                return Said::Gone;
            }
            // One frame may be larger than the limit: it was let in as a message.
            if queue.bytes > 0 && queue.bytes.saturating_add(frame.len()) > self.limit.load(Relaxed) {
                queue.close(Ending::too_slow());
                Said::TooSlow
            } else {
                queue.bytes += frame.len();
                queue.frames.push_back(frame);
                Said::Queued
            }
        };
        self.task.wake();
        said
    }

    /// Says again what an earlier process has taken, however much that is.
    pub(super) fn say_again(&self, frames: impl IntoIterator<Item = Bytes>) {
        let mut queue = self.lock();
        for frame in frames {
            queue.bytes += frame.len();
            queue.frames.push_back(frame);
        }
    }

    /// Begins again with these frames, on another socket: what was to be said on the last one is forgotten, its end too.
    pub(super) fn restart(&self, frames: VecDeque<Bytes>) {
        let mut queue = self.lock();
        *queue = Queue { bytes: frames.iter().map(Bytes::len).sum(), frames, ..Queue::default() };
        drop(queue);
        self.task.wake();
    }

    /// Is there an end that nobody was told yet?
    pub(super) fn end_waits(&self) -> bool {
        self.lock().end.is_some()
    }

    /// So many bytes may wait from now on.
    pub(super) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Relaxed);
    }

    /// Ends the connection behind what was said before. `false` if it ends already.
    pub(crate) fn end(&self, ending: Ending) -> bool {
        let was_open = self.lock().close(ending);
        self.task.wake();
        was_open
    }

    /// Takes nothing more, without a word: the connection is gone.
    pub(super) fn gone(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        queue.frames = VecDeque::new();
        queue.bytes = 0;
    }

    /// Is an end waiting to be said?
    pub(super) fn is_ending(&self) -> bool {
        self.lock().closed
    }

    /// All that waits. Nothing more is taken: whatever comes is for the next process to say.
    pub(super) fn take_all(&self) -> Vec<Bytes> {
        let mut queue = self.lock();
        queue.closed = true;
        queue.bytes = 0;
        mem::take(&mut queue.frames).into()
    }

    /// Has the task look again.
    pub(super) fn wake(&self) {
        self.task.wake();
    }

    /// How many bytes wait.
    pub(crate) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Has `waker` woken when something was said.
    pub(super) fn listen(&self, waker: &Waker) {
        self.task.register(waker);
    }

    /// Moves what was said to `batch` if that is empty; gives the end, once, when nothing else is left.
    pub(super) fn take(&self, batch: &mut Batch) -> Option<Ending> {
        if !batch.frames.is_empty() {
            return None;
        }
        let mut queue = self.lock();
        if queue.frames.is_empty() {
            return queue.end.take();
        }
        mem::swap(&mut queue.frames, &mut batch.frames);
        batch.bytes = queue.bytes;
        None
    }

    /// So much of a batch was written.
    pub(super) fn written(&self, bytes: usize) {
        let mut queue = self.lock();
        queue.bytes = queue.bytes.saturating_sub(bytes);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing happens under the lock that could leave it half done.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn close(&mut self, ending: Ending) -> bool {
        if self.closed {
            return false;
        }
        self.closed = true;
        self.end = Some(ending);
        true
    }
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// All of it. Of the first frame a part may be gone.
    pub(super) fn take_all(&mut self) -> Vec<Bytes> {
        self.bytes = 0;
        mem::take(&mut self.frames).into()
    }

    /// Puts in a frame that is ours, and counts against no limit.
    pub(super) fn push(&mut self, frame: Bytes) {
        self.frames.push_back(frame);
    }

    /// The next of them, as one system call takes them.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; FRAMES_AT_ONCE]) -> usize {
        let mut count = 0;
        for (slice, frame) in slices.iter_mut().zip(&self.frames) {
            *slice = IoSlice::new(frame);
            count += 1;
        }
        count
    }

    /// So many bytes were written: those of them that were said by others are given back.
    pub(super) fn advance(&mut self, mut written: usize) -> usize {
        let of_others = written.min(self.bytes);
        self.bytes -= of_others;
        while written > 0
            && let Some(frame) = self.frames.front_mut()
        {
            if frame.len() > written {
                frame.advance(written);
                break;
            }
            written -= frame.len();
            self.frames.pop_front();
        }
        if self.frames.is_empty() {
            // A connection that waits holds no room for what it may say one day.
            self.frames = VecDeque::new();
        }
        of_others
    }
}

/// Room for as many slices as are written at once.
pub(super) fn no_slices<'a>() -> [IoSlice<'a>; FRAMES_AT_ONCE] {
    std::array::from_fn(|_| IoSlice::new(&[]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::{By, CloseFrame};
    use crate::websocket::ending::Category;

    fn frame(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    fn texts(batch: &Batch) -> Vec<&[u8]> {
        batch.frames.iter().map(|frame| &frame[..]).collect()
    }

    #[test]
    fn what_was_said_is_taken_in_order_and_the_end_comes_last() {
        let (outbound, mut batch) = (Outbound::new(100), Batch::default());
        assert_eq!(outbound.say(frame("one")), Said::Queued);
        assert_eq!(outbound.say(frame("two")), Said::Queued);
        assert!(outbound.end(Ending::new(CloseFrame::new(4000, "bye"), By::Host, Category::Api)));
        assert_eq!(outbound.say(frame("late")), Said::Gone);
        assert!(!outbound.end(Ending::new(CloseFrame::new(1000, ""), By::Host, Category::Api)));
        assert!(outbound.take(&mut batch).is_none());
        assert_eq!(texts(&batch), [b"one", b"two"]);
        assert!(outbound.take(&mut batch).is_none(), "not before the batch is written");
        outbound.written(batch.advance(6));
        assert!(batch.is_empty());
        assert_eq!(outbound.take(&mut batch).unwrap().frame.code(), Some(4000));
        assert!(outbound.take(&mut batch).is_none(), "once");
    }

    #[test]
    fn a_client_that_does_not_keep_up_is_ended_and_what_is_unwritten_counts() {
        let (outbound, mut batch) = (Outbound::new(10), Batch::default());
        assert_eq!(outbound.say(frame("12345678901234567890")), Said::Queued, "one frame, whatever its size");
        assert_eq!(outbound.say(frame("x")), Said::TooSlow);
        assert_eq!(outbound.say(frame("x")), Said::Gone);

        let outbound = Outbound::new(10);
        assert_eq!(outbound.say(frame("1234567890")), Said::Queued);
        outbound.take(&mut batch);
        outbound.written(batch.advance(4));
        assert_eq!((outbound.bytes(), texts(&batch)), (6, vec![&b"567890"[..]]));
        assert_eq!(outbound.say(frame("1234")), Said::Queued);
        assert_eq!(outbound.say(frame("5")), Said::TooSlow);
        outbound.written(batch.advance(6));
        assert!(outbound.take(&mut batch).is_none(), "what was said before is still said");
        assert_eq!(texts(&batch), [b"1234"]);
    }

    #[test]
    fn our_own_frames_count_against_no_limit() {
        let (outbound, mut batch) = (Outbound::new(10), Batch::default());
        batch.push(frame("pong"));
        assert_eq!(outbound.say(frame("1234567890")), Said::Queued);
        outbound.written(batch.advance(4));
        assert_eq!(outbound.bytes(), 10);
    }
}
