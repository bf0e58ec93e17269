//! The kernel, its control groups, containerd.

use super::*;

#[test]
fn a_kernel_without_what_functions_need_is_a_problem() {
    all_end_so(
        "kernel",
        &[
            (|f| f.kernel.release = Err("no".into()), Warning, "cannot tell", ""),
            (
                |f| f.kernel.release = Ok("5.10.0".into()),
                Warning,
                "5.10.0 is older than 5.15",
                "newer release",
            ),
            (|f| f.kernel.modules[2] = Presence::Missing, Problem, "6.1.0-rpi7 has no veth", "CONFIG_VETH"),
            (
                |f| f.kernel.modules[1] = Presence::Unknown,
                Warning,
                "cannot tell whether 6.1.0-rpi7 has bridge",
                "",
            ),
            (|f| f.kernel.modules[0] = Presence::Missing, Problem, "no overlay", "CONFIG_OVERLAY_FS"),
            (
                |f| {
                    f.kernel.modules[0] = Presence::Missing;
                    f.config.containerd.snapshotter = "native".into();
                },
                Well,
                "with bridge, veth",
                "",
            ),
            (
                |f| {
                    f.kernel.modules[0] = Presence::Unknown;
                    f.kernel.upgraded = true;
                },
                Problem,
                "it was upgraded",
                "reboot",
            ),
            (|f| f.kernel.modules[3] = Presence::Missing, Well, "6.1.0-rpi7", ""),
        ],
    );
    all_end_so(
        "bridge filter",
        &[
            (
                |f| f.kernel.bridge_filter = Some(false),
                Warning,
                "is 0",
                "sysctl -w net.bridge.bridge-nf-call-iptables=1",
            ),
            (|f| f.kernel.bridge_filter = None, Warning, "not loaded", "modprobe br_netfilter"),
            (
                |f| {
                    f.kernel.bridge_filter = None;
                    f.kernel.modules[3] = Presence::Missing;
                },
                Warning,
                "has no br_netfilter",
                "CONFIG_BRIDGE_NETFILTER",
            ),
            (
                |f| {
                    f.kernel.bridge_filter = None;
                    f.kernel.modules[3] = Presence::Unknown;
                },
                Warning,
                "cannot tell",
                "",
            ),
        ],
    );
}

#[test]
fn controllers_that_are_missing_are_told_with_how_they_are_switched_on() {
    all_end_so(
        "cgroups",
        &[
            (
                |f| f.cgroups.usable = vec!["cpu", "pids"],
                Problem,
                "the memory cgroup is off",
                "cgroup_enable=memory",
            ),
            (
                |f| {
                    f.cgroups.usable = vec!["cpu", "pids"];
                    f.kernel.raspberry_line = Some("/boot/firmware/cmdline.txt".into());
                },
                Problem,
                "default on a Raspberry Pi",
                "append to the single line in /boot/firmware/cmdline.txt: cgroup_enable=cpuset cgroup_memory=1 cgroup_enable=memory; then reboot",
            ),
            (
                |f| f.cgroups.usable = vec!["memory", "pids"],
                Warning,
                "the cpu cgroup is off",
                "cgroup_enable=cpu",
            ),
            (
                |f| {
                    f.cgroups.hierarchy = Hierarchy::V1;
                    f.cgroups.usable = vec!["cpu", "memory"];
                },
                Problem,
                "pids controller is not mounted",
                "mount -t cgroup -o pids pids /sys/fs/cgroup/pids",
            ),
            (|f| f.cgroups.hierarchy = Hierarchy::None, Problem, "no control groups", "mount -t cgroup2"),
        ],
    );
}

#[test]
fn containerd_has_to_answer_and_to_have_the_snapshotter() {
    all_end_so(
        "containerd",
        &[
            (
                |f| f.containerd.asked = Err("no answer".into()),
                Problem,
                "no answer",
                "systemctl enable --now containerd",
            ),
            (
                |f| {
                    f.containerd.asked = Err("no answer".into());
                    f.units = None;
                },
                Problem,
                "no answer",
                "start it: containerd",
            ),
            (
                |f| f.containerd = Containerd { installed: false, asked: Err("no socket".into()) },
                Problem,
                "not installed",
                "apt-get install containerd",
            ),
            (
                |f| {
                    f.containerd.asked = Err("permission denied".into());
                    f.root = false;
                },
                Warning,
                "cannot tell",
                "",
            ),
            (|f| version(f).version = "1.5.9".into(), Warning, "1.5.9 is older than 1.6", "newer"),
            (
                |f| version(f).snapshotters = vec!["native".into()],
                Problem,
                "no snapshotter overlayfs",
                "modprobe overlay",
            ),
            (
                |f| f.config.containerd.snapshotter = "zfs".into(),
                Problem,
                "no snapshotter zfs",
                "snapshotter = one of overlayfs, native",
            ),
            (|f| version(f).version = "v2.1.0".into(), Well, "v2.1.0", ""),
        ],
    );
    all_end_so(
        "runtime",
        &[
            (
                |f| f.runtime.version = Err("runc is not installed".into()),
                Problem,
                "runc is not installed",
                "apt-get install runc",
            ),
            (
                |f| f.runtime = OciRuntime { name: "youki".into(), version: Err("no".into()) },
                Problem,
                "containerd.runtime = \"youki\"",
                "runtime = \"auto\"",
            ),
        ],
    );
}

fn version(facts: &mut Facts) -> &mut Version {
    facts.containerd.asked.as_mut().unwrap()
}
