//! What an earlier process has left: which tunnels go on, and from where.
//!
//! Owns the reading of the kept memory, and the judgement of it: a direction of which it is not certain which bytes are
//! still to be written is not gone on with. Better a connection that ends than one with a hole in it.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tracing::warn;

use super::kernel::{self, Counts};
use super::line::{self, Line, Mark};
use super::memory::{BUFFER, Memory};
use super::{
    CLIENT, DescriptorStore, FREE, FUNCTION, Held, Keep, Kept, Named, OPEN, Origin, WEBSOCKET, names, sender,
};
use crate::function::{FunctionKey, ReplicaId};

/// The tunnels of an earlier process.
#[derive(Debug)]
pub struct Inherited {
    pub(in crate::tunnel) tunnels: Vec<Orphan>,
    /// Names in the store that stand for nothing any more.
    pub(in crate::tunnel) stale: Vec<String>,
}

/// One of them, with its sockets.
#[derive(Debug)]
pub(in crate::tunnel) struct Orphan {
    pub(in crate::tunnel) kept: Kept,
    pub(in crate::tunnel) client: OwnedFd,
    pub(in crate::tunnel) function: OwnedFd,
}

/// What is known of it.
#[derive(Debug)]
pub(in crate::tunnel) struct Found {
    pub(in crate::tunnel) function: FunctionKey,
    pub(in crate::tunnel) replica: ReplicaId,
    pub(in crate::tunnel) websocket: bool,
    /// From the client, and from the function. `None` if it cannot be gone on with.
    pub(in crate::tunnel) origins: Option<[Origin; 2]>,
}

impl Inherited {
    /// How many tunnels go on.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tunnels.len()
    }

    /// Does none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tunnels.is_empty()
    }
}

impl Keep {
    /// Goes on with `memory`, which an earlier process has kept, and with its sockets as the store gave them back.
    ///
    /// # Errors
    /// When it is not such memory, or of a form that this process does not know. Its tunnels are lost then.
    pub fn inherit(
        memory: OwnedFd,
        sockets: Vec<Named>,
        capacity: usize,
        store: Arc<dyn DescriptorStore>,
    ) -> io::Result<(Arc<Self>, Inherited)> {
        let keep = Arc::new(Self::with(Memory::inherit(memory)?, capacity, store));
        let mut stale = Vec::new();
        let mut by_slot: HashMap<u32, Vec<OwnedFd>> = HashMap::new();
        for (name, socket) in sockets {
            match names::slot(&name) {
                Some(slot) => by_slot.entry(slot).or_default().push(socket),
                None => stale.push(name),
            }
        }
        let tunnels: Vec<Orphan> = by_slot
            .into_iter()
            .filter_map(|(slot, sockets)| {
                let sockets = keep.sides(slot, sockets);
                if sockets.is_none() {
                    keep.memory.slot(slot).state.store(FREE, Ordering::Release);
                    stale.push(names::of(slot));
                }
                let (client, function) = sockets?;
                Some(Orphan { kept: Kept::of(&keep, slot), client, function })
            })
            .collect();
        keep.begin(&tunnels, &stale);
        Ok((keep, Inherited { tunnels, stale }))
    }

    /// Which socket is whose, if the slot is that of a tunnel that goes on and they are its.
    fn sides(&self, slot: u32, sockets: Vec<OwnedFd>) -> Option<(OwnedFd, OwnedFd)> {
        let slot = self.memory.slot(slot);
        if slot.state.load(Ordering::Acquire) != OPEN {
            return None;
        }
        let (mut client, mut function) = (None, None);
        for socket in sockets {
            let cookie = kernel::cookie(socket.as_fd()).ok()?;
            // There may be copies of one that was put there twice.
            if cookie == slot.cookies[CLIENT].load(Ordering::Relaxed) {
                client = Some(socket);
            } else if cookie == slot.cookies[FUNCTION].load(Ordering::Relaxed) {
                function = Some(socket);
            }
        }
        client.zip(function)
    }

