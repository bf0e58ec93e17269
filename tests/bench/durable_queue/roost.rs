//! Roost: its clients post to a function that answers at once, which has its calls while they are taken over.

use std::time::{Duration, Instant};

use roost_tests::{Api, Config, ECHO, Host, PATIENCE};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::disk::{Disk, Writes};
use crate::figures::Figures;
use crate::peers::Accepted;

/// The name of the counter of calls that have come to their end.
const ENDED: &str = "queue_worker_messages_processed_total{";
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long a client waits that was refused.
const PAUSE: Duration = Duration::from_millis(5);

/// A host. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Roost {
    host: Host,
    metrics: Api,
    /// Unmounted when nobody uses it any more.
    _disk: Disk,
}

impl Roost {
    pub(crate) async fn start() -> Self {
        let disk = Disk::mount(Writes::Asked);
        let host = Host::with_echo(Config { state: Some(disk.path()), ..Config::default() }).await;
        host.deployed(&json!({ "service": "echo", "image": ECHO, "envVars": { "QUIET": "1" } })).await;
        Self { metrics: Api::new(host.metrics_port(), None), host, _disk: disk }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.host.daemon_pid()
    }

    pub(crate) async fn client(&self, body: &[u8]) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", self.host.port())).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let head = format!(
            "POST /async-function/echo HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\nAccept: */*\r\n\
             Content-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        Client { stream, request: [head.as_bytes(), body].concat(), answer: Vec::new() }
    }

    /// How many calls have come to their end.
    pub(crate) async fn ended(&self) -> u64 {
        let page = self.metrics.get("/metrics").await;
        let lines = page.text().lines().filter(|line| line.starts_with(ENDED));
        lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
    }

    /// Waits until so many calls have come to their end.
    pub(crate) async fn drain(&self, until: u64) {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let ended = self.ended().await;
            if ended >= until {
                return;
            }
            if ended > last {
                (last, since) = (ended, Instant::now());
            }
            assert!(since.elapsed() < PATIENCE, "{ended} of {until} calls have ended, and no more do");
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// One who hands calls over, and waits for each 202.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Client {
    pub(crate) async fn post(mut self, until: Instant) -> Accepted {
        let (mut count, mut refused, mut waits) = (0, 0, Figures::default());
        while Instant::now() < until {
            let begun = Instant::now();
            self.stream.write_all(&self.request).await.unwrap();
            match self.status().await {
                202 => {
                    waits.add(begun.elapsed());
                    count += 1;
                }
                503 | 507 => {
                    refused += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                _ => panic!("{}", String::from_utf8_lossy(&self.answer)),
            }
        }
        Accepted { count, refused, waits }
    }

    /// Reads an answer to its end.
    async fn status(&mut self) -> u16 {
        self.answer.clear();
        loop {
            let read = self.stream.read_buf(&mut self.answer).await.unwrap();
            let text = String::from_utf8_lossy(&self.answer);
            assert_ne!(read, 0, "the daemon has closed behind {text}");
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().unwrap())
            });
            if body.len() >= length.unwrap_or_else(|| panic!("no length: {head}")) {
                return head.split(' ').nth(1).unwrap().parse().unwrap();
            }
        }
    }
}
