//! `roost doctor` on a real machine: what it has, what is broken on it, what repairs it.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use roost_tests::Host;
use serde_json::Value;

/// All that is looked at.
const CHECKS: [&str; 20] = [
    "rights",
    "settings",
    "kernel",
    "bridge filter",
    "cgroups",
    "containerd",
    "runtime",
    "cni plugins",
    "subnets",
    "forwarding",
    "firewall",
    "dns",
    "clock",
    "disk",
    "open files",
    "ports",
    "access",
    "secrets",
    "certificates",
    "service",
];

/// What a machine that tests run on may lack: a network, a clock that is kept right, systemd, files without end.
const MAY_LACK: [&str; 6] = ["bridge filter", "dns", "clock", "open files", "service", "firewall"];

/// Looks, and returns what was found, in order; with the exit code.
async fn look(host: &Host) -> (Option<i32>, Vec<Value>) {
    let output = host.roost_as_root(&["doctor", "--json"], "").await;
    let report: Value =
        serde_json::from_str(&output.stdout).unwrap_or_else(|why| panic!("{why}: {output:?}"));
    (output.code, report["checks"].as_array().unwrap().clone())
}

fn of<'a>(checks: &'a [Value], name: &str) -> &'a Value {
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name} in {checks:?}"))
}

/// Is it a problem, found so, and repaired so?
fn is_problem(checks: &[Value], name: &str, found: &str, fix: &str) {
    let check = of(checks, name);
    assert_eq!(check["verdict"], "problem", "{check}");
    assert!(check["found"].as_str().unwrap().contains(found), "{check}");
    assert!(check["fix"].to_string().contains(fix), "{check}");
}

#[tokio::test]
async fn a_host_that_runs_has_no_problems_and_each_check_is_told() {
    let host = Host::start().await;
    let (code, checks) = look(&host).await;
    assert_eq!(code, Some(0), "{checks:#?}");
    let names: Vec<&str> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
    assert_eq!(names, CHECKS);
    for check in &checks {
        let name = check["name"].as_str().unwrap();
        assert!(check["verdict"] == "ok" || MAY_LACK.contains(&name), "{check}");
        assert!(check["verdict"] != "problem" && !check["found"].as_str().unwrap().is_empty(), "{check}");
    }
    assert!(of(&checks, "ports")["found"].as_str().unwrap().contains(&format!(":{} is ours", host.port())));
    assert!(of(&checks, "open files")["found"].as_str().unwrap().starts_with("roostd, which runs,"));

    let said = host.roost_as_root(&["doctor"], "").await;
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{said:?}");
    assert!(said.stdout.contains("20 checks: no problems") && !said.stdout.contains('\x1b'), "{said:?}");
    let elsewhere = host.roost_as_root(&["doctor", "--gateway", "http://192.0.2.1:8080"], "").await;
    assert_eq!(elsewhere.code, Some(2), "{elsewhere:?}");
}

#[tokio::test]
async fn what_is_broken_is_told_with_its_repair_while_the_daemon_is_down() {
    let mut host = Host::start().await;
    host.kill9();
    let (code, checks) = look(&host).await;
    assert_eq!(code, Some(0), "{checks:#?}");
    assert!(of(&checks, "ports")["found"].as_str().unwrap().contains("is free"), "{checks:#?}");

    let _other = TcpListener::bind(("127.0.0.1", host.port())).unwrap();
    fs::set_permissions(host.dir().join("password"), Permissions::from_mode(0o644)).unwrap();
    host.crash_containerd();
    let (code, checks) = look(&host).await;
    assert_eq!(code, Some(1), "{checks:#?}");
    is_problem(&checks, "ports", &format!("(pid {})", std::process::id()), "stop it");
    is_problem(&checks, "secrets", "password has mode 0644", "chmod 600 ");
    is_problem(&checks, "containerd", "containerd", "containerd");

    let settings = host.dir().join("roostd.toml");
    fs::write(&settings, "[server]\nlisten = 'here'\n").unwrap();
    let (code, checks) = look(&host).await;
    assert_eq!(code, Some(1), "{checks:#?}");
    is_problem(&checks, "settings", "server.listen", "check-config");
}
