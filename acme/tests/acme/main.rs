//! Certificates from an authority, and what the proxy shows its clients of them, over real sockets.

#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Response, StatusCode};
use roost_acme::{Challenge, Keeper, Keeping, Pace, Settings, placeholder};
use roost_acme_authority::{Authority, shake};
use roost_proxy::function::FunctionKey;
use roost_proxy::tls::Tls;
use roost_proxy::{
    Answering, Challenges, Deferred, Denied, Fallback, Guard, Intake, Judgement, ResponseBody, Routes,
    Server, Soon, Upstream, UpstreamLimits,
};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

/// How long anything may take before a test gives up. Never waited for when all is well.
const DEADLINE: Duration = Duration::from_secs(60);

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future).await.expect("nothing happened")
}

struct Nobody;

impl Guard for Nobody {
    fn is_replica(&self, _: std::net::IpAddr) -> bool {
        false
    }

    fn authenticate<'a>(&'a self, _: &'a HeaderMap, _: std::net::IpAddr) -> Judgement<'a> {
        Box::pin(std::future::ready(Err(Denied::Credentials)))
    }

    fn user(&self, _: &HeaderMap) -> Option<String> {
        None
    }
}

impl Intake for Nobody {
    fn accept(&self, _: Deferred) -> Answering<'_> {
        Box::pin(std::future::ready(Response::new(ResponseBody::empty())))
    }

    fn functions_of<'a>(&'a self, _: &'a str) -> Soon<'a, Result<Vec<FunctionKey>, roost_proxy::Error>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn cancel<'a>(&'a self, _: &'a str, _: Vec<FunctionKey>) -> Soon<'a, Result<bool, roost_proxy::Error>> {
        Box::pin(std::future::ready(Ok(false)))
    }

    fn result<'a>(
        &'a self,
        _: &'a str,
        _: Vec<FunctionKey>,
    ) -> Soon<'a, Result<Option<Response<ResponseBody>>, roost_proxy::Error>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn answered(&self, _: &http::Method, _: StatusCode, _: Duration) {}
}

/// A proxy with a plain port and one for TLS, and an authority that looks there.
struct Stage {
    routes: Routes,
    challenges: Challenges,
    tls: Tls,
    http_port: u16,
    tls_port: u16,
    authority: Authority,
    directory: tempfile::TempDir,
}

