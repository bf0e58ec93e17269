//! Upgraded connections: WebSockets and whatever else a function speaks.
//!
//! Owns a tunnel's task from the 101 to its end, and with it the claim. Never changes a byte of what passes; of a
//! WebSocket it knows where the frames begin and end, so that it can be closed with a word, and its client be asked
//! whether it still lives.
//!
//! ```text
//!   101 ──► pump: two ways, frames counted off ──► close: a Close frame each way ──► claim released
//!              ▲                                      ▲
//!              idle, too old, no pong, a message too ─┘
//!              long, the function is gone, or
//!              ends: the replica's or the server's
//! ```

mod close;
mod ends;
mod frames;
mod ping;
mod pump;
mod screen;
mod side;
mod tally;
mod traffic;
mod way;
mod words;

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::upgrade::downcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::access_log::Record;
use crate::body::Exchange;
use crate::claim::Claim;
use crate::client::ClientSocket;
use crate::error::Error;
use crate::extended::Asked;
use crate::pool::Connection;
use crate::stream::Stream;
pub(crate) use ends::Ends;
use ends::Told;
#[cfg(feature = "fuzzing")]
pub(crate) use frames::{Frames, Sender};
use pump::Terms;
use side::Side;
pub(crate) use tally::Tally;
pub use tally::{By, FRAME_TYPES, WebSockets};
pub(crate) use traffic::Traffic;
pub use words::CloseFrame;

/// Both sides of a tunnel that was agreed upon, and what it holds.
pub(crate) struct Tunnel {
    pub(crate) client: Asked,
    /// The function's side.
    pub(crate) connection: Connection,
    pub(crate) exchange: Arc<Exchange>,
    /// They agreed upon WebSocket, not upon something else.
    pub(crate) websocket: bool,
    pub(crate) record: Record,
}

/// Where tunnels run.
#[derive(Debug, Default)]
pub(crate) struct Tunnels {
    tracker: TaskTracker,
    ends: Ends,
    /// No more are to come.
    draining: CancellationToken,
}

impl Tunnels {
    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Waits for a claim; for one of a handshake only as long as tunnels may open here.
    pub(crate) async fn admit(
        &self,
        handshake: bool,
        claim: impl Future<Output = Result<Claim, Error>>,
    ) -> Result<Claim, Error> {
        if !handshake {
            return claim.await;
        }
        tokio::select! {
            biased;
            () = self.draining.cancelled() => Err(Error::Draining),
            claim = claim => claim,
        }
    }

    /// Ends all of them, spread over `over`, and at once those that still come.
    pub(crate) fn end(&self, over: Duration) {
        self.draining.cancel();
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
        // Boxed: what a task is given stays a part of it for as long as it runs.
        self.tracker.spawn(run(Box::new(tunnel), replica, self.ends.listen()));
    }
}

async fn run(tunnel: Box<Tunnel>, replica: Told, server: Told) {
    let Tunnel { client, mut connection, exchange, websocket, mut record } = *tunnel;
    let Asked { upgrade: client, extended } = client;
    // As HTTP the connection ends with the answer's head.
    poll_fn(|cx| connection.poll(cx)).await;
    let (mut function, of_function) = connection.into_socket();
    // The client's side is there once the 101 was written to it.
    let client = match client.await {
        Ok(client) => client,
        Err(failed) => {
            record.broken = Some("upgrade");
            record.closed(None, None);
            return debug!(%failed, "a tunnel ended before it began");
        }
    };
    let (mut client, of_client) = match downcast::<ClientSocket>(client) {
        Ok(parts) => (Client::Connection(parts.io), parts.read_buf),
        Err(stream) => (Client::Http2(Box::new(TokioIo::new(stream))), Bytes::new()),
    };
    let ahead = Box::new(Ahead { of_client, of_function });
    let (upstream, traffic) = (exchange.claim().upstream(), exchange.claim().traffic());
    let (limits, tally) = (upstream.shared_limits(), &upstream.counters().websockets);
    let mut terms = Terms { websocket, limits, traffic, tally, replica, server };
    let ended = pump::run(client.side(), Side::Socket(&mut function), ahead, &mut terms).await;
    (record.received, record.sent) = (ended.of_client, ended.to_client);
    record.broken = ended.broken;
    if let Some((code, by)) = ended.closed {
        tally.closed(code, by);
    }
    record.closed(ended.messages, ended.closed.map(|(code, by)| (code, by.name())));
    drop(exchange);
    drop(client);
    // Only now may its connection be taken for one that has nothing to do.
    drop(extended);
}

/// What the client's side of a tunnel is made of.
enum Client {
    /// All of a connection.
    Connection(ClientSocket),
    /// One stream of an HTTP/2 connection.
    Http2(Box<TokioIo<Upgraded>>),
}

impl Client {
    fn side(&mut self) -> Side<'_> {
        match self {
            Self::Connection(socket) => match socket.stream() {
                Stream::Plain(socket) => Side::Socket(socket),
                Stream::Tls(stream) => Side::Inner(&mut **stream),
            },
            Self::Http2(stream) => Side::Inner(&mut **stream),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<F>(_: fn(Box<Tunnel>, Told, Told) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_tunnel_is_a_small_task() {
        let size = size_of_future(run);
        assert!(size <= 2432, "{size} bytes");
    }
}
