//! `roost doctor`: has this machine what Roost needs?
//!
//! The daemon's own program does the looking, as it knows what it reads and what it asks of the machine; this becomes that
//! program. So it works before the first start, and where the daemon cannot start.

use std::env;
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, anyhow};
use clap::Args;

use crate::args::Global;
use crate::failure::usage;

/// The daemon's program.
const PROGRAM: &str = "roostd";
/// Where `install.sh` puts it, which `sudo` and cron may not have on their paths.
const INSTALLED: &str = "/usr/local/bin";

const NOTE: &str = "\
Looks at the kernel, control groups, containerd, the network and whose rules are in its way, DNS, the clock, the disk, \
ports, certificates and the service; nothing is changed, and no daemon has to run. Each check is a line with what was \
found: ok, warning or problem, and below it what repairs it. Run it as root, on the machine itself.

Exit codes: 0 there is no problem, 1 there is one, 2 the command line is wrong.";

/// Look whether this machine has what Roost needs, and say what repairs it
#[derive(Debug, Args)]
#[command(after_help = NOTE)]
pub(crate) struct DoctorArgs {
    /// The daemon's settings, if not /etc/roost/roostd.toml or what ROOST_CONFIG names
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(crate) fn run(args: &DoctorArgs, global: &Global) -> Result<()> {
    if global.gateway.is_some() {
        return Err(usage("doctor looks at the machine that it runs on: run it there, without --gateway"));
    }
    let own = env::current_exe().ok();
    let dirs = dirs(own.as_deref(), env::var_os("PATH").as_deref());
    let program = dirs.iter().map(|dir| dir.join(PROGRAM)).find(|path| path.is_file());
    let program = program.ok_or_else(|| {
        anyhow!("{PROGRAM} is not on this machine: run this where Roost is, or is to be, installed")
    })?;
    let mut command = Command::new(&program);
    command.arg("doctor");
    if global.json {
        command.arg("--json");
    }
    if let Some(config) = &args.config {
        command.arg("--config").arg(config);
    }
    // Comes back only if it fails.
    Err(anyhow!("cannot run {}: {}", program.display(), command.exec()))
}

/// Where the daemon's program may be: beside this one, on the path, where it is installed.
fn dirs(own: Option<&Path>, path: Option<&OsStr>) -> Vec<PathBuf> {
    let beside = own.and_then(Path::parent).map(Path::to_owned);
    let on_path = path.into_iter().flat_map(env::split_paths).filter(|dir| dir.is_absolute());
    beside.into_iter().chain(on_path).chain([INSTALLED.into()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_is_looked_for_beside_this_program_first_and_never_in_the_current_directory() {
        let found = dirs(Some(Path::new("/opt/roost/roost")), Some(OsStr::new("/usr/bin::bin:/bin")));
        assert_eq!(found, ["/opt/roost", "/usr/bin", "/bin", "/usr/local/bin"].map(PathBuf::from));
        assert_eq!(dirs(None, None), [PathBuf::from("/usr/local/bin")]);
    }
}
