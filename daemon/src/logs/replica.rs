//! The files of one replica, read in order across rotations.
//!
//! Owns the place up to which they were read. Blocking: called from blocking threads only. Only whole lines leave
//! it, each once, whatever the driver does to the files in between:
//!
//! ```text
//! current is the file we know         → read on in it
//! the file we know is the rotated one → read it to its end, then the current one
//! neither                             → read what we know to its end, then the rotated one, then the current one
//! ```

use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use jiff::Timestamp;

use super::record::{Entry, LINE_LIMIT, Stream, Tag};
use super::{current_file, rotated_file};

/// The longest line that is put together from its parts, in bytes. What is longer is cut, and says so.
pub(super) const JOIN_LIMIT: usize = 256 * 1024;

/// How often a rotation in between may repeat the look at the files. A driver rotates at most once for each 64 KiB.
const SNAPSHOT_TRIES: usize = 16;

/// A line of a function: all its parts together.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) timestamp: Timestamp,
    pub(super) stream: Stream,
    pub(super) text: String,
}

/// How far the files of a replica were read.
#[derive(Debug, Default)]
pub(super) struct Replica {
    /// The files, oldest first. The last is the one that grows, as far as is known.
    files: Vec<LogFile>,
    /// The one that is being read.
    at: usize,
    joins: [Join; 2],
}

impl Replica {
    /// Looks at the files as they are now. Lines that were complete by then are read next. Says whether there are any files.
    pub(super) fn refresh(&mut self, dir: &Path, id: &str) -> io::Result<bool> {
        let (rotated, current) = snapshot(dir, id)?;
        let found = rotated.is_some() || current.is_some();
        self.files.drain(..self.at);
        self.at = 0;

        let known = self.files.last().map(LogFile::inode);
        let new: Vec<LogFile> = if current.as_ref().is_some_and(|file| Some(file.inode()) == known) {
            Vec::new()
        } else if rotated.as_ref().is_some_and(|file| Some(file.inode()) == known) {
            current.into_iter().collect()
        } else {
            rotated.into_iter().chain(current).collect()
        };
        // Only now, behind the look at the names: a file that was rotated by then does not grow any more.
        if let Some(file) = self.files.last_mut() {
            file.extend()?;
        }
        self.files.extend(new);
        Ok(found)
    }

    /// Goes back to the beginning of what the last refresh found.
    pub(super) fn rewind(&mut self) -> io::Result<()> {
        self.at = 0;
        self.joins = Default::default();
        self.files.iter_mut().try_for_each(LogFile::rewind)
    }

    /// The next line; none when all that the last refresh found is read.
    pub(super) fn next_line(&mut self) -> io::Result<Option<Line>> {
        let last = self.files.len().saturating_sub(1);
        while let Some(file) = self.files.get_mut(self.at) {
            match file.next_line()? {
                Some(line) => {
                    let Some(entry) = Entry::parse(line) else { continue };
                    let join = &mut self.joins[usize::from(entry.stream == Stream::Stderr)];
                    if let Some(text) = join.add(entry.tag, entry.text) {
                        return Ok(Some(Line { timestamp: entry.timestamp, stream: entry.stream, text }));
                    }
                }
                None if self.at < last => self.at += 1,
                None => break,
            }
        }
        Ok(None)
    }
}

/// Opens both files of a replica such that no rotation fell in between.
fn snapshot(dir: &Path, id: &str) -> io::Result<(Option<LogFile>, Option<LogFile>)> {
    let path = current_file(dir, id);
    for _ in 0..SNAPSHOT_TRIES {
        let current = LogFile::open(&path)?;
        let rotated = LogFile::open(&rotated_file(dir, id))?;
        let still = if_found(path.metadata())?.map(|metadata| metadata.ino());
        if still == current.as_ref().map(LogFile::inode) {
            return Ok((rotated, current));
        }
    }
    Err(io::Error::other(format!("{} is rotated faster than it can be opened", path.display())))
}

fn if_found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// One file, read up to a length that is fixed until the next look at it.
#[derive(Debug)]
struct LogFile {
    reader: BufReader<File>,
    metadata: Metadata,
    /// Where the next line begins.
    position: u64,
    /// How long the file was.
    end: u64,
    line: Vec<u8>,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<Option<Self>> {
        let Some(file) = if_found(File::open(path))? else { return Ok(None) };
        let metadata = file.metadata()?;
        let end = metadata.len();
        let reader = BufReader::with_capacity(LINE_LIMIT, file);
        Ok(Some(Self { reader, metadata, position: 0, end, line: Vec::new() }))
    }

    fn inode(&self) -> u64 {
        self.metadata.ino()
    }

    fn extend(&mut self) -> io::Result<()> {
        self.end = self.reader.get_ref().metadata()?.len();
        Ok(())
    }

    fn rewind(&mut self) -> io::Result<()> {
        self.position = 0;
        self.reader.seek(SeekFrom::Start(0)).map(|_| ())
    }

