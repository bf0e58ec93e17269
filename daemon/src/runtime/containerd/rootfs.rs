//! Reads small files out of an image's unpacked file system, before anything of it runs.
//!
//! The snapshot is mounted in a mount namespace of a thread that ends right after: nobody else sees the mount, and
//! not even a crash leaves it behind. Paths are resolved as if the image were the root, so that a link in it
//! reaches nothing of the host.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;

use containerd_client::types::Mount;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::unistd::chdir;
use tokio::sync::oneshot;

/// Where the thread mounts, for itself alone. Every host has it.
const MOUNT_POINT: &str = "/tmp";

/// A file beyond this is not read to its end: an image could bring anything.
const MAX_FILE: u64 = 1 << 20;

/// The texts of `files` (absolute paths inside) in the file system that `mounts` make. One that is not there,
/// or is no file, is an empty text.
pub(super) async fn read(mounts: Vec<Mount>, files: &'static [&'static str]) -> io::Result<Vec<String>> {
    let (done, result) = oneshot::channel();
    // A thread of its own: the namespace must never be one of a worker of the runtime.
    thread::Builder::new().name("rootfs".to_owned()).spawn(move || {
        let texts = mount_all(&mounts)
            .and_then(|root| files.iter().map(|file| text(&root, file)).collect::<io::Result<Vec<_>>>());
        // Nobody waits any more when the start was given up.
        done.send(texts).ok();
    })?;
    result.await.map_err(|_| io::Error::other("the reading thread ended without a result"))?
}

fn mount_all(mounts: &[Mount]) -> io::Result<OwnedFd> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    // What is mounted from here on must not appear in the host's namespace.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    for one in mounts {
        let (flags, data) = options(&one.options);
        let (dir, data) = shortened(&data);
        // Options name layers from here; the thread has a working directory of its own since `unshare`.
        chdir(&dir)?;
        let target = Path::new(MOUNT_POINT).join(one.target.trim_start_matches('/'));
        mount(Some(one.source.as_str()), &target, Some(one.r#type.as_str()), flags, Some(data.as_str()))?;
    }
    Ok(open(MOUNT_POINT, OFlag::O_DIRECTORY | OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// Splits options into the kernel's flags and what the file system reads itself.
fn options(options: &[String]) -> (MsFlags, String) {
    let mut flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let mut data = Vec::new();
    for option in options {
        match option.as_str() {
            "ro" | "rw" => {}
            "bind" => flags |= MsFlags::MS_BIND,
            "rbind" => flags |= MsFlags::MS_BIND | MsFlags::MS_REC,
            other => data.push(other),
        }
    }
    (flags, data.join(","))
}

/// Makes the layers of an overlay relative to the directory that they share: all options together have to fit
/// into one page, and an image may have a hundred layers.
fn shortened(data: &str) -> (PathBuf, String) {
    const LAYERS: &str = "lowerdir=";
    let root = || (PathBuf::from("/"), data.to_owned());
    let Some(layers) = data.split(',').find_map(|option| option.strip_prefix(LAYERS)) else { return root() };
    let shared = layers
        .split(':')
        .map(|layer| Path::new(layer).parent().unwrap_or(Path::new("/")))
        .reduce(common)
        .filter(|dir| dir.is_absolute());
    let Some(dir) = shared else { return root() };
    let relative: Option<Vec<&str>> =
        layers.split(':').map(|layer| Path::new(layer).strip_prefix(dir).ok()?.to_str()).collect();
    match relative {
        Some(relative) => {
            let from = format!("{LAYERS}{layers}");
            (dir.to_owned(), data.replacen(&from, &format!("{LAYERS}{}", relative.join(":")), 1))
        }
        None => root(),
    }
}

fn common<'a>(one: &'a Path, other: &Path) -> &'a Path {
    one.ancestors().find(|ancestor| other.starts_with(ancestor)).unwrap_or(Path::new("/"))
}

fn text(root: &OwnedFd, path: &str) -> io::Result<String> {
    // Not blocking: an image may put a pipe there, on which an ordinary open would wait for ever.
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = match openat2(root, path, how) {
        Ok(fd) => File::from(fd),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENXIO) => return Ok(String::new()),
        Err(error) => return Err(error.into()),
    };
    if !file.metadata()?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_told_from_what_the_file_system_reads() {
        let words = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        let (flags, data) = options(&words("ro,rbind"));
        assert!(flags.contains(MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_RDONLY));
        assert_eq!(data, "");
        let (flags, data) = options(&words("index=off,lowerdir=/a:/b"));
        assert!(!flags.contains(MsFlags::MS_BIND));
        assert_eq!(data, "index=off,lowerdir=/a:/b");
    }

    #[test]
    fn layers_are_named_from_the_directory_that_they_share() {
        for (data, dir, shorter) in [
            ("lowerdir=/s/12/fs:/s/7/fs:/s/1/fs", "/s", "lowerdir=12/fs:7/fs:1/fs"),
            (
                "index=off,lowerdir=/s/1/fs:/s/10/fs,userxattr",
                "/s",
                "index=off,lowerdir=1/fs:10/fs,userxattr",
            ),
            ("lowerdir=/a/fs:/b/fs", "/", "lowerdir=a/fs:b/fs"),
            ("lowerdir=a:/b", "/", "lowerdir=a:/b"),
            ("size=1", "/", "size=1"),
            ("", "/", ""),
        ] {
            assert_eq!(shortened(data), (PathBuf::from(dir), shorter.to_owned()), "{data}");
        }
    }
}
