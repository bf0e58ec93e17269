//! The log file of one replica: appended to, rotated once, never larger than its limit.
//!
//! Owns `<replica>.log` and `<replica>.log.1`. Only whole lines stand in them. A batch that cannot be written is
//! dropped and counted, and a note says so as soon as writing works again: a full disk never holds a function up.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::record::{Entry, LINE_LIMIT, Stream, Tag};
use super::{current_file, rotated_file};

/// The least that both files may hold together, in bytes, whatever the settings say: a batch has to fit in either.
pub(super) const MIN_LIMIT: u64 = 128 * 1024;

/// A batch is written when it is this long, in bytes.
const BATCH: usize = 32 * 1024;

/// The lines that wait to be written together, and the files they go to.
#[derive(Debug)]
pub(super) struct Output {
    current: PathBuf,
    rotated: PathBuf,
    /// The most that either file may hold.
    file_limit: u64,
    file: Option<(File, u64)>,
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
            current: current_file(dir, replica),
            rotated: rotated_file(dir, replica),
            file_limit: limit.max(MIN_LIMIT) / 2,
            file: None,
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
        let length = self.batch.len() as u64;
        if self.file.as_ref().is_some_and(|(_, size)| size + length > self.file_limit) {
            self.rotate()?;
        }
        let (file, size) = match &mut self.file {
            Some(open) => open,
            None => self.file.insert(open(&self.current)?),
        };
        let (written, result) = write_whole_lines(file, *size, &self.batch);
        *size += written as u64;
        let mut kept = self.batch[..written].iter().filter(|byte| **byte == b'\n').count() as u64;
        if kept > 0 && self.noted > 0 {
            // The first line is the note: with it, those that it is about are accounted for.
            kept += self.noted - 1;
        }
        self.at_stake = self.at_stake.saturating_sub(kept);
        result
    }

    /// The current file becomes the one before, whose lines go.
    fn rotate(&mut self) -> io::Result<()> {
        fs::rename(&self.current, &self.rotated)?;
        self.file = None;
        Ok(())
    }
}

/// Opens the file to append to it, and ends a line that a power cut left unfinished.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path)?;
    let mut size = file.seek(SeekFrom::End(0))?;
    if size > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            size += 1;
        }
    }
    Ok((file, size))
}

/// Appends `batch` to `file`, which is `size` long. When only some of it fits, what is left of a line is taken back:
/// half a line would run into the next. Returns how many bytes stand in the file.
fn write_whole_lines(file: &mut File, size: u64, batch: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < batch.len() {
        match file.write(&batch[written..]) {
            Ok(0) => return (take_back(file, size, &batch[..written]), Err(io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (take_back(file, size, &batch[..written]), Err(error)),
        }
    }
    (written, Ok(()))
}

fn take_back(file: &File, size: u64, written: &[u8]) -> usize {
    let whole = written.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    // When even this fails, the reader meets one damaged line, and skips it.
    if whole < written.len() && file.set_len(size + whole as u64).is_err() {
        return written.len();
    }
    whole
}

#[cfg(test)]
mod tests {
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
    fn a_full_disk_leaves_whole_lines_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        file.write_all(b"one\ntwo\nthr").unwrap();
        assert_eq!(take_back(&file, 0, b"one\ntwo\nthr"), 8);
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
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
