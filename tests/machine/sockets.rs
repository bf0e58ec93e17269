//! WebSockets on an echoing function, watched from outside while things happen to its host. `tests/machine/run` drives it:
//!
//! ```text
//! machine-sockets URL IDLE BUSY
//!   stdin   a line when something has happened to the host
//!   stdout  a line once each socket was heard of since: messages in all, and the longest wait for one in milliseconds
//! ```
//!
//! Owns the sockets, and what they must see: each message has a number and a hash, and comes back once, whole and in its
//! turn; nothing else comes, and no socket ends. Ends with 1, and says what was seen, at the first that sees anything else;
//! with 0 when there are no more lines, all that was sent is back, and all sockets were closed in order.

#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is how it is talked to")]

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use futures_util::{SinkExt, StreamExt, stream};
use roost_tests::{Message, PATIENCE};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

/// Handshakes at a time.
const AT_A_TIME: usize = 32;
/// Messages of a busy socket that are on their way at once.
const AHEAD: u64 = 4;
/// So many more messages of a busy socket have to come back until it was heard of again.
const HEARD: u64 = 20;
/// Words of sockets that may wait to be heard.
const WORDS: usize = 64;
/// What a socket reads at once: there are thousands of them.
const READ_BUFFER: usize = 4096;

/// Of all sockets, for as long as nothing is wrong.
#[derive(Debug, Default)]
struct Tally {
    messages: AtomicU64,
    /// The longest that one waited for a message, in milliseconds.
    longest: AtomicU64,
}

/// A socket, and how far it came.
#[derive(Debug)]
struct Talk {
    number: u64,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    sent: u64,
    back: u64,
    tally: Arc<Tally>,
}

/// What a socket has to say: that it was heard of since the last line, or what is wrong.
type Word = Result<(), String>;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, idle, busy] = &arguments[..] else {
        eprintln!("usage: machine-sockets URL IDLE BUSY");
        return ExitCode::from(2);
    };
    match watch_all(url, idle.parse().unwrap(), busy.parse().unwrap()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(wrong) => {
            eprintln!("machine-sockets: {wrong}");
            ExitCode::FAILURE
        }
    }
}

async fn watch_all(url: &str, idle: u64, busy: u64) -> Result<(), String> {
    let (tally, (line, lines)) = (Arc::new(Tally::default()), watch::channel(0));
    let (say, mut words) = mpsc::channel::<Word>(WORDS);
    let mut opening = stream::iter(0..idle + busy)
        .map(|number| Talk::open(url, number, Arc::clone(&tally)))
        .buffered(AT_A_TIME);
    while let Some(talk) = opening.next().await {
        let (talk, lines, say) = (talk?, lines.clone(), say.clone());
        tokio::spawn(async move {
            let is_idle = talk.number < idle;
            let end = if is_idle { talk.idle(lines, &say).await } else { talk.busy(lines, &say).await };
            // Nobody listens any more once something is wrong.
            say.send(end).await.ok();
        });
    }
    drop((opening, lines));
    let (read, mut input) = mpsc::channel(1);
    std::thread::spawn(move || {
        std::io::stdin().lines().try_for_each(|line| read.blocking_send(line.unwrap()))
    });
    while input.recv().await.is_some() {
        line.send_modify(|line| *line += 1);
        all_said(&mut words, idle + busy).await?;
        let longest = tally.longest.swap(0, Ordering::Relaxed);
        println!("{} {longest}", tally.messages.load(Ordering::Relaxed));
    }
    drop(line);
    all_said(&mut words, idle + busy).await
}

async fn all_said(words: &mut mpsc::Receiver<Word>, sockets: u64) -> Result<(), String> {
    for heard in 0..sockets {
        let word = timeout(PATIENCE, words.recv()).await;
        word.map_err(|_| format!("{heard} of {sockets} sockets were heard of"))?.unwrap()?;
    }
    Ok(())
}

