//! Clients that take their time, and such that went without a word.
//!
//! Owns their sockets, on a thread of their own, so that they are not in the way of whoever measures. Raw bytes: each
//! kind holds what it holds at the host for as long as it may.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::sleep;

const PATH: &str = "/function/echo/";
/// From one byte, or one sip, to the next.
const PACE: Duration = Duration::from_secs(1);
/// What those that read slowly asked for: more than all buffers on the way hold.
const LARGE: usize = 8 * 1024 * 1024;
/// Connections at a time, while they are made.
const AT_A_TIME: usize = 64;

/// What a client is slow at.
#[derive(Debug, Clone, Copy)]
enum Slow {
    /// Sends its head byte by byte.
    Head,
    /// Sends its body byte by byte.
    Body,
    /// Asks for much and takes little.
    Answer,
    /// Sends messages and takes little of what comes back.
    Messages,
}

/// How far a client came that has gone without a word.
#[derive(Debug, Clone, Copy)]
enum Gone {
    Connected,
    InHead,
    InBody,
    Upgraded,
}

/// So many of each, until it is dropped.
#[derive(Debug)]
pub(crate) struct Crowd {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Crowd {
    /// Returns when all are there.
    pub(crate) async fn gather(port: u16, slow: usize, gone: usize) -> Self {
        let (ready, all_ready) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let crowd = gather(port, slow, gone).await;
                ready.send(()).unwrap();
                // Dropped or not, that is the end.
                stopped.await.ok();
                drop(crowd);
            });
        });
        all_ready.await.unwrap();
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().map(JoinHandle::join).expect("dropped once").expect("a crowd does not panic");
    }
}

async fn gather(port: u16, slow: usize, gone: usize) -> JoinSet<()> {
    let (mut crowd, mut opening) = (JoinSet::new(), JoinSet::new());
    let places = Arc::new(Semaphore::new(AT_A_TIME));
    for number in 0..slow.max(gone) {
        let places = Arc::clone(&places);
        opening.spawn(async move {
            let _place = places.acquire().await.unwrap();
            if number < gone {
                [Gone::Connected, Gone::InHead, Gone::InBody, Gone::Upgraded][number % 4].go(port).await;
            }
            if number >= slow {
                return None;
            }
            let how = [Slow::Head, Slow::Body, Slow::Answer, Slow::Messages][number % 4];
            Some((how, how.begin(port).await))
        });
    }
    while let Some(opened) = opening.join_next().await {
        if let Some((how, stream)) = opened.unwrap() {
            crowd.spawn(how.go_on(stream));
        }
    }
    crowd
}

impl Slow {
    async fn begin(self, port: u16) -> TcpStream {
        // Small, so that what is not taken stays with the host.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(([127, 0, 0, 1], port).into()).await.unwrap();
        let head = match self {
            Self::Head => "G".to_owned(),
            Self::Body => format!("POST {PATH} HTTP/1.1\r\nHost: slow\r\nContent-Length: 1000\r\n\r\n"),
            Self::Answer => format!("POST {PATH} HTTP/1.1\r\nHost: slow\r\nContent-Length: {LARGE}\r\n\r\n"),
            Self::Messages => handshake(),
        };
        stream.write_all(head.as_bytes()).await.unwrap();
        if matches!(self, Self::Messages) {
            answered(&mut stream).await;
        }
        stream
    }

    /// Goes on until the host has had enough.
    async fn go_on(self, mut stream: TcpStream) {
        match self {
            Self::Head | Self::Body => {
                while stream.write_all(b"E").await.is_ok() {
                    sleep(PACE).await;
                }
            }
            Self::Answer => {
                let (mut from, mut to) = stream.split();
                let body = vec![7; 64 * 1024];
                let write = async { while to.write_all(&body).await.is_ok() {} };
                tokio::join!(write, sip(&mut from));
            }
            Self::Messages => {
                let (mut from, mut to) = stream.split();
                let mut message = vec![0x82, 0x80 | 126, 0xff, 0xff, 0, 0, 0, 0];
                message.resize(8 + 0xffff, 7);
                let write = async { while to.write_all(&message).await.is_ok() {} };
                tokio::join!(write, sip(&mut from));
            }
        }
    }
}

/// Takes a little, now and then.
async fn sip(from: &mut (impl AsyncReadExt + Unpin)) {
    let mut some = [0; 512];
    while matches!(from.read(&mut some).await, Ok(1..)) {
        sleep(PACE).await;
    }
}

impl Gone {
    async fn go(self, port: u16) {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let said = match self {
            Self::Connected => String::new(),
            Self::InHead => "GET / HTTP/1.1\r\nHost: ".to_owned(),
            Self::InBody => format!("POST {PATH} HTTP/1.1\r\nHost: gone\r\nContent-Length: 1000\r\n\r\nabc"),
            Self::Upgraded => handshake(),
        };
        stream.write_all(said.as_bytes()).await.unwrap();
        if matches!(self, Self::Upgraded) {
            answered(&mut stream).await;
        }
        without_a_word(&stream);
    }
}

/// Lets the kernel forget the connection when it is dropped: the other side is not told.
fn without_a_word(stream: &TcpStream) {
    let on: nix::libc::c_int = 1;
    // SAFETY: the option is one int, which outlives the call.
    let done = unsafe {
        nix::libc::setsockopt(
            stream.as_raw_fd(),
            nix::libc::IPPROTO_TCP,
            nix::libc::TCP_REPAIR,
            (&raw const on).cast(),
            size_of_val(&on) as nix::libc::socklen_t,
        )
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

fn handshake() -> String {
    format!(
        "GET {PATH} HTTP/1.1\r\nHost: slow\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

async fn answered(stream: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut head).await.unwrap(), 0, "{head:?}");
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
}
