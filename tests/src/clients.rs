//! WebSocket clients of other languages: Python `websockets` and npm `ws`, as their users have them.
//!
//! `tests/clients/setup` installs them from their registries, once, below the target directory.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::{PATIENCE, repository};

/// Which client.
#[derive(Debug, Clone, Copy)]
pub enum Runner {
    /// Python with `websockets`.
    Python,
    /// Node with `ws`.
    Node,
}

/// Where the clients are installed.
#[derive(Debug, Clone)]
pub struct Clients {
    dir: PathBuf,
}

/// The clients; the first call installs them if `tests/run` has not.
///
/// # Panics
/// When they cannot be installed.
pub async fn clients() -> Clients {
    static CLIENTS: OnceCell<Clients> = OnceCell::const_new();
    let install = || async {
        let output = Command::new(repository().join("tests/clients/setup")).output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let dir = String::from_utf8(output.stdout).unwrap();
        Clients { dir: PathBuf::from(dir.trim()) }
    };
    CLIENTS.get_or_init(install).await.clone()
}

impl Clients {
    /// Lets a client talk to an echoing WebSocket.
    ///
    /// # Panics
    /// When it is not satisfied.
    pub async fn run(&self, runner: Runner, url: &str) {
        let mut command = match runner {
            Runner::Python => Command::new(self.dir.join("python/bin/python")),
            Runner::Node => Command::new("node"),
        };
        let script = match runner {
            Runner::Python => repository().join("tests/clients/echo.py"),
            Runner::Node => self.dir.join("node/echo.mjs"),
        };
        command.arg(script).arg(url).stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await;
        let output = output.unwrap_or_else(|_| panic!("{runner:?} has no end")).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{runner:?}: {}\n{said}", output.status);
    }
}
