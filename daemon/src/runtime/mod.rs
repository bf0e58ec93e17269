//! What runs replicas: the plain types that the rest of the daemon hands in and gets back.
//!
//! Owns the words of running (plan, limits, exit, usage). Never decides how many replicas there should be, and
//! never touches the network or a registry: a plan comes with both done.

pub mod containerd;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use jiff::Timestamp;
use roost_proxy::ReplicaKey;
use roost_proxy::function::{FunctionKey, ReplicaId};

use crate::image::ResolvedImage;

/// Everything that is needed to start one replica.
#[derive(Debug, Clone)]
pub struct ReplicaPlan {
    /// Its id, also the id of its container.
    pub id: ReplicaId,
    /// The function that it is a replica of.
    pub function: FunctionKey,
    /// The revision of the function's spec that it runs.
    pub revision: String,
    /// The key that it is for: kept in a label, for whoever adopts it.
    pub key: Option<ReplicaKey>,
    /// The image, unpacked on this host.
    pub image: ResolvedImage,
    /// Environment on top of the image's.
    pub env: BTreeMap<String, String>,
    /// What it may use.
    pub limits: Limits,
    /// Whether its root file system cannot be written. `/tmp` still can.
    pub read_only_root: bool,
    /// Its network namespace, made and attached.
    pub netns: PathBuf,
    /// Its address in that namespace: kept in a label, for whoever adopts it.
    pub address: IpAddr,
    /// Files and directories of the host that it sees.
    pub mounts: Vec<BindMount>,
    /// Devices of the host that it may use.
    pub devices: Vec<Device>,
    /// Labels of its container, besides our own.
    pub labels: BTreeMap<String, String>,
    /// Where the log driver writes its output. Made if it is not there.
    pub log_dir: PathBuf,
    /// How large its log may grow, in bytes.
    pub log_limit: u64,
}

/// What a replica may use. `None` is: as much as there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory in bytes. Beyond it the kernel kills.
    pub memory_bytes: Option<u64>,
    /// Processor time in thousandths of one core. Beyond it the kernel makes it wait.
    pub cpu_millis: Option<u64>,
}

/// A file or directory of the host, seen inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindMount {
    /// The path on the host.
    pub source: PathBuf,
    /// The absolute path inside.
    pub target: PathBuf,
    /// Whether it cannot be written from inside.
    pub read_only: bool,
}

/// A device of the host, made inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The absolute path inside.
    pub target: PathBuf,
    /// Whether it is a block device, and no character device.
    pub block: bool,
    /// The kernel's number of its driver.
    pub major: i64,
    /// The driver's number of it.
    pub minor: i64,
    /// What may be done with it: `r` read, `w` write, `m` make.
    pub access: String,
}

/// How a replica ended. Shown as text for people, such as `exited with code 1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The status of its first process, 128 + n when signal n killed it. `None` when nobody saw it: the host
    /// or the shim went down with it.
    pub code: Option<u32>,
    /// When it ended; when it was found gone, if nobody saw it.
    pub at: Timestamp,
    /// Whether it ended because its memory limit was reached.
    pub out_of_memory: bool,
    /// Its memory limit in bytes, where it is known and matters.
    pub memory_limit: Option<u64>,
}

/// Shells and containerd report a death by signal n as 128 + n.
const SIGNAL_BASE: u32 = 128;

/// The largest signal number of Linux.
const LAST_SIGNAL: u32 = 64;

impl Exit {
    /// The signal that killed the first process, if one did.
    #[must_use]
    pub fn signal(&self) -> Option<u32> {
        self.code?.checked_sub(SIGNAL_BASE).filter(|signal| (1..=LAST_SIGNAL).contains(signal))
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.out_of_memory {
            return match self.memory_limit {
                Some(limit) => write!(f, "out of memory (limit {})", Bytes(limit)),
                None => f.write_str("out of memory"),
            };
        }
        match (self.code, self.signal()) {
            (None, _) => f.write_str("gone without an exit code"),
            (Some(_), Some(signal)) => write!(f, "killed by signal {signal}"),
            (Some(code), None) => write!(f, "exited with code {code}"),
        }
    }
}

/// A size as a person writes it: in the largest binary unit that leaves no remainder.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match units.iter().find(|(_, size)| self.0 >= *size && self.0.is_multiple_of(*size)) {
            Some((unit, size)) => write!(f, "{} {unit}", self.0 / size),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

/// How far a replica is whose process is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Everything is made; its program was not started yet.
    Created,
    /// Its program runs.
    Running,
    /// Its program ran, and is frozen.
    Paused,
}

/// A replica that was found on the host, by its labels.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its id.
    pub id: ReplicaId,
    /// The function that it is a replica of.
    pub function: FunctionKey,
    /// The revision that it runs.
    pub revision: String,
    /// The key that it is for, if it is for one.
    pub key: Option<ReplicaKey>,
    /// Its address, if the label is there and reads as one.
    pub address: Option<IpAddr>,
    /// The digest of its image.
    pub image: String,
    /// All labels of its container, ours too.
    pub labels: HashMap<String, String>,
    /// How far it is; `None` if it has no process (any more).
    pub standing: Option<Standing>,
    /// How it ended, if it did and its end is still on record.
    pub exit: Option<Exit>,
}

/// What a replica uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time since it started, in microseconds.
    pub cpu_usec: u64,
    /// Memory that it holds now, in bytes, without the file cache that the kernel would give up first.
    pub memory_bytes: u64,
    /// How often the kernel killed one of its processes for memory.
    pub oom_kills: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_says_in_words_how_it_came() {
        let exit = |code, out_of_memory, memory_limit| {
            Exit { code, at: Timestamp::UNIX_EPOCH, out_of_memory, memory_limit }.to_string()
        };
        for (code, oom, limit, text) in [
            (Some(0), false, None, "exited with code 0"),
            (Some(1), false, Some(1 << 20), "exited with code 1"),
            (Some(128), false, None, "exited with code 128"),
            (Some(137), false, None, "killed by signal 9"),
            (Some(143), false, None, "killed by signal 15"),
            (Some(255), false, None, "exited with code 255"),
            (None, false, None, "gone without an exit code"),
            (Some(137), true, Some(64 << 20), "out of memory (limit 64 MiB)"),
            (Some(137), true, Some(3 << 30), "out of memory (limit 3 GiB)"),
            (Some(137), true, Some(64_000_000), "out of memory (limit 62500 KiB)"),
            (Some(137), true, Some(1_000_001), "out of memory (limit 1000001 bytes)"),
            (Some(1), true, None, "out of memory"),
        ] {
            assert_eq!(exit(code, oom, limit), text);
        }
    }
}
