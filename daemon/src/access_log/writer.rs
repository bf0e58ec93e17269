//! The thread that writes the access log.
//!
//! Owns the output. Writes what has come in one go, and waits for more only when all of it is out. A line that cannot be
//! written is counted with those that were dropped.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;

use tracing::{info, warn};

use super::Message;
use super::line::write_line;
use crate::logs::rotated::RotatedFile;

/// A batch is written when it is this long, in bytes.
const BATCH: usize = 64 << 10;

/// Where lines go.
#[derive(Debug)]
pub(super) enum Output {
    Stdout,
    File(RotatedFile),
}

impl Output {
    /// A file, and one with `.1` behind its name for what was before.
    pub(super) fn file(path: &Path, limit: u64) -> io::Result<Self> {
        let mut rotated = path.as_os_str().to_owned();
        rotated.push(".1");
        let mut file = RotatedFile::new(path.to_owned(), rotated.into(), limit);
        file.open()?;
        Ok(Self::File(file))
    }

    /// Says how many bytes are out, also when not all could be written.
    fn write(&mut self, lines: &[u8]) -> (usize, io::Result<()>) {
        match self {
            Self::File(file) => file.append(lines),
            Self::Stdout => {
                let mut out = io::stdout().lock();
                let result = out.write_all(lines).and_then(|()| out.flush());
                (if result.is_ok() { lines.len() } else { 0 }, result)
            }
        }
    }
}

/// Writes lines.
#[derive(Debug)]
pub(super) struct Writer {
    output: Output,
    batch: Vec<u8>,
    dropped: Arc<AtomicU64>,
    /// The last batch could not be written.
    failing: bool,
}

impl Writer {
    pub(super) fn new(output: Output, dropped: Arc<AtomicU64>) -> Self {
        Self { output, batch: Vec::new(), dropped, failing: false }
    }

    /// Writes what comes, until nothing more does.
    pub(super) fn run(mut self, receiver: &Receiver<Message>) {
        while let Ok(first) = receiver.recv() {
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Entry(entry) => write_line(&entry, &mut self.batch),
                    Message::End => return self.flush(),
                }
                if self.batch.len() >= BATCH {
                    self.flush();
                }
                next = receiver.try_recv().ok();
            }
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let (written, result) = self.output.write(&self.batch);
        let lost = self.batch[written..].iter().filter(|byte| **byte == b'\n').count();
        self.batch.clear();
        self.dropped.fetch_add(lost as u64, Ordering::Relaxed);
        match result {
            Err(error) if !self.failing => {
                warn!("the access log cannot be written, its lines are lost: {error}");
            }
            Ok(()) if self.failing => info!("the access log is written again"),
            _ => {}
        }
        self.failing = lost > 0;
    }
}
