//! The proxies, all in front of one replica of one function.

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

/// One proxy.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) port: u16,
    /// The first of its processes.
    pid: i32,
}

/// Roost, and those it is measured against. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct Peers {
    all: [Peer; 3],
    others: Vec<Child>,
    _dir: TempDir,
    _host: Host,
}

impl Peers {
    pub(crate) async fn start() -> Self {
        let host = Host::with_echo(Config::default()).await;
        let env = json!({ "QUIET": "1" });
        let function = host.deployed(&json!({ "service": "echo", "image": ECHO, "envVars": env })).await;
        let replica = function["status"]["replicas"][0]["address"].as_str().unwrap().to_owned();
        let dir = tempfile::Builder::new().prefix("roost-bench-").tempdir().unwrap();
        let ports = [free_port(), free_port()];
        fs::write(dir.path().join("nginx.conf"), nginx_conf(dir.path(), ports[0], &replica)).unwrap();
        fs::write(dir.path().join("haproxy.cfg"), haproxy_cfg(ports[1], &replica)).unwrap();
        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(dir.path()).arg("-c").arg(dir.path().join("nginx.conf"));
        let mut haproxy = Command::new("haproxy");
        haproxy.arg("-db").arg("-f").arg(dir.path().join("haproxy.cfg"));
        let others = [nginx, haproxy].map(|mut command| command.stdin(Stdio::null()).spawn().unwrap());
        let pid = |child: &Child| i32::try_from(child.id()).unwrap();
        let all = [
            Peer { name: "roost", port: host.port(), pid: host.daemon_pid() },
            Peer { name: "nginx", port: ports[0], pid: pid(&others[0]) },
            Peer { name: "haproxy", port: ports[1], pid: pid(&others[1]) },
        ];
        for peer in &all {
            eventually(peer.name, || async {
                tokio::net::TcpStream::connect(("127.0.0.1", peer.port)).await.ok()
            })
            .await;
        }
        Self { all, others: others.into(), _dir: dir, _host: host }
    }

    pub(crate) fn all(&self) -> &[Peer] {
        &self.all
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        for child in &mut self.others {
            // nginx' master takes its workers along only when it is asked.
            kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
            child.wait().expect("a child can be waited for");
        }
    }
}

impl Peer {
    pub(crate) const PATH: &str = "/function/echo/";

    fn pids(&self) -> Vec<i32> {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid)).unwrap();
        // Of the daemon's, none is in the way of a request.
        let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
        std::iter::once(self.pid).chain(children.filter(|_| self.name != "roost")).collect()
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

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// As people tune it: connections are kept on both sides, nothing is logged, and no body of ours goes to the disk.
fn nginx_conf(dir: &Path, port: u16, replica: &str) -> String {
    let dir = dir.display();
    format!(
        "daemon off;
worker_processes 2;
worker_rlimit_nofile 20000;
pid {dir}/nginx.pid;
error_log {dir}/nginx.log crit;
events {{ worker_connections 19000; }}
http {{
    access_log off;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    tcp_nodelay on;
    keepalive_requests 10000000;
    keepalive_timeout 1h;
    client_body_buffer_size 128k;
    proxy_buffers 16 16k;
    proxy_read_timeout 1h;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    upstream function {{ server {replica}; keepalive 256; keepalive_requests 10000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=8192 reuseport;
        location /function/echo/ {{
            proxy_pass http://function/;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}
    }}
}}
"
    )
}

fn haproxy_cfg(port: u16, replica: &str) -> String {
    format!(
        "global
    maxconn 9500
    nbthread 2
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
    option forwardfor
    http-reuse always
frontend all
    bind 127.0.0.1:{port} backlog 8192
    http-request replace-path /function/echo/(.*) /\\1
    default_backend function
backend function
    server replica {replica}
"
    )
}
