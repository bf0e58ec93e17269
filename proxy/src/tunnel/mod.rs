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
//!
//! Where there is a [`Keep`](keep::Keep), a tunnel between two plain sockets does not end with the process: it is left
//! where it is, and [resumed](handover) by the next.

mod close;
mod ends;
mod frames;
mod handover;
pub(crate) mod keep;
mod ping;
mod pump;
mod screen;
mod side;
mod tally;
mod traffic;
mod way;
mod words;

use std::fmt;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{debug, error, trace};

use crate::access_log::Record;
use crate::body::Exchange;
use crate::claim::Claim;
use crate::client::BareSocket;
use crate::client_body::{ClientBodyError, Upgrade, UpgradedClient};
use crate::error::Error;
use crate::extended::{Asked, Extended};
use crate::http1::replica::Connection;
use crate::meter::Kind;
use crate::stream::Stream;
use crate::upstream::WebSocketLimits;
pub(crate) use ends::Ends;
use ends::Told;
#[cfg(not(feature = "fuzzing"))]
use frames::Sender;
#[cfg(feature = "fuzzing")]
pub(crate) use frames::{Frames, Sender};
use keep::{Keep, Kept, KeptFigures, Origin};
use pump::{Ended, Terms};
use side::Side;
pub(crate) use tally::Tally;
pub use tally::{By, FRAME_TYPES, WebSockets};
pub(crate) use traffic::Traffic;
pub use words::CloseFrame;
pub(crate) use words::may_be_sent;

/// Both sides of a tunnel that was agreed upon, and what it holds.
pub(crate) struct Tunnel {
    pub(crate) client: Asked,
    /// The function's side.
    pub(crate) connection: Box<Connection>,
    pub(crate) exchange: Arc<Exchange>,
    /// They agreed upon WebSocket, not upon something else.
    pub(crate) websocket: bool,
    /// Until when the client's token counts, if it came with one.
    pub(crate) until: Option<SystemTime>,
    pub(crate) record: Record,
}

/// Where tunnels run.
#[derive(Debug, Default)]
pub(crate) struct Tunnels {
    tracker: TaskTracker,
    /// Those of them that end with this process.
    ending: TaskTracker,
    ends: Ends,
    /// No more are to come.
    draining: CancellationToken,
    /// Speaks to those that need not.
    ends_of_kept: Ends,
    keep: OnceLock<Arc<Keep>>,
}

/// What a tunnel has of the server.
struct Ties {
    keep: Option<Arc<Keep>>,
    /// Held by those that end with this process.
    ending: Option<TaskTrackerToken>,
    server: Told,
    if_kept: Told,
}

/// A tunnel of which both sides are there.
struct Open {
    client: Client,
    function: TcpStream,
    exchange: Arc<Exchange>,
    record: Record,
    kept: Option<Kept>,
    websocket: bool,
    /// When the client's token ends.
    expires: Option<Instant>,
    /// Speaks for the replica.
    replica: Told,
    /// Speaks for the server.
    server: Told,
    /// What is held until the end.
    ties: (Option<Arc<Extended>>, Option<TaskTrackerToken>),
}

