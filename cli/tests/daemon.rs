//! Finding the daemon, logging in, and what is said when it goes wrong.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use support::{BASIC, Daemon, Home, PASSWORD, Ran};

const INFO: &str = r#"{"provider":{"provider":"roost","version":{"release":"1.2.3","sha":"0"},"orchestration":"containerd"},"version":{"release":"1.2.3","sha":"0"},"arch":"x86_64"}"#;

#[test]
fn version_tells_of_both_sides() {
    let daemon = Daemon::new(|_| (200, INFO.into()));
    let home = Home::of(&daemon.url);
    let ran = home.run(&["version"]);
    let ours = env!("CARGO_PKG_VERSION");
    assert_eq!(ran.stdout, format!("roost   {ours}\nroost   1.2.3 (containerd, x86_64) at {}\n", daemon.url));
    assert_eq!(home.run(&["version", "--client"]).stdout, format!("roost   {ours}\n"));
    let shown: serde_json::Value = serde_json::from_str(&home.run(&["version", "--json"]).stdout).unwrap();
    assert_eq!(shown["server"]["version"], "1.2.3");
}

#[test]
fn a_daemon_that_is_not_there_is_said_with_what_to_do() {
    let home = Home::of("http://127.0.0.1:1");
    let ran = home.run(&["list"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
    assert_eq!(
        ran.stderr,
        "roost: cannot reach http://127.0.0.1:1: connection refused\nIs roostd running? Try: systemctl status roostd\n"
    );
}

#[test]
fn the_gateway_comes_from_option_then_environment_then_config() {
    let [by_option, by_variable, by_config] = [(); 3].map(|()| Daemon::new(|_| (200, "[]".into())));
    let home = Home::of(&by_config.url);
    home.run(&["list"]);
    home.command(&["list"]).env("ROOST_URL", &by_variable.url).output().unwrap();
    home.command(&["list", "-g", &by_option.url]).env("OPENFAAS_URL", &by_variable.url).output().unwrap();
    assert_eq!([by_option.lines().len(), by_variable.lines().len(), by_config.lines().len()], [1, 1, 1]);
    assert_eq!(by_config.requests()[0].header("authorization"), Some(BASIC));
    assert_eq!(by_option.requests()[0].header("authorization"), None);
}

#[test]
fn a_login_is_tried_saved_used_and_forgotten() {
    let daemon = Daemon::new(|r| match r.header("authorization") {
        Some(BASIC) => (200, "[]".into()),
        _ => (401, "invalid credentials".into()),
    });
    let home = Home::of("http://127.0.0.1:1");
    let file = home.path().join(".config/roost/credentials.toml");

    let ran = home.run(&["list", "-g", &daemon.url]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains(&format!("run 'roost login -g {}'", daemon.url)), "{}", ran.stderr);

    let ran = home.run_with(&["login", "-g", &daemon.url, "--password-stdin"], b"wrong\n");
    assert_eq!(ran.code, Some(1));
    assert!(!file.exists());

    let ran =
        home.run_with(&["login", "-g", &daemon.url, "--password-stdin"], format!("{PASSWORD}\n").as_bytes());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(!ran.stdout.contains(PASSWORD) && !ran.stderr.contains(PASSWORD));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(home.run(&["list", "-g", &daemon.url]).code, Some(0));

    // Without a daemon on this host, the last login is the one that is meant.
    let ran = Ran::from(home.command(&["list"]).env("ROOST_CONFIG", "").output().unwrap());
    if !std::path::Path::new("/etc/roost/roostd.toml").exists() {
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    }

    assert_eq!(home.run(&["logout", "-g", &daemon.url]).code, Some(0));
    assert_eq!(home.run(&["list", "-g", &daemon.url]).code, Some(1));
}

#[test]
fn users_of_another_host_are_not_changed_here() {
    let home = Home::of("http://127.0.0.1:8080");
    let ran = home.run(&["auth", "add", "ci", "-g", "http://far:8080"]);
    let said = "roost: --gateway is not http://127.0.0.1:8080: users are changed on the daemon's own host\n";
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""));
    assert!(ran.stderr.starts_with(said), "{}", ran.stderr);
}

#[test]
fn a_login_of_faas_cli_is_good_too() {
    let daemon = Daemon::new(|_| (200, "[]".into()));
    let home = Home::of("http://127.0.0.1:1");
    fs::create_dir(home.path().join(".openfaas")).unwrap();
    let text = format!("auths:\n- gateway: {}\n  auth: basic\n  token: YWRtaW46czNjcmV0\n", daemon.url);
    home.file(".openfaas/config.yml", text);
    home.run(&["list", "-g", &daemon.url]);
    assert_eq!(daemon.requests()[0].header("authorization"), Some(BASIC));
}

#[test]
fn a_command_line_that_cannot_be_meant_ends_with_2() {
    let home = Home::of("http://127.0.0.1:1");
    let table: [&[&str]; 10] = [
        &[],
        &["nonsense"],
        &["deploy"],
        &["deploy", "Bad_Name", "--image", "i"],
        &["deploy", "a", "--image", "i", "-e", "novalue"],
        &["deploy", "a", "--image", "i", "--timeout", "soon"],
        &["invoke", "a.dev", "-n", "prod"],
        &["logs", "a", "--since", "yesterday"],
        &["list", "-g", "ftp://h"],
        &["image", "build", "x", "-t", "Bad"],
    ];
    for line in table {
        let ran = home.run(line);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{line:?} {}", ran.stderr);
        assert!(!ran.stderr.is_empty());
    }
}

#[test]
fn help_has_examples_and_the_exit_codes() {
    let home = Home::of("http://127.0.0.1:1");
    let ran = home.run(&["--help"]);
    assert_eq!(ran.code, Some(0));
    assert!(
        ran.stdout.contains("Exit codes: 0 done, 1 it failed, 2") && ran.stdout.contains("roost invoke echo")
    );
    assert!(home.run(&["deploy", "--help"]).stdout.contains("Examples:"));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let daemon = Daemon::new(|_| (200, "x".repeat(4 << 20)));
    let home = Home::of(&daemon.url);
    let mut command = home.command(&["invoke", "a", "-X", "GET"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
}

#[test]
fn an_answer_of_something_else_is_said_to_be_one() {
    let daemon = Daemon::new(|_| (200, "<html>".into()));
    let ran = Home::of(&daemon.url).run(&["list"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("is it a Roost or OpenFaaS gateway?"), "{}", ran.stderr);
}
