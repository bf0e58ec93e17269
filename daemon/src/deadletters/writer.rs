//! The one task that adds letters.
//!
//! Owns the other end of the queue. Takes what waits together, and has it on the disk with one sync for each file. What the disk does
//! not take is lost, and counted; that is told once, not for each letter.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use jiff::Timestamp;
use roost_proxy::function::FunctionKey;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, warn};

use super::letter::Draft;
use super::{DeadLetters, Lost, Order, Shared};

/// How many letters are written at once.
const BATCH: usize = 256;

/// How often it is looked for letters that are too old.
const SWEEP: Duration = Duration::from_secs(60);

/// Who waits for a letter to be on the disk, if anybody does.
type Waiter = Option<oneshot::Sender<bool>>;

/// Adds letters, as long as it runs.
#[derive(Debug)]
pub struct Writer {
    letters: DeadLetters,
    orders: mpsc::Receiver<Order>,
    /// How many had been lost by overflow when that was last told.
    told: u64,
    /// The disk does not take them: that was told.
    failing: bool,
}

impl Writer {
    pub(super) fn new(letters: DeadLetters, orders: mpsc::Receiver<Order>) -> Self {
        Self { letters, orders, told: 0, failing: false }
    }

    /// Adds what comes, and removes what is too old.
    pub async fn run(mut self) {
        let mut sweeps = interval(SWEEP);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                count = self.orders.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    self.write(batch.drain(..)).await;
                }
                _ = sweeps.tick() => self.sweep().await,
            }
        }
    }

    async fn write(&mut self, orders: impl Iterator<Item = Order>) {
        let (mut letters, mut waiters) = (Vec::new(), Vec::new());
        for order in orders {
            match order {
                Order::Keep(function, draft, done) => letters.push((function, draft, done)),
                Order::Flush(done) => waiters.push(done),
            }
        }
        #[cfg(feature = "nats")]
        let letters = self.share(letters).await;
        if !letters.is_empty() {
            let shared = Arc::clone(&self.letters.0);
            let written = spawn_blocking(move || shared.write(letters)).await;
            self.tell(written.unwrap_or_else(|error| Err(std::io::Error::other(error))));
        }
        for done in waiters {
            if done.send(()).is_err() {
                tracing::debug!("nobody waits for the dead letters any more");
            }
        }
    }

    /// Brings letters to other nodes, where they are shared. Gives those that are to be kept here alone.
    #[cfg(feature = "nats")]
    async fn share(
        &self,
        letters: Vec<(FunctionKey, Box<Draft>, Waiter)>,
    ) -> Vec<(FunctionKey, Box<Draft>, Waiter)> {
        let shared = &self.letters.0;
        let (mut own, mut waiters, mut last) = (Vec::new(), Vec::new(), 0);
        for (function, draft, waiter) in letters {
            let kept = match (shared.shared.keep(&function, &draft).await, &waiter) {
                // An event comes to nobody again.
                (None, _) | (Some(Err(_)), None) => {
                    own.push((function, draft, waiter));
                    continue;
                }
                (Some(kept), _) => kept,
            };
            shared.waiting.fetch_sub(draft.size(), Relaxed);
            match &kept {
                Ok(number) => last = last.max(*number),
                Err(why) => warn!(%function, "{function}: a dead letter is kept later: {why}"),
            }
            waiters.extend(waiter.map(|waiter| (waiter, kept.is_ok())));
        }
        // Who has had a letter kept is to find it here.
        if last > 0 {
            shared.shared.here(last).await;
        }
        for (waiter, kept) in waiters {
            if waiter.send(kept).is_err() {
                tracing::debug!("nobody waits for a dead letter any more");
            }
        }
        own
    }

    async fn sweep(&mut self) {
        let shared = Arc::clone(&self.letters.0);
        let swept = spawn_blocking(move || {
            let mut store = shared.store();
            let gone = store.expire(Timestamp::now())?;
            shared.lose(Lost::Age, gone);
            store.sync()
        });
        match swept.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!("dead letters that are too old stay: {error}"),
            Err(error) => error!("the task that removes dead letters broke: {error}"),
        }
    }

    /// Says what has changed since it was last said.
    fn tell(&mut self, written: std::io::Result<()>) {
        let lost = self.letters.0.lost[Lost::Overflow as usize].load(Relaxed);
        if lost > self.told {
            warn!("{} dead letters are lost: they came faster than the disk takes them", lost - self.told);
            self.told = lost;
        }
        match written {
            Ok(()) => self.failing = false,
            Err(error) if !self.failing => {
                self.failing = true;
                warn!("dead letters are lost: {error}");
            }
            Err(_told) => {}
        }
    }
}

impl Shared {
    /// Writes letters. Each is tried, whatever became of those before it.
    fn write(&self, letters: Vec<(FunctionKey, Box<Draft>, Waiter)>) -> std::io::Result<()> {
        let mut store = self.store();
        let (mut result, mut waiters) = (Ok(()), Vec::new());
        for (function, draft, waiter) in letters {
            let size = draft.size();
            match store.add(&function, *draft) {
                Ok(gone) => {
                    self.lose(Lost::Size, gone);
                    waiters.extend(waiter);
                }
                Err(error) => {
                    // Who waits hears of it, and has it kept later.
                    if waiter.is_none() {
                        self.lose(Lost::Disk, 1);
                    }
                    result = Err(error);
                }
            }
            self.waiting.fetch_sub(size, Relaxed);
        }
        let synced = store.sync();
        for waiter in waiters {
            if waiter.send(synced.is_ok()).is_err() {
                tracing::debug!("nobody waits for a dead letter any more");
            }
        }
        result.and(synced)
    }
}
