//! Messages that the function sends back, one at a time on each connection.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::figures::{Figures, Table, shown};
use crate::peers::{Peers, message};

/// How many bytes a message has.
const LENGTH: u8 = 100;

pub(crate) async fn measure(peers: &Peers, rounds: usize, turn: Duration) {
    for connections in [32, 128] {
        let mut figures: Vec<_> =
            peers.all().iter().map(|_| (Figures::default(), Figures::default(), 0)).collect();
        for _ in 0..rounds {
            for (peer, (per_second, micros, lost)) in peers.all().iter().zip(&mut figures) {
                let mut streams = Vec::new();
                for _ in 0..connections {
                    streams.push(peer.open().await);
                }
                let before = peer.cpu();
                let begun = Instant::now();
                let echoes = streams.into_iter().map(|stream| tokio::spawn(talk(stream, begun + turn)));
                let counts: Vec<_> = join_all(echoes).await.into_iter().map(Result::unwrap).collect();
                let messages: u32 = counts.iter().map(|(count, _)| count).sum();
                *lost += counts.iter().filter(|(_, kept)| !kept).count();
                per_second.add_number(f64::from(messages) / begun.elapsed().as_secs_f64());
                micros.add_number((peer.cpu() - before).as_secs_f64() * 1e6 / f64::from(messages));
            }
        }
        println!(
            "\nevents: {LENGTH} bytes sent back by the function, {connections} connections, {rounds} turns of {turn:?}\n"
        );
        let mut table = Table::new(&[
            "",
            "round trips/s",
            "CPU µs each",
            "least",
            "round trips per CPU second",
            "bar",
            "closed",
        ]);
        for (peer, (per_second, micros, lost)) in peers.all().iter().zip(&figures) {
            let of_roost = micros.median().zip(figures[0].1.median()).map(|(own, roost)| own / roost);
            table.row(&[
                peer.name.to_owned(),
                shown(per_second.median()),
                shown(micros.median()),
                shown(micros.percentile(0)),
                of_roost.map_or_else(String::new, |ratio| format!("1 / {ratio:.1}")),
                if peer.name == "roost" { String::new() } else { "1 / 5 or less".to_owned() },
                lost.to_string(),
            ]);
        }
        println!("{table}");
    }
}

/// Sends a message as often as it has come back. How often it did, and if the connection is still open.
async fn talk(mut stream: TcpStream, until: Instant) -> (u32, bool) {
    let (frame, length) = message(LENGTH);
    let mut echo = vec![0; length];
    let mut count = 0;
    while Instant::now() < until {
        let sent = stream.write_all(&frame).await;
        if sent.is_err() || stream.read_exact(&mut echo).await.is_err() || echo[..2] != [0x82, LENGTH] {
            return (count, false);
        }
        count += 1;
    }
    (count, true)
}
