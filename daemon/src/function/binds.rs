//! The host's files as replicas are given them: `DIRECTORY/REPLICA/N`, a mount each of what was granted.
//!
//! Owns that directory, for nobody but root. Whoever may write where a granted path lies could put something else there
//! before the runtime mounts it by its name; here is mounted what the descriptor holds that was judged, and the runtime
//! is given a name that only we can change. Decides nothing: that is [`super::grants`]'.
//!
//! The mounts are made in our mount namespace, which containerd has to share, as for network namespaces.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use roost_proxy::function::ReplicaId;

use crate::function::grants::GrantedMount;
use crate::runtime::BindMount;

/// How many mounts may lie on each other. One is normal, and nobody but us can make more.
const MAX_STACKED: usize = 16;

/// What cannot be done with which mount.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {path}: {source}")]
pub struct BindError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl BindError {
    fn new<E: Into<io::Error>>(doing: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |why| Self { doing, path, source: why.into() }
    }
}

/// The mounts of all replicas. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Binds {
    dir: Arc<Path>,
}

impl Binds {
    /// Those in `<run>/mounts`, which is made if it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(run: &Path) -> Result<Self, BindError> {
        let dir = run.join("mounts");
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.and_then(|()| fs::set_permissions(&dir, Permissions::from_mode(0o700)))
            .map_err(BindError::new("make the directory", &dir))?;
        Ok(Self { dir: dir.into() })
    }

    /// Mounts what a replica was granted: what the runtime is to mount into it.
    ///
    /// # Errors
    /// When something cannot be mounted. What was mounted before is left for [`Binds::remove`].
    pub async fn make(
        &self,
        id: &ReplicaId,
        granted: Vec<GrantedMount>,
    ) -> Result<Vec<BindMount>, BindError> {
        if granted.is_empty() {
            return Ok(Vec::new());
        }
        let dir = self.dir.join(id.as_str());
        blocking(move || bind_all(&dir, granted)).await
    }

    /// Takes a replica's mounts away. All is well if it has none.
    ///
    /// # Errors
    /// When one stays; then it can be tried again.
    pub async fn remove(&self, id: &ReplicaId) -> Result<(), BindError> {
        let dir = self.dir.join(id.as_str());
        blocking(move || remove_all(&dir)).await
    }

    /// Takes away what earlier daemons left, except of the replicas in `keep`.
    ///
    /// # Errors
    /// When something stays.
    pub async fn collect(&self, keep: HashSet<String>) -> Result<(), BindError> {
        let dir = Arc::clone(&self.dir);
        blocking(move || collect_all(&dir, &keep)).await
    }
}

fn collect_all(dir: &Path, keep: &HashSet<String>) -> Result<(), BindError> {
    let kept =
        |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(|id| keep.contains(id));
    for replica in entries(dir)?.into_iter().filter(|path| !kept(path)) {
        for path in entries(&replica)? {
            match detach_from_source(&path) {
                // Nothing is mounted there.
                Ok(()) | Err(Errno::EINVAL) => {}
                // The daemon may have ended before it did so: unmounting would reach the source.
                Err(why) => return Err(BindError::new("make private", &path)(why)),
            }
        }
        remove_all(&replica)?;
    }
    Ok(())
}

fn bind_all(dir: &Path, granted: Vec<GrantedMount>) -> Result<Vec<BindMount>, BindError> {
    DirBuilder::new().mode(0o700).create(dir).map_err(BindError::new("make the directory", dir))?;
    let mut mounts = Vec::new();
    for (number, granted) in granted.into_iter().enumerate() {
        let source = dir.join(number.to_string());
        let failed = BindError::new("look at what is to be mounted on", &source);
        if granted.file.metadata().map_err(failed)?.is_dir() {
            DirBuilder::new().mode(0o700).create(&source)
        } else {
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&source).map(drop)
        }
        .map_err(BindError::new("make the place", &source))?;
        // This is the file that was opened, whatever its name stands for by now. Not with what is mounted below it.
        let held = format!("/proc/self/fd/{}", granted.file.as_raw_fd());
        mount(Some(held.as_str()), &source, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(BindError::new("mount on", &source))?;
        detach_from_source(&source).map_err(BindError::new("make private", &source))?;
        mounts.push(BindMount { source, target: granted.target, read_only: granted.read_only });
    }
    Ok(mounts)
}

/// What is mounted below the source from now on is not seen here; above all, what is unmounted here stays there.
fn detach_from_source(path: &Path) -> nix::Result<()> {
    const NONE: Option<&str> = None;
    mount(NONE, path, NONE, MsFlags::MS_PRIVATE | MsFlags::MS_REC, NONE)
}

/// Unmounts what is in a replica's directory and removes the empty places, never what was mounted on them.
fn remove_all(dir: &Path) -> Result<(), BindError> {
    for path in entries(dir)? {
        for _ in 0..MAX_STACKED {
            match umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                Ok(()) => {}
                // No mount, or none any more.
                Err(Errno::EINVAL | Errno::ENOENT) => break,
                Err(why) => return Err(BindError::new("unmount", &path)(why)),
            }
        }
        let removed = match fs::remove_file(&path) {
            Err(why) if why.kind() == ErrorKind::IsADirectory => fs::remove_dir(&path),
            removed => removed,
        };
        absent_is_fine(removed).map_err(BindError::new("remove", &path))?;
    }
    absent_is_fine(fs::remove_dir(dir)).map_err(BindError::new("remove", dir))
}

/// What is in a directory; nothing if there is none.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, BindError> {
    match fs::read_dir(dir) {
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect()),
    }
    .map_err(BindError::new("list", dir))
}

fn absent_is_fine(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Runs a call off the async workers.
async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    // A task that nobody aborts can only fail by a panic, which goes on here.
    let done = tokio::task::spawn_blocking(call).await;
    done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

#[cfg(test)]
mod tests;
