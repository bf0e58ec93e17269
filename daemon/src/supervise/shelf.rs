//! The descriptor store of the supervisor, which understands what systemd's does of the daemon.
//!
//! Owns the descriptors. A message that it does not understand is none of its business.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// The longest message.
const MESSAGE: usize = 4096;

/// The most descriptors in one message. The daemon sends two.
const DESCRIPTORS: usize = 16;

/// Named descriptors, up to so many.
#[derive(Debug)]
pub(crate) struct Shelf {
    limit: usize,
    count: usize,
    by_name: HashMap<String, Vec<OwnedFd>>,
}

impl Shelf {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, count: 0, by_name: HashMap::new() }
    }

    /// Takes the next message from `socket`.
    ///
    /// # Errors
    /// When there is none, if the socket does not wait.
    pub(crate) fn take(&mut self, socket: &UnixDatagram) -> io::Result<()> {
        let mut bytes = [0; MESSAGE];
        let mut space = cmsg_space!([RawFd; DESCRIPTORS]);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
        let length = message.bytes;
        let mut descriptors = Vec::new();
        for rights in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(numbers) = rights {
                // SAFETY: the kernel has just opened them for us, and nobody else knows their numbers.
                descriptors.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
            }
        }
        self.heed(&String::from_utf8_lossy(&bytes[..length]), descriptors);
        Ok(())
    }

    fn heed(&mut self, message: &str, descriptors: Vec<OwnedFd>) {
        let said = |text| message.lines().any(|line| line == text);
        let Some(name) = message.lines().find_map(|line| line.strip_prefix("FDNAME=")) else { return };
        if said("FDSTOREREMOVE=1") {
            self.count -= self.by_name.remove(name).map_or(0, |gone| gone.len());
        } else if said("FDSTORE=1") && is_name(name) {
            let room = self.limit - self.count;
            let taken: Vec<_> = descriptors.into_iter().take(room).collect();
            self.count += taken.len();
            self.by_name.entry(name.to_owned()).or_default().extend(taken);
        }
    }

    /// All of them, those of one name together.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        self.by_name.iter().flat_map(|(name, all)| all.iter().map(|one| (name.as_str(), one.as_fd())))
    }
}

/// Can it stand in a list of names between colons?
fn is_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')
}
