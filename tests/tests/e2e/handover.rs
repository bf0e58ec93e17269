//! Connections outlive the daemon: it is replaced, or killed, and they go on. So they do when functions are deployed.
//!
//! With `ROOST_LONG_TESTS` in the environment there are more of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::{SinkExt, StreamExt};
use hyper::{Method, StatusCode};
use roost_tests::{Config, ECHO, Host, Message, PATIENCE, Socket, body_in_pieces, eventually, next_piece};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

const IDLE: usize = 60;
const BUSY: usize = 60;

/// Is there time for the long form of a test? Such as is wanted now and then.
fn is_long() -> bool {
    std::env::var_os("ROOST_LONG_TESTS").is_some()
}

async fn supervised() -> Host {
    let host = Host::with_echo(Config { supervised: true, ..Config::default() }).await;
    host.deploy("echo", ECHO).await;
    host
}

/// Messages that go round on WebSockets, each with its number and a length of its own, until they are told to stop.
struct Traffic {
    stop: Arc<AtomicBool>,
    round: Arc<AtomicU64>,
    sockets: Vec<JoinHandle<u64>>,
}

impl Traffic {
    async fn start(host: &Host, count: usize) -> Self {
        Self::through(host, "echo", count, 20_000).await
    }

    /// Of messages of up to `longest` bytes and a few.
    async fn through(host: &Host, function: &str, count: usize, longest: u64) -> Self {
        let (stop, round) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut open = Vec::new();
        for _ in 0..count {
            let url = format!("ws://127.0.0.1:{}/function/{function}", host.port());
            open.push(connect_async(url).await.unwrap().0);
        }
        let talking = open.into_iter().enumerate().map(|(number, socket)| {
            tokio::spawn(talk(socket, number, longest, Arc::clone(&stop), Arc::clone(&round)))
        });
        let sockets = talking.collect();
        Self { stop, round, sockets }
    }

    /// Waits until so many more messages have come back.
    async fn go_on(&self, messages: u64) {
        let goal = self.round.load(Ordering::Relaxed) + messages;
        eventually("messages that come back", || async {
            (self.round.load(Ordering::Relaxed) >= goal || self.sockets.iter().any(JoinHandle::is_finished))
                .then_some(())
        })
        .await;
    }

    /// How many messages came back in all, each once, whole and in its turn.
    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = 0;
        for socket in self.sockets {
            all += tokio::time::timeout(PATIENCE, socket).await.expect("an end").unwrap();
        }
        all
    }
}

/// Some of a socket's messages are on their way at each moment; each is told apart from all others by its bytes.
async fn talk(
    mut socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    number: usize,
    longest: u64,
    stop: Arc<AtomicBool>,
    round: Arc<AtomicU64>,
) -> u64 {
    const AHEAD: u64 = 4;
    let message = |index: u64| {
        let length = 16 + (index * 7919 + number as u64 * 104_729) % longest;
        let bytes = (0..length).map(|at| (at * 31 + index * 17 + number as u64) as u8);
        let head = index.to_be_bytes().into_iter().chain((number as u64).to_be_bytes());
        Message::binary(head.chain(bytes).collect::<Vec<u8>>())
    };
    let (mut sent, mut back) = (0, 0);
    while back < sent || !stop.load(Ordering::Relaxed) {
        while sent < back + AHEAD && !stop.load(Ordering::Relaxed) {
            socket.send(message(sent)).await.unwrap_or_else(|error| panic!("{number}, {sent}: {error}"));
            sent += 1;
        }
        if back == sent {
            break;
        }
        let next = tokio::time::timeout(PATIENCE, socket.next()).await;
        match next.unwrap_or_else(|_| panic!("{number}: message {back} does not come back")) {
            Some(Ok(came)) => assert!(came == message(back), "{number}: another message than {back}"),
            other => panic!("{number}: ended at message {back}: {other:?}"),
        }
        back += 1;
        round.fetch_add(1, Ordering::Relaxed);
    }
    socket.close(None).await.unwrap();
    back
}

async fn idle_ones(host: &Host) -> Vec<Socket> {
    let mut idle = Vec::new();
    for _ in 0..IDLE {
        idle.push(Socket::open(host, "/function/echo").await);
    }
    idle
}

