//! The process that takes what one replica prints and keeps it: `roostd log-driver <max_bytes>:<dir>`.
//!
//! The shim starts it beside the replica, with the function's output on descriptors 3 and 4, and waits until
//! descriptor 5 is closed. There is one for each replica, so it is small: one thread, no async runtime, a few
//! buffers of 16 to 32 KiB. It outlives the daemon, and ends when both pipes have ended.
//!
//! It never holds a function up: what cannot be written is dropped and counted (`output.rs`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use jiff::Timestamp;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};

use super::journal::{self, Journal, Origin};
use super::output::Output;
use super::record::{Entry, Stream};
use super::split::Splitter;

/// What the shim opens for a driver.
const STDOUT: RawFd = 3;
const STDERR: RawFd = 4;
const READY: RawFd = 5;

/// How much is read at once from one stream, in bytes.
const READ: usize = 16 * 1024;

/// Runs until the function's output has ended.
///
/// # Errors
/// When it cannot begin: it was not started by a shim, `arg` is no `<max_bytes>:<dir>`, or the directory cannot be made.
pub fn run(arg: &str) -> anyhow::Result<()> {
    let settings = Settings::parse(arg)?;
    let replica =
        std::env::var("CONTAINER_ID").context("CONTAINER_ID is not set: this is for the shim to start")?;
    // SAFETY: the shim opens these two for this process, and nothing else here knows of them. If it was not the
    // shim, reading fails with EBADF and the driver ends.
    let (stdout, stderr) = unsafe { (OwnedFd::from_raw_fd(STDOUT), OwnedFd::from_raw_fd(STDERR)) };

    // The shim sends TERM as it closes its side, when there may be output left in the pipes. Their end is our end.
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        mask.add(signal);
    }
    mask.thread_block().context("blocking signals")?;

    let output = Output::new(&settings.dir, &replica, settings.max_bytes)
        .with_context(|| format!("making {}", settings.dir.display()))?;
    let journal = Journal::open(Path::new(journal::SOCKET), &settings.origin(&replica));
    let mut driver = Driver { output, journal, last: Timestamp::UNIX_EPOCH };
    // A shim of another kind may not ask for the sign: there is nobody to tell, then.
    if let Err(error) = nix::unistd::close(READY)
        && error != Errno::EBADF
    {
        return Err(error).context("telling the shim that the driver is ready");
    }
    driver.keep([Source::new(Stream::Stdout, stdout), Source::new(Stream::Stderr, stderr)])
}

/// What the argument says.
#[derive(Debug, PartialEq, Eq)]
struct Settings {
    max_bytes: u64,
    dir: PathBuf,
}

impl Settings {
    fn parse(arg: &str) -> anyhow::Result<Self> {
        let (max_bytes, dir) =
            arg.split_once(':').ok_or_else(|| anyhow!("{arg:?}: expected <max_bytes>:<dir>"))?;
        let max_bytes =
            max_bytes.parse().with_context(|| format!("{arg:?}: {max_bytes:?} is no size in bytes"))?;
        let dir = PathBuf::from(dir);
        if !dir.is_absolute() {
            return Err(anyhow!("{arg:?}: the directory is not absolute"));
        }
        Ok(Self { max_bytes, dir })
    }

    /// The directory is `…/<namespace>/<function>`: the shim passes one argument only.
    fn origin(&self, replica: &str) -> Origin {
        let name = |path: Option<&Path>| {
            path.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        };
        Origin {
            function: name(Some(&self.dir)),
            namespace: name(self.dir.parent()),
            replica: replica.to_owned(),
        }
    }
}

/// One stream of the function.
struct Source {
    stream: Stream,
    pipe: Option<OwnedFd>,
    splitter: Splitter,
}

impl Source {
    fn new(stream: Stream, pipe: OwnedFd) -> Self {
        Self { stream, pipe: Some(pipe), splitter: Splitter::default() }
    }
}

struct Driver {
    output: Output,
    journal: Option<Journal>,
    last: Timestamp,
}

impl Driver {
    /// Reads both streams until both have ended.
    fn keep(&mut self, mut sources: [Source; 2]) -> anyhow::Result<()> {
        let mut buffer = [0; READ];
        while sources.iter().any(|source| source.pipe.is_some()) {
            let readable = wait(&sources).context("waiting for output")?;
            // In order of arrival as well as it can be known: what arrived together has one time.
            let now = self.now();
            for (source, _) in sources.iter_mut().zip(readable).filter(|(_, readable)| *readable) {
                let Some(pipe) = &source.pipe else { continue };
                match nix::unistd::read(pipe, &mut buffer) {
                    Ok(0) => {
                        source.pipe = None;
                        let stream = source.stream;
                        source
                            .splitter
                            .finish(|tag, text| self.take(&Entry { timestamp: now, stream, tag, text }));
                    }
                    Ok(read) => {
                        let stream = source.stream;
                        source.splitter.feed(&buffer[..read], |tag, text| {
                            self.take(&Entry { timestamp: now, stream, tag, text });
                        });
                    }
                    Err(Errno::EINTR | Errno::EAGAIN) => {}
                    Err(error) => return Err(io::Error::from(error)).context("reading output"),
                }
            }
            self.output.flush();
        }
        Ok(())
    }

    fn take(&mut self, entry: &Entry<'_>) {
        self.output.push(entry);
        if let Some(journal) = &mut self.journal {
            journal.mirror(entry.stream, entry.text);
        }
    }

    /// The time, which does not go back within a file: a clock that is set must not put lines out of order.
    fn now(&mut self) -> Timestamp {
        self.last = self.last.max(Timestamp::now());
        self.last
    }
}

/// Waits until a stream has something to read, or has ended; says which.
fn wait(sources: &[Source; 2]) -> nix::Result<[bool; 2]> {
    // A stream that has ended is left out: poll would report its end again and again.
    let open: Vec<(usize, BorrowedFd<'_>)> = sources
        .iter()
        .enumerate()
        .filter_map(|(n, source)| Some((n, source.pipe.as_ref()?.as_fd())))
        .collect();
    let mut fds: Vec<_> = open.iter().map(|(_, fd)| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    let mut readable = [false; 2];
    for ((n, _), fd) in open.iter().zip(&fds) {
        // Hang-up and error count: the read that follows tells which it is.
        readable[*n] = fd.revents().is_none_or(|events| !events.is_empty());
    }
    Ok(readable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_argument_is_a_size_and_a_directory() {
        let settings = Settings::parse("1048576:/var/lib/roost/logs/openfaas-fn/echo").unwrap();
        assert_eq!(settings.max_bytes, 1 << 20);
        let origin = settings.origin("echo-1a2b3c4d");
        assert_eq!((origin.function.as_str(), origin.namespace.as_str()), ("echo", "openfaas-fn"));
        assert_eq!(Settings::parse("1:/a:b").unwrap().dir, Path::new("/a:b"));
        for bad in ["", "1", "x:/a", "-1:/a", "1:a", "1:"] {
            assert!(Settings::parse(bad).is_err(), "{bad:?}");
        }
    }
}
