//! Tunnels that outlive the process that carries them.
//!
//! Owns what has to be known of each: its names, its sockets, and for each direction where it stands. All of it lies in
//! memory that is kept beside the sockets by somebody else, a [`DescriptorStore`]; whoever comes next goes on from there.
//! Never moves a byte from one socket to another, and never decides when a tunnel ends.
//!
//! ```text
//!   free ──open(): written down, then its sockets put into the store──► open ──ending()──► ending ──┐
//!     ▲                                                                  │ ▲                       │
//!     │                                       leave(), or a kill: gone ◄─┘ └─ inherit(): resumed   │
//!     └────────────────────────── close(): taken out of the store ◄────────────────────────────────┘
//! ```
//!
//! A process that is killed has no last word, so there is none: what is written down is right at each moment. A direction
//! is written down when all that was read of it is written, as a [mark](line); bytes that are read go into a buffer in the
//! kept memory. How far the process came behind its last mark, [the kernel](kernel) knows: the bytes that were ever read
//! from one socket and written to the other are in no doubt, and what lies between the two is in the buffer.

mod figures;
mod held;
mod kernel;
mod line;
mod memory;
mod names;
mod pool;
mod resumed;

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::ends::{Ends, Told};
use super::frames::{Frames, Sender};
use super::{Ahead, Traffic};
use crate::body::Exchange;
use crate::claim::Claim;
use figures::Counts;
pub use figures::KeptFigures;
pub(super) use held::Held;
use line::Line;
pub(super) use memory::BUFFER;
use memory::{LineRecord, Memory, SLOTS, Slot};
use pool::Pool;
pub use resumed::Inherited;
pub(super) use resumed::{Found, Orphan};

/// The name of the kept memory in the store.
pub const MEMORY_NAME: &str = "tunnels";

/// The most tunnels that can be kept.
pub const MAX_KEPT: usize = SLOTS as usize;

/// The client's side, in all that there are two of.
const CLIENT: usize = 0;
const FUNCTION: usize = 1;

const FREE: u32 = 0;
const OPEN: u32 = 1;
const ENDING: u32 = 2;

/// Both sides speak in WebSocket frames.
const WEBSOCKET: u32 = 1;
/// One of the sides has said all that it had to say.
const HALF_OPEN: u32 = 2;

/// An answer of a store.
pub type Storing<'a> = Pin<Box<dyn Future<Output = io::Result<()>> + Send + 'a>>;

