//! Measures connections that a host holds for its functions: events, broadcasts, and memory, and prints tables.
//! `tests/bench/events` builds and runs it.
//!
//! Owns the order of things: Roost and Pushpin stand in front of one replica of one function and take turns, round by
//! round. What a host costs is the processor time of its processes, as the kernel counts it. It judges nothing but the bars
//! that it prints.

#![allow(clippy::unwrap_used, reason = "a measurement fails where it panics")]
#![allow(clippy::print_stdout, reason = "the tables are for people")]

mod broadcast;
#[path = "../figures.rs"]
mod figures;
mod floor;
mod idle;
mod peers;
mod rounds;

use std::process::ExitCode;
use std::time::Duration;

use peers::Peers;

/// What is to be measured.
#[derive(Debug, Clone)]
struct Wanted {
    /// How often each host has its turn.
    rounds: usize,
    /// How long a turn is.
    turn: Duration,
    /// How many idle connections, one after the other.
    idle: Vec<usize>,
    /// Which part.
    part: Option<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Rounds,
    Broadcast,
    Idle,
}

impl Wanted {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let idle = vec![6_000, 12_000, 18_000];
        let mut wanted = Self { rounds: 5, turn: Duration::from_secs(4), idle, part: None };
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
            let number = |value: &str| match value.parse() {
                Ok(number @ 1..) => Ok(number),
                _ => Err(format!("{name}: not a number from 1: {value}")),
            };
            match name.as_str() {
                "--rounds" => wanted.rounds = number(&value)?,
                "--seconds" => wanted.turn = Duration::from_secs(number(&value)? as u64),
                "--connections" => wanted.idle = value.split(',').map(number).collect::<Result<_, _>>()?,
                "--part" => {
                    wanted.part = Some(match value.as_str() {
                        "rounds" => Part::Rounds,
                        "broadcast" => Part::Broadcast,
                        "idle" => Part::Idle,
                        _ => return Err(format!("--part: not rounds, broadcast or idle: {value}")),
                    });
                }
                _ => return Err(format!("unknown: {name}")),
            }
        }
        Ok(wanted)
    }

    fn has(&self, part: Part) -> bool {
        self.part.is_none_or(|only| only == part)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let wanted = match Wanted::parse(std::env::args().skip(1)) {
        Ok(wanted) => wanted,
        Err(mistake) => {
            println!(
                "{mistake}\nevents [--rounds N] [--seconds N] [--connections N,…] [--part rounds|broadcast|idle]"
            );
            return ExitCode::from(2);
        }
    };
    let peers = Peers::start().await;
    if wanted.has(Part::Rounds) {
        rounds::measure(&peers, wanted.rounds, wanted.turn).await;
    }
    if wanted.has(Part::Broadcast) {
        broadcast::measure(&peers, wanted.rounds).await;
    }
    if wanted.has(Part::Idle) {
        idle::measure(&peers, &wanted.idle).await;
    }
    ExitCode::SUCCESS
}