/// The way to a tunnel, and from where on its bytes move. It is over before anything moves.
type Opening = Pin<Box<dyn Future<Output = Option<(Open, [Origin; 2])>> + Send>>;

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

    /// How many of them end with this process.
    pub(crate) fn ending(&self) -> usize {
        self.ending.len()
    }

    /// Of those that outlive a process.
    pub(crate) fn kept(&self) -> KeptFigures {
        self.keep.get().map_or_else(KeptFigures::default, |keep| keep.figures())
    }

    /// Keeps those that open from now on, as far as that can be.
    pub(crate) fn keep(&self, keep: Arc<Keep>) {
        if self.keep.set(keep).is_err() {
            error!("there is one that keeps tunnels already");
        }
    }

    /// Ends all of them, spread over `over`, and at once those that still come; those that are kept only if `all`.
    pub(crate) fn end(&self, over: Duration, all: bool) {
        if all {
            self.draining.cancel();
        }
        self.ends.pace(over);
        if all {
            self.ends_of_kept.pace(over);
        }
        self.ending.close();
        self.tracker.close();
    }

    /// Ends all of them without a word; those that are kept only if `all`.
    pub(crate) fn cut(&self, all: bool) {
        self.ends.cut();
        if all {
            self.ends_of_kept.cut();
        }
        self.ending.close();
        self.tracker.close();
    }

    /// Leaves those that are kept where they are.
    pub(crate) fn leave(&self) {
        if let Some(keep) = self.keep.get() {
            keep.leave();
        }
    }

    /// Resolves when all have ended, or all that are not kept, and no more come: [`end`](Self::end) or
    /// [`cut`](Self::cut) was called before.
    pub(crate) async fn ended(&self, all: bool) {
        if all { self.tracker.wait().await } else { self.ending.wait().await }
    }

    /// Runs a tunnel until both sides are done, one fails, nothing moves, or it is told to end.
    pub(crate) fn open(&self, tunnel: Tunnel) {
        tunnel.exchange.claim().meter_as(Kind::Tunnel);
        let replica = tunnel.exchange.claim().endpoint().ends().listen();
        self.carry(open(tunnel, replica, self.ties()));
    }

    fn carry(&self, opening: impl Future<Output = Option<(Open, [Origin; 2])>> + Send + 'static) {
        self.tracker.spawn(carry(Box::pin(opening)));
    }

    fn ties(&self) -> Ties {
        Ties {
            keep: self.keep.get().cloned(),
            ending: Some(self.ending.token()),
            server: self.ends.listen(),
            if_kept: self.ends_of_kept.listen(),
        }
    }
}

impl Ties {
    /// Who speaks for the server to a tunnel that is kept, or is not.
    fn settle(self, kept: bool) -> (Told, Option<TaskTrackerToken>) {
        if kept { (self.if_kept, None) } else { (self.server, self.ending) }
    }
}

/// Sees a tunnel through. What is in this function is what an open one takes.
async fn carry(opening: Opening) {
    // Taken apart at once: what something was taken out of by parts is kept as a whole.
    let Some((
        Open {
            mut client,
            mut function,
            exchange,
            record,
            mut kept,
            websocket,
            expires,
            replica,
            server,
            ties,
        },
        origins,
    )) = opening.await
    else {
        return;
    };
    let terms = Terms {
        websocket,
        expires,
        limits: exchange.claim().upstream().shared_limits(),
        traffic: exchange.claim().traffic(),
        tally: &exchange.claim().upstream().counters().websockets,
        replica,
        server,
        kept: kept.as_mut(),
    };
    let ended = pump::run(client.side(), Side::Socket(&mut function), origins, terms).await;
    if ended.is_some()
        && kept.is_some()
        && let Some(client) = client.socket()
    {
        shut(client, &function);
    }
    // Boxed: a tunnel pays for its end when that comes.
    Box::pin(finish(ended, kept, exchange, record)).await;
    drop(client);
    // Only now may its connection be taken for one that has nothing to do.
    drop(ties);
}

