//! The freezer: a replica stops where it is, and goes on there.
//!
//! Owns the freezer's files, on v1 and on v2. They are written directly, which takes less than a millisecond;
//! containerd would start a runc for it, and its own word on whether a task is paused is about its own doing only. What
//! is frozen keeps its memory, but touches none of it: the kernel takes that back first when memory is short. It is
//! never taken actively, or the first request after the thaw would wait for the disk.

use std::fs;
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use roost_proxy::function::{Namespace, ReplicaId};

use super::cgroup::{Tree, field, read};
use super::host::Cgroups;
use super::{Containerd, Error};
use crate::pauses::Pauses;

/// How long a replica may take to freeze: a process in a disk wait stops when the disk answers.
const FREEZE_DEADLINE: Duration = Duration::from_secs(2);

/// The pauses between two looks on v1, which tells by no event when all processes have stopped.
const LOOK_PAUSE: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(20));

impl Containerd {
    /// Freezes the replica; when this returns, none of its processes runs.
    ///
    /// # Errors
    /// When its freezer cannot be written, or it has not stopped in time. Then it runs (on).
    pub async fn freeze(&self, namespace: &Namespace, id: &ReplicaId) -> Result<(), Error> {
        // containerd starts nothing that is frozen.
        self.starts().over(namespace, id).await;
        let deadline = Instant::now() + FREEZE_DEADLINE;
        let mut pauses = Pauses::new(LOOK_PAUSE);
        while !self.ask_group(namespace, id, Tree::freeze).await? {
            if Instant::now() >= deadline {
                self.thaw(namespace, id).await?;
                let group = super::cgroup::path(&self.settings().cgroup_parent, namespace, id);
                let late = io::Error::new(io::ErrorKind::TimedOut, "its processes do not stop");
                return Err(Error::host("cannot freeze", &group)(late));
            }
            pauses.wait().await;
        }
        Ok(())
    }

    /// Lets the replica go on. One that is not frozen, or not there, does so already.
    ///
    /// # Errors
    /// When its freezer cannot be written.
    pub async fn thaw(&self, namespace: &Namespace, id: &ReplicaId) -> Result<(), Error> {
        self.ask_group(namespace, id, Tree::thaw).await
    }

    /// Is the replica frozen, or about to be?
    pub(super) async fn is_frozen(&self, namespace: &Namespace, id: &ReplicaId) -> Result<bool, Error> {
        self.ask_group(namespace, id, Tree::is_frozen).await
    }
}

impl Tree {
    /// Tells the group `group` to freeze; `true` when it has. On v2 that is waited for here.
    fn freeze(&self, group: &Path) -> io::Result<bool> {
        match self.version() {
            Cgroups::V1 { .. } => {
                // Again at each look: a process that was forked meanwhile is only stopped by the next one.
                let state = self.dir("freezer", group).join("freezer.state");
                write_existing(&state, "FROZEN")?;
                Ok(read(&state)?.trim() == "FROZEN")
            }
            Cgroups::V2 => {
                let dir = self.dir("", group);
                write_existing(&dir.join("cgroup.freeze"), "1")?;
                wait_until_frozen(&dir.join("cgroup.events"))
            }
        }
    }

    fn thaw(&self, group: &Path) -> io::Result<()> {
        let (file, word) = match self.version() {
            Cgroups::V1 { .. } => (self.dir("freezer", group).join("freezer.state"), "THAWED"),
            Cgroups::V2 => (self.dir("", group).join("cgroup.freeze"), "0"),
        };
        match write_existing(&file, word) {
            Err(error) if gone(&error) => Ok(()),
            written => written,
        }
    }

    fn is_frozen(&self, group: &Path) -> io::Result<bool> {
        let state = match self.version() {
            Cgroups::V1 { .. } => read(&self.dir("freezer", group).join("freezer.state")),
            Cgroups::V2 => read(&self.dir("", group).join("cgroup.freeze")),
        };
        match state {
            Ok(state) => Ok(!matches!(state.trim(), "THAWED" | "0")),
            Err(error) if gone(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Never makes a file: outside of a control group there is none to make.
fn write_existing(path: &Path, word: &str) -> io::Result<()> {
    use std::io::Write;
    fs::OpenOptions::new().write(true).open(path)?.write_all(word.as_bytes())
}

/// The group was removed: before the file was opened, or since.
fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// Waits for the event, at most as long as a freeze may take; `false` if it did not come.
fn wait_until_frozen(events: &Path) -> io::Result<bool> {
    let deadline = Instant::now() + FREEZE_DEADLINE;
    let mut file = fs::File::open(events)?;
    let mut text = String::new();
    loop {
        text.clear();
        file.rewind()?;
        file.read_to_string(&mut text)?;
        if field(&text, "frozen") == 1 {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let limit = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLPRI)], limit)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(version: Cgroups, files: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
        super::super::cgroup::tests::tree(version, files)
    }

    #[test]
    fn the_files_of_v1_are_written_and_read() {
        let file = "freezer/g/freezer.state";
        let (dir, tree) = tree(Cgroups::V1 { swap: false }, &[(file, "THAWED\n")]);
        let group = Path::new("/g");
        assert!(!tree.is_frozen(group).unwrap());
        assert!(tree.freeze(group).unwrap() && tree.is_frozen(group).unwrap());
        fs::write(dir.path().join(file), "FREEZING\n").unwrap();
        assert!(tree.is_frozen(group).unwrap(), "what is about to freeze has to be thawed, too");
        fs::write(dir.path().join(file), "").unwrap();
        tree.thaw(group).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join(file)).unwrap(), "THAWED");
    }

    #[test]
    fn the_files_of_v2_are_written_and_read() {
        let files = [("g/cgroup.freeze", "0\n"), ("g/cgroup.events", "populated 1\nfrozen 1\n")];
        let (dir, tree) = tree(Cgroups::V2, &files);
        let group = Path::new("/g");
        assert!(!tree.is_frozen(group).unwrap());
        assert!(tree.freeze(group).unwrap());
        assert_eq!(fs::read_to_string(dir.path().join("g/cgroup.freeze")).unwrap().trim(), "1");
        assert!(tree.is_frozen(group).unwrap());
        tree.thaw(group).unwrap();
        assert!(!tree.is_frozen(group).unwrap());
    }

    #[test]
    fn what_is_gone_is_not_frozen_and_cannot_be() {
        for version in [Cgroups::V1 { swap: false }, Cgroups::V2] {
            let (_dir, tree) = tree(version, &[]);
            let group = Path::new("/g");
            assert!(!tree.is_frozen(group).unwrap());
            tree.thaw(group).unwrap();
            tree.freeze(group).unwrap_err();
        }
    }
}
