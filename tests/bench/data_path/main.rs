//! Measures the way of bytes through Roost beside nginx and HAProxy, and prints tables. `tests/bench/data-path` builds and
//! runs it.
//!
//! Owns the order of things: the proxies stand in front of one replica of one function and take turns at each load, round
//! by round, so that whatever else the machine does hits all alike. What a proxy costs is the processor time of its
//! processes, as the kernel counts it, for each request. It judges nothing but the bars that it prints.

#![allow(clippy::unwrap_used, reason = "a measurement fails where it panics")]
#![allow(clippy::print_stdout, reason = "the tables are for people")]

#[path = "../figures.rs"]
mod figures;
mod http;
mod idle;
mod messages;
mod peers;
mod sockets;

use std::process::ExitCode;
use std::time::Duration;

use peers::Peers;

/// What is to be measured.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    /// How often each proxy has its turn.
    rounds: usize,
    /// How long a turn is.
    turn: Duration,
    /// How many idle WebSockets.
    tunnels: usize,
    /// Which parts.
    part: Option<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Http,
    Messages,
    Idle,
}

impl Wanted {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut wanted = Self { rounds: 5, turn: Duration::from_secs(4), tunnels: 8000, part: None };
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
            let number = || match value.parse() {
                Ok(number @ 1..) => Ok(number),
                _ => Err(format!("{name}: not a number from 1: {value}")),
            };
            match name.as_str() {
                "--rounds" => wanted.rounds = number()?,
                "--seconds" => wanted.turn = Duration::from_secs(number()? as u64),
                "--tunnels" => wanted.tunnels = number()?,
                "--part" => {
                    wanted.part = Some(match value.as_str() {
                        "http" => Part::Http,
                        "messages" => Part::Messages,
                        "idle" => Part::Idle,
                        _ => return Err(format!("--part: not http, messages or idle: {value}")),
                    });
                }
                _ => return Err(format!("unknown: {name}")),
            }
        }
        Ok(wanted)
    }

    fn has(self, part: Part) -> bool {
        self.part.is_none_or(|only| only == part)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let wanted = match Wanted::parse(std::env::args().skip(1)) {
        Ok(wanted) => wanted,
        Err(mistake) => {
            println!(
                "{mistake}\ndata-path [--rounds N] [--seconds N] [--tunnels N] [--part http|messages|idle]"
            );
            return ExitCode::from(2);
        }
    };
    let peers = Peers::start().await;
    if wanted.has(Part::Http) {
        http::measure(&peers, wanted.rounds, wanted.turn).await;
    }
    if wanted.has(Part::Messages) {
        messages::measure(&peers, wanted.rounds, wanted.turn).await;
    }
    if wanted.has(Part::Idle) {
        idle::measure(&peers, wanted.tunnels).await;
    }
    ExitCode::SUCCESS
}
