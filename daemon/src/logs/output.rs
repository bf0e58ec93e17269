//! The log file of one replica: what is written to it, and what is said of what could not be.
//!
//! Owns `<replica>.log` and `<replica>.log.1`. Only whole lines stand in them. A batch that cannot be written is
//! dropped and counted, and a note says so as soon as writing works again: a full disk never holds a function up.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use jiff::Timestamp;

use super::record::{Entry, LINE_LIMIT, Stream, Tag};
use super::rotated::RotatedFile;
use super::{current_file, rotated_file};

/// The least that both files may hold together, in bytes, whatever the settings say: a batch has to fit in either.
pub(super) const MIN_LIMIT: u64 = 128 * 1024;

/// A batch is written when it is this long, in bytes.
const BATCH: usize = 32 * 1024;

/// The lines that wait to be written together, and the files they go to.
#[derive(Debug)]
pub(super) struct Output {
    file: RotatedFile,
    batch: Vec<u8>,
    /// How many lines are gone if the batch is not written: its own, and those of the note at its head.
    at_stake: u64,
    /// How many of them the note at its head is about.
    noted: u64,
    lost: Option<Lost>,
}

/// Lines that could not be written, since the last that could.
#[derive(Debug)]
struct Lost {
    lines: u64,
    reason: io::Error,
}

impl Output {
    /// The files of `replica` in `dir`, which is made if it is not there. Both together stay within `limit` bytes.
    pub(super) fn new(dir: &Path, replica: &str, limit: u64) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        Ok(Self {
            file: RotatedFile::new(
                current_file(dir, replica),
                rotated_file(dir, replica),
                limit.max(MIN_LIMIT),
            ),
            batch: Vec::with_capacity(BATCH + LINE_LIMIT),
            at_stake: 0,
            noted: 0,
            lost: None,
        })
    }

    /// Takes an entry. It is in the file after the next [`flush`](Self::flush), or earlier.
    pub(super) fn push(&mut self, entry: &Entry<'_>) {
        self.note_lost(entry.timestamp);
        entry.write(&mut self.batch);
        self.at_stake += 1;
        if self.batch.len() >= BATCH {
            self.flush();
        }
    }

    /// Writes what waits.
    pub(super) fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        if let Err(reason) = self.write_batch() {
            self.lost = Some(Lost { lines: self.at_stake, reason });
        }
        self.batch.clear();
        (self.at_stake, self.noted) = (0, 0);
    }

    /// Puts the note about lost lines in front of a batch. It is lost again with that batch, and so is the count kept.
    fn note_lost(&mut self, timestamp: Timestamp) {
        if !self.batch.is_empty() {
            return;
        }
        if let Some(Lost { lines, reason }) = self.lost.take() {
            let text = format!("[roost] {lines} lines could not be written and are lost: {reason}");
            let note = Entry { timestamp, stream: Stream::Stderr, tag: Tag::Full, text: text.as_bytes() };
            note.write(&mut self.batch);
            (self.at_stake, self.noted) = (lines, lines);
        }
    }

    fn write_batch(&mut self) -> io::Result<()> {
        let (written, result) = self.file.append(&self.batch);
        let mut kept = self.batch[..written].iter().filter(|byte| **byte == b'\n').count() as u64;
        if kept > 0 && self.noted > 0 {
            // The first line is the note: with it, those that it is about are accounted for.
            kept += self.noted - 1;
        }
        self.at_stake = self.at_stake.saturating_sub(kept);
        result
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn push(output: &mut Output, text: &[u8]) {
        let timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        output.push(&Entry { timestamp, stream: Stream::Stdout, tag: Tag::Full, text });
    }

    fn texts(path: &Path) -> Vec<String> {
        let content = fs::read(path).unwrap();
        let lines = content.strip_suffix(b"\n").expect("only whole lines").split(|byte| *byte == b'\n');
        lines.map(|line| String::from_utf8(Entry::parse(line).unwrap().text.to_vec()).unwrap()).collect()
    }

    #[test]
    fn only_root_reads_what_a_function_prints() {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("openfaas-fn/echo");
        let mut output = Output::new(&logs, "echo-1", 0).unwrap();
        push(&mut output, b"secret");
        output.flush();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&logs), 0o700);
        assert_eq!(mode(&dir.path().join("openfaas-fn")), 0o700);
        assert_eq!(mode(&logs.join("echo-1.log")), 0o600);
    }

    #[test]
    fn both_files_stay_within_the_limit_and_keep_the_newest_lines() {
        let dir = tempfile::tempdir().unwrap();
        let mut output = Output::new(dir.path(), "echo-1", MIN_LIMIT).unwrap();
        let lines: Vec<_> = (0..10_000).map(|n| format!("line {n}")).collect();
        for line in &lines {
            push(&mut output, line.as_bytes());
            let size = |name: &str| fs::metadata(dir.path().join(name)).map_or(0, |meta| meta.len());
            assert!(size("echo-1.log") + size("echo-1.log.1") <= MIN_LIMIT);
        }
        output.flush();
        let mut kept = texts(&dir.path().join("echo-1.log.1"));
        kept.extend(texts(&dir.path().join("echo-1.log")));
        assert!(kept.len() > 1000);
        assert_eq!(kept, lines[lines.len() - kept.len()..]);
    }

    #[test]
    fn a_line_that_a_power_cut_left_unfinished_does_not_run_into_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("echo-1.log");
        fs::write(&path, "2026-01-02T03:04:05Z stdout F hal").unwrap();
        let mut output = Output::new(dir.path(), "echo-1", 0).unwrap();
        push(&mut output, b"whole");
        output.flush();
        assert_eq!(texts(&path), ["hal", "whole"]);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_noted_when_writing_works_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("echo-1.log");
        // A directory in the way: opening fails even for root.
        fs::create_dir(&path).unwrap();
        let mut output = Output::new(dir.path(), "echo-1", 0).unwrap();
        for _ in 0..2 {
            push(&mut output, b"lost");
            push(&mut output, b"lost");
            output.flush();
        }
        fs::remove_dir(&path).unwrap();
        push(&mut output, b"kept");
        output.flush();
        let texts = texts(&path);
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(texts[0].starts_with("[roost] 4 lines could not be written and are lost: "), "{texts:?}");
        assert_eq!(texts[1], "kept");
    }

    #[test]
    fn files_of_a_removed_function_are_not_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("echo");
        let mut output = Output::new(&logs, "echo-1", MIN_LIMIT).unwrap();
        push(&mut output, b"before");
        output.flush();
        fs::remove_dir_all(&logs).unwrap();
        for _ in 0..10_000 {
            push(&mut output, b"a line of a function that is ending");
        }
        output.flush();
        assert!(!logs.exists());
    }
}
