//! Changes of the host's rules: one table read, one transaction written.
//!
//! Owns the runs of `iptables-save` and `iptables-restore`, and their repetition: with the nftables back end a program fails when
//! another (a plugin, Docker, a firewall) changes the rules at the same moment. Never knows what a rule is for.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::plugin::DEFAULT_PATH;

/// How long a program may take: it waits for whoever changes the rules at the same time.
const DEADLINE: Duration = Duration::from_secs(60);
/// How often a change is tried that others keep from happening.
const TRIES: usize = 5;
/// How long they are given in between. Nobody tells when they are done.
const PAUSE: Duration = Duration::from_millis(100);

/// Why rules cannot be read or written.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) program: &'static str,
    pub(crate) problem: String,
    /// The program ran and said no: it may not a moment later.
    may_pass: bool,
}

/// Do these programs write by nftables? What the kernel tells of nftables' rules is then told of theirs.
pub(crate) async fn are_nftables() -> Result<bool, Failure> {
    Ok(run("iptables-save", &["--version"], "").await?.contains("nf_tables"))
}

/// What `iptables-save` prints of a table.
pub(crate) async fn read(table: &str) -> Result<String, Failure> {
    run("iptables-save", &["-t", table], "").await
}

/// Does to a table what `decide` finds to be done, if anything, when it sees what `iptables-save` prints of it: all of it or nothing.
/// Tells whether there was anything.
pub(crate) async fn change(table: &str, decide: impl Fn(&str) -> Option<String>) -> Result<bool, Failure> {
    let mut tries = 1;
    loop {
        match try_change(table, &decide).await {
            Err(Failure { program, problem, may_pass: true }) if tries < TRIES => {
                tracing::debug!(program, problem, "the rules cannot be changed yet");
                tries += 1;
                sleep(PAUSE).await;
            }
            done => return done,
        }
    }
}

async fn try_change(table: &str, decide: impl Fn(&str) -> Option<String>) -> Result<bool, Failure> {
    let present = read(table).await?;
    match decide(&present) {
        Some(script) => run("iptables-restore", &["-w", "--noflush"], &script).await.map(|_| true),
        None => Ok(false),
    }
}

/// Runs a program to its success and returns what it printed.
async fn run(program: &'static str, args: &[&str], stdin: &str) -> Result<String, Failure> {
    let failed = |problem: String| Failure { program, problem, may_pass: false };
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let input = child.stdin.take();
    let talk = async move {
        if let Some(mut input) = input {
            input.write_all(stdin.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let ended = timeout(DEADLINE, talk).await.map_err(|_| failed(format!("no end after {DEADLINE:?}")))?;
    let output = ended.map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure { may_pass: true, ..failed(format!("{}: {}", output.status, said.trim())) });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
