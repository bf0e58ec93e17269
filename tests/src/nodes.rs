//! Hosts that are nodes of one: each with a NATS server beside it in a network of its own, and all of them on one switch.
//!
//! ```text
//!   test ─door─▶ node 0: Host, nats-server ──┐
//!   test ─door─▶ node 1: Host, nats-server ──┼── switch
//!   test ─door─▶ node 2: Host, nats-server ──┘
//! ```
//!
//! A node whose link is down reaches its own server and nobody else's, and is reached by nobody but the test: a door does not lead
//! over the switch. Networks have no names, and are gone with the processes in them.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::netns::{Door, Netns};
use crate::ports::{Place, free_port};
use crate::process::{Background, pause};
use crate::{Config, Host, PATIENCE, eventually};

/// Where a server listens for clients, for the other servers, and for questions after its health.
const PORTS: [u16; 3] = [4222, 6222, 8222];

/// A node's link to the switch, on its side.
const LINK: &str = "up0";

/// How long a server's answer to a question after its health is waited for.
const HEALTHY: Duration = Duration::from_secs(1);

/// Nodes of one. They are known by their numbers, from 0.
#[derive(Debug)]
pub struct Nodes {
    // In the order in which they end: servers outlive the hosts.
    hosts: Vec<Host>,
    servers: Vec<Server>,
    switch: Switch,
}

impl Nodes {
    /// So many nodes with these settings, the section `[nats]` and the network beside, all ready and reaching one another.
    ///
    /// # Panics
    /// When one does not get ready. A stream can have a copy on each of up to five.
    pub async fn start(count: usize, config: Config) -> Self {
        let (switch, networks) = Switch::with(count);
        let dir = Arc::new(tempfile::Builder::new().prefix("roost-nodes-").tempdir().unwrap());
        let addresses: Vec<_> = (0..count).map(|node| switch.address(node)).collect();
        let mut servers: Vec<_> = networks
            .iter()
            .enumerate()
            .map(|(node, network)| Server::new(node, &addresses, network.clone(), &dir))
            .collect();
        servers.iter_mut().for_each(Server::start);
        join_all(servers.iter().map(Server::healthy)).await;
        let hosts = servers.iter().map(|server| {
            let nodes = format!("[nats]\nurl = '{}'\nname = 'test'\nreplicas = {count}\n", server.url());
            let network = Some(server.network.clone());
            Host::start_with(Config { nodes, network, ..config.clone() })
        });
        Self { hosts: join_all(hosts).await, servers, switch }
    }

    /// How many there are, whatever became of them.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// The host of a node. From outside it is as any other, whether its node is cut off or not.
    #[must_use]
    pub fn host(&self, node: usize) -> &Host {
        &self.hosts[node]
    }

    /// The host of a node, to be ended and started on its own.
    pub fn host_mut(&mut self, node: usize) -> &mut Host {
        &mut self.hosts[node]
    }

    /// All hosts, in the order of their numbers.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter()
    }

    /// The port of loopback by which the test is a client of a node's server.
    #[must_use]
    pub fn nats_port(&self, node: usize) -> u16 {
        self.servers[node].outside
    }

    /// What happens in a node's network: the sockets that `work` makes are there.
    pub fn inside<T: Send>(&self, node: usize, work: impl FnOnce() -> T + Send) -> T {
        self.servers[node].network.inside(work)
    }

    /// The address of a node on the switch.
    #[must_use]
    pub fn address(&self, node: usize) -> Ipv4Addr {
        self.switch.address(node)
    }

    /// Takes a node off the switch, as who pulls a cable does. All of it goes on.
    pub fn cut_off(&self, node: usize) {
        self.switch.set(node, "down");
    }

    /// Puts a node on the switch again, and returns at once: that the servers find together takes a few seconds.
    pub fn bring_back(&self, node: usize) {
        self.switch.set(node, "up");
    }

    /// Waits until a node's server says that it has caught up with the others: with what streams there are, not yet with what
    /// they hold.
    pub async fn healthy(&self, node: usize) {
        self.servers[node].healthy().await;
    }

    /// What a node's server itself tells of what it holds, whatever the others do: a page of its figures, such as `/jsz`.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    pub fn figures(&self, node: usize, page: &str) -> Value {
        let answer = self.servers[node].asked(page).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap()
    }

    /// Ends a node's server as a crash does.
    pub fn kill_server(&mut self, node: usize) {
        self.servers[node].process.take().unwrap().crash();
    }

    /// Starts a node's server again, with what it has kept, and waits until it has caught up.
    pub async fn start_server(&mut self, node: usize) {
        self.servers[node].start();
        self.servers[node].healthy().await;
    }

    /// Ends a whole node as a power cut does, functions too: nobody hears a goodbye of it.
    pub async fn kill(&mut self, node: usize) {
        self.cut_off(node);
        self.kill_server(node);
        self.hosts[node].lose().await;
    }

    /// Starts a node that was killed, with what is on its disk, and waits until it is ready.
    pub async fn start_again(&mut self, node: usize) {
        self.bring_back(node);
        self.start_server(node).await;
        self.hosts[node].start_containerd().await;
        self.hosts[node].start_daemon().await;
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        let networks: Vec<_> = self.servers.iter().map(|server| server.network.clone()).collect();
        self.hosts.clear();
        self.servers.clear();
        let processes = || networks.iter().flat_map(Netns::processes).collect::<Vec<_>>();
        let deadline = Instant::now() + PATIENCE / 2;
        while !processes().is_empty() && Instant::now() < deadline {
            pause();
        }
        let left = processes();
        if !std::thread::panicking() {
            assert!(left.is_empty(), "processes left in the nodes' networks: {left:?}");
        }
    }
}

