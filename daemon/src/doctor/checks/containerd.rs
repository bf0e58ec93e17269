//! containerd, and what makes the processes.

use super::{set, version};
use crate::doctor::Finding;
use crate::doctor::facts::Facts;

/// The oldest containerd that was tried, that of Debian 12.
const OLDEST: (u32, u32) = (1, 6);

pub(in crate::doctor) fn containerd(facts: &Facts) -> Finding {
    let told = match &facts.containerd.asked {
        Ok(told) => told,
        Err(_) if !facts.containerd.installed => {
            return Finding::problem("containerd is not installed", "apt-get install containerd");
        }
        Err(why) if !facts.root => return Finding::unknown("how containerd is", why),
        Err(why) => {
            let fix = match facts.units {
                Some(_) => "systemctl enable --now containerd; if it ends again: journalctl -u containerd",
                None => "start it: containerd; what it says tells why it ends",
            };
            return Finding::problem(why, fix);
        }
    };
    let mut findings = Vec::new();
    if version(&told.version).is_none_or(|version| version < OLDEST) {
        let (major, minor) = OLDEST;
        let found = format!("{} is older than {major}.{minor}: not tried", told.version);
        findings.push(Finding::warning(found, "use the containerd of a newer release of the system"));
    }
    let wanted = &facts.config.containerd.snapshotter;
    if !told.snapshotters.contains(wanted) {
        let has = told.snapshotters.join(", ");
        let fix = match wanted.as_str() {
            "overlayfs" => "modprobe overlay && systemctl restart containerd".to_owned(),
            _ => set(facts, "containerd", &format!("snapshotter = one of {has}")),
        };
        findings.push(Finding::problem(
            format!("it has no snapshotter {wanted} that works here, but {has}"),
            fix,
        ));
    }
    let socket = facts.config.containerd.socket.display();
    findings.push(Finding::ok(format!("{} answers on {socket}, with {wanted}", told.version)));
    Finding::all(findings)
}

pub(in crate::doctor) fn runtime(facts: &Facts) -> Finding {
    let name = &facts.runtime.name;
    match &facts.runtime.version {
        Ok(version) => Finding::ok(version),
        Err(why) if name == "runc" => Finding::problem(why, "apt-get install runc"),
        Err(why) => Finding::problem(
            format!("containerd.runtime = {name:?}: {why}"),
            set(facts, "containerd", "runtime = \"auto\""),
        ),
    }
}
