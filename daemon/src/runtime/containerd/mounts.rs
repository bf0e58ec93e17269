//! What is mounted inside a replica, besides its root.
//!
//! Pure, a part of [`super::spec`].

use oci_spec::OciSpecError;
use oci_spec::runtime::{Mount, MountBuilder};

use crate::runtime::{BindMount, ReplicaPlan};

/// Target, type, source and options of the kernel's own file systems, in the order of mounting.
const KERNEL: [(&str, &str, &str, &[&str]); 7] = [
    ("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
    ("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
    (
        "/dev/pts",
        "devpts",
        "devpts",
        &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    ),
    ("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
    ("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    // Go, Node and the JVM read their limits here.
    ("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
];

/// A writable `/tmp` over a root that is not. Its pages count as the replica's memory, so the memory limit is
/// also its limit; without one it is the kernel's default, half of the host's memory.
const TMP: (&str, &str, &str, &[&str]) = ("/tmp", "tmpfs", "tmpfs", &["nosuid", "nodev", "mode=1777"]);

/// All mounts of `plan`: the kernel's, `/tmp` where the root is read-only, then the plan's own on top.
pub(super) fn all(plan: &ReplicaPlan) -> Result<Vec<Mount>, OciSpecError> {
    let tmp = plan.read_only_root.then_some(TMP);
    KERNEL.into_iter().chain(tmp).map(fixed).chain(plan.mounts.iter().map(bind)).collect()
}

fn fixed((target, typ, source, options): (&str, &str, &str, &[&str])) -> Result<Mount, OciSpecError> {
    let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    MountBuilder::default().destination(target).typ(typ).source(source).options(options).build()
}

fn bind(mount: &BindMount) -> Result<Mount, OciSpecError> {
    let access = if mount.read_only { "ro" } else { "rw" };
    // Not with what is mounted below it: "ro" would not count there.
    let options: Vec<String> = ["bind", "rprivate", "nosuid", "nodev", access].map(str::to_owned).into();
    MountBuilder::default()
        .destination(&mount.target)
        .typ("bind")
        .source(&mount.source)
        .options(options)
        .build()
}
