//! The control group of a replica: where it is, and what its files tell.
//!
//! Owns the paths below the parent and the reading, on v1 and on v2. runc makes and removes a replica's own
//! group; the one of the namespace above it is removed here, when it is empty.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use roost_proxy::function::{Namespace, ReplicaId};

use super::host::{CGROUP_ROOT, Cgroups};
use crate::procfs;
use crate::runtime::Usage;

/// From here on a limit of v1 is none: the kernel rounds "no limit" down to a page.
const V1_NO_LIMIT: u64 = i64::MAX as u64 - 0xFFFF;

/// The group of a replica: a path below the root of each hierarchy.
pub(super) fn path(parent: &Path, namespace: &Namespace, id: &ReplicaId) -> PathBuf {
    namespace_path(parent, namespace).join(id.as_str())
}

fn namespace_path(parent: &Path, namespace: &Namespace) -> PathBuf {
    Path::new("/").join(parent).join(namespace.as_str())
}

/// The mounted hierarchies.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    root: PathBuf,
    version: Cgroups,
}

/// What the kernel did about a replica's memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// How often it killed one of its processes.
    pub(super) oom_kills: u64,
    /// The limit in bytes, if there is one.
    pub(super) limit: Option<u64>,
}

impl Tree {
    /// The host's.
    pub(super) fn new(version: Cgroups) -> Self {
        Self { root: PathBuf::from(CGROUP_ROOT), version }
    }

    /// Their version.
    pub(super) fn version(&self) -> Cgroups {
        self.version
    }

    /// What the group `group` uses.
    pub(super) fn usage(&self, group: &Path) -> io::Result<Usage> {
        let cpu = self.dir("cpuacct", group);
        let memory = self.dir("memory", group);
        let stat = read(&memory.join("memory.stat"))?;
        let (cpu_usec, held, cache) = match self.version {
            Cgroups::V1 { .. } => (
                number(&read(&cpu.join("cpuacct.usage"))?)? / 1000,
                number(&read(&memory.join("memory.usage_in_bytes"))?)?,
                field(&stat, "total_inactive_file"),
            ),
            Cgroups::V2 => (
                field(&read(&cpu.join("cpu.stat"))?, "usage_usec"),
                number(&read(&memory.join("memory.current"))?)?,
                field(&stat, "inactive_file"),
            ),
        };
        let oom_kills = self.oom_kills(&memory)?;
        Ok(Usage { cpu_usec, memory_bytes: held.saturating_sub(cache), oom_kills })
    }

    /// How long ago the oldest process of the group `group` began; `None` if there is none.
    pub(super) fn age(&self, group: &Path) -> io::Result<Option<Duration>> {
        let processes = read(&self.dir("cpuacct", group).join("cgroup.procs"))?;
        let pids = processes.lines().filter_map(|line| line.trim().parse().ok());
        // One may end between the two reads.
        Ok(pids.filter_map(|pid| procfs::age(pid).ok()).max())
    }

    /// What happened to the memory of the group `group`.
    pub(super) fn memory(&self, group: &Path) -> io::Result<Memory> {
        let memory = self.dir("memory", group);
        let limit = match self.version {
            Cgroups::V1 { .. } => Some(number(&read(&memory.join("memory.limit_in_bytes"))?)?)
                .filter(|limit| *limit < V1_NO_LIMIT),
            // "max" is no number, and no limit.
            Cgroups::V2 => read(&memory.join("memory.max"))?.trim().parse().ok(),
        };
        Ok(Memory { oom_kills: self.oom_kills(&memory)?, limit })
    }

    fn oom_kills(&self, memory: &Path) -> io::Result<u64> {
        let file = match self.version {
            Cgroups::V1 { .. } => "memory.oom_control",
            Cgroups::V2 => "memory.events",
        };
        Ok(field(&read(&memory.join(file))?, "oom_kill"))
    }

    /// Removes the group of a namespace where it is empty, in every hierarchy. A group that is in use stays.
    pub(super) fn remove_namespace(&self, parent: &Path, namespace: &Namespace) {
        let group = namespace_path(parent, namespace);
        for hierarchy in self.hierarchies() {
            let dir = below(&hierarchy, &group);
            match fs::remove_dir(&dir) {
                Ok(()) => {}
                Err(error) if expected_of_rmdir(&error) => {}
                Err(error) => tracing::warn!("cannot remove the control group {}: {error}", dir.display()),
            }
        }
    }

    fn hierarchies(&self) -> Vec<PathBuf> {
        match self.version {
            Cgroups::V2 => vec![self.root.clone()],
            // A hierarchy may be mounted under several names (`cpu`, `cpuacct`): the second removal finds nothing.
            Cgroups::V1 { .. } => fs::read_dir(&self.root)
                .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
                .unwrap_or_default(),
        }
    }

