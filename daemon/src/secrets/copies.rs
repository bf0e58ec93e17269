//! What replicas see of secrets: copies in memory, `DIRECTORY/NAMESPACE/REPLICA/NAME`.
//!
//! Owns that directory. It is on a tmpfs, so that no copy reaches a disk, and is lost with it. Only root can look into it;
//! what is below can be read by every user, as a function may be any: a replica's own directory is mounted into it, and a
//! mount does not ask what stands above. It is replaced file by file, so a running replica sees each change whole.
//! All calls block.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use roost_proxy::function::{Namespace, ReplicaId};

use super::SecretError;
use super::files::{entries, private_directory, put, remove_if_empty};
use super::value::{SecretName, SecretValue};

/// The copies of all replicas.
#[derive(Debug)]
pub(super) struct Copies {
    dir: PathBuf,
}

impl Copies {
    /// Those below `dir`, which is made, on a tmpfs of its own if need be.
    pub(super) fn open(dir: PathBuf) -> Result<Self, SecretError> {
        private_directory(&dir)?;
        let kind = statfs(&dir).map_err(|e| SecretError::file("look at", &dir)(e.into()))?;
        if kind.filesystem_type() != TMPFS_MAGIC {
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(Some("tmpfs"), &dir, Some("tmpfs"), flags, Some("mode=0700"))
                .map_err(|e| SecretError::file("mount a tmpfs on", &dir)(e.into()))?;
        }
        Ok(Self { dir })
    }

    /// Where a replica's copies are.
    pub(super) fn of(&self, namespace: &Namespace, id: &ReplicaId) -> PathBuf {
        self.dir.join(namespace.as_str()).join(id.as_str())
    }

    /// Makes a replica's directory, empty.
    pub(super) fn make(&self, namespace: &Namespace, id: &ReplicaId) -> Result<(), SecretError> {
        private_directory(&self.dir.join(namespace.as_str()))?;
        let dir = self.of(namespace, id);
        fs::create_dir(&dir)
            .and_then(|()| fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)))
            .map_err(SecretError::file("make the directory", &dir))
    }

    /// Puts a secret into a replica's directory, or replaces it there.
    pub(super) fn put(&self, dir: &Path, name: &SecretName, value: &SecretValue) -> Result<(), SecretError> {
        let path = dir.join(name.as_str());
        // A copy that is right stays the file that it is: whoever watches it is not woken for nothing.
        if fs::read(&path).is_ok_and(|bytes| bytes == value.bytes()) {
            return Ok(());
        }
        // What is not whole yet lies above, where the replica does not see it.
        let above = dir.parent().unwrap_or(&self.dir);
        put(above, &path, value, 0o444).map_err(SecretError::file("write", &path))
    }

    /// The directories of all replicas of a namespace that see a secret.
    pub(super) fn with(&self, namespace: &Namespace, name: &SecretName) -> Result<Vec<PathBuf>, SecretError> {
        let mut dirs = entries(&self.dir.join(namespace.as_str()))?;
        dirs.retain(|dir| dir.join(name.as_str()).exists());
        Ok(dirs)
    }

    /// Which secrets a replica sees.
    pub(super) fn names(&self, dir: &Path) -> Result<BTreeSet<SecretName>, SecretError> {
        let name = |path: PathBuf| path.file_name()?.to_str()?.parse().ok();
        Ok(entries(dir)?.into_iter().filter_map(name).collect())
    }

    /// Removes a replica's directory, if it has one, and with the last one the namespace's.
    pub(super) fn remove(&self, namespace: &Namespace, id: &ReplicaId) -> Result<(), SecretError> {
        remove(&self.of(namespace, id))?;
        let above = self.dir.join(namespace.as_str());
        remove_if_empty(&above).map_err(SecretError::file("remove", &above))
    }

    /// Removes everything but the directories of replicas that `keep` names; those, with their namespaces, are returned.
    pub(super) fn collect(
        &self,
        keep: impl Fn(&str) -> bool,
    ) -> Result<Vec<(Namespace, PathBuf)>, SecretError> {
        let mut kept = Vec::new();
        for above in entries(&self.dir)? {
            let Some(namespace) = file_name(&above).and_then(|name| name.parse::<Namespace>().ok()) else {
                remove(&above)?;
                continue;
            };
            for dir in entries(&above)? {
                if file_name(&dir).is_some_and(&keep) {
                    kept.push((namespace.clone(), dir));
                } else {
                    remove(&dir)?;
                }
            }
            remove_if_empty(&above).map_err(SecretError::file("remove", &above))?;
        }
        Ok(kept)
    }
}

fn file_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// Removes a file or a directory with all that is in it; there need not be one.
fn remove(path: &Path) -> Result<(), SecretError> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(SecretError::file("remove", path)),
    }
}
