//! Which spans are sent together.
//!
//! Owns the end of the queue: entries that come within a while are one batch, unless it is full before.

use std::time::Duration;

use roost_proxy::AccessEntry;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::BATCH;

/// Entries that are sent together.
pub(crate) type Batch = Vec<Box<AccessEntry>>;

/// The batches to come.
pub(crate) struct Batches {
    receiver: Receiver<Box<AccessEntry>>,
    gather: Duration,
    /// Nothing more is taken from here on.
    ending: CancellationToken,
}

impl Batches {
    pub(crate) fn new(
        receiver: Receiver<Box<AccessEntry>>,
        gather: Duration,
        ending: CancellationToken,
    ) -> Self {
        Self { receiver, gather, ending }
    }

    /// Waits for the next batch; after the last one, it is empty.
    pub(crate) async fn next(&mut self) -> Batch {
        let mut batch = Batch::new();
        if self.receive(&mut batch).await == 0 {
            return batch;
        }
        let due = Instant::now() + self.gather;
        while batch.len() < BATCH {
            tokio::select! {
                biased;
                received = self.receive(&mut batch) => if received == 0 { break },
                () = sleep_until(due) => break,
            }
        }
        batch
    }

    /// Adds what is there, or what comes next; nothing when nothing more comes. Cancel safe.
    async fn receive(&mut self, batch: &mut Batch) -> usize {
        let room = BATCH - batch.len();
        if !self.receiver.is_closed() {
            tokio::select! {
                biased;
                () = self.ending.cancelled() => self.receiver.close(),
                received = self.receiver.recv_many(batch, room) => return received,
            }
        }
        self.receiver.recv_many(batch, room).await
    }
}
