//! Tokens of an issuer that is somewhere else, and WebSockets for as long as they count.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use hyper::{Method, StatusCode};
use roost_tests::{Answer, Api, Config, ECHO, Host, Socket, body_of, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// An issuer with an address of its own, which answers there while it is up.
struct Issuer {
    port: u16,
    keys: Arc<Mutex<String>>,
    up: Option<JoinHandle<()>>,
    /// The private keys.
    dir: tempfile::TempDir,
}

impl Issuer {
    /// One that is down.
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        Self { port, keys: Arc::default(), up: None, dir: tempfile::tempdir().unwrap() }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/jwks", self.port)
    }

    fn key(&self, id: &str) -> PathBuf {
        let path = self.dir.path().join(id);
        if !path.exists() {
            fs::write(&path, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        }
        path
    }

    /// Comes up with these keys.
    async fn start(&mut self, host: &Host, ids: &[&str]) {
        let mut all = Vec::new();
        for id in ids {
            let key = self.key(id);
            let args = ["token", "--jwks", "--kid", id, "--key", key.to_str().unwrap()];
            let printed = roost(host, &args).await;
            let set: Value = serde_json::from_str(&printed).unwrap();
            all.push(set["keys"][0].clone());
        }
        *self.keys.lock().unwrap() = json!({ "keys": all }).to_string();
        if self.up.is_some() {
            return;
        }
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        let keys = Arc::clone(&self.keys);
        self.up = Some(tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    assert!(socket.read_buf(&mut request).await.unwrap() > 0, "a request ends");
                }
                let keys = keys.lock().unwrap().clone();
                let head =
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", keys.len());
                socket.write_all((head + &keys).as_bytes()).await.unwrap();
            }
        }));
    }

    async fn stop(&mut self) {
        let up = self.up.take().unwrap();
        up.abort();
        assert!(up.await.unwrap_err().is_cancelled());
    }

    /// A token that says more than who made it.
    async fn token(&self, host: &Host, id: &str, more: &[&str]) -> String {
        let key = self.key(id);
        let args = ["token", "--kid", id, "--key", key.to_str().unwrap(), "--iss", "https://id.example"];
        roost(host, &[&args[..], more].concat()).await
    }
}

/// What `roost` prints, which has to succeed.
async fn roost(host: &Host, args: &[&str]) -> String {
    let output = host.roost(args).await;
    assert_eq!(output.code, Some(0), "{args:?}: {output:?}");
    output.stdout.trim().to_owned()
}

async fn call(host: &Host, token: &str) -> Answer {
    let request = host.api.request(&Method::POST, "/function/echo");
    let request = request.header("authorization", format!("Bearer {token}"));
    host.api.try_send(request.body(body_of("hi")).unwrap()).await.unwrap()
}

async fn host_of(issuer: &Issuer, annotations: Value) -> Host {
    let jwt = format!(
        "keys_url = {:?}\nrefresh = \"10s\"\nissuer = \"https://id.example\"\nleeway = \"0s\"",
        issuer.url()
    );
    let host = Host::with_echo(Config { jwt, ..Config::default() }).await;
    host.deployed(&json!({ "service": "echo", "image": ECHO, "annotations": annotations })).await;
    host
}

