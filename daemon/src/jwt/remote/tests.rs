use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::*;

const X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
const HOUR: Duration = Duration::from_hours(1);

fn keys(ids: &[&str]) -> Value {
    let key = |id: &&str| json!({ "kty": "OKP", "crv": "Ed25519", "kid": id, "x": X });
    json!({ "keys": ids.iter().map(key).collect::<Vec<_>>() })
}

/// An issuer that answers what it is told to, one request behind the other, each when it is let to.
struct Issuer {
    address: SocketAddr,
    answer: Mutex<String>,
    asked: AtomicUsize,
    turns: Semaphore,
}

impl Issuer {
    async fn start(answer: String) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            answer: Mutex::new(answer),
            asked: AtomicUsize::new(0),
            turns: Semaphore::new(0),
        });
        let here = Arc::clone(&issuer);
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                assert!(socket.read(&mut request).await.unwrap() > 0);
                here.asked.fetch_add(1, Relaxed);
                here.turns.acquire().await.unwrap().forget();
                let answer = here.answer.lock().unwrap().clone();
                // Whoever hangs up in the middle of it has read enough.
                socket.write_all(answer.as_bytes()).await.ok();
            }
        });
        issuer
    }

    fn says(&self, answer: String) {
        *self.answer.lock().unwrap() = answer;
    }

    fn lets(&self, answers: usize) {
        self.turns.add_permits(answers);
    }

    fn url(&self) -> Url {
        format!("http://{}/jwks", self.address).parse().unwrap()
    }

    fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }
}

fn ok(body: &impl ToString) -> String {
    let body = body.to_string();
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn open(url: Url, state: &Path) -> Arc<Remote> {
    open_for(url, state, HOUR)
}

fn open_for(url: Url, state: &Path, refresh: Duration) -> Arc<Remote> {
    // The process has one; a test has nobody who would have installed it.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    Remote::open(url, refresh, None, state).unwrap()
}

/// How many fetches are over.
async fn done(remote: &Remote, count: u64) {
    let mut state = remote.state.subscribe();
    timeout(Duration::from_secs(20), state.wait_for(|state| state.done >= count)).await.unwrap().unwrap();
}

#[tokio::test]
async fn however_many_ask_for_a_new_key_it_is_one_fetch_and_then_none_for_a_while() {
    let (state, issuer) = (tempfile::tempdir().unwrap(), Issuer::start(ok(&keys(&["a"]))).await);
    let remote = open(issuer.url(), state.path());
    assert!(remote.keys().is_none() && remote.lacks(None) && remote.lacks(Some("a")));
    let running = tokio::spawn(Arc::clone(&remote).run());
    // Those who come while the first one is under way wait for it.
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let remote = Arc::clone(&remote);
            tokio::spawn(async move { remote.refreshed().await })
        })
        .collect();
    while issuer.asked() == 0 {
        tokio::task::yield_now().await;
    }
    issuer.lets(1);
    for one in waiting {
        assert!(one.await.unwrap());
    }
    assert!(!remote.lacks(Some("a")) && remote.lacks(Some("b")) && !remote.lacks(None));
    issuer.says(ok(&keys(&["a", "b"])));
    issuer.lets(100);
    assert!(!remote.refreshed().await, "only just now");
    assert_eq!(issuer.asked(), 1);
    // Later.
    remote.state.send_modify(|state| state.began = state.began.map(|began| began - COOLDOWN));
    assert!(remote.refreshed().await && !remote.lacks(Some("b")));
    assert_eq!((issuer.asked(), remote.figures().keys, remote.figures().succeeded), (2, 2, 2));
    running.abort();
}

#[tokio::test]
async fn keys_are_fetched_again_when_they_are_old_and_an_issuer_that_is_down_is_tried_again() {
    let (state, issuer) = (tempfile::tempdir().unwrap(), Issuer::start(ok(&keys(&["a"]))).await);
    let remote = open_for(issuer.url(), state.path(), Duration::from_millis(20));
    issuer.lets(10_000);
    let running = tokio::spawn(Arc::clone(&remote).run());
    // Nobody asks: they are old soon.
    done(&remote, 2).await;
    issuer.says("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".into());
    // One may have been under way.
    let so_far = remote.state.borrow().done;
    done(&remote, so_far + 3).await;
    let figures = remote.figures();
    assert!(figures.keys == 1 && figures.failed >= 2, "old keys stay, and it is asked again: {figures:?}");
    issuer.says(ok(&keys(&["b"])));
    let so_far = remote.state.borrow().done;
    done(&remote, so_far + 2).await;
    assert!(!remote.lacks(Some("b")) && remote.lacks(Some("a")), "those that are gone are gone");
    running.abort();
}

#[tokio::test]
async fn what_is_no_set_of_keys_is_not_taken_for_one() {
    let (state, issuer) = (tempfile::tempdir().unwrap(), Issuer::start(ok(&keys(&["a"]))).await);
    let remote = open(issuer.url(), state.path());
    issuer.lets(100);
    remote.fetch().await.unwrap();
    let long = MAX_KEYS_TEXT + 1;
    for (answer, why) in [
        (ok(&"<html>"), "expected a JSON Web Key Set"),
        (ok(&json!({ "keys": [] })), "none of its keys is of use"),
        (ok(&json!({ "keys": [{ "kty": "oct", "k": "A".repeat(64) }] })), "none of its keys is of use"),
        ("HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n".into(), "it answered 404, expected 200"),
        ("HTTP/1.1 302 Go\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n".into(), "it answered 302"),
        (
            format!("HTTP/1.1 200 OK\r\ncontent-length: {long}\r\n\r\n{}", "x".repeat(long as usize)),
            "more than",
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".into(), ""),
    ] {
        issuer.says(answer);
        let told = remote.fetch().await.unwrap_err();
        assert!(told.contains(why), "{why} in {told}");
        assert!(!remote.lacks(Some("a")));
    }
    // A key that is broken, or a secret, does no harm to the others.
    let mut mixed = keys(&["b"]);
    let secret = json!({ "kty": "oct", "kid": "s", "k": "A".repeat(64) });
    mixed["keys"].as_array_mut().unwrap().extend([json!({ "kty": "RSA", "n": "?", "e": "AQAB" }), secret]);
    issuer.says(ok(&mixed));
    remote.fetch().await.unwrap();
    assert!(!remote.lacks(Some("b")) && remote.lacks(Some("s")));
}

#[tokio::test]
async fn a_restart_without_the_issuer_has_the_keys_of_before() {
    let (state, issuer) = (tempfile::tempdir().unwrap(), Issuer::start(ok(&keys(&["a"]))).await);
    issuer.lets(1);
    open(issuer.url(), state.path()).fetch().await.unwrap();
    let again = open(issuer.url(), state.path());
    assert!(!again.lacks(Some("a")) && again.figures().fetched_at > 0);
    // Those of another issuer are not its.
    let other = open("http://127.0.0.1:1/jwks".parse().unwrap(), state.path());
    assert!(other.keys().is_none());
    assert!(other.fetch().await.is_err());
    let [copy] = &fs::read_dir(state.path().join(DIRECTORY)).unwrap().collect::<Vec<_>>()[..] else {
        panic!("one copy")
    };
    fs::write(copy.as_ref().unwrap().path(), "{").unwrap();
    assert!(open(issuer.url(), state.path()).keys().is_none(), "what is broken there is fetched anew");
}
