//! Upgraded connections: WebSockets and whatever else a function speaks.
//!
//! Owns a tunnel's task from the 101 to its end, and with it the claim. Never looks into the bytes.

mod pump;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::upgrade::downcast;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error};

use crate::access_log::Record;
use crate::body::Exchange;
use crate::client::ClientSocket;
use crate::pool::Connection;

/// Both sides of a tunnel that was agreed upon, and what it holds.
pub(crate) struct Tunnel {
    pub(crate) client: OnUpgrade,
    pub(crate) function: OnUpgrade,
    pub(crate) connection: Connection,
    pub(crate) exchange: Arc<Exchange>,
    /// How long no byte may move.
    pub(crate) limit: Option<Duration>,
    pub(crate) record: Record,
}

/// Where tunnels run.
#[derive(Debug, Default)]
pub(crate) struct Tunnels {
    tracker: TaskTracker,
    cut: CancellationToken,
}

impl Tunnels {
    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Ends all of them, and those that still come; returns when they have.
    pub(crate) async fn cut(&self) {
        self.cut.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Runs a tunnel until both sides are done, one fails, nothing moves, or all are cut.
    pub(crate) fn open(&self, tunnel: Tunnel) {
        let cut = self.cut.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                biased;
                () = cut.cancelled() => {}
                () = run(tunnel) => {}
            }
        });
    }
}

async fn run(tunnel: Tunnel) {
    let Tunnel { client, function, connection, exchange, limit, mut record } = tunnel;
    // The client's side is there once the 101 was written to it, the function's once hyper let go of it.
    let sides = tokio::try_join!(client, function);
    // Its task has ended with the upgrade: there is nothing left to keep.
    drop(connection);
    let (client, function) = match sides {
        Ok(sides) => sides,
        Err(failed) => {
            record.broken = Some("upgrade");
            return debug!(%failed, "a tunnel ended before it began");
        }
    };
    let (Ok(mut client), Ok(mut function)) =
        (downcast::<ClientSocket>(client), function.downcast::<TokioIo<TcpStream>>())
    else {
        return error!("a tunnel between other sockets than ours");
    };
    let ahead = Ahead { of_client: client.read_buf, of_function: function.read_buf };
    let ended = pump::run(client.io.stream(), function.io.inner_mut(), ahead, limit).await;
    record.sent = ended.to_client;
    record.broken = ended.broken;
    drop(exchange);
}

/// Bytes that came in one packet with the handshake, and were read with it.
pub(crate) struct Ahead {
    pub(crate) of_client: Bytes,
    pub(crate) of_function: Bytes,
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").field("exchange", &self.exchange).finish_non_exhaustive()
    }
}
