//! The verbs that watch, run as a person or a program runs them.

#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use support::{Daemon, Home};

/// Ends the command with the test, however that ends.
struct Running(Child);

impl Running {
    fn start(
        mut command: Command,
    ) -> (Self, BufReader<std::process::ChildStdout>, std::process::ChildStderr) {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = child.stderr.take().unwrap();
        (Self(child), stdout, stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Two functions, one of which answers ten requests between two looks.
fn functions(looks: u64) -> String {
    let decision = json!({ "at": "2026-01-31T12:00:00Z", "from": 0, "to": 2, "reason": "a request waits" });
    let load = |finished: u64| json!({ "inFlight": 3, "connections": 2, "waiting": 0, "queued": 4, "finished": finished });
    let function = |name: &str, finished, scaling: Value| {
        json!({ "name": name, "namespace": "openfaas-fn", "replicas": 2, "availableReplicas": 2,
            "status": { "phase": "Ready", "load": load(finished), "scaling": scaling } })
    };
    json!([
        function("idle", 5, json!({ "desired": 2 })),
        function("busy", looks * 10, json!({ "desired": 2, "lastDecision": decision })),
    ])
    .to_string()
}

fn daemon() -> Daemon {
    let looks = AtomicU64::new(0);
    Daemon::new(move |_| (200, functions(looks.fetch_add(1, Ordering::Relaxed))))
}

#[test]
fn top_once_looks_twice_and_prints_the_busiest_first() {
    let daemon = daemon();
    let home = Home::of(&daemon.url);
    let ran = home.run(&["top", "--once", "-n", "dev", "--interval", "100ms"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(lines[0].starts_with("2 functions, 4 of 4 replicas ready, "), "{}", ran.stdout);
    assert!(
        lines[1].starts_with("NAME  STATE") && lines[2].starts_with("busy  Ready  2/2"),
        "{}",
        ran.stdout
    );
    assert!(lines[2].ends_with(": a request waits") && lines[2].contains("0→2 "), "{}", ran.stdout);
    let idle: Vec<&str> = lines[3].split_whitespace().collect();
    assert_eq!(idle, ["idle", "Ready", "2/2", "0.0", "3", "2", "0", "4", "-", "-"]);
    assert!(!ran.stdout.contains('\x1b'));
    assert_eq!(daemon.lines(), vec!["GET /system/functions?usage=1&namespace=dev"; 2]);

    let ran = home.run(&["top", "--once", "--json", "--sort", "name", "--interval", "100ms"]);
    let rows: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (&rows[0]["name"], &rows[0]["lastDecision"]["reason"]),
        (&json!("busy"), &json!("a request waits"))
    );
    assert_eq!((&rows[1]["inFlight"], &rows[1]["rps"]), (&json!(3), &json!(0.0)));

    let ran = home.run(&["top", "--interval", "1ms"]);
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
}

#[test]
fn top_prints_on_into_a_pipe_until_nobody_reads() {
    let daemon = daemon();
    let home = Home::of(&daemon.url);
    let (mut running, mut stdout, mut stderr) =
        Running::start(home.command(&["top", "--json", "--interval", "100ms"]));
    for _ in 0..3 {
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let rows: Value = serde_json::from_str(&line).unwrap();
        assert!(rows[0]["rps"].as_f64().unwrap() > 0.0, "{line}");
    }
    drop(stdout);
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
    let mut said = String::new();
    stderr.read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}

#[test]
fn top_waits_for_a_daemon_that_is_away_and_once_does_not() {
    let daemon = daemon();
    let url = daemon.url.clone();
    drop(daemon);
    let home = Home::of(&url);
    let ran = home.run(&["top", "--once"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("cannot reach") && ran.stdout.is_empty(), "{} {}", ran.stderr, ran.stdout);
    let (_running, mut stdout, stderr) = Running::start(home.command(&["top", "--interval", "100ms"]));
    let mut said = BufReader::new(stderr).lines();
    assert!(said.next().unwrap().unwrap().contains("cannot reach"));
    let trying = said.find(|line| line.as_ref().unwrap().contains("trying again"));
    assert!(trying.is_some());
    let looks = AtomicU64::new(0);
    let _daemon = Daemon::at(&url, move |_| (200, functions(looks.fetch_add(1, Ordering::Relaxed))));
    assert!(said.next().unwrap().unwrap().ends_with("answers again"));
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.starts_with("2 functions"), "{line}");
}

#[test]
fn top_ends_where_trying_again_is_in_vain() {
    let daemon = Daemon::new(|_| (400, "namespace: there is none".into()));
    let ran = Home::of(&daemon.url).run(&["top"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(1), "roost: namespace: there is none\n"));
}

/// `roost top` on a terminal of its own, of 90 columns; how that is set is printed before and after.
fn on_a_terminal(home: &Home) -> Command {
    let roost = env!("CARGO_BIN_EXE_roost");
    let inside = format!("stty cols 90 rows 10; stty -g; '{roost}' top --interval 100ms; echo $?; stty -g");
    let mut command = Command::new("script");
    command.args(["-qc", &inside, "/dev/null"]).stdin(Stdio::piped());
    command.env("HOME", home.path()).env("ROOST_CONFIG", home.path().join("roostd.toml"));
    command.env_remove("OPENFAAS_URL").env_remove("ROOST_URL");
    command
}

#[test]
fn on_a_terminal_top_fills_the_screen_and_sets_all_back_for_whoever_leaves() {
    let daemon = daemon();
    let home = Home::of(&daemon.url);
    for key in [b"q", b"\x03"] {
        let (mut running, mut stdout, _stderr) = Running::start(on_a_terminal(&home));
        let mut seen = String::new();
        // What it draws has no last line.
        while !seen.contains("0→2") {
            let piece = stdout.fill_buf().unwrap();
            assert!(!piece.is_empty(), "{seen:?}");
            seen.push_str(&String::from_utf8_lossy(piece));
            let count = piece.len();
            stdout.consume(count);
        }
        running.0.stdin.take().unwrap().write_all(key).unwrap();
        stdout.read_to_string(&mut seen).unwrap();
        assert!(running.0.wait().unwrap().success());
        let (before, rest) = seen.split_once("\x1b[?1049h").unwrap();
        let (drawn, after) = rest.split_once("\x1b[?1049l").unwrap();
        assert_eq!(after.lines().collect::<Vec<_>>(), ["0", before.lines().next().unwrap()], "{seen:?}");
        for line in drawn.split("\x1b[K") {
            let text = line.rsplit(['\n', 'H', 'J']).next().unwrap();
            assert!(text.chars().count() <= 90, "{text:?}");
        }
    }
}

/// A decision of the daemon, as it sends it.
fn event(id: u64, reason: &str) -> String {
    let data = json!({ "function": "echo", "namespace": "dev", "at": "2026-01-31T12:00:00.5Z", "from": 0, "to": id,
        "reason": reason });
    format!("event: scaled\nid: {id}\ndata: {data}\n\n")
}

#[test]
fn events_are_told_line_by_line_over_a_restart_of_the_daemon() {
    let times = Arc::new(AtomicU64::new(0));
    let asked = Arc::clone(&times);
    let daemon = Daemon::new(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => (200, [":\n\n", &event(1, "a request waits"), &event(2, "35 in flight")].concat()),
        1 => (503, "ending".into()),
        2 => (200, format!("event: missed\ndata: {{\"count\":7}}\n\n{}", event(3, "idle for 15m"))),
        _ => (401, String::new()),
    });
    let ran = Home::of(&daemon.url).run(&["events", "echo", "-n", "dev"]);
    let expected = "2026-01-31T12:00:00.500Z echo.dev 0 → 1: a request waits\n\
        2026-01-31T12:00:00.500Z echo.dev 0 → 2: 35 in flight\n\
        2026-01-31T12:00:00.500Z echo.dev 0 → 3: idle for 15m\n";
    assert_eq!(ran.stdout, expected);
    assert!(
        ran.stderr.contains("7 events were missed") && ran.stderr.contains("did not accept"),
        "{}",
        ran.stderr
    );
    assert_eq!((ran.code, times.load(Ordering::Relaxed)), (Some(1), 4));
    assert_eq!(daemon.lines()[0], "GET /system/events?function=echo&namespace=dev");
}

#[test]
fn events_of_a_function_that_is_not_there_are_refused_at_once() {
    let daemon = Daemon::new(|_| (404, "function nobody.openfaas-fn not found".into()));
    let ran = Home::of(&daemon.url).run(&["events", "nobody"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(1), "roost: function nobody.openfaas-fn not found\n"));
}
