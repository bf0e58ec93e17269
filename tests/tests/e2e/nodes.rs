//! Hosts that are nodes of one, and NATS servers between them: cut off, brought back, and lost.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::{Method, StatusCode};
use roost_tests::{Api, Config, ECHO, Image, Message, Nodes, PATIENCE, Socket, body_of, eventually};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::peers::knows;
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

/// Says something to all connections of a function, on one node.
async fn say(nodes: &Nodes, node: usize, what: &str) {
    let said = nodes.host(node).api.post("/system/connections?function=held", what.to_owned()).await;
    assert_eq!(said.status, StatusCode::OK, "{}", said.text());
}

/// All of these hear it, whatever they hear before.
async fn all_hear<'a>(sockets: impl IntoIterator<Item = &'a mut Socket>, what: &str) {
    for socket in sockets {
        let hears = async { while socket.next().await.unwrap().unwrap() != Message::text(what) {} };
        tokio::time::timeout(PATIENCE, hears).await.unwrap_or_else(|_| panic!("one does not hear {what:?}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broadcast_reaches_every_socket_on_every_node_that_can_be_reached() {
    let nodes = Nodes::start(3, Config::default()).await;
    let mut sockets = Vec::new();
    for host in nodes.hosts() {
        host.import(&Image::echo(), ECHO).await;
        let annotations = json!({ "roost.websocket": "events" });
        host.deployed(&json!({ "service": "held", "image": ECHO, "annotations": annotations })).await;
        for _ in 0..5 {
            sockets.push(Socket::open(host, "/function/held").await);
        }
    }
    for node in 0..3 {
        knows(nodes.host(node), 2).await;
    }
    say(&nodes, 0, "to all").await;
    all_hear(&mut sockets, "to all").await;

    nodes.cut_off(2);
    knows(nodes.host(0), 1).await;
    knows(nodes.host(2), 0).await;
    say(&nodes, 1, "to two").await;
    all_hear(&mut sockets[..10], "to two").await;
    say(&nodes, 2, "to its own").await;
    all_hear(&mut sockets[10..], "to its own").await;

    nodes.bring_back(2);
    for node in 0..3 {
        knows(nodes.host(node), 2).await;
    }
    say(&nodes, 2, "to all again").await;
    all_hear(&mut sockets, "to all again").await;
}

/// The pause of a client between two calls, which is shorter than the functions can follow: some calls always wait.
const PACE: Duration = Duration::from_millis(15);

/// How many calls have to be accepted on a node before and after what happens to it.
const SOME: usize = 100;

/// How many calls may be made twice: those that are at work on all nodes when one of them goes.
const AT_WORK: usize = 30;

/// Nodes that share a queue, each with a function that makes the calls of all, and notes them where the test sees them.
struct Ledgers {
    nodes: Nodes,
    notes: TempDir,
    clients: Vec<Caller>,
    enough: Arc<AtomicBool>,
}

/// Hands over one call after the other to one node.
struct Caller {
    accepted: Arc<AtomicUsize>,
    /// How often it had each other answer.
    refused: Arc<Mutex<BTreeMap<String, usize>>>,
    /// The paths of the calls that were accepted.
    task: JoinHandle<Vec<String>>,
}

impl Ledgers {
    async fn start() -> Self {
        let notes = tempfile::tempdir().unwrap();
        let shared = notes.path().display().to_string();
        let mounts = vec![format!("{shared}:rw")];
        let nodes = Nodes::start(
            3,
            Config { queue: "engine = \"nats\"\nmax_size = \"256MiB\"", mounts, ..Config::default() },
        )
        .await;
        let image = Image::of_program(Path::new(env!("CARGO_BIN_EXE_ledger-function")));
        for host in nodes.hosts() {
            host.import(&image, "ledger:1").await;
            host.deployed(&json!({
                "service": "ledger",
                "image": "ledger:1",
                "envVars": { "LEDGER_NOTES": "/notes/made" },
                "annotations": { "roost.mount.notes": format!("{shared}:/notes:rw") },
            }))
            .await;
        }
        let enough = Arc::<AtomicBool>::default();
        let caller = |node| Caller::of(node, nodes.host(node).api.clone(), &enough);
        let clients = (0..nodes.len()).map(caller).collect();
        Self { nodes, notes, clients, enough }
    }

    /// Waits until these nodes have accepted some more calls each.
    async fn accept_more(&self, nodes: &[usize]) {
        let accepted = |node: usize| self.clients[node].accepted.load(Ordering::Relaxed);
        let wanted: Vec<_> = nodes.iter().map(|&node| (node, accepted(node) + SOME)).collect();
        let all = eventually("calls to be accepted", || async {
            wanted.iter().all(|&(node, count)| accepted(node) >= count).then_some(())
        });
        if tokio::time::timeout(PATIENCE - Duration::from_secs(1), all).await.is_err() {
            let tell = |&(node, count): &(usize, usize)| {
                let refused = self.clients[node].refused.lock().unwrap();
                format!("node {node}: {} of {count}, and {refused:?}", accepted(node))
            };
            panic!("calls are not accepted: {:#?}", wanted.iter().map(tell).collect::<Vec<_>>());
        }
    }

    /// How often each call was made, on whichever node.
    fn made(&self) -> HashMap<String, usize> {
        let notes = std::fs::read_to_string(self.notes.path().join("made")).unwrap();
        let mut made = HashMap::new();
        for path in notes.lines() {
            *made.entry(path.to_owned()).or_default() += 1;
        }
        made
    }

    /// Ends the clients, and waits until each call that was accepted was made.
    #[allow(clippy::print_stderr, reason = "the figure is for whoever asks for it")]
    async fn end(mut self) {
        self.enough.store(true, Ordering::Relaxed);
        let mut accepted = Vec::new();
        for caller in std::mem::take(&mut self.clients) {
            accepted.extend(caller.task.await.unwrap());
        }
        let lost = || {
            let made = self.made();
            accepted.iter().filter(|path| !made.contains_key(*path)).cloned().collect::<Vec<_>>()
        };
        let all = eventually("all calls", || async { lost().is_empty().then_some(()) });
        if tokio::time::timeout(PATIENCE - Duration::from_secs(1), all).await.is_err() {
            let lost = lost();
            panic!("{} of {} accepted calls are lost: {lost:?}", lost.len(), accepted.len());
        }
        let doubled: usize = self.made().values().map(|times| times - 1).sum();
        eprintln!("{} calls accepted, none lost, {doubled} made twice", accepted.len());
        assert!(doubled <= AT_WORK, "{doubled} calls were made twice");
    }
}

impl Caller {
    fn of(node: usize, api: Api, enough: &Arc<AtomicBool>) -> Self {
        let (accepted, enough) = (Arc::<AtomicUsize>::default(), Arc::clone(enough));
        let refused = Arc::<Mutex<BTreeMap<_, _>>>::default();
        let (counted, others) = (Arc::clone(&accepted), Arc::clone(&refused));
        let task = tokio::spawn(async move {
            let mut paths = Vec::new();
            for number in 0.. {
                if enough.load(Ordering::Relaxed) {
                    break;
                }
                let path = format!("/slow/{node}-{number}");
                let request = api.request(&Method::POST, &format!("/async-function/ledger{path}"));
                let answer = api.try_send(request.body(body_of("a call")).unwrap()).await;
                // Of a node that has lost the others, or is gone: nobody knows whether that one was taken over.
                let refused = match answer {
                    Ok(answer) if answer.status == StatusCode::ACCEPTED => {
                        paths.push(path);
                        counted.fetch_add(1, Ordering::Relaxed);
                        None
                    }
                    Ok(answer) if answer.status == StatusCode::SERVICE_UNAVAILABLE => {
                        Some(answer.text().to_owned())
                    }
                    Ok(other) => panic!("{path}: {}", other.status),
                    Err(error) => Some(error),
                };
                if let Some(refused) = refused {
                    *others.lock().unwrap().entry(refused).or_default() += 1;
                }
                tokio::time::sleep(PACE).await;
            }
            paths
        });
        Self { accepted, refused, task }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_is_lost_over_a_partition() {
    let ledgers = Ledgers::start().await;
    ledgers.accept_more(&[0, 1, 2]).await;
    ledgers.nodes.cut_off(2);
    // The cut one may refuse, and may not.
    ledgers.accept_more(&[0, 1]).await;
    ledgers.nodes.bring_back(2);
    ledgers.accept_more(&[0, 1, 2]).await;
    ledgers.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_lost_loses_no_call() {
    let mut ledgers = Ledgers::start().await;
    ledgers.accept_more(&[0, 1, 2]).await;
    ledgers.nodes.kill(1).await;
    ledgers.accept_more(&[0, 2]).await;
    ledgers.end().await;
}