/// Keeps descriptors beyond the end of this process, however that comes, and hands them to the next.
pub trait DescriptorStore: Send + Sync {
    /// Keeps copies of these under this name, in place of what it has under that name already.
    fn put<'a>(&'a self, name: &'a str, descriptors: &'a [BorrowedFd<'a>]) -> Storing<'a>;

    /// Lets go of what has this name, by and by: whoever comes next may find it yet.
    fn remove<'a>(&'a self, name: &'a str) -> Storing<'a>;
}

/// The tunnels of this process that the next one gets, if it comes to that.
pub struct Keep {
    memory: Memory,
    store: Arc<dyn DescriptorStore>,
    /// How many tunnels are kept at most.
    capacity: u32,
    slots: Mutex<Slots>,
    kept: AtomicU32,
    buffers: Pool,
    left: Ends,
    /// Of tunnels that were left: nobody is to take their replicas for idle while the process ends.
    claims: Mutex<Vec<Arc<Exchange>>>,
    counts: Counts,
}

/// Which slots are free.
#[derive(Debug, Default)]
struct Slots {
    /// From here on, none was ever taken.
    next: u32,
    returned: Vec<u32>,
}

/// One tunnel that is written down.
pub(super) struct Kept {
    keep: Arc<Keep>,
    /// Speaks when all are left.
    left: Told,
    slot: u32,
    closed: bool,
}

/// Where one direction begins, for this process.
#[derive(Debug)]
pub(super) struct Origin {
    /// What was read before, and how much of it was written.
    pub(super) held: Held,
    pub(super) written: usize,
    pub(super) frames: Frames,
}

impl Keep {
    /// Keeps up to `capacity` tunnels in `store`, and no more than [`MAX_KEPT`].
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new(capacity: usize, store: Arc<dyn DescriptorStore>) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self::with(Memory::new()?, capacity, store)))
    }

    fn with(memory: Memory, capacity: usize, store: Arc<dyn DescriptorStore>) -> Self {
        Self {
            memory,
            store,
            capacity: u32::try_from(capacity).map_or(SLOTS, |capacity| capacity.min(SLOTS)),
            slots: Mutex::default(),
            kept: AtomicU32::new(0),
            buffers: Pool::default(),
            left: Ends::default(),
            claims: Mutex::default(),
            counts: Counts::default(),
        }
    }

    /// What has to be in the store as [`MEMORY_NAME`] for any of it to count.
    #[must_use]
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// Is this the name of something that is kept for tunnels?
    #[must_use]
    pub fn is_name(name: &str) -> bool {
        name == MEMORY_NAME || names::slot(name).is_some()
    }

    /// How many tunnels are kept now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept.load(Ordering::Relaxed) as usize
    }

    /// Is none kept?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What became of tunnels so far.
    #[must_use]
    pub fn figures(&self) -> KeptFigures {
        self.counts.read(self.len())
    }

    /// All tunnels stop where they are, for the next process.
    pub(super) fn leave(&self) {
        self.left.cut();
    }

    /// The claim of a tunnel that was left counts for as long as this process has anything to say.
    pub(super) fn hold(&self, claim: Arc<Exchange>) {
        lock(&self.claims).push(claim);
    }

    /// Writes a tunnel down that begins now, and puts its sockets into the store. `None` if it cannot be kept; it ends
    /// with this process then.
    pub(super) async fn open(
        self: &Arc<Self>,
        claim: &Claim,
        websocket: bool,
        expires: Option<Instant>,
        (client, function): (&TcpStream, &TcpStream),
        ahead: &Ahead,
    ) -> Option<Kept> {
        let kept = self.try_open(claim, websocket, expires, (client, function), ahead).await;
        if kept.is_none() {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
        }
        kept
    }

    async fn try_open(
        self: &Arc<Self>,
        claim: &Claim,
        websocket: bool,
        expires: Option<Instant>,
        (client, function): (&TcpStream, &TcpStream),
        ahead: &Ahead,
    ) -> Option<Kept> {
        if ahead.of_client.len() > BUFFER || ahead.of_function.len() > BUFFER || self.left.is_cut() {
            return None;
        }
        let kept = self.take_slot()?;
        if let Err(error) = kept.write_down(claim, websocket, expires, (client, function), ahead) {
            debug!(%error, "a tunnel cannot be written down");
            kept.close_now();
            return None;
        }
        let sockets = [client.as_fd(), function.as_fd()];
        match self.store.put(&names::of(kept.slot), &sockets).await {
            Ok(()) => Some(kept),
            Err(error) => {
                warn!("a tunnel is not kept beyond this process: {error}");
                kept.close().await;
                None
            }
        }
    }

    fn take_slot(self: &Arc<Self>) -> Option<Kept> {
        let mut slots = lock(&self.slots);
        if self.kept.load(Ordering::Relaxed) >= self.capacity {
            return None;
        }
        let slot = slots.returned.pop().or_else(|| {
            (slots.next < SLOTS).then(|| {
                slots.next += 1;
                slots.next - 1
            })
        })?;
        self.kept.fetch_add(1, Ordering::Relaxed);
        Some(Kept::of(self, slot))
    }

    /// The slot of a tunnel that has ended is for another one.
    fn free_slot(&self, slot: u32) {
        let mut slots = lock(&self.slots);
        slots.returned.push(slot);
        self.kept.fetch_sub(1, Ordering::Relaxed);
    }

    fn line(&self, slot: u32, side: usize) -> &LineRecord {
        &self.memory.slot(slot).lines[side]
    }

    /// Takes a buffer, and writes down whose it is before anything is in it.
    fn take_buffer(&self, record: &LineRecord) -> u32 {
        let number = self.buffers.take();
        record.buffer.store(number, Ordering::Release);
        number
    }

    /// Gives the buffer of a direction back, if it has one. It is nobody's before it is free.
    fn give_buffer(&self, record: &LineRecord) {
        let number = record.buffer.swap(0, Ordering::AcqRel);
        if number != 0 {
            self.buffers.give(number, |number| self.memory.clear(number));
        }
    }
}

