//! A containerd of a test's own. The system's is never touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use crate::netns::{Netns, inside};
use crate::process::{Background, run};

/// A containerd with all that it has below one directory.
#[derive(Debug)]
pub(crate) struct Containerd {
    dir: PathBuf,
    /// What it and all that it starts are in, if not in the test's.
    network: Option<Netns>,
    process: Option<Background>,
}

impl Containerd {
    pub(crate) fn start(dir: &Path, network: Option<Netns>) -> Self {
        fs::create_dir_all(dir).unwrap();
        let shown = dir.display();
        // Without its Kubernetes part, which would look for networks and images of its own.
        let config = format!(
            "version = 2\nroot = \"{shown}/root\"\nstate = \"{shown}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [debug]\nlevel = \"warn\"\n[grpc]\naddress = \"{shown}/containerd.sock\"\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{shown}/opt\"\n"
        );
        fs::write(dir.join("config.toml"), config).unwrap();
        let mut containerd = Self { dir: dir.to_owned(), network, process: None };
        containerd.start_again();
        containerd
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("containerd.log")
    }

    pub(crate) fn start_again(&mut self) {
        let mut command = Command::new("containerd");
        command.arg("--config").arg(self.dir.join("config.toml"));
        let log = self.log();
        self.process = Some(inside(self.network.as_ref(), || Background::start(&mut command, &log)));
    }

    /// Does it answer?
    pub(crate) fn answers(&self) -> bool {
        self.ctr(["version"]).is_ok()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.as_ref().unwrap().signal(signal);
    }

    /// Has it ended? Then it can be started again.
    pub(crate) fn ended(&mut self) -> bool {
        self.process.as_mut().is_none_or(|process| process.ended().is_some())
    }

    /// Ends it at once, as a crash does.
    pub(crate) fn crash(&mut self) {
        self.process.take().unwrap().crash();
    }

    pub(crate) fn ctr<const N: usize>(&self, args: [&str; N]) -> Result<String, String> {
        let socket = self.socket();
        let head = ["--connect-timeout", "2s", "--address", socket.to_str().unwrap()];
        run("ctr", head.into_iter().chain(args))
    }

    /// The names of its namespaces.
    pub(crate) fn namespaces(&self) -> Vec<String> {
        let listed = self.ctr(["namespaces", "list", "--quiet"]).unwrap_or_default();
        listed.split_whitespace().map(str::to_owned).collect()
    }

    /// The ids of all containers, and the numbers of the processes of those that run.
    pub(crate) fn containers(&self) -> Vec<(String, Option<i32>)> {
        self.namespaces().iter().flat_map(|namespace| self.containers_in(namespace)).collect()
    }

    fn containers_in(&self, namespace: &str) -> Vec<(String, Option<i32>)> {
        let ids = self.ctr(["--namespace", namespace, "containers", "list", "--quiet"]).unwrap_or_default();
        let tasks = self.ctr(["--namespace", namespace, "tasks", "list"]).unwrap_or_default();
        let pid = |id: &str| {
            let mut fields = tasks.lines().map(str::split_whitespace);
            fields.find_map(|mut line| if line.next() == Some(id) { line.next()?.parse().ok() } else { None })
        };
        ids.split_whitespace().map(|id| (id.to_owned(), pid(id))).collect()
    }

    /// Snapshots that are written to: those of containers, not of images.
    pub(crate) fn active_snapshots(&self) -> Vec<String> {
        let mut found = Vec::new();
        for namespace in self.namespaces() {
            let listed = self.ctr(["--namespace", &namespace, "snapshots", "list"]).unwrap_or_default();
            let active = listed.lines().filter(|line| line.split_whitespace().last() == Some("Active"));
            found.extend(active.filter_map(|line| line.split_whitespace().next()).map(str::to_owned));
        }
        found
    }

    /// Removes containers that nothing else removed any more.
    pub(crate) fn clear(&self) {
        for namespace in self.namespaces() {
            for (id, pid) in self.containers_in(&namespace) {
                if pid.is_some() {
                    self.ctr(["--namespace", &namespace, "tasks", "delete", "--force", &id]).ok();
                }
                self.ctr(["--namespace", &namespace, "containers", "delete", &id]).ok();
            }
        }
    }
}

impl Containerd {
    /// Ends it in order.
    pub(crate) fn end(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::SIGTERM);
            if let Err(error) = process.wait_blocking(super::PATIENCE) {
                eprintln!("{error}");
            }
        }
    }
}
