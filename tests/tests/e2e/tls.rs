//! TLS, and functions with hosts of their own, as clients see them: curl, over HTTP/1.1 and HTTP/2.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use hyper::StatusCode;
use roost_acme_authority::Authority;
use roost_tests::{Config, ECHO, Host, eventually};
use serde_json::json;

/// Writes a new certificate for `name`, and its key.
fn make(directory: &Path, name: &str) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    fs::write(directory.join("cert.pem"), made.cert.pem()).unwrap();
    let key = directory.join("key.pem");
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(key, Permissions::from_mode(0o600)).unwrap();
}

/// What curl prints; `None` when it fails.
fn curl(args: &[&str]) -> Option<String> {
    let mut command = Command::new("curl");
    let output = command.args(["--silent", "--show-error", "--max-time", "20"]).args(args).output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

#[tokio::test]
async fn functions_answer_in_tls_and_certificates_that_are_right_are_taken_up_when_they_change() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    make(dir, "h.example");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let tls = format!(
        "listen = '127.0.0.1:{port}'\ncertificates = [{{ cert = '{0}/cert.pem', key = '{0}/key.pem' }}]",
        dir.display()
    );
    let host = Host::with_echo(Config { tls, ..Config::default() }).await;
    host.deploy("echo", ECHO).await;
    let url = format!("https://h.example:{port}/function/echo/headers");
    let resolve = format!("h.example:{port}:127.0.0.1");
    let ask = |version: &str| {
        let trusted = dir.join("trusted.pem");
        let args = [
            "--cacert",
            trusted.to_str().unwrap(),
            "--resolve",
            &resolve,
            version,
            "-w",
            "%{http_version}",
            &url,
        ];
        curl(&args)
    };
    fs::copy(dir.join("cert.pem"), dir.join("trusted.pem")).unwrap();
    for (version, number) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let text = ask(version).unwrap();
        assert!(text.contains("x-forwarded-proto: https") && text.ends_with(number), "{text}");
    }

    // What is wrong changes nothing, and the log says why.
    let log = || fs::read_to_string(host.daemon_log()).unwrap();
    fs::set_permissions(dir.join("key.pem"), Permissions::from_mode(0o644)).unwrap();
    eventually("the word of a key that is no secret", || async { log().contains("chmod 600").then_some(()) })
        .await;
    fs::set_permissions(dir.join("key.pem"), Permissions::from_mode(0o600)).unwrap();
    fs::write(dir.join("cert.pem"), "none").unwrap();
    eventually("the word of a certificate that is none", || async {
        log().contains("expected certificates in PEM").then_some(())
    })
    .await;
    assert!(ask("--http2").is_some(), "the old one is shown");

    make(dir, "h.example");
    fs::copy(dir.join("cert.pem"), dir.join("trusted.pem")).unwrap();
    eventually("the new certificate", || async { ask("--http2") }).await;
}

/// What has to hold of a name that `authority` has given a certificate for: clients that trust it are content.
async fn is_served(port: u16, authority: &Path, name: &str) {
    let (url, resolve) = (format!("https://{name}:{port}/function/echo"), format!("{name}:{port}:127.0.0.1"));
    let args = ["--cacert", authority.to_str().unwrap(), "--resolve", &resolve, "-d", "hi", &url];
    let answer = eventually(&format!("a certificate for {name}"), || async { curl(&args) }).await;
    assert_eq!(answer, "hi");
}

