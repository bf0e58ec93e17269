//! What is to be said to one client, and the socket that it is said on.
//!
//! Owns the queue, its bound, and the socket for as long as there is one. Anybody may say something; it is written by the
//! connection's task or, where something was said to many, by the [sweep](super::sweep) of its lane: one of them at a time,
//! in the order in which it was said. What ends a connection is said last: behind it nothing is taken any more.
//!
//! The lock is held for a look, a change, or one system call that does not wait.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use super::ending::Ending;
use super::fanout::Fanout;
use super::socket::Socket;
use super::sweep::Sweep;

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

/// The queue of one connection, and its socket.
#[derive(Debug)]
pub(crate) struct Outbound {
    queue: Mutex<Queue>,
    task: AtomicWaker,
    /// How many bytes may wait.
    limit: AtomicUsize,
    /// Who writes for the task what was said to many, once there is a socket.
    sweep: OnceLock<Arc<Sweep>>,
}

#[derive(Debug, Default)]
struct Queue {
    socket: Option<Socket>,
    /// Of the first one a part may be written.
    frames: VecDeque<Frame>,
    /// How many bytes others have said that are not written.
    bytes: usize,
    /// A part of the first frame is written: nothing may come before the rest.
    begun: bool,
    /// A sweep is going to look here.
    awaits_sweep: bool,
    /// Since when the socket takes nothing of what waits.
    stalled: Option<Instant>,
    end: Option<Ending>,
    /// Nothing more is taken.
    closed: bool,
}

#[derive(Debug)]
struct Frame {
    bytes: Bytes,
    /// It is of the protocol, not of a message, and counts against no limit.
    own: bool,
    /// It was said to many.
    fanout: Option<Arc<Fanout>>,
}

impl Frame {
    fn of(bytes: Bytes) -> Self {
        Self { bytes, own: false, fanout: None }
    }
}

/// What came of writing.
#[derive(Debug)]
pub(super) enum Wrote {
    /// There is nothing to write.
    Nothing,
    /// Some of it was written.
    Some {
        /// Nothing is left.
        all: bool,
    },
    /// The socket takes nothing, since then.
    Stalled(Instant),
    Failed(io::Error),
}

