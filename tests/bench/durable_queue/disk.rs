//! File systems in files: each store has one for itself, so that none waits for what another writes to a journal they share.
//! What is on the disk in one is on the disk of the machine.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// How large one is, in bytes. What was never written takes no room.
const SIZE: u64 = 4 << 30;

/// When what is written is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writes {
    /// When whoever has written it asks for that.
    Asked,
    /// Before the write returns.
    Through,
}

/// A file system, mounted. It is gone with this.
#[derive(Debug)]
pub(crate) struct Disk {
    dir: TempDir,
}

impl Disk {
    pub(crate) fn mount(writes: Writes) -> Self {
        let disk = Self { dir: tempfile::Builder::new().prefix("roost-bench-").tempdir().unwrap() };
        let image = disk.dir.path().join("image");
        File::create_new(&image).unwrap().set_len(SIZE).unwrap();
        // Nothing of it is to be written later, beside what is measured.
        let now = ["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
        run(Command::new("mkfs.ext4").args(now).arg(&image));
        std::fs::create_dir(disk.path()).unwrap();
        let options = match writes {
            Writes::Asked => "loop",
            Writes::Through => "loop,sync",
        };
        run(Command::new("mount").args(["-o", options]).arg(&image).arg(disk.path()));
        disk
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if is_mounted(&self.path()) {
            run(Command::new("umount").arg(self.path()));
        }
    }
}

fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().filter_map(|line| line.split(' ').nth(4)).any(|point| Path::new(point) == path)
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {said}", output.status);
}