#[tokio::test]
async fn a_host_gets_its_certificates_from_an_authority_by_either_way_and_keeps_them() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // It is told below where to look by HTTP.
    let authority = Authority::start(0, port).await;
    let (ca, root) = (dir.join("ca.pem"), dir.join("root.pem"));
    fs::write(&ca, authority.ca()).unwrap();
    fs::write(&root, authority.root_pem()).unwrap();
    let settings = |ways: &str, domains: &str| {
        format!(
            "listen = '127.0.0.1:{port}'\n[tls.acme]\nagree_to_terms = true\ncontact = ['ops@h.example']\n\
             challenges = {ways}\ndomains = {domains}\ndirectory = '{}'\nca = '{}'",
            authority.directory(),
            ca.display()
        )
    };
    let tls = settings("['http-01']", "[]");
    let mut host = Host::with_echo(Config { tls, ..Config::default() }).await;
    authority.set_http_port(host.port());
    let deployment =
        json!({ "service": "echo", "image": ECHO, "annotations": { "roost.domain": "chat.h.example" } });
    host.deployed(&deployment).await;
    let resolve = format!("chat.h.example:{port}:127.0.0.1");
    let at_root = format!("https://chat.h.example:{port}/headers");
    let ask = || curl(&["--cacert", root.to_str().unwrap(), "--resolve", &resolve, &at_root]);
    let answer = eventually("a certificate for the function's domain", || async { ask() }).await;
    assert!(answer.contains("x-forwarded-proto: https"), "{answer}");
    assert_eq!(authority.seen().valid, [("chat.h.example".to_owned(), "http-01")]);

    // The next daemon has it, and asks for what else there is to be.
    host.config.tls = settings("['tls-alpn-01']", "['h.example']");
    host.restart().await;
    host.ready("echo").await;
    is_served(port, &root, "h.example").await;
    assert!(ask().is_some());
    let seen = authority.seen();
    let names = [("chat.h.example".to_owned(), "http-01"), ("h.example".to_owned(), "tls-alpn-01")];
    assert_eq!((&seen.valid[..], seen.accounts, seen.invalid), (&names[..], 1, 0));
    assert_eq!(seen.contact, ["mailto:ops@h.example"]);

    // One that nobody answers for any more: what is there needs no authority.
    authority.set_down(true);
    host.restart().await;
    host.ready("echo").await;
    is_served(port, &root, "h.example").await;
    assert_eq!(authority.seen().orders, 2);
}

#[tokio::test]
async fn a_function_has_all_of_its_domain_and_no_other_can_take_it() {
    let mut host = Host::with_echo(Config::default()).await;
    let chat = |image: &str, domain: &str| json!({ "service": "chat", "image": image, "annotations": { "roost.domain": domain } });
    host.deployed(&chat(ECHO, "chat.example.org, Talk.example.org")).await;
    let at = |name: &str, path: &str, port: u16| {
        let url = format!("http://{name}:{port}{path}");
        curl(&["--resolve", &format!("{name}:{port}:127.0.0.1"), &url]).unwrap()
    };
    for name in ["chat.example.org", "talk.example.org"] {
        let text = at(name, "/headers", host.port());
        assert!(text.starts_with("GET /headers HTTP/1.1"), "{text}");
        assert!(at(name, "/", host.port()).starts_with("This is echo"));
    }
    let echoed = curl(&[
        "--resolve",
        &format!("chat.example.org:{}:127.0.0.1", host.port()),
        "-d",
        "hi",
        &format!("http://chat.example.org:{}/system/functions", host.port()),
    ]);
    assert_eq!(echoed.as_deref(), Some("hi"), "the API is not there");
    let other =
        json!({ "service": "other", "image": ECHO, "annotations": { "roost.domain": "chat.example.org" } });
    let refused = host.api.post("/system/functions", other.to_string()).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let text = refused.text();
    let words = ["chat.example.org", "chat.openfaas-fn", "other.openfaas-fn"];
    assert!(words.iter().all(|word| text.contains(word)), "{text}");

    host.restart().await;
    host.ready("chat").await;
    assert!(at("chat.example.org", "/", host.port()).starts_with("This is echo"));
    // A deployment counts as soon as it is accepted; what it no longer names is anybody's.
    host.put_function(&chat(ECHO, "talk.example.org")).await;
    host.post_function(&other).await;
    host.ready("other").await;
    eventually("the new owner", || async {
        at("chat.example.org", "/", host.port()).starts_with("This is echo").then_some(())
    })
    .await;
    host.remove("other").await;
    let nobody = curl(&[
        "--resolve",
        &format!("chat.example.org:{}:127.0.0.1", host.port()),
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        &format!("http://chat.example.org:{}/headers", host.port()),
    ]);
    assert_eq!(nobody.unwrap(), "404");
}