impl Kept {
    /// Whatever is in `slot`.
    fn of(keep: &Arc<Keep>, slot: u32) -> Self {
        Self { keep: Arc::clone(keep), left: keep.left.listen(), slot, closed: false }
    }

    fn slot(&self) -> &Slot {
        self.keep.memory.slot(self.slot)
    }

    fn write_down(
        &self,
        claim: &Claim,
        websocket: bool,
        expires: Option<Instant>,
        (client, function): (&TcpStream, &TcpStream),
        ahead: &Ahead,
    ) -> io::Result<()> {
        let slot = self.slot();
        let counts = [kernel::counts(client.as_fd())?, kernel::counts(function.as_fd())?];
        slot.flags.store(if websocket { WEBSOCKET } else { 0 }, Ordering::Relaxed);
        for (cookie, socket) in slot.cookies.iter().zip([client.as_fd(), function.as_fd()]) {
            cookie.store(kernel::cookie(socket)?, Ordering::Relaxed);
        }
        let at = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let now = now()?;
        slot.opened.store(at(now), Ordering::Relaxed);
        let expires =
            expires.map_or(0, |expires| at(now + expires.saturating_duration_since(Instant::now())));
        slot.expires.store(expires, Ordering::Relaxed);
        slot.moved.store(0, Ordering::Relaxed);
        names::write(&slot.text, claim.upstream().key(), claim.endpoint().id())?;
        for (side, ahead) in [(CLIENT, &ahead.of_client), (FUNCTION, &ahead.of_function)] {
            let record = &slot.lines[side];
            record.buffer.store(0, Ordering::Relaxed);
            if !ahead.is_empty() {
                let number = self.keep.take_buffer(record);
                // SAFETY: just taken, for this direction alone.
                let bytes = unsafe { self.keep.memory.bytes_mut(number) };
                bytes[..ahead.len()].copy_from_slice(ahead);
            }
            let consumed = counts[side].consumed.wrapping_sub(ahead.len() as u64);
            let mark = line::Mark {
                consumed,
                written: counts[1 - side].written,
                start: 0,
                frames: frames(websocket)(sender(side)),
            };
            line::write(record, &mark);
        }
        slot.state.store(OPEN, Ordering::Release);
        Ok(())
    }

    /// Where the direction from `side` begins, of a tunnel that begins now.
    fn origin(&self, side: usize, ahead: usize) -> Origin {
        let mark = line::read(self.keep.line(self.slot, side), sender(side));
        let line = Line::new(&self.keep, self.slot, side, [mark.consumed, mark.written]);
        Origin { held: Held::kept(line, ahead), written: 0, frames: mark.frames }
    }

    /// Both of them: from the client, and from the function.
    pub(super) fn origins(&self, ahead: &Ahead) -> [Origin; 2] {
        [self.origin(CLIENT, ahead.of_client.len()), self.origin(FUNCTION, ahead.of_function.len())]
    }

    /// It is being ended: whoever finds it so ends it, and no byte of it is passed on any more.
    pub(super) fn ending(&self) {
        self.slot().state.store(ENDING, Ordering::Release);
    }

    /// It goes on, with this process.
    pub(super) fn resumed(&self) {
        self.keep.counts.resumed.fetch_add(1, Ordering::Relaxed);
    }