    /// What is in use, before anything is taken.
    fn begin(&self, tunnels: &[Orphan], stale: &[String]) {
        let used: Vec<u32> = tunnels.iter().map(|tunnel| tunnel.kept.slot).collect();
        let buffers = used.iter().flat_map(|slot| {
            let lines = &self.memory.slot(*slot).lines;
            lines.each_ref().map(|record| record.buffer.load(Ordering::Acquire))
        });
        self.buffers.begin(buffers.filter(|number| Memory::is_buffer(*number)).collect());
        // Those with stale sockets are free once these are gone.
        let taken: HashSet<u32> =
            stale.iter().filter_map(|name| names::slot(name)).chain(used.clone()).collect();
        let mut slots = super::lock(&self.slots);
        slots.next = taken.iter().max().map_or(0, |slot| slot + 1);
        slots.returned = (0..slots.next).filter(|slot| !taken.contains(slot)).collect();
        self.kept.store(u32::try_from(used.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// Lets go of what stands for nothing.
    pub(in crate::tunnel) async fn remove_stale(&self, stale: Vec<String>) {
        for name in stale {
            match self.store.remove(&name).await {
                Ok(()) => super::lock(&self.slots).returned.extend(names::slot(&name)),
                Err(error) => warn!("descriptors that stand for nothing are still kept: {error}"),
            }
        }
    }
}

impl Orphan {
    /// Reads where it stands. Nothing may move meanwhile.
    pub(in crate::tunnel) fn read(&self) -> Option<Found> {
        let slot = self.kept.slot();
        let (function, replica) = names::read(&slot.text)?;
        let counts = [&self.client, &self.function].map(|socket| kernel::counts(socket.as_fd()));
        let origins = match counts {
            [Ok(client), Ok(function)] => {
                let of_client = self.origin(CLIENT, client, function);
                let of_function = self.origin(FUNCTION, function, client);
                of_client.zip(of_function).map(|(client, function)| [client, function])
            }
            [Err(error), _] | [_, Err(error)] => {
                warn!("a tunnel ends, as the kernel does not tell how far it came: {error}");
                None
            }
        };
        Some(Found {
            function,
            replica,
            websocket: slot.flags.load(Ordering::Relaxed) & WEBSOCKET != 0,
            origins,
        })
    }

    fn origin(&self, side: usize, from: Counts, to: Counts) -> Option<Origin> {
        let keep = &self.kept.keep;
        let record = keep.line(self.kept.slot, side);
        let mark = line::read(record, sender(side));
        let number = record.buffer.load(Ordering::Acquire);
        // SAFETY: its process has ended, and nobody else takes a buffer that is in use.
        let bytes = if Memory::is_buffer(number) { unsafe { keep.memory.bytes(number) } } else { &[] };
        let (written, length, frames) = place(&mark, from, to, bytes)?;
        let base = [from.consumed.wrapping_sub((length - written) as u64), to.written];
        let held = Held::kept(Line::new(keep, self.kept.slot, side, base), length);
        Some(Origin { held, written, frames })
    }
}

/// How much of the buffer was written, how much of it was read, and how the frames stand between the two. `None` if that
/// is not certain.
fn place(mark: &Mark, from: Counts, to: Counts, buffer: &[u8]) -> Option<(usize, usize, super::Frames)> {
    let start = usize::from(mark.start);
    let within = |count: u64| usize::try_from(count).ok().filter(|count| start + count <= BUFFER);
    let read = from.consumed.wrapping_sub(mark.consumed);
    let written = match to.written.wrapping_sub(mark.written) {
        // The end that was sent, and nothing can be written there any more.
        written if to.over && written == read.wrapping_add(1) => read,
        written => written,
    };
    let read = match read {
        read if !from.over => read,
        // One of them may be the end.
        read if read == written || read == written.wrapping_add(1) => written,
        _ => return None,
    };
    let (read, written) = (within(read)?, within(written)?);
    if read < written || (read > 0 && buffer.is_empty()) {
        return None;
    }
    let mut frames = mark.frames;
    frames.feed(buffer.get(start..start + written)?);
    Some((start + written, start + read, frames))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::frames::{Frames, Sender};

    #[test]
    fn what_lies_between_reading_and_writing_is_found_and_what_cannot_be_is_not_guessed() {
        let mark =
            Mark { consumed: 100, written: u64::MAX - 1, start: 0, frames: Frames::of(Sender::Function) };
        // A frame of 5 bytes, and half of another.
        let mut buffer = vec![0; BUFFER];
        buffer[..8].copy_from_slice(&[0x81, 3, 1, 2, 3, 0x82, 9, 7]);
        let counts = |consumed: u64, written: u64, over| {
            let at = |base: u64, count| base.wrapping_add(count);
            let from = Counts { consumed: at(100, consumed), written: 7, over };
            (from, Counts { consumed: 7, written: at(u64::MAX - 1, written), over: false })
        };
        let placed = |consumed, written, over, buffer: &[u8]| {
            let (from, to) = counts(consumed, written, over);
            place(&mark, from, to, buffer).map(|(w, r, frames)| (w, r, frames.at_boundary()))
        };
        let to_one_that_is_over = |consumed, written| {
            let (from, to) = counts(consumed, written, false);
            place(&mark, from, Counts { over: true, ..to }, &buffer).map(|(w, r, _)| (w, r))
        };
        assert_eq!(placed(0, 0, false, &[]), Some((0, 0, true)));
        assert_eq!(placed(8, 0, false, &buffer), Some((0, 8, true)));
        assert_eq!(placed(8, 5, false, &buffer), Some((5, 8, true)));
        assert_eq!(placed(8, 6, false, &buffer), Some((6, 8, false)));
        assert_eq!(placed(8, 8, false, &buffer), Some((8, 8, false)));
        assert_eq!(placed(5, 8, false, &buffer), None, "more written than read");
        assert_eq!(placed(8, 0, false, &[]), None, "bytes without a buffer");
        assert_eq!(placed(BUFFER as u64 + 1, 0, false, &buffer), None, "more than a buffer holds");
        assert_eq!(placed(8, 8, true, &buffer), Some((8, 8, false)));
        assert_eq!(placed(9, 8, true, &buffer), Some((8, 8, false)), "the end counted as a byte");
        assert_eq!(placed(8, 5, true, &buffer), None);
        assert_eq!(to_one_that_is_over(0, 1), Some((0, 0)), "the end counted as a byte");
        assert_eq!(to_one_that_is_over(8, 5), Some((5, 8)));
        assert_eq!(to_one_that_is_over(0, 2), None);
    }
}
