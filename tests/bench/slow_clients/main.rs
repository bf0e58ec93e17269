//! Measures what a healthy client notices of clients that are slow, and of those that went without a word.
//! `tests/bench/slow-clients` builds and runs it.
//!
//! Owns the order of things: turns with and without the others follow each other, so that whatever else the machine does
//! hits both alike. It judges nothing.

#![allow(clippy::unwrap_used, reason = "a measurement fails where it panics")]
#![allow(clippy::print_stdout, reason = "the tables are for people")]

#[path = "../figures.rs"]
mod figures;
mod slow;

use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use figures::{Figures, Table, shown};
use futures_util::future::join_all;
use roost_tests::{Config, ECHO, Host};
use serde_json::json;
use slow::Crowd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::MissedTickBehavior;

/// Healthy clients, and how often each asks: far from what the host can do, so that what is measured is waiting.
const HEALTHY: usize = 8;
const EVERY: Duration = Duration::from_millis(8);
/// How long memory may take to be given back.
const SETTLE: Duration = Duration::from_secs(10);
/// How long slow clients may take until all that holds something for them is full. With the turn it has to be less than
/// the time that a head may take, or those are gone that are slow at that.
const FULL: Duration = Duration::from_secs(4);

/// What is to be measured.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    rounds: usize,
    turn: Duration,
    slow: usize,
    gone: usize,
}

impl Wanted {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut wanted = Self { rounds: 7, turn: Duration::from_secs(5), slow: 1000, gone: 1000 };
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
            let number: usize = value.parse().map_err(|_| format!("{name}: not a number: {value}"))?;
            match name.as_str() {
                "--rounds" => wanted.rounds = number,
                "--seconds" => wanted.turn = Duration::from_secs(number as u64),
                "--slow" => wanted.slow = number,
                "--half-open" => wanted.gone = number,
                _ => return Err(format!("unknown: {name}")),
            }
        }
        Ok(wanted)
    }
}

/// The turns of one kind.
#[derive(Debug, Default)]
struct Turns {
    p50: Figures,
    p99: Figures,
    memory: Figures,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match Wanted::parse(std::env::args().skip(1)) {
        Ok(wanted) => measure(wanted).await,
        Err(mistake) => {
            println!("{mistake}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

async fn measure(wanted: Wanted) {
    let host = Host::with_echo(Config::default()).await;
    host.deployed(&json!({ "service": "echo", "image": ECHO, "envVars": { "QUIET": "1" } })).await;
    // What the first ones cost, all have in common.
    turn(&host, wanted.turn, &mut Turns::default()).await;
    let before = memory(&host);
    let (mut without, mut with) = (Turns::default(), Turns::default());
    for _ in 0..wanted.rounds {
        turn(&host, wanted.turn, &mut without).await;
        let crowd = Crowd::gather(host.port(), wanted.slow, wanted.gone).await;
        full(&host).await;
        turn(&host, wanted.turn, &mut with).await;
        drop(crowd);
        // What they leave is not to be the next turn's.
        tokio::time::sleep(SETTLE).await;
    }
    let after = memory(&host);
    println!(
        "\n{HEALTHY} healthy clients beside {} slow and {} half-open ones, {} turns of {:?}\n",
        wanted.slow, wanted.gone, wanted.rounds, wanted.turn
    );
    let mut table = Table::new(&["", "p50 ms", "p99 ms", "least p99", "MiB"]);
    for (name, turns) in [("without", &without), ("with", &with)] {
        let [p50, p99, memory] =
            [&turns.p50, &turns.p99, &turns.memory].map(|figures| precise(figures.median()));
        table.row(&[name.to_owned(), p50, p99, precise(turns.p99.percentile(0)), memory]);
    }
    let ratio = |with: &Figures, without: &Figures| with.ratio(without.median());
    let least = with.p99.percentile(0).zip(without.p99.percentile(0)).map(|(with, without)| with / without);
    table.row(&[
        "ratio".to_owned(),
        ratio(&with.p50, &without.p50),
        ratio(&with.p99, &without.p99),
        precise(least),
        ratio(&with.memory, &without.memory),
    ]);
    println!("{table}");
    println!(
        "MiB of roostd before the first of them: {}, and {SETTLE:?} after the last: {}",
        shown(Some(before)),
        shown(Some(after))
    );
}

fn precise(figure: Option<f64>) -> String {
    figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.2}"))
}

/// Waits until the daemon's memory grows no more.
async fn full(host: &Host) {
    let (until, mut before) = (Instant::now() + FULL, 0.0);
    while Instant::now() < until && memory(host) > before * 1.02 {
        before = memory(host);
        // Nothing tells that the last of them waits.
        tokio::time::sleep(FULL / 8).await;
    }
}

/// Lets the healthy clients ask for so long.
async fn turn(host: &Host, length: Duration, turns: &mut Turns) {
    let until = Instant::now() + length;
    let mut all = Figures::default();
    for times in join_all((0..HEALTHY).map(|_| ask(host.port(), until))).await {
        times.into_iter().for_each(|time| all.add(time));
    }
    turns.p50.add_number(all.percentile(50).unwrap());
    turns.p99.add_number(all.percentile(99).unwrap());
    turns.memory.add_number(memory(host));
}

/// How long each answer took.
async fn ask(port: u16, until: Instant) -> Vec<Duration> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let request = b"POST /function/echo/ HTTP/1.1\r\nHost: healthy\r\nContent-Length: 7\r\n\r\nhealthy";
    let mut beat = tokio::time::interval(EVERY);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut times, mut answer) = (Vec::new(), Vec::new());
    while Instant::now() < until {
        beat.tick().await;
        let begun = Instant::now();
        stream.write_all(request).await.unwrap();
        answer.clear();
        // The body comes last, and is what was sent.
        while !answer.ends_with(b"healthy") {
            assert_ne!(
                stream.read_buf(&mut answer).await.unwrap(),
                0,
                "{}",
                String::from_utf8_lossy(&answer)
            );
        }
        times.push(begun.elapsed());
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
    times
}

/// The memory that the daemon has for itself, in MiB.
fn memory(host: &Host) -> f64 {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", host.daemon_pid())).unwrap();
    let fields = rollup.lines().filter(|line| line.starts_with("Private_"));
    let kib: u64 = fields.map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()).sum();
    kib as f64 / 1024.0
}
