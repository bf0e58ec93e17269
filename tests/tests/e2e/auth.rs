//! Who may use the API, and who may call which function.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::{Method, StatusCode};
use roost_tests::{Answer, Api, Config, Example, Host, Image, body_of, eventually};
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// Runs `roost auth` on the host, which has to succeed, and returns what it printed.
async fn auth(host: &Host, args: &[&str], input: &str) -> String {
    let output = host.roost_as_root(&[&["auth"], args].concat(), input).await;
    assert_eq!(output.code, Some(0), "roost auth {args:?}: {output:?}");
    output.stdout.trim().to_owned()
}

/// What the API answers to a user.
async fn status(host: &Host, user: &str, password: &str, method: Method, path: &str) -> StatusCode {
    Api::new(host.port(), Some((user, password))).send(method, path, "").await.status
}

/// Waits until the API lets a user look, or no longer does.
async fn counts(host: &Host, user: &str, password: &str, counts: bool) {
    let wanted = if counts { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
    let what = format!("{wanted} for {user}");
    eventually(&what, || async {
        (status(host, user, password, Method::GET, "/system/functions").await == wanted).then_some(())
    })
    .await;
}

/// Calls a path with these headers besides.
async fn call(host: &Host, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = host.api.request(&Method::POST, path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    host.api.try_send(request.body(body_of("hi")).unwrap()).await.unwrap()
}

fn log(host: &Host) -> String {
    fs::read_to_string(host.daemon_log()).unwrap()
}

#[tokio::test]
async fn users_come_change_and_go_without_a_restart() {
    let host = Host::start().await;
    host.log_in().await;
    let first = host.password().to_owned();
    let get = Method::GET;
    assert_eq!(status(&host, "admin", &first, get.clone(), "/system/functions").await, StatusCode::OK);
    let anonymous = Api::new(host.port(), None);
    for value in [None, Some("Bearer "), Some("Basic "), Some("Basic YWRtaW46d3Jvbmc=")] {
        let mut request = anonymous.request(&get, "/system/functions");
        if let Some(value) = value {
            request = request.header(AUTHORIZATION, value);
        }
        let answer = anonymous.try_send(request.body(body_of("")).unwrap()).await.unwrap();
        assert_eq!(
            (answer.status, answer.text()),
            (StatusCode::UNAUTHORIZED, "invalid credentials"),
            "{value:?}"
        );
        assert_eq!(answer.header("www-authenticate"), "Basic realm=\"Restricted\"");
    }

    // Added by the command line, one with a password that it makes up.
    let before = host.daemon_memory();
    let anna = auth(&host, &["add", "anna"], "").await;
    assert_eq!(anna.len(), 32, "{anna}");
    assert_eq!(auth(&host, &["add", "bert", "--read-only", "--password-stdin"], "b:ert\n").await, "");
    let path = host.dir().join("users");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    counts(&host, "anna", &anna, true).await;
    counts(&host, "bert", "b:ert", true).await;
    counts(&host, "bert", &anna, false).await;
    counts(&host, "nobody", &anna, false).await;
    let memory = || async { (host.daemon_memory() < before + (6 << 10)).then_some(()) };
    eventually("the memory that hashing took, given back", memory).await;
    let listed: Value = serde_json::from_str(&auth(&host, &["list", "--json"], "").await).unwrap();
    let listed: Vec<_> =
        listed.as_array().unwrap().iter().map(|user| (&user["name"], &user["role"])).collect();
    let of = |name: &str, role: &str| (json!(name), json!(role));
    let expected = [of("admin", "admin"), of("anna", "admin"), of("bert", "read-only")];
    assert_eq!(listed, expected.each_ref().map(|(name, role)| (name, role)));

    // Who may only look.
    let nobody = json!({ "functionName": "nobody" }).to_string();
    for path in ["/system/functions", "/system/info", "/system/namespaces", "/system/images"] {
        assert_eq!(status(&host, "bert", "b:ert", get.clone(), path).await, StatusCode::OK, "{path}");
    }
    let bert = Api::new(host.port(), Some(("bert", "b:ert")));
    for method in [Method::POST, Method::PUT, Method::DELETE] {
        let answer = bert.send(method.clone(), "/system/functions", nobody.clone()).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method}");
        assert_eq!(answer.text(), "this user is read-only: it may GET and HEAD, and no more\n");
        let answer = Api::new(host.port(), Some(("anna", &anna)));
        let answer = answer.send(method.clone(), "/system/functions", nobody.clone()).await;
        assert_ne!(answer.status, StatusCode::FORBIDDEN, "{method}");
        assert_ne!(answer.status, StatusCode::UNAUTHORIZED, "{method}");
    }

    // What is wrong with the file changes nothing until it is put right.
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, whole.replace("bert:read-only", "bert:root")).unwrap();
    eventually("word of the broken line", || async {
        log(&host).contains("users, line 2: ROLE").then_some(())
    })
    .await;
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    eventually("word of the mode", || async { log(&host).contains("mode 0644").then_some(()) }).await;
    fs::write(&path, "").unwrap();
    counts(&host, "anna", &anna, true).await;
    counts(&host, "bert", "b:ert", true).await;
    fs::write(&path, &whole).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    auth(&host, &["remove", "bert"], "").await;
    counts(&host, "bert", "b:ert", false).await;
    counts(&host, "anna", &anna, true).await;

    // New passwords, for the first admin also where it is saved. The last one is the old one: the host ends with it.
    auth(&host, &["reset", "--user", "anna", "-s"], "other").await;
    counts(&host, "anna", "other", true).await;
    counts(&host, "anna", &anna, false).await;
    let second = auth(&host, &["reset"], "").await;
    counts(&host, "admin", &second, true).await;
    counts(&host, "admin", &first, false).await;
    host.roost_done(&["list"]).await;
    auth(&host, &["reset", "-s"], &first).await;
    counts(&host, "admin", &first, true).await;
    host.roost_done(&["list"]).await;

    // SIGHUP is not the end, and nothing that is secret is in the log.
    host.reload();
    eventually("SIGHUP", || async { log(&host).contains("SIGHUP").then_some(()) }).await;
    counts(&host, "anna", "other", true).await;
    let log = log(&host);
    for secret in [&*first, &*second, &*anna, "b:ert", "argon2id"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

#[tokio::test]
async fn functions_are_open_or_ask_who_calls_or_are_not_there() {
    Example::Shell.archive().await;
    let shared = tempfile::tempdir().unwrap();
    let mounts = vec![format!("{}:rw", shared.path().display())];
    let mut host = Host::start_with(Config { mounts, ..Config::default() }).await;
    host.log_in().await;
    let root = Example::Shell.dir().join("rootfs");
    let build = ["image", "build", root.to_str().unwrap(), "-t", "sh:1", "--cmd", "/bin/watchdog /bin/sh"];
    host.roost_done(&build).await;
    let archive = Image::echo().archive("docker.io/library/echo:1");
    assert_eq!(host.api.post("/system/images?name=echo:1", archive).await.status, StatusCode::OK);
    let echo =
        |annotations: Value| json!({ "service": "echo", "image": "echo:1", "annotations": annotations });
    for (annotations, why) in [
        (json!({ "roost.auth": "jwt" }), "roost.auth: jwt: this host verifies no tokens"),
        (json!({ "roost.scale.key": "jwt:sub" }), "roost.scale.key: jwt:sub: this host verifies no tokens"),
        (json!({ "roost.auth": "yes" }), "annotations.roost.auth: \"yes\""),
        (json!({ "roost.internal": "yes" }), "annotations.roost.internal: \"yes\""),
    ] {
        let answer = host.api.post("/system/functions", echo(annotations).to_string()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert!(answer.text().contains(why), "{}", answer.text());
    }
    host.deploy("sh", "sh:1").await;
    auth(&host, &["add", "bert", "--read-only", "--password-stdin"], "b").await;
    counts(&host, "bert", "b", true).await;
    let url = format!("ws://127.0.0.1:{}/function/echo", host.port());
    let bert = "Basic YmVydDpi";

    // Who calls?
    host.post_function(&echo(json!({ "roost.auth": "basic" }))).await;
    host.ready("echo").await;
    for headers in [&[][..], &[("authorization", "Bearer ")], &[("authorization", "Basic YmVydDp4")]] {
        let answer = call(&host, "/function/echo", headers).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{headers:?}");
        assert_eq!(answer.header("www-authenticate"), "Basic realm=\"roost\"");
    }
    let Err(Error::Http(refused)) = connect_async(&url).await else { panic!("a socket without a login") };
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let answer = call(&host, "/function/echo/headers", &[("authorization", bert)]).await;
    assert_eq!(answer.status, StatusCode::OK);
    let mut login = url.as_str().into_client_request().unwrap();
    login.headers_mut().insert(AUTHORIZATION, HeaderValue::from_static(bert));
    drop(connect_async(login).await.unwrap());
    assert!(!answer.text().to_lowercase().contains("authorization"), "a password: {}", answer.text());
    assert_eq!(host.call("sh", "echo open").await.text(), "open\n");

    // Not there, from the moment that it is said; this revision never comes up, and the other one serves on.
    let broken = json!({ "service": "echo", "image": "127.0.0.1:1/missing:1", "annotations": { "roost.internal": "true" } });
    host.put_function(&broken).await;
    assert_eq!(call(&host, "/function/echo", &[("authorization", bert)]).await.status, StatusCode::NOT_FOUND);
    let script = "exec 2>&1\nbusybox wget -S -qO- --post-data=hi http://gateway:8080/function/echo || true";
    let inside = host.call("sh", script).await;
    assert!(inside.text().contains(" 401 "), "the one that serves asks who calls: {}", inside.text());

    host.put_function(&echo(json!({ "roost.internal": "true" }))).await;
    host.ready("echo").await;
    let addresses = "exec 2>&1\nbusybox hostname -i; busybox awk '$2 == \"gateway\" { print $1 }' /etc/hosts";
    let addresses = host.call("sh", addresses).await.text().to_owned();
    let (replica, gateway) = addresses.trim().split_once('\n').unwrap();
    let spoofed = format!("for={replica}");
    let unknown = call(&host, "/function/nobody", &[]).await;
    for headers in [
        &[][..],
        &[("authorization", bert)],
        &[("x-forwarded-for", replica), ("x-real-ip", replica), ("forwarded", &spoofed)],
    ] {
        let answer = call(&host, "/function/echo", headers).await;
        assert_eq!(answer.status, unknown.status, "{headers:?}");
        assert_eq!(answer.text(), unknown.text().replace("nobody", "echo"), "{headers:?}");
    }
    let Err(Error::Http(refused)) = connect_async(&url).await else { panic!("a socket from outside") };
    assert_eq!(refused.status(), StatusCode::NOT_FOUND);
    // This host, by the address that functions know, is not a function.
    let url = format!("ws://{gateway}:8080/function/echo");
    let Err(Error::Http(refused)) = connect_async(&url).await else { panic!("a socket from this host") };
    assert_eq!(refused.status(), StatusCode::NOT_FOUND);
    let inside = host.call("sh", script.replace("-S ", "").as_str()).await;
    assert_eq!((inside.status, inside.text()), (StatusCode::OK, "hi"));

    // Open again, when that is through.
    host.put_function(&echo(json!({ "roost.auth": "none" }))).await;
    host.ready("echo").await;
    eventually("an open function", || async {
        (call(&host, "/function/echo", &[]).await.status == StatusCode::OK).then_some(())
    })
    .await;

    // One of two replicas comes up, so the revision is never complete. It asks who calls, after an update that fails too.
    let first = "/bin/sh -c '/bin/busybox mkdir /m/first && exec /bin/watchdog /bin/busybox cat'";
    let build = ["image", "build", root.to_str().unwrap(), "-t", "half:1", "--cmd", first];
    host.roost_done(&build).await;
    let mount = format!("{}:/m:rw", shared.path().display());
    let mut half = json!({
        "service": "half", "image": "half:1", "labels": { "com.openfaas.scale.min": "2" },
        "annotations": { "roost.auth": "basic", "roost.mount.m": mount },
    });
    host.post_function(&half).await;
    eventually("one of two replicas", || async {
        (host.function("half").await["availableReplicas"] == 1).then_some(())
    })
    .await;
    half["image"] = json!("127.0.0.1:1/missing:1");
    half["annotations"] = json!({});
    assert_eq!(call(&host, "/function/half", &[]).await.status, StatusCode::UNAUTHORIZED);
    host.put_function(&half).await;
    assert_eq!(call(&host, "/function/half", &[]).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(call(&host, "/function/half", &[("authorization", bert)]).await.status, StatusCode::OK);
    host.remove("half").await;

    // On a host that asks nobody who calls, a function that does is closed, and none can be made.
    let closed = echo(json!({ "roost.auth": "basic" }));
    host.put_function(&closed).await;
    assert_eq!(call(&host, "/function/echo", &[]).await.status, StatusCode::UNAUTHORIZED);
    host.config.auth = false;
    host.restart().await;
    for headers in [&[][..], &[("authorization", bert)]] {
        let answer = call(&host, "/function/echo", headers).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{headers:?}");
        assert!(answer.text().contains("this host has no users"), "{}", answer.text());
    }
    let nobody = Api::new(host.port(), None);
    let empty = nobody.request(&Method::PUT, "/system/functions").header(AUTHORIZATION, "Bearer ");
    let refused = nobody.try_send(empty.body(body_of(closed.to_string())).unwrap()).await.unwrap();
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(refused.text().contains("roost.auth: this host has no users"), "{}", refused.text());
}
