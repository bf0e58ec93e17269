//! What programs of the machine say: containerd, the OCI runtime, systemd.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;
use tokio::time::timeout;

use super::{DEADLINE, Known, pairs};
use crate::config::Config;
use crate::runtime::containerd::{self, Version, oci};

/// Where programs of the system are, whatever the path of this process says: `sudo` and cron have short ones.
const DIRS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The units that are asked about.
const UNITS: [&str; 4] = ["roostd.service", "roostd.socket", "containerd.service", "firewalld.service"];

/// What is asked about them.
const PROPERTIES: &str = "--property=Id,LoadState,ActiveState,UnitFileState,NeedDaemonReload,FileDescriptorStoreMax,\
    LimitNOFILE,Listen";

#[derive(Debug, Clone)]
pub(in crate::doctor) struct Containerd {
    pub(in crate::doctor) installed: bool,
    pub(in crate::doctor) asked: Known<Version>,
}

#[derive(Debug, Clone)]
pub(in crate::doctor) struct OciRuntime {
    pub(in crate::doctor) name: String,
    /// The first line of what it says of itself.
    pub(in crate::doctor) version: Known<String>,
}

/// What systemd says of units, by their names.
#[derive(Debug, Clone, Default)]
pub(in crate::doctor) struct Units(pub(in crate::doctor) BTreeMap<String, BTreeMap<String, String>>);

impl Units {
    /// A property; empty if there is none.
    pub(in crate::doctor) fn get(&self, unit: &str, property: &str) -> &str {
        self.0.get(unit).and_then(|unit| unit.get(property)).map_or("", String::as_str)
    }
}

pub(super) async fn containerd(client: anyhow::Result<containerd::Containerd>) -> Containerd {
    let asked = match client {
        Ok(client) => match timeout(DEADLINE, client.ask()).await {
            Ok(asked) => asked.map_err(|error| error.to_string()),
            Err(_) => Err(format!("containerd has not answered for {DEADLINE:?}")),
        },
        Err(error) => Err(format!("{error:#}")),
    };
    Containerd { installed: find("containerd").is_some(), asked }
}

pub(super) async fn runtime(config: &Config) -> OciRuntime {
    let name = oci::choose(&config.containerd.runtime).unwrap_or_else(|| "runc".to_owned());
    let version = output(&name, &["--version"]).await;
    let first = |said: Said| said.stdout.lines().next().unwrap_or_default().to_owned();
    OciRuntime { version: version.map(first), name }
}

pub(super) async fn units() -> Option<Known<Units>> {
    if !Path::new("/run/systemd/system").exists() {
        return None;
    }
    let mut arguments = vec!["show", PROPERTIES];
    arguments.extend(UNITS);
    let shown = output("systemctl", &arguments).await;
    Some(shown.map(|shown| {
        let units = shown.stdout.split("\n\n").map(pairs);
        Units(units.filter_map(|unit| Some((unit.get("Id")?.clone(), unit))).collect())
    }))
}

/// What a program has printed.
pub(super) struct Said {
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// A program by its name or path.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    DIRS.iter().map(|dir| Path::new(dir).join(program)).find(|path| path.is_file())
}

/// Runs a program to its success.
pub(super) async fn output(program: &str, arguments: &[&str]) -> Known<Said> {
    let path = find(program).ok_or_else(|| format!("{program} is not installed"))?;
    let mut command = Command::new(path);
    command.args(arguments).env("PATH", DIRS.join(":")).env("LC_ALL", "C");
    command.stdin(Stdio::null()).kill_on_drop(true);
    let ended = timeout(DEADLINE, command.output()).await;
    let output = match ended {
        Ok(output) => output.map_err(|error| format!("{program}: {error}"))?,
        Err(_) => return Err(format!("{program} has not ended for {DEADLINE:?}")),
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    if !output.status.success() {
        let said = stderr.lines().next().unwrap_or_default();
        return Err(format!("{program}: {}: {said}", output.status));
    }
    Ok(Said { stdout, stderr })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_that_fails_or_is_not_there_is_told_with_its_first_line() {
        let missing = output("no-such-program", &[]).await.err().unwrap();
        assert_eq!(missing, "no-such-program is not installed");
        let failed = output("sh", &["-c", "echo why >&2; echo more >&2; exit 3"]).await.err().unwrap();
        assert_eq!(failed, "sh: exit status: 3: why");
        assert_eq!(output("sh", &["-c", "echo yes"]).await.unwrap().stdout, "yes\n");
    }
}
