//! Tells when the log files of a function changed, by inotify.
//!
//! Owns the watches: on the function's directory, and on those above it, up to the root. From above it is seen that the directory
//! is made, or removed and made again. The directory itself would tell of its removal only when the last driver has
//! closed its file there. Reads no file.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, Inotify, InotifyEvent, WatchDescriptor};

use super::replica_of;
use crate::inotify::Events;

/// What to look at again.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Changes {
    /// Everything.
    All,
    /// The files of these replicas.
    Some(HashSet<String>),
}

/// A watch on the log files of one function.
pub(super) struct Watch {
    events: Events,
    root: PathBuf,
    dir: PathBuf,
    armed: Vec<Armed>,
}

/// A directory that is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Armed {
    watch: WatchDescriptor,
    /// The entry that leads on to the function's directory. None in that directory itself.
    next: Option<OsString>,
}

impl Watch {
    /// Watches `dir`, which may come to be later, below `root`, which exists. Changes from now on are told.
    ///
    /// # Errors
    /// When `root` is not there, or this user has no more watches (`fs.inotify.max_user_instances`).
    pub(super) fn new(root: &Path, dir: &Path) -> io::Result<Self> {
        let events = Events::new()?;
        let armed = arm(events.inotify(), root, dir)?;
        Ok(Self { events, root: root.to_owned(), dir: dir.to_owned(), armed })
    }

    /// Waits for a change. May tell of one where there is none to be seen.
    pub(super) async fn changed(&mut self) -> io::Result<Changes> {
        loop {
            let events = self.events.next().await?;
            match judge(&events, &self.armed) {
                Verdict::Nothing => {}
                Verdict::Changed(changes) => return Ok(changes),
                Verdict::Moved => {
                    self.rearm()?;
                    return Ok(Changes::All);
                }
            }
        }
    }

    fn rearm(&mut self) -> io::Result<()> {
        let inotify = self.events.inotify();
        let before = std::mem::replace(&mut self.armed, arm(inotify, &self.root, &self.dir)?);
        for old in before.iter().filter(|old| self.armed.iter().all(|new| new.watch != old.watch)) {
            match inotify.rm_watch(old.watch) {
                // The kernel has dropped it already if its directory is gone.
                Ok(()) | Err(Errno::EINVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Watches the directories from `root` down to `dir`, as far as they exist.
///
/// From above to below: one that is made meanwhile is seen from the one above it.
fn arm(inotify: &Inotify, root: &Path, dir: &Path) -> io::Result<Vec<Armed>> {
    use AddWatchFlags as Flag;
    let names = Flag::IN_CREATE | Flag::IN_MOVE | Flag::IN_DELETE | Flag::IN_ONLYDIR;
    let below = dir.strip_prefix(root).map_err(io::Error::other)?;
    let mut armed = Vec::new();
    let mut path = root.to_owned();
    let mut rest = below.iter();
    loop {
        let next = rest.next();
        let mask = if next.is_some() { names } else { names | Flag::IN_MODIFY };
        match inotify.add_watch(&path, mask) {
            Ok(watch) => armed.push(Armed { watch, next: next.map(OsStr::to_owned) }),
            Err(Errno::ENOENT) if !armed.is_empty() => return Ok(armed),
            Err(error) => {
                return Err(io::Error::new(
                    io::Error::from(error).kind(),
                    format!("{}: {error}", path.display()),
                ));
            }
        }
        let Some(next) = next else { return Ok(armed) };
        path.push(next);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Nothing,
    Changed(Changes),
    /// The watch has to be set anew.
    Moved,
}

/// What a batch of events means to a watch.
fn judge(events: &[InotifyEvent], armed: &[Armed]) -> Verdict {
    let mut touched = HashSet::new();
    for event in events {
        // Of events that were dropped, any may have been the one that moves the watch.
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            return Verdict::Moved;
        }
        let Some(at) = armed.iter().find(|armed| armed.watch == event.wd) else { continue };
        match &at.next {
            Some(next) if event.name.as_ref() == Some(next) => return Verdict::Moved,
            Some(_) => {}
            None => touched.extend(event.name.as_deref().and_then(replica_of).map(str::to_owned)),
        }
    }
    if touched.is_empty() { Verdict::Nothing } else { Verdict::Changed(Changes::Some(touched)) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_directory_that_is_made_later_is_watched_then() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("openfaas-fn/echo");
        let mut watch = Watch::new(root.path(), &dir).unwrap();
        assert_eq!(watch.armed.len(), 1);
        fs::create_dir_all(&dir).unwrap();
        while watch.armed.len() < 3 {
            assert_eq!(watch.changed().await.unwrap(), Changes::All);
        }
        fs::write(dir.join("echo-a.log"), "x").unwrap();
        assert_eq!(watch.changed().await.unwrap(), Changes::Some(HashSet::from(["echo-a".to_owned()])));

        // As long as a driver has a file open there, the directory lives on without a name.
        let open = fs::File::open(dir.join("echo-a.log")).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        while watch.armed.len() == 3 {
            watch.changed().await.unwrap();
        }
        fs::create_dir(&dir).unwrap();
        while watch.armed.len() < 3 {
            watch.changed().await.unwrap();
        }
        drop(open);
    }

    #[tokio::test]
    async fn without_a_root_there_is_nothing_to_watch() {
        let root = tempfile::tempdir().unwrap();
        let missing = root.path().join("missing");
        assert!(Watch::new(&missing, &missing.join("a/b")).is_err());
    }
}
