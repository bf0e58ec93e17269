//! The files of a directory that is watched: which are there, what is in them, where they go.
//!
//! Owns the names `done` and `failed`. All calls block. Never follows a symbolic link.

use std::collections::BinaryHeap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Below the directory: where files go whose calls were taken over.
pub(super) const DONE: &str = "done";

/// Where files go that cannot be made a call.
pub(super) const FAILED: &str = "failed";

/// How many files are listed at once; the others come behind them.
pub(super) const MAX_LISTED: usize = 1000;

/// A file to be taken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    written: SystemTime,
    pub(super) path: PathBuf,
}

/// What is in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// All of it, and what tells it from another file of its name.
    File(Vec<u8>, String),
    /// More than is allowed.
    TooLarge,
    /// It is gone, or no file.
    Nothing,
}

/// The files that are there, the oldest first.
pub(super) fn list(directory: &Path) -> io::Result<Vec<Found>> {
    let mut found = BinaryHeap::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().as_bytes().starts_with(b".") {
            continue;
        }
        // One that is gone by now is none.
        let Ok(about) = entry.metadata() else { continue };
        if about.is_file() {
            found.push(Found { written: about.modified()?, path: entry.path() });
        }
        if found.len() > MAX_LISTED {
            // The youngest.
            found.pop();
        }
    }
    Ok(found.into_sorted_vec())
}

/// Reads a file of at most `max` bytes.
pub(super) fn read(path: &Path, max: u64) -> io::Result<Read> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Read::Nothing),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Ok(Read::Nothing),
        Err(error) => return Err(error),
    };
    let about = file.metadata()?;
    if !about.is_file() {
        return Ok(Read::Nothing);
    }
    let mut body = Vec::with_capacity(usize::try_from(about.len().min(max)).unwrap_or_default());
    file.take(max + 1).read_to_end(&mut body)?;
    if body.len() as u64 > max {
        return Ok(Read::TooLarge);
    }
    let mark = format!("{}:{}.{:09}:{}", about.ino(), about.mtime(), about.mtime_nsec(), about.len());
    Ok(Read::File(body, mark))
}

/// A directory below this one, made if it is not there.
pub(super) fn make_place(directory: &Path, place: &str) -> io::Result<PathBuf> {
    let place = directory.join(place);
    match fs::create_dir(&place) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(place),
    }
}

/// Moves a file to a directory below its own, beside others of its name that are there.
pub(super) fn put_away(path: &Path, place: &str) -> io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let place = make_place(directory, place)?;
    let mut target = place.join(name);
    let mut number = 0_u64;
    while target.symlink_metadata().is_ok() {
        number += 1;
        let mut other = name.to_owned();
        other.push(format!(".{number}"));
        target = place.join(other);
    }
    unless_gone(fs::rename(path, target))
}

/// Removes a file.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    unless_gone(fs::remove_file(path))
}

fn unless_gone(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// A name as it stands in a header: visible ASCII, all other bytes and `%` as `%XX`.
pub(super) fn written(name: &OsStr) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.as_bytes() {
        if byte.is_ascii_graphic() && *byte != b'%' {
            text.push(char::from(*byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let found = list(directory).unwrap().into_iter();
        found.map(|found| found.path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn files_are_listed_by_age_and_what_is_no_file_or_begins_with_a_dot_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for (name, age) in [("a", 1), ("b", 3), (".part", 9), ("c", 2)] {
            fs::write(path.join(name), name).unwrap();
            let file = File::options().write(true).open(path.join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        fs::create_dir(path.join(DONE)).unwrap();
        symlink("/etc/passwd", path.join("link")).unwrap();
        assert_eq!(names(path), ["b", "c", "a"]);
        assert!(list(&path.join("none")).is_err());
    }

    #[test]
    fn a_file_is_read_to_its_end_if_it_is_not_too_large() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        fs::write(&path, "12345").unwrap();
        let Read::File(body, mark) = read(&path, 5).unwrap() else { panic!("it fits") };
        assert_eq!((body.as_slice(), mark.ends_with(":5")), (&b"12345"[..], true), "{mark}");
        assert_eq!(read(&path, 4).unwrap(), Read::TooLarge);
        assert_eq!(read(&directory.path().join("none"), 4).unwrap(), Read::Nothing);
        let link = directory.path().join("link");
        symlink(&path, &link).unwrap();
        assert_eq!(read(&link, 9).unwrap(), Read::Nothing);
        assert_eq!(read(directory.path(), 9).unwrap(), Read::Nothing);
    }

    #[test]
    fn what_is_put_away_replaces_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        for text in ["1", "2", "3"] {
            fs::write(&path, text).unwrap();
            put_away(&path, DONE).unwrap();
        }
        put_away(&path, DONE).unwrap();
        remove(&path).unwrap();
        for (name, text) in [("f", "1"), ("f.1", "2"), ("f.2", "3")] {
            assert_eq!(fs::read_to_string(directory.path().join(DONE).join(name)).unwrap(), text);
        }
        assert!(names(directory.path()).is_empty());
    }

    #[test]
    fn names_are_written_so_that_a_header_can_hold_them() {
        assert_eq!(written(OsStr::new("a b%ä\n.csv")), "a%20b%25%C3%A4%0A.csv");
    }
}
