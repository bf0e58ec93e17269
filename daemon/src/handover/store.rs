//! What outlives this daemon, in the descriptor store of whoever started it.
//!
//! Owns the words of systemd's descriptor store, `FDSTORE=1` and `FDSTOREREMOVE=1`, which our own
//! [supervisor](crate::supervise) understands, too; and the [queues](super::queue) in it. systemd compares each descriptor
//! that it is given with each that it has, so it gets no more than two for a queue, and is asked once for many tunnels.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use roost_proxy::websocket::{LETTER_NAME, MAX_LEFT};
use roost_proxy::{DescriptorStore, MAX_KEPT, MEMORY_NAME, Named, Storing};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::Mutex;
use tracing::warn;

use super::queue::{Found, PLACES, Queue};

/// What goes to the store at most: the ends of all queues, and a few that there is one of.
pub const DESCRIPTORS: usize = 2 * (MAX_KEPT + MAX_LEFT).div_ceil(PLACES) + 16;

/// Is this the name of something that lies in the store itself?
fn is_single(name: &str) -> bool {
    name == MEMORY_NAME || name == LETTER_NAME
}

/// Is this the name of a queue?
pub(super) fn is_queue(name: &str) -> bool {
    number(name).is_some()
}

fn queue_name(number: usize) -> String {
    format!("q{number}")
}

fn number(name: &str) -> Option<usize> {
    let number = name.strip_prefix('q')?.parse().ok()?;
    (queue_name(number) == name).then_some(number)
}

/// The store, and what lies in it.
pub(super) struct Store {
    starter: Starter,
    shelves: Mutex<Shelves>,
}

#[derive(Debug, Default)]
struct Shelves {
    queues: BTreeMap<usize, Queue>,
    /// In which queue it is, by which stamp.
    by_name: HashMap<String, (usize, u64)>,
    stamp: u64,
}

impl Store {
    /// The store behind this socket, with these queues of an earlier daemon; and what is in them, by its names.
    pub(super) async fn open(path: &Path, queues: Vec<Named>) -> io::Result<(Self, Vec<Named>)> {
        let starter = Starter::open(path)?;
        let mut ends: BTreeMap<String, Vec<OwnedFd>> = BTreeMap::new();
        for (name, end) in queues {
            ends.entry(name).or_default().push(end);
        }
        let (mut shelves, mut all) = (Shelves::default(), Vec::new());
        for (name, ends) in ends {
            match (number(&name), Queue::inherit(ends)) {
                (Some(number), Ok((queue, found))) => {
                    shelves.queues.insert(number, queue);
                    all.extend(found.into_iter().map(|found| (number, found)));
                }
                (_, error) => {
                    warn!("connections of an earlier daemon are lost with {name}: {:?}", error.err());
                    starter.remove(&name).await?;
                }
            }
        }
        let named = shelves.sort_out(all)?;
        Ok((Self { starter, shelves: Mutex::new(shelves) }, named))
    }

    /// What is not in a queue.
    pub(super) fn starter(&self) -> &Starter {
        &self.starter
    }
}

impl DescriptorStore for Store {
    fn put<'a>(&'a self, name: &'a str, descriptors: &'a [BorrowedFd<'a>]) -> Storing<'a> {
        Box::pin(async move {
            if is_single(name) {
                return self.starter.put(name, descriptors).await;
            }
            let mut shelves = self.shelves.lock().await;
            let number = match shelves.with_room() {
                Some(number) => number,
                None => {
                    let (number, queue) = (shelves.next(), Queue::new()?);
                    self.starter.put(&queue_name(number), &queue.ends()).await?;
                    shelves.queues.insert(number, queue);
                    number
                }
            };
            shelves.put(number, name, descriptors)
        })
    }

    fn remove<'a>(&'a self, name: &'a str) -> Storing<'a> {
        Box::pin(async move {
            if is_single(name) {
                return self.starter.remove(name).await;
            }
            self.shelves.lock().await.remove(name)
        })
    }
}

impl Shelves {
    fn with_room(&self) -> Option<usize> {
        self.queues.iter().find(|(_, queue)| queue.has_room()).map(|(number, _)| *number)
    }

    fn next(&self) -> usize {
        self.queues.last_key_value().map_or(0, |(number, _)| number + 1)
    }