    /// The directory of `group` in the hierarchy of `controller`: on v2 there is one for all.
    pub(super) fn dir(&self, controller: &str, group: &Path) -> PathBuf {
        match self.version {
            Cgroups::V1 { .. } => below(&self.root.join(controller), group),
            Cgroups::V2 => below(&self.root, group),
        }
    }
}

fn below(root: &Path, group: &Path) -> PathBuf {
    root.join(group.strip_prefix("/").unwrap_or(group))
}

/// Not there, or not empty: what one finds when others live in the namespace.
fn expected_of_rmdir(error: &io::Error) -> bool {
    use io::ErrorKind::{DirectoryNotEmpty, NotADirectory, NotFound, ResourceBusy};
    matches!(error.kind(), NotFound | NotADirectory | DirectoryNotEmpty | ResourceBusy)
}

pub(super) fn read(path: &Path) -> io::Result<String> {
    fs::read_to_string(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn number(text: &str) -> io::Result<u64> {
    text.trim().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The number behind `name` in a file of `name number` lines; 0 where an older kernel has no such line.
pub(super) fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A tree of these files, and the directory that it is in.
    pub(in super::super) fn tree(version: Cgroups, files: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let tree = Tree { root: dir.path().to_owned(), version };
        (dir, tree)
    }

    fn group() -> PathBuf {
        path(Path::new("/roost"), &"ns".parse().unwrap(), &"echo-1".parse().unwrap())
    }

    #[test]
    fn a_group_is_named_by_parent_namespace_and_replica() {
        assert_eq!(group(), Path::new("/roost/ns/echo-1"));
        assert_eq!(namespace_path(Path::new("roost"), &"ns".parse().unwrap()), Path::new("/roost/ns"));
    }

    #[test]
    fn usage_is_read_from_the_files_of_v1() {
        let (_dir, tree) = tree(
            Cgroups::V1 { swap: true },
            &[
                ("cpuacct/roost/ns/echo-1/cpuacct.usage", "123456789\n"),
                ("memory/roost/ns/echo-1/memory.usage_in_bytes", "10485760\n"),
                ("memory/roost/ns/echo-1/memory.stat", "inactive_file 1\ntotal_inactive_file 485760\n"),
                (
                    "memory/roost/ns/echo-1/memory.oom_control",
                    "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
                ),
                ("memory/roost/ns/echo-1/memory.limit_in_bytes", "9223372036854771712\n"),
            ],
        );
        let usage = tree.usage(&group()).unwrap();
        assert_eq!(usage, Usage { cpu_usec: 123_456, memory_bytes: 10_000_000, oom_kills: 2 });
        assert_eq!(tree.memory(&group()).unwrap(), Memory { oom_kills: 2, limit: None });
    }

    #[test]
    fn usage_is_read_from_the_files_of_v2() {
        let (_dir, tree) = tree(
            Cgroups::V2,
            &[
                ("roost/ns/echo-1/cpu.stat", "usage_usec 4200\nuser_usec 4000\nsystem_usec 200\n"),
                ("roost/ns/echo-1/memory.current", "5000000\n"),
                ("roost/ns/echo-1/memory.stat", "anon 1\ninactive_file 1000000\nactive_file 2\n"),
                ("roost/ns/echo-1/memory.events", "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n"),
                ("roost/ns/echo-1/memory.max", "67108864\n"),
            ],
        );
        let usage = tree.usage(&group()).unwrap();
        assert_eq!(usage, Usage { cpu_usec: 4200, memory_bytes: 4_000_000, oom_kills: 1 });
        assert_eq!(tree.memory(&group()).unwrap(), Memory { oom_kills: 1, limit: Some(64 << 20) });
    }

    #[test]
    fn a_group_that_is_gone_is_an_error_and_no_limit_is_none() {
        let (_dir, tree) = tree(
            Cgroups::V2,
            &[("roost/ns/echo-1/memory.max", "max\n"), ("roost/ns/echo-1/memory.events", "")],
        );
        assert_eq!(tree.memory(&group()).unwrap(), Memory::default());
        assert_eq!(tree.usage(Path::new("/roost/ns/other")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn only_the_empty_group_of_a_namespace_is_removed() {
        let files = [("memory/roost/full/echo-1/tasks", ""), ("cpu/roost/full/echo-1/tasks", "")];
        let (dir, tree) = tree(Cgroups::V1 { swap: false }, &files);
        let empty = dir.path().join("memory/roost/empty");
        fs::create_dir_all(&empty).unwrap();
        tree.remove_namespace(Path::new("/roost"), &"empty".parse().unwrap());
        tree.remove_namespace(Path::new("/roost"), &"full".parse().unwrap());
        assert!(!empty.exists());
        assert!(dir.path().join("memory/roost/full/echo-1").exists());
    }
}
