//! A machine that has everything, and what each check says when one thing is different.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use roost_acme::Validity;

use super::facts::{
    Certificates, Cgroups, Containerd, Disk, Facts, Firewall, Given, Hierarchy, Holder, Kernel, Listener,
    NetworkFacts, OciRuntime, Presence, Refused, Resolver, Route, SecretFile, Settings, Space, Units,
};
use super::*;
use crate::config::{Auth, Config, Tls};
use crate::runtime::containerd::Version;
use crate::tls::Shown;

const DAY: Duration = Duration::from_secs(24 * 3600);
const GIB: u64 = 1 << 30;

/// Tables of iptables on a machine that nobody else writes rules on.
const RULES: &str =
    "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\nCOMMIT\n*mangle\n:FORWARD ACCEPT [0:0]\nCOMMIT\n";

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + DAY * 20_000
}

fn unit(properties: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn units() -> Units {
    let enabled = [("LoadState", "loaded"), ("UnitFileState", "enabled"), ("ActiveState", "active")];
    let service =
        [enabled.as_slice(), &[("FileDescriptorStoreMax", "512"), ("LimitNOFILE", "1048576")]].concat();
    let socket = [enabled.as_slice(), &[("Listen", "127.0.0.1:8080 (Stream)")]].concat();
    Units([("roostd.service".to_owned(), unit(&service)), ("roostd.socket".to_owned(), unit(&socket))].into())
}

fn set(facts: &mut Facts, name: &str, property: &str, value: &str) {
    let units = facts.units.as_mut().unwrap().as_mut().unwrap();
    units.0.entry(name.to_owned()).or_default().insert(property.to_owned(), value.to_owned());
}

fn secret(path: &str, mode: u32, directory: bool) -> SecretFile {
    SecretFile { what: "the file", path: path.into(), directory, mode: Ok(Some((mode, 0))) }
}

/// All is well here.
fn well() -> Facts {
    let program = |name: &str| (name.to_owned(), Some(PathBuf::from("/usr/lib/cni").join(name)));
    Facts {
        root: true,
        config_path: "/etc/roost/roostd.toml".into(),
        settings: Settings::Valid,
        config: Config::usual(),
        kernel: Kernel {
            release: Ok("6.1.0-rpi7".into()),
            modules: [Presence::There; 4],
            upgraded: false,
            bridge_filter: Some(true),
            raspberry_line: None,
        },
        cgroups: Cgroups {
            hierarchy: Hierarchy::V2,
            usable: vec!["cpu", "memory", "pids"],
            enabled: vec!["cpu", "memory", "pids"],
        },
        containerd: Containerd {
            installed: true,
            asked: Ok(Version {
                version: "1.6.20~ds1".into(),
                snapshotters: vec!["overlayfs".into(), "native".into()],
                root: None,
            }),
        },
        runtime: OciRuntime { name: "runc".into(), version: Ok("runc version 1.1.5".into()) },
        network: Ok(NetworkFacts {
            bridge: Some("roost0".into()),
            subnets: vec![
                ("network.subnet", "10.63.0.0/16".parse().unwrap()),
                ("network.namespaces", "10.64.0.0/16".parse().unwrap()),
            ],
            programs: vec![program("bridge"), program("host-local"), program("firewall")],
        }),
        routes: Ok(vec![
            route("192.168.1.0/24", "eth0"),
            route("10.63.0.0/16", "roost0"),
            route("10.64.1.0/24", "roost0-1"),
        ]),
        docker_pools: Vec::new(),
        forwards: Ok(true),
        bridge_there: true,
        firewall: Firewall {
            tables: Ok(RULES.into()),
            two_back_ends: false,
            nftables: None,
            trusted_zone: String::new(),
        },
        resolvers: vec![Resolver { address: [192, 168, 1, 1].into(), answers: true }],
        now: now(),
        installed: Some(now() - DAY),
        synchronised: Ok(true),
        disks: vec![Disk {
            what: vec!["state", "containerd"],
            path: "/var/lib".into(),
            space: Ok(Space {
                free: 20 * GIB,
                total: 30 * GIB,
                free_inodes: 1 << 20,
                inodes: 1 << 21,
                read_only: false,
            }),
        }],
        open_files: (1_048_576, "roostd.service"),
        listeners: Ok(vec![listener("127.0.0.1:8080", "roostd", 70), listener("0.0.0.0:22", "sshd", 50)]),
        secrets: vec![
            secret("/etc/roost/admin-password", 0o600, false),
            secret("/var/lib/roost", 0o700, true),
        ],
        certificates: Certificates::default(),
        units: Some(Ok(units())),
    }
}

fn route(subnet: &str, interface: &str) -> Route {
    Route { subnet: subnet.parse().unwrap(), interface: interface.into() }
}

fn listener(address: &str, name: &str, pid: u32) -> Listener {
    Listener { address: address.parse().unwrap(), holders: vec![Holder { name: name.into(), pid }] }
}

fn finding(facts: &Facts, name: &str) -> Finding {
    let (_, check) =
        CHECKS.into_iter().find(|(one, _)| *one == name).unwrap_or_else(|| panic!("no check {name}"));
    check(facts)
}

/// What is changed on the machine that has everything; the end of the check; what it says; what it says of repair.
type Case = (fn(&mut Facts), Verdict, &'static str, &'static str);

fn all_end_so(name: &str, cases: &[Case]) {
    let before = finding(&well(), name);
    assert_eq!((before.verdict, before.fix.len()), (Verdict::Ok, 0), "{name}: {before:?}");
    for (number, (change, verdict, found, fix)) in cases.iter().enumerate() {
        let mut facts = well();
        change(&mut facts);
        let end = finding(&facts, name);
        assert_eq!(end.verdict, *verdict, "{name}, case {number}: {end:?}");
        assert!(end.found.contains(found), "{name}, case {number}: {found} in {end:?}");
        assert!(end.fix.join("\n").contains(fix), "{name}, case {number}: {fix} in {end:?}");
        // What has no line of its own would break the columns; what is not well says what to do, or why it is not known.
        assert!(
            !end.found.contains('\n') && !end.fix.iter().any(|fix| fix.is_empty() || fix.contains('\n')),
            "{end:?}"
        );
        let known = !end.found.starts_with("cannot tell");
        assert_eq!(
            end.fix.is_empty(),
            end.verdict == Verdict::Ok || !known,
            "{name}, case {number}: {end:?}"
        );
    }
}

use Verdict::{Ok as Well, Problem, Warning};

#[test]
fn a_machine_that_has_everything_is_well() {
    for Checked { name, finding } in check(&well()) {
        assert_eq!(finding.verdict, Well, "{name}: {finding:?}");
    }
}

#[test]
fn settings_that_cannot_be_read_are_told_and_so_is_who_sees_less() {
    all_end_so("rights", &[(|f| f.root = false, Warning, "not root", "sudo roost doctor")]);
    all_end_so(
        "settings",
        &[
            (|f| f.settings = Settings::Closed, Warning, "cannot tell what the settings are", ""),
            (
                |f| f.settings = Settings::Missing,
                Problem,
                "is not there",
                "cp /usr/local/share/roost/roostd.toml /etc/roost/roostd.toml",
            ),
            (
                |f| f.settings = Settings::Wrong("server.listen: no".into()),
                Problem,
                "server.listen: no",
                "roostd --config /etc/roost/roostd.toml check-config",
            ),
        ],
    );
}

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

fn space(facts: &mut Facts) -> &mut Space {
    facts.disks[0].space.as_mut().unwrap()
}

#[test]
fn clock_disk_and_files_have_to_be_enough() {
    all_end_so(
        "clock",
        &[
            (|f| f.synchronised = Ok(false), Warning, "nothing keeps it right", "timedatectl set-ntp true"),
            (
                |f| {
                    f.synchronised = Ok(false);
                    f.units = None;
                },
                Warning,
                "nothing keeps it right",
                "chrony",
            ),
            (|f| f.now = SystemTime::UNIX_EPOCH, Problem, "1970-01-01T00:00:00Z", "timedatectl"),
            (|f| f.synchronised = Err("denied".into()), Warning, "cannot tell", ""),
        ],
    );
    all_end_so(
        "disk",
        &[
            (|f| space(f).free = 699 << 20, Warning, "has 699 of 30720 MiB left", "roost image remove"),
            (|f| space(f).free = 99 << 20, Problem, "has 99", "journalctl --vacuum-size=100M"),
            (|f| space(f).free_inodes = 999, Problem, "999 more files", "df -i"),
            (|f| (space(f).free_inodes, space(f).inodes) = (0, 0), Well, "", ""),
            (|f| space(f).read_only = true, Problem, "cannot be written", "remount,rw"),
            (|f| f.disks[0].space = Err("gone".into()), Warning, "cannot tell", ""),
        ],
    );
    all_end_so(
        "open files",
        &[
            (
                |f| f.open_files.0 = 20_000,
                Warning,
                "20000 files open: enough for 9744 connections",
                "LimitNOFILE=131584",
            ),
            (
                |f| {
                    f.open_files.0 = 20_000;
                    f.config.limits.connections = std::num::NonZeroUsize::new(9_744);
                },
                Well,
                "20000",
                "",
            ),
            (
                |f| {
                    f.open_files.0 = 1023;
                    f.units = None;
                },
                Problem,
                "1023",
                "ulimit -Hn 131584",
            ),
            (|f| f.open_files.0 = u64::MAX, Well, "any number", ""),
        ],
    );
}

fn listeners(facts: &mut Facts) -> &mut Vec<Listener> {
    facts.listeners.as_mut().unwrap()
}

#[test]
fn a_port_is_free_ours_or_a_problem() {
    all_end_so(
        "ports",
        &[
            (|f| listeners(f).clear(), Well, "127.0.0.1:8080 is free; 127.0.0.1:8082 is free", ""),
            (
                |f| listeners(f)[0] = listener("0.0.0.0:8080", "nginx", 7),
                Problem,
                "server.listen = 127.0.0.1:8080 is in use by nginx (pid 7)",
                "install.sh --listen 127.0.0.1:PORT",
            ),
            (
                |f| listeners(f).push(listener("[::]:8082", "prometheus", 7)),
                Problem,
                "server.metrics",
                "below [server]: metrics = \"127.0.0.1:PORT\"",
            ),
            (|f| listeners(f)[0] = listener("127.0.0.1:8080", "systemd", 1), Well, "is ours", ""),
            (
                |f| listeners(f)[0] = listener("127.0.0.1:8080", "systemd", 2),
                Problem,
                "in use by systemd",
                "stop it",
            ),
            (|f| listeners(f)[0].holders.clear(), Warning, "cannot tell who listens on 127.0.0.1:8080", ""),
            (|f| f.listeners = Err("no".into()), Warning, "cannot tell", ""),
        ],
    );
}

fn auth(facts: &mut Facts) -> &mut Auth {
    facts.config.auth.as_mut().unwrap()
}

#[test]
fn who_may_see_what_is_told() {
    all_end_so(
        "access",
        &[
            (|f| f.config.auth = None, Warning, "functions may use the API", "below [auth]: enabled = true"),
            (
                |f| {
                    f.config.auth = None;
                    f.config.listen = "0.0.0.0:8080".parse().unwrap();
                },
                Problem,
                "whoever reaches it may deploy",
                "enabled = true",
            ),
            (
                |f| {
                    f.secrets[0].mode = Ok(None);
                    let users = SecretFile { path: auth(f).users_file.clone(), ..f.secrets[0].clone() };
                    f.secrets.push(users);
                },
                Problem,
                "no user is an admin",
                "roost auth reset",
            ),
        ],
    );
    all_end_so(
        "secrets",
        &[
            (
                |f| f.secrets[0].mode = Ok(Some((0o644, 0))),
                Problem,
                "/etc/roost/admin-password has mode 0644",
                "chmod 600 /etc/roost/admin-password",
            ),
            (
                |f| f.secrets[1].mode = Ok(Some((0o755, 0))),
                Warning,
                "/var/lib/roost has mode 0755",
                "chmod 700 /var/lib/roost",
            ),
            (
                |f| f.secrets[1].mode = Ok(Some((0o700, 1000))),
                Warning,
                "belongs to user 1000",
                "chown root: /var/lib/roost",
            ),
            (|f| f.secrets[1].mode = Err("denied".into()), Warning, "cannot tell", ""),
            (|f| f.secrets[1].mode = Ok(None), Well, "root alone", ""),
        ],
    );
}

fn certified(facts: &mut Facts, names: &[&str], from: SystemTime, until: SystemTime) {
    facts.config.tls =
        Some(Tls { listen: "0.0.0.0:443".parse().unwrap(), certificates: Vec::new(), acme: None });
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    let shown = Shown { names, validity: Some(Validity { from, until }) };
    facts.certificates.files.push(("/etc/roost/tls/h.pem".into(), Ok(shown)));
}

fn ordered(facts: &mut Facts, given: &[(&str, Duration)]) {
    let (acme, _) = (acme(), certified(facts, &["h.example"], now(), now() + DAY * 90));
    facts.config.tls.as_mut().unwrap().acme = Some(acme);
    let validity = |left: Duration| Some(Validity { from: now() - DAY, until: now() + left });
    let given = given.iter().map(|(name, left)| Given { name: (*name).into(), validity: validity(*left) });
    facts.certificates.given = Some(Ok(given.collect()));
}

fn acme() -> roost_acme::Settings {
    roost_acme::Settings {
        directory: "https://authority.example/directory".into(),
        contact: Vec::new(),
        domains: vec!["a.example".into()],
        function_domains: true,
        challenges: Vec::new(),
        ca: None,
        directory_path: "/var/lib/roost/acme".into(),
        pace: roost_acme::Pace::default(),
    }
}

#[test]
fn certificates_are_told_of_before_they_end() {
    all_end_so(
        "certificates",
        &[
            (
                |f| certified(f, &["h.example"], now(), now() + DAY * 14),
                Well,
                "(h.example) is good for 14 days",
                "",
            ),
            (
                |f| certified(f, &["h.example"], now(), now() + DAY * 14 - Duration::from_secs(1)),
                Warning,
                "ends in 13 days",
                "renew it",
            ),
            (
                |f| certified(f, &["h.example"], now() - DAY * 9, now() - DAY * 2),
                Problem,
                "ended 2 days ago",
                "renew it",
            ),
            (
                |f| certified(f, &["h.example"], now() + DAY, now() + DAY * 90),
                Problem,
                "not good yet",
                "clock",
            ),
            (|f| certified(f, &[], now(), now() + DAY * 90), Warning, "names no host", "DNS name"),
            (
                |f| {
                    certified(f, &["h.example"], now(), now() + DAY * 90);
                    let refused =
                        Refused { why: "key.pem may be read".into(), fix: "chmod 600 key.pem".into() };
                    f.certificates.files[0].1 = Err(refused);
                },
                Problem,
                "key.pem may be read",
                "chmod 600 key.pem",
            ),
            (|f| ordered(f, &[("a.example", DAY * 60)]), Well, "a.example is good for 60 days", ""),
            (|f| ordered(f, &[]), Warning, "nothing for a.example yet", "ports 80 and 443 of a.example"),
            (
                |f| ordered(f, &[("a.example", DAY * 3)]),
                Warning,
                "a.example ends in 3 days",
                "should have been renewed",
            ),
        ],
    );
}

#[test]
fn the_service_comes_back_and_keeps_connections() {
    all_end_so(
        "service",
        &[
            (|f| f.units = None, Warning, "systemd does not run here", "roostd supervise"),
            (|f| f.units = Some(Err("no".into())), Warning, "cannot tell", ""),
            (
                |f| set(f, "roostd.service", "LoadState", "not-found"),
                Problem,
                "no roostd.service",
                "install.sh",
            ),
            (
                |f| set(f, "roostd.service", "UnitFileState", "disabled"),
                Problem,
                "roostd.service is not enabled",
                "systemctl enable roostd.service",
            ),
            (
                |f| set(f, "roostd.socket", "UnitFileState", "disabled"),
                Problem,
                "roostd.socket is not enabled",
                "systemctl enable roostd.socket",
            ),
            (
                |f| set(f, "roostd.service", "ActiveState", "failed"),
                Problem,
                "has failed",
                "journalctl -u roostd",
            ),
            (
                |f| set(f, "roostd.service", "ActiveState", "inactive"),
                Warning,
                "is inactive",
                "systemctl start roostd",
            ),
            (
                |f| set(f, "roostd.service", "NeedDaemonReload", "yes"),
                Warning,
                "since it changed",
                "daemon-reload",
            ),
            (
                |f| set(f, "roostd.service", "FileDescriptorStoreMax", "0"),
                Warning,
                "FileDescriptorStoreMax is 0",
                "FileDescriptorStoreMax=",
            ),
            (
                |f| {
                    set(f, "roostd.service", "FileDescriptorStoreMax", "0");
                    f.config.kept_tunnels = 0;
                },
                Well,
                "",
                "",
            ),
            (
                |f| set(f, "roostd.socket", "Listen", "127.0.0.1:9090 (Stream)"),
                Warning,
                "roostd.socket has 127.0.0.1:9090",
                "install.sh --listen 127.0.0.1:8080",
            ),
        ],
    );
}

#[test]
fn several_findings_are_told_as_the_worst_without_what_is_well() {
    let all = [
        Finding::ok("a"),
        Finding::warning("b", "x"),
        Finding::problem("c", "x"),
        Finding::warning("d", "y"),
    ];
    let one = Finding::all(all.into());
    assert_eq!(
        (one.verdict, one.found.as_str(), one.fix.as_slice()),
        (Problem, "b; c; d", ["x".to_owned(), "y".to_owned()].as_slice())
    );
    assert_eq!(Finding::all(vec![Finding::ok("a"), Finding::ok("b")]).found, "a; b");
}

#[test]
fn the_report_has_a_line_a_check_and_colours_for_terminals_alone() {
    let checked = [
        Checked { name: "one", finding: Finding::ok("fine") },
        Checked { name: "longer", finding: Finding::problem("broken", "mend it") },
    ];
    let expected = "ok       one     fine\nproblem  longer  broken\n                 fix: mend it\n\n2 checks: 1 problem, no warnings\n";
    assert_eq!(report::text(&checked, false), expected);
    let coloured = report::text(&checked, true);
    assert!(coloured.contains("\x1b[1;31mproblem\x1b[0m  longer"), "{coloured}");
    let json: serde_json::Value = serde_json::from_str(&report::json(&checked, Problem)).unwrap();
    let longer =
        serde_json::json!({ "name": "longer", "verdict": "problem", "found": "broken", "fix": ["mend it"] });
    assert_eq!((&json["verdict"], &json["checks"][1]), (&serde_json::json!("problem"), &longer));
}

/// Whatever is wrong with this machine, it is told, not a panic.
#[tokio::test]
async fn a_machine_can_be_looked_at_without_a_daemon_or_settings() {
    let dir = tempfile::tempdir().unwrap();
    let facts = Facts::read(&dir.path().join("none.toml")).await;
    assert_eq!(facts.settings, Settings::Missing);
    let checked = check(&facts);
    assert_eq!(checked.len(), CHECKS.len());
    std::fs::write(dir.path().join("wrong.toml"), "[server]\nlisten = 'here'\nmetrics = 'there'\n").unwrap();
    let Settings::Wrong(why) = Facts::read(&dir.path().join("wrong.toml")).await.settings else {
        panic!("valid")
    };
    assert!(why.contains("server.listen") && why.contains("server.metrics") && !why.contains('\n'), "{why}");
}
