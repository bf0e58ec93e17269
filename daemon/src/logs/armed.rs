//! Which directories are watched for the log files of one function, and what their events mean.
//!
//! Owns the way from the root down to the function's directory. From above it is seen that the directory is made, or removed
//! and made again: the directory itself would tell of its removal only when the last driver has closed its file there.
//! Never waits, and never takes a watch away: others may have the same one.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, Inotify, InotifyEvent, WatchDescriptor};

use super::replica_of;

/// What to look at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Changes {
    /// Everything.
    All,
    /// The files of these replicas.
    Some(HashSet<String>),
}

/// A directory that is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Armed {
    pub(super) watch: WatchDescriptor,
    /// The entry that leads on to the function's directory. None in that directory itself.
    next: Option<OsString>,
}

/// What a batch of events means to a function.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Nothing,
    Changed(Changes),
    /// The watches have to be set anew.
    Moved,
}

/// Watches the directories from `root` down to `dir`, as far as they exist, and adds them to `armed`.
///
/// From above to below: one that is made meanwhile is seen from the one above it.
///
/// # Errors
/// When one cannot be watched. Those above it are.
pub(super) fn arm(inotify: &Inotify, root: &Path, dir: &Path, armed: &mut Vec<Armed>) -> io::Result<()> {
    use AddWatchFlags as Flag;
    let names = Flag::IN_CREATE | Flag::IN_MOVE | Flag::IN_DELETE | Flag::IN_ONLYDIR;
    let below = dir.strip_prefix(root).map_err(io::Error::other)?;
    let mut path = root.to_owned();
    let mut rest = below.iter();
    loop {
        let next = rest.next();
        let mask = if next.is_some() { names } else { names | Flag::IN_MODIFY };
        match inotify.add_watch(&path, mask) {
            Ok(watch) => armed.push(Armed { watch, next: next.map(OsStr::to_owned) }),
            Err(Errno::ENOENT) if !armed.is_empty() => return Ok(()),
            Err(error) => {
                return Err(io::Error::new(
                    io::Error::from(error).kind(),
                    format!("{}: {error}", path.display()),
                ));
            }
        }
        let Some(next) = next else { return Ok(()) };
        path.push(next);
    }
}

/// What a batch of events means to a function whose directories are these.
pub(super) fn judge(events: &[InotifyEvent], armed: &[Armed]) -> Verdict {
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