#[tokio::test]
async fn keys_of_an_issuer_count_while_it_is_down_and_over_a_restart_and_new_ones_when_it_is_back() {
    let mut issuer = Issuer::new().await;
    let annotations = json!({ "roost.auth": "jwt", "roost.auth.claims": "role=editor" });
    let mut host = host_of(&issuer, annotations).await;
    let (role, other) = (["--claim", "role=reader", "--claim", "role=editor"], ["--claim", "role=reader"]);
    let first = issuer.token(&host, "1", &role).await;
    let answer = call(&host, &first).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.text());
    assert!(answer.text().contains("the keys of its issuer could not be fetched yet"), "{}", answer.text());

    issuer.start(&host, &["1"]).await;
    eventually("the keys", || async { (call(&host, &first).await.status == StatusCode::OK).then_some(()) })
        .await;
    let reader = issuer.token(&host, "1", &other).await;
    let answer = call(&host, &reader).await;
    assert_eq!(
        (answer.status, answer.text()),
        (StatusCode::FORBIDDEN, "function echo.openfaas-fn asks for a token that says role=editor\n")
    );
    assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"roost\", error=\"insufficient_scope\"");
    // The same key, of which the issuer says nothing, and another issuer with a key of its own.
    for forged in [issuer.token(&host, "2", &role).await, format!("{}x", &first[..first.len() - 1])] {
        let answer = call(&host, &forged).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"roost\", error=\"invalid_token\"");
    }

    issuer.stop().await;
    host.restart().await;
    assert_eq!(call(&host, &first).await.status, StatusCode::OK, "what was kept on disk");
    eventually("word of an issuer that is down", || async {
        let log = fs::read_to_string(host.daemon_log()).unwrap();
        log.contains("the keys of tokens cannot be fetched, 1 stay").then_some(())
    })
    .await;
    assert_eq!(call(&host, &first).await.status, StatusCode::OK);

    let second = issuer.token(&host, "2", &role).await;
    issuer.start(&host, &["1", "2"]).await;
    eventually("the new key", || async {
        (call(&host, &second).await.status == StatusCode::OK).then_some(())
    })
    .await;
    let page = Api::new(host.metrics_port(), None).get("/metrics").await;
    for sample in [
        format!("roost_jwt_keys{{url=\"{}\"}} 2\n", issuer.url()),
        format!("roost_jwt_fetches_total{{url=\"{}\",result=\"failed\"}} ", issuer.url()),
    ] {
        assert!(page.text().contains(&sample), "{sample} in {}", page.text());
    }
    let log = fs::read_to_string(host.daemon_log()).unwrap();
    for token in [&first, &second] {
        assert!(!log.contains(token.as_str()));
    }
}

#[tokio::test]
async fn a_websocket_lasts_as_long_as_its_token_and_one_that_is_held_as_the_next_one() {
    let mut issuer = Issuer::new().await;
    let mut annotations = json!({ "roost.auth": "jwt", "roost.websocket": "events" });
    let host = host_of(&issuer, annotations.clone()).await;
    issuer.start(&host, &["1"]).await;
    let short = async || issuer.token(&host, "1", &["--sub", "ada", "--ttl", "4s"]).await;
    eventually("the keys", || async {
        (call(&host, &short().await).await.status == StatusCode::OK).then_some(())
    })
    .await;
    for wrong in ["", "x.y.z"] {
        let refused = Socket::try_open(&host, &format!("/function/echo?access_token={wrong}"), &[]).await;
        assert_eq!(refused.unwrap_err(), StatusCode::UNAUTHORIZED);
    }
    let token = short().await;
    let protocols = format!("bearer, {token}");
    let mut ends = Socket::open(&host, &format!("/function/echo?access_token={token}")).await;
    let mut stays =
        Socket::try_open(&host, "/function/echo", &[("sec-websocket-protocol", &protocols)]).await.unwrap();
    assert_eq!(stays.header("sec-websocket-protocol"), "bearer");
    let long = issuer.token(&host, "1", &["--sub", "ada", "--ttl", "1h"]).await;
    stays.says(&json!({ "type": "auth", "token": long }).to_string()).await;
    let answer = stays.next().await.unwrap().unwrap().into_text().unwrap();
    assert!(answer.starts_with(r#"{"type":"auth","ok":true,"until":"#), "{answer}");
    ends.echoes("one").await;
    assert_eq!(ends.closed().await, (1008, "token expired".to_owned()));
    stays.echoes("two").await;
    stays.leave().await;

    // Through to the function, which sees the token in its header alone.
    annotations["roost.websocket"] = json!("proxy");
    annotations["roost.auth.grace"] = json!("1s");
    host.put_function(&json!({ "service": "echo", "image": ECHO, "annotations": annotations })).await;
    host.ready("echo").await;
    let mut ends = Socket::open(&host, &format!("/function/echo?access_token={}", short().await)).await;
    ends.echoes("one").await;
    assert_eq!(ends.closed().await, (1008, "token expired".to_owned()));
}
