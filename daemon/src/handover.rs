//! What this daemon leaves to the next one, and what it got from the last: descriptors that somebody else keeps.
//!
//! Owns the words of systemd's descriptor store, `FDSTORE=1` and `FDSTOREREMOVE=1`, which our own
//! [supervisor](crate::supervise) understands, too. Never looks into a tunnel: the proxy does.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use roost_proxy::{DescriptorStore, Inherited, Keep, MEMORY_NAME, Named, Storing};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tracing::{info, warn};

/// Keeps tunnels in whatever started this daemon, up to `capacity` of them, and takes over those of an earlier daemon.
/// `None` where nothing is kept: their connections end with the daemon, with a word.
pub async fn keep(capacity: usize, kept: Vec<Named>) -> Option<(Arc<Keep>, Option<Inherited>)> {
    let path = std::env::var_os("NOTIFY_SOCKET")?;
    if capacity == 0 && kept.is_empty() {
        return None;
    }
    match begin(Path::new(&path), capacity, kept).await {
        Ok(begun) => Some(begun),
        Err(error) => {
            warn!("connections do not outlive this daemon: {error}");
            None
        }
    }
}

async fn begin(
    path: &Path,
    capacity: usize,
    mut kept: Vec<Named>,
) -> io::Result<(Arc<Keep>, Option<Inherited>)> {
    let store = Arc::new(Store::open(path)?);
    let memory = kept.iter().position(|(name, _)| name == MEMORY_NAME);
    if let Some((_, memory)) = memory.map(|index| kept.swap_remove(index)) {
        let names: Vec<String> = kept.iter().map(|(name, _)| name.clone()).collect();
        match Keep::inherit(memory, kept, capacity, Arc::<Store>::clone(&store)) {
            Ok((keep, inherited)) => {
                info!("{} connections of an earlier daemon go on", inherited.len());
                return Ok((keep, Some(inherited)));
            }
            Err(why) => {
                warn!("{} descriptors of an earlier daemon's connections are dropped: {why}", names.len());
                for name in names {
                    store.remove(&name).await?;
                }
                store.remove(MEMORY_NAME).await?;
            }
        }
    }
    let keep = Keep::new(capacity, Arc::<Store>::clone(&store))?;
    store.put(MEMORY_NAME, &[keep.memory()]).await?;
    Ok((keep, None))
}

/// The descriptor store of whoever started us.
struct Store(UnixDatagram);

impl Store {
    fn open(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        Ok(Self(socket))
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

impl DescriptorStore for Store {
    fn put<'a>(&'a self, name: &'a str, descriptors: &'a [BorrowedFd<'a>]) -> Storing<'a> {
        Box::pin(async move {
            // Without FDPOLL=0 a connection that breaks would be taken out behind our back.
            self.send(&format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}\n"), descriptors).await
        })
    }

    fn remove<'a>(&'a self, name: &'a str) -> Storing<'a> {
        Box::pin(async move { self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}\n"), &[]).await })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::supervise::shelf::Shelf;

    #[tokio::test]
    async fn what_is_put_is_kept_until_it_is_removed_and_told_apart_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let receiver = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let mut shelf = Shelf::new(3);
        let store = Store::open(&path).unwrap();
        let (mut here, there) = UnixStream::pair().unwrap();
        let (_a, b) = UnixStream::pair().unwrap();
        store.put("t1", &[there.as_fd(), b.as_fd()]).await.unwrap();
        store.put("t2", &[b.as_fd(), b.as_fd()]).await.unwrap();
        store.send("READY=1\n", &[]).await.unwrap();
        for _ in 0..3 {
            shelf.take(&receiver).unwrap();
        }
        let names: Vec<_> = shelf.all().map(|(name, _)| name.to_owned()).collect();
        assert_eq!((names.len(), names.iter().filter(|name| *name == "t1").count()), (3, 2), "one too many");
        drop(there);
        here.write_all(b"x").unwrap();
        let copy = shelf.all().find(|(name, _)| *name == "t1").unwrap().1.try_clone_to_owned().unwrap();
        let mut byte = [0];
        UnixStream::from(copy).read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x", "it is the one that was put there first");
        store.remove("t1").await.unwrap();
        shelf.take(&receiver).unwrap();
        assert_eq!(shelf.all().count(), 1);
        assert!(here.write_all(b"x").is_err(), "the last copy is gone");
    }
}
