//! What functions need of the kernel.

use super::version;
use crate::doctor::facts::{CONTROLLERS, Facts, Hierarchy, MODULES, Presence};
use crate::doctor::{Finding, Verdict};

/// The oldest kernel that was tried, that of Ubuntu 22.04.
const OLDEST: (u32, u32) = (5, 15);

/// The module without which functions run all the same.
const BRIDGE_FILTER: &str = "br_netfilter";

/// What the kernel of a Raspberry Pi wants to be told at boot.
const RASPBERRY_WORDS: &str = "cgroup_enable=cpuset cgroup_memory=1 cgroup_enable=memory";

pub(in crate::doctor) fn kernel(facts: &Facts) -> Finding {
    let kernel = &facts.kernel;
    let release = match &kernel.release {
        Ok(release) => release,
        Err(why) => return Finding::unknown("the kernel's version", why),
    };
    let mut findings = Vec::new();
    if version(release).is_some_and(|version| version < OLDEST) {
        let (major, minor) = OLDEST;
        let found = format!("{release} is older than {major}.{minor}: not tried");
        findings.push(Finding::warning(found, "use a newer release of the system"));
    }
    let mut present = Vec::new();
    for ((module, key), presence) in MODULES.into_iter().zip(kernel.modules) {
        // Another snapshotter has no use for it.
        let needed = module != BRIDGE_FILTER
            && (module != "overlay" || facts.config.containerd.snapshotter == "overlayfs");
        match presence {
            _ if !needed => {}
            Presence::There => present.push(module),
            _ if kernel.upgraded => {
                let found =
                    format!("the modules of {release} are gone, {module} among them: it was upgraded");
                findings.push(Finding::problem(found, "reboot"));
            }
            Presence::Missing => {
                let fix = format!("boot the distribution's own kernel, or one with CONFIG_{key}");
                findings.push(Finding::problem(format!("{release} has no {module}"), fix));
            }
            Presence::Unknown => findings.push(Finding::unknown(
                &format!("whether {release} has {module}"),
                "neither its modules nor its settings can be read from here",
            )),
        }
    }
    findings.push(Finding::ok(format!("{release}, with {}", present.join(", "))));
    Finding::all(findings)
}

pub(in crate::doctor) fn bridge_filter(facts: &Facts) -> Finding {
    let [_, _, _, presence] = facts.kernel.modules;
    let unfiltered = "functions can reach each other on the bridge unfiltered";
    match (facts.kernel.bridge_filter, presence) {
        (Some(true), _) => Finding::ok("what passes between functions on one bridge goes through iptables"),
        (Some(false), _) => Finding::warning(
            format!("net.bridge.bridge-nf-call-iptables is 0: {unfiltered}"),
            "sysctl -w net.bridge.bridge-nf-call-iptables=1, and so in /etc/sysctl.d",
        ),
        (None, Presence::There) => Finding::warning(
            format!("br_netfilter is not loaded: {unfiltered}"),
            "modprobe br_netfilter && echo br_netfilter >/etc/modules-load.d/br_netfilter.conf",
        ),
        (None, Presence::Missing) => Finding::warning(
            format!("the kernel has no br_netfilter: {unfiltered}"),
            "boot the distribution's own kernel, or one with CONFIG_BRIDGE_NETFILTER",
        ),
        (None, Presence::Unknown) => {
            Finding::unknown("whether the kernel has br_netfilter", "its modules cannot be seen from here")
        }
    }
}

pub(in crate::doctor) fn cgroups(facts: &Facts) -> Finding {
    let version = match facts.cgroups.hierarchy {
        Hierarchy::V1 => "version 1",
        Hierarchy::V2 => "version 2",
        Hierarchy::None => {
            let fix = "mount -t cgroup2 cgroup2 /sys/fs/cgroup, and have it mounted at boot (systemd does)";
            return Finding::problem("no control groups are mounted at /sys/fs/cgroup", fix);
        }
    };
    let missing = CONTROLLERS.into_iter().filter(|name| !facts.cgroups.usable.contains(name));
    let mut findings: Vec<Finding> = missing.map(|name| missing_controller(facts, name)).collect();
    findings.push(Finding::ok(format!("{version}, with {}", facts.cgroups.usable.join(", "))));
    Finding::all(findings)
}

fn missing_controller(facts: &Facts, name: &str) -> Finding {
    let enabled = facts.cgroups.enabled.contains(&name);
    let v1 = facts.cgroups.hierarchy == Hierarchy::V1;
    let (found, fix) = match &facts.kernel.raspberry_line {
        _ if enabled && v1 => (
            format!("the {name} controller is not mounted"),
            format!(
                "mkdir -p /sys/fs/cgroup/{name} && mount -t cgroup -o {name} {name} /sys/fs/cgroup/{name}"
            ),
        ),
        Some(line) if name == "memory" => (
            "the memory cgroup is off (the default on a Raspberry Pi)".to_owned(),
            format!("append to the single line in {}: {RASPBERRY_WORDS}; then reboot", line.display()),
        ),
        _ => (
            format!("the {name} cgroup is off: limits of functions could not be kept"),
            format!("boot without cgroup_disable={name} (or with cgroup_enable={name})"),
        ),
    };
    // Each function has a limit of processes; and one of memory is what keeps it from taking the machine along.
    let verdict = if name == "cpu" { Verdict::Warning } else { Verdict::Problem };
    Finding { verdict, ..Finding::problem(found, fix) }
}
