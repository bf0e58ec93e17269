//! Keeps the daemon running where there is no systemd: starts it, starts it again when it ends, and holds meanwhile what
//! has to outlive it, the listening socket and the descriptors of open connections.
//!
//! Owns one child process at a time. Has no threads and no part in any request. It speaks as systemd does (`LISTEN_FDS`,
//! `NOTIFY_SOCKET`, `FDSTORE=1`), so that the daemon need not know who started it.
//!
//! ```text
//!   running ──USR2: passed on──► handing over ──ended──► running      (another binary at the same path, perhaps)
//!      │ │ ended by itself                                  ▲
//!      │ └────────────► pause: 100 ms, doubled up to 5 s ───┘
//!      └──TERM, INT: passed on──► ending ──ended──► the end
//! ```

mod child;
pub(crate) mod shelf;

use std::ffi::OsString;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::app::own_binary;
use crate::config::Config;
use crate::gateways::bind;
use crate::handover::DESCRIPTORS;
use crate::pauses::Pauses;
use child::Start;
use shelf::Shelf;

/// The pauses between a daemon that ended by itself and the next one.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A daemon that has run for so long was well.
const WELL: Duration = Duration::from_secs(10);

/// Messages that are read before signals are looked at again.
const AT_ONCE: usize = 256;

/// Runs the daemon of these settings until TERM or INT.
///
/// # Errors
/// When it cannot be started at all, or its last end was a failure.
pub fn run(config: &Path) -> anyhow::Result<()> {
    let settings = Config::load(config)?;
    let mut supervisor = Supervisor::new(config, &settings)?;
    supervisor.run()
}

struct Supervisor {
    program: PathBuf,
    arguments: Vec<OsString>,
    listener: TcpListener,
    notify: UnixDatagram,
    notify_path: PathBuf,
    signals: SignalFd,
    /// What was blocked before.
    mask: SigSet,
    shelf: Shelf,
    child: Option<(Pid, Instant)>,
    pauses: Pauses,
    /// When the next daemon is started, while there is none.
    next: Instant,
    /// The next end is meant.
    asked: bool,
    ending: bool,
}

impl Supervisor {
    fn new(config: &Path, settings: &Config) -> anyhow::Result<Self> {
        let listener = bind(settings.listen, false).context("server.listen")?;
        let notify_path = settings.run.join("supervise.sock");
        std::fs::create_dir_all(&settings.run)
            .with_context(|| format!("cannot make the directory {}", settings.run.display()))?;
        let notify =
            receiver(&notify_path).with_context(|| format!("cannot listen on {}", notify_path.display()))?;
        let heard =
            [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR2, Signal::SIGCHLD].into_iter();
        let heard: SigSet = heard.collect();
        let mask = heard.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK)?;
        let signals = SignalFd::with_flags(&heard, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self {
            program: own_binary()?,
            arguments: ["--config".into(), config.into(), "run".into()].into(),
            listener,
            notify,
            notify_path,
            signals,
            mask,
            shelf: Shelf::new(DESCRIPTORS),
            child: None,
            pauses: Pauses::new(PAUSE),
            next: Instant::now(),
            asked: false,
            ending: false,
        })
    }

    fn run(&mut self) -> anyhow::Result<()> {
        loop {
            if self.child.is_none() && Instant::now() >= self.next {
                self.start()?;
            }
            self.wait()?;
            // What the daemon has said before it ended counts.
            self.hear();
            while let Some(signal) = self.signals.read_signal()? {
                self.signalled(i32::try_from(signal.ssi_signo)?)?;
            }
            match self.reap()? {
                Some(end) if self.ending => {
                    self.hear();
                    std::fs::remove_file(&self.notify_path).ok();
                    anyhow::ensure!(end.is_success(), "the daemon ended: {end}");
                    return Ok(());
                }
                None if self.ending && self.child.is_none() => return Ok(()),
                Some(end) => {
                    self.hear();
                    self.plan(&end);
                }
                None => {}
            }
        }
    }

    fn start(&mut self) -> anyhow::Result<()> {
        let mut descriptors = vec![("http", self.listener.as_fd())];
        descriptors.extend(self.shelf.all());
        let start = Start {
            program: &self.program,
            arguments: &self.arguments,
            notify: &self.notify_path,
            descriptors,
            limit: DESCRIPTORS,
            mask: &self.mask,
        };
        self.child = Some((start.run()?, Instant::now()));
        Ok(())
    }

    /// Waits until somebody says something, or a pause is over.
    fn wait(&self) -> anyhow::Result<()> {
        let pause = self.child.is_none().then(|| self.next.saturating_duration_since(Instant::now()));
        let limit = pause.map_or(PollTimeout::NONE, |pause| {
            // A millisecond more: what is left of one would be none.
            PollTimeout::try_from(pause + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        let of = |one| PollFd::new(one, PollFlags::POLLIN);
        match poll(&mut [of(self.signals.as_fd()), of(self.notify.as_fd())], limit) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error).context("cannot wait for signals"),
        }
    }

    /// Takes what the daemon has said.
    fn hear(&mut self) {
        for _ in 0..AT_ONCE {
            match self.shelf.take(&self.notify) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return say(&format!("roostd supervise: a message is lost: {error}")),
            }
        }
    }

    fn signalled(&mut self, number: i32) -> anyhow::Result<()> {
        let signal = Signal::try_from(number)?;
        match signal {
            Signal::SIGCHLD => return Ok(()),
            Signal::SIGUSR2 => self.asked = true,
            Signal::SIGHUP => {}
            _ => self.ending = true,
        }
        if let Some((child, _)) = self.child {
            kill(child, signal).context("the daemon cannot be signalled")?;
        }
        Ok(())
    }

    fn reap(&mut self) -> anyhow::Result<Option<End>> {
        let Some((child, _)) = self.child else { return Ok(None) };
        match waitpid(child, Some(WaitPidFlag::WNOHANG))? {
            WaitStatus::Exited(_, code) => Ok(Some(End::Code(code))),
            WaitStatus::Signaled(_, signal, _) => Ok(Some(End::Signal(signal))),
            _ => Ok(None),
        }
    }

    /// When the next daemon is started.
    fn plan(&mut self, end: &End) {
        let was_well = self.child.take().is_some_and(|(_, since)| since.elapsed() >= WELL);
        if was_well {
            self.pauses = Pauses::new(PAUSE);
        }
        let asked = std::mem::take(&mut self.asked) && end.is_success();
        let pause = if asked { Duration::ZERO } else { self.pauses.take() };
        if !asked {
            say(&format!("roostd supervise: the daemon ended: {end}; the next one starts in {pause:?}"));
        }
        self.next = Instant::now() + pause;
    }
}

/// How a daemon ended.
#[derive(Debug, Clone, Copy)]
enum End {
    Code(i32),
    Signal(Signal),
}

impl End {
    fn is_success(self) -> bool {
        matches!(self, Self::Code(0))
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "{signal}"),
        }
    }
}

/// The socket that the daemon talks to, for root alone. Refused if somebody listens there already.
fn receiver(path: &Path) -> io::Result<UnixDatagram> {
    match UnixDatagram::unbound()?.connect(path) {
        Ok(()) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another supervisor does")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(_) => std::fs::remove_file(path)?,
    }
    let socket = UnixDatagram::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[expect(clippy::print_stderr, reason = "there is no daemon whose log it could stand in")]
fn say(text: &str) {
    eprintln!("{text}");
}
