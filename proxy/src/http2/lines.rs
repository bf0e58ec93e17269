//! The connections to one replica that speaks HTTP/2: few, each with many requests at a time.
//!
//! Owns their tasks, the choice among them and how many there are. Each part, which is that of a lane, has one; another one
//! is opened only where all have as many streams as the replica takes, and none beyond [`MAX_LINES`]: what comes then
//! waits on a connection for its stream. Those who come while one is being opened wait for it together, and hear of its
//! failure together.
//!
//! ```text
//!   none ──seat──► opening ──► open ──► ended: goodbye, an error, or unused for a while
//!                     └─ failed: whoever waits is told
//! ```

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::trace;

use crate::lanes;
use crate::tcp::{self, REPLICA_KEEPALIVE};

/// Parts, as of a pool of HTTP/1.
const PARTS: usize = 4;

/// Connections in each part.
const MAX_LINES: usize = 4;

/// A connection that had nothing to do for so long is closed, with a goodbye; at the latest after twice that.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// What a replica may send on one stream before it is taken: so much of an answer is kept for a slow client.
const STREAM_WINDOW: u32 = 256 << 10;

/// The same for a whole connection. As good as no limit: else clients that are slow would stop the answers to others.
const CONNECTION_WINDOW: u32 = 1 << 30;

/// The largest head of an answer.
const MAX_HEAD: u32 = 256 << 10;

/// The connections to one replica.
#[derive(Debug)]
pub(crate) struct Lines {
    address: SocketAddr,
    parts: [Part; PARTS],
}

#[derive(Debug, Default)]
struct Part {
    state: Mutex<State>,
    /// Held by whoever opens a connection.
    opening: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<Arc<Line>>,
    closed: bool,
    /// How often none could be opened, and why not the last time.
    failures: u64,
    failure: Option<(io::ErrorKind, String)>,
}

struct Line {
    sender: SendRequest<Bytes>,
    /// Seats that are taken.
    streams: AtomicUsize,
    /// Was one taken since somebody last looked?
    used: AtomicBool,
    /// It takes no stream any more.
    bad: AtomicBool,
}

/// A place for one stream. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Line>);

impl Lines {
    pub(crate) fn new(address: SocketAddr) -> Arc<Self> {
        Arc::new(Self { address, parts: Default::default() })
    }

    /// A place for a stream on an open connection, or on a new one that is there within `limit`.
    ///
    /// Cancel safe.
    pub(crate) async fn seat(self: &Arc<Self>, limit: Duration) -> io::Result<Seat> {
        let number = lanes::current() % PARTS;
        let part = &self.parts[number];
        let failures = {
            let mut state = part.state();
            if let Some(seat) = state.seat() {
                return Ok(seat);
            }
            state.failures
        };
        let _opening = part.opening.lock().await;
        {
            let mut state = part.state();
            if let Some(seat) = state.seat() {
                return Ok(seat);
            }
            if state.failures != failures
                && let Some((kind, text)) = &state.failure
            {
                return Err(io::Error::new(*kind, text.clone()));
            }
        }
        let (line, connection) = Line::open(self.address, limit).await.inspect_err(|error| {
            let mut state = part.state();
            state.failures += 1;
            state.failure = Some((error.kind(), error.to_string()));
        })?;
        let line = Arc::new(line);
        let seat = Seat::take(&line);
        let mut state = part.state();
        if !state.closed {
            state.lines.push(Arc::clone(&line));
        }
        drop(state);
        tokio::spawn(drive(connection, Arc::downgrade(&line), Arc::downgrade(self), number));
        Ok(seat)
    }

    /// Keeps connections (`true`), or lets go of those it has, which end with their last stream, and keeps no more.
    pub(crate) fn keep(&self, keep: bool) {
        for part in &self.parts {
            let mut state = part.state();
            state.closed = !keep;
            let dropped = if keep { Vec::new() } else { std::mem::take(&mut state.lines) };
            drop(state);
            drop(dropped);
        }
    }
}

impl Part {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing happens under the lock that could leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the line out: nobody is given a seat on it any more.
    fn forget(&self, line: &Weak<Line>) {
        let mut state = self.state();
        let Some(index) = state.lines.iter().position(|one| std::ptr::eq(Arc::as_ptr(one), line.as_ptr()))
        else {
            return;
        };
        let line = state.lines.swap_remove(index);
        drop(state);
        drop(line);
    }
}

impl State {
    /// A seat on the line with the fewest streams, unless that is full and there may be another one.
    fn seat(&mut self) -> Option<Seat> {
        self.lines.retain(|line| !line.bad.load(Ordering::Relaxed));
        let line = self.lines.iter().min_by_key(|line| line.streams.load(Ordering::Relaxed))?;
        let full = line.streams.load(Ordering::Relaxed) >= line.sender.current_max_send_streams();
        (!full || self.lines.len() >= MAX_LINES).then(|| Seat::take(line))
    }
}

impl Line {
    async fn open(address: SocketAddr, limit: Duration) -> io::Result<(Self, Connection<TcpStream, Bytes>)> {
        let opened = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            tcp::keep_alive(&stream, REPLICA_KEEPALIVE);
            let mut http = Builder::new();
            http.enable_push(false)
                .initial_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_header_list_size(MAX_HEAD);
            http.handshake(stream).await.map_err(io::Error::other)
        };
        let (sender, connection) = timeout(limit, opened).await.map_err(|_| {
            io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {limit:?}"))
        })??;
        let line = Self {
            sender,
            streams: AtomicUsize::new(0),
            used: AtomicBool::new(true),
            bad: AtomicBool::new(false),
        };
        Ok((line, connection))
    }
}

impl Seat {
    fn take(line: &Arc<Line>) -> Self {
        line.streams.fetch_add(1, Ordering::Relaxed);
        line.used.store(true, Ordering::Relaxed);
        Self(Arc::clone(line))
    }

    /// What opens a stream.
    pub(super) fn sender(&self) -> SendRequest<Bytes> {
        self.0.sender.clone()
    }

    /// No more streams on this line.
    pub(super) fn is_bad(&self) {
        self.0.bad.store(true, Ordering::Relaxed);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Moves the bytes of a connection, to its end: that of its last stream, once it is no more among the lines.
async fn drive(
    mut connection: Connection<TcpStream, Bytes>,
    line: Weak<Line>,
    lines: Weak<Lines>,
    part: usize,
) {
    let forget = || {
        if let Some(lines) = lines.upgrade() {
            lines.parts[part].forget(&line);
        }
    };
    let mut looks = interval(IDLE_LIMIT);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ended = loop {
        tokio::select! {
            biased;
            ended = &mut connection => break ended,
            _ = looks.tick() => {
                let unused = line.upgrade().is_some_and(|line| {
                    !line.used.swap(false, Ordering::Relaxed) && line.streams.load(Ordering::Relaxed) == 0
                });
                if unused {
                    forget();
                }
            }
        }
    };
    if let Some(line) = line.upgrade() {
        line.bad.store(true, Ordering::Relaxed);
    }
    forget();
    if let Err(error) = ended {
        trace!(%error, "connection to a function ended");
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("streams", &self.streams).field("bad", &self.bad).finish_non_exhaustive()
    }
}
