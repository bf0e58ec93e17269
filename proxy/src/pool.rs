//! The connections to one replica that have nothing to do.
//!
//! Owns idle connections and the task that drives each connection. Last in, first out, so that what is not needed ages
//! and is closed. Never decides where a request goes, never opens a connection on its own.
//!
//! ```text
//!  connect ──► Connection ──(answer read to its end)──► idle ──► Connection …
//!                  │                                     │
//!                  └─ dropped before that: closed        └─ too old, too many, or closed by the function: dropped
//! ```

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tracing::{debug, trace};

use crate::body::RequestBody;
use crate::tcp::{self, REPLICA_KEEPALIVE};

/// How long a connection may be idle and still be used. Node closes after 5 s (some frameworks after 4 s) without a
/// word; staying below means that we hardly ever write into a connection that is being closed.
const IDLE_LIMIT: Duration = Duration::from_secs(3);

/// Idle connections kept for one replica. More are closed: opening one on the same host costs about as much as a lock.
const MAX_IDLE: usize = 256;

/// How long a function that has answered may go on reading the request before the connection is cut.
const UPLOAD_LINGER: Duration = Duration::from_secs(10);

/// The idle connections of one replica.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: Mutex<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    /// The oldest first.
    stack: Vec<Parked>,
    closed: bool,
}

#[derive(Debug)]
struct Parked {
    connection: Connection,
    since: Instant,
}

/// An open connection. Dropping it closes it, whatever is on its way.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) sender: SendRequest<RequestBody>,
    _driver: Driver,
    pool: Weak<Pool>,
}

/// The task that moves the connection's bytes; ends with this.
#[derive(Debug)]
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Idle> {
        // Only pushes and pops happen under the lock, nothing that could leave it half done.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection used last, if it is still good.
    pub(crate) fn take(&self) -> Option<Connection> {
        let now = Instant::now();
        let mut unusable = Vec::new();
        let mut idle = self.lock();
        let found = loop {
            let Some(parked) = idle.stack.pop() else { break None };
            if now.duration_since(parked.since) >= IDLE_LIMIT {
                // Those below are older still.
                unusable.append(&mut idle.stack);
                unusable.push(parked);
                break None;
            }
            if parked.connection.sender.is_ready() {
                break Some(parked.connection);
            }
            unusable.push(parked);
        };
        drop(idle);
        // Closed outside the lock.
        drop(unusable);
        found
    }

    fn put(&self, connection: Connection) {
        let parked = Parked { connection, since: Instant::now() };
        let mut idle = self.lock();
        if !idle.closed && idle.stack.len() < MAX_IDLE {
            idle.stack.push(parked);
        } else {
            drop(idle);
            drop(parked);
        }
    }

    /// Drops what is too old or was closed by the function.
    fn sweep(&self) {
        let now = Instant::now();
        let mut unusable = Vec::new();
        let mut idle = self.lock();
        let stack = std::mem::take(&mut idle.stack);
        for parked in stack {
            let good = !parked.connection.sender.is_closed() && now.duration_since(parked.since) < IDLE_LIMIT;
            if good { idle.stack.push(parked) } else { unusable.push(parked) }
        }
        drop(idle);
        drop(unusable);
    }

    /// Keeps connections (`true`), or drops those it has and takes no more (`false`).
    pub(crate) fn keep(&self, keep: bool) {
        let mut idle = self.lock();
        idle.closed = !keep;
        let dropped = if keep { Vec::new() } else { std::mem::take(&mut idle.stack) };
        drop(idle);
        drop(dropped);
    }
}

impl Connection {
    /// Opens a connection to `address` that will come to rest in `pool`.
    pub(crate) async fn open(pool: &Arc<Pool>, address: SocketAddr, limit: Duration) -> io::Result<Self> {
        let stream = timeout(limit, TcpStream::connect(address)).await.map_err(|_| {
            io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {limit:?}"))
        })??;
        stream.set_nodelay(true)?;
        tcp::keep_alive(&stream, REPLICA_KEEPALIVE);
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let driver = tokio::spawn(drive(connection, Arc::downgrade(pool)));
        Ok(Self { sender, _driver: Driver(driver.abort_handle()), pool: Arc::downgrade(pool) })
    }

    /// The answer was read to its end: the connection goes to its pool, as soon as it is ready.
    pub(crate) fn rest(mut self) {
        let Some(pool) = self.pool.upgrade() else { return };
        if self.sender.is_ready() {
            pool.put(self);
        } else if !self.sender.is_closed() {
            // The answer overtook the end of the request, or (rarely) the driver's own book-keeping.
            tokio::spawn(async move {
                match timeout(UPLOAD_LINGER, self.sender.ready()).await {
                    Ok(Ok(())) => pool.put(self),
                    Ok(Err(error)) => trace!(%error, "the function closed the connection after its answer"),
                    Err(_) => debug!("the function answered but does not read the request: connection cut"),
                }
            });
        }
    }
}

/// Moves the connection's bytes until it ends or is upgraded, and keeps its pool swept meanwhile.
async fn drive(connection: http1::Connection<TokioIo<TcpStream>, RequestBody>, pool: Weak<Pool>) {
    let mut connection = pin!(connection.with_upgrades());
    let mut sweep = interval_at(Instant::now() + IDLE_LIMIT, IDLE_LIMIT);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            ended = &mut connection => {
                if let Err(error) = ended {
                    trace!(%error, "connection to a function ended");
                }
                break;
            }
            _ = sweep.tick() => {
                if let Some(pool) = pool.upgrade() {
                    pool.sweep();
                }
            }
        }
    }
    if let Some(pool) = pool.upgrade() {
        pool.sweep();
    }
}