/// The tunnels that the metrics tell of.
async fn tunnels(host: &Host) -> usize {
    let metrics = roost_tests::Api::new(host.metrics_port(), None);
    let text = metrics.get("/metrics").await.text().to_owned();
    let sample = text
        .lines()
        .find_map(|line| line.strip_prefix("roost_open_tunnels{function_name=\"echo.openfaas-fn\"} "));
    sample.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_and_idle_sockets_go_on_when_one_daemon_follows_another() {
    let host = supervised().await;
    let mut idle = idle_ones(&host).await;
    let traffic = Traffic::start(&host, BUSY).await;
    for _ in 0..3 {
        traffic.go_on(2000).await;
        host.hand_over().await;
    }
    traffic.go_on(2000).await;
    let of_daemon = host.supervised_use();
    println!("KiB and files of the daemon and its supervisor: {of_daemon:?}");
    assert_eq!(tunnels(&host).await, IDLE + BUSY);
    let messages = traffic.end().await;
    assert!(messages >= 8000, "{messages}");
    for (number, socket) in idle.iter_mut().enumerate() {
        socket.echoes(&format!("still here {number}")).await;
    }
    for socket in idle {
        socket.leave().await;
    }
    eventually("the end of all tunnels", || async { (tunnels(&host).await == 0).then_some(()) }).await;
    // None is left in the store either.
    let files = host.supervised_use();
    assert!(files[1].1 < 20, "{files:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_and_idle_sockets_go_on_when_the_daemon_is_killed() {
    let host = supervised().await;
    let mut idle = idle_ones(&host).await;
    let traffic = Traffic::start(&host, BUSY).await;
    for round in 0..8 {
        traffic.go_on(500 + 137 * round).await;
        host.crash().await;
    }
    traffic.go_on(2000).await;
    let messages = traffic.end().await;
    assert!(messages >= 6000, "{messages}");
    for (number, socket) in idle.iter_mut().enumerate() {
        socket.echoes(&format!("still here {number}")).await;
    }
}

#[tokio::test]
async fn a_socket_that_goes_on_has_its_place_among_those_of_its_function() {
    let host = Host::with_echo(Config { supervised: true, ..Config::default() }).await;
    let annotations = json!({ "roost.limit.connections": "1" });
    host.deployed(&json!({ "service": "echo", "image": ECHO, "annotations": annotations })).await;
    let mut socket = Socket::open(&host, "/function/echo").await;
    // Nothing moves on it before it is where the next daemon finds it.
    socket.echoes("here").await;
    for _ in 0..2 {
        host.crash().await;
        socket.echoes("still here").await;
        let refused = Socket::try_open(&host, "/function/echo", &[]).await;
        assert_eq!(refused.unwrap_err(), StatusCode::TOO_MANY_REQUESTS);
    }
    socket.leave().await;
    let opens = || async { Socket::try_open(&host, "/function/echo", &[]).await.ok() };
    eventually("a place", opens).await.echoes("there is").await;
}

#[tokio::test]
async fn a_request_in_flight_finishes_and_the_listener_refuses_nobody_meanwhile() {
    let host = supervised().await;
    let (sender, body) = body_in_pieces();
    let request = host.api.request(&Method::POST, "/function/echo").body(body).unwrap();
    sender.send("before".into()).await.unwrap();
    let mut response = host.api.open(request).await.unwrap().into_body();
    assert_eq!(next_piece(&mut response).await.unwrap().unwrap(), "before");
    let finish = async {
        // A connection that comes while nobody accepts is served by the next daemon.
        let answer = host.call("echo", "to whoever is there").await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "to whoever is there"));
    };
    let old = async {
        eventually("the end to begin", || async {
            let log = std::fs::read_to_string(host.daemon_log()).unwrap();
            log.contains("for another daemon: ending").then_some(())
        })
        .await;
        sender.send("after".into()).await.unwrap();
        assert_eq!(next_piece(&mut response).await.unwrap().unwrap(), "after");
        drop(sender);
        assert_eq!(next_piece(&mut response).await.unwrap(), None);
        finish.await;
    };
    tokio::join!(host.hand_over(), old);
}

#[tokio::test]
async fn a_daemon_that_ends_for_good_closes_its_sockets_with_a_word_and_so_ends_one_that_cannot_go_on() {
    let mut host = supervised().await;
    let (mut kept, mut gone) =
        (Socket::open(&host, "/function/echo").await, Socket::open(&host, "/function/echo").await);
    gone.echoes("here").await;
    kept.echoes("here").await;
    host.terminate();
    let words = (1012, "service restart".to_owned());
    assert_eq!((kept.closed().await, gone.closed().await), (words.clone(), words));
    host.ended().await;
    host.start_daemon().await;
    host.assert_echoes("echo").await;

    // Its function dies while there is no daemon: it is told so by the next.
    let mut socket = Socket::open(&host, "/function/echo").await;
    socket.echoes("here").await;
    let daemon = nix::unistd::Pid::from_raw(host.supervised());
    nix::sys::signal::kill(daemon, nix::sys::signal::Signal::SIGKILL).unwrap();
    host.kill_function("echo");
    let (code, _) = socket.closed().await;
    assert!(code == 1011 || code == 1012, "{code}");
}

