//! One run of one plugin: environment and stdin in, stdout and exit status out, within a time and a size.
//!
//! Owns the child process from start to end; whatever happens, it is gone (with its children) when the run is over. Never
//! knows what a plugin does or in which order plugins run.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{AccessFlags, Pid, access};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command as Program};
use tokio::time::timeout;

use crate::PluginError;
use crate::result::ReportedError;

/// How long a plugin may take. A loaded board with a crowded iptables lock takes seconds; a minute means it hangs.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long a killed plugin may take to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(5);
/// How much a plugin may print, in bytes, on each of stdout and stderr.
const MAX_OUTPUT: usize = 1024 * 1024;
/// How much of what a failed plugin printed is told, in bytes.
const MAX_TOLD: usize = 2048;
/// Where plugins find `iptables` if our own environment does not tell.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a plugin is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Make the attachment.
    Add,
    /// Tell whether it is as it was made.
    Check,
    /// Undo it.
    Del,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
        })
    }
}

/// All that one run needs.
pub(crate) struct Run<'a> {
    pub(crate) plugin: &'a str,
    pub(crate) command: Command,
    pub(crate) id: &'a str,
    /// `None` if the namespace is gone, which only DEL can bear.
    pub(crate) netns: Option<&'a Path>,
    pub(crate) interface: &'a str,
    /// `KEY=VALUE;…`, or empty.
    pub(crate) args: &'a str,
    pub(crate) stdin: &'a [u8],
}

/// Where the programs are.
#[derive(Debug, Clone)]
pub(crate) struct Plugins {
    dirs: Vec<PathBuf>,
    /// The same as `CNI_PATH`, for plugins that call plugins.
    path: OsString,
    deadline: Duration,
}

impl Plugins {
    pub(crate) fn new(dirs: Vec<PathBuf>) -> Self {
        let path = dirs.iter().map(|dir| dir.as_os_str()).collect::<Vec<_>>().join(":".as_ref());
        Self { dirs, path, deadline: DEADLINE }
    }

    pub(crate) fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// The program of a plugin, in the first directory that has one.
    pub(crate) fn find(&self, plugin: &str) -> Option<PathBuf> {
        let runs = |path: &PathBuf| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
        self.dirs.iter().map(|dir| dir.join(plugin)).find(runs)
    }

    /// Runs a plugin to its end and returns what it printed.
    pub(crate) async fn run(&self, run: &Run<'_>) -> Result<Vec<u8>, PluginError> {
        let failure = Failure { plugin: run.plugin, command: run.command };
        let mut running =
            Running::start(self.find(run.plugin), &self.path, run).map_err(|e| failure.start(e))?;
        let ended = timeout(self.deadline, running.end(run.stdin)).await;
        match ended {
            Ok(Ok(output)) => failure.judge(output),
            Ok(Err(stopped)) => {
                running.kill().await;
                Err(failure.stopped(stopped))
            }
            Err(_) => {
                running.kill().await;
                Err(failure.deadline(self.deadline))
            }
        }
    }
}

/// A started plugin. It leads a process group of its own, so that its children can be ended with it.
struct Running {
    child: Child,
}

