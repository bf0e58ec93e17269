//! `roost top`: what functions are doing, once a second.
//!
//! ```text
//! terminal: a thread looks ─look, wake─▶ draw ◀─keys─ a person        else: look, print, pause
//! ```

use std::io::{PipeReader, Read, Write};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use jiff::Timestamp;

use super::top_table::{Meter, Row, Sort, cut, lines, plain, summary};
use super::wait::pause;
use crate::api::Function;
use crate::args::Global;
use crate::client::{Client, Error};
use crate::duration;
use crate::failure;
use crate::output::Output;
use crate::screen::Screen;

/// The shortest time between two looks.
const SHORTEST: Duration = Duration::from_millis(100);

const NOTES: &str = "\
On a terminal the table fills the screen until q or Ctrl-C. Elsewhere it is printed once per interval.

IN-FLIGHT are requests at replicas, open connections included; CONNS are the connections alone; WAITING are requests that \
wait for a replica; QUEUED are calls of /async-function that are not over. RPS, requests that ended in a second, and CPU, in \
thousandths of a core, are since the last look.

Examples:
  roost top
  roost top --once --sort name
  roost top --json --interval 5s        # a line of JSON every 5 seconds";

/// Watch what functions are doing
#[derive(Debug, Args)]
#[command(after_help = NOTES)]
pub(crate) struct TopArgs {
    /// Time between two looks
    #[arg(short, long, value_name = "DURATION", default_value = "1s", value_parser = duration::parse)]
    interval: Duration,
    /// Print the table once, an interval from now, as rates take two looks
    #[arg(short = '1', long)]
    once: bool,
    /// What to order the functions by
    #[arg(short, long, value_name = "ORDER", default_value = "rps")]
    sort: Sort,
    /// Of all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
}

/// All functions, or why they are not known.
type Look = Result<Vec<Function>, Error>;

/// Where the numbers come from.
struct Source {
    client: Client,
    all: bool,
    namespace: Option<String>,
}

pub(crate) fn run(args: &TopArgs, global: &Global, out: &mut Output) -> Result<()> {
    if args.interval < SHORTEST {
        return Err(failure::usage("--interval: expected 100ms or more"));
    }
    let client = super::connect(global)?;
    let source = Source { client, all: args.all_namespaces, namespace: global.namespace.clone() };
    if args.once {
        return once(&source, args, out);
    }
    let screen = if out.json { None } else { Screen::open().context("cannot use the terminal")? };
    match screen {
        Some(screen) => live(source, args, screen),
        None => plainly(&source, args, out),
    }
}

impl Source {
    fn look(&self) -> Look {
        if !self.all {
            return self.client.functions_with_usage(self.namespace.as_deref());
        }
        let mut functions = Vec::new();
        for namespace in self.client.namespaces()? {
            match self.client.functions_with_usage(Some(&namespace)) {
                // It has ended meanwhile.
                Err(error) if error.status() == Some(400) => {}
                found => functions.extend(found?),
            }
        }
        Ok(functions)
    }
}

fn once(source: &Source, args: &TopArgs, out: &mut Output) -> Result<()> {
    let mut meter = Meter::default();
    meter.rows(&source.look()?, Instant::now(), args.sort);
    pause(args.interval);
    let rows = meter.rows(&source.look()?, Instant::now(), args.sort);
    if out.json { out.value(&rows) } else { print(&rows, args, out) }
}

/// Prints a table per interval, for as long as somebody reads. A daemon that is away is waited for.
fn plainly(source: &Source, args: &TopArgs, out: &mut Output) -> Result<()> {
    let (mut meter, mut known, mut away) = (Meter::default(), false, false);
    loop {
        match source.look() {
            Ok(functions) => {
                let rows = meter.rows(&functions, Instant::now(), args.sort);
                if away {
                    out.note(format!("roost: {} answers again", source.client.gateway()));
                }
                away = false;
                // The first look has no rates.
                match (known, out.json) {
                    (false, _) => {}
                    (true, true) => out.line(serde_json::to_string(&rows)?)?,
                    (true, false) => {
                        print(&rows, args, out)?;
                        out.line("")?;
                    }
                }
                known = true;
            }
            Err(error) if error.is_passing() => {
                if !away {
                    out.note(format!("roost: {error}\nroost: trying again every {:?}", args.interval));
                }
                away = true;
            }
            Err(error) => return Err(error.into()),
        }
        pause(args.interval);
    }
}

fn print(rows: &[Row], args: &TopArgs, out: &mut Output) -> Result<()> {
    let lines = lines(rows, args.all_namespaces, None, Timestamp::now());
    Ok(out.line(format!("{}\n{}", summary(rows), lines.join("\n")))?)
}

/// Fills the screen until somebody leaves. Keys are heard at once, however long the daemon takes to answer.
fn live(source: Source, args: &TopArgs, mut screen: Screen) -> Result<()> {
    let gateway = source.client.gateway().to_owned();
    let (mut wake, looks) = watch(source, args.interval)?;
    let (mut meter, mut rows, mut trouble) = (Meter::default(), None, None);
    loop {
        draw(&gateway, trouble.as_deref(), rows.as_deref(), args)?;
        if screen.wait(&wake)? {
            return Ok(());
        }
        wake.read_exact(&mut [0])?;
        match looks.recv()? {
            Ok(functions) => {
                rows = Some(meter.rows(&functions, Instant::now(), args.sort));
                trouble = None;
            }
            Err(error) if error.is_passing() => trouble = Some(format!("{error}\nTrying again.")),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Looks again and again on a thread of its own, until nobody takes what it finds. There is a byte to read for each look.
fn watch(source: Source, interval: Duration) -> Result<(PipeReader, Receiver<Look>)> {
    let (wake, mut waker) = std::io::pipe().context("cannot make a pipe")?;
    let (tell, looks) = sync_channel(1);
    thread::spawn(move || {
        while tell.send(source.look()).is_ok() && waker.write_all(&[0]).is_ok() {
            pause(interval);
        }
    });
    Ok((wake, looks))
}

/// Draws what is known. What was known before a trouble is shown below it.
fn draw(gateway: &str, trouble: Option<&str>, rows: Option<&[Row]>, args: &TopArgs) -> Result<()> {
    let (columns, height) = Screen::size();
    let mut shown = vec![format!("{gateway}: {}", rows.map_or_else(|| "asking…".to_owned(), summary))];
    shown.extend(trouble.into_iter().flat_map(str::lines).map(plain));
    shown.push(String::new());
    let titles = shown.len();
    shown.extend(lines(rows.unwrap_or_default(), args.all_namespaces, Some(columns), Timestamp::now()));
    if shown.len() > height {
        let hidden = shown.len() - height + 1;
        shown.truncate(height - 1);
        shown.push(format!("… and {hidden} more"));
    }
    let shown: Vec<String> = shown.iter().map(|line| cut(line, columns)).collect();
    Ok(Screen::draw(&shown, titles)?)
}
