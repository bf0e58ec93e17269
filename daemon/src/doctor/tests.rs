//! A machine that has everything, and what each check says when one thing is different.

mod kernel;
mod machine;
mod network;
mod secrets;

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
                used_percent: 50,
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
