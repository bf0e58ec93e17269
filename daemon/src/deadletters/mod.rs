//! Dead letters: what a function could not be brought to deal with, kept so that somebody can look at it and send it again.
//!
//! Owns the directory `deadletters` in the state directory, one [`file`] a function, and the one task that adds to them. Whoever
//! has an event of a WebSocket to keep waits for nothing: it goes into a bounded queue, and is lost, counted, when that is full. A
//! call of the queue is on the disk before it is gone from there. Nodes that share letters keep them in a log, and each one in
//! its own files, too.
//!
//! ```text
//!  a failed event ──► queue (bounded) ──► writer ──► file of its function ──► shown, sent again ──► gone
//!                        │ full: lost                  │ too many, too old: the oldest go
//! ```

mod file;
pub mod letter;
mod redrive;
#[cfg(feature = "nats")]
mod shared;
mod store;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use roost_proxy::function::{FunctionKey, Namespace};
use roost_proxy::websocket::DeadEvent;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;

use self::letter::{Draft, Letter, LetterId};
pub use self::redrive::{CannotRedrive, Redriven};
use self::store::Store;
pub use self::store::{Found, Kept};
pub use self::writer::Writer;
use crate::queue::{Failure, Invocation};

/// The name of the directory.
pub const NAME: &str = "deadletters";

/// How many letters wait for the disk at most.
const WAITING: usize = 1024;

/// How many bytes of letters wait for the disk at most.
const WAITING_BYTES: usize = 8 << 20;

/// How much is kept, and for how long.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Is anything? If not, what is there stays until it is too old.
    pub enabled: bool,
    /// The most bytes of one function's letters.
    pub max_size: u64,
    /// The most bytes of all of them.
    pub max_total: u64,
    /// How old one may become.
    pub max_age: Duration,
}

/// Why a letter is not there any more, or never was, without anybody's having asked for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The letters came faster than the disk took them.
    Overflow,
    /// There was no room: the oldest go first.
    Size,
    /// It was too old.
    Age,
    /// The disk did not take it.
    Disk,
}

impl Lost {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Overflow, Self::Size, Self::Age, Self::Disk];

    /// Its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Overflow => "overflow",
            Self::Size => "size",
            Self::Age => "age",
            Self::Disk => "disk",
        }
    }
}

/// What came of letters since the daemon began, and what is there.
#[derive(Debug, Default)]
pub struct Figures {
    /// By [`Lost::ALL`].
    pub lost: [u64; 4],
    /// Sent again, and dealt with this time; or not.
    pub redriven: [u64; 2],
    /// What is there, by function.
    pub kept: Vec<(FunctionKey, Kept)>,
}

/// The dead letters of this host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DeadLetters(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    enabled: bool,
    store: Mutex<Store>,
    orders: mpsc::Sender<Order>,
    /// Where letters are shared.
    #[cfg(feature = "nats")]
    shared: shared::Handle,
    /// The bytes of what is in there.
    waiting: AtomicUsize,
    /// Letters that are being sent again.
    in_hand: Mutex<HashSet<LetterId>>,
    lost: [AtomicU64; 4],
    redriven: [AtomicU64; 2],
}

/// What the writer is to do.
#[derive(Debug)]
enum Order {
    /// Keep a letter, and say whether it is on the disk.
    Keep(FunctionKey, Box<Draft>, Option<oneshot::Sender<bool>>),
    /// To say so when all that came before is on the disk.
    Flush(oneshot::Sender<()>),
}

/// Which letters are meant.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Those of functions of this namespace.
    pub namespace: Namespace,
    /// Those of this function.
    pub function: Option<FunctionKey>,
    /// Those behind this one.
    pub after: Option<LetterId>,
}

impl DeadLetters {
    /// Those in the state directory, and the writer, which is to be run.
    ///
    /// # Errors
    /// When they cannot be read, or the directory cannot be made.
    pub fn open(state: &Path, settings: &Settings) -> io::Result<(Self, Writer)> {
        let store = Store::open(&state.join(NAME), settings.clone())?;
        let (orders, receiver) = mpsc::channel(WAITING);
        let letters = Self(Arc::new(Shared {
            enabled: settings.enabled,
            store: Mutex::new(store),
            orders,
            #[cfg(feature = "nats")]
            shared: shared::Handle::default(),
            waiting: AtomicUsize::new(0),
            in_hand: Mutex::default(),
            lost: Default::default(),
            redriven: Default::default(),
        }));
        let writer = Writer::new(letters.clone(), receiver);
        Ok((letters, writer))
    }

