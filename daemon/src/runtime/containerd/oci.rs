//! Which OCI runtime makes the processes: runc, or crun, which is faster.
//!
//! Owns the choice and how containerd's shim is told of it. Both are called by the same shim with the same words, so a
//! replica that one of them made is no other replica.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use prost::Message;
use prost_types::Any;

use super::Settings;
use super::host::CGROUP_ROOT;

/// The setting that leaves the choice to us.
pub const AUTO: &str = "auto";

/// What containerd's shim calls its options.
const OPTIONS_TYPE: &str = "containerd.runc.v1.Options";

/// Where programs of the system are, whatever the path of this process says.
const PROGRAM_DIRS: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The shim's options, as far as they are set here.
#[derive(Clone, PartialEq, Message)]
struct Options {
    /// A name that the shim finds on its path, or a path.
    #[prost(string, tag = "6")]
    binary_name: String,
}

/// What the shim is to be told; nothing, if it is to take runc.
pub(super) fn options(settings: &Settings) -> Option<Any> {
    let binary_name = settings.oci_runtime.clone()?;
    Some(Any { type_url: OPTIONS_TYPE.to_owned(), value: Options { binary_name }.encode_to_vec() })
}

/// The OCI runtime by its setting: a name, a path, or [`AUTO`]. `None` is containerd's own choice, which is runc.
#[must_use]
pub fn choose(setting: &str) -> Option<String> {
    if setting != AUTO {
        return Some(setting.to_owned());
    }
    let crun = PROGRAM_DIRS.iter().map(|dir| Path::new(dir).join("crun")).find(|path| path.exists())?;
    if let Err(why) = usable(&crun, Path::new(CGROUP_ROOT)) {
        tracing::info!("{} is not used: {why}", crun.display());
        return None;
    }
    Some(crun.to_str()?.to_owned())
}

/// Can this crun run replicas here? If not, why.
fn usable(crun: &Path, cgroup_root: &Path) -> Result<(), String> {
    let unified: PathBuf = cgroup_root.join("unified");
    // It refuses a second version of control groups beside the first one.
    if statfs(&unified).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC) {
        return Err(format!(
            "control groups of both versions are mounted, one of them at {}",
            unified.display()
        ));
    }
    match Command::new(crun).arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("it ends with {}", output.status)),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_taken_and_told_to_the_shim() {
        assert_eq!(choose("youki").as_deref(), Some("youki"));
        let settings = |oci_runtime| Settings { oci_runtime, ..Settings::default() };
        assert_eq!(options(&settings(None)), None);
        let told = options(&settings(choose("/opt/crun"))).unwrap();
        assert_eq!(
            (told.type_url.as_str(), told.value.as_slice()),
            (OPTIONS_TYPE, b"\x32\x09/opt/crun".as_slice())
        );
    }

    #[test]
    fn a_crun_that_does_not_start_is_not_used() {
        let nowhere = Path::new("/nowhere");
        assert!(usable(nowhere, nowhere).is_err());
        assert!(usable(Path::new("/bin/false"), nowhere).is_err());
        assert_eq!(usable(Path::new("/bin/true"), nowhere), Ok(()));
    }
}
