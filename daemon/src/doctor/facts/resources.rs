//! What the machine has for Roost: disk, files, and the time.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::sys::resource::{Resource, getrlimit};

use super::{Known, Units, text};
use crate::app::own_binary;
use crate::space::Space;

/// The kernel's word for a clock that nothing keeps right.
const UNSYNCHRONISED: i32 = 0x40;

/// A file system.
#[derive(Debug, Clone)]
pub(in crate::doctor) struct Disk {
    /// What of Roost is on it: `state`, `containerd`.
    pub(in crate::doctor) what: Vec<&'static str>,
    pub(in crate::doctor) path: PathBuf,
    pub(in crate::doctor) space: Known<Space>,
}

/// The file systems of these directories, each once.
pub(super) fn disks(places: Vec<(&'static str, PathBuf)>) -> Vec<Disk> {
    let mut found: Vec<(Option<u64>, Disk)> = Vec::new();
    for (what, path) in places {
        // Before the first start it is not there yet, but the one that it is to be in.
        let path = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_owned();
        let device = std::fs::metadata(&path).ok().map(|about| about.dev());
        match found.iter_mut().find(|(other, _)| device.is_some() && *other == device) {
            Some((_, disk)) => disk.what.push(what),
            None => found.push((device, Disk { what: vec![what], space: space(&path), path })),
        }
    }
    found.into_iter().map(|(_, disk)| disk).collect()
}

fn space(path: &Path) -> Known<Space> {
    Space::of(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// When the file of this program was put here.
pub(super) fn installed() -> Option<SystemTime> {
    std::fs::metadata(own_binary().ok()?).ok()?.modified().ok()
}

/// Does something keep the kernel's clock right? The kernel is told so by whatever does.
pub(super) fn synchronised() -> Known<bool> {
    // SAFETY: all zeros are a valid `timex`, which is plain numbers; with no mode set the call changes nothing and only
    // writes to the struct that it is given.
    let (state, timex) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut timex), timex)
    };
    if state < 0 {
        return Err(format!("the kernel does not say: {}", std::io::Error::last_os_error()));
    }
    Ok(timex.status & UNSYNCHRONISED == 0)
}

/// How many files a daemon may have open: the one that runs, else the one that systemd starts, else one that is started as
/// this program was.
pub(super) fn open_files(daemon: Option<u32>, units: Option<&Known<Units>>) -> (u64, &'static str) {
    let limits = daemon.and_then(|pid| text(format!("/proc/{pid}/limits")).ok());
    if let Some(limit) = limits.as_deref().and_then(hard_limit) {
        return (limit, "roostd, which runs,");
    }
    let unit =
        units.and_then(|units| units.as_ref().ok()).map(|units| units.get("roostd.service", "LimitNOFILE"));
    match unit.map(|limit| if limit == "infinity" { Some(u64::MAX) } else { limit.parse().ok() }) {
        Some(Some(limit)) => (limit, "roostd.service"),
        _ => (getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(_, hard)| hard), "a program started from here"),
    }
}

/// What the daemon raises its own limit to.
fn hard_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_that_counts_is_the_hard_one() {
        let of = |soft: &str, hard: &str| {
            format!("Limit  Soft Limit  Hard Limit\nMax open files  {soft}  {hard}  files\n")
        };
        assert_eq!(hard_limit(&of("1024", "4096")), Some(4096));
        assert_eq!(hard_limit(&of("1024", "unlimited")), Some(u64::MAX));
        assert_eq!(hard_limit("Max processes 1 2\n"), None);
        assert!(open_files(Some(std::process::id()), None).1.contains("runs"));
    }

    #[test]
    fn a_file_system_is_looked_at_once_even_before_the_directories_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let places = vec![("state", dir.path().join("a/b")), ("containerd", dir.path().join("c"))];
        let disks = disks(places);
        assert_eq!(disks.len(), 1);
        assert_eq!(
            (disks[0].what.as_slice(), disks[0].path.as_path()),
            (["state", "containerd"].as_slice(), dir.path())
        );
        let space = disks[0].space.clone().unwrap();
        assert!(space.free <= space.total && space.total > 0 && !space.read_only, "{space:?}");
    }
}