    /// Keeps an event. Never waits: it is on the disk some time later, or counted as lost.
    pub fn bury(&self, event: DeadEvent) {
        if !self.0.enabled {
            return;
        }
        let function = event.function.clone();
        let draft = Box::new(Draft::of_event(event));
        let size = draft.size();
        if self.0.waiting.fetch_add(size, Relaxed) + size > WAITING_BYTES
            || self.0.orders.try_send(Order::Keep(function, draft, None)).is_err()
        {
            self.0.waiting.fetch_sub(size, Relaxed);
            self.0.lose(Lost::Overflow, 1);
        }
    }

    /// Keeps a call of the queue whose last attempt came to this. `false` when it is not on the disk; nothing is kept where
    /// nothing is to be.
    pub async fn keep_call(
        &self,
        call: &Invocation,
        body: Bytes,
        attempts: u32,
        failure: &Failure,
        reason: &str,
    ) -> bool {
        if !self.0.enabled {
            return true;
        }
        let draft = Box::new(Draft::of_call(call, body, attempts, failure, reason));
        self.0.waiting.fetch_add(draft.size(), Relaxed);
        let (done, kept) = oneshot::channel();
        let order = Order::Keep(call.function.clone(), draft, Some(done));
        self.0.orders.send(order).await.is_ok() && kept.await == Ok(true)
    }

    /// Resolves when all that was to be kept until now is on the disk, or lost.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.0.orders.send(Order::Flush(done)).await.is_ok() && flushed.await.is_err() {
            tracing::debug!("the writer of dead letters has ended");
        }
    }

    /// Up to `limit` letters, the oldest first.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn list(&self, wanted: Wanted, limit: usize) -> io::Result<Vec<Found>> {
        self.with(move |store| store.list(&wanted, limit)).await
    }

    /// One letter, whole, and whose it is.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn get(&self, namespace: Namespace, id: LetterId) -> io::Result<Option<(FunctionKey, Letter)>> {
        self.with(move |store| store.get(&namespace, id)).await
    }

    /// Removes a letter; `false` if there is none of that id.
    ///
    /// # Errors
    /// When the disk fails: it may be there again at the next start.
    pub async fn remove(&self, namespace: Namespace, id: LetterId) -> io::Result<bool> {
        #[cfg(feature = "nats")]
        {
            let of = namespace.clone();
            let Some(function) = self.with(move |store| Ok(store.whose(&of, id))).await? else {
                return Ok(false);
            };
            if self.drop_shared(&function, vec![id]).await? {
                return Ok(true);
            }
        }
        self.with(move |store| store.remove(&namespace, id)).await
    }

    /// Removes all letters of a function: how many.
    ///
    /// # Errors
    /// As for [`remove`](Self::remove).
    pub async fn remove_all(&self, function: FunctionKey) -> io::Result<usize> {
        #[cfg(feature = "nats")]
        {
            let of = function.clone();
            let ids = self.with(move |store| Ok(store.all_of(&of))).await?;
            let count = ids.len();
            if count == 0 || self.drop_shared(&function, ids).await? {
                return Ok(count);
            }
        }
        self.with(move |store| store.remove_all(&function)).await
    }

    /// What there is to be counted.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures {
            lost: self.0.lost.each_ref().map(|count| count.load(Relaxed)),
            redriven: self.0.redriven.each_ref().map(|count| count.load(Relaxed)),
            kept: self.0.store().kept(),
        }
    }

    /// Does something with the store, off the async workers.
    async fn with<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Store) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let shared = Arc::clone(&self.0);
        spawn_blocking(move || what(&mut shared.store())).await.map_err(io::Error::other)?
    }
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        // What is under the lock is whole after each step.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lose(&self, why: Lost, count: usize) {
        self.lost[why as usize].fetch_add(count as u64, Relaxed);
    }
}
