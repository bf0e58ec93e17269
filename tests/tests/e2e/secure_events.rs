//! A connection in TLS that the daemon holds: it cannot be given to the next one, and its client comes back to it.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{SinkExt, StreamExt};
use hyper::{Method, StatusCode};
use roost_tests::{Config, ECHO, Host, Message, PATIENCE, body_of, eventually};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::{WebSocketStream, client_async};

const NAME: &str = "h.example";

/// Writes a certificate and its key, and gives what a client needs that trusts it.
fn certificate(directory: &Path) -> Arc<ClientConfig> {
    let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).unwrap();
    fs::write(directory.join("cert.pem"), made.cert.pem()).unwrap();
    let key = directory.join("key.pem");
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(key, Permissions::from_mode(0o600)).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
}

/// A client that counts what it hears, as one does that may come back.
struct Client {
    socket: WebSocketStream<TlsStream<TcpStream>>,
    token: String,
    heard: Vec<String>,
}

/// What a client hears.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Text(String),
    Closed(u16, String),
}

impl Client {
    /// Connects, and gives the first word as well; `None` if nobody lets it in now.
    async fn connect(port: u16, trust: &Arc<ClientConfig>, query: &str) -> Option<(Self, Value)> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let name = ServerName::try_from(NAME).unwrap();
        let stream = TlsConnector::from(Arc::clone(trust)).connect(name, stream).await.ok()?;
        let url = format!("wss://{NAME}/function/held?{query}");
        let (socket, _) = client_async(url, stream).await.ok()?;
        let mut client = Self { socket, token: String::new(), heard: Vec::new() };
        let Heard::Text(word) = client.next().await else { panic!("expected a token") };
        let word: Value = serde_json::from_str(&word).unwrap();
        client.token = word["token"].as_str().unwrap().to_owned();
        Some((client, word))
    }

    async fn next(&mut self) -> Heard {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("something to hear");
            return match next {
                Some(Ok(Message::Text(text))) => Heard::Text(text.to_string()),
                Some(Ok(Message::Close(Some(frame)))) => {
                    Heard::Closed(frame.code.into(), frame.reason.to_string())
                }
                Some(Ok(Message::Ping(_))) => continue,
                other => panic!("ended without a word: {other:?}"),
            };
        }
    }

    /// Hears so many texts.
    async fn hears(&mut self, count: usize) {
        for _ in 0..count {
            match self.next().await {
                Heard::Text(text) => self.heard.push(text),
                closed @ Heard::Closed(..) => panic!("{closed:?}"),
            }
        }
    }

    /// Hears texts until it is closed, or until there is this one.
    async fn hears_until(&mut self, last: Option<&str>) -> Option<(u16, String)> {
        loop {
            match self.next().await {
                Heard::Text(text) => {
                    let is_last = last == Some(&text);
                    self.heard.push(text);
                    if is_last {
                        return None;
                    }
                }
                Heard::Closed(code, reason) => return Some((code, reason)),
            }
        }
    }
}

/// Says numbers to the group until it is told to stop: all that it said, each with whether somebody was told that it waits
/// for the client.
async fn speak(host: &Host, stop: &AtomicBool) -> Vec<(String, bool)> {
    let mut said = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let text = said.len().to_string();
        let request =
            host.api.request(&Method::POST, "/system/groups/room").body(body_of(text.clone())).unwrap();
        // Between two daemons there may be no answer.
        let answer = host.api.try_send(request).await;
        let queued =
            answer.is_ok_and(|answer| answer.status == StatusCode::OK && answer.json()["queued"] == 1);
        said.push((text, queued));
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_in_tls_is_told_of_the_restart_and_comes_back_to_all_that_was_said_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    let trust = certificate(dir);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let tls = format!(
        "listen = '127.0.0.1:{port}'\ncertificates = [{{ cert = '{0}/cert.pem', key = '{0}/key.pem' }}]",
        dir.display()
    );
    let host = Host::with_echo(Config { tls, supervised: true, ..Config::default() }).await;
    let annotations = json!({ "roost.websocket": "events", "roost.websocket.resume": "1m" });
    host.deployed(&json!({ "service": "held", "image": ECHO, "annotations": annotations })).await;
    let (mut client, word) = Client::connect(port, &trust, "resume").await.expect("to be let in");
    assert_eq!(word["resumed"], false);
    let list = host.api.get("/system/connections?function=held").await.json();
    let id = list["connections"][0]["id"].as_str().unwrap().to_owned();
    let joined =
        host.api.send(Method::PUT, &format!("/system/groups/room/connections/{id}"), "").await.status;
    assert_eq!(joined, StatusCode::NO_CONTENT);

    let stop = AtomicBool::new(false);
    let restarts = async {
        for _ in 0..2 {
            client.hears(20).await;
            let (closed, ()) = tokio::join!(client.hears_until(None), host.hand_over());
            assert_eq!(closed, Some((1012, "service restart".to_owned())));
            let before = std::mem::take(&mut client.heard);
            let query = format!("resume={}&seen={}", client.token, before.len());
            let (back, word) =
                eventually("a way back", || async { Client::connect(port, &trust, &query).await }).await;
            assert_eq!((&word["resumed"], &word["whole"]), (&json!(true), &json!(true)), "{word}");
            client = back;
            client.heard = before;
        }
        client.hears(20).await;
        stop.store(true, Ordering::Relaxed);
    };
    let (said, ()) = tokio::join!(speak(&host, &stop), restarts);
    let sent = host.api.post("/system/groups/room", "the last").await;
    assert_eq!(sent.json()["queued"], 1, "the connection is the one that it was, and in its group");
    assert_eq!(client.hears_until(Some("the last")).await, None);

    // All that was to be said came, once and in its order; of what had no answer some may have come too.
    let mut heard = client.heard.iter();
    let queued = said.iter().filter(|(_, queued)| *queued).count();
    assert!(queued >= 60, "{queued} of {}", said.len());
    let mut next = heard.next();
    for (text, queued) in &said {
        let came = next.is_some_and(|heard| heard == text);
        assert!(came || !queued, "{text} is lost: {:?}", client.heard);
        if came {
            next = heard.next();
        }
    }
    assert_eq!((next.map(String::as_str), heard.next()), (Some("the last"), None), "and nothing twice");
    client.socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(client.next().await, Heard::Text("hello".to_owned()));
    let now = host.api.get("/system/connections?function=held").await.json();
    assert_eq!(now["connections"][0]["id"], json!(id));
}
