//! Clients that others wrote: Python `websockets` and npm `ws`, the SDKs of AWS, all as their users have them, and Prometheus' own
//! parser.
//!
//! `tests/clients/setup` installs them from their registries, once, below the target directory.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
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

/// A sample of a metric, as Prometheus reads it.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The type of its metric.
    pub kind: String,
    /// Its name, with the suffix of a histogram's series.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Clients {
    /// Reads a page of metrics as Prometheus' Python library does. Each sample is its family's type, its name, labels and
    /// value.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn parse_metrics(&self, page: &str) -> Vec<Sample> {
        let mut command = Command::new(self.dir.join("python/bin/python"));
        command.arg(repository().join("tests/clients/metrics.py"));
        let mut parser =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut input = parser.stdin.take().unwrap();
        let write = async {
            input.write_all(page.as_bytes()).await.unwrap();
            drop(input);
        };
        let (output, ()) = tokio::join!(parser.wait_with_output(), write);
        let output = output.unwrap();
        assert!(output.status.success(), "the page is refused: {}\n{page}", output.status);
        let samples: Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let labels = |value: &Value| {
            let labels = value.as_object().unwrap().iter();
            labels.map(|(name, value)| (name.clone(), text(value))).collect()
        };
        let sample = |s: &Value| Sample {
            kind: text(&s[0]),
            name: text(&s[1]),
            labels: labels(&s[2]),
            value: s[3].as_f64().unwrap(),
        };
        samples.as_array().unwrap().iter().map(sample).collect()
    }

    /// Where npm's `ws` is, and what it needs.
    #[must_use]
    pub fn node_modules(&self) -> PathBuf {
        self.dir.join("node/node_modules")
    }

    /// Lets a client talk to an echoing WebSocket.
    ///
    /// # Panics
    /// When it is not satisfied.
    pub async fn run(&self, runner: Runner, url: &str) {
        satisfied(self.script(runner, "echo").arg(url)).await;
    }

    /// Lets a client talk to the function of `tests/tests/held`, whose WebSockets are held by a host that compresses if `deflate`.
    ///
    /// # Panics
    /// When it is not satisfied.
    pub async fn run_held(&self, runner: Runner, url: &str, deflate: bool) {
        satisfied(self.script(runner, "held").args([url, if deflate { "deflate" } else { "plain" }])).await;
    }

    /// A script of `tests/clients`, which is there in both languages.
    fn script(&self, runner: Runner, name: &str) -> Command {
        let (program, script) = match runner {
            Runner::Python => {
                (self.dir.join("python/bin/python"), repository().join(format!("tests/clients/{name}.py")))
            }
            Runner::Node => (PathBuf::from("node"), self.dir.join(format!("node/{name}.mjs"))),
        };
        let mut command = Command::new(program);
        command.arg(script);
        command
    }

    /// Lets an SDK of AWS speak to a connection by the calls of `@connections` at `endpoint`, with the id and the secret of an
    /// access key. It ends the connection.
    ///
    /// # Panics
    /// When it is not satisfied.
    pub async fn manage(&self, sdk: Runner, endpoint: &str, connection: &str, (id, secret): (&str, &str)) {
        let mut command = self.script(sdk, "management");
        command.args([endpoint, connection]).env("AWS_REGION", "roost").env("AWS_DEFAULT_REGION", "roost");
        satisfied(command.env("AWS_ACCESS_KEY_ID", id).env("AWS_SECRET_ACCESS_KEY", secret)).await;
    }

    /// Lets npm's `socket.io-client` talk to the socket-io example in so many sessions, one after the other, and returns
    /// which replica each had.
    ///
    /// # Panics
    /// When it is not satisfied.
    pub async fn socket_io(&self, gateway: &str, function: &str, sessions: usize) -> Vec<String> {
        let mut command = Command::new("node");
        command.arg(self.dir.join("node/socketio.mjs")).arg(gateway);
        command.arg(format!("/function/{function}/socket.io")).arg(sessions.to_string());
        satisfied(&mut command).await.lines().map(str::to_owned).collect()
    }
}

/// Runs a client to its end, which has to be a good one, and returns what it printed.
async fn satisfied(command: &mut Command) -> String {
    let output =
        tokio::time::timeout(PATIENCE, command.stdin(Stdio::null()).kill_on_drop(true).output()).await;
    let output = output.unwrap_or_else(|_| panic!("{command:?} has no end")).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    String::from_utf8(output.stdout).unwrap()
}
