//! Addresses, plugins, names, and rules of others.

use super::*;

fn network(facts: &mut Facts) -> &mut NetworkFacts {
    facts.network.as_mut().unwrap()
}

fn routes(facts: &mut Facts) -> &mut Vec<Route> {
    facts.routes.as_mut().unwrap()
}

#[test]
fn addresses_of_functions_must_lead_nowhere_else() {
    all_end_so(
        "subnets",
        &[
            // A VPN that has all of 10.0.0.0/8.
            (
                |f| routes(f).push(route("10.0.0.0/8", "wg0")),
                Warning,
                "is taken out of 10.0.0.0/8, which leads to wg0",
                "subnet = \"172.16.0.0/16\"",
            ),
            (
                |f| routes(f).push(route("10.63.7.0/24", "tun0")),
                Problem,
                "10.63.7.0/24 leads to tun0",
                "subnet = \"10.65.0.0/16\", while no function runs",
            ),
            (
                |f| routes(f).push(route("10.64.0.0/16", "br-1f2e")),
                Problem,
                "network.namespaces = 10.64.0.0/16, but",
                "namespaces = \"10.65.0.0/16\"",
            ),
            // Not a bridge of a namespace, though it begins so.
            (
                |f| routes(f).push(route("10.64.2.0/24", "roost01")),
                Problem,
                "leads to roost01",
                "namespaces =",
            ),
            (
                |f| network(f).subnets[0].1 = "10.70.0.0/16".parse().unwrap(),
                Problem,
                "roost0 has addresses of 10.63.0.0/16",
                "ip link del roost0",
            ),
            (
                |f| f.docker_pools = vec!["10.0.0.0/8".parse().unwrap()],
                Warning,
                "Docker may give addresses of 10.0.0.0/8",
                "[network]",
            ),
            (|f| f.routes = Err("no".into()), Warning, "cannot tell", ""),
            (|f| routes(f).clear(), Well, "no other way", ""),
        ],
    );
}

#[test]
fn functions_need_plugins_a_way_out_and_names() {
    all_end_so(
        "cni plugins",
        &[
            (
                |f| network(f).programs[2].1 = None,
                Problem,
                "firewall can be run neither in /usr/lib/cni nor /opt/cni/bin",
                "apt-get install containernetworking-plugins",
            ),
            (|f| f.network = Err("no conflist".into()), Problem, "no conflist", "run install.sh"),
        ],
    );
    all_end_so(
        "forwarding",
        &[
            (|f| f.forwards = Ok(false), Problem, "reach nothing outside", "sysctl -w net.ipv4.ip_forward=1"),
            (
                |f| {
                    f.forwards = Ok(false);
                    f.bridge_there = false;
                },
                Well,
                "the first function switches it on",
                "",
            ),
            (|f| f.forwards = Err("no".into()), Warning, "cannot tell", ""),
        ],
    );
    all_end_so(
        "dns",
        &[
            (|f| f.resolvers.clear(), Warning, "127.0.0.53", "below [network]: dns = "),
            (
                |f| f.resolvers[0].answers = false,
                Warning,
                "192.168.1.1, which does not answer",
                "/etc/resolv.conf",
            ),
        ],
    );
}

fn rules(facts: &mut Facts, rules: &str) {
    facts.firewall.tables = Ok(format!("*filter\n{rules}\nCOMMIT\n"));
}

const DOCKER: &str = ":INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:DOCKER - [0:0]\n-A FORWARD -m comment --comment \"CNI firewall plugin rules\" -j CNI-FORWARD";
const UFW: &str = ":INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n:ufw-user-input - [0:0]";
const NFTABLES: &str = "table inet filter {\n\tchain input {\n\t\ttype filter hook input priority filter; policy accept;\n\t}\n\n\
    \tchain forward {\n\t\ttype filter hook forward priority filter; policy drop;\n\t\tiifname \"lan\" accept\n\t}\n}\n\
    table ip filter {\n\tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\n";

#[test]
fn rules_of_others_are_told_where_they_stop_functions() {
    all_end_so(
        "firewall",
        &[
            (
                |f| f.firewall.tables = Err("iptables-save is not installed".into()),
                Problem,
                "not installed",
                "apt-get install iptables",
            ),
            (
                |f| {
                    f.firewall.tables = Err("denied".into());
                    f.root = false;
                },
                Warning,
                "cannot tell",
                "",
            ),
            (|f| rules(f, DOCKER), Well, "Docker let functions through", ""),
            (
                |f| rules(f, &DOCKER.replace("CNI-FORWARD", "OTHER")),
                Problem,
                "the rule that accepts functions is gone",
                "iptables -I FORWARD -i roost0+ -j ACCEPT",
            ),
            (
                |f| {
                    rules(f, &DOCKER.replace("CNI-FORWARD", "OTHER"));
                    f.bridge_there = false;
                },
                Well,
                "Docker",
                "",
            ),
            (
                |f| {
                    rules(f, DOCKER);
                    network(f).programs.pop();
                },
                Problem,
                "no plugin accepts functions",
                "{\"type\": \"firewall\"}",
            ),
            (
                |f| rules(f, UFW),
                Warning,
                "http://gateway:8080",
                "ufw allow from 10.63.0.0/16 to any port 8080 proto tcp\nufw allow from 10.64.0.0/16",
            ),
            (
                |f| {
                    rules(
                        f,
                        &format!(
                            "{UFW}\n-A ufw-user-input -s 10.63.0.0/16 -p tcp -m tcp --dport 8080 -j ACCEPT"
                        ),
                    );
                },
                Well,
                "ufw",
                "",
            ),
            (
                |f| rules(f, &format!("{UFW}\n-A ufw-user-input -p tcp -m tcp --dport 8080 -j ACCEPT")),
                Well,
                "ufw",
                "",
            ),
            (
                |f| {
                    rules(
                        f,
                        &format!(
                            "{UFW}\n-A ufw-user-input -s 192.168.1.0/24 -p tcp -m tcp --dport 8080 -j ACCEPT"
                        ),
                    );
                },
                Warning,
                "gateway",
                "ufw allow",
            ),
            (
                |f| rules(f, ":INPUT ACCEPT [0:0]\n-A INPUT -j REJECT --reject-with icmp-host-prohibited"),
                Warning,
                "INPUT",
                "iptables -I INPUT -s 10.63.0.0/16 -p tcp --dport 8080 -j ACCEPT",
            ),
            (|f| f.firewall.two_back_ends = true, Warning, "both back ends", "update-alternatives"),
            (
                |f| f.firewall.nftables = Some(Ok(NFTABLES.into())),
                Warning,
                "the chain forward of nftables' table inet filter",
                "nft insert rule inet filter forward iifname \"roost0*\" accept\nnft insert rule inet filter forward oifname",
            ),
            (|f| f.firewall.nftables = Some(Ok(NFTABLES.replace("\"lan\"", "\"roost0*\""))), Well, "", ""),
            (
                |f| set(f, "firewalld.service", "ActiveState", "active"),
                Warning,
                "firewalld",
                "firewall-cmd --permanent --zone=trusted --add-source=10.63.0.0/16 --add-source=10.64.0.0/16",
            ),
            (
                |f| {
                    set(f, "firewalld.service", "ActiveState", "active");
                    f.firewall.trusted_zone =
                        "<source address=\"10.63.0.0/16\"/><source address=\"10.64.0.0/16\"/>".into();
                },
                Well,
                "firewalld",
                "",
            ),
        ],
    );
}
