//! A Roost host of a test's own, driven from outside: processes, files, signals, HTTP.
//!
//! ```text
//! start ──▶ running ──restart, kill9 + start_daemon, restart_containerd, crash_containerd──▶ running ──drop──▶ nothing left
//! ```

mod end;
mod functions;
mod settings;
mod supervised;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use hyper::{Method, StatusCode};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::client::Api;
use crate::containerd::Containerd;
use crate::events::Events;
use crate::netns::{Door, inside};
use crate::ports::{Place, free_port};
use crate::process::{Background, Pages, Started, inotify_instances, open_files, pages, resident, started};
use crate::{PATIENCE, eventually, program};

pub use functions::ECHO;
pub use settings::Config;

/// How many lines of a log are shown when a test has failed.
const SHOWN: usize = 80;

/// What one process of a host takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// `roostd`, `containerd`, `shim`, `log driver` or `function`.
    pub what: &'static str,
    /// How much.
    pub pages: Pages,
}

/// A private containerd and a `roostd` on it.
#[derive(Debug)]
pub struct Host {
    /// What the daemon is told. A change counts from its next start.
    pub config: Config,
    /// A client that knows the password.
    pub api: Api,
    port: u16,
    metrics_port: u16,
    password: String,
    place: Place,
    daemon: Option<Background>,
    containerd: Containerd,
    /// To what listens in its namespace, if it is in one.
    _doors: Vec<Door>,
    dir: TempDir,
}

impl Host {
    /// A host with the usual settings, ready.
    pub async fn start() -> Self {
        Self::start_with(Config::default()).await
    }

