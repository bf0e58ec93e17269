//! Network namespaces, kept alive by a mount.
//!
//! Owns the directory of namespaces: one file for each, named by the attachment, on which `/proc/…/ns/net` is mounted. Never
//! changes the namespace of a thread that lives on: every act is done by a thread of its own, which ends with it.
//!
//! The directory is a mount point with shared propagation, for the reason `ip netns` makes `/run/netns` one: a mount made here
//! has to be seen by processes in other mount namespaces, and an unmount has to reach them too, or a copy of the mount in some
//! sandboxed daemon would keep the namespace alive for ever.
//!
//! If our own mount namespace is a slave of the host's (see [`mounts::is_slave`]), nothing that we mount would ever be seen by
//! containerd. Then the mounts are made in the mount namespace of process 1, from where they propagate back to us.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{NSFS_MAGIC, statfs};
use tokio::sync::oneshot;

use crate::{Error, id, link, mounts};

/// The mount namespace of the host.
const HOST_MOUNTS: &str = "/proc/1/ns/mnt";
/// How many mounts may lie on each other on one file. One is normal; more come from a crash between two processes.
const MAX_STACKED: usize = 16;

/// What failed, and why.
type Step<T> = Result<T, (&'static str, io::Error)>;

/// The directory of namespaces. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Namespaces {
    dir: Arc<Path>,
    /// The mount namespace to mount in, if it is not our own.
    mounts: Option<Arc<Path>>,
}

impl Namespaces {
    /// Makes the directory and its mount, if they are not there.
    pub(crate) fn prepare(dir: &Path) -> Result<Self, Error> {
        Self::prepare_with(dir, Path::new(HOST_MOUNTS))
    }

    fn prepare_with(dir: &Path, host_mounts: &Path) -> Result<Self, Error> {
        let directory = |source| Error::Directory { path: dir.into(), source };
        fs::create_dir_all(dir).map_err(directory)?;
        let dir = dir.canonicalize().map_err(directory)?;
        let failed = |(step, source)| Error::Namespace { path: dir.clone(), step, source };

        let table = fs::read_to_string("/proc/thread-self/mountinfo")
            .map_err(|e| failed(("read the mount table", e)))?;
        let mounts = if mounts::is_slave(&table, &dir) && is_other_namespace(host_mounts) {
            Some(host_mounts.into())
        } else {
            None
        };
        let this = Self { dir: dir.as_path().into(), mounts };
        let shared = this.clone();
        let thread = thread::Builder::new()
            .name("netns".into())
            .spawn(move || shared.enter_mounts().and_then(|()| share(&shared.dir)))
            .map_err(|e| failed(("start a thread", e)))?;
        thread.join().unwrap_or_else(|_| Err(("prepare", io::ErrorKind::Other.into()))).map_err(failed)?;
        Ok(this)
    }

    /// Where the namespace of an attachment is, or would be.
    pub(crate) fn path(&self, id: &str) -> PathBuf {
        self.dir.join(id)
    }

    /// Is there a namespace? A bare file, as a reboot leaves it on a disk, is none.
    pub(crate) fn exists(&self, id: &str) -> bool {
        statfs(&self.path(id)).is_ok_and(|fs| fs.filesystem_type() == NSFS_MAGIC)
    }

    /// Makes the namespace of an attachment, with `lo` up.
    pub(crate) async fn create(&self, id: &str) -> Result<(), Error> {
        let path = self.path(id);
        self.on_own_thread(id, move |this| {
            this.enter_mounts()?;
            make(&path)
        })
        .await?;
        if self.exists(id) {
            return Ok(());
        }
        // Plugins run in our mount namespace, so this would fail on the first of them, less clearly.
        let source =
            io::Error::other("the mount was made but is not seen here: is the directory's mount private?");
        Err(Error::Namespace { path: self.path(id), step: "find the new namespace", source })
    }

