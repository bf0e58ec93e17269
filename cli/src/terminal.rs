//! Asks a person for a secret: the answer is not echoed, and the terminal is always set back.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// Reads one line from the controlling terminal without echo. `None` when there is no terminal.
pub(crate) fn ask_secret(question: &str) -> io::Result<Option<String>> {
    let Ok(tty) = File::options().read(true).write(true).open("/dev/tty") else { return Ok(None) };
    let quiet = Quiet::new(&tty)?;
    (&tty).write_all(question.as_bytes())?;
    let mut line = String::new();
    BufReader::new(&tty).read_line(&mut line)?;
    (&tty).write_all(b"\n")?;
    drop(quiet);
    Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned()))
}

/// Echo is off as long as this lives.
struct Quiet<'a> {
    tty: &'a File,
    before: Termios,
}

impl<'a> Quiet<'a> {
    fn new(tty: &'a File) -> io::Result<Self> {
        let before = tcgetattr(tty)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(tty, OptionalActions::Flush, &silent)?;
        Ok(Self { tty, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // The terminal may be gone; then there is nothing to set back.
        tcsetattr(self.tty, OptionalActions::Flush, &self.before).ok();
    }
}
