//! The access log: one line of JSON for each request and each tunnel, in a file or on standard output.
//!
//! ```text
//! proxy ──entry──▶ queue (bounded) ──▶ one thread: line by line ──▶ file, rotated · standard output
//!                    └─ full: the entry is dropped and counted
//! ```
//!
//! Owns the queue and the thread. Neither a full disk nor a reader that hangs ever holds up a request. When it is off,
//! there is no queue and no thread.

mod line;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::{io, thread};

use roost_proxy::{AccessEntry, AccessLog, AccessLogOptions, AccessSink};
use tracing::warn;

use writer::{Output, Writer};

/// How many entries may wait for the writer.
const QUEUE: usize = 4096;

/// The stack of the writer: it holds no more than a line at a time there.
const STACK: usize = 128 << 10;

/// The least that the files may hold together, in bytes: a batch has to fit in either.
pub const MIN_SIZE: u64 = 256 << 10;

/// Where the access log goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Target {
    /// Nowhere: there is none.
    #[default]
    Off,
    /// To standard output: under systemd, the journal.
    Stdout,
    /// To a file.
    File(PathBuf),
}

/// Settings of the access log.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it goes.
    pub target: Target,
    /// The most that the file and the one before it may hold together, in bytes.
    pub max_size: u64,
    /// What is told.
    pub options: AccessLogOptions,
}

/// The access log as long as the daemon lives.
#[derive(Debug, Default)]
pub struct Running {
    log: AccessLog,
    dropped: Arc<AtomicU64>,
    end: Option<(SyncSender<Message>, JoinHandle<()>)>,
}

/// What the writer is sent.
enum Message {
    Entry(Box<AccessEntry>),
    /// Nothing more comes.
    End,
}

/// The way to the writer.
struct Queue {
    sender: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

impl AccessSink for Queue {
    fn take(&self, entry: Box<AccessEntry>) {
        if self.sender.try_send(Message::Entry(entry)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Running {
    /// Starts what is needed.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn start(settings: &Settings) -> io::Result<Self> {
        let output = match &settings.target {
            Target::Off => return Ok(Self::default()),
            Target::Stdout => Output::Stdout,
            Target::File(path) => Output::file(path, settings.max_size)?,
        };
        let (sender, receiver) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = Writer::new(output, Arc::clone(&dropped));
        let thread = thread::Builder::new()
            .name("access-log".to_owned())
            .stack_size(STACK)
            .spawn(move || writer.run(&receiver))?;
        let queue = Queue { sender: sender.clone(), dropped: Arc::clone(&dropped) };
        let log = AccessLog::new(settings.options, queue);
        Ok(Self { log, dropped, end: Some((sender, thread)) })
    }

    /// For the proxy.
    #[must_use]
    pub fn log(&self) -> AccessLog {
        self.log.clone()
    }

    /// How many lines were dropped: there is one for each entry that did not fit into the queue or could not be written.
    #[must_use]
    pub fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }

    /// Waits until all that came so far is written. Blocks for as long as the output does.
    pub fn end(self) {
        let Some((sender, thread)) = self.end else { return };
        if sender.send(Message::End).is_err() || thread.join().is_err() {
            warn!("the access log ended before the daemon did");
        }
    }
}

#[cfg(test)]
mod tests;
