//! Rules of others: Docker, ufw, firewalld, nftables.
//!
//! What functions send out passes the chain FORWARD, where the firewall plugin accepts it in front of all others; what they
//! ask of `http://gateway` passes INPUT, where nobody does.

use ipnet::Ipv4Net;

use crate::doctor::Finding;
use crate::doctor::facts::{Facts, NetworkFacts};

pub(in crate::doctor) fn firewall(facts: &Facts) -> Finding {
    let tables = match &facts.firewall.tables {
        Ok(tables) => tables,
        Err(why) if !facts.root => return Finding::unknown("what the rules are", why),
        Err(why) => {
            let found = format!("rules cannot be read, nor written: {why}");
            return Finding::problem(found, "apt-get install iptables; the kernel must have nf_tables");
        }
    };
    let mut findings = Vec::new();
    if let Ok(network) = &facts.network {
        findings.extend(forward(facts, network, tables));
        findings.extend(input(facts, network, tables));
        findings.extend(nftables(facts, network));
        findings.extend(firewalld(facts, network));
    }
    if facts.firewall.two_back_ends {
        findings.push(Finding::warning(
            "there are rules of both back ends of iptables: what one accepts, the other may drop",
            "iptables-legacy-save shows the others; choose one with update-alternatives --config iptables, then reboot",
        ));
    }
    let others = [(":DOCKER", "Docker"), (":ufw-", "ufw")].into_iter();
    let others = others.filter(|(chain, _)| tables.lines().any(|line| line.starts_with(chain)));
    let mut others: Vec<&str> = others.map(|(_, name)| name).collect();
    if is_active(facts, "firewalld.service") {
        others.push("firewalld");
    }
    findings.push(Finding::ok(match others.is_empty() {
        true => "iptables works, and nobody else's rules are in the way".to_owned(),
        false => format!("iptables works, and rules of {} let functions through", others.join(", ")),
    }));
    Finding::all(findings)
}

fn forward(facts: &Facts, network: &NetworkFacts, tables: &str) -> Option<Finding> {
    if !tables.lines().any(|line| line.starts_with(":FORWARD DROP")) {
        return None;
    }
    let found = "the chain FORWARD drops what no rule accepts (Docker and ufw set it so)";
    if !network.programs.iter().any(|(name, _)| name == "firewall") {
        let fix = format!(
            "add to the plugins in {}: {{\"type\": \"firewall\"}}",
            facts.config.network.conflist.display()
        );
        return Some(Finding::problem(format!("{found}, and no plugin accepts functions"), fix));
    }
    let accepts = |line: &str| line.starts_with("-A FORWARD ") && line.ends_with("-j CNI-FORWARD");
    if !facts.bridge_there || tables.lines().any(accepts) {
        return None;
    }
    let bridge = network.bridge.as_deref()?;
    let fix =
        format!("iptables -I FORWARD -i {bridge}+ -j ACCEPT && iptables -I FORWARD -o {bridge}+ -j ACCEPT");
    Some(Finding::problem(format!("{found}, and the rule that accepts functions is gone"), fix))
}

fn input(facts: &Facts, network: &NetworkFacts, tables: &str) -> Option<Finding> {
    let filter = filter_table(tables);
    let refuses = |line: &str| {
        let ends = ["-A INPUT -j REJECT", "-A INPUT -j DROP"];
        line.starts_with(":INPUT DROP") || ends.iter().any(|end| line.starts_with(end))
    };
    if !filter.lines().any(refuses) {
        return None;
    }
    let port = facts.config.listen.port();
    let (bridge, subnet) = (network.bridge.as_deref()?, network.subnets.first()?.1);
    let accepts = |line: &&str| {
        let (of_all, of_port) =
            (!line.contains(" -s ") && !line.contains(" -i "), format!("--dport {port} "));
        line.ends_with("-j ACCEPT")
            && (line.contains(&format!(" -i {bridge}"))
                || line.contains(&format!(" -s {subnet} "))
                || (of_all && line.contains(&of_port)))
    };
    if filter.lines().any(|line| accepts(&line)) {
        return None;
    }
    let is_ufw = tables.contains(":ufw-");
    let accept = |subnet: &Ipv4Net| match is_ufw {
        true => format!("ufw allow from {subnet} to any port {port} proto tcp"),
        false => format!("iptables -I INPUT -s {subnet} -p tcp --dport {port} -j ACCEPT"),
    };
    let mut fix: Vec<String> = network.subnets.iter().map(|(_, subnet)| accept(subnet)).collect();
    if !is_ufw {
        fix.push("and the same where this machine sets its rules at boot".to_owned());
    }
    let found =
        format!("the chain INPUT drops what no rule accepts: functions do not reach http://gateway:{port}");
    Some(Finding { fix, ..Finding::warning(found, "") })
}