/// What connects the nodes: a bridge in a namespace of its own, and a link to each of them.
#[derive(Debug)]
struct Switch {
    network: Netns,
    place: Place,
}

impl Switch {
    /// A switch, and the networks of so many nodes on it.
    fn with(count: usize) -> (Self, Vec<Netns>) {
        let switch = Self { network: Netns::new(), place: Place::new() };
        switch.network.ip(["link", "add", "switch", "type", "bridge"]);
        switch.network.ip(["link", "set", "switch", "up"]);
        let networks = (0..count).map(|node| switch.plug_in(node)).collect();
        (switch, networks)
    }

    fn plug_in(&self, node: usize) -> Netns {
        let (network, port) = (Netns::new(), port_of(node));
        self.network.ip([
            "link",
            "add",
            &port,
            "type",
            "veth",
            "peer",
            "name",
            LINK,
            "netns",
            &network.path(),
        ]);
        self.network.ip(["link", "set", &port, "master", "switch", "up"]);
        network.ip(["address", "add", &format!("{}/24", self.address(node)), "dev", LINK]);
        network.ip(["link", "set", LINK, "up"]);
        network
    }

    fn address(&self, node: usize) -> Ipv4Addr {
        format!("{}{}", self.place.prefix, node + 1).parse().unwrap()
    }

    fn set(&self, node: usize, state: &str) {
        self.network.ip(["link", "set", &port_of(node), state]);
    }
}

/// A node's link to the switch, on the switch's side.
fn port_of(node: usize) -> String {
    format!("node{node}")
}

/// The NATS server of a node, with JetStream, in a cluster with the others.
#[derive(Debug)]
struct Server {
    network: Netns,
    address: Ipv4Addr,
    /// A port of the test's loopback that leads to it.
    outside: u16,
    config: PathBuf,
    log: PathBuf,
    process: Option<Background>,
    _door: Door,
    /// Of all servers.
    _dir: Arc<TempDir>,
}

impl Server {
    fn new(node: usize, addresses: &[Ipv4Addr], network: Netns, dir: &Arc<TempDir>) -> Self {
        let file = |ending: &str| dir.path().join(format!("{node}{ending}"));
        let (address, [clients, servers, health]) = (addresses[node], PORTS);
        let others = addresses.iter().filter(|other| **other != address);
        let routes: Vec<_> = others.map(|other| format!("nats://{other}:{servers}")).collect();
        // They find out within seconds that one is cut off, and not within minutes.
        let config = format!(
            "server_name: node-{node}\nlisten: '{address}:{clients}'\nhttp: '{address}:{health}'\n\
             jetstream {{ store_dir: '{store}', max_memory_store: 64MB, max_file_store: 1GB }}\n\
             cluster {{ name: nodes, listen: '{address}:{servers}', routes: {routes:?} }}\n\
             ping_interval: '1s'\nping_max: 2\nwrite_deadline: '2s'\n",
            store = file("").display(),
        );
        fs::write(file(".conf"), config).unwrap();
        let outside = free_port();
        let door = Door::open(outside, &network, SocketAddr::from((address, clients)));
        Self {
            network,
            address,
            outside,
            config: file(".conf"),
            log: file(".log"),
            process: None,
            _door: door,
            _dir: Arc::clone(dir),
        }
    }

    /// Its URL in its network.
    fn url(&self) -> String {
        format!("nats://{}:{}", self.address, PORTS[0])
    }

    fn start(&mut self) {
        let mut command = Command::new("nats-server");
        command.arg("--config").arg(&self.config);
        let log = &self.log;
        self.process = Some(self.network.inside(|| Background::start(&mut command, log)));
    }

    /// Waits until it reaches most of the others and knows what streams there are.
    async fn healthy(&self) {
        let answers = || async { (self.asked("/healthz").ok()?.starts_with("HTTP/1.0 200 ")).then_some(()) };
        eventually("a NATS server", answers).await;
    }

    /// What it answers to a `GET`, with the head.
    fn asked(&self, path: &str) -> std::io::Result<String> {
        let at = SocketAddr::from((self.address, PORTS[2]));
        self.network.inside(|| {
            let mut stream = TcpStream::connect_timeout(&at, HEALTHY)?;
            stream.set_read_timeout(Some(HEALTHY))?;
            write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("--- {}\n{}", self.log.display(), lines[lines.len().saturating_sub(20)..].join("\n"));
        }
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::SIGTERM);
            if let Err(error) = process.wait_blocking(PATIENCE / 4) {
                eprintln!("{error}");
            }
        }
    }
}
