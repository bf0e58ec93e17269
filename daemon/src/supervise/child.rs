//! The daemon as the supervisor's child: how it is started, and what it gets.
//!
//! Owns the few steps between a fork and an exec. The supervisor has one thread, so that they may do what any other code
//! may.

use std::collections::HashMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::Context;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{ForkResult, Pid, execve, fork, getpid, getppid};

/// The first descriptor that is handed over, as systemd has it.
const FIRST: RawFd = 3;

/// What the daemon is started with.
pub(super) struct Start<'a> {
    pub(super) program: &'a Path,
    pub(super) arguments: &'a [OsString],
    /// Where it says how it is.
    pub(super) notify: &'a Path,
    /// What it gets, with names.
    pub(super) descriptors: Vec<(&'a str, BorrowedFd<'a>)>,
    /// How many descriptors are kept for it.
    pub(super) limit: usize,
    /// The signals that it does not hear, those that the supervisor had at its own start.
    pub(super) mask: &'a SigSet,
}

impl Start<'_> {
    /// Starts it. It is asked to end when the supervisor ends, however that comes.
    pub(super) fn run(&self) -> anyhow::Result<Pid> {
        let program = c_string(self.program.as_os_str())?;
        let mut arguments = vec![program.clone()];
        for argument in self.arguments {
            arguments.push(c_string(argument)?);
        }
        let environment = self.environment()?;
        let supervisor = getpid();
        // SAFETY: this process has one thread, so the child's memory is as whole as ours.
        match unsafe { fork() }.context("cannot make a process")? {
            ForkResult::Parent { child } => Ok(child),
            ForkResult::Child => {
                let why = self.become_daemon(supervisor, &program, &arguments, environment);
                super::say(&format!("roostd: cannot start {}: {why:#}", self.program.display()));
                // SAFETY: ends this process at once. What its parent has to tidy up is not for the child to do.
                unsafe { libc::_exit(127) }
            }
        }
    }

    /// All but the process number, which the child alone knows.
    fn environment(&self) -> anyhow::Result<Vec<CString>> {
        let ours = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "FDSTORE"];
        let mut all: Vec<(OsString, OsString)> = std::env::vars_os().collect();
        all.retain(|(name, _)| !ours.iter().any(|one| name == one) && name != "WATCHDOG_USEC");
        let names: Vec<&str> = self.descriptors.iter().map(|(name, _)| *name).collect();
        let mut add = |name: &str, value: OsString| all.push((name.into(), value));
        add("LISTEN_FDS", self.descriptors.len().to_string().into());
        add("LISTEN_FDNAMES", names.join(":").into());
        add("NOTIFY_SOCKET", self.notify.into());
        add("FDSTORE", self.limit.to_string().into());
        all.into_iter().map(|(name, value)| c_string(&[name, value].join("=".as_ref()))).collect()
    }

    /// Returns only if it cannot.
    fn become_daemon(
        &self,
        supervisor: Pid,
        program: &CString,
        arguments: &[CString],
        mut environment: Vec<CString>,
    ) -> anyhow::Error {
        let prepare = || -> anyhow::Result<()> {
            set_pdeathsig(Signal::SIGTERM)?;
            anyhow::ensure!(getppid() == supervisor, "the supervisor has ended meanwhile");
            self.mask.thread_set_mask()?;
            place(self.descriptors.iter().map(|(_, one)| one.as_raw_fd()).collect())?;
            Ok(())
        };
        if let Err(why) = prepare() {
            return why;
        }
        match CString::new(format!("LISTEN_PID={}", getpid())) {
            Ok(pid) => environment.push(pid),
            Err(why) => return why.into(),
        }
        match execve(program, arguments, &environment) {
            Ok(never) => match never {},
            Err(why) => why.into(),
        }
    }
}

/// Puts descriptors where they are looked for: one behind the other from [`FIRST`], and open beyond an exec. What is
/// there and not among them is closed.
fn place(mut descriptors: Vec<RawFd>) -> anyhow::Result<()> {
    let mut places: HashMap<RawFd, usize> =
        descriptors.iter().enumerate().map(|(index, number)| (*number, index)).collect();
    let beyond = FIRST + RawFd::try_from(descriptors.len())?;
    for index in 0..descriptors.len() {
        let (number, wanted) = (descriptors[index], FIRST + RawFd::try_from(index)?);
        if number == wanted {
            // SAFETY: concerns a flag of a descriptor that is open.
            nix::errno::Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, 0) })?;
            continue;
        }
        if let Some(other) = places.remove(&wanted) {
            // SAFETY: makes a new descriptor, which only this list knows.
            let away = unsafe { libc::fcntl(wanted, libc::F_DUPFD_CLOEXEC, beyond) };
            descriptors[other] = nix::errno::Errno::result(away)?;
            places.insert(descriptors[other], other);
        }
        // SAFETY: `number` is open, and what was at `wanted` is no longer needed in this process.
        nix::errno::Errno::result(unsafe { libc::dup2(number, wanted) })?;
        places.remove(&number);
        // SAFETY: as above. Without this there would be twice as many, which may be more than a process may have.
        nix::errno::Errno::result(unsafe { libc::close(number) })?;
    }
    Ok(())
}

fn c_string(text: &OsStr) -> anyhow::Result<CString> {
    CString::new(text.as_bytes()).with_context(|| format!("{} has a zero in it", text.display()))
}
