//! Descriptors that lie in a socket which nobody reads.
//!
//! Owns a pair of connected sockets. What is sent into one end lies with the kernel until it is received from the other,
//! and whoever keeps both ends keeps all of it: so a store that is slow with many descriptors has two of each queue. A
//! descriptor in the middle cannot be taken out; it stays as a dead one until there are more of those than of others.
//!
//! ```text
//!   push ──► │ 7 │ 5 dead │ 4 │ 3 dead │ ──► sweep: 3 is taken out; a copy of 4 is put in behind, then it is taken out; …
//! ```
//!
//! A process that is killed in the midst of that leaves each descriptor in it once or twice, and twice is as good as once.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::libc::{self, c_int};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    setsockopt, socketpair, sockopt,
};

/// The most that are in one queue, the dead among them.
pub(super) const PLACES: usize = 128;

/// The most descriptors of one place.
const DESCRIPTORS: usize = 2;

/// What the kernel may take for what lies in a queue; a place takes less than 1 KiB of it.
const SPACE: usize = 2 * PLACES * 1024;

/// The length of a name, and of what is sent with descriptors: how many they are, their stamp and their name.
const NAME: usize = 15;
const RECORD: usize = 1 + 8 + NAME;

/// Descriptors with their name. Of two of the same name, the one with the higher stamp counts.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) stamp: u64,
    pub(super) name: String,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// A queue of this process, which others keep the ends of.
#[derive(Debug)]
pub(super) struct Queue {
    into: OwnedFd,
    out: OwnedFd,
    /// The stamps of what is in it, with those that are dead as `None`.
    places: VecDeque<Option<u64>>,
    alive: usize,
}

impl Queue {
    pub(super) fn new() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (into, out) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
        setsockopt(&into, sockopt::SndBuf, &SPACE)?;
        Ok(Self { into, out, places: VecDeque::new(), alive: 0 })
    }

    /// The queue of an earlier process, and all that is in it.
    ///
    /// # Errors
    /// When these are not the ends of a queue.
    pub(super) fn inherit(ends: Vec<OwnedFd>) -> io::Result<(Self, Vec<Found>)> {
        let [one, other]: [OwnedFd; 2] = ends
            .try_into()
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a queue has two ends"))?;
        // An end of which something can be received is that.
        let (into, out) = if unread(&one)? > 0 { (other, one) } else { (one, other) };
        let count = unread(&out)? / RECORD;
        let mut queue = Self { into, out, places: VecDeque::from(vec![None; count]), alive: 0 };
        let mut all: Vec<Found> = Vec::new();
        for _ in 0..count {
            let found = queue.first()?;
            if !all.iter().any(|other| other.stamp == found.stamp) {
                queue.send_again(&found)?;
                all.push(found);
            }
            queue.take_first()?;
        }
        Ok((queue, all))
    }

    /// Both ends: what has to be kept.
    pub(super) fn ends(&self) -> [BorrowedFd<'_>; 2] {
        [self.into.as_fd(), self.out.as_fd()]
    }

    pub(super) fn has_room(&self) -> bool {
        self.alive < PLACES
    }

    /// Puts descriptors in. There has to be room.
    ///
    /// # Errors
    /// When the name is too long, or they are too many; or the kernel does not take them.
    pub(super) fn push(&mut self, stamp: u64, name: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if self.places.len() >= PLACES {
            self.sweep()?;
        }
        self.send(stamp, name, descriptors)
    }

    fn send(&mut self, stamp: u64, name: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if name.len() > NAME || !(1..=DESCRIPTORS).contains(&descriptors.len()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "more than has a place"));
        }
        let mut record = [0; RECORD];
        record[0] = descriptors.len() as u8;
        record[1..9].copy_from_slice(&stamp.to_be_bytes());
        record[9..9 + name.len()].copy_from_slice(name.as_bytes());
        let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let rights = [ControlMessage::ScmRights(&numbers)];
        let sent = sendmsg::<()>(self.into.as_raw_fd(), &[IoSlice::new(&record)], &rights, flags, None)?;
        if sent != RECORD {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.places.push_back(Some(stamp));
        self.alive += 1;
        Ok(())
    }

    /// A copy of what was in front, behind all others.
    fn send_again(&mut self, first: &Found) -> io::Result<()> {
        let descriptors: Vec<_> = first.descriptors.iter().map(AsFd::as_fd).collect();
        self.send(first.stamp, &first.name, &descriptors)
    }

    /// What has this stamp is dead.
    ///
    /// # Errors
    /// When what is dead cannot be taken out. It stays in.
    pub(super) fn remove(&mut self, stamp: u64) -> io::Result<()> {
        if let Some(place) = self.places.iter_mut().find(|place| **place == Some(stamp)) {
            *place = None;
            self.alive -= 1;
        }
        if self.places.len() - self.alive > self.alive { self.sweep() } else { Ok(()) }
    }

    /// Takes out what is dead.
    fn sweep(&mut self) -> io::Result<()> {
        for _ in 0..self.places.len() {
            if self.places.front().is_some_and(Option::is_some) {
                let first = self.first()?;
                self.send_again(&first)?;
            }
            self.take_first()?;
        }
        Ok(())
    }

    /// A copy of what is in front.
    fn first(&self) -> io::Result<Found> {
        let mut record = [0; RECORD];
        let mut space = cmsg_space!([RawFd; DESCRIPTORS]);
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let mut parts = [IoSliceMut::new(&mut record)];
        let message = recvmsg::<()>(self.out.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
        let length = message.bytes;
        let mut descriptors = Vec::new();
        for rights in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(numbers) = rights {
                // SAFETY: the kernel has just opened them for us, and nobody else knows their numbers.
                descriptors.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
            }
        }
        if length != RECORD || descriptors.len() != usize::from(record[0]) {
            // So it is, too, when there are no descriptors left to be had.
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not all of it is received"));
        }
        let stamp = record[1..9].try_into().map_or(0, u64::from_be_bytes);
        let name = record[9..].split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(Found { stamp, name: String::from_utf8_lossy(name).into_owned(), descriptors })
    }

    /// Takes out what is in front. The kernel closes its descriptors when there is no place for them.
    fn take_first(&mut self) -> io::Result<()> {
        let mut record = [0; RECORD];
        if nix::unistd::read(&self.out, &mut record)? != RECORD {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.places.pop_front().flatten().is_some() {
            self.alive -= 1;
        }
        Ok(())
    }
}

