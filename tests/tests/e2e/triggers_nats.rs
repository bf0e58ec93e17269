//! Messages of NATS are calls: with a real server, in a build that has the feature.

use std::collections::BTreeSet;

use roost_tests::{Config, Host, NatsServer, eventually};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::triggers::{Seen, deploy, eventually_seen, recorder, seen};

/// A connection that speaks the protocol: text, line by line.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    /// Of the server on this port of loopback.
    pub(crate) async fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let mut client = Self(BufReader::new(stream));
        client.line("INFO ").await;
        client.send("CONNECT {\"verbose\":false,\"headers\":true}\r\n").await;
        client
    }

    async fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).await.unwrap();
    }

    /// The next line that begins so.
    async fn line(&mut self, beginning: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).await.unwrap() > 0, "the server has ended");
            if line.starts_with(beginning) {
                return line;
            }
        }
    }

    /// Publishes, and returns when the server has it.
    async fn publish(&mut self, subject: &str, body: &str) {
        self.send(&format!("PUB {subject} {}\r\n{body}\r\nPING\r\n", body.len())).await;
        self.line("PONG").await;
    }

    /// Publishes to a stream, and returns when that has it; or asks the server something.
    async fn request(&mut self, subject: &str, body: &str) -> String {
        let answer = self.ask(subject, body).await;
        assert!(!answer.contains("\"error\""), "{answer}");
        answer
    }

    /// As [`request`](Self::request), whatever the answer is. Nothing if nobody is there to give one.
    pub(crate) async fn ask(&mut self, subject: &str, body: &str) -> String {
        let publish = format!("PUB {subject} answer {}\r\n{body}\r\n", body.len());
        self.send(&format!("SUB answer 1\r\nUNSUB 1 1\r\n{publish}")).await;
        self.line("MSG answer ").await;
        let mut answer = String::new();
        self.0.read_line(&mut answer).await.unwrap();
        answer
    }
}

async fn with_server() -> (NatsServer, Host) {
    let server = NatsServer::start().await;
    let triggers = format!("[triggers.nats.local]\nurl = '{}'\n", server.url());
    let host = Host::start_with(Config { triggers, ..Config::default() }).await;
    host.import(&recorder(), "recorder:1").await;
    (server, host)
}

#[tokio::test]
async fn messages_of_a_subject_are_calls_and_hosts_share_them() {
    let (server, host) = with_server().await;
    deploy(&host, "orders", &json!({ "topic": "nats:orders.*" })).await;
    let mut client = Client::connect(server.port()).await;
    eventually("a first message", || async {
        let mut client = Client::connect(server.port()).await;
        client.publish("orders.first", "hello?").await;
        seen(&host, "orders").await.first().cloned()
    })
    .await;
    client.publish("orders.new", "one").await;
    let one = eventually_seen(&host, "orders", "a message", |seen| {
        seen.iter().find(|seen| seen.body == "one").cloned()
    })
    .await;
    let expected = Seen {
        connector: "nats-connector".into(),
        topic: "orders.new".into(),
        about: String::new(),
        body: "one".into(),
    };
    assert_eq!(one, expected);
}

#[tokio::test]
async fn what_a_stream_holds_comes_even_if_it_was_published_while_the_daemon_or_the_server_was_down() {
    let (mut server, mut host) = with_server().await;
    let mut client = Client::connect(server.port()).await;
    let stream = json!({ "name": "EVENTS", "subjects": ["events.>"], "storage": "file" });
    client.request("$JS.API.STREAM.CREATE.EVENTS", &stream.to_string()).await;
    deploy(&host, "keeper", &json!({ "topic": "nats.local:events.>" })).await;
    eventually("a first message", || async {
        let mut client = Client::connect(server.port()).await;
        client.request("events.a", "hello?").await;
        seen(&host, "keeper").await.first().cloned()
    })
    .await;
    host.kill9();
    for number in 0..50 {
        client.request("events.a", &format!("m{number}")).await;
    }
    host.start_daemon().await;
    let has = |numbers: std::ops::Range<u32>| {
        let host = &host;
        move || {
            let numbers = numbers.clone();
            async move {
                let seen: BTreeSet<String> =
                    seen(host, "keeper").await.into_iter().map(|seen| seen.body).collect();
                numbers.into_iter().all(|number| seen.contains(&format!("m{number}"))).then_some(())
            }
        }
    };
    eventually("what came while it was down", has(0..50)).await;
    server.end().await;
    server.start_again().await;
    let mut client = Client::connect(server.port()).await;
    for number in 50..100 {
        client.request("events.a", &format!("m{number}")).await;
    }
    eventually("what came after the server", has(50..100)).await;
}