/// A keeper at work. It ends with this.
struct Running {
    keeping: Keeping,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Stage {
    async fn set() -> Self {
        // As the daemon does it; the second test finds it done.
        rustls::crypto::ring::default_provider().install_default().ok();
        let (routes, challenges) = (Routes::new(), Challenges::default());
        let fallback: Fallback =
            Arc::new(|_, _| Box::pin(std::future::ready(Response::new(ResponseBody::full("fallback")))));
        let settings = roost_proxy::Settings { challenges: challenges.clone(), ..Default::default() };
        let server = Server::new(settings, routes.clone(), fallback, Arc::new(Nobody), Arc::new(Nobody));
        let tls = Tls::answering(challenges.clone(), &placeholder().unwrap(), &[]).unwrap();
        let [plain, secure] =
            [TcpListener::bind("127.0.0.1:0").await, TcpListener::bind("127.0.0.1:0").await];
        let (plain, secure) = (plain.unwrap(), secure.unwrap());
        let (http_port, tls_port) = (plain.local_addr().unwrap().port(), secure.local_addr().unwrap().port());
        let (one, other, shown) = (server.clone(), server, tls.clone());
        tokio::spawn(async move { one.serve(plain).await });
        tokio::spawn(async move { other.serve_tls(secure, shown).await });
        let authority = Authority::start(http_port, tls_port).await;
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), authority.ca()).unwrap();
        Self { routes, challenges, tls, http_port, tls_port, authority, directory }
    }

    fn settings(&self, domains: &[&str], challenges: &[Challenge]) -> Settings {
        Settings {
            directory: self.authority.directory(),
            contact: vec!["mailto:ops@h.example".to_owned()],
            domains: domains.iter().map(ToString::to_string).collect(),
            function_domains: true,
            challenges: challenges.to_vec(),
            ca: Some(self.directory.path().join("ca.pem")),
            directory_path: self.directory.path().join("acme"),
            pace: Pace { first: Duration::from_millis(10), most: Duration::from_millis(50) },
        }
    }

    /// Keeps, and shows what it has.
    fn run(&self, settings: Settings) -> Running {
        let keeper = Keeper::open(settings).unwrap();
        let keeping = keeper.keeping();
        let (tls, mut held) = (self.tls.clone(), keeping.held.clone());
        let showing = tokio::spawn(async move {
            loop {
                let certificates: Vec<_> = held.borrow_and_update().values().cloned().collect();
                if let Some((first, others)) = certificates.split_first() {
                    tls.set(first, others).unwrap();
                }
                if held.changed().await.is_err() {
                    return;
                }
            }
        });
        let keeping_on = tokio::spawn(
            keeper.run(self.routes.clone(), self.challenges.clone(), |name| name == "has.example"),
        );
        Running { keeping, tasks: [showing, keeping_on] }
    }

    /// The certificate that a client who trusts the authority is shown, for the name that it asks for.
    async fn shown(&self, name: &'static str) -> std::io::Result<CertificateDer<'static>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.root().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(("127.0.0.1", self.tls_port)).await.unwrap();
        let name = ServerName::try_from(name).unwrap();
        let stream = within(TlsConnector::from(Arc::new(config)).connect(name, stream)).await?;
        Ok(stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned())
    }

    /// Waits until such a client is content.
    async fn trusted(&self, name: &'static str) -> CertificateDer<'static> {
        within(async {
            loop {
                if let Ok(certificate) = self.shown(name).await {
                    return certificate;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }

    async fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http_port)).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: any.example\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within(stream.read_to_string(&mut answer)).await.unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }
}

impl Running {
    async fn holds(&self, names: &[&str]) {
        let mut held = self.keeping.held.clone();
        within(held.wait_for(|held| held.keys().eq(names))).await.unwrap();
    }

    async fn failures(&self, count: u64) {
        within(async {
            while self.keeping.figures.failed() < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
}

/// All files below, with what may be done with them.
fn files(path: &Path) -> Vec<(String, u32)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        let mode = path.metadata().unwrap().permissions().mode() & 0o777;
        found.push((path.file_name().unwrap().to_str().unwrap().to_owned(), mode));
        if path.is_dir() {
            found.extend(files(&path));
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_name_has_a_certificate_that_clients_trust_by_either_way_and_it_outlives_a_restart() {
    for (way, kind) in [(Challenge::TlsAlpn01, "tls-alpn-01"), (Challenge::Http01, "http-01")] {
        let stage = Stage::set().await;
        // Until then there is something to talk to, which nobody trusts.
        assert!(stage.shown("h.example").await.unwrap_err().to_string().contains("UnknownIssuer"));
        let running = stage.run(stage.settings(&["h.example", "has.example"], &[way]));
        running.holds(&["h.example"]).await;
        let certificate = stage.trusted("h.example").await;
        let seen = stage.authority.seen();
        assert_eq!(seen.valid, [("h.example".to_owned(), kind)]);
        assert_eq!((seen.accounts, seen.orders, seen.invalid), (1, 1, 0));
        assert!(seen.refused_nonces > 0, "the authority has thrown away good nonces");
        assert_eq!(seen.contact, ["mailto:ops@h.example"]);
        let files = files(&stage.directory.path().join("acme"));
        let secret = |name: &str| files.contains(&(name.to_owned(), 0o600));
        assert!(secret("account.json") && secret("h.example.pem"), "{files:?}");
        assert!(files.iter().all(|(_, mode)| mode & 0o077 == 0), "{files:?}");
        assert_eq!(running.keeping.expiries.borrow().len(), 1);
        drop(running);
        // Another daemon: what there is needs nobody else, not even the authority.
        stage.authority.set_down(true);
        let running = stage.run(stage.settings(&["h.example"], &[way]));
        running.holds(&["h.example"]).await;
        assert_eq!(stage.trusted("h.example").await, certificate);
        // A second name is ordered by the account that there is.
        stage.authority.set_down(false);
        drop(running);
        let running = stage.run(stage.settings(&["h.example", "i.example"], &[way]));
        running.holds(&["h.example", "i.example"]).await;
        assert_eq!(stage.authority.seen().accounts, 1);
    }
}

#[tokio::test]
async fn the_host_of_a_function_has_one_as_soon_as_it_is_there_though_the_function_has_all_paths() {
    let stage = Stage::set().await;
    let running = stage.run(stage.settings(&[], &[Challenge::Http01]));
    let key = FunctionKey::from_route("f").unwrap();
    stage.routes.insert(Upstream::new(key.clone(), UpstreamLimits::default()));
    stage.routes.set_domains(&key, &["chat.example".to_owned()]);
    running.holds(&["chat.example"]).await;
    stage.trusted("chat.example").await;
    // One that goes is not taken away while it is good.
    stage.routes.set_domains(&key, &["talk.example".to_owned()]);
    running.holds(&["chat.example", "talk.example"]).await;
    assert_eq!(running.keeping.figures.issued(), 2);
}

#[tokio::test]
async fn what_fails_is_told_and_tried_again_the_other_way() {
    let stage = Stage::set().await;
    // Nobody listens there.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    stage.authority.set_http_port(closed);
    let running = stage.run(stage.settings(&["h.example"], &[Challenge::Http01, Challenge::TlsAlpn01]));
    running.holds(&["h.example"]).await;
    assert_eq!((running.keeping.figures.issued(), running.keeping.figures.failed()), (1, 1));
    assert_eq!(stage.authority.seen().valid, [("h.example".to_owned(), "tls-alpn-01")]);
    assert_eq!(stage.authority.seen().invalid, 1);
}

#[tokio::test]
async fn a_certificate_is_renewed_before_its_end_and_stays_while_that_fails() {
    let stage = Stage::set().await;
    stage.authority.give_for(Duration::from_secs(3));
    let running = stage.run(stage.settings(&["h.example"], &[Challenge::TlsAlpn01]));
    running.holds(&["h.example"]).await;
    let first = stage.trusted("h.example").await;
    stage.authority.give_for(Duration::from_secs(15));
    let mut expiries = running.keeping.expiries.clone();
    let until = expiries.borrow_and_update()["h.example"];
    within(expiries.wait_for(|expiries| expiries["h.example"] > until)).await.unwrap();
    within(async {
        while stage.trusted("h.example").await == first {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!((running.keeping.figures.issued(), running.keeping.figures.failed()), (2, 0));
    // From here on each try fails: it is shown for as long as it is good.
    stage.authority.set_down(true);
    running.failures(3).await;
    let second = stage.trusted("h.example").await;
    assert_eq!(running.keeping.held.borrow().len(), 1);
    stage.authority.set_down(false);
    within(async {
        while stage.trusted("h.example").await == second {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_account_that_the_authority_knows_no_more_is_made_anew() {
    let stage = Stage::set().await;
    let running = stage.run(stage.settings(&["h.example"], &[Challenge::TlsAlpn01]));
    running.holds(&["h.example"]).await;
    drop(running);
    stage.authority.forget_accounts();
    let running = stage.run(stage.settings(&["h.example", "i.example"], &[Challenge::TlsAlpn01]));
    running.holds(&["h.example", "i.example"]).await;
    assert_eq!((stage.authority.seen().accounts, running.keeping.figures.failed()), (2, 1));
}

#[tokio::test]
async fn nothing_is_answered_but_what_is_pending_and_others_are_served_meanwhile() {
    let stage = Stage::set().await;
    let path = "/.well-known/acme-challenge/token";
    assert_eq!(stage.get(path).await, "fallback");
    assert!(shake(stage.tls_port, "h.example").await.is_err());
    let pending = stage.challenges.answer_http("token", "text");
    assert_eq!(stage.get(path).await, "text");
    for other in [
        "/.well-known/acme-challenge/other",
        "/.well-known/acme-challenge/",
        "/token",
        "/.well-known/acme-challenge/token/x",
    ] {
        assert_eq!(stage.get(other).await, "fallback", "{other}");
    }
    // A name that is not pending is shown nothing, and all others are served as ever.
    assert!(shake(stage.tls_port, "h.example").await.is_err());
    assert!(stage.shown("h.example").await.unwrap_err().to_string().contains("UnknownIssuer"));
    drop(pending);
    assert_eq!(stage.get(path).await, "fallback");
}

#[tokio::test]
async fn what_is_damaged_on_disk_is_left_aside_and_ordered_anew() {
    let stage = Stage::set().await;
    let running = stage.run(stage.settings(&["h.example"], &[Challenge::TlsAlpn01]));
    running.holds(&["h.example"]).await;
    drop(running);
    let authority =
        std::fs::read_dir(stage.directory.path().join("acme")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(authority.join("certificates/h.example.pem"), "x").unwrap();
    let running = stage.run(stage.settings(&["h.example"], &[Challenge::TlsAlpn01]));
    running.holds(&["h.example"]).await;
    assert_eq!(running.keeping.figures.issued(), 1);
    // Without an account that can be read, nothing is ordered, and nothing is thrown away.
    drop(running);
    std::fs::write(authority.join("account.json"), "x").unwrap();
    let running = stage.run(stage.settings(&["h.example", "i.example"], &[Challenge::TlsAlpn01]));
    running.failures(1).await;
    running.holds(&["h.example"]).await;
    assert_eq!(std::fs::read(authority.join("account.json")).unwrap(), b"x");
}
