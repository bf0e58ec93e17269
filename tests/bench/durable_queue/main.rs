//! Measures calls that are taken over durably, and prints tables. `tests/bench/queue` builds and runs it.
//!
//! Owns the order of things: Roost and JetStream take turns, each on a disk of its own, with as many clients, of which each
//! waits for one acknowledgement before it says the next. Roost's function has its calls meanwhile; JetStream's worker has
//! them when the publishers are done, so that they are in nobody's way. What one call takes is processor time and bytes of
//! the server's process, from handing over to its end. It judges nothing but the bar that it prints.

#![allow(clippy::unwrap_used, reason = "a measurement fails where it panics")]
#![allow(clippy::print_stdout, reason = "the tables are for people")]

mod disk;
#[path = "../figures.rs"]
mod figures;
mod nats;
mod peers;
mod roost;

use std::process::ExitCode;
use std::time::Duration;

use figures::{Table, shown};
use peers::{Peer, Turns};

/// What is to be measured.
#[derive(Debug, Clone)]
struct Wanted {
    /// How often each has its turn.
    rounds: usize,
    /// For how long calls are handed over in a turn.
    turn: Duration,
    /// By how many at once.
    clients: usize,
    /// How many bytes a body has, one after the other.
    bodies: Vec<usize>,
}

impl Wanted {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut wanted =
            Self { rounds: 5, turn: Duration::from_secs(4), clients: 64, bodies: vec![100, 4096] };
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
            let number = |value: &str| match value.parse() {
                Ok(number @ 1..) => Ok(number),
                _ => Err(format!("{name}: not a number from 1: {value}")),
            };
            match name.as_str() {
                "--rounds" => wanted.rounds = number(&value)?,
                "--seconds" => wanted.turn = Duration::from_secs(number(&value)? as u64),
                "--clients" => wanted.clients = number(&value)?,
                "--bodies" => wanted.bodies = value.split(',').map(number).collect::<Result<_, _>>()?,
                _ => return Err(format!("unknown: {name}")),
            }
        }
        Ok(wanted)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let wanted = match Wanted::parse(std::env::args().skip(1)) {
        Ok(wanted) => wanted,
        Err(mistake) => {
            println!("{mistake}\nqueue [--rounds N] [--seconds N] [--clients N] [--bodies N,N,…]");
            return ExitCode::from(2);
        }
    };
    // Who stops it finds nothing left of it, either.
    tokio::select! {
        () = measure(&wanted) => ExitCode::SUCCESS,
        _ = tokio::signal::ctrl_c() => ExitCode::FAILURE,
    }
}

async fn measure(wanted: &Wanted) {
    let peers = Peer::all().await;
    for &length in &wanted.bodies {
        let body = vec![b'x'; length];
        let mut turns = [(); 3].map(|()| Turns::default());
        for (_, peer) in &peers {
            peer.turn(wanted.clients, &body, Duration::from_secs(1), &mut Turns::default()).await;
        }
        for _ in 0..wanted.rounds {
            for ((_, peer), turns) in peers.iter().zip(&mut turns) {
                peer.turn(wanted.clients, &body, wanted.turn, turns).await;
            }
        }
        println!(
            "\nbodies of {length} bytes, {} clients that wait, {} turns of {:?}\n",
            wanted.clients, wanted.rounds, wanted.turn
        );
        print(&peers, &turns);
    }
}

fn print(peers: &[(&'static str, Peer); 3], turns: &[Turns; 3]) {
    let mut table = Table::new(&[
        "",
        "accepted/s",
        "p50 ms",
        "p99 ms",
        "completed/s",
        "CPU µs each",
        "bytes each",
        "refused",
        "accepted ratio",
        "CPU ratio",
        "bytes ratio",
        "bar",
    ]);
    let [roost, durable, _] = turns;
    let met = roost.accepted.median() >= durable.accepted.median();
    for (number, ((name, _), of)) in peers.iter().zip(turns).enumerate() {
        table.row(&[
            (*name).to_owned(),
            shown(of.accepted.median()),
            shown(of.p50.median()),
            shown(of.p99.median()),
            shown(of.completed.median()),
            shown(of.micros.median()),
            of.bytes.median().map_or_else(String::new, |bytes| format!("{bytes:.0}")),
            of.refused.to_string(),
            roost.accepted.ratio(of.accepted.median()),
            roost.micros.ratio(of.micros.median()),
            roost.bytes.ratio(of.bytes.median()),
            match number {
                1 if met => "1.0 or more: met".to_owned(),
                1 => "1.0 or more: not met".to_owned(),
                _ => String::new(),
            },
        ]);
    }
    println!("{table}");
}
