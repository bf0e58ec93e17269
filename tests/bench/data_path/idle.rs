//! The memory of WebSockets on which nothing is said.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;

use crate::figures::Table;
use crate::peers::{Peer, Peers};
use crate::sockets;

/// So many handshakes at a time.
const AT_A_TIME: usize = 64;
/// How long memory may take to be given back.
const SETTLE: Duration = Duration::from_secs(3);

pub(crate) async fn measure(peers: &Peers, tunnels: usize) {
    let mut each = Vec::new();
    for peer in peers.all() {
        // What the first ones cost, all have in common.
        let first: Vec<_> =
            stream::iter(0..AT_A_TIME).map(|_| sockets::open(peer)).buffered(AT_A_TIME).collect().await;
        let before = peer.memory();
        let open: Vec<_> =
            stream::iter(0..tunnels).map(|_| sockets::open(peer)).buffered(AT_A_TIME).collect().await;
        let least = settled(peer).await;
        each.push(least.saturating_sub(before) as f64 * 1024.0 / tunnels as f64);
        drop((first, open));
    }
    println!("\n{tunnels} idle WebSockets\n");
    let mut table = Table::new(&["", "bytes each", "ratio"]);
    for (peer, bytes) in peers.all().iter().zip(&each) {
        table.row(&[peer.name.to_owned(), format!("{bytes:.0}"), format!("{:.2}", each[0] / bytes)]);
    }
    println!("{table}");
}

/// The memory of `peer` once it gets no less.
async fn settled(peer: &Peer) -> u64 {
    let mut least = peer.memory();
    loop {
        // Nothing tells that memory was given back.
        tokio::time::sleep(SETTLE).await;
        let now = peer.memory();
        if now >= least {
            return least;
        }
        least = now;
    }
}
