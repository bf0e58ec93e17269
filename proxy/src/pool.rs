//! The connections to one replica, and those of them that have nothing to do.
//!
//! Owns idle connections, and how the bytes of a connection are moved: by whoever waits for them. A connection has no task
//! of its own; the request that has it polls it in its own task, so that neither the head nor the body of an answer goes
//! from task to task or from thread to thread. Last in, first out, so that what is not needed ages and is closed. Never
//! decides where a request goes, never opens a connection on its own.
//!
//! ```text
//!  connect ──► Connection ──(answer read to its end)──► idle ──► Connection …
//!                  │                                     │
//!                  └─ dropped before that: closed        └─ too old, too many, or closed by the function: dropped
//! ```
//!
//! A connection belongs to the lane whose thread it was opened on, which hears of its socket, and rests in that lane's
//! part of the pool.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, trace};

use crate::http1::replica::Connection;
use crate::lanes;
use crate::tcp::{self, REPLICA_KEEPALIVE};

/// How long a connection may be idle and still be used. Node closes after 5 s (some frameworks after 4 s) without a
/// word; staying below means that we hardly ever write into a connection that is being closed.
const IDLE_LIMIT: Duration = Duration::from_secs(3);

/// Idle connections kept for one replica in each part of its pool. More are closed: opening one on the same host costs
/// about as much as a lock.
const MAX_IDLE: usize = 256;

/// How long a function that has answered may go on reading the request before the connection is cut.
const UPLOAD_LINGER: Duration = Duration::from_secs(10);

/// Parts of a pool. Lanes beyond them share.
const PARTS: usize = 4;

/// The idle connections of one replica.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    parts: [Mutex<Idle>; PARTS],
}

#[derive(Debug, Default)]
struct Idle {
    /// The oldest first.
    stack: Vec<Parked>,
    closed: bool,
    /// Somebody comes by and by to drop what is too old.
    swept: bool,
}

#[derive(Debug)]
struct Parked {
    connection: Box<Connection>,
    since: Instant,
}

impl Pool {
    /// That of the lane of this thread.
    fn part(&self) -> MutexGuard<'_, Idle> {
        Self::lock(&self.parts[lanes::current() % PARTS])
    }

    fn lock(part: &Mutex<Idle>) -> MutexGuard<'_, Idle> {
        // Only pushes and pops happen under the lock, nothing that could leave it half done.
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection used last, if it is still good.
    pub(crate) fn take(&self) -> Option<Box<Connection>> {
        loop {
            // What is not used is closed outside the lock.
            let Parked { connection, since } = self.part().stack.pop()?;
            if since.elapsed() < IDLE_LIMIT && connection.is_quiet() {
                return Some(connection);
            }
        }
    }

    fn put(self: &Arc<Self>, mut connection: Box<Connection>) {
        connection.settle();
        let parked = Parked { connection, since: Instant::now() };
        let mut idle = self.part();
        if idle.closed || idle.stack.len() >= MAX_IDLE {
            drop(idle);
            drop(parked);
            return;
        }
        idle.stack.push(parked);
        if !std::mem::replace(&mut idle.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self), lanes::current() % PARTS));
        }
    }

    /// Keeps connections (`true`), or drops those it has and takes no more (`false`).
    pub(crate) fn keep(&self, keep: bool) {
        for part in &self.parts {
            let mut idle = Self::lock(part);
            idle.closed = !keep;
            let dropped = if keep { Vec::new() } else { std::mem::take(&mut idle.stack) };
            drop(idle);
            drop(dropped);
        }
    }
}

/// Drops what is too old, or was closed by the function, for as long as there is anything.
async fn sweep(pool: Weak<Pool>, part: usize) {
    loop {
        sleep(IDLE_LIMIT).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut idle = Pool::lock(&pool.parts[part]);
        let mut unusable = Vec::new();
        for parked in std::mem::take(&mut idle.stack) {
            let good = parked.since.elapsed() < IDLE_LIMIT && parked.connection.is_quiet();
            if good { idle.stack.push(parked) } else { unusable.push(parked) }
        }
        let empty = idle.stack.is_empty();
        idle.swept = !empty;
        if empty {
            idle.stack = Vec::new();
        }
        drop(idle);
        drop(unusable);
        if empty {
            return;
        }
    }
}

/// Opens a connection to `address`.
pub(crate) async fn open(address: SocketAddr, limit: Duration) -> io::Result<Box<Connection>> {
    let stream = timeout(limit, TcpStream::connect(address))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {limit:?}")))??;
    stream.set_nodelay(true)?;
    tcp::keep_alive(&stream, REPLICA_KEEPALIVE);
    Ok(Box::new(Connection::new(stream)))
}

/// The answer was read to its end: the connection goes to `pool`, as soon as the request was sent, too.
pub(crate) fn rest(mut connection: Box<Connection>, pool: &Arc<Pool>) {
    if connection.is_idle() {
        pool.put(connection);
    } else if connection.is_sending() {
        // The answer overtook the end of the request.
        let pool = Arc::clone(pool);
        tokio::spawn(async move {
            match timeout(UPLOAD_LINGER, poll_fn(|cx| connection.poll_sent(cx))).await {
                Ok(true) => pool.put(connection),
                Ok(false) => trace!("the function closed the connection after its answer"),
                Err(_) => debug!("the function answered but does not read the request: connection cut"),
            }
        });
    }
}
