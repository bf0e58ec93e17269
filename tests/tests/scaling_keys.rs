//! A replica for each key, and none for more keys than there may be.

#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

use futures_util::future::join_all;
use hyper::StatusCode;
use roost_tests::{Config, ECHO, Host, Socket, eventually};
use serde_json::json;

/// An echo with a replica for each key, two at most, that go when they were idle for two seconds.
async fn keyed(by: &str) -> Host {
    let host = Host::with_echo(Config::default()).await;
    let labels = json!({
        "com.openfaas.scale.max": "2",
        "com.openfaas.scale.zero": "true",
        "com.openfaas.scale.zero-duration": "2s",
    });
    let annotations = json!({ "roost.scale.key": by, "roost.idle.state": "stopped", "roost.drain": "1s" });
    let body = json!({ "service": "echo", "image": ECHO, "labels": labels, "annotations": annotations });
    host.post_function(&body).await;
    // It has no replica until somebody says a key.
    host.status("echo", "Ready or Idle", |status| status["phase"] == "Ready" || status["phase"] == "Idle")
        .await;
    host
}

async fn replica_of(host: &Host, path: &str) -> String {
    let answer = host.api.get(&format!("/function/echo{path}")).await;
    assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text());
    answer.header("x-replica").to_owned()
}

#[tokio::test]
async fn each_key_has_a_replica_that_knows_it_and_goes_by_itself() {
    let host = keyed("query:customer").await;
    assert_eq!(host.processes(), []);

    // Sockets, so that neither goes while it is looked at.
    let ada = Socket::open(&host, "/function/echo?customer=ada").await;
    let grace = Socket::open(&host, "/function/echo?customer=grace%20h").await;
    assert_eq!((ada.header("x-replica-key"), grace.header("x-replica-key")), ("ada", "grace h"));
    assert_ne!(ada.replica(), grace.replica());
    assert_eq!(host.processes().len(), 2);
    let same = join_all((0..20).map(|_| replica_of(&host, "/headers?x=1&customer=ada"))).await;
    assert!(same.iter().all(|replica| replica == ada.replica()), "{same:?}");
    assert_eq!(replica_of(&host, "/headers?customer=grace+h").await, grace.replica());

    // There is room for no third, until one of them is idle.
    let third = host.api.get("/function/echo/headers?customer=mary").await;
    assert_eq!(third.status, StatusCode::TOO_MANY_REQUESTS, "{}", third.text());
    assert!(third.header("retry-after").parse::<u32>().is_ok());
    grace.leave().await;
    eventually("the end of an idle key's replica", || async { (host.processes().len() == 1).then_some(()) })
        .await;
    let mary = Socket::open(&host, "/function/echo?customer=mary").await;
    assert_eq!(mary.header("x-replica-key"), "mary");
    assert_eq!(replica_of(&host, "/headers?customer=ada").await, ada.replica());
}

#[tokio::test]
async fn many_that_come_with_a_new_key_at_once_are_one_start() {
    let host = Host::with_echo(Config::default()).await;
    let starts = host.watch("echo").await;
    let body = json!({
        "service": "echo",
        "image": ECHO,
        "labels": { "com.openfaas.scale.max": "2" },
        "annotations": { "roost.scale.key": "path[1]", "roost.idle.state": "stopped" },
    });
    host.post_function(&body).await;
    host.status("echo", "Ready or Idle", |status| status["phase"] == "Ready" || status["phase"] == "Idle")
        .await;
    let paths = (0..200).map(|n| if n % 2 == 0 { "/a/headers" } else { "/b" });
    let mut replicas = join_all(paths.map(|path| replica_of(&host, path))).await;
    replicas.sort();
    replicas.dedup();
    assert_eq!(replicas.len(), 2);
    assert_eq!(starts.started(2).await.made, 2);
}

#[tokio::test]
async fn the_replicas_of_keys_are_found_again_by_a_daemon_that_was_restarted() {
    let mut host = keyed("header:X-Room").await;
    let room = [("x-room", "attic")];
    let socket = Socket::try_open(&host, "/function/echo", &room).await.unwrap();
    let process = host.process_of("echo");
    host.kill9();
    drop(socket);
    host.start_daemon().await;
    let again = Socket::try_open(&host, "/function/echo", &room).await.unwrap();
    assert_eq!(again.header("x-replica-key"), "attic");
    assert_eq!(host.process_of("echo"), process);
}

#[tokio::test]
async fn an_update_leaves_at_most_one_replica_of_a_key() {
    let host = Host::with_echo(Config::default()).await;
    let watch = host.watch("echo").await;
    let body = |n: usize| {
        json!({
            "service": "echo",
            "image": ECHO,
            "envVars": { "N": n.to_string() },
            "annotations": { "roost.scale.key": "query:k", "roost.drain": "1s" },
        })
    };
    host.post_function(&body(0)).await;
    host.status("echo", "Ready or Idle", |status| status["phase"] == "Ready" || status["phase"] == "Idle")
        .await;
    replica_of(&host, "/headers?k=only").await;
    for n in 1..=3 {
        host.put_function(&body(n)).await;
        // It may be answered by the old one for a moment still; the new one may not begin unless it is asked for.
        eventually("the start of the new one", || async {
            replica_of(&host, "/headers?k=only").await;
            (watch.seen().started > n).then_some(())
        })
        .await;
    }
    let seen = watch.seen();
    assert_eq!(seen.most_running, 1, "{seen:?}");
}
