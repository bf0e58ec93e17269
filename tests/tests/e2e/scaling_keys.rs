//! A replica for each key, and none for more keys than there may be.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use hyper::{Method, StatusCode};
use roost_tests::{Answer, Config, ECHO, Host, Image, Socket, body_of, eventually};
use serde_json::json;
use sha2::Sha256;

/// An echo with a replica for each key, two at most, that go when they were idle for so long.
async fn keyed(by: &str, idle: &str) -> Host {
    let host = Host::with_echo(Config::default()).await;
    let labels = json!({
        "com.openfaas.scale.max": "2",
        "com.openfaas.scale.zero": "true",
        "com.openfaas.scale.zero-duration": idle,
    });
    let annotations = json!({ "roost.scale.key": by, "roost.idle.state": "stopped", "roost.drain": "1s" });
    let body = json!({ "service": "echo", "image": ECHO, "labels": labels, "annotations": annotations });
    host.post_function(&body).await;
    // It has no replica until somebody says a key.
    host.was_up("echo").await;
    host
}

async fn replica_of(host: &Host, path: &str) -> String {
    let answer = host.api.get(&format!("/function/echo{path}")).await;
    assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text());
    answer.header("x-replica").to_owned()
}

#[tokio::test]
async fn each_key_has_a_replica_that_knows_it_and_goes_by_itself() {
    let host = keyed("query:customer", "2s").await;
    assert_eq!(host.processes(), []);

    // Sockets, so that neither goes while it is looked at.
    let ada = Socket::open(&host, "/function/echo?customer=ada").await;
    let grace = Socket::open(&host, "/function/echo?customer=grace%20h").await;
    assert_eq!((ada.header("x-replica-key"), grace.header("x-replica-key")), ("ada", "grace h"));
    assert_ne!(ada.replica(), grace.replica());
    assert_eq!(host.processes().len(), 2);
    let same = join_all((0..20).map(|_| replica_of(&host, "/headers?x=1&customer=ada"))).await;
    assert!(same.iter().all(|replica| replica == ada.replica()), "{same:?}");
    assert_eq!(replica_of(&host, "/headers?customer=grace+h").await, grace.replica());

    // There is room for no third, until one of them is idle.
    let third = host.api.get("/function/echo/headers?customer=mary").await;
    assert_eq!(third.status, StatusCode::TOO_MANY_REQUESTS, "{}", third.text());
    assert!(third.header("retry-after").parse::<u32>().is_ok());
    grace.leave().await;
    // As long as anything is left of its replica it counts.
    let one = |status: &serde_json::Value| status["replicas"].as_array().is_some_and(|all| all.len() == 1);
    host.status("echo", "the end of an idle key's replica", one).await;
    let mary = Socket::open(&host, "/function/echo?customer=mary").await;
    assert_eq!(mary.header("x-replica-key"), "mary");
    assert_eq!(replica_of(&host, "/headers?customer=ada").await, ada.replica());
}

/// A token of `subject` that is signed with this secret.
fn token_of(subject: &str, secret: &[u8]) -> String {
    let part = |value: serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({ "sub": subject, "exp": 1_u64 << 40 });
    let message = format!("{}.{}", part(json!({ "alg": "HS256", "kid": "1" })), part(claims));
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
    mac.update(message.as_bytes());
    format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

/// Calls the echo with such a header.
async fn bearing(host: &Host, path: &str, token: &str) -> Answer {
    let request = host.api.request(&Method::POST, path).header("authorization", format!("Bearer {token}"));
    host.api.try_send(request.body(body_of("hi")).unwrap()).await.unwrap()
}

#[tokio::test]
async fn each_subject_of_a_token_has_a_replica_and_a_forged_one_has_none() {
    let (secret, forger) = ([7; 32], [8; 32]);
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("jwks.json");
    let encoded = BASE64_URL_SAFE_NO_PAD.encode(secret);
    let set = json!({ "keys": [{ "kty": "oct", "kid": "1", "alg": "HS256", "k": encoded }] });
    fs::write(&keys, set.to_string()).unwrap();
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).unwrap();
    let host = Host::with_echo(Config { jwt: format!("keys = {keys:?}"), ..Config::default() }).await;
    let annotations = json!({ "roost.scale.key": "jwt:sub", "roost.idle.state": "stopped" });
    let labels = json!({ "com.openfaas.scale.max": "3" });
    let body = json!({ "service": "echo", "image": ECHO, "labels": labels, "annotations": annotations });
    host.post_function(&body).await;
    host.was_up("echo").await;

    let forged = token_of("ada", &forger);
    for path in ["/function/echo/headers", "/async-function/echo"] {
        for answer in [bearing(&host, path, &forged).await, host.api.post(path, "hi").await] {
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
            let challenge = "Bearer realm=\"roost\", error=\"invalid_token\"";
            assert_eq!(answer.header("www-authenticate"), challenge);
        }
    }
    assert_eq!(host.processes(), [], "nothing is started for it");

    let mut replicas = Vec::new();
    for subject in ["ada", "grace"] {
        let answer = bearing(&host, "/function/echo/headers", &token_of(subject, &secret)).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        assert_eq!(answer.header("x-replica-key"), subject);
        replicas.push(answer.header("x-replica").to_owned());
    }
    assert_ne!(replicas[0], replicas[1]);
    assert_eq!(host.processes().len(), 2);

    // A call for later has its replica, too.
    let later = bearing(&host, "/async-function/echo", &token_of("mary", &secret)).await;
    assert_eq!(later.status, StatusCode::ACCEPTED, "{}", later.text());
    eventually("the replica of a call for later", || async { (host.processes().len() == 3).then_some(()) })
        .await;
}

