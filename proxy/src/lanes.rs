//! The threads that connections are served on.
//!
//! Owns one thread with a runtime of its own for each lane. A connection of a client stays on the lane that it was given to,
//! with all that its requests do: their connections to functions, their timers, their tunnels. So no lock is contended and
//! no other thread is woken on the way of a byte. Never accepts a connection, never looks into one.
//!
//! ```text
//!   accept loop ──► the lane with the fewest ──► its thread ──► connection, requests, tunnels
//! ```

use std::cell::Cell;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How many threads a lane has for calls that block.
const BLOCKING_THREADS: usize = 2;

thread_local! {
    /// The number of this thread's lane, from 1; 0 on all other threads.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// Which lane this thread is of: a number from 1, or 0 if of none.
pub(crate) fn current() -> usize {
    CURRENT.get()
}

/// Some lanes. Their threads end when this is dropped, and with them what is left on them.
#[derive(Debug)]
pub(crate) struct Lanes {
    lanes: Vec<Lane>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct Lane {
    handle: Handle,
    /// Connections and tunnels on it.
    seats: Arc<AtomicUsize>,
}

/// A connection's place on a lane.
#[derive(Debug)]
pub(crate) struct Seat(Arc<AtomicUsize>);

impl Lanes {
    /// Starts `count` lanes.
    ///
    /// # Errors
    /// When a thread or a runtime cannot be had.
    pub(crate) fn start(count: NonZeroUsize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let lanes =
            (1..=count.get()).map(|number| Lane::start(number, stop.clone())).collect::<Result<_, _>>()?;
        Ok(Self { lanes, _stop: stop.drop_guard() })
    }

    /// The lane that has the fewest, and a seat on it.
    pub(crate) fn seat(&self) -> (&Handle, Seat) {
        let least = self.lanes.iter().min_by_key(|lane| lane.seats.load(Ordering::Relaxed));
        let lane = least.expect("there is at least one");
        lane.seats.fetch_add(1, Ordering::Relaxed);
        (&lane.handle, Seat(Arc::clone(&lane.seats)))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lane {
    fn start(number: usize, stop: CancellationToken) -> io::Result<Self> {
        let runtime =
            Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING_THREADS).build()?;
        let handle = runtime.handle().clone();
        thread::Builder::new().name(format!("lane-{number}")).spawn(move || {
            CURRENT.set(number);
            runtime.block_on(stop.cancelled());
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, seats: Arc::default() })
    }
}
