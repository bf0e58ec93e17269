//! `roost`, as a person types it.

use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::{PATIENCE, program};

/// How a command ended, and what it printed.
#[derive(Debug)]
pub struct Output {
    /// Its exit code.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said beside.
    pub stderr: String,
}

/// Runs `roost` with a home of its own and `input` on its stdin; `config` if it can see the daemon's own files.
pub(crate) async fn roost(
    home: &Path,
    url: &str,
    config: Option<&Path>,
    args: &[&str],
    input: &str,
) -> Output {
    let mut command = Command::new(program("roost"));
    command.args(args).env_clear().env("HOME", home).env("PATH", "/usr/bin:/bin").env("ROOST_URL", url);
    command.envs(config.map(|config| ("ROOST_CONFIG", config)));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that does not read its stdin may be gone before this is written.
    stdin.write_all(input.as_bytes()).await.ok();
    drop(stdin);
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let output = output.unwrap_or_else(|_| panic!("roost {args:?} has no end")).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Output { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}