#[tokio::test]
async fn many_that_come_with_a_new_key_at_once_are_one_start() {
    let host = Host::with_echo(Config::default()).await;
    let starts = host.watch("echo").await;
    let body = json!({
        "service": "echo",
        "image": ECHO,
        "labels": { "com.openfaas.scale.max": "2" },
        "annotations": { "roost.scale.key": "path[1]", "roost.idle.state": "stopped" },
    });
    host.post_function(&body).await;
    host.was_up("echo").await;
    let paths = (0..200).map(|n| if n % 2 == 0 { "/a/headers" } else { "/b" });
    let mut replicas = join_all(paths.map(|path| replica_of(&host, path))).await;
    replicas.sort();
    replicas.dedup();
    assert_eq!(replicas.len(), 2);
    assert_eq!(starts.started(2).await.made, 2);
}

#[tokio::test]
async fn the_replicas_of_keys_are_found_again_by_a_daemon_that_was_restarted() {
    let mut host = keyed("header:X-Room", "1h").await;
    let room = [("x-room", "attic")];
    let socket = Socket::try_open(&host, "/function/echo", &room).await.unwrap();
    let process = host.process_of("echo");
    host.kill9();
    drop(socket);
    host.start_daemon().await;
    let again = Socket::try_open(&host, "/function/echo", &room).await.unwrap();
    assert_eq!(again.header("x-replica-key"), "attic");
    assert_eq!(host.process_of("echo"), process);
}

#[tokio::test]
async fn an_update_leaves_at_most_one_replica_of_a_key() {
    let host = Host::with_echo(Config::default()).await;
    let watch = host.watch("echo").await;
    let body = |n: usize| {
        json!({
            "service": "echo",
            "image": ECHO,
            "envVars": { "N": n.to_string() },
            "annotations": { "roost.scale.key": "query:k", "roost.drain": "1s" },
        })
    };
    host.post_function(&body(0)).await;
    host.was_up("echo").await;
    replica_of(&host, "/headers?k=only").await;
    for n in 1..=3 {
        host.put_function(&body(n)).await;
        // It may be answered by the old one for a moment still; the new one may not begin unless it is asked for.
        eventually("the start of the new one", || async {
            replica_of(&host, "/headers?k=only").await;
            (watch.seen().started > n).then_some(())
        })
        .await;
    }
    let seen = watch.seen();
    assert_eq!(seen.most_running, 1, "{seen:?}");
}

#[tokio::test]
async fn a_key_whose_caller_has_left_counts_as_long_as_it_has_a_replica_that_comes_up() {
    let host = keyed("path[1]", "1h").await;
    let events = host.watch("echo").await;
    for (n, key) in ["a", "b"].into_iter().enumerate() {
        let path = format!("/function/echo/{key}");
        let made = async {
            eventually("its container", || async { (events.seen().made > n).then_some(()) }).await;
        };
        tokio::select! { _ = host.api.get(&path) => {} () = made => {} }
    }
    let third = host.api.get("/function/echo/c").await;
    assert_eq!(third.status, StatusCode::TOO_MANY_REQUESTS, "{}", third.text());
    replica_of(&host, "/a/headers").await;
    replica_of(&host, "/b/headers").await;
    assert_eq!(events.seen().made, 2);
}

/// An echo that ends at once where its environment says so, for all keys or for one.
fn crashing() -> Image {
    Image::script(
        "case \"$CRASH\" in all) exit 1 ;; \"$ROOST_KEY\") exit 1 ;; esac
         busybox mkdir -p /www && echo \"$N\" >/www/index.html && exec busybox httpd -f -p 8080 -h /www",
    )
}

fn crashes(n: u32, for_key: &str) -> serde_json::Value {
    json!({
        "service": "fragile",
        "image": "fragile:1",
        "envVars": { "CRASH": for_key, "N": n.to_string() },
        "annotations": { "roost.scale.key": "query:k", "roost.drain": "0", "roost.idle.state": "stopped" },
    })
}

#[tokio::test]
async fn a_key_that_crashes_holds_up_no_other_and_is_told_why() {
    let host = Host::start().await;
    host.import(&crashing(), "fragile:1").await;
    host.post_function(&crashes(0, "bad")).await;
    host.was_up("fragile").await;
    eventually("a refusal of the bad key", || async {
        let answer = host.api.get("/function/fragile/?k=bad").await;
        let told =
            answer.status == StatusCode::SERVICE_UNAVAILABLE && answer.text().contains("before it was ready");
        told.then_some(())
    })
    .await;
    for key in ["good", "better"] {
        let answer = host.api.get(&format!("/function/fragile/?k={key}")).await;
        assert_eq!((answer.status, answer.text().trim()), (StatusCode::OK, "0"), "{key}");
    }
}

#[tokio::test]
async fn an_update_that_crashes_leaves_the_keys_with_what_served() {
    let host = Host::start().await;
    host.import(&crashing(), "fragile:1").await;
    host.post_function(&crashes(0, "none")).await;
    host.was_up("fragile").await;
    let answer = |key: &'static str| {
        let host = &host;
        async move { host.api.get(&format!("/function/fragile/?k={key}")).await.text().trim().to_owned() }
    };
    assert_eq!(answer("a").await, "0");
    let before = host.function("fragile").await["status"]["revision"].clone();
    host.put_function(&crashes(1, "all")).await;
    host.status("fragile", "Failed", |status| status["phase"] == "Failed" && status["revision"] != before)
        .await;
    // The key that was there, and one that comes now.
    for key in ["a", "b"] {
        eventually("the old revision", || async { (answer(key).await == "0").then_some(()) }).await;
    }
    host.put_function(&crashes(2, "none")).await;
    for key in ["a", "b"] {
        eventually("the new revision", || async { (answer(key).await == "2").then_some(()) }).await;
    }
}
