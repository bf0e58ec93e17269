//! What waits to be said to other nodes.
//!
//! Owns the queue, how much may be in it, and what of what was said to many is lost: whoever says something never waits for
//! other nodes.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use tokio::sync::mpsc;
use tracing::warn;

use super::wire::What;

/// How many things wait at most.
const MOST: usize = 4096;

/// How many bytes they are at most.
const MOST_BYTES: usize = 32 << 20;

/// Something that is to be said.
#[derive(Debug)]
pub(super) struct Parcel {
    /// To this node, or to all.
    pub(super) to: Option<Box<str>>,
    pub(super) what: What,
    /// What goes beside it.
    pub(super) data: Bytes,
}

impl Parcel {
    /// To all.
    pub(super) fn to_all(what: What, data: Bytes) -> Self {
        Self { to: None, what, data }
    }
}

/// The way in.
#[derive(Debug)]
pub(super) struct Outbox {
    sender: mpsc::Sender<Parcel>,
    bytes: AtomicUsize,
    lost: Losses,
}

/// What others were not told, or this node did not hear.
#[derive(Debug)]
pub(super) struct Losses {
    count: AtomicU64,
    /// How many there were at the last tick.
    before: AtomicU64,
    /// It was said that something is lost, and is lost still.
    is_told: AtomicBool,
    text: &'static str,
}

impl Losses {
    /// In the log they are told with this text.
    pub(super) fn new(text: &'static str) -> Self {
        Self { count: AtomicU64::new(0), before: AtomicU64::new(0), is_told: AtomicBool::new(false), text }
    }

    /// So many more.
    pub(super) fn add(&self, count: u64) {
        if count == 0 {
            return;
        }
        self.count.fetch_add(count, Relaxed);
        if !self.is_told.swap(true, Relaxed) {
            warn!("{}", self.text);
        }
    }

    /// From time to time. When nothing was lost since the last one, what is lost next is told again.
    pub(super) fn tick(&self) {
        let count = self.count.load(Relaxed);
        if self.before.swap(count, Relaxed) == count {
            self.is_told.store(false, Relaxed);
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }
}

impl Outbox {
    /// With the way out.
    pub(super) fn new() -> (Self, mpsc::Receiver<Parcel>) {
        let (sender, receiver) = mpsc::channel(MOST);
        let lost = Losses::new(
            "other nodes do not hear all that is said to groups, users and all: NATS is away, or slow",
        );
        (Self { sender, bytes: AtomicUsize::new(0), lost }, receiver)
    }

    /// Puts something in. `false` if there is no room.
    pub(super) fn put(&self, parcel: Parcel) -> bool {
        let length = parcel.data.len();
        let fits = |bytes: usize| bytes.checked_add(length).filter(|bytes| *bytes <= MOST_BYTES);
        if self.bytes.fetch_update(Relaxed, Relaxed, fits).is_err() {
            return false;
        }
        let is_in = self.sender.try_send(parcel).is_ok();
        if !is_in {
            self.bytes.fetch_sub(length, Relaxed);
        }
        is_in
    }

    /// Something was taken out.
    pub(super) fn taken(&self, parcel: &Parcel) {
        self.bytes.fetch_sub(parcel.data.len(), Relaxed);
    }

    /// What others were not told.
    pub(super) fn lost(&self) -> &Losses {
        &self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_so_many_things_and_so_many_bytes_and_no_more() {
        let (outbox, mut receiver) = Outbox::new();
        let parcel = |length: usize| Parcel::to_all(What::Bye, vec![0; length].into());
        for _ in 0..MOST {
            assert!(outbox.put(parcel(1)));
        }
        assert!(!outbox.put(parcel(1)));
        while let Ok(parcel) = receiver.try_recv() {
            outbox.taken(&parcel);
        }
        assert!(outbox.put(parcel(MOST_BYTES)), "what was refused or taken still counts");
        assert!(!outbox.put(parcel(1)));
        assert!(outbox.put(parcel(0)));
    }
}
