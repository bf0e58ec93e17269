//! As many replicas as the load, the labels and the clock ask for.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use hyper::StatusCode;
use roost_tests::{Config, ECHO, Host, Socket};
use serde_json::{Value, json};

/// How many sockets are opened in these tests. With a target of 10, nine tenths of it used, they need four replicas.
const SOCKETS: usize = 35;

/// As many of them leave again. The others need two replicas.
const LEAVING: usize = 20;

/// The most that a replica may have.
const MOST: usize = 12;

async fn by_capacity(further: Value) -> Host {
    let host = Host::with_echo(Config::default()).await;
    let labels = json!({
        "com.openfaas.scale.type": "capacity",
        "com.openfaas.scale.target": "10",
        "com.openfaas.scale.max": "10",
        "com.openfaas.scale.down.window": "2s",
    });
    let mut annotations = json!({ "roost.drain": "10m" });
    annotations.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
    let body = json!({ "service": "echo", "image": ECHO, "labels": labels, "annotations": annotations });
    host.deployed(&body).await;
    host
}

/// The sockets by the replica that they lead to, those with the fewest first.
fn by_replica(sockets: Vec<Socket>) -> Vec<Vec<Socket>> {
    let mut groups: BTreeMap<String, Vec<Socket>> = BTreeMap::new();
    for socket in sockets {
        groups.entry(socket.replica().to_owned()).or_default().push(socket);
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by_key(Vec::len);
    groups
}

fn sizes(groups: &[Vec<Socket>]) -> Vec<usize> {
    groups.iter().map(Vec::len).collect()
}

async fn all_echo(sockets: &mut [Socket]) {
    for (n, socket) in sockets.iter_mut().enumerate() {
        socket.echoes(&format!("socket {n}")).await;
    }
}

#[tokio::test]
async fn sockets_that_come_at_once_wait_for_replicas_and_those_that_stay_are_not_closed() {
    let cap = json!({ "roost.scale.capacity": MOST.to_string(), "roost.queue.wait": "30s" });
    let host = by_capacity(cap).await;
    let sockets = join_all((0..SOCKETS).map(|_| Socket::open(&host, "/function/echo"))).await;
    host.has_ready("echo", 4).await;
    let groups = by_replica(sockets);
    assert!(groups.iter().all(|group| group.len() <= MOST), "{:?}", sizes(&groups));

    // Whole replicas lose their sockets: these go.
    let mut staying: Vec<_> = groups.into_iter().flatten().collect();
    let leaving: Vec<_> = staying.drain(..LEAVING).collect();
    join_all(leaving.into_iter().map(Socket::leave)).await;
    host.has_ready("echo", 2).await;
    all_echo(&mut staying).await;
}

#[tokio::test]
async fn sockets_that_come_one_by_one_are_spread_and_those_of_a_replica_that_is_to_go_stay_open() {
    let host = by_capacity(json!({})).await;
    let mut sockets = Vec::new();
    for open in 0..SOCKETS {
        // Nine tenths of the target are what a replica is to have.
        let needed = open.div_ceil(9).max(1) as u64;
        host.status("echo", &format!("replicas for {open} sockets"), |status| {
            ready(status).len() as u64 >= needed
        })
        .await;
        sockets.push(Socket::open(&host, "/function/echo").await);
    }
    host.has_ready("echo", 4).await;
    let groups = by_replica(sockets);
    assert_eq!(groups.len(), 4);
    assert!(groups.iter().all(|group| group.len() <= MOST), "{:?}", sizes(&groups));

    // Every replica loses some: two are to go, and yet keep what they have. What is new goes to the others.
    let mut staying = Vec::new();
    let mut leaving = Vec::new();
    for (n, socket) in groups.into_iter().flatten().enumerate() {
        let leaves = n * LEAVING / SOCKETS != (n + 1) * LEAVING / SOCKETS;
        if leaves { leaving.push(socket) } else { staying.push(socket) }
    }
    assert_eq!(leaving.len(), LEAVING);
    join_all(leaving.into_iter().map(Socket::leave)).await;
    let shrunk = host.status("echo", "two that are ready", |status| ready(status).len() == 2).await;
    let ready = ready(&shrunk["status"]);
    for _ in 0..5 {
        let socket = Socket::open(&host, "/function/echo").await;
        assert!(ready.iter().any(|address| address == socket.replica()), "{}: {shrunk:#}", socket.replica());
    }
    all_echo(&mut staying).await;

    // When they have closed by themselves, the replicas go.
    join_all(staying.into_iter().map(Socket::leave)).await;
    host.has_ready("echo", 1).await;
}

/// The addresses of the replicas that are ready.
fn ready(status: &Value) -> Vec<String> {
    let replicas = status["replicas"].as_array().into_iter().flatten();
    let ready = replicas.filter(|replica| replica["phase"] == "ready");
    ready.map(|replica| replica["address"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn an_update_of_how_it_scales_restarts_no_replica() {
    let host = Host::with_echo(Config::default()).await;
    let body = |labels: Value| json!({ "service": "echo", "image": ECHO, "labels": labels });
    host.deployed(&body(json!({}))).await;
    let first = host.process_of("echo");
    let mut socket = Socket::open(&host, "/function/echo").await;

    host.put_function(&body(json!({ "com.openfaas.scale.min": "3", "com.openfaas.scale.max": "3" }))).await;
    host.has_ready("echo", 3).await;
    let three = host.processes();
    assert!(three.contains(&first), "{first:?} in {three:?}");

    // Fewer again, and no more than one at a time: known from the label, and only from it.
    let labels =
        json!({ "com.openfaas.scale.min": "1", "com.openfaas.scale.max": "1", "roost.scale.capacity": "1" });
    host.put_function(&body(labels)).await;
    host.has_ready("echo", 1).await;
    assert_eq!(host.processes(), [first], "the one with the open socket stays");
    socket.echoes("still here").await;
    assert_eq!(host.call("echo", "hi").await.status, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn a_schedule_says_how_many_there_are_at_least() {
    let host = Host::with_echo(Config::default()).await;
    let annotations = json!({ "roost.scale.schedule": "* * * * *=2" });
    let labels = json!({ "com.openfaas.scale.max": "4" });
    let body = json!({ "service": "echo", "image": ECHO, "labels": labels, "annotations": annotations });
    host.deployed(&body).await;
    host.has_ready("echo", 2).await;
}

#[tokio::test]
async fn a_value_that_cannot_be_is_refused_with_the_name_of_its_label() {
    let host = Host::with_echo(Config::default()).await;
    for (name, value) in [
        ("com.openfaas.scale.min", "-1"),
        ("com.openfaas.scale.min", "many"),
        ("com.openfaas.scale.max", "0"),
        ("com.openfaas.scale.max", "1000000"),
        ("com.openfaas.scale.type", "moon"),
        ("com.openfaas.scale.target", "0"),
        ("com.openfaas.scale.target", "NaN"),
        ("com.openfaas.scale.target-proportion", "2"),
        ("com.openfaas.scale.zero", "perhaps"),
        ("com.openfaas.scale.zero-duration", "soon"),
        ("com.openfaas.scale.down.window", "1h"),
        ("com.openfaas.scale.factor", "101"),
        ("roost.scale.idle", "sleep"),
        ("roost.scale.capacity", "0"),
        ("roost.queue.wait", "-1s"),
        ("roost.rollout", "sideways"),
        ("roost.scale.singleton", "maybe"),
        ("roost.scale.key", "path[0]"),
        ("roost.scale.key", "jwt:sub"),
        ("roost.affinity", "star sign"),
        ("roost.drain", "later"),
        ("roost.idle.state", "dozing"),
        ("roost.idle.paused-for", "1 week"),
        ("roost.idle.created-for", "x"),
        ("roost.scale.schedule", "at noon=2"),
    ] {
        for place in ["labels", "annotations"] {
            let body = json!({ "service": "echo", "image": ECHO, place: { name: value } });
            let answer = host.api.post("/system/functions", body.to_string()).await;
            assert_eq!(
                answer.status,
                StatusCode::BAD_REQUEST,
                "{name}={value} of {place}: {}",
                answer.text()
            );
            assert!(answer.text().contains(name), "{name}={value} of {place}: {}", answer.text());
        }
    }
    // What contradicts itself is refused, too.
    for labels in [
        json!({ "com.openfaas.scale.min": "3", "com.openfaas.scale.max": "2" }),
        json!({ "com.openfaas.scale.max": "2", "roost.scale.singleton": "true" }),
    ] {
        let body = json!({ "service": "echo", "image": ECHO, "labels": labels });
        let answer = host.api.post("/system/functions", body.to_string()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{labels}: {}", answer.text());
        assert!(answer.text().contains("com.openfaas.scale.m"), "{}", answer.text());
    }
    assert_eq!(host.api.get("/system/functions").await.json(), json!([]));
}
