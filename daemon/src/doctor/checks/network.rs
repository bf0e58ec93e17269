//! The network of functions: its plugins, its addresses, the way out, names.

use ipnet::Ipv4Net;

use super::set;
use crate::doctor::Finding;
use crate::doctor::facts::{Facts, Route};

pub(in crate::doctor) fn plugins(facts: &Facts) -> Finding {
    let network = match &facts.network {
        Ok(network) => network,
        Err(why) => {
            let conflist = facts.config.network.conflist.display();
            let fix = format!("correct it, or remove {conflist} and run install.sh, which lays it down anew");
            return Finding::problem(why, fix);
        }
    };
    let missing = network.programs.iter().filter(|(_, path)| path.is_none()).map(|(name, _)| name.as_str());
    let missing: Vec<&str> = missing.collect();
    let dirs = facts.config.network.plugin_dirs.iter().map(|dir| dir.display().to_string());
    let dirs = dirs.collect::<Vec<_>>().join(" nor ");
    if !missing.is_empty() {
        let found = format!("{} can be run neither in {dirs}", missing.join(", "));
        return Finding::problem(found, "apt-get install containernetworking-plugins");
    }
    let all: Vec<&str> = network.programs.iter().map(|(name, _)| name.as_str()).collect();
    Finding::ok(all.join(", "))
}

/// Do addresses of functions mean something else on this machine?
pub(in crate::doctor) fn subnets(facts: &Facts) -> Finding {
    let Ok(network) = &facts.network else {
        return Finding::unknown("which addresses functions get", "the conflist cannot be read");
    };
    let routes = match &facts.routes {
        Ok(routes) => routes,
        Err(why) => return Finding::unknown("where this machine sends packets", why),
    };
    let bridge = network.bridge.as_deref().unwrap_or_default();
    let mut findings = Vec::new();
    for (key, subnet) in &network.subnets {
        let ours = |route: &&Route| is_ours(bridge, &route.interface);
        let of_bridge = routes.iter().filter(|route| route.interface == bridge && *key == "network.subnet");
        for route in of_bridge.filter(|route| route.subnet != *subnet) {
            findings.push(Finding::problem(
                format!("{bridge} has addresses of {}, and {key} is {subnet}", route.subnet),
                format!("while no function runs: ip link del {bridge} && systemctl restart roostd"),
            ));
        }
        for route in routes.iter().filter(|route| !ours(route)) {
            findings.extend(collision(facts, key, *subnet, route));
        }
        for pool in facts.docker_pools.iter().filter(|pool| overlap(**pool, *subnet)) {
            findings.push(Finding::warning(
                format!("{key} = {subnet}, and Docker may give addresses of {pool}"),
                move_away(facts, key),
            ));
        }
    }
    let all: Vec<String> = network.subnets.iter().map(|(_, subnet)| subnet.to_string()).collect();
    findings.push(Finding::ok(format!("{}: no other way leads there", all.join(", "))));
    Finding::all(findings)
}

/// Namespaces have bridges of their own, named by the main one's name, a dash and a number.
fn is_ours(bridge: &str, interface: &str) -> bool {
    interface.strip_prefix(bridge).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

fn collision(facts: &Facts, key: &str, subnet: Ipv4Net, route: &Route) -> Option<Finding> {
    let Route { subnet: other, interface } = route;
    // The narrower way is taken.
    if subnet.contains(other) {
        let found =
            format!("{key} = {subnet}, but {other} leads to {interface}: functions there are not reached");
        return Some(Finding::problem(found, move_away(facts, key)));
    }
    other.contains(&subnet).then(|| {
        let found = format!("{key} = {subnet} is taken out of {other}, which leads to {interface}");
        Finding::warning(found, move_away(facts, key))
    })
}

fn overlap(one: Ipv4Net, other: Ipv4Net) -> bool {
    one.contains(&other) || other.contains(&one)
}

/// A subnet that nobody here has a use for.
fn move_away(facts: &Facts, key: &str) -> String {
    let name = key.trim_start_matches("network.");
    let routes = facts.routes.iter().flatten().map(|route| route.subnet);
    let own = facts.network.iter().flat_map(|network| network.subnets.iter().map(|(_, subnet)| *subnet));
    let taken: Vec<Ipv4Net> = routes.chain(facts.docker_pools.iter().copied()).chain(own).collect();
    let tens = (63..128).map(|second| [10, second, 0, 0]);
    let candidates = tens.chain((16..32).map(|second| [172, second, 0, 0])).chain([[192, 168, 0, 0]]);
    let mut free = candidates
        .filter_map(|address| Ipv4Net::new(address.into(), 16).ok())
        .filter(|candidate| !taken.iter().any(|taken| overlap(*taken, *candidate)));
    match free.next() {
        Some(free) => set(facts, "network", &format!("{name} = \"{free}\", while no function runs")),
        None => set(facts, "network", &format!("{name} = a subnet that is free here")),
    }
}

pub(in crate::doctor) fn forwarding(facts: &Facts) -> Finding {
    match &facts.forwards {
        Ok(true) => Finding::ok("net.ipv4.ip_forward is 1"),
        Ok(false) if facts.bridge_there => Finding::problem(
            "net.ipv4.ip_forward is 0: functions reach nothing outside",
            "sysctl -w net.ipv4.ip_forward=1 && echo net.ipv4.ip_forward=1 >/etc/sysctl.d/90-roost.conf",
        ),
        Ok(false) => Finding::ok("net.ipv4.ip_forward is 0; the first function switches it on"),
        Err(why) => Finding::unknown("whether this machine forwards packets", why),
    }
}

pub(in crate::doctor) fn dns(facts: &Facts) -> Finding {
    let silent: Vec<String> = of(facts, false);
    let answering = of(facts, true);
    let own = set(facts, "network", "dns = [\"ADDRESS\"], a resolver that is not on a loopback address");
    if facts.resolvers.is_empty() {
        let found =
            "this machine names no resolver that functions could reach (one on 127.0.0.53 is its own alone)";
        return Finding::warning(found, own);
    }
    if silent.is_empty() {
        return Finding::ok(format!("functions ask {}: answers", answering.join(", ")));
    }
    Finding::warning(
        format!("functions ask {}, which does not answer", silent.join(", ")),
        format!("see that the network is up, and /etc/resolv.conf right; or {own}"),
    )
}

fn of(facts: &Facts, answering: bool) -> Vec<String> {
    let some = facts.resolvers.iter().filter(|resolver| resolver.answers == answering);
    some.map(|resolver| resolver.address.to_string()).collect()
}
