//! Where all is written that does not fill a screen: results to stdout, everything said about them to stderr.
//!
//! A reader that closes the pipe has seen enough: that is a success. Notes and progress are never worth a failure.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::termios::tcgetwinsize;
use serde::Serialize;

use crate::failure::{Stdout, Usage};

/// Exit code of a command that failed.
const FAILURE: u8 = 1;
/// Exit code of a command line that cannot be meant.
const USAGE: u8 = 2;
/// The least time between two drawings of the progress line.
const REDRAW: Duration = Duration::from_millis(80);

/// Where results and notes go.
pub(crate) struct Output {
    /// Programs read this: print JSON only, and no chatter.
    pub(crate) json: bool,
    live: bool,
    /// How many lines of progress stand on the terminal.
    shown: usize,
    drawn_at: Option<Instant>,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, live: io::stderr().is_terminal(), shown: 0, drawn_at: None }
    }

    /// Is there a person who sees a progress line?
    pub(crate) fn is_live(&self) -> bool {
        self.live
    }

    /// One line of the result.
    pub(crate) fn line(&mut self, text: impl Display) -> Result<(), Stdout> {
        self.clear();
        Ok(writeln!(io::stdout().lock(), "{text}")?)
    }

    /// Bytes of the result as they are, seen at once.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), Stdout> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        Ok(stdout.flush()?)
    }

    /// A result for programs.
    pub(crate) fn value(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(value)?;
        Ok(self.line(text)?)
    }

    /// A table with aligned columns; its first row names them.
    pub(crate) fn table(&mut self, rows: &[Vec<String>]) -> Result<(), Stdout> {
        self.clear();
        Ok(io::stdout().lock().write_all(align(rows).as_bytes())?)
    }

    /// Something worth knowing that is not the result.
    pub(crate) fn note(&mut self, text: impl Display) {
        self.clear();
        say(&format!("{text}\n"));
    }

    /// What is going on right now: lines that are drawn over and over, for people only.
    pub(crate) fn progress(&mut self, text: impl Display) {
        let now = Instant::now();
        let soon = self.drawn_at.is_some_and(|at| now.duration_since(at) < REDRAW);
        if !self.live || soon {
            return;
        }
        // A terminal that does not know its width says 0.
        let width = tcgetwinsize(io::stderr()).ok().map(|size| usize::from(size.ws_col)).filter(|&w| w > 1);
        let width = width.unwrap_or(80);
        // A line that wraps could not be drawn over.
        let cut = |line: &str| line.chars().take(width - 1).collect::<String>();
        let lines: Vec<_> = text.to_string().lines().map(cut).collect();
        self.clear();
        say(&lines.join("\n"));
        self.drawn_at = Some(now);
        self.shown = lines.len();
    }

    /// Removes the lines of progress.
    pub(crate) fn clear(&mut self) {
        let shown = std::mem::take(&mut self.shown);
        if shown > 0 {
            say(&format!("\r\x1b[K{}", "\x1b[A\x1b[K".repeat(shown - 1)));
        }
        self.drawn_at = None;
    }

    /// Says how it ended, and turns that into the exit code.
    pub(crate) fn finish(&mut self, result: anyhow::Result<()>) -> ExitCode {
        self.clear();
        let Err(error) = result else { return ExitCode::SUCCESS };
        if error.downcast_ref::<Stdout>().is_some_and(|e| e.0.kind() == io::ErrorKind::BrokenPipe) {
            return ExitCode::SUCCESS;
        }
        say(&format!("roost: {error:#}\n"));
        if error.downcast_ref::<Usage>().is_some() {
            say("Try 'roost --help' for more.\n");
            return ExitCode::from(USAGE);
        }
        ExitCode::from(FAILURE)
    }
}

/// Shows what the argument parser has to say: the help that was asked for, or what is wrong.
pub(crate) fn usage(shown: &clap::Error) -> ExitCode {
    let asked = !shown.use_stderr();
    match shown.print() {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => ExitCode::from(FAILURE),
        _ if asked => ExitCode::SUCCESS,
        _ => ExitCode::from(USAGE),
    }
}

/// Writes to stderr. When that fails there is nobody left to tell.
fn say(text: &str) {
    let mut stderr = io::stderr().lock();
    if stderr.write_all(text.as_bytes()).is_ok() {
        stderr.flush().ok();
    }
}

/// Columns two spaces apart, none behind the last.
fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |i: usize| rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A number of bytes for people: `512 B`, `4.2 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut size = count as f64 / 1024.0;
    if size < 1.0 {
        return format!("{count} B");
    }
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// `4.2 MiB of 8.0 MiB`, or only what is done when the whole is not known.
pub(crate) fn share(done: u64, total: u64) -> String {
    if total == 0 { bytes(done) } else { format!("{} of {}", bytes(done.min(total)), bytes(total)) }
}

/// As [`share`], with the percentage before it.
pub(crate) fn part(done: u64, total: u64) -> String {
    match done.min(total).saturating_mul(100).checked_div(total) {
        Some(percent) => format!("{percent}%, {}", share(done, total)),
        None => share(done, total),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_carry_no_trailing_space() {
        let row = |cells: &[&str]| cells.iter().map(ToString::to_string).collect::<Vec<_>>();
        let text = align(&[row(&["NAME", "PHASE"]), row(&["echo", "Ready"]), row(&["longer-name", ""])]);
        assert_eq!(text, "NAME         PHASE\necho         Ready\nlonger-name\n");
    }

    #[test]
    fn bytes_are_shown_in_the_unit_that_fits() {
        let table = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (5_500_000, "5.2 MiB"),
            (1 << 40, "1.0 TiB"),
            (1 << 52, "4096.0 TiB"),
        ];
        for (count, text) in table {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(share(3, 0), "3 B");
        assert_eq!(share(2048, 1024), "1.0 KiB of 1.0 KiB");
        assert_eq!(part(3, 0), "3 B");
        assert_eq!(part(1024, 4096), "25%, 1.0 KiB of 4.0 KiB");
    }
}
