//! The OCI spec of a replica: what runc is told.
//!
//! Pure: from plan, settings, user and host facts to data. Never touches the host; see [`super::host`].

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Linux, LinuxBuilder, LinuxCpuBuilder, LinuxMemoryBuilder, LinuxNamespace, LinuxNamespaceBuilder,
    LinuxNamespaceType, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder, PosixRlimitBuilder,
    PosixRlimitType, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use super::host::{Cgroups, Host};
use super::user::User;
use super::{Error, Settings, capabilities, cgroup, devices, mounts, seccomp};
use crate::image::ImageConfig;
use crate::runtime::{Device, Limits, ReplicaPlan};

/// The version of the OCI spec that is spoken: old enough for every runc in the field.
const OCI_VERSION: &str = "1.0.2";

/// Where programs are looked for when the image does not say.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Processes and threads of one replica. A fork bomb ends here.
const MAX_PIDS: i64 = 1024;

/// Open files of one replica, where the host allows as many.
const MAX_OPEN_FILES: u64 = 1_048_576;

/// The period in which processor time is shared out, in microseconds. The kernel's default.
const CPU_PERIOD_USEC: u64 = 100_000;

/// The least time in a period that the kernel takes, in microseconds.
const MIN_CPU_QUOTA_USEC: i64 = 1_000;

/// When the whole host runs out of memory, functions go before the daemon, containerd and ssh.
const OOM_SCORE_ADJ: i32 = 300;

/// containerd's shim takes all containers with the same value of this annotation into one process.
const SHIM_GROUP: &str = "io.containerd.runc.v2.group";

/// Files that tell of the host, or hang it: hidden.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Files that change the host: not to be written.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The spec of the replica `plan`, running as `user` on `host`.
///
/// # Errors
/// When the image names no command, or a value is none that the spec can carry.
pub(super) fn build(plan: &ReplicaPlan, settings: &Settings, user: &User, host: Host) -> Result<Spec, Error> {
    let args = args(&plan.image.config);
    if args.is_empty() {
        return Err(Error::NoCommand { image: plan.image.name.clone() });
    }
    assemble(plan, settings, args, user, host)
        .map_err(|source| Error::Spec { replica: plan.id.to_string(), source: Box::new(source) })
}

fn assemble(
    plan: &ReplicaPlan,
    settings: &Settings,
    args: Vec<String>,
    user: &User,
    host: Host,
) -> Result<Spec, OciSpecError> {
    SpecBuilder::default()
        .version(OCI_VERSION)
        .root(RootBuilder::default().path("rootfs").readonly(plan.read_only_root).build()?)
        .hostname(plan.function.name.as_str())
        .process(process(plan, args, user, host)?)
        .mounts(mounts::all(plan)?)
        .annotations(annotations(plan, settings))
        .linux(linux(plan, settings, host)?)
        .build()
}

/// The command line: the entrypoint, and behind it the command.
fn args(config: &ImageConfig) -> Vec<String> {
    config.entrypoint.iter().chain(&config.cmd).cloned().collect()
}

/// The environment: the default path, the image's, the function's. The later one of a key wins, at its own place.
fn env(image: &[String], plan: &BTreeMap<String, String>) -> Vec<String> {
    let plan: Vec<String> = plan.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut merged: Vec<String> = Vec::new();
    for entry in std::iter::once(DEFAULT_PATH)
        .chain(image.iter().map(String::as_str))
        .chain(plan.iter().map(String::as_str))
    {
        let key = key(entry);
        merged.retain(|other| self::key(other) != key);
        merged.push(entry.to_owned());
    }
    merged
}

fn key(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(key, _)| key)
}

fn process(plan: &ReplicaPlan, args: Vec<String>, user: &User, host: Host) -> Result<Process, OciSpecError> {
    let config = &plan.image.config;
    let cwd = if config.working_dir.is_empty() { "/" } else { &config.working_dir };
    let identity = UserBuilder::default().uid(user.uid).gid(user.gid).additional_gids(user.groups.clone());
    let open_files = MAX_OPEN_FILES.min(host.open_files);
    let rlimit = PosixRlimitBuilder::default()
        .typ(PosixRlimitType::RlimitNofile)
        .hard(open_files)
        .soft(open_files)
        .build()?;
    ProcessBuilder::default()
        .terminal(false)
        .user(identity.build()?)
        .args(args)
        .env(env(&config.env, &plan.env))
        // A relative directory is one from the root, as everywhere in this field.
        .cwd(PathBuf::from("/").join(cwd))
        .capabilities(capabilities::kept()?)
        .rlimits(vec![rlimit])
        .no_new_privileges(true)
        .oom_score_adj(OOM_SCORE_ADJ)
        .build()
}

fn annotations(plan: &ReplicaPlan, settings: &Settings) -> HashMap<String, String> {
    if !settings.share_shim {
        return HashMap::new();
    }
    HashMap::from([(SHIM_GROUP.to_owned(), format!("roost-{}", plan.function.namespace))])
}

fn linux(plan: &ReplicaPlan, settings: &Settings, host: Host) -> Result<Linux, OciSpecError> {
    let path = cgroup::path(&settings.cgroup_parent, &plan.function.namespace, &plan.id);
    let owned = |paths: &[&str]| -> Vec<String> { paths.iter().map(|path| (*path).to_owned()).collect() };
    let builder = LinuxBuilder::default()
        .cgroups_path(path)
        .namespaces(namespaces(plan, host)?)
        .devices(devices::nodes(&plan.devices)?)
        .resources(resources(plan.limits, &plan.devices, host)?)
        .masked_paths(owned(&MASKED))
        .readonly_paths(owned(&READ_ONLY));
    if settings.seccomp { builder.seccomp(seccomp::profile(host.machine)?).build() } else { builder.build() }
}

fn namespaces(plan: &ReplicaPlan, host: Host) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, Uts};
    let mut kinds = vec![Pid, Ipc, Uts, Mount];
    if host.cgroups == Cgroups::V2 {
        // On v1 runc mounts the replica's own groups instead.
        kinds.push(Cgroup);
    }
    let mut all = Vec::new();
    for kind in kinds {
        all.push(LinuxNamespaceBuilder::default().typ(kind).build()?);
    }
    all.push(LinuxNamespaceBuilder::default().typ(Network).path(&plan.netns).build()?);
    Ok(all)
}

fn resources(limits: Limits, devices: &[Device], host: Host) -> Result<LinuxResources, OciSpecError> {
    let mut builder = LinuxResourcesBuilder::default()
        .devices(devices::rules(devices)?)
        .pids(LinuxPidsBuilder::default().limit(MAX_PIDS).build()?);
    if let Some(bytes) = limits.memory_bytes {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let mut memory = LinuxMemoryBuilder::default().limit(bytes);
        if host.cgroups != (Cgroups::V1 { swap: false }) {
            // Memory and swap together: none of it is swap, so the limit is a limit.
            memory = memory.swap(bytes);
        }
        builder = builder.memory(memory.build()?);
    }
    if let Some(millis) = limits.cpu_millis {
        let quota = i64::try_from(millis.saturating_mul(CPU_PERIOD_USEC) / 1000).unwrap_or(i64::MAX);
        let quota = quota.max(MIN_CPU_QUOTA_USEC);
        builder = builder.cpu(LinuxCpuBuilder::default().quota(quota).period(CPU_PERIOD_USEC).build()?);
    }
    builder.build()
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
