//! What the host allows: facts that shape every spec, read once.
//!
//! Owns the asking. Never decides: [`super::spec`] does, from these facts.

use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// Where the kernel's control groups are mounted.
pub(super) const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Open files allowed when the host does not say. The kernel's own default.
const FALLBACK_OPEN_FILES: u64 = 4096;

/// Facts of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Host {
    /// Its control groups.
    pub(super) cgroups: Cgroups,
    /// How many open files a process may at most be allowed here.
    pub(super) open_files: u64,
    /// What its programs are compiled for.
    pub(super) machine: Machine,
}

/// The version of the control groups, as the OCI runtime sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cgroups {
    /// One hierarchy for each controller. Also a hybrid host.
    V1 {
        /// Whether swap is counted: without it a swap limit makes runc fail.
        swap: bool,
    },
    /// One hierarchy.
    V2,
}

/// The instruction set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Machine {
    /// x86-64.
    X86_64,
    /// 64-bit ARM, whose kernels also run 32-bit programs.
    Aarch64,
    /// Another one.
    Other,
}

impl Host {
    /// Asks the host.
    #[must_use]
    pub(super) fn read() -> Self {
        // runc makes the same test, and the two must agree.
        let unified = statfs(CGROUP_ROOT).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC);
        let swap = || Path::new(CGROUP_ROOT).join("memory/memory.memsw.limit_in_bytes").exists();
        Self {
            cgroups: if unified { Cgroups::V2 } else { Cgroups::V1 { swap: swap() } },
            open_files: getrlimit(Resource::RLIMIT_NOFILE).map_or(FALLBACK_OPEN_FILES, |(_, hard)| hard),
            machine: match std::env::consts::ARCH {
                "x86_64" => Machine::X86_64,
                "aarch64" => Machine::Aarch64,
                _ => Machine::Other,
            },
        }
    }
}
