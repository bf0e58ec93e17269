//! What it costs to send something to many with nothing around it: one system call for each frame, or for several.
//!
//! Owns the sockets at the sending side. The kernel does most of the work of the receiving side within that call, for
//! whoever sends.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};

/// The sockets.
#[derive(Debug, Default)]
pub(crate) struct Floor(Vec<TcpStream>);

impl Floor {
    /// Opens so many; the other ends of them are given back.
    pub(crate) async fn open(count: usize) -> (Self, Vec<tokio::net::TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, mut floor, mut ends) = (listener.local_addr().unwrap(), Self::default(), Vec::new());
        for _ in 0..count {
            ends.push(tokio::net::TcpStream::connect(address).await.unwrap());
            let (socket, _) = listener.accept().unwrap();
            socket.set_nodelay(true).unwrap();
            floor.0.push(socket);
        }
        (floor, ends)
    }

    /// Sends `bytes` to each of them, one behind the other: the processor time of that.
    pub(crate) async fn send(self, bytes: Vec<u8>) -> (Self, Duration) {
        let sending = move || {
            let before = used();
            for mut socket in &self.0 {
                socket.write_all(&bytes).unwrap();
            }
            let took = used() - before;
            (self, took)
        };
        tokio::task::spawn_blocking(|| thread::spawn(sending).join().unwrap()).await.unwrap()
    }
}

/// The processor time of this thread.
fn used() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    let micros = |time: TimeVal| Duration::from_micros(time.num_microseconds().try_into().unwrap());
    micros(usage.user_time()) + micros(usage.system_time())
}