/// How many bytes can be received.
fn unread(end: &OwnedFd) -> io::Result<usize> {
    let mut count: c_int = 0;
    // SAFETY: the request writes one int, to where `count` is.
    if unsafe { libc::ioctl(end.as_raw_fd(), libc::FIONREAD, &raw mut count) } != 0 {
        return Err(io::Error::last_os_error());
    }
    usize::try_from(count).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A connection whose one end lies in the queue, under this name.
    fn put(queue: &mut Queue, stamp: u64, name: &str) -> UnixStream {
        let (here, there) = UnixStream::pair().unwrap();
        queue.push(stamp, name, &[there.as_fd()]).unwrap();
        here
    }

    fn inherit(queue: &Queue) -> (Queue, Vec<Found>) {
        // In either order: the store does not tell.
        let [one, other] = queue.ends().map(|end| end.try_clone_to_owned().unwrap());
        Queue::inherit(vec![other, one]).unwrap()
    }

    fn names(found: &[Found]) -> Vec<&str> {
        let mut names: Vec<&str> = found.iter().map(|found| &*found.name).collect();
        names.sort_unstable();
        names
    }

    fn is_open(mut here: &UnixStream) -> bool {
        here.write_all(b"x").is_ok()
    }

    #[test]
    fn what_is_put_in_is_found_by_whoever_comes_next_and_by_the_one_after_that() {
        let mut queue = Queue::new().unwrap();
        let mut here = put(&mut queue, 1, "t1");
        let _other = put(&mut queue, 2, "t1fff");
        let (second, found) = inherit(&queue);
        drop((queue, found));
        let (_third, mut found) = inherit(&second);
        assert_eq!(names(&found), ["t1", "t1fff"]);
        let one = found.iter_mut().position(|found| found.name == "t1").unwrap();
        let there = found.swap_remove(one).descriptors.swap_remove(0);
        here.write_all(b"x").unwrap();
        let mut byte = [0];
        UnixStream::from(there).read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn what_is_removed_is_closed_once_there_is_more_of_it_than_of_the_rest() {
        let mut queue = Queue::new().unwrap();
        let here: Vec<UnixStream> =
            (0..8).map(|stamp| put(&mut queue, stamp, &format!("t{stamp}"))).collect();
        let open = || here.iter().map(is_open).collect::<Vec<_>>();
        for stamp in [1, 3, 5, 7] {
            queue.remove(stamp).unwrap();
        }
        assert_eq!(open(), [true; 8]);
        queue.remove(0).unwrap();
        assert_eq!(open(), [false, false, true, false, true, false, true, false]);
        queue.remove(9).unwrap();
        assert_eq!(names(&inherit(&queue).1), ["t2", "t4", "t6"]);
    }

    #[test]
    fn a_full_one_takes_no_more_and_one_full_of_dead_ones_does() {
        let mut queue = Queue::new().unwrap();
        let here: Vec<UnixStream> = (0..PLACES as u64).map(|stamp| put(&mut queue, stamp, "t")).collect();
        assert!(!queue.has_room());
        queue.remove(0).unwrap();
        assert!(queue.has_room() && is_open(&here[0]));
        let _one_more = put(&mut queue, 1000, "t");
        assert!(!queue.has_room() && !is_open(&here[0]) && here[1..].iter().all(is_open));
    }

    #[test]
    fn one_that_was_in_it_twice_as_its_process_was_killed_is_found_once() {
        let mut queue = Queue::new().unwrap();
        let here = [put(&mut queue, 1, "t1"), put(&mut queue, 2, "t2")];
        // Killed between the two halves of a step.
        let first = queue.first().unwrap();
        queue.send_again(&first).unwrap();
        drop(first);
        let (mut second, found) = inherit(&queue);
        assert_eq!(names(&found), ["t1", "t2"]);
        drop((queue, found));
        second.remove(1).unwrap();
        second.remove(2).unwrap();
        assert!(!here.iter().any(is_open), "no copy is left");
    }

    #[test]
    fn what_is_no_queue_is_refused() {
        let pair = || UnixStream::pair().unwrap();
        let (one, mut other) = pair();
        assert!(Queue::inherit(vec![one.try_clone().unwrap().into()]).is_err());
        other.write_all(&[7; RECORD]).unwrap();
        assert!(Queue::inherit(vec![one.into(), other.into()]).is_err(), "no descriptors with it");
        let mut queue = Queue::new().unwrap();
        let (one, _other) = pair();
        assert!(queue.push(1, "a name that is too long", &[one.as_fd()]).is_err());
        assert!(queue.push(1, "t1", &[]).is_err());
    }
}