/// A function whose connections are held by the daemon.
async fn holds(host: &Host, events: &str) {
    let annotations = json!({ "roost.websocket": "events", "roost.websocket.events": events });
    host.deployed(&json!({ "service": "held", "image": ECHO, "annotations": annotations })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_the_daemon_holds_go_on_when_one_daemon_follows_another() {
    let host = supervised().await;
    holds(&host, "message").await;
    let traffic = Traffic::through(&host, "held", BUSY, 20_000).await;
    let mut idle = Vec::new();
    for number in 0..IDLE {
        idle.push(Socket::open(&host, &format!("/function/held/{number}")).await);
    }
    for _ in 0..3 {
        traffic.go_on(500).await;
        host.hand_over().await;
    }
    traffic.go_on(500).await;
    assert!(traffic.end().await >= 2_000);
    for socket in &mut idle {
        socket.echoes("still here").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_each_connection_that_a_killed_daemon_held_is_told_once() {
    let host = supervised().await;
    holds(&host, "disconnected").await;
    let count = if is_long() { 1000 } else { 200 };
    let mut open = Vec::new();
    for number in 0..count {
        open.push(Socket::open(&host, &format!("/function/held/of/{number}")).await);
    }
    // Of one, the function has heard already.
    drop(open.pop());
    let told = async || paths_told(&host).await;
    eventually("the end of one", async || (told().await.len() == 1).then_some(())).await;
    host.crash().await;
    let all =
        eventually("the end of all", async || Some(told().await).filter(|told| told.len() >= count)).await;
    let mut expected: Vec<String> = (0..count).map(|number| format!("/of/{number}")).collect();
    expected.sort();
    assert_eq!(all, expected);
    host.crash().await;
    host.assert_echoes("held").await;
    assert_eq!(told().await.len(), count, "and not again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_begins_to_ask_hears_of_the_end_of_connections_that_were_open_before() {
    let host = supervised().await;
    holds(&host, "message").await;
    let mut open = Vec::new();
    for number in 0..5 {
        open.push(Socket::open(&host, &format!("/function/held/of/{number}")).await);
    }
    let annotations =
        json!({ "roost.websocket": "events", "roost.websocket.events": "message,disconnected" });
    host.put_function(&json!({ "service": "held", "image": ECHO, "annotations": annotations })).await;
    // It asks once it hears of one.
    eventually("the end of one", async || {
        Socket::open(&host, "/function/held/of/gone").await.leave().await;
        (!paths_told(&host).await.is_empty()).then_some(())
    })
    .await;
    for socket in &mut open {
        socket.echoes("still here").await;
    }
    host.crash().await;
    let expected: Vec<String> = (0..5).map(|number| format!("/of/{number}")).collect();
    let told = async || -> Vec<String> {
        let mut told = paths_told(&host).await;
        // What they said is in the log as well.
        told.retain(|path| path != "/of/gone");
        told
    };
    let all = eventually("the end of all", async || Some(told().await).filter(|told| told.len() >= 10)).await;
    for path in &expected {
        assert_eq!(all.iter().filter(|told| *told == path).count(), 2, "said once, and ended once: {path}");
    }
    host.crash().await;
    host.assert_echoes("held").await;
    assert_eq!(told().await.len(), 10, "and not again");
}

/// The paths below `/of/` of which the function was told something, in their order.
async fn paths_told(host: &Host) -> Vec<String> {
    let lines = host.log_lines("held").await;
    let paths = lines.iter().filter_map(|line| line.split_whitespace().find(|word| word.starts_with("/of/")));
    let mut paths: Vec<String> = paths.map(str::to_owned).collect();
    paths.sort();
    paths
}

#[allow(clippy::print_stdout, reason = "the figure is for whoever asks for the long form")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deployments_one_after_the_other_close_no_connection_that_is_held_and_lose_no_message() {
    let (deployments, connections) = if is_long() { (100, 1000) } else { (10, 100) };
    let host = Host::with_echo(Config::default()).await;
    let deployment = |number: usize| {
        json!({
            "service": "held", "image": ECHO, "annotations": { "roost.websocket": "events" },
            "envVars": { "QUIET": "yes", "DEPLOYMENT": number.to_string() },
        })
    };
    host.deployed(&deployment(0)).await;
    // A thousand with long messages would be a test of the machine.
    let traffic = Traffic::through(&host, "held", connections, 200).await;
    for number in 1..=deployments {
        traffic.go_on(connections as u64).await;
        let changed = deployment(number).to_string();
        let answer = host.api.send(Method::PUT, "/system/functions?wait=60s", changed).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{number}: {}", answer.text());
    }
    traffic.go_on(connections as u64).await;
    let closes = host.api.get("/system/connections?function=held&limit=1000").await.json();
    assert_eq!(closes["connections"].as_array().unwrap().len(), connections);
    let messages = traffic.end().await;
    println!("{messages} messages on {connections} connections over {deployments} deployments");
    assert_eq!(host.api.get("/system/deadletters").await.json(), json!({ "letters": [] }));
}
