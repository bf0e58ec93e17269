//! JetStream: a server with a file store, and as much of its protocol as publishers and a worker need.

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use roost_tests::{eventually, free_port};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::disk::{Disk, Writes};
use crate::figures::Figures;
use crate::peers::Accepted;

/// The stream, and the subject that it keeps.
const STREAM: &str = "calls";
/// Where messages are delivered to the worker.
const DELIVERED: &str = "delivered";
/// How many messages the worker may have at once that it has not acknowledged.
const UNDER_WAY: u32 = 1_000;

/// A server. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Nats {
    server: Child,
    port: u16,
    /// Unmounted when nobody uses it any more.
    _disk: Disk,
}

impl Nats {
    pub(crate) async fn start(writes: Writes) -> Self {
        let (disk, port) = (Disk::mount(writes), free_port());
        let mut command = Command::new("nats-server");
        command.args(["--addr", "127.0.0.1", "--port", &port.to_string(), "--jetstream", "--store_dir"]);
        command.arg(disk.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let nats = Self { server: command.spawn().unwrap(), port, _disk: disk };
        eventually("nats-server", || async { TcpStream::connect(("127.0.0.1", port)).await.ok() }).await;
        let mut client = Client::open(port).await;
        let stream =
            json!({ "name": STREAM, "subjects": [STREAM], "storage": "file", "retention": "workqueue" });
        client.ask(&format!("$JS.API.STREAM.CREATE.{STREAM}"), &stream).await;
        let worker = json!({ "stream_name": STREAM, "config": {
            "durable_name": "worker", "deliver_subject": DELIVERED, "ack_policy": "explicit",
            "max_ack_pending": UNDER_WAY,
        } });
        client.ask(&format!("$JS.API.CONSUMER.DURABLE.CREATE.{STREAM}.worker"), &worker).await;
        nats
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.server.id()).unwrap()
    }

    pub(crate) async fn publisher(&self, body: &[u8]) -> Publisher {
        let mut client = Client::open(self.port).await;
        client.subscribe().await;
        let mut message = format!("PUB {STREAM} {} {}\r\n", client.inbox(), body.len()).into_bytes();
        message.extend([body, b"\r\n"].concat());
        Publisher { client, message }
    }

    /// Delivers so many messages, and waits until none is left.
    pub(crate) async fn drain(&self, messages: u64) {
        let mut worker = Client::open(self.port).await;
        worker.send(format!("SUB {DELIVERED} 2\r\n").as_bytes()).await;
        for _ in 0..messages {
            let (reply, _) = worker.next().await;
            worker.send(format!("PUB {reply} 4\r\n+ACK\r\n").as_bytes()).await;
        }
        let mut client = Client::open(self.port).await;
        loop {
            let info = client.ask(&format!("$JS.API.STREAM.INFO.{STREAM}"), &Value::Null).await;
            if info["state"]["messages"] == 0 {
                return;
            }
        }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.server.kill().expect("a child can be killed");
        self.server.wait().expect("a child can be waited for");
    }
}

/// One who publishes, and waits for each acknowledgement.
#[derive(Debug)]
pub(crate) struct Publisher {
    client: Client,
    message: Vec<u8>,
}

impl Publisher {
    pub(crate) async fn publish(mut self, until: Instant) -> Accepted {
        let (mut count, mut waits) = (0, Figures::default());
        while Instant::now() < until {
            let begun = Instant::now();
            self.client.send(&self.message).await;
            let (_, ack) = self.client.next().await;
            // What it does not take it answers with an error that stands first.
            assert!(ack.starts_with(b"{\"stream\":"), "{}", String::from_utf8_lossy(&ack));
            waits.add(begun.elapsed());
            count += 1;
        }
        Accepted { count, refused: 0, waits }
    }
}

/// A connection.
#[derive(Debug)]
struct Client {
    stream: BufReader<TcpStream>,
    port: u16,
}

impl Client {
    async fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Self { stream: BufReader::new(stream), port };
        assert!(client.line().await.starts_with("INFO "));
        client.send(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n").await;
        client
    }

    /// Where this connection is answered: no other has its address.
    fn inbox(&self) -> String {
        format!("inbox.{}.{}", self.port, self.stream.get_ref().local_addr().unwrap().port())
    }

    async fn subscribe(&mut self) {
        let subscription = format!("SUB {} 1\r\n", self.inbox());
        self.send(subscription.as_bytes()).await;
    }

    /// Asks the server's API. It has to do what it is asked for.
    async fn ask(&mut self, subject: &str, question: &Value) -> Value {
        self.subscribe().await;
        let question = if question.is_null() { String::new() } else { question.to_string() };
        let message = format!("PUB {subject} {} {}\r\n{question}\r\n", self.inbox(), question.len());
        self.send(message.as_bytes()).await;
        let (_, answer) = self.next().await;
        self.send(b"UNSUB 1\r\n").await;
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert!(answer["error"].is_null(), "{subject}: {answer}");
        answer
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).await.unwrap();
    }

    /// The next message: where it is to be answered, and what it says.
    async fn next(&mut self) -> (String, Vec<u8>) {
        loop {
            let line = self.line().await;
            let mut words = line.split_whitespace();
            match words.next() {
                // MSG subject subscription [reply] length
                Some("MSG") => {
                    let words: Vec<&str> = words.collect();
                    let length: usize = words.last().unwrap().parse().unwrap();
                    let mut message = vec![0; length + 2];
                    self.stream.read_exact(&mut message).await.unwrap();
                    message.truncate(length);
                    let reply = if words.len() == 4 { words[2] } else { "" };
                    return (reply.to_owned(), message);
                }
                Some("PING") => self.send(b"PONG\r\n").await,
                Some("INFO" | "PONG") => {}
                _ => panic!("nats-server said: {line}"),
            }
        }
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.stream.read_line(&mut line).await.unwrap(), 0, "nats-server has closed");
        line
    }
}