/// The lines of the table `filter` among all.
fn filter_table(tables: &str) -> &str {
    let from = tables.find("*filter").unwrap_or(tables.len());
    let table = &tables[from..];
    &table[..table.find("COMMIT").unwrap_or(table.len())]
}

/// Tables of nftables have chains of their own: what one drops, no other brings back.
fn nftables(facts: &Facts, network: &NetworkFacts) -> Vec<Finding> {
    let (Some(Ok(rules)), Some(bridge)) = (&facts.firewall.nftables, network.bridge.as_deref()) else {
        return Vec::new();
    };
    let dropping = chains(rules).into_iter().filter(|chain| {
        chain.drops && chain.table != "ip filter" && !chain.text.contains(&format!("\"{bridge}"))
    });
    dropping
        .map(|Chain { table, name, hook, .. }| {
            let found =
                format!("the chain {name} of nftables' table {table} drops what no rule of it accepts");
            let insert = |word: &str| format!("nft insert rule {table} {name} {word} \"{bridge}*\" accept");
            let mut finding = Finding::warning(found, insert("iifname"));
            if hook == "forward" {
                finding.fix.push(insert("oifname"));
            }
            finding.fix.push("write the same into /etc/nftables.conf".to_owned());
            finding
        })
        .collect()
}

/// A chain that packets of functions pass.
struct Chain<'a> {
    table: &'a str,
    name: &'a str,
    hook: &'static str,
    drops: bool,
    text: String,
}

/// The chains of `nft list ruleset` that hang at one of the two hooks.
fn chains(rules: &str) -> Vec<Chain<'_>> {
    let (mut chains, mut table, mut name): (Vec<Chain<'_>>, _, _) = (Vec::new(), "", None);
    for line in rules.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("table ") {
            table = rest.trim_end_matches(" {");
        } else if let Some(rest) = line.strip_prefix("chain ") {
            name = Some(rest.trim_end_matches(" {"));
        } else if line == "}" {
            name = None;
        } else if let (Some(name), true) = (name, line.starts_with("type filter hook ")) {
            let hook = ["forward", "input"].into_iter().find(|hook| line.contains(&format!("hook {hook} ")));
            if let Some(hook) = hook {
                chains.push(Chain {
                    table,
                    name,
                    hook,
                    drops: line.contains("policy drop"),
                    text: String::new(),
                });
            }
        } else if let Some(name) = name
            && let Some(chain) = chains.last_mut().filter(|chain| chain.table == table && chain.name == name)
        {
            chain.text.push_str(line);
            chain.text.push('\n');
        }
    }
    chains
}

/// It lets functions through while the plugin says so, and forgets that when it is reloaded.
fn firewalld(facts: &Facts, network: &NetworkFacts) -> Option<Finding> {
    let known = |subnet: &str| facts.firewall.trusted_zone.contains(subnet);
    let subnets = network.subnets.iter().map(|(_, subnet)| subnet.to_string());
    let missing: Vec<String> = subnets.filter(|subnet| !known(subnet)).collect();
    if !is_active(facts, "firewalld.service") || missing.is_empty() {
        return None;
    }
    let sources: Vec<String> = missing.iter().map(|subnet| format!("--add-source={subnet}")).collect();
    Some(Finding::warning(
        format!(
            "firewalld runs, and forgets functions when it is reloaded: it does not trust {}",
            missing.join(", ")
        ),
        format!("firewall-cmd --permanent --zone=trusted {} && firewall-cmd --reload", sources.join(" ")),
    ))
}

fn is_active(facts: &Facts, unit: &str) -> bool {
    facts.unit(unit, "ActiveState") == "active"
}
