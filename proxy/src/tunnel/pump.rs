//! Moving bytes between two sockets.
//!
//! Owns both directions of one tunnel. A direction that ends is passed on as the end of writing; the other goes on for
//! as long as something moves. A quiet tunnel holds no buffer: one is taken when a socket has something to read, and
//! given back when it has been written.
//!
//! ```text
//!              client ends writing            function ends writing
//!   both open ────────────────────► half open ─────────────────────► done      (or the other way round)
//!       │ limit                        │ min(limit, HALF_OPEN)
//!       ▼                              ▼
//!     idle                           idle
//! ```

use std::future::pending;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::Ahead;

/// How long one side may be silent after the other has said all it had to say.
const HALF_OPEN: Duration = Duration::from_secs(60);

/// The most that is read at once.
const BUFFER: usize = 16 * 1024;

/// How a tunnel ended.
pub(crate) struct Ended {
    /// Bytes to the client.
    pub(crate) to_client: u64,
    /// `None` if both sides ended as they should.
    pub(crate) broken: Option<&'static str>,
}

/// What the directions tell the timer.
struct Activity {
    began: Instant,
    /// Milliseconds from `began` to the last byte.
    moved: AtomicU64,
    half_open: AtomicBool,
    /// Woken when `half_open` is set: the limit is another one then.
    halved: Notify,
}

impl Activity {
    fn touch(&self) {
        let milliseconds = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(milliseconds, Ordering::Relaxed);
    }

    /// When this counts as idle, if nothing moves until then.
    fn due(&self, limit: Option<Duration>) -> Option<Instant> {
        let limit = if self.half_open.load(Ordering::Acquire) {
            limit.map_or(HALF_OPEN, |limit| limit.min(HALF_OPEN))
        } else {
            limit?
        };
        Some(self.began + Duration::from_millis(self.moved.load(Ordering::Relaxed)) + limit)
    }
}

/// Moves bytes until both directions have ended, one has failed, or nothing moved for `limit`.
pub(crate) async fn run(
    client: &mut TcpStream,
    function: &mut TcpStream,
    ahead: Ahead,
    limit: Option<Duration>,
) -> Ended {
    let activity = Activity {
        began: Instant::now(),
        moved: AtomicU64::new(0),
        half_open: AtomicBool::new(false),
        halved: Notify::new(),
    };
    let to_client = AtomicU64::new(0);
    let to_function = AtomicU64::new(0);
    let (client_reads, client_writes) = client.split();
    let (function_reads, function_writes) = function.split();
    let both = async {
        tokio::try_join!(
            one_way(client_reads, function_writes, &ahead.of_client, &activity, &to_function),
            one_way(function_reads, client_writes, &ahead.of_function, &activity, &to_client),
        )
    };
    let broken = tokio::select! {
        biased;
        ended = both => ended.err().map(|_| "reset"),
        () = idle(&activity, limit) => Some("idle"),
    };
    Ended { to_client: to_client.into_inner(), broken }
}

/// Moves bytes from `from` to `to` until `from` ends, then ends `to`.
async fn one_way(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    ahead: &[u8],
    activity: &Activity,
    moved: &AtomicU64,
) -> io::Result<()> {
    to.write_all(ahead).await?;
    moved.fetch_add(ahead.len() as u64, Ordering::Relaxed);
    loop {
        // Nothing is held while nothing comes.
        from.readable().await?;
        let mut buffer = Vec::with_capacity(BUFFER);
        // `try_read_buf` would do, but this one also knows that a short read has emptied the socket.
        loop {
            let length = from.read_buf(&mut buffer).await?;
            activity.touch();
            if length == 0 {
                activity.half_open.store(true, Ordering::Release);
                activity.halved.notify_one();
                return end(&mut to).await;
            }
            to.write_all(&buffer).await?;
            moved.fetch_add(length as u64, Ordering::Relaxed);
            activity.touch();
            buffer.clear();
            if length < BUFFER {
                break;
            }
        }
    }
}

/// Passes the end on. A side that has already gone needs no telling: what the other direction finds there is the news.
async fn end(to: &mut WriteHalf<'_>) -> io::Result<()> {
    match to.shutdown().await {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        ended => ended,
    }
}

/// Resolves once nothing has moved for the limit. The timer is set when it fires, not at each byte.
async fn idle(activity: &Activity, limit: Option<Duration>) {
    loop {
        let due = activity.due(limit);
        let fires = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = activity.halved.notified() => {}
            () = fires => {
                if activity.due(limit).is_some_and(|due| due <= Instant::now()) {
                    return;
                }
            }
        }
    }
}
