//! Upgraded connections: WebSockets and whatever else a function speaks.
//!
//! Owns a tunnel's task from the 101 to its end, and with it the claim. Never changes a byte of what passes; of a
//! WebSocket it knows where the frames begin and end, so that it can be closed with a word.
//!
//! ```text
//!   101 ──► pump: two ways, frames counted off ──► close: a Close frame each way ──► claim released
//!              ▲                                      ▲
//!              idle, the function is gone, or ────────┘
//!              ends: the replica's or the server's
//! ```

mod close;
mod ends;
mod frames;
mod pump;
mod traffic;
mod way;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::upgrade::downcast;
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;
use tracing::{debug, error};

use crate::access_log::Record;
use crate::body::Exchange;
use crate::client::ClientSocket;
use crate::pool::Connection;
pub(crate) use ends::Ends;
use ends::Told;
#[cfg(feature = "fuzzing")]
pub(crate) use frames::{Frames, Sender};
use pump::Terms;
pub(crate) use traffic::Traffic;

/// Both sides of a tunnel that was agreed upon, and what it holds.
pub(crate) struct Tunnel {
    pub(crate) client: OnUpgrade,
    pub(crate) function: OnUpgrade,
    pub(crate) connection: Connection,
    pub(crate) exchange: Arc<Exchange>,
    /// They agreed upon WebSocket, not upon something else.
    pub(crate) websocket: bool,
    /// How long no byte may move.
    pub(crate) limit: Option<Duration>,
    pub(crate) record: Record,
}

/// Where tunnels run.
#[derive(Debug, Default)]
pub(crate) struct Tunnels {
    tracker: TaskTracker,
    ends: Ends,
}

impl Tunnels {
    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Ends all of them, spread over `over`, and at once those that still come.
    pub(crate) fn end(&self, over: Duration) {
        self.ends.pace(over);
        self.tracker.close();
    }

    /// Ends all of them without a word.
    pub(crate) fn cut(&self) {
        self.ends.cut();
        self.tracker.close();
    }

    /// Resolves when all have ended, and no more come: [`end`](Self::end) or [`cut`](Self::cut) was called before.
    pub(crate) async fn ended(&self) {
        self.tracker.wait().await;
    }

    /// Runs a tunnel until both sides are done, one fails, nothing moves, or it is told to end.
    pub(crate) fn open(&self, tunnel: Tunnel) {
        let replica = tunnel.exchange.claim().endpoint().ends().listen();
        self.tracker.spawn(run(tunnel, replica, self.ends.listen()));
    }
}

async fn run(tunnel: Tunnel, replica: Told, server: Told) {
    let Tunnel { client, function, connection, exchange, websocket, limit, mut record } = tunnel;
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
    let traffic = exchange.claim().upstream().traffic();
    let terms = Terms { websocket, limit, traffic, replica, server };
    let ended = pump::run(client.io.stream(), function.io.inner_mut(), ahead, terms).await;
    record.sent = ended.to_client;
    record.broken = ended.broken;
    if let Some(messages) = ended.messages {
        record.messages(messages);
    }
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
