//! When the files of users may have changed.
//!
//! Owns what is watched. Directories are, not files: a file is replaced by another one, and a watch would stay with the
//! old one.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::inotify::AddWatchFlags;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::Users;
use crate::inotify::Events;

/// Reads the files again whenever they change and whenever the daemon gets SIGHUP, until it ends. From the call on, not
/// from the first poll on, SIGHUP does not end the daemon.
pub fn follow(users: Option<Arc<Users>>) -> impl Future<Output = ()> + Send {
    let hangups = signal(SignalKind::hangup());
    async move {
        let mut hangups = match hangups {
            Ok(hangups) => hangups,
            Err(error) => {
                return warn!("the users of the API are not followed: no SIGHUP can be received: {error}");
            }
        };
        let Some(users) = users else {
            while hangups.recv().await.is_some() {
                info!("SIGHUP: there are no users to read again, [auth] is not enabled");
            }
            return;
        };
        let mut changes = Changes::new(&users.paths());
        // What changed between the start and the watch.
        users.reload();
        loop {
            tokio::select! {
                changed = changes.next() => if let Err(error) = changed {
                    warn!("the users of the API are no longer followed, but on SIGHUP: {error}");
                    changes.0 = None;
                },
                hangup = hangups.recv() => match hangup {
                    Some(()) => info!("SIGHUP: reading the users of the API again"),
                    None => return,
                },
            }
            users.reload();
        }
    }
}

/// What is watched; nothing when the kernel refuses.
struct Changes(Option<(Events, HashSet<OsString>)>);

impl Changes {
    fn new(paths: &[&PathBuf]) -> Self {
        match watch(paths) {
            Ok(watched) => Self(Some(watched)),
            Err(error) => {
                warn!("the users of the API are not followed, but on SIGHUP: {error}");
                Self(None)
            }
        }
    }

    /// Waits for a change. Cancel safe.
    async fn next(&mut self) -> io::Result<()> {
        let Some((events, names)) = &mut self.0 else { return std::future::pending().await };
        loop {
            let happened = events.next().await?;
            let ours = |name: &OsString| names.contains(name);
            // An event without a name tells of the directory itself, or that some events are lost.
            if happened.iter().any(|event| event.name.as_ref().is_none_or(ours)) {
                return Ok(());
            }
        }
    }
}

fn watch(paths: &[&PathBuf]) -> io::Result<(Events, HashSet<OsString>)> {
    let events = Events::new()?;
    // Not IN_CREATE: a file that has just been made says nothing yet. A mode that was wrong is put right by IN_ATTRIB.
    let changed = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_ATTRIB;
    let mut names = HashSet::new();
    for path in paths {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        names.extend(path.file_name().map(ToOwned::to_owned));
        match events.inotify().add_watch(directory, changed) {
            Ok(_) => {}
            Err(Errno::ENOENT) => {
                warn!("{}: is not there, so it is not watched for users", directory.display());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok((events, names))
}