struct Output {
    status: std::process::ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// Why a run was given up from our side.
enum Stopped {
    TooMuchOutput,
    Pipe(io::Error),
}

impl Running {
    fn start(program: Option<PathBuf>, path: &OsString, run: &Run<'_>) -> io::Result<Self> {
        let program = program.ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "it is in none of the plugin directories")
        })?;
        let mut command = Program::new(program);
        command
            // Nothing of our environment is a plugin's business: not the notify socket, not the passed descriptors' names.
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()))
            .env("CNI_COMMAND", run.command.to_string())
            .env("CNI_CONTAINERID", run.id)
            .env("CNI_NETNS", run.netns.unwrap_or(Path::new("")))
            .env("CNI_IFNAME", run.interface)
            .env("CNI_PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        if !run.args.is_empty() {
            command.env("CNI_ARGS", run.args);
        }
        Ok(Self { child: command.spawn()? })
    }

    /// Feeds the plugin and waits for its end. It is reaped only after both streams are at their end, so that until then its
    /// process id cannot be another's.
    async fn end(&mut self, stdin: &[u8]) -> Result<Output, Stopped> {
        let (input, out, err) = (self.child.stdin.take(), self.child.stdout.take(), self.child.stderr.take());
        let feed = async move {
            let Some(mut input) = input else { return Ok(()) };
            match input.write_all(stdin).await {
                // A plugin that fails early does not read to the end; its answer says why.
                Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Stopped::Pipe(e)),
                _ => Ok(()),
            }
        };
        let ((), stdout, stderr) = tokio::try_join!(feed, read_bounded(out), read_bounded(err))?;
        let status = self.child.wait().await.map_err(Stopped::Pipe)?;
        Ok(Output { status, stdout, stderr })
    }

    /// Ends the plugin and its children, and waits until it is gone: the next plugin must not meet it.
    async fn kill(&mut self) {
        self.signal();
        match timeout(KILL_DEADLINE, self.child.wait()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "cannot wait for a killed CNI plugin"),
            Err(_) => tracing::warn!("a killed CNI plugin is still there"),
        }
    }

    fn signal(&self) {
        // None once it is reaped: then there is nothing to end, and the number may be another's.
        let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()) else { return };
        match killpg(Pid::from_raw(pid), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => tracing::warn!(pid, %error, "cannot kill a CNI plugin"),
        }
    }
}

impl Drop for Running {
    /// Only a run that is dropped halfway still has something to end here.
    fn drop(&mut self) {
        self.signal();
    }
}

async fn read_bounded(stream: Option<impl AsyncRead + Unpin>) -> Result<Vec<u8>, Stopped> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        let limit = MAX_OUTPUT as u64 + 1;
        stream.take(limit).read_to_end(&mut bytes).await.map_err(Stopped::Pipe)?;
    }
    if bytes.len() > MAX_OUTPUT { Err(Stopped::TooMuchOutput) } else { Ok(bytes) }
}

/// Makes the errors of one run.
struct Failure<'a> {
    plugin: &'a str,
    command: Command,
}

impl Failure<'_> {
    fn start(&self, source: io::Error) -> PluginError {
        PluginError::Start { plugin: self.plugin.into(), command: self.command, source }
    }

    fn deadline(&self, after: Duration) -> PluginError {
        PluginError::Deadline { plugin: self.plugin.into(), command: self.command, after }
    }

    fn stopped(&self, stopped: Stopped) -> PluginError {
        let (plugin, command) = (self.plugin.to_owned(), self.command);
        match stopped {
            Stopped::TooMuchOutput => PluginError::TooMuchOutput { plugin, command, limit: MAX_OUTPUT },
            Stopped::Pipe(source) => PluginError::Pipe { plugin, command, source },
        }
    }

    /// Success is the exit status; a failure is told on stdout, if the plugin keeps to the specification.
    fn judge(&self, output: Output) -> Result<Vec<u8>, PluginError> {
        if output.status.success() {
            return Ok(output.stdout);
        }
        let (plugin, command) = (self.plugin.to_owned(), self.command);
        Err(match serde_json::from_slice::<ReportedError>(&output.stdout) {
            Ok(e) => {
                PluginError::Reported { plugin, command, code: e.code, message: e.msg, details: e.details }
            }
            Err(_) => {
                let printed = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
                PluginError::Failed { plugin, command, status: output.status, output: end_of(printed) }
            }
        })
    }
}

/// The end of what was printed: that is where the reason stands.
fn end_of(printed: &[u8]) -> String {
    let end = &printed[printed.len().saturating_sub(MAX_TOLD)..];
    let text = String::from_utf8_lossy(end).trim().to_owned();
    if text.is_empty() { "it printed nothing".into() } else { text }
}

#[cfg(test)]
mod tests;
