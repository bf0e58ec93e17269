//! What is counted for each function.
//!
//! Owns plain counters. Never names a metric or a format: whoever exports them reads a [`Load`].

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// The classes of an outcome: no answer at all (the client left first), then 1xx to 5xx.
const CLASSES: usize = 6;

#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Claims held now.
    in_flight: AtomicUsize,
    started: AtomicU64,
    finished: [AtomicU64; CLASSES],
}

/// A function's load, read without stopping anybody: the numbers are each right, but not of one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Claims held: requests at a replica until their last byte, and open tunnels.
    pub in_flight: usize,
    /// Requests in the waiting room.
    pub waiting: usize,
    /// Requests that began, ever.
    pub requests_total: u64,
    /// Requests that ended, ever, by the class of their status: `[0]` went away unanswered, `[n]` is nxx.
    pub finished_total: [u64; CLASSES],
}

impl Counters {
    pub(crate) fn claimed(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    pub(crate) fn released(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    pub(crate) fn started(&self) {
        self.started.fetch_add(1, Relaxed);
    }

    /// A request ended with `status`, 0 for none.
    pub(crate) fn finished(&self, status: u16) {
        let class = usize::from(status / 100);
        self.finished[if class < CLASSES { class } else { 0 }].fetch_add(1, Relaxed);
    }

    pub(crate) fn load(&self, waiting: usize) -> Load {
        Load {
            in_flight: self.in_flight.load(Relaxed),
            waiting,
            requests_total: self.started.load(Relaxed),
            finished_total: std::array::from_fn(|class| self.finished[class].load(Relaxed)),
        }
    }
}
