//! Measures cold starts and the memory of functions that do nothing, and prints tables. `tests/bench/cold-start` builds
//! and runs it.
//!
//! Owns the order of things: kinds of starts take turns, so that whatever else the machine does hits all alike. A start is
//! begun when the machine is quiet, as far as it gets quiet. It judges nothing but the bars that it prints.

#![allow(clippy::unwrap_used, reason = "a measurement fails where it panics")]
#![allow(clippy::print_stdout, reason = "the tables are for people")]

mod callers;
#[path = "../figures.rs"]
mod figures;
mod memory;
mod phases;
mod plain;
mod quiet;
mod roost;

use std::process::ExitCode;

use figures::{Figures, Table};
use phases::Phases;
use plain::{Network, Plain};
use roost::{Kind, Roost};

/// What is to be measured.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    /// How many starts of each kind.
    starts: usize,
    /// How many callers at once.
    callers: usize,
    /// Which parts.
    part: Option<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Starts,
    Callers,
    Memory,
}

impl Wanted {
    fn parse(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut wanted = Self { starts: 30, callers: 1000, part: None };
        let mut args = args;
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
            let number = || match value.parse() {
                Ok(number @ 1..) => Ok(number),
                _ => Err(format!("{name}: not a number from 1: {value}")),
            };
            match name.as_str() {
                "--starts" => wanted.starts = number()?,
                "--callers" => wanted.callers = number()?,
                "--part" => {
                    wanted.part = Some(match value.as_str() {
                        "starts" => Part::Starts,
                        "callers" => Part::Callers,
                        "memory" => Part::Memory,
                        _ => return Err(format!("--part: not starts, callers or memory: {value}")),
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
            println!("{mistake}\ncold-start [--starts N] [--callers N] [--part starts|callers|memory]");
            return ExitCode::from(2);
        }
    };
    if wanted.has(Part::Starts) {
        starts(wanted.starts).await;
    }
    if wanted.has(Part::Callers) {
        callers::measure(wanted.callers).await;
    }
    if wanted.has(Part::Memory) {
        memory::measure().await;
    }
    ExitCode::SUCCESS
}

async fn starts(rounds: usize) {
    let roost = Roost::start().await;
    let plain = Plain::on(&roost.host).await;
    let mut plains = Network::ALL.map(|network| (network, Figures::default()));
    let mut kinds = Kind::ALL.map(|kind| (kind, Figures::default(), Phases::default()));
    let mut noisy = 0;
    for round in 0..rounds {
        for (network, figures) in &mut plains {
            noisy += usize::from(!quiet::wait().await);
            figures.add(plain.run(*network, round).await);
        }
        for (kind, figures, phases) in &mut kinds {
            // What cannot be had the first time is not waited for again.
            if round > 0 && figures.is_empty() {
                continue;
            }
            if let Some(start) = roost.start_of(*kind, &mut noisy).await {
                figures.add(start.first_byte);
                phases.add(&start.phases);
            }
        }
    }
    drop(plain);

    let against = plains.each_ref().map(|(_, figures)| figures.median());
    let mut table = Table::new(&["start", "median ms", "p90 ms", "of host net", "of CNI", "bar", ""]);
    for (network, figures) in &plains {
        table.row(&[network.name().to_owned(), figures.shown(50), figures.shown(90)]);
    }
    for (kind, figures, _) in &kinds {
        let mut row = vec![kind.name().to_owned(), figures.shown(50), figures.shown(90)];
        row.extend(against.map(|plain| figures.ratio(plain)));
        row.extend(kind.judged(figures, &against));
        table.row(&row);
    }
    println!("\n{rounds} starts of each kind, until the first byte\n\n{table}");
    let mut table =
        Table::new(&["phases, median ms", "wake", "network", "create", "start", "ready", "forward"]);
    for (kind, _, phases) in &kinds {
        let mut row = vec![kind.name().to_owned()];
        row.extend(phases.shown());
        table.row(&row);
    }
    println!("{table}");
    let all = rounds * (plains.len() + kinds.len());
    println!("{noisy} of {all} starts were begun while the machine was not quiet\n");
}
