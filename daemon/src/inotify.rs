//! Changes of files, told by the kernel and awaited.
//!
//! Owns the descriptor and how it is read. What is watched, and what an event means, is its user's.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::errno::Errno;
use nix::sys::inotify::{InitFlags, Inotify, InotifyEvent};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An inotify instance whose events can be awaited.
#[derive(Debug)]
pub struct Events(AsyncFd<Descriptor>);

#[derive(Debug)]
struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Events {
    /// A new instance that watches nothing yet.
    ///
    /// # Errors
    /// When this user has no more instances (`fs.inotify.max_user_instances`).
    pub fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        // SAFETY: the descriptor is open, it belongs to `Descriptor`, which never gives it away or exchanges it, and closes it
        // when the `AsyncFd` that holds it is dropped.
        let inotify = unsafe { AsyncFd::register_with_interest(Descriptor(inotify), Interest::READABLE) }?;
        Ok(Self(inotify))
    }

    /// The instance, to add watches to and to take them from.
    #[must_use]
    pub fn inotify(&self) -> &Inotify {
        &self.0.get_ref().0
    }

    /// Waits for events. Cancel safe. For one reader.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub async fn next(&self) -> io::Result<Vec<InotifyEvent>> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.get_inner().0.read_events() {
                Ok(events) => return Ok(events),
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