impl Outbound {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            queue: Mutex::default(),
            task: AtomicWaker::new(),
            limit: AtomicUsize::new(limit),
            sweep: OnceLock::new(),
        }
    }

    /// Says a frame, and has the task write it.
    pub(crate) fn say(&self, frame: Bytes) -> Said {
        let said = self.lock().say(Frame::of(frame), self.limit.load(Relaxed));
        if said != Said::Gone {
            self.task.wake();
        }
        said
    }

    /// Says a frame, for the task itself: it is going to write.
    pub(super) fn say_of_task(&self, frame: Bytes) -> Said {
        self.lock().say(Frame::of(frame), self.limit.load(Relaxed))
    }

    /// Says a frame that was said to many. The sweep that is to write it, if none is going to; where none can, the task is
    /// woken.
    pub(super) fn say_of_many(
        &self,
        frame: Bytes,
        fanout: Option<Arc<Fanout>>,
    ) -> (Said, Option<&Arc<Sweep>>) {
        let (said, sweep) = {
            let mut queue = self.lock();
            let said = queue.say(Frame { fanout, ..Frame::of(frame) }, self.limit.load(Relaxed));
            let sweep = self.sweep.get().filter(|_| said == Said::Queued);
            if sweep.is_some() && mem::replace(&mut queue.awaits_sweep, true) {
                return (said, None);
            }
            (said, sweep)
        };
        if sweep.is_none() && said != Said::Gone {
            self.task.wake();
        }
        (said, sweep)
    }

    /// Puts in a frame of the protocol. For the task: it is going to write.
    pub(super) fn push_own(&self, frame: Bytes) {
        self.lock().frames.push_back(Frame { own: true, ..Frame::of(frame) });
    }

    /// Says again what an earlier process has taken, however much that is.
    pub(super) fn say_again(&self, frames: impl IntoIterator<Item = Bytes>) {
        let mut queue = self.lock();
        for frame in frames {
            queue.bytes += frame.len();
            queue.frames.push_back(Frame::of(frame));
        }
    }

    /// Begins again with these frames: what was to be said before is forgotten, its end too.
    pub(super) fn restart(&self, frames: impl IntoIterator<Item = Bytes>) {
        let frames: VecDeque<_> = frames.into_iter().map(Frame::of).collect();
        let bytes = frames.iter().map(|frame| frame.bytes.len()).sum();
        let mut queue = self.lock();
        let (socket, awaits_sweep) = (queue.socket.take(), queue.awaits_sweep);
        *queue = Queue { socket, frames, bytes, awaits_sweep, ..Queue::default() };
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

    /// From here on it is written to this socket.
    pub(super) fn attach(&self, socket: Socket, sweep: Arc<Sweep>) {
        self.lock().socket = Some(socket);
        self.sweep.get_or_init(|| sweep);
    }

    /// There is no socket any more: it is closed.
    pub(super) fn detach(&self) {
        let socket = self.lock().socket.take();
        drop(socket);
    }

    /// Does something with the socket. `None` if there is none.
    pub(super) fn socket<T>(&self, with: impl FnOnce(&mut Socket) -> T) -> Option<T> {
        self.lock().socket.as_mut().map(with)
    }

    /// Takes nothing more, without a word: the connection is gone.
    pub(super) fn gone(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        queue.drop_frames();
    }

    /// Takes nothing more of others. What was said is still said.
    pub(super) fn close(&self) {
        let mut queue = self.lock();
        (queue.closed, queue.end) = (true, None);
    }

    /// The same for a client that hears nothing more: of what others have said, only the frame is ended that has begun.
    pub(super) fn fall_silent(&self) {
        let mut queue = self.lock();
        (queue.closed, queue.end) = (true, None);
        let mut begun = queue.begun;
        queue.frames.retain(|frame| mem::take(&mut begun) || frame.own);
        queue.bytes = queue.frames.iter().filter(|frame| !frame.own).map(|frame| frame.bytes.len()).sum();
    }

    /// Is an end waiting to be said?
    pub(super) fn is_ending(&self) -> bool {
        self.lock().closed
    }

    /// All that waits; of the first one a part may be gone. Nothing more is taken: whatever comes is for the next process to
    /// say.
    pub(super) fn take_all(&self) -> Vec<Bytes> {
        let mut queue = self.lock();
        queue.closed = true;
        let all = mem::take(&mut queue.frames).into_iter().map(|frame| frame.bytes).collect();
        queue.drop_frames();
        all
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

    /// Gives the end, once, when nothing else is left to be said.
    pub(super) fn take_end(&self) -> Option<Ending> {
        let mut queue = self.lock();
        if queue.frames.is_empty() { queue.end.take() } else { None }
    }

    /// Writes what the socket takes at once. For the task, which is woken when it takes more.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>) -> Wrote {
        self.lock().write(|socket, slices| socket.poll_write(cx, slices))
    }

    /// The same for a sweep. What is left is for the task to write.
    pub(super) fn sweep(&self) {
        let done = {
            let mut queue = self.lock();
            queue.awaits_sweep = false;
            // The task waits for room already.
            if queue.stalled.is_some() {
                return;
            }
            match queue.write(Socket::try_write) {
                Wrote::Nothing | Wrote::Some { all: true } => queue.end.is_none(),
                Wrote::Some { all: false } | Wrote::Stalled(_) | Wrote::Failed(_) => false,
            }
        };
        if !done {
            self.task.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing happens under the lock that could leave it half done.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn say(&mut self, frame: Frame, limit: usize) -> Said {
        if self.closed {
            return Said::Gone;
        }
        // One frame may be larger than the limit: it was let in as a message.
        if self.bytes > 0 && self.bytes.saturating_add(frame.bytes.len()) > limit {
            self.close(Ending::too_slow());
            return Said::TooSlow;
        }
        self.bytes += frame.bytes.len();
        self.frames.push_back(frame);
        Said::Queued
    }

    fn close(&mut self, ending: Ending) -> bool {
        if self.closed {
            return false;
        }
        self.closed = true;
        self.end = Some(ending);
        true
    }

    /// Has `write` write the next of what waits, as much as one system call takes.
    fn write(&mut self, write: impl FnOnce(&mut Socket, &[IoSlice<'_>]) -> Poll<io::Result<usize>>) -> Wrote {
        let Some(socket) = &mut self.socket else { return Wrote::Nothing };
        if self.frames.is_empty() {
            return Wrote::Nothing;
        }
        let mut slices: [IoSlice<'_>; FRAMES_AT_ONCE] = std::array::from_fn(|_| IoSlice::new(&[]));
        let mut count = 0;
        for (slice, frame) in slices.iter_mut().zip(&self.frames) {
            *slice = IoSlice::new(&frame.bytes);
            count += 1;
        }
        match write(socket, &slices[..count]) {
            Poll::Ready(Ok(0)) => Wrote::Failed(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(written)) => {
                self.advance(written);
                Wrote::Some { all: self.frames.is_empty() }
            }
            Poll::Ready(Err(error)) => Wrote::Failed(error),
            Poll::Pending => Wrote::Stalled(*self.stalled.get_or_insert_with(Instant::now)),
        }
    }

    /// So many bytes were written.
    fn advance(&mut self, mut written: usize) {
        self.stalled = None;
        self.begun = false;
        let mut now = None;
        while written > 0
            && let Some(Frame { bytes, own, fanout }) = self.frames.front_mut()
        {
            let length = written.min(bytes.len());
            if !*own {
                self.bytes -= length;
            }
            if bytes.len() > length {
                bytes.advance(length);
                self.begun = true;
                return;
            }
            written -= length;
            if let Some(fanout) = fanout {
                fanout.written(*now.get_or_insert_with(Instant::now));
            }
            self.frames.pop_front();
        }
        if self.frames.is_empty() {
            // A connection that waits holds no room for what it may say one day.
            self.frames = VecDeque::new();
        }
    }

    fn drop_frames(&mut self) {
        self.frames = VecDeque::new();
        (self.bytes, self.begun, self.stalled) = (0, false, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::{By, CloseFrame};
    use crate::websocket::ending::Category;

    fn frame(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    fn texts(outbound: &Outbound) -> Vec<Bytes> {
        outbound.lock().frames.iter().map(|frame| frame.bytes.clone()).collect()
    }

    fn written(outbound: &Outbound, bytes: usize) {
        outbound.lock().advance(bytes);
    }

    #[test]
    fn what_was_said_is_written_in_order_and_the_end_comes_last() {
        let outbound = Outbound::new(100);
        assert_eq!(outbound.say(frame("one")), Said::Queued);
        assert_eq!(outbound.say(frame("two")), Said::Queued);
        assert!(outbound.end(Ending::new(CloseFrame::new(4000, "bye"), By::Host, Category::Api)));
        assert_eq!(outbound.say(frame("late")), Said::Gone);
        assert!(!outbound.end(Ending::new(CloseFrame::new(1000, ""), By::Host, Category::Api)));
        assert_eq!(texts(&outbound), ["one", "two"]);
        assert!(outbound.take_end().is_none(), "not before all is written");
        written(&outbound, 6);
        assert_eq!(outbound.take_end().unwrap().frame.code(), Some(4000));
        assert!(outbound.take_end().is_none(), "once");
    }

    #[test]
    fn a_client_that_does_not_keep_up_is_ended_and_what_is_unwritten_counts() {
        let outbound = Outbound::new(10);
        assert_eq!(outbound.say(frame("12345678901234567890")), Said::Queued, "one frame, whatever its size");
        assert_eq!(outbound.say(frame("x")), Said::TooSlow);
        assert_eq!(outbound.say(frame("x")), Said::Gone);

        let outbound = Outbound::new(10);
        assert_eq!(outbound.say(frame("1234567890")), Said::Queued);
        written(&outbound, 4);
        assert_eq!((outbound.bytes(), texts(&outbound)), (6, vec![frame("567890")]));
        assert_eq!(outbound.say(frame("1234")), Said::Queued);
        assert_eq!(outbound.say(frame("5")), Said::TooSlow);
        written(&outbound, 6);
        assert!(outbound.take_end().is_none(), "what was said before is still said");
        assert_eq!(texts(&outbound), ["1234"]);
    }

    #[test]
    fn our_own_frames_count_against_no_limit() {
        let outbound = Outbound::new(10);
        outbound.push_own(frame("pong"));
        assert_eq!(outbound.say(frame("1234567890")), Said::Queued);
        written(&outbound, 4);
        assert_eq!(outbound.bytes(), 10);
    }

    #[test]
    fn who_falls_silent_ends_the_frame_that_has_begun_and_says_nothing_more() {
        let outbound = Outbound::new(100);
        for text in ["one", "two", "three"] {
            assert_eq!(outbound.say(frame(text)), Said::Queued);
        }
        written(&outbound, 4);
        outbound.push_own(frame("pong"));
        outbound.fall_silent();
        assert_eq!((texts(&outbound), outbound.bytes()), (vec![frame("wo"), frame("pong")], 2));
        outbound.push_own(frame("close"));
        assert_eq!(outbound.say(frame("four")), Said::Gone);
        assert_eq!(texts(&outbound), ["wo", "pong", "close"]);
    }
}
