//! How many tunnels outlive a process, and how many that might have do not.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What is counted while tunnels come and go.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) resumed: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) refused: AtomicU64,
}

/// Of this process.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct KeptFigures {
    /// Tunnels that the next process would get.
    pub kept: usize,
    /// Tunnels of an earlier process that went on in this one.
    pub resumed: u64,
    /// Those that could not: their replica was gone, or it was not certain how far they came.
    pub lost: u64,
    /// Tunnels that end with this process, as there was no place for them, or they could not be put into the store.
    pub refused: u64,
}

impl Counts {
    pub(super) fn read(&self, kept: usize) -> KeptFigures {
        let [resumed, lost, refused] =
            [&self.resumed, &self.lost, &self.refused].map(|count| count.load(Relaxed));
        KeptFigures { kept, resumed, lost, refused }
    }
}