impl Talk {
    async fn open(url: &str, number: u64, tally: Arc<Tally>) -> Result<Self, String> {
        let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER);
        let opened = timeout(PATIENCE, connect_async_with_config(url, Some(config), true)).await;
        let (socket, _) = opened
            .map_err(|_| format!("socket {number}: no answer to its handshake"))?
            .map_err(|error| format!("socket {number} does not open: {error}"))?;
        Ok(Self { number, socket, sent: 0, back: 0, tally })
    }

    /// Says something once for each line, and sees to it that nothing comes otherwise.
    async fn idle(mut self, mut lines: watch::Receiver<u64>, say: &mpsc::Sender<Word>) -> Word {
        loop {
            tokio::select! {
                came = self.socket.next() => return Err(self.wrong(&format!("came while it was idle: {came:?}"))),
                line = lines.changed() => match line {
                    Ok(()) => {
                        self.send().await?;
                        self.receive().await?;
                        say.send(Ok(())).await.ok();
                    }
                    Err(_) => return self.close().await,
                }
            }
        }
    }

    /// Always has messages on their way.
    async fn busy(mut self, mut lines: watch::Receiver<u64>, say: &mpsc::Sender<Word>) -> Word {
        let mut goal = None;
        loop {
            while self.sent < self.back + AHEAD {
                self.send().await?;
            }
            self.receive().await?;
            match lines.has_changed() {
                Ok(true) => {
                    lines.mark_unchanged();
                    goal = Some(self.back + HEARD);
                }
                Ok(false) => {}
                Err(_) => break,
            }
            if goal == Some(self.back) {
                goal = None;
                say.send(Ok(())).await.ok();
            }
        }
        while self.back < self.sent {
            self.receive().await?;
        }
        self.close().await
    }

    async fn send(&mut self) -> Word {
        let message = message(self.number, self.sent);
        self.sent += 1;
        self.socket
            .send(Message::binary(message))
            .await
            .map_err(|error| self.wrong(&format!("cannot be written: {error}")))
    }

    /// Takes the next message, which has to be the one whose turn it is.
    async fn receive(&mut self) -> Word {
        let begun = Instant::now();
        let came = match timeout(PATIENCE, self.socket.next()).await {
            Ok(Some(Ok(Message::Binary(came)))) => came,
            Ok(other) => return Err(self.wrong(&format!("came instead of a message: {other:?}"))),
            Err(_) => return Err(self.wrong("nothing comes")),
        };
        if came != message(self.number, self.back) {
            return Err(self.wrong(&format!("came instead of a message: {}", describe(&came))));
        }
        self.back += 1;
        self.tally.messages.fetch_add(1, Ordering::Relaxed);
        let waited = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.tally.longest.fetch_max(waited, Ordering::Relaxed);
        Ok(())
    }

    /// Closes it and waits for the answer.
    async fn close(mut self) -> Word {
        self.socket.close(None).await.map_err(|error| self.wrong(&format!("cannot be closed: {error}")))?;
        match timeout(PATIENCE, self.socket.next()).await {
            Ok(Some(Ok(Message::Close(_)))) => Ok(()),
            other => Err(self.wrong(&format!("came instead of a Close: {other:?}"))),
        }
    }

    fn wrong(&self, what: &str) -> String {
        format!("socket {}, {} sent and {} back: {what}", self.number, self.sent, self.back)
    }
}

/// The message `index` of a socket: of a length of its own, with both numbers before and a hash behind.
fn message(socket: u64, index: u64) -> Vec<u8> {
    /// What messages are filled with, each from a place of its own.
    static FILL: LazyLock<Vec<u8>> =
        LazyLock::new(|| (0..30_011_u32).map(|at| ((at * at) >> 7) as u8).collect());
    let length = (index * 7919 + socket * 104_729) % 20_000;
    let from = (index * 17 + socket * 31) % 10_000;
    let mut message = [index.to_be_bytes(), socket.to_be_bytes()].concat();
    message.extend_from_slice(&FILL[from as usize..(from + length) as usize]);
    message.extend(hash(&message).to_be_bytes());
    message
}

/// Of eight bytes at a time: it has to be quick, and nobody means harm.
fn hash(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(8);
    let hash = words
        .by_ref()
        .fold(bytes.len() as u64, |hash, word| mixed(hash, u64::from_be_bytes(word.try_into().unwrap())));
    words.remainder().iter().fold(hash, |hash, byte| mixed(hash, (*byte).into()))
}

fn mixed(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

/// Which message it is, if it is one at all.
fn describe(came: &[u8]) -> String {
    let number = |at: usize| came.get(at..at + 8).map(|bytes| u64::from_be_bytes(bytes.try_into().unwrap()));
    match (number(0), number(8), came.split_last_chunk::<8>()) {
        (Some(index), Some(socket), Some((bytes, end))) if hash(bytes) == u64::from_be_bytes(*end) => {
            format!("message {index} of socket {socket}")
        }
        _ => format!("{} bytes that are no message", came.len()),
    }
}
