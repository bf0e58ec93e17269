//! The memory of connections on which nothing is said, and what it takes to say something to all of them.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::broadcast;
use crate::figures::Table;
use crate::peers::Peers;

/// So many handshakes at a time.
const AT_A_TIME: usize = 64;
/// How long memory may take to be given back.
const SETTLE: Duration = Duration::from_secs(3);
/// The bar, in bytes of one connection.
const BAR: f64 = 6.0 * 1024.0;
/// What is said to all of them.
const WORDS: &str = "to all of you";
/// How often, when it is said more than once.
const BURST: usize = 20;
/// For how many the line is drawn.
const FAR: f64 = 100_000.0;

pub(crate) async fn measure(peers: &Peers, counts: &[usize]) {
    let roost = peers.roost();
    let mut open: Vec<TcpStream> =
        stream::iter(0..AT_A_TIME).map(|_| roost.open()).buffered(AT_A_TIME).collect().await;
    peers.host.scale("echo", 0).await;
    let before = settled(peers).await;
    let mut table = Table::new(&["connections", "MiB", "bytes each", "bar"]);
    let mut last = (0, 0.0);
    for &count in counts {
        let more = count.saturating_sub(open.len() - AT_A_TIME);
        let new: Vec<_> = stream::iter(0..more).map(|_| roost.open()).buffered(AT_A_TIME).collect().await;
        open.extend(new);
        let bytes = settled(peers).await.saturating_sub(before) as f64 * 1024.0;
        let each = bytes / count as f64;
        let met = if each <= BAR { "met" } else { "not met" };
        table.row(&[
            count.to_string(),
            format!("{:.1}", bytes / 1048576.0),
            format!("{each:.0}"),
            met.to_owned(),
        ]);
        last = (count, bytes);
    }
    println!("\nidle connections, function at zero replicas\n\n{table}");
    println!("by this line, {FAR:.0} would take {:.0} MiB", last.1 / last.0.max(1) as f64 * FAR / 1048576.0);

    for messages in [1, BURST] {
        let (began, cpu) = (Instant::now(), roost.cpu());
        let mut queued = 0;
        for _ in 0..messages {
            queued = broadcast::say(peers, WORDS).await;
        }
        let heard = futures_util::future::join_all(open.iter_mut().map(async |socket| {
            for _ in 0..messages {
                let mut frame = [0; WORDS.len() + 2];
                socket.read_exact(&mut frame).await.unwrap();
                assert_eq!(&frame[2..], WORDS.as_bytes());
            }
        }))
        .await;
        let frames = (heard.len() * messages) as f64;
        let used = (roost.cpu() - cpu).as_secs_f64();
        println!(
            "{messages} to all, one behind the other: heard by {} of {queued} within {:.0} ms, \
             {:.1} µs of processor time a frame, {:.0} frames of a second",
            heard.len(),
            began.elapsed().as_secs_f64() * 1000.0,
            used * 1e6 / frames,
            frames / used
        );
    }
}

/// The memory of Roost once it gets no less.
async fn settled(peers: &Peers) -> u64 {
    let mut least = peers.roost().memory();
    loop {
        // Nothing tells that memory was given back.
        tokio::time::sleep(SETTLE).await;
        let now = peers.roost().memory();
        if now >= least {
            return least;
        }
        least = now;
    }
}