/// Waits for the client's side, and writes the tunnel down if it can be kept.
async fn open(tunnel: Tunnel, replica: Told, ties: Ties) -> Option<(Open, [Origin; 2])> {
    let Tunnel { client, connection, exchange, websocket, until, mut record } = tunnel;
    let expires = until.and_then(|until| {
        let left = until.duration_since(SystemTime::now()).unwrap_or_default();
        Instant::now().checked_add(left)
    });
    let Asked { upgrade: client, extended } = client;
    let (function, of_function) = connection.into_socket();
    let (mut client, of_client) = match Client::upgraded(client).await {
        Ok(client) => client,
        Err(failed) => {
            record.broken = Some("upgrade");
            record.closed(None, None);
            debug!(%failed, "a tunnel ended before it began");
            return None;
        }
    };
    let ahead = Ahead { of_client, of_function };
    let claim = exchange.claim();
    // What is put into a tunnel, or taken out, nobody could count who only knows the kernel's numbers.
    let limited = claim.upstream().shared_limits().websocket != WebSocketLimits::default();
    let kept = match (&ties.keep, client.socket().filter(|_| !limited)) {
        (Some(keep), Some(client)) => keep.open(claim, websocket, expires, (client, &function), &ahead).await,
        _ => None,
    };
    let origins = match &kept {
        Some(kept) => kept.origins(&ahead),
        None => {
            let frames = keep::frames(websocket);
            [(&ahead.of_client, Sender::Client), (&ahead.of_function, Sender::Function)]
                // A copy, as a rule of nothing: what is ahead is part of the buffer in which the handshake was.
                .map(|(ahead, sender)| Origin::own(ahead, frames(sender)))
        }
    };
    let (server, ending) = ties.settle(kept.is_some());
    let ties = (extended, ending);
    let open = Open { client, function, exchange, record, kept, websocket, expires, replica, server, ties };
    Some((open, origins))
}

/// What the client's side of a tunnel is made of.
enum Client {
    /// All of a connection.
    Connection(BareSocket),
    /// One stream of an HTTP/2 connection.
    Http2(Box<TokioIo<Upgraded>>),
    /// A connection that an earlier process has opened.
    Resumed(TcpStream),
}

impl Client {
    /// The client's side, and what was read of it behind the handshake. It is there once the 101 was written to it.
    async fn upgraded(upgrade: Upgrade) -> Result<(Self, Bytes), ClientBodyError> {
        Ok(match upgrade.upgraded().await? {
            UpgradedClient::Http1(socket, ahead) => (Self::Connection(socket.into_bare()), ahead),
            UpgradedClient::Http2(stream) => (Self::Http2(Box::new(TokioIo::new(stream))), Bytes::new()),
        })
    }

    fn side(&mut self) -> Side<'_> {
        match self {
            Self::Connection(socket) => match socket.stream() {
                Stream::Plain(socket) => Side::Socket(socket),
                Stream::Tls(stream) => Side::Inner(&mut **stream),
            },
            Self::Http2(stream) => Side::Inner(&mut **stream),
            Self::Resumed(socket) => Side::Socket(socket),
        }
    }

    /// The socket, if it is that and nothing else.
    fn socket(&mut self) -> Option<&TcpStream> {
        match self.side() {
            Side::Socket(socket) => Some(socket),
            Side::Inner(_) => None,
        }
    }
}

/// Ends both connections, of which there are copies in the store that would hold them open until they are gone, too.
fn shut(client: &TcpStream, function: &TcpStream) {
    for socket in [client, function] {
        if let Err(error) = SockRef::from(socket).shutdown(Shutdown::Both) {
            trace!(%error, "gone before the end");
        }
    }
}

/// Ties up what is left of a tunnel.
async fn finish(ended: Option<Box<Ended>>, kept: Option<Kept>, exchange: Arc<Exchange>, mut record: Record) {
    match (ended, kept) {
        (Some(ended), kept) => {
            (record.received, record.sent) = (ended.of_client, ended.to_client);
            record.broken = ended.broken;
            if let Some((code, by)) = ended.closed {
                exchange.claim().upstream().counters().websockets.closed(code, by, ended.age);
            }
            record.closed(ended.messages, ended.closed.map(|(code, by)| (code, by.name())));
            drop(exchange);
            drop(record);
            if let Some(kept) = kept {
                kept.close().await;
            }
        }
        (None, kept) => {
            record.broken = Some("handed over");
            if let Some(kept) = kept {
                kept.keep().hold(exchange);
            }
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

    #[test]
    fn an_idle_tunnel_is_a_small_task() {
        fn size_of_future<F>(_: fn(Opening) -> F) -> usize {
            size_of::<F>()
        }
        let size = size_of_future(carry);
        assert!(size <= 864, "{size} bytes");
    }
}
