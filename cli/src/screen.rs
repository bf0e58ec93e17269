//! A whole screen that is drawn over and over until somebody wants to leave it.
//!
//! Owns the terminal meanwhile: the alternate screen, and the keys, Ctrl-C among them. It is set back when this is dropped,
//! on every way out.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::failure::Stdout;

/// The alternate screen, empty, without a cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[H\x1b[J";
/// The usual one, as it was.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// What is taken for the wish to leave: `q`, Ctrl-C and Ctrl-D.
const LEAVING: &[u8] = b"qQ\x03\x04";
/// The size of a terminal that does not know it.
const USUAL: (usize, usize) = (80, 24);

/// The screen.
pub(crate) struct Screen {
    keys: File,
    before: Termios,
}

impl Screen {
    /// Takes the terminal; `None` where stdout is none, or has no keys to leave by.
    pub(crate) fn open() -> io::Result<Option<Self>> {
        let tty = File::options().read(true).write(true).open("/dev/tty");
        let (true, Ok(keys)) = (io::stdout().is_terminal(), tty) else { return Ok(None) };
        let before = tcgetattr(&keys)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        tcsetattr(&keys, OptionalActions::Flush, &silent)?;
        // From here on it is set back, whatever fails.
        let screen = Self { keys, before };
        write(ENTER)?;
        Ok(Some(screen))
    }

    /// How many columns and lines can be drawn on. In the last column a terminal is of two minds about where it is, so
    /// that is none of them.
    pub(crate) fn size() -> (usize, usize) {
        let size = tcgetwinsize(io::stdout()).map(|size| (size.ws_col.into(), size.ws_row.into()));
        let (columns, lines): (usize, usize) =
            size.ok().filter(|(columns, lines)| *columns > 1 && *lines > 1).unwrap_or(USUAL);
        (columns - 1, lines)
    }

    /// Shows these lines and nothing else. None may be longer than the screen is wide, and there may be no more than it is
    /// high; the one at `titles` stands out.
    pub(crate) fn draw(lines: &[String], titles: usize) -> Result<(), Stdout> {
        let mut text = "\x1b[H".to_owned();
        for (index, line) in lines.iter().enumerate() {
            let (on, off) = if index == titles { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
            // Behind the last line there is no next one: the screen would roll.
            let end = if index + 1 < lines.len() { "\x1b[K\r\n" } else { "\x1b[K" };
            text.push_str(&[on, line, off, end].concat());
        }
        text.push_str("\x1b[J");
        Ok(write(&text)?)
    }

    /// Waits until `news` can be read; `true` if somebody wants to leave first.
    pub(crate) fn wait(&mut self, news: &impl AsFd) -> io::Result<bool> {
        loop {
            let mut ready = [
                PollFd::new(&self.keys, PollFlags::IN),
                PollFd::from_borrowed_fd(news.as_fd(), PollFlags::IN),
            ];
            match poll(&mut ready, None) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            let [keys, news] = ready.map(|fd| !fd.revents().is_empty());
            if keys {
                let mut typed = [0; 64];
                let count = self.keys.read(&mut typed)?;
                if count == 0 || typed[..count].iter().any(|key| LEAVING.contains(key)) {
                    return Ok(true);
                }
            }
            if news {
                return Ok(false);
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // The terminal may be gone; then there is nothing to set back.
        write(LEAVE).ok();
        tcsetattr(&self.keys, OptionalActions::Flush, &self.before).ok();
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
