//! The hosts, both in front of one replica of one function: it sends back what it is sent, which is an echo in the dialect of
//! either.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use roost_tests::{Config, ECHO, Host, eventually};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One host.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) port: u16,
    /// Its processes that none of the others has started.
    pids: Vec<i32>,
}

/// Roost, and what it is measured against. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct Peers {
    all: [Peer; 2],
    /// Pushpin, and what asks functions for it.
    pushpin: [Child; 2],
    _dir: TempDir,
    pub(crate) host: Host,
}

impl Peers {
    pub(crate) async fn start() -> Self {
        let host = Host::with_echo(Config::default()).await;
        let function = json!({
            "service": "echo", "image": ECHO, "envVars": { "QUIET": "1" },
            // These clients answer no pings.
            "annotations": { "roost.websocket": "events", "roost.websocket.keepalive": "0" },
        });
        let function = host.deployed(&function).await;
        let replica = function["status"]["replicas"][0]["address"].as_str().unwrap().to_owned();
        let dir = tempfile::Builder::new().prefix("roost-bench-").tempdir().unwrap();
        let ports = [0; 5].map(|_| free_port());
        fs::write(dir.path().join("routes"), format!("* {replica},over_http\n")).unwrap();
        fs::write(dir.path().join("zurl.conf"), zurl_conf(dir.path())).unwrap();
        fs::write(dir.path().join("pushpin.conf"), pushpin_conf(dir.path(), ports)).unwrap();
        let started = ["zurl", "pushpin"].map(|name| {
            let conf = dir.path().join(format!("{name}.conf"));
            let mut command = Command::new(name);
            command.arg(format!("--config={}", conf.display())).stdin(Stdio::null()).stdout(Stdio::null());
            if name == "zurl" {
                command.arg("--loglevel=0");
            }
            command.spawn().unwrap()
        });
        let pids = started.iter().map(|child| i32::try_from(child.id()).unwrap()).collect();
        let all = [
            Peer { name: "roost", port: host.port(), pids: vec![host.daemon_pid()] },
            Peer { name: "pushpin", port: ports[0], pids },
        ];
        for peer in &all {
            eventually(peer.name, || async { TcpStream::connect(("127.0.0.1", peer.port)).await.ok() }).await;
        }
        Self { all, pushpin: started, _dir: dir, host }
    }

    pub(crate) fn all(&self) -> &[Peer] {
        &self.all
    }

    pub(crate) fn roost(&self) -> &Peer {
        &self.all[0]
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        for child in &mut self.pushpin {
            kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
            child.wait().expect("a child can be waited for");
        }
    }
}

impl Peer {
    /// Opens a WebSocket.
    pub(crate) async fn open(&self) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let handshake = "GET /function/echo/ws HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(handshake.as_bytes()).await.unwrap();
        // By the byte: what comes behind the head belongs to nobody who reads it.
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            assert_ne!(stream.read(&mut byte).await.unwrap(), 0, "{}: {head:?}", self.name);
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101"), "{}: {head}", self.name);
        stream
    }

    fn pids(&self) -> Vec<i32> {
        let mut pids = self.pids.clone();
        let mut at = 0;
        // Of the daemon's children, none is in the way of an event.
        while self.name != "roost" && at < pids.len() {
            let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", pids[at])).unwrap();
            pids.extend(children.split_whitespace().map(|pid| pid.parse::<i32>().unwrap()));
            at += 1;
        }
        pids
    }

    /// The processor time that it has used.
    pub(crate) fn cpu(&self) -> Duration {
        let mut nanos = 0;
        for pid in self.pids() {
            for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
                let stat = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
                nanos += stat.split_whitespace().next().and_then(|field| field.parse().ok()).unwrap_or(0_u64);
            }
        }
        Duration::from_nanos(nanos)
    }

    /// The memory that it has for itself, in KiB.
    pub(crate) fn memory(&self) -> u64 {
        let private = |pid: i32| {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
            let fields = rollup.lines().filter(|line| line.starts_with("Private_"));
            fields.map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()).sum::<u64>()
        };
        self.pids().into_iter().map(private).sum()
    }
}

/// A binary message of so many bytes, as a client sends it, and how long its echo is.
pub(crate) fn message(length: u8) -> (Vec<u8>, usize) {
    assert!(length < 126, "a longer one has another header");
    let mut frame = vec![0x82, 0x80 | length, 1, 2, 3, 4];
    frame.extend((0..length).map(|n| n ^ (n % 4 + 1)));
    (frame, usize::from(length) + 2)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// As it is installed it asks no private address, and functions have those.
fn zurl_conf(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "[General]
in_spec=ipc://{dir}/zurl-in
in_stream_spec=ipc://{dir}/zurl-in-stream
out_spec=ipc://{dir}/zurl-out
in_req_spec=ipc://{dir}/zurl-req
defpolicy=allow
allow=
deny=
max_open_requests=20000
buffer_size=200000
timeout=600
in_hwm=100000
out_hwm=100000
"
    )
}

/// With the limit on messages a second out of the way.
fn pushpin_conf(dir: &Path, [http, push, publish, subscribe, command]: [u16; 5]) -> String {
    let dir = dir.display();
    format!(
        "[global]
include={{libdir}}/internal.conf
rundir={dir}
ipc_prefix=bench-
port_offset=0
[runner]
services=condure,pushpin-proxy,pushpin-handler
http_port={http}
logdir={dir}
log_level=0
client_buffer_size=8192
client_maxconn=19000
[proxy]
routesfile={dir}/routes
sig_key=changeme
zurl_out_specs=ipc://{dir}/zurl-in
zurl_out_stream_specs=ipc://{dir}/zurl-in-stream
zurl_in_specs=ipc://{dir}/zurl-out
[handler]
push_in_spec=tcp://127.0.0.1:{push}
push_in_http_addr=127.0.0.1
push_in_http_port={publish}
push_in_sub_specs=tcp://127.0.0.1:{subscribe}
command_spec=tcp://127.0.0.1:{command}
message_rate=10000000
message_hwm=1000000
"
    )
}
