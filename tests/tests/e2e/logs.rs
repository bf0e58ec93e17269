//! What a function prints, by the API.

use std::collections::HashSet;

use hyper::{Method, StatusCode};
use roost_tests::{Host, Image, Registry, body_of, eventually, next_piece};
use serde_json::{Value, json};

/// Prints a numbered line every 5 ms, on both streams in turn, and answers nothing useful on 8080.
const COUNTER: &str = "trap 'exit 0' TERM; busybox httpd -p 8080 -h /; n=0; \
     while :; do n=$((n+1)); echo line $n; n=$((n+1)); echo line $n >&2; busybox usleep 10000; done";

async fn counter() -> (Registry, Host) {
    let registry = Registry::open().await;
    let image = registry.push(&Image::script(COUNTER), "counter", "1").await;
    let host = Host::start().await;
    host.deploy("counter", &image).await;
    (registry, host)
}

fn numbers(lines: &[String]) -> Vec<u64> {
    let number =
        |line: &String| line.strip_prefix("line ").unwrap_or_else(|| panic!("{line:?}")).parse().unwrap();
    lines.iter().map(number).collect()
}

async fn wait_for_line(host: &Host, n: usize) {
    eventually("more lines", || async { (host.log_lines("counter").await.len() >= n).then_some(()) }).await;
}

#[tokio::test]
async fn no_line_is_lost_or_doubled_when_the_daemon_restarts_or_is_killed() {
    let (_registry, mut host) = counter().await;
    wait_for_line(&host, 50).await;
    host.restart().await;
    host.kill9();
    host.start_daemon().await;
    let seen = host.log_lines("counter").await.len();
    wait_for_line(&host, seen + 50).await;
    // Of lines on different streams, either may be read first: each has its own order. Odd ones are on stdout.
    let (odd, even): (Vec<_>, Vec<_>) =
        numbers(&host.log_lines("counter").await).into_iter().partition(|number| number % 2 == 1);
    assert!(!odd.is_empty() && !even.is_empty());
    assert_eq!(odd, (0..odd.len() as u64).map(|n| 2 * n + 1).collect::<Vec<_>>());
    assert_eq!(even, (0..even.len() as u64).map(|n| 2 * n + 2).collect::<Vec<_>>());
}

#[tokio::test]
async fn records_have_the_form_of_the_contract() {
    let (_registry, host) = counter().await;
    wait_for_line(&host, 20).await;
    let (replica, _) = host.process_of("counter");
    let get = |query: &str| {
        let path = format!("/system/logs?name=counter&since=1970-01-01T00:00:00Z&{query}");
        async { host.api.get(&{ path }).await }
    };
    let answer = get("tail=5").await;
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    let records: Vec<Value> = answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 5);
    for record in &records {
        let keys: HashSet<_> = record.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, HashSet::from(["name", "namespace", "instance", "timestamp", "text"]));
        assert_eq!((&record["name"], &record["namespace"]), (&json!("counter"), &json!("openfaas-fn")));
        assert_eq!(record["instance"], replica.as_str());
    }
    assert_eq!(get("tail=3").await.text().lines().count(), 3);
    assert!(get("tail=-1").await.text().lines().count() >= 20);
    assert_eq!(get("instance=other&tail=3").await.text(), "");
    assert_eq!(get(&format!("instance={replica}&tail=3")).await.text().lines().count(), 3);
    let last = records[4]["timestamp"].as_str().unwrap();
    let since = host.api.get(&format!("/system/logs?name=counter&tail=-1&since={last}")).await;
    assert!(since.text().lines().next().unwrap().contains(last), "{}", since.text());
}

#[tokio::test]
async fn following_goes_on_with_new_lines_of_new_replicas() {
    let (_registry, host) = counter().await;
    let request = host.api.request(&Method::GET, "/system/logs?name=counter&follow=true&tail=1");
    let response = host.api.open(request.body(body_of("")).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    let (old, _) = host.process_of("counter");
    let (mut text, mut killed) = (String::new(), false);
    loop {
        let piece = next_piece(&mut body).await.unwrap().expect("no end while the function is there");
        text.push_str(str::from_utf8(&piece).unwrap());
        if !killed && text.lines().count() > 10 {
            host.kill_function("counter");
            killed = true;
        }
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let instance = |line: &str| serde_json::from_str::<Value>(line).unwrap()["instance"].clone();
        if killed && whole.lines().next_back().is_some_and(|line| instance(line) != old.as_str()) {
            break;
        }
    }
}

#[tokio::test]
async fn logs_of_a_function_without_a_name_or_with_bad_parameters_are_refused() {
    let host = Host::start().await;
    for bad in ["", "?name=", "?name=Bad_Name", "?name=echo&tail=many", "?name=echo&since=yesterday"] {
        let answer = host.api.get(&format!("/system/logs{bad}")).await;
        assert!(answer.status.is_client_error(), "{bad}: {}", answer.status);
    }
}
