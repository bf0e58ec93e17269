//! One message to many: frames for each second of processor time.
//!
//! Messages are said one at a time, the next when all have heard the last one, or by several speakers at once. The bare
//! floor beside both is one system call for each frame, and one for all that a client is told at once.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::figures::{Figures, Table, shown};
use crate::floor::Floor;
use crate::peers::Peers;

/// How many listen.
const LISTENERS: usize = 1_000;
/// How often something is said to them in one round.
const MESSAGES: usize = 100;
/// By how many at once, when it is not one at a time.
const SPEAKERS: usize = 16;
/// How many bytes that has.
const LENGTH: usize = 100;
/// And as a frame.
const FRAME: usize = LENGTH + 2;
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

/// Those who listen, and what was measured of them.
struct Listening {
    streams: Vec<TcpStream>,
    cpu: Figures,
    wall: Figures,
}

impl Listening {
    fn new(streams: Vec<TcpStream>) -> Self {
        Self { streams, cpu: Figures::default(), wall: Figures::default() }
    }

    /// Does what sends `messages` to each, until all have heard them.
    async fn hear<T>(&mut self, messages: usize, sending: impl Future<Output = T>) -> T {
        let listening = std::mem::take(&mut self.streams).into_iter().map(|mut stream| {
            tokio::spawn(async move {
                let mut heard = vec![0; FRAME * messages];
                stream.read_exact(&mut heard).await.unwrap();
                stream
            })
        });
        let listening: Vec<_> = listening.collect();
        let sent = sending.await;
        self.streams = join_all(listening).await.into_iter().map(Result::unwrap).collect();
        sent
    }

    fn note(&mut self, cpu: Duration, wall: Duration) {
        let frames = (LISTENERS * MESSAGES) as f64;
        self.cpu.add_number(frames / cpu.as_secs_f64());
        self.wall.add_number(frames / wall.as_secs_f64());
    }
}

pub(crate) async fn measure(peers: &Peers, rounds: usize) {
    let roost = peers.roost();
    let open: Vec<TcpStream> = stream::iter(0..LISTENERS).map(|_| roost.open()).buffered(64).collect().await;
    let (mut floor, ends) = Floor::open(LISTENERS).await;
    let (mut roost_streams, mut floor_streams) = (open, ends);
    let text = "x".repeat(LENGTH);
    let mut table = Table::new(&["", "frames per CPU second", "least", "frames/s", "bar"]);
    for at_once in [1, MESSAGES] {
        let (mut of_roost, mut of_floor) = (Listening::new(roost_streams), Listening::new(floor_streams));
        for _ in 0..rounds {
            let (begun, before) = (Instant::now(), roost.cpu());
            for _ in 0..MESSAGES / at_once {
                let saying = async {
                    let said = stream::iter(0..at_once).map(|_| say(peers, &text));
                    let all = said.buffer_unordered(SPEAKERS).all(async |queued| queued == LISTENERS as u64);
                    assert!(all.await, "somebody was not told");
                };
                of_roost.hear(at_once, saying).await;
            }
            of_roost.note(roost.cpu() - before, begun.elapsed());
            let (begun, mut cpu) = (Instant::now(), Duration::ZERO);
            for _ in 0..MESSAGES / at_once {
                let (sockets, took) = of_floor.hear(at_once, floor.send(vec![b'x'; FRAME * at_once])).await;
                (floor, cpu) = (sockets, cpu + took);
            }
            of_floor.note(cpu, begun.elapsed());
        }
        let met = if of_roost.cpu.median().is_some_and(|frames| frames >= BAR) { "met" } else { "not met" };
        let how = if at_once == 1 { "one at a time" } else { "by 16 at once" };
        for (name, of, bar) in
            [("roost", &of_roost, format!("{BAR:.0}: {met}")), ("bare", &of_floor, String::new())]
        {
            table.row(&[
                format!("{how}, {name}"),
                shown(of.cpu.median()),
                shown(of.cpu.percentile(0)),
                shown(of.wall.median()),
                bar,
            ]);
        }
        (roost_streams, floor_streams) = (of_roost.streams, of_floor.streams);
    }
    println!(
        "\nbroadcast: {MESSAGES} messages of {LENGTH} bytes to {LISTENERS} connections, {rounds} rounds\n\n{table}"
    );
}
