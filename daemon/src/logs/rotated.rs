//! A file that lines are appended to: rotated once, and never larger than its limit.
//!
//! Owns a file and the one before it. Only whole lines stand in them. Never keeps what could not be written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The file, and the one before it.
#[derive(Debug)]
pub(crate) struct RotatedFile {
    current: PathBuf,
    rotated: PathBuf,
    /// The most that either file may hold.
    limit: u64,
    file: Option<(File, u64)>,
}

impl RotatedFile {
    /// `current` is appended to, and becomes `rotated` when it is full. Both together stay within `limit` bytes.
    pub(crate) fn new(current: PathBuf, rotated: PathBuf, limit: u64) -> Self {
        Self { current, rotated, limit: limit / 2, file: None }
    }

    /// Opens the file, if it is not open.
    pub(crate) fn open(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some(open(&self.current)?);
        }
        Ok(())
    }

    /// Appends lines. Says how many bytes of them stand in the file, also when not all of them could be written.
    pub(crate) fn append(&mut self, lines: &[u8]) -> (usize, io::Result<()>) {
        if let Err(error) = self.make_room(lines.len() as u64) {
            return (0, Err(error));
        }
        let Some((file, size)) = &mut self.file else { return (0, Ok(())) };
        let (written, result) = write_whole_lines(file, *size, lines);
        *size += written as u64;
        (written, result)
    }

    fn make_room(&mut self, length: u64) -> io::Result<()> {
        if self.file.as_ref().is_some_and(|(_, size)| size + length > self.limit) {
            // The current file becomes the one before, whose lines go.
            fs::rename(&self.current, &self.rotated)?;
            self.file = None;
        }
        self.open()
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
    use super::*;

    #[test]
    fn a_full_disk_leaves_whole_lines_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        file.write_all(b"one\ntwo\nthr").unwrap();
        assert_eq!(take_back(&file, 0, b"one\ntwo\nthr"), 8);
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
    }
}
