//! What takes calls over, and one turn of it.

use std::fs;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::disk::Writes;
use crate::figures::Figures;
use crate::nats::Nats;
use crate::roost::Roost;

/// A tick of the processor time that the kernel tells of a process.
const TICK: Duration = Duration::from_millis(10);

/// What one client was told.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) count: u64,
    pub(crate) refused: u64,
    /// How long each acknowledgement took.
    pub(crate) waits: Figures,
}

/// What was measured in the turns of one peer, each time as a number.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    pub(crate) accepted: Figures,
    pub(crate) p50: Figures,
    pub(crate) p99: Figures,
    /// Calls or messages that were accepted and brought to their end, of a second.
    pub(crate) completed: Figures,
    /// Of one that came to its end.
    pub(crate) micros: Figures,
    pub(crate) bytes: Figures,
    pub(crate) refused: u64,
}

#[derive(Debug)]
pub(crate) enum Peer {
    Roost(Box<Roost>),
    Nats(Nats),
}

impl Peer {
    pub(crate) async fn all() -> [(&'static str, Self); 3] {
        [
            ("roost", Self::Roost(Box::new(Roost::start().await))),
            ("nats, written through", Self::Nats(Nats::start(Writes::Through).await)),
            ("nats, not durable", Self::Nats(Nats::start(Writes::Asked).await)),
        ]
    }

    /// Lets so many clients hand over calls with this body for so long, and waits until all have come to their end.
    pub(crate) async fn turn(&self, clients: usize, body: &[u8], length: Duration, turns: &mut Turns) {
        let before = match self {
            Self::Roost(roost) => roost.ended().await,
            Self::Nats(_) => 0,
        };
        let (cpu, written, begun) = (self.cpu(), self.written(), Instant::now());
        let told = self.hand_over(clients, body, length).await;
        let took = begun.elapsed().as_secs_f64();
        let count: u64 = told.iter().map(|told| told.count).sum();
        match self {
            Self::Roost(roost) => roost.drain(before + count).await,
            Self::Nats(nats) => nats.drain(count).await,
        }
        let calls = count as f64;
        let mut waits = Figures::default();
        for told in told {
            turns.refused += told.refused;
            waits.append(told.waits);
        }
        turns.accepted.add_number(calls / took);
        turns.completed.add_number(calls / begun.elapsed().as_secs_f64());
        turns.p50.add_number(waits.percentile(50).unwrap());
        turns.p99.add_number(waits.percentile(99).unwrap());
        turns.micros.add_number((self.cpu() - cpu).as_secs_f64() * 1e6 / calls);
        turns.bytes.add_number((self.written() - written) as f64 / calls);
    }

    async fn hand_over(&self, clients: usize, body: &[u8], length: Duration) -> Vec<Accepted> {
        let mut running = Vec::new();
        let until = Instant::now() + length;
        for _ in 0..clients {
            running.push(match self {
                Self::Roost(roost) => tokio::spawn(roost.client(body).await.post(until)),
                Self::Nats(nats) => tokio::spawn(nats.publisher(body).await.publish(until)),
            });
        }
        join_all(running).await.into_iter().map(Result::unwrap).collect()
    }

    fn pid(&self) -> i32 {
        match self {
            Self::Roost(roost) => roost.pid(),
            Self::Nats(nats) => nats.pid(),
        }
    }

    /// The processor time that it has used, with that of threads that have ended.
    fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // The name stands in parentheses, and may have spaces in it.
        let fields = stat.rsplit_once(") ").unwrap().1.split(' ').skip(11).take(2);
        let ticks: u32 = fields.map(|field| field.parse::<u32>().unwrap()).sum();
        TICK * ticks
    }

    /// How many bytes it has made the kernel write to disks.
    fn written(&self) -> u64 {
        let io = fs::read_to_string(format!("/proc/{}/io", self.pid())).unwrap();
        io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap().parse().unwrap()
    }
}
