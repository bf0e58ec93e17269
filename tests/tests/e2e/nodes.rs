//! Hosts that are nodes of one, and NATS servers between them: cut off, brought back, and lost.

use std::time::Duration;

use roost_tests::{Config, ECHO, Image, Nodes, PATIENCE, eventually};
use serde_json::{Value, json};

use crate::triggers_nats::Client;

/// How long a server may think about an answer. One that has lost the others gives none.
const ANSWER: Duration = Duration::from_secs(2);

/// What a node's server answers, if it is no error.
async fn ask(nodes: &Nodes, node: usize, subject: &str, body: &str) -> Option<Value> {
    let ask = async { Client::connect(nodes.nats_port(node)).await.ask(subject, body).await };
    let answer = tokio::time::timeout(ANSWER, ask).await.ok()?;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    answer["error"].is_null().then_some(answer)
}

/// Publishes one message on each of these subjects by a node's server, again until there is somebody who takes it.
async fn publish(nodes: &Nodes, node: usize, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let subject = format!("kept.{number}");
        eventually(&subject, || ask(nodes, node, &subject, "x")).await;
    }
}

/// What a node's server has of the stream.
fn stream(nodes: &Nodes, node: usize) -> Value {
    let page = nodes.figures(node, "/jsz?accounts=true&streams=true");
    page["account_details"][0]["stream_detail"][0].clone()
}

/// How many messages a node's own copy of the stream holds, what was published twice once.
fn held(nodes: &Nodes, node: usize) -> u64 {
    stream(nodes, node)["state"]["num_subjects"].as_u64().unwrap_or(0)
}

async fn all_hold(nodes: &Nodes, who: &[usize], count: u64) {
    let holding = || who.iter().map(|&node| held(nodes, node)).collect::<Vec<_>>();
    let all =
        eventually("all copies", || async { holding().iter().all(|&held| held == count).then_some(()) });
    if tokio::time::timeout(PATIENCE / 2, all).await.is_err() {
        panic!("nodes {who:?} are to hold {count}, and hold {:?}", holding());
    }
}

/// A node whose server follows: of the version 2.9.10, one that leads and is cut off may lack a message in its own copy for good.
fn following(nodes: &Nodes) -> usize {
    let leader = |node| stream(nodes, node)["cluster"]["leader"].clone();
    (0..nodes.len()).find(|&node| leader(node) != format!("node-{node}")).unwrap()
}

#[tokio::test]
async fn three_servers_keep_what_was_published_when_one_is_cut_off() {
    let nodes = Nodes::start(3, Config::default()).await;
    let stream = json!({ "name": "KEPT", "subjects": ["kept.*"], "storage": "file", "num_replicas": 3 });
    let stream = stream.to_string();
    let create = || ask(&nodes, 0, "$JS.API.STREAM.CREATE.KEPT", &stream);
    eventually("a stream with three copies", create).await;
    publish(&nodes, 0, 0..10).await;
    all_hold(&nodes, &[0, 1, 2], 10).await;

    let cut = following(&nodes);
    let [one, other] = [(cut + 1) % 3, (cut + 2) % 3];
    nodes.cut_off(cut);
    publish(&nodes, one, 10..20).await;
    publish(&nodes, other, 20..30).await;
    all_hold(&nodes, &[one, other], 30).await;
    assert_eq!(held(&nodes, cut), 10);
    // It may be taken later, and then is one of those that are there.
    assert!(ask(&nodes, cut, "kept.0", "x").await.is_none(), "alone it is not most of them");
    // The host is as near as before.
    assert_eq!(nodes.host(cut).api.get("/healthz").await.status, 200);

    nodes.bring_back(cut);
    publish(&nodes, cut, 30..40).await;
    all_hold(&nodes, &[0, 1, 2], 40).await;
}

#[tokio::test]
async fn each_node_is_a_host_with_functions_of_its_own_and_comes_back_when_it_was_lost() {
    let mut nodes = Nodes::start(3, Config::default()).await;
    let echo = Image::echo();
    for host in nodes.hosts() {
        host.import(&echo, ECHO).await;
        host.deploy("echo", ECHO).await;
        host.assert_echoes("echo").await;
    }
    let neighbour = std::net::SocketAddr::from((nodes.address(1), 4222));
    let reached = |nodes: &Nodes, node| {
        let connect = || std::net::TcpStream::connect_timeout(&neighbour, Duration::from_secs(1)).is_ok();
        nodes.inside(node, connect)
    };
    assert!(reached(&nodes, 0), "nodes reach each other");
    nodes.cut_off(0);
    assert!(!reached(&nodes, 0) && reached(&nodes, 2), "only one is cut off");
    nodes.host(0).assert_echoes("echo").await;
    nodes.bring_back(0);

    nodes.kill(1).await;
    assert!(!reached(&nodes, 2));
    nodes.host(2).assert_echoes("echo").await;
    nodes.start_again(1).await;
    nodes.host(1).ready("echo").await;
    nodes.host(1).assert_echoes("echo").await;
    assert!(reached(&nodes, 0) && reached(&nodes, 2));
}
