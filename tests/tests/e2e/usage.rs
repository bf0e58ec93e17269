//! What functions have used of connections is counted, told and kept.

use std::time::{Duration, Instant};

use hyper::StatusCode;
use roost_tests::{Api, Config, ECHO, Host, Socket, eventually};
use serde_json::{Value, json};

/// How long the daemon may take to see what a client does. It is measured by two clocks in two processes.
const SLACK: f64 = 2.0;

/// All that is known of a function.
async fn total(host: &Host, function: &str) -> Value {
    // From yesterday on: midnight may come while this runs.
    let from = jiff::Timestamp::now() - Duration::from_secs(24 * 3600);
    let from = from.to_string();
    let path = format!("/system/usage?function={function}&step=total&from={}", &from[..10]);
    let answer = host.api.get(&path).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.json()["usage"][0].clone()
}

fn seconds(usage: &Value, figure: &str) -> f64 {
    usage[figure].as_f64().unwrap_or_else(|| panic!("no {figure} in {usage}"))
}

fn assert_near(usage: &Value, figure: &str, expected: f64) {
    let is = seconds(usage, figure);
    assert!((is - expected).abs() < SLACK, "{figure} is {is}, expected about {expected}: {usage}");
}

async fn open_connections(host: &Host) -> usize {
    let page = Api::new(host.metrics_port(), None).get("/metrics").await;
    let sample = "roost_open_tunnels{function_name=\"echo.openfaas-fn\"} ";
    let line = page.text().lines().find_map(|line| line.strip_prefix(sample).map(str::to_owned));
    line.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn two_sockets_that_overlap_are_active_once_and_count_twice_and_a_restart_keeps_that() {
    let mut host = Host::with_echo(Config::default()).await;
    host.deploy("echo", ECHO).await;

    // The first from t1 to t3, the second from t2 to t4.
    let t1 = Instant::now();
    let mut first = Socket::open(&host, "/function/echo").await;
    first.echoes("one").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let t2 = Instant::now();
    let mut second = Socket::open(&host, "/function/echo").await;
    second.echoes(&"x".repeat(40_000)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;

    let open = total(&host, "echo").await;
    assert_near(&open, "active_seconds", t1.elapsed().as_secs_f64());
    assert_near(&open, "connection_seconds", (t1.elapsed() + t2.elapsed()).as_secs_f64());
    first.leave().await;
    let t3 = Instant::now();
    tokio::time::sleep(Duration::from_secs(4)).await;
    second.leave().await;
    let t4 = Instant::now();
    eventually("the end of both", || async { (open_connections(&host).await == 0).then_some(()) }).await;

    let ended = total(&host, "echo").await;
    let (active, sum) = (t4 - t1, (t3 - t1) + (t4 - t2));
    assert_near(&ended, "active_seconds", active.as_secs_f64());
    assert_near(&ended, "connection_seconds", sum.as_secs_f64());
    assert!(seconds(&ended, "active_seconds") >= 9.0, "what the test slept at least: {ended}");
    assert!(
        seconds(&ended, "connection_seconds") - seconds(&ended, "active_seconds") >= 2.0,
        "they overlapped for that long at least: {ended}"
    );
    for (figure, expected) in [
        ("messages_in", 2),
        ("messages_out", 2),
        ("units_in", 3),
        ("units_out", 3),
        ("bytes_in", 40_003),
        ("bytes_out", 40_003),
        ("invocations", 0),
    ] {
        assert_eq!(ended[figure], expected, "{figure} of {ended}");
    }
    assert_eq!(total(&host, "echo").await, ended, "nothing is open");

    host.restart().await;
    assert_eq!(total(&host, "echo").await, ended, "it is kept");
    let mut third = Socket::open(&host, "/function/echo").await;
    third.echoes("on").await;
    third.leave().await;
    assert_eq!(total(&host, "echo").await["messages_in"], 3, "and goes on from there");
}

#[tokio::test]
async fn a_crash_loses_what_was_not_written_and_no_more_and_a_removed_function_keeps_its_days() {
    let mut host = Host::with_echo(Config::default()).await;
    host.deploy("echo", ECHO).await;
    let mut socket = Socket::open(&host, "/function/echo").await;
    socket.echoes("hi").await;
    // Longer than it takes until it is written down for the first time, and not for the second.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let before = seconds(&total(&host, "echo").await, "active_seconds");
    host.kill9();
    drop(socket);
    host.start_daemon().await;
    let after = total(&host, "echo").await;
    let active = seconds(&after, "active_seconds");
    assert!(active <= before && active >= before - 10.0 - SLACK, "{active} of {before}");
    assert_eq!(after["messages_in"], 1);

    host.remove("echo").await;
    assert_eq!(total(&host, "echo").await["messages_in"], 1);
    let table = host.api.get("/system/usage?format=csv").await;
    assert_eq!(table.header("content-type"), "text/csv; charset=utf-8");
    let lines: Vec<&str> = table.text().lines().collect();
    assert!(lines[0].starts_with("day,function,namespace,active_seconds,"), "{lines:?}");
    assert!(lines[1].contains(",echo,openfaas-fn,"), "{lines:?}");
    host.log_in().await;
    let shown = host.roost_done(&["usage", "--total"]).await;
    assert!(shown.starts_with("FUNCTION") && shown.contains("echo.openfaas-fn"), "{shown}");
    assert_eq!(
        host.roost_done(&["usage", "--csv"]).await.replace("\r\n", "\n"),
        table.text().replace("\r\n", "\n")
    );
}

#[tokio::test]
async fn of_connections_that_the_host_holds_the_time_of_replicas_is_that_of_events() {
    let host = Host::with_echo(Config::default()).await;
    let annotations = json!({ "roost.websocket": "events" });
    host.deployed(&json!({ "service": "echo", "image": ECHO, "annotations": annotations })).await;
    let began = Instant::now();
    let mut socket = Socket::open(&host, "/function/echo").await;
    socket.echoes("hi").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    socket.echoes("there").await;
    let usage = total(&host, "echo").await;
    let open = began.elapsed().as_secs_f64();
    assert_near(&usage, "connection_seconds", open);
    assert_near(&usage, "held_seconds", open);
    assert_eq!(
        (&usage["invocations"], &usage["messages_in"], &usage["messages_out"]),
        (&json!(2), &json!(2), &json!(2))
    );
    let at_work = seconds(&usage, "invocation_active_seconds");
    assert!(at_work > 0.0 && at_work < 2.0, "{usage}");
    assert_eq!(seconds(&usage, "active_seconds"), 0.0, "no replica had a connection");
    socket.leave().await;
}

#[tokio::test]
async fn a_connection_that_outlives_the_daemon_counts_with_one_and_then_with_the_next() {
    let host = Host::with_echo(Config { supervised: true, ..Config::default() }).await;
    host.deploy("echo", ECHO).await;
    let began = Instant::now();
    let mut socket = Socket::open(&host, "/function/echo").await;
    socket.echoes("before").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let paused = Instant::now();
    host.hand_over().await;
    socket.echoes("after").await;
    let pause = paused.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (usage, open) = (total(&host, "echo").await, began.elapsed().as_secs_f64());
    let active = seconds(&usage, "active_seconds");
    assert!(active <= open && active >= open - pause - SLACK / 4.0, "{active} of {open}: {usage}");
    assert_eq!((&usage["messages_in"], &usage["bytes_in"]), (&json!(2), &json!(11)), "{usage}");
    socket.leave().await;
}
