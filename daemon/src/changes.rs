//! Files that somebody else may change: which, and when to read them again.
//!
//! Owns what is watched. Directories are, not files: a file is replaced by another one, and a watch would stay with the
//! old one. Never reads a file.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::AddWatchFlags;
use tracing::warn;

use crate::inotify::Events;

/// Watched files; none when the kernel refuses.
pub struct Changes {
    /// For the log: whose files these are.
    what: &'static str,
    watched: Option<(Events, HashSet<OsString>)>,
}

impl Changes {
    /// Watches `paths`, which hold `what`. Symbolic links among them may be replaced too.
    #[must_use]
    pub fn new(what: &'static str, paths: &[&Path]) -> Self {
        let watched = watch(what, paths).map_err(|error| {
            warn!("{what} are not followed, but on SIGHUP: {error}");
        });
        Self { what, watched: watched.ok() }
    }

    /// Waits until the files may have changed. Cancel safe.
    pub async fn next(&mut self) {
        let Some((events, names)) = &mut self.watched else { return std::future::pending().await };
        loop {
            let happened = match events.next().await {
                Ok(happened) => happened,
                Err(error) => {
                    warn!("{} are no longer followed, but on SIGHUP: {error}", self.what);
                    self.watched = None;
                    return;
                }
            };
            let ours = |name: &OsString| names.contains(name);
            // An event without a name tells of the directory itself, or that some events are lost.
            if happened.iter().any(|event| event.name.as_ref().is_none_or(ours)) {
                return;
            }
        }
    }
}

fn watch(what: &str, paths: &[&Path]) -> io::Result<(Events, HashSet<OsString>)> {
    let events = Events::new()?;
    // A mode that was wrong is put right by IN_ATTRIB.
    let changed = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_ATTRIB;
    let mut names = HashSet::new();
    let mut directories: BTreeMap<&Path, AddWatchFlags> = BTreeMap::new();
    for path in paths {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        names.extend(path.file_name().map(ToOwned::to_owned));
        // A file that has just been made says nothing yet, a link that has just been made says all.
        let link = path.symlink_metadata().is_ok_and(|about| about.is_symlink());
        let flags = directories.entry(directory).or_insert(changed);
        if link {
            *flags |= AddWatchFlags::IN_CREATE;
        }
    }
    for (directory, flags) in directories {
        match events.inotify().add_watch(directory, flags) {
            Ok(_) => {}
            Err(Errno::ENOENT) => {
                warn!("{}: is not there, so it is not watched for {what}", directory.display());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok((events, names))
}
