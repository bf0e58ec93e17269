//! Spans of requests to functions, exported over OTLP/HTTP to a collector.
//!
//! ```text
//! proxy ──entry──▶ queue (bounded) ──▶ one task: batch ──▶ spans ──▶ POST /v1/traces ──▶ collector
//!                    └─ full: dropped, counted               ▲          │ later: a pause, the same batch again
//!                                                            └──────────┘ refused, or too long: dropped, counted
//! ```
//!
//! Owns the queue, the task, and what a span says. The proxy makes the ids of spans and decides which are recorded; what
//! it says of a request or a tunnel that has ended is all that is known here. Never holds up a request: it leaves an entry
//! in the queue, or nowhere.

mod batch;
mod delivery;
mod endpoint;
mod message;
mod span;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use roost_proxy::{AccessEntry, AccessSink};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::batch::Batches;
use crate::delivery::Delivery;
pub use crate::endpoint::Endpoint;

/// How many entries may wait to be sent.
pub const QUEUE: usize = 2048;

/// How many spans are sent at once, at most.
pub const BATCH: usize = 512;

/// To whom spans are sent, and as whom.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The collector.
    pub endpoint: Endpoint,
    /// The name of this host, if it is known.
    pub host: Option<String>,
    /// When things are done, and how long they may take.
    pub pace: Pace,
}

/// When things are done, and how long they may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How long the first span of a batch waits for others.
    pub gather: Duration,
    /// How long the collector may take to answer.
    pub answer: Duration,
    /// The pause after the first failure; it doubles each time.
    pub first_pause: Duration,
    /// The longest pause, also if the collector asks for a longer one.
    pub longest_pause: Duration,
    /// How long a batch is tried; then it is dropped.
    pub give_up: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            gather: Duration::from_secs(5),
            answer: Duration::from_secs(10),
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(30),
            give_up: Duration::from_secs(60),
        }
    }
}

/// What became of the spans so far.
#[derive(Debug, Default)]
pub struct Figures {
    taken: AtomicU64,
    exported: AtomicU64,
    dropped: AtomicU64,
    failures: AtomicU64,
}

impl Figures {
    /// Spans that the collector has.
    #[must_use]
    pub fn exported(&self) -> u64 {
        self.exported.load(Ordering::Relaxed)
    }

    /// Spans that nobody has: the queue was full, the collector refused them or could not be reached for too long.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Tries to send a batch that failed.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Spans that are on their way.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        let gone = self.exported() + self.dropped();
        self.taken.load(Ordering::Relaxed).saturating_sub(gone)
    }

    fn add(to: &AtomicU64, spans: usize) {
        to.fetch_add(spans as u64, Ordering::Relaxed);
    }
}

/// Sends spans for as long as the daemon lives.
#[derive(Debug)]
pub struct Exporter {
    sender: mpsc::Sender<Box<AccessEntry>>,
    figures: Arc<Figures>,
    ending: CancellationToken,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Starts the task. Within an async runtime; the collector need not be there yet.
    ///
    /// # Errors
    /// When there can be no HTTP client, with what is missing for one.
    pub fn start(settings: Settings) -> Result<Self, reqwest::Error> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (figures, ending) = (Arc::new(Figures::default()), CancellationToken::new());
        let batches = Batches::new(receiver, settings.pace.gather, ending.clone());
        let delivery = Delivery::new(settings, Arc::clone(&figures), ending.clone())?;
        let task = tokio::spawn(delivery.run(batches));
        Ok(Self { sender, figures, ending, task })
    }

    /// The way in, for the proxy.
    #[must_use]
    pub fn sink(&self) -> impl AccessSink + use<> {
        Sink { sender: self.sender.clone(), figures: Arc::clone(&self.figures) }
    }

    /// What became of the spans so far.
    #[must_use]
    pub fn figures(&self) -> Arc<Figures> {
        Arc::clone(&self.figures)
    }

    /// Takes no more spans, and sends those that are left, each batch once. Tells how many are left after `limit`.
    pub async fn end(self, limit: Duration) -> u64 {
        self.ending.cancel();
        let mut task = self.task;
        match timeout(limit, &mut task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("spans were not exported to the end: {error}"),
            Err(_) => task.abort(),
        }
        self.figures.waiting()
    }
}

/// The way to the task.
struct Sink {
    sender: mpsc::Sender<Box<AccessEntry>>,
    figures: Arc<Figures>,
}

impl AccessSink for Sink {
    fn take(&self, entry: Box<AccessEntry>) {
        Figures::add(&self.figures.taken, 1);
        if self.sender.try_send(entry).is_err() {
            Figures::add(&self.figures.dropped, 1);
        }
    }
}