    /// Removes the namespace of an attachment. There need not be one.
    pub(crate) async fn remove(&self, id: &str) -> Result<(), Error> {
        let path = self.path(id);
        self.on_own_thread(id, move |this| {
            this.enter_mounts()?;
            remove(&path)
        })
        .await
    }

    /// The names of all namespaces. What does not look like one of ours is not listed.
    pub(crate) fn list(&self) -> Result<Vec<String>, Error> {
        let failed = |source| Error::Directory { path: self.dir.to_path_buf(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            if let Ok(name) = entry.map_err(failed)?.file_name().into_string()
                && id::validate(&name).is_ok()
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Runs `act` on a thread that ends afterwards: what it does to its own namespaces is done to nobody else.
    async fn on_own_thread<T: Send + 'static>(
        &self,
        id: &str,
        act: impl FnOnce(&Self) -> Step<T> + Send + 'static,
    ) -> Result<T, Error> {
        let (done, result) = oneshot::channel();
        let this = self.clone();
        let started = thread::Builder::new().name("netns".into()).spawn(move || {
            // Nobody listens only if the whole runtime is going down.
            drop(done.send(act(&this)));
        });
        let outcome = match started {
            Ok(_) => result.await.unwrap_or_else(|_| Err(("run a thread", io::ErrorKind::Other.into()))),
            Err(e) => Err(("start a thread", e)),
        };
        outcome.map_err(|(step, source)| Error::Namespace { path: self.path(id), step, source })
    }

    /// Moves the calling thread into the mount namespace in which the mounts are made.
    fn enter_mounts(&self) -> Step<()> {
        let Some(path) = &self.mounts else { return Ok(()) };
        let step = "enter the host's mount namespace (this process is in a copy of it, from which containerd sees no mounts)";
        let namespace = File::open(path).map_err(|e| (step, e))?;
        // The kernel lets no thread go that shares its root and working directory with others.
        unshare(CloneFlags::CLONE_FS).map_err(|e| (step, e.into()))?;
        setns(namespace, CloneFlags::CLONE_NEWNS).map_err(|e| (step, e.into()))
    }
}

/// If it cannot be told, it is another one: entering it then says why not.
fn is_other_namespace(mounts: &Path) -> bool {
    let inode = |path: &Path| fs::metadata(path).map(|namespace| (namespace.dev(), namespace.ino()));
    match (inode(mounts), inode(Path::new("/proc/thread-self/ns/mnt"))) {
        (Ok(host), Ok(own)) => host != own,
        _ => true,
    }
}

/// Makes the directory a mount point of its own, with shared propagation.
fn share(dir: &Path) -> Step<()> {
    const NONE: Option<&str> = None;
    let shared = || mount(NONE, dir, NONE, MsFlags::MS_SHARED | MsFlags::MS_REC, NONE);
    match shared() {
        // It is no mount point yet.
        Err(Errno::EINVAL) => {
            mount(Some(dir), dir, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)
                .map_err(|e| ("make the directory a mount point", e.into()))?;
            shared()
        }
        done => done,
    }
    .map_err(|e| ("share the directory's mounts", e.into()))
}

/// Makes a namespace and mounts it on `path`. The calling thread is inside afterwards.
fn make(path: &Path) -> Step<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o444).open(path).map_err(|e| ("create", e))?;
    let made = fill(path);
    if made.is_err()
        && let Err((step, error)) = remove(path)
    {
        tracing::warn!(path = %path.display(), step, %error, "a network namespace that failed cannot be removed");
    }
    made
}

fn fill(path: &Path) -> Step<()> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|e| ("make the namespace", e.into()))?;
    link::set_up("lo").map_err(|e| ("set lo up", e))?;
    mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|e| ("mount", e.into()))
}

fn remove(path: &Path) -> Step<()> {
    for _ in 0..MAX_STACKED {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // No mount (any more), or nothing there at all.
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(e) => return Err(("unmount", e.into())),
        }
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(("remove", e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
