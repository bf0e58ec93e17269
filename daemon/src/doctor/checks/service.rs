//! The units of systemd: does the daemon come back after a reboot, and do its connections outlive a restart?

use crate::doctor::Finding;
use crate::doctor::facts::{Facts, Units};
use crate::handover::DESCRIPTORS;

const SERVICE: &str = "roostd.service";
const SOCKET: &str = "roostd.socket";

pub(in crate::doctor) fn service(facts: &Facts) -> Finding {
    let units = match &facts.units {
        None => {
            return Finding::warning(
                "systemd does not run here: nothing starts roostd after a reboot",
                "have the init of this system start: roostd supervise",
            );
        }
        Some(Err(why)) => return Finding::unknown("what systemd knows of roostd", why),
        Some(Ok(units)) => units,
    };
    if units.get(SERVICE, "LoadState") != "loaded" {
        return Finding::problem("systemd knows no roostd.service", "install.sh");
    }
    let mut findings = Vec::new();
    for unit in [SERVICE, SOCKET] {
        let loaded = units.get(unit, "LoadState") == "loaded";
        if loaded && units.get(unit, "UnitFileState") != "enabled" {
            let found = format!("{unit} is not enabled: it is not there after a reboot");
            findings.push(Finding::problem(found, format!("systemctl enable {unit}")));
        }
        if units.get(unit, "NeedDaemonReload") == "yes" {
            let found = format!("systemd has not read {unit} since it changed");
            findings.push(Finding::warning(found, "systemctl daemon-reload && systemctl restart roostd"));
        }
    }
    let state = units.get(SERVICE, "ActiveState");
    match state {
        "active" => {}
        "failed" => findings.push(Finding::problem("roostd has failed", "journalctl -u roostd -n 50")),
        _ => findings.push(Finding::warning(format!("roostd is {state}"), "systemctl start roostd")),
    }
    findings.extend(kept(facts, units));
    findings.extend(address(facts, units));
    findings.push(Finding::ok("roostd runs, and comes back after a reboot"));
    Finding::all(findings)
}

/// Is there room for what a restart leaves to the next daemon?
fn kept(facts: &Facts, units: &Units) -> Option<Finding> {
    let room: usize = units.get(SERVICE, "FileDescriptorStoreMax").parse().unwrap_or(0);
    (facts.config.kept_tunnels > 0 && room < DESCRIPTORS).then(|| {
        let found = format!("FileDescriptorStoreMax is {room}: connections end when roostd is restarted");
        let fix = format!("systemctl edit roostd, with: [Service] FileDescriptorStoreMax={DESCRIPTORS}");
        Finding::warning(found, fix)
    })
}

/// Where systemd listens for the daemon, the settings do not count.
fn address(facts: &Facts, units: &Units) -> Option<Finding> {
    let (listens, wanted) = (units.get(SOCKET, "Listen"), facts.config.listen.to_string());
    let is_there = listens.split_whitespace().any(|word| word == wanted);
    (units.get(SOCKET, "ActiveState") == "active" && !is_there).then(|| {
        let found = format!("server.listen is {wanted}, but roostd.socket has {listens}, and that counts");
        Finding::warning(found, format!("install.sh --listen {wanted}"))
    })
}
