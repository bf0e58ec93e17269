//! One message to many: frames for each second of processor time.

use std::time::Instant;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::figures::{Figures, Table, shown};
use crate::peers::Peers;

/// How many listen.
const LISTENERS: usize = 1_000;
/// How often something is said to them in one round, one behind the other.
const MESSAGES: usize = 100;
/// The bar, in frames of one second of processor time.
const BAR: f64 = 300_000.0;

/// Says something to all connections of the function: in how many queues it is.
pub(crate) async fn say(peers: &Peers, text: &str) -> u64 {
    let path = "/system/connections?function=echo";
    let answer = peers.host.api.post(path, text.to_owned()).await;
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
    let body: serde_json::Value = serde_json::from_str(answer.text()).unwrap();
    body["queued"].as_u64().unwrap()
}

pub(crate) async fn measure(peers: &Peers, rounds: usize) {
    let roost = peers.roost();
    let open: Vec<TcpStream> = stream::iter(0..LISTENERS).map(|_| roost.open()).buffered(64).collect().await;
    let text = "x".repeat(100);
    let length = (text.len() + 2) * MESSAGES;
    let (mut per_cpu_second, mut per_second) = (Figures::default(), Figures::default());
    let mut streams = open;
    for _ in 0..rounds {
        let (begun, before) = (Instant::now(), roost.cpu());
        let listening = streams.into_iter().map(|mut stream| {
            tokio::spawn(async move {
                let mut heard = vec![0; length];
                stream.read_exact(&mut heard).await.unwrap();
                stream
            })
        });
        let listening: Vec<_> = listening.collect();
        for _ in 0..MESSAGES {
            assert_eq!(say(peers, &text).await, LISTENERS as u64);
        }
        streams = join_all(listening).await.into_iter().map(Result::unwrap).collect();
        let frames = (LISTENERS * MESSAGES) as f64;
        per_cpu_second.add_number(frames / (roost.cpu() - before).as_secs_f64());
        per_second.add_number(frames / begun.elapsed().as_secs_f64());
    }
    println!(
        "\nbroadcast: {MESSAGES} messages of {} bytes to {LISTENERS} connections, {rounds} rounds\n",
        text.len()
    );
    let mut table = Table::new(&["", "frames per CPU second", "least", "frames/s", "bar"]);
    let met = if per_cpu_second.median().is_some_and(|frames| frames >= BAR) { "met" } else { "not met" };
    table.row(&[
        roost.name.to_owned(),
        shown(per_cpu_second.median()),
        shown(per_cpu_second.percentile(0)),
        shown(per_second.median()),
        format!("{BAR:.0}: {met}"),
    ]);
    println!("{table}");
}