    /// The next whole line without its newline, however damaged; none at the end. Of a line that is too long, only the
    /// first bytes.
    fn next_line(&mut self) -> io::Result<Option<&[u8]>> {
        self.line.clear();
        let mut position = self.position;
        while position < self.end {
            let available = self.reader.fill_buf()?;
            let within = usize::try_from(self.end - position).unwrap_or(usize::MAX).min(available.len());
            if within == 0 {
                break;
            }
            let newline = available[..within].iter().position(|byte| *byte == b'\n');
            let taken = newline.unwrap_or(within);
            let room = (LINE_LIMIT - self.line.len()).min(taken);
            self.line.extend_from_slice(&available[..room]);
            let consumed = taken + usize::from(newline.is_some());
            self.reader.consume(consumed);
            position += consumed as u64;
            if newline.is_some() {
                self.position = position;
                return Ok(Some(&self.line));
            }
        }
        // Half a line: read again when there is more of it. The driver may also have taken it back.
        if position > self.position {
            self.reader.seek(SeekFrom::Start(self.position))?;
        }
        Ok(None)
    }
}

/// The parts of a line that have come so far.
#[derive(Debug, Default)]
struct Join {
    text: Vec<u8>,
    /// How long the line is, with what was left out.
    length: usize,
}

impl Join {
    /// Takes a part. Returns the line when it was the last.
    fn add(&mut self, tag: Tag, part: &[u8]) -> Option<String> {
        self.length += part.len();
        let room = JOIN_LIMIT - self.text.len();
        self.text.extend_from_slice(&part[..part.len().min(room)]);
        if tag == Tag::Partial {
            return None;
        }
        let mut text = String::from_utf8_lossy(&self.text).into_owned();
        if self.length > self.text.len() {
            text.push_str(&format!(" [roost: cut, the line has {} bytes]", self.length));
        }
        *self = Self::default();
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::PART_LIMIT;
    use super::*;

    #[test]
    fn parts_make_a_line_up_to_the_limit() {
        let mut join = Join::default();
        assert_eq!(join.add(Tag::Full, b"whole"), Some("whole".to_owned()));
        assert_eq!(join.add(Tag::Partial, b"first, "), None);
        assert_eq!(join.add(Tag::Full, b"second \xff"), Some("first, second \u{fffd}".to_owned()));
        let part = vec![b'x'; PART_LIMIT];
        for _ in 0..64 {
            assert_eq!(join.add(Tag::Partial, &part), None);
        }
        let line = join.add(Tag::Full, b"").unwrap();
        assert_eq!(line.trim_start_matches('x'), " [roost: cut, the line has 1048576 bytes]");
        assert_eq!(line.matches('x').count(), JOIN_LIMIT);
        assert_eq!(join.add(Tag::Full, b"next"), Some("next".to_owned()));
    }

    struct Files {
        dir: tempfile::TempDir,
        replica: Replica,
    }

    impl Files {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap(), replica: Replica::default() }
        }

        fn append(&self, text: &str) {
            let path = current_file(self.dir.path(), "r");
            let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
            io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        }

        fn line(&self, text: &str) {
            self.append(&format!("2026-01-02T03:04:05Z stdout F {text}\n"));
        }

        fn rotate(&self) {
            fs::rename(current_file(self.dir.path(), "r"), rotated_file(self.dir.path(), "r")).unwrap();
        }

        fn read(&mut self) -> Vec<String> {
            self.replica.refresh(self.dir.path(), "r").unwrap();
            self.rest()
        }

        fn rest(&mut self) -> Vec<String> {
            std::iter::from_fn(|| self.replica.next_line().unwrap()).map(|line| line.text).collect()
        }
    }

    #[test]
    fn each_line_is_read_once_across_rotations() {
        let mut files = Files::new();
        assert_eq!(files.read(), [""; 0]);
        files.line("a");
        assert_eq!(files.read(), ["a"]);
        files.line("b");
        files.rotate();
        assert_eq!(files.read(), ["b"], "rotated, the new file is not there yet");
        assert_eq!(files.read(), [""; 0]);
        files.line("c");
        assert_eq!(files.read(), ["c"]);
        files.line("d");
        files.rotate();
        files.line("e");
        assert_eq!(files.read(), ["d", "e"]);
        files.line("f");
        files.rotate();
        files.line("g");
        files.rotate();
        files.line("h");
        assert_eq!(files.read(), ["f", "g", "h"], "rotated twice since the last look");
        assert_eq!(files.read(), [""; 0]);
    }

    #[test]
    fn half_a_line_waits_for_its_end() {
        let mut files = Files::new();
        files.append("2026-01-02T03:04:05Z stdout F ha");
        assert_eq!(files.read(), [""; 0]);
        files.append("lf\n");
        assert_eq!(files.read(), ["half"]);
    }

    #[test]
    fn lines_written_behind_the_look_wait_for_the_next() {
        let mut files = Files::new();
        files.line("a");
        files.replica.refresh(files.dir.path(), "r").unwrap();
        files.line("b");
        assert_eq!(files.rest(), ["a"]);
        assert_eq!(files.read(), ["b"]);
    }

    #[test]
    fn damage_costs_only_the_damaged_lines() {
        let mut files = Files::new();
        files.line("a");
        files.append("garbage\n\n");
        files.append(&"\0".repeat(3 * LINE_LIMIT));
        files.append("\n");
        files.append(&"\0".repeat(512));
        files.line("b");
        assert_eq!(files.read(), ["a", "b"]);
    }

    #[test]
    fn rewinding_reads_the_same_again() {
        let mut files = Files::new();
        files.line("a");
        files.rotate();
        files.line("b");
        assert_eq!(files.read(), ["a", "b"]);
        files.line("c");
        files.replica.rewind().unwrap();
        assert_eq!(files.rest(), ["a", "b"]);
        assert_eq!(files.read(), ["c"]);
    }
}
