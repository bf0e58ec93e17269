//! Processes: those that a test starts, and what `/proc` tells of others.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process that was started in the background. It is killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Background {
    child: Child,
    name: String,
}

impl Background {
    /// Starts `command`; what it prints is appended to `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let log = File::options().create(true).append(true).open(log).unwrap();
        let command = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { child, name }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // Of a child that was not waited for, the number is still its own.
        kill(self.pid(), signal).unwrap();
    }

    /// Has it ended?
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Ends it at once, as a crash does.
    pub(crate) fn crash(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end. Blocks: for the end of a test.
    pub(crate) fn wait_blocking(&mut self, patience: Duration) -> Result<ExitStatus, String> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(format!("{} did not end within {patience:?}", self.name));
            }
            pause();
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.child.kill().expect("a child can be killed");
            self.child.wait().expect("a child can be waited for");
        }
    }
}

/// A short wait in code that cannot be async: the end of a test.
#[allow(clippy::disallowed_methods, reason = "runs in Drop, where nothing can be awaited")]
pub(crate) fn pause() {
    std::thread::sleep(super::LOOK_AGAIN);
}

/// Runs a command and returns what it printed.
pub(crate) fn run<S: AsRef<OsStr>>(
    program: &str,
    args: impl IntoIterator<Item = S>,
) -> Result<String, String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{program}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
}

/// A process, told from a later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// Its number.
    pub pid: i32,
    /// When it began, in clock ticks since the machine's start.
    pub at: u64,
}

/// The running process of this number.
#[must_use]
pub fn started(pid: i32) -> Option<Started> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses, and may have spaces and parentheses in it.
    let at = stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()?;
    Some(Started { pid, at })
}

/// Is the control group of this process frozen?
#[must_use]
pub fn frozen(pid: i32) -> bool {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    // Each line is `number:controllers:path`; of the unified hierarchy, `0::path`.
    let path = |controllers: &str| {
        let mut lines = groups.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        lines
            .find_map(|(names, path)| (names == controllers).then(|| path.trim_start_matches('/').to_owned()))
    };
    let says = |file: String, text: &str| fs::read_to_string(file).is_ok_and(|state| state.contains(text));
    path("freezer").is_some_and(|path| says(format!("/sys/fs/cgroup/freezer/{path}/freezer.state"), "FROZEN"))
        || path("").is_some_and(|path| says(format!("/sys/fs/cgroup/{path}/cgroup.events"), "frozen 1"))
}

/// The memory that a process has resident, in KiB.
pub(crate) fn resident(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Memory, in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pages {
    /// All that is resident, whoever else has it, too.
    pub rss: u64,
    /// Of what is shared, its share.
    pub pss: u64,
}

impl std::ops::Add for Pages {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { rss: self.rss + other.rss, pss: self.pss + other.pss }
    }
}

/// The memory that a process takes, if it is still there.
pub(crate) fn pages(pid: i32) -> Option<Pages> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let field = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    };
    Some(Pages { rss: field("Rss:")?, pss: field("Pss:")? })
}

/// How many files a process has open.
pub(crate) fn open_files(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// How many inotify instances a process has.
pub(crate) fn inotify_instances(pid: Pid) -> usize {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    // One may be closed meanwhile.
    let links = files.filter_map(|file| fs::read_link(file.path()).ok());
    links.filter(|to| to.as_os_str() == "anon_inode:inotify").count()
}

/// The processes whose command line has `text` in it, but for this one.
pub(crate) fn processes_with(text: &str) -> Vec<(i32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(text) && pid.unsigned_abs() != std::process::id() {
            found.push((pid, line));
        }
    }
    found
}
