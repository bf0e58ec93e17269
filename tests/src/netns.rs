//! A network of a test's own: a namespace that processes and sockets can be in, and a door into it.
//!
//! Neither has a name that somebody else could have, and both are gone with the test, however that ends: a namespace is held by
//! the files that are open on it and by the processes that are in it, and by nothing else.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns, unshare};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::process::run;

/// A network namespace. Copies of it are the same one.
#[derive(Debug, Clone)]
pub struct Netns(Arc<File>);

impl Netns {
    /// One that has nothing but loopback.
    ///
    /// # Panics
    /// When there cannot be one: only root makes them.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Self {
        // It would end with the thread that made it.
        let made = on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let network = Self(Arc::new(made));
        network.ip(["link", "set", "lo", "up"]);
        network
    }

    /// Does `work` in it: the sockets that it makes and the processes that it starts are and stay inside.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        on_a_thread(|| {
            setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }

    /// Runs `ip` in it, which has to succeed.
    pub(crate) fn ip<const N: usize>(&self, args: [&str; N]) {
        self.inside(|| run("ip", args)).unwrap();
    }

    /// A path by which `ip` finds it, while this process has it.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// The numbers of the processes that are in it.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let id = |file: std::io::Result<fs::Metadata>| file.ok().map(|file| (file.dev(), file.ino()));
        let own = id(self.0.metadata());
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let numbers = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
        numbers.filter(|pid: &i32| id(fs::metadata(format!("/proc/{pid}/ns/net"))) == own).collect()
    }
}

/// Does `work` in the namespace, or here if there is none.
pub(crate) fn inside<T: Send>(network: Option<&Netns>, work: impl FnOnce() -> T + Send) -> T {
    match network {
        Some(network) => network.inside(work),
        None => work(),
    }
}

/// A thread of its own is in a namespace; the test's never is.
fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join()).unwrap()
}

/// Who connects to a port of the test's loopback is connected to an address in a namespace, until this is dropped.
///
/// It has a thread of its own: a test's runtime may stand still while the test ends.
#[derive(Debug)]
pub(crate) struct Door {
    close: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    pub(crate) fn open(port: u16, network: &Netns, to: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (close, closed) = oneshot::channel();
        let network = network.clone();
        let thread = thread::spawn(move || {
            setns(&network.0, CloneFlags::CLONE_NEWNET).unwrap();
            // Of one thread: whoever connects does it from here.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = lead(listener, to) => {}
                    _ = closed => {}
                }
            });
        });
        Self { close: Some(close), thread: Some(thread) }
    }
}

async fn lead(listener: TcpListener, to: SocketAddr) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let (mut outside, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            // Who comes while nobody listens sees the end of the connection, and so does who has it when the other side breaks.
            if let Ok(mut inside) = TcpStream::connect(to).await {
                inside.set_nodelay(true).and_then(|()| outside.set_nodelay(true)).ok();
                copy_bidirectional(&mut outside, &mut inside).await.ok();
            }
        });
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        drop(self.close.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("a door into a namespace broke");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::ports::free_port;

    #[test]
    fn a_namespace_has_its_own_ports_and_a_door_leads_to_them() {
        let (one, other, port) = (Netns::new(), Netns::new(), free_port());
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let doors: Vec<_> = [&one, &other]
            .into_iter()
            .zip(["one", "other"])
            .map(|(network, name)| {
                let listener = network.inside(|| TcpListener::bind(at)).unwrap();
                thread::spawn(move || listener.accept().unwrap().0.write_all(name.as_bytes()).unwrap());
                let outside = free_port();
                (outside, Door::open(outside, network, at))
            })
            .collect();
        assert!(std::net::TcpStream::connect(at).is_err(), "nobody listens here");
        let said = doors.iter().map(|(outside, _)| {
            let mut stream = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, *outside)).unwrap();
            let mut said = String::new();
            stream.read_to_string(&mut said).unwrap();
            said
        });
        assert_eq!(said.collect::<Vec<_>>(), ["one", "other"]);
        let outside = doors[0].0;
        drop(doors);
        assert!(std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, outside)).is_err(), "it is closed");
    }

    #[test]
    fn the_processes_of_a_namespace_are_known() {
        let network = Netns::new();
        assert_eq!(network.processes(), [0; 0]);
        let mut child = network.inside(|| std::process::Command::new("sleep").arg("60").spawn()).unwrap();
        assert_eq!(network.processes(), [i32::try_from(child.id()).unwrap()]);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
