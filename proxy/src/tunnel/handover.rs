//! Going on with the tunnels of an earlier process.
//!
//! Owns the waiting for their replicas, and what becomes of those that have none any more: they end as they would have
//! with that process, with a word. Never knows how it is written down where they were.
//!
//! ```text
//!   inherited ──► its replica is published ──► claimed ──► as any other tunnel
//!                  │ ADOPTION, or there is no such function
//!                  └──► closed: 1012
//! ```

use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::ends::Ends;
use super::keep::{Found, Inherited, Orphan};
use super::pump::{self, Terms};
use super::side::Side;
use super::{Client, Open, Origin, Tally, Ties, Traffic, Tunnels};
use crate::access_log::Record;
use crate::body::Exchange;
use crate::claim::Claim;
use crate::function::ReplicaId;
use crate::meter::Kind;
use crate::route::Routes;
use crate::upstream::Upstream;

/// How long a replica may take to be found again. It ran all the time: it has to be listed and to answer once.
const ADOPTION: Duration = Duration::from_secs(30);

impl Tunnels {
    /// Goes on with tunnels of the functions in `routes`.
    pub(crate) fn resume(&self, inherited: Inherited, routes: &Routes) {
        let Inherited { tunnels, stale } = inherited;
        if let Some(keep) = self.keep.get().cloned()
            && !stale.is_empty()
        {
            self.tracker.spawn(async move { keep.remove_stale(stale).await });
        }
        for orphan in tunnels {
            self.carry(resume(orphan, routes.clone(), self.ties()));
        }
    }
}

async fn resume(orphan: Orphan, routes: Routes, ties: Ties) -> Option<(Open, [Origin; 2])> {
    let found = orphan.read();
    let Orphan { mut kept, client, function } = orphan;
    let (client, function) = match (open(client), open(function)) {
        (Ok(client), Ok(function)) => (client, function),
        (Err(error), _) | (_, Err(error)) => {
            warn!("a tunnel of an earlier process ends: {error}");
            kept.lose().await;
            return None;
        }
    };
    let Some(Found { function: key, replica, websocket, origins: Some(origins) }) = found else {
        warn!("a tunnel of an earlier process ends, as it is not certain how far it came");
        super::shut(&client, &function);
        kept.lose().await;
        return None;
    };
    let upstream = routes.get(&key);
    let claim = match &upstream {
        Some(upstream) => {
            tokio::select! {
                biased;
                // Still where it was: nobody has moved a byte.
                () = poll_fn(|cx| kept.poll_left(cx)) => return None,
                claim = adopted(upstream, &replica) => claim,
            }
        }
        None => None,
    };
    let client = Client::Resumed(client);
    let Some((upstream, claim)) = upstream.zip(claim) else {
        info!(function = %key, %replica, "a tunnel of an earlier process ends: its replica is gone");
        end(client, function, origins, websocket, kept).await;
        return None;
    };
    let age = kept.traffic().began().elapsed();
    debug!(function = %key, %replica, ?age, "a tunnel of an earlier process goes on");
    // Until here it was the earlier process' to meter.
    claim.meter_as(Kind::Tunnel);
    kept.resumed();
    let expires = kept.expires();
    let replica = claim.endpoint().ends().listen();
    let record = Record::resumed(&upstream);
    let exchange = Arc::new(Exchange::new(claim));
    let (server, ending) = ties.settle(true);
    let (ties, kept) = ((None, ending), Some(kept));
    let open = Open { client, function, exchange, record, kept, websocket, expires, replica, server, ties };
    Some((open, origins))
}

/// The claim that the tunnel had.
async fn adopted(upstream: &Arc<Upstream>, replica: &ReplicaId) -> Option<Claim> {
    timeout(ADOPTION, upstream.claim_again(replica)).await.ok()
}

/// Ends a tunnel whose replica is no longer there as one whose replica was replaced.
async fn end(
    mut client: Client,
    mut function: TcpStream,
    origins: [Origin; 2],
    websocket: bool,
    mut kept: super::Kept,
) {
    let (ends, traffic, tally) = (Ends::default(), Traffic::default(), Tally::default());
    ends.pace(Duration::ZERO);
    let (replica, server) = (ends.listen(), ends.listen());
    let (traffic, tally, limits) = (&traffic, &tally, Arc::default());
    let (expires, kept_now) = (None, Some(&mut kept));
    let terms = Terms { websocket, expires, limits, traffic, tally, replica, server, kept: kept_now };
    if pump::run(client.side(), Side::Socket(&mut function), origins, terms).await.is_none() {
        // Whoever comes next ends it.
        return;
    }
    if let Some(client) = client.socket() {
        super::shut(client, &function);
    }
    kept.lose().await;
}

fn open(socket: OwnedFd) -> std::io::Result<TcpStream> {
    let socket = std::net::TcpStream::from(socket);
    socket.set_nonblocking(true)?;
    TcpStream::from_std(socket)
}