    fn put(&mut self, number: usize, name: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.stamp += 1;
        let queue = self.queues.get_mut(&number).ok_or(io::ErrorKind::NotFound)?;
        queue.push(self.stamp, name, descriptors)?;
        match self.by_name.insert(name.to_owned(), (number, self.stamp)) {
            Some(earlier) => self.bury(earlier),
            None => Ok(()),
        }
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.by_name.remove(name).map_or(Ok(()), |place| self.bury(place))
    }

    fn bury(&mut self, (number, stamp): (usize, u64)) -> io::Result<()> {
        self.queues.get_mut(&number).map_or(Ok(()), |queue| queue.remove(stamp))
    }

    /// Of those that have one name, all but the last were removed, and not yet taken out.
    fn sort_out(&mut self, mut all: Vec<(usize, Found)>) -> io::Result<Vec<Named>> {
        all.sort_by_key(|(_, found)| found.stamp);
        let mut latest: HashMap<String, Vec<OwnedFd>> = HashMap::new();
        for (number, Found { stamp, name, descriptors }) in all {
            self.stamp = stamp;
            if let Some(earlier) = self.by_name.insert(name.clone(), (number, stamp)) {
                self.bury(earlier)?;
            }
            latest.insert(name, descriptors);
        }
        let named = |(name, descriptors): (String, Vec<OwnedFd>)| {
            descriptors.into_iter().map(move |descriptor| (name.clone(), descriptor))
        };
        Ok(latest.into_iter().flat_map(named).collect())
    }
}

/// Whoever started us.
pub(super) struct Starter(UnixDatagram);

impl Starter {
    fn open(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        Ok(Self(socket))
    }

    async fn put(&self, name: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        // Without FDPOLL=0 a connection that breaks would be taken out behind our back.
        self.send(&format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}\n"), descriptors).await
    }

    /// Lets go of all that has this name.
    pub(super) async fn remove(&self, name: &str) -> io::Result<()> {
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}\n"), &[]).await
    }

    /// Sends one message, waiting for as long as the receiver has too many that it has not read.
    async fn send(&self, text: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let descriptors: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let rights = if descriptors.is_empty() { &[][..] } else { &rights[..] };
        let once = || {
            let (bytes, flags) =
                ([IoSlice::new(text.as_bytes())], MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
            sendmsg::<()>(self.0.as_fd().as_raw_fd(), &bytes, rights, flags, None).map_err(io::Error::from)
        };
        let sent = self.0.async_io(Interest::WRITABLE, once).await?;
        if sent == text.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::supervise::shelf::Shelf;

    /// Whatever was sent is on the shelf.
    fn taken(shelf: &mut Shelf, receiver: &std::os::unix::net::UnixDatagram) {
        receiver.set_nonblocking(true).unwrap();
        while shelf.take(receiver).is_ok() {}
    }

    fn inherited(shelf: &Shelf) -> Vec<Named> {
        shelf.all().map(|(name, one)| (name.to_owned(), one.try_clone_to_owned().unwrap())).collect()
    }

    #[tokio::test]
    async fn many_are_kept_in_few_and_the_next_finds_each_by_its_name_and_removes_them_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let receiver = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let mut shelf = Shelf::new(DESCRIPTORS);
        let (store, found) = Store::open(&path, Vec::new()).await.unwrap();
        assert!(found.is_empty());
        let mut here = Vec::new();
        for number in 0..300 {
            let (one, other) = UnixStream::pair().unwrap();
            store.put(&format!("t{number:x}"), &[other.as_fd(), other.as_fd()]).await.unwrap();
            here.push(one);
        }
        store.remove("t0").await.unwrap();
        let (again, other) = UnixStream::pair().unwrap();
        store.put("t0", &[other.as_fd()]).await.unwrap();
        drop(other);
        store.remove("t1").await.unwrap();
        taken(&mut shelf, &receiver);
        assert_eq!(shelf.all().count(), 6, "two for each queue");
        drop(store);

        let (store, mut found) = Store::open(&path, inherited(&shelf)).await.unwrap();
        // What was removed is there yet, among so many that were not.
        assert_eq!(found.len(), 2 * 299 + 1);
        let place = found.iter().position(|(name, _)| name == "t0").unwrap();
        let mut byte = [0];
        (&again).write_all(b"x").unwrap();
        UnixStream::from(found.swap_remove(place).1).read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x", "of two it is the one that was put there last");
        drop(found);
        for number in 0..300 {
            store.remove(&format!("t{number:x}")).await.unwrap();
        }
        assert!(here.iter().chain([&again]).all(|mut one| one.write_all(b"x").is_err()), "none is held");
    }
}