    /// A host with these settings, ready.
    pub async fn start_with(config: Config) -> Self {
        let dir = tempfile::Builder::new().prefix("roost-host-").tempdir().unwrap();
        let (port, metrics_port) = (free_port(), free_port());
        let password = format!("{:x}{:x}", std::process::id(), rand_from_time());
        let containerd = Containerd::start(&dir.path().join("containerd"), config.network.clone());
        let doors = config.network.iter().flat_map(|network| {
            // By the same numbers, so that nobody outside has to know of them.
            let door = |port| Door::open(port, network, SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
            [port, metrics_port].map(door)
        });
        let doors = doors.collect();
        let api = Api::new(port, Some(("admin", &password)));
        let mut host = Self {
            config,
            api,
            port,
            metrics_port,
            password,
            place: Place::new(),
            daemon: None,
            containerd,
            _doors: doors,
            dir,
        };
        host.containerd_answers().await;
        host.start_daemon().await;
        host
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it serves metrics.
    #[must_use]
    pub fn metrics_port(&self) -> u16 {
        self.metrics_port
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The password of `admin`.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// A directory that is gone with the host.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    // --- The daemon -------------------------------------------------------------------------------------------------

    /// Starts the daemon and waits until it answers.
    pub async fn start_daemon(&mut self) {
        self.spawn_daemon();
        let started = Instant::now();
        loop {
            if self.healthy().await {
                return;
            }
            if let Some(status) = self.daemon.as_mut().unwrap().ended() {
                panic!("roostd ended: {status}\n{}", tail(&self.daemon_log()));
            }
            assert!(
                started.elapsed() < PATIENCE,
                "roostd does not get healthy\n{}",
                tail(&self.daemon_log())
            );
            tokio::time::sleep(crate::LOOK_AGAIN).await;
        }
    }

    async fn healthy(&self) -> bool {
        let request = self.api.request(&Method::GET, "/healthz").body(crate::body_of("")).unwrap();
        self.api.try_send(request).await.is_ok_and(|answer| answer.status == StatusCode::OK)
    }

    fn spawn_daemon(&mut self) {
        self.write_settings();
        let mut command = Command::new(program("roostd"));
        let how = if self.config.supervised { "supervise" } else { "run" };
        command.arg("--config").arg(self.dir.path().join("roostd.toml")).arg(how);
        // A test may put a program before the host's own.
        let path = format!(
            "{}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            self.dir().display()
        );
        command.env_clear().env("PATH", path);
        let log = self.daemon_log();
        self.daemon = Some(inside(self.config.network.as_ref(), || Background::start(&mut command, &log)));
    }

    /// What the daemon has printed is here.
    #[must_use]
    pub fn daemon_log(&self) -> PathBuf {
        self.dir.path().join("roostd.log")
    }

    /// Asks the daemon to end, as systemd does.
    pub fn terminate(&self) {
        self.daemon.as_ref().unwrap().signal(Signal::SIGTERM);
    }

    /// Asks the daemon to read again what it reads again, as `systemctl reload` does.
    pub fn reload(&self) {
        self.daemon.as_ref().unwrap().signal(Signal::SIGHUP);
    }

    /// Waits until the daemon has ended.
    pub async fn ended(&mut self) {
        let daemon = self.daemon.as_mut().unwrap();
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = daemon.ended() {
                break status;
            }
            assert!(Instant::now() < deadline, "roostd does not end");
            tokio::time::sleep(crate::LOOK_AGAIN).await;
        };
        assert!(status.success(), "roostd ended: {status}\n{}", tail(&self.daemon_log()));
        self.daemon = None;
    }

    /// Ends the daemon as an upgrade does, and starts it again.
    pub async fn restart(&mut self) {
        self.terminate();
        self.ended().await;
        self.start_daemon().await;
    }

    /// Ends the daemon as a crash does. It stays ended.
    pub fn kill9(&mut self) {
        self.daemon.take().unwrap().crash();
    }

    /// The daemon's process id.
    #[must_use]
    pub fn daemon_pid(&self) -> i32 {
        self.daemon.as_ref().unwrap().pid().as_raw()
    }

    /// The daemon's resident memory, in KiB.
    #[must_use]
    pub fn daemon_memory(&self) -> u64 {
        resident(self.daemon.as_ref().unwrap().pid())
    }

    /// How many files the daemon has open, connections too.
    #[must_use]
    pub fn daemon_files(&self) -> usize {
        open_files(self.daemon.as_ref().unwrap().pid())
    }

    /// How many inotify instances the daemon has.
    #[must_use]
    pub fn daemon_inotify_instances(&self) -> usize {
        inotify_instances(self.daemon.as_ref().unwrap().pid())
    }

    /// The resident memory of all shims and log drivers, in KiB, each with its command line.
    #[must_use]
    pub fn attendants_memory(&self) -> Vec<(u64, String)> {
        let processes = self.marks().processes().into_iter();
        let attendants =
            processes.filter(|(_, line)| line.contains("containerd-shim") || line.contains("log-driver"));
        attendants.map(|(pid, line)| (resident(Pid::from_raw(pid)), line)).collect()
    }

    /// What everything that belongs to this host takes, process by process.
    #[must_use]
    pub fn memory(&self) -> Vec<Memory> {
        let daemon = self.daemon.as_ref().unwrap().pid().as_raw();
        let what = |pid: i32, line: &str| match line {
            _ if pid == daemon => Some("roostd"),
            _ if line.contains("log-driver") => Some("log driver"),
            _ if line.contains("containerd-shim") => Some("shim"),
            _ if line.starts_with("containerd --config") => Some("containerd"),
            _ => None,
        };
        let of_host = self.marks().processes().into_iter();
        let of_host = of_host.filter_map(|(pid, line)| Some((pid, what(pid, &line)?)));
        let of_functions = self.processes().into_iter().map(|(_, process)| (process.pid, "function"));
        let all = of_host.chain(of_functions);
        all.filter_map(|(pid, what)| Some(Memory { what, pages: pages(pid)? })).collect()
    }

    // --- containerd -------------------------------------------------------------------------------------------------

    /// Ends containerd in order, and starts it again.
    pub async fn restart_containerd(&mut self) {
        self.containerd.signal(Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        while !self.containerd.ended() {
            assert!(Instant::now() < deadline, "containerd does not end");
            tokio::time::sleep(crate::LOOK_AGAIN).await;
        }
        self.containerd.start_again();
        self.containerd_answers().await;
    }

    /// Ends containerd as a crash does. It stays ended.
    pub fn crash_containerd(&mut self) {
        self.containerd.crash();
    }

    /// Kills what stands beside replicas, shims and log drivers, as a power cut does. containerd is not there to see it.
    pub async fn kill_attendants(&self) {
        for (pid, _) in self.marks().processes() {
            // One may end with another.
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
        eventually("the end of all processes", || async {
            self.marks().processes().is_empty().then_some(())
        })
        .await;
    }

    /// Ends all at once as a power cut does: the daemon, containerd, what stands beside replicas, and replicas.
    pub async fn lose(&mut self) {
        self.kill9();
        self.crash_containerd();
        self.marks().kill();
        self.kill_attendants().await;
    }

    /// Starts containerd again.
    pub async fn start_containerd(&mut self) {
        self.containerd.start_again();
        self.containerd_answers().await;
    }

    async fn containerd_answers(&self) {
        eventually("containerd", || async { self.containerd.answers().then_some(()) }).await;
    }

    /// Runs containerd's own client, as somebody who shares it would.
    ///
    /// # Panics
    /// When it fails.
    pub fn ctr<const N: usize>(&self, args: [&str; N]) {
        self.containerd.ctr(args).unwrap();
    }

    /// Where containerd listens.
    #[must_use]
    pub fn containerd_socket(&self) -> PathBuf {
        self.containerd.socket()
    }

    /// Watches what happens to the containers of a function that has none yet.
    pub async fn watch(&self, function: &str) -> Events {
        Events::watch(&self.containerd, function).await
    }

    /// The names of containerd's namespaces.
    #[must_use]
    pub fn containerd_namespaces(&self) -> Vec<String> {
        self.containerd.namespaces()
    }

    /// The running replicas: the first process of each, by the replica's id.
    #[must_use]
    pub fn processes(&self) -> Vec<(String, Started)> {
        let running = self.containerd.containers().into_iter();
        running.filter_map(|(id, pid)| Some((id, started(pid?)?))).collect()
    }

    /// The first process of this replica.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn process(&self, replica: &str) -> (String, Started) {
        let found = self.processes().into_iter().find(|(id, _)| id == replica);
        found.unwrap_or_else(|| panic!("{replica} has no process"))
    }

    /// The only running replica of the function. Its id begins with the function's name.
    ///
    /// # Panics
    /// When it has none, or more than one.
    #[must_use]
    pub fn process_of(&self, function: &str) -> (String, Started) {
        let mut all = self.processes();
        all.retain(|(id, _)| id.rsplit_once('-').is_some_and(|(name, _)| name == function));
        assert_eq!(all.len(), 1, "replicas of {function}: {all:?}");
        all.remove(0)
    }

    /// Kills the first process of a function's only replica, as the kernel does when memory runs out.
    pub fn kill_function(&self, function: &str) -> Started {
        let (_, process) = self.process_of(function);
        kill(Pid::from_raw(process.pid), Signal::SIGKILL).unwrap();
        process
    }
}

fn rand_from_time() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos()
}

fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN)..].join("\n")
}