    /// It was to go on, and does not.
    pub(super) async fn lose(self) {
        self.keep.counts.lost.fetch_add(1, Ordering::Relaxed);
        self.close().await;
    }

    /// Ready when it is to be left where it is. One that is being ended is not.
    pub(super) fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.left.poll_cut(cx));
        if self.slot().state.load(Ordering::Relaxed) == ENDING { Poll::Pending } else { Poll::Ready(()) }
    }

    /// When it began and when something last moved in it, with this process and with those before.
    pub(super) fn traffic(&self) -> Traffic {
        let slot = self.slot();
        let opened = Duration::from_millis(slot.opened.load(Ordering::Relaxed));
        let age = now().map_or(Duration::ZERO, |now| now.saturating_sub(opened));
        Traffic::resumed(age, slot.moved.load(Ordering::Relaxed))
    }

    /// When the client's token ends, if it came with one.
    pub(super) fn expires(&self) -> Option<Instant> {
        let expires = self.slot().expires.load(Ordering::Relaxed);
        let left = Duration::from_millis(expires).saturating_sub(now().unwrap_or_default());
        if expires == 0 { None } else { Instant::now().checked_add(left) }
    }

    /// Has one of its sides said all that it had to say?
    pub(super) fn is_half_open(&self) -> bool {
        self.slot().flags.load(Ordering::Relaxed) & HALF_OPEN != 0
    }

    /// So it is with its bytes now. A look, and a store if there is something new.
    pub(super) fn note(&self, last: &Traffic, half_open: bool) {
        let (slot, moved) = (self.slot(), last.mark());
        if slot.moved.load(Ordering::Relaxed) != moved {
            slot.moved.store(moved, Ordering::Relaxed);
        }
        if half_open && !self.is_half_open() {
            slot.flags.fetch_or(HALF_OPEN, Ordering::Relaxed);
        }
    }

    pub(super) fn keep(&self) -> &Arc<Keep> {
        &self.keep
    }

    /// It has ended: nothing of it is kept any more.
    pub(super) async fn close(mut self) {
        self.forget();
        if let Err(error) = self.keep.store.remove(&names::of(self.slot)).await {
            warn!("a tunnel that has ended is still kept: {error}");
        }
        self.closed = true;
        self.keep.free_slot(self.slot);
    }

    /// The same for one whose sockets were never put into the store.
    fn close_now(mut self) {
        self.forget();
        self.closed = true;
        self.keep.free_slot(self.slot);
    }

    fn forget(&self) {
        self.slot().state.store(FREE, Ordering::Release);
        for record in &self.slot().lines {
            self.keep.give_buffer(record);
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // One that broke. Its slot is lost to this process; the next one has nothing to resume.
        if !self.closed && !self.keep.left.is_cut() {
            self.slot().state.store(FREE, Ordering::Release);
        }
    }
}

impl Origin {
    /// That of a tunnel which ends with this process.
    pub(super) fn own(ahead: &[u8], frames: Frames) -> Self {
        Self { held: Held::own(ahead.to_vec()), written: 0, frames }
    }
}

/// The trackers of a tunnel.
pub(super) fn frames(websocket: bool) -> fn(Sender) -> Frames {
    if websocket { Frames::of } else { Frames::opaque }
}

fn sender(side: usize) -> Sender {
    if side == CLIENT { Sender::Client } else { Sender::Function }
}

/// Since this machine has started: a clock that the next process has, too, and that nobody sets.
fn now() -> io::Result<Duration> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one such value, to where `now` is.
    if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let parts = (u64::try_from(now.tv_sec).ok(), u32::try_from(now.tv_nsec).ok());
    let (seconds, rest) = parts.0.zip(parts.1).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Duration::new(seconds, rest))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Only pushes, pops and sums happen under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Keep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keep")
            .field("capacity", &self.capacity)
            .field("kept", &self.len())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("slot", &self.slot).finish_non_exhaustive()
    }
}

/// A descriptor with its name in the store.
pub type Named = (String, OwnedFd);
