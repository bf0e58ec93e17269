//! Replicas that take nothing new: those that are to go, and those that say so themselves.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use hyper::StatusCode;
use roost_tests::{Config, ECHO, Host, Image, Socket, eventually};
use serde_json::{Value, json};

#[tokio::test]
async fn a_socket_of_a_replica_that_is_to_go_gets_a_close_when_its_time_is_over() {
    let host = Host::with_echo(Config::default()).await;
    let body = |n: u32| {
        json!({
            "service": "echo",
            "image": ECHO,
            "envVars": { "N": n.to_string() },
            "annotations": { "roost.drain": "3s" },
        })
    };
    host.deployed(&body(0)).await;
    let old = host.process_of("echo");
    let mut socket = Socket::open(&host, "/function/echo").await;
    host.put_function(&body(1)).await;
    let draining = host.has_replica("echo", "draining").await;
    let of_old = |replica: &Value| replica["id"] == *old.0 && replica["phase"] == "draining";
    assert!(draining["status"]["replicas"].as_array().unwrap().iter().any(of_old), "{draining:#}");
    assert_eq!(draining["availableReplicas"], 1, "the new one serves meanwhile");
    assert_ne!(Socket::open(&host, "/function/echo").await.replica(), socket.replica());
    assert_eq!(socket.closed().await.0, 1012);
    host.has_ready("echo", 1).await;
    eventually("the end of the old one", || async { (!host.processes().contains(&old)).then_some(()) }).await;
}

#[tokio::test]
async fn without_time_to_drain_a_socket_gets_its_close_at_once() {
    let host = Host::with_echo(Config::default()).await;
    let labels = json!({ "roost.drain": "0" });
    host.deployed(&json!({ "service": "echo", "image": ECHO, "labels": labels })).await;
    let mut sockets = Vec::new();
    for _ in 0..5 {
        sockets.push(Socket::open(&host, "/function/echo").await);
    }
    host.scale("echo", 0).await;
    for socket in &mut sockets {
        assert_eq!(socket.closed().await.0, 1012);
    }
    host.idle("echo").await;
}

#[tokio::test]
async fn sockets_are_closed_one_after_the_other_and_a_message_on_its_way_is_whole() {
    let host = Host::with_echo(Config::default()).await;
    let annotations = json!({ "roost.drain": "3s" });
    host.deployed(&json!({ "service": "echo", "image": ECHO, "annotations": annotations })).await;
    let mut sockets = Vec::new();
    for _ in 0..6 {
        sockets.push(Socket::open(&host, "/function/echo").await);
    }
    host.scale("echo", 0).await;
    // Each speaks until it is told. Whatever comes is a message as it was sent, or the Close.
    let text = "x".repeat(100_000);
    let until_closed = sockets.iter_mut().map(|socket| socket.echoes_until_closed(&text));
    for code in futures_util::future::join_all(until_closed).await {
        assert_eq!(code, 1012);
    }
}

/// A function that can be told to say that it has enough: its replica is busy when there is a file of its address.
fn sometimes_busy() -> Image {
    let ready = "#!/bin/sh\nif [ -e /shared/$(busybox hostname -i) ]\nthen printf \"Status: 429 Too Many Requests\\r\\n\\r\\n\"\n\
                 else printf \"Status: 200 OK\\r\\n\\r\\n\"\nfi\n";
    let who = "#!/bin/sh\nprintf \"Status: 200 OK\\r\\n\\r\\n$(busybox hostname -i)\"\n";
    Image::script(&format!(
        "busybox mkdir -p /www/cgi-bin
         busybox cat >/www/cgi-bin/ready <<'EOF'\n{ready}EOF
         busybox cat >/www/cgi-bin/who <<'EOF'\n{who}EOF
         busybox chmod +x /www/cgi-bin/ready /www/cgi-bin/who
         exec busybox httpd -f -p 8080 -h /www"
    ))
}

async fn who(host: &Host) -> String {
    let answer = host.api.get("/function/busy/cgi-bin/who").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.text().trim().to_owned()
}

/// Sets of replicas that were asked in many requests.
async fn asked(host: &Host) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for _ in 0..40 {
        seen.insert(who(host).await);
    }
    seen
}

#[tokio::test]
async fn a_replica_that_says_it_has_enough_is_left_alone_until_it_has_not() {
    let shared = tempfile::tempdir().unwrap();
    let path = shared.path().to_str().unwrap().to_owned();
    let host = Host::start_with(Config { mounts: vec![path.clone()], ..Config::default() }).await;
    host.import(&sometimes_busy(), "busy:1").await;
    let body = json!({
        "service": "busy",
        "image": "busy:1",
        "labels": { "com.openfaas.scale.min": "2", "com.openfaas.scale.max": "2" },
        "annotations": {
            "roost.mount.shared": format!("{path}:/shared"),
            "com.openfaas.ready.http.path": "/cgi-bin/ready",
            "com.openfaas.ready.http.periodSeconds": "200ms",
            "com.openfaas.ready.http.failureThreshold": "1",
            // An answer that is late is no answer, and a script may take long where other work shares the machine.
            "com.openfaas.ready.http.timeoutSeconds": "30s",
        },
    });
    host.deployed(&body).await;
    host.has_ready("busy", 2).await;
    let both = asked(&host).await;
    assert_eq!(both.len(), 2);
    for (busy, other) in [(both.first(), both.last()), (both.last(), both.first())] {
        let (busy, other) = (busy.unwrap(), other.unwrap());
        let mark = Path::new(&path).join(busy);
        File::create(&mark).unwrap();
        let told = host.has_replica("busy", "busy").await;
        assert_eq!(told["availableReplicas"], 1, "{told:#}");
        assert_eq!(asked(&host).await, BTreeSet::from([other.clone()]));
        std::fs::remove_file(&mark).unwrap();
        host.has_ready("busy", 2).await;
        assert_eq!(asked(&host).await, both);
    }
    assert_eq!(host.function("busy").await["status"]["restarts"], 0, "having enough is no illness");
}
