//! Secrets, from the call that brings one to the file that a function reads; and nowhere else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use hyper::{Method, StatusCode};
use roost_tests::{Config, Example, Host};
use serde_json::{Value, json};

const PATH: &str = "/system/secrets";

async fn send(host: &Host, method: Method, body: Value) -> (u16, String) {
    let answer = host.api.send(method, PATH, body.to_string()).await;
    (answer.status.as_u16(), answer.text().to_owned())
}

/// Sends what has to be accepted.
async fn done(host: &Host, method: Method, body: Value) {
    assert_eq!(send(host, method.clone(), body.clone()).await, (202, String::new()), "{method} {body}");
}

#[tokio::test]
async fn secrets_are_made_listed_changed_and_removed_as_the_contract_says() {
    const REFUSED: &str = "text/plain; charset=utf-8";
    let host = Host::start().await;
    let (get, post, put, delete) = (Method::GET, Method::POST, Method::PUT, Method::DELETE);
    let large = json!({ "name": "large", "value": "x".repeat((1 << 20) + 1) }).to_string();
    let largest = json!({ "name": "largest", "value": "\u{1}".repeat(1 << 20) }).to_string();
    let all = r#"[{"name":"a.b-c","namespace":"openfaas-fn"},{"name":"raw","namespace":"openfaas-fn"}]"#;
    for (method, query, body, status, text) in [
        (&get, "", "", 200, "[]"),
        (&post, "", r#"{"name":"raw","value":"lesser","rawValue":"AP8="}"#, 202, ""),
        (&post, "", r#"{"name":"a.b-c","value":"seen-by-nobody","namespace":"openfaas-fn"}"#, 202, ""),
        (
            &post,
            "?namespace=nowhere",
            r#"{"name":"raw","namespace":"openfaas-fn"}"#,
            409,
            "secret raw already exists: update it with PUT\n",
        ),
        (&get, "", "", 200, all),
        (&get, "?namespace=openfaas-fn", "", 200, all),
        (&get, "?namespace=nowhere", "", 400, "namespace not valid: nowhere does not exist\n"),
        (
            &post,
            "",
            r#"{"name":"x","namespace":"nowhere"}"#,
            400,
            "namespace not valid: nowhere does not exist\n",
        ),
        (
            &post,
            "?namespace=nowhere",
            r#"{"name":"x"}"#,
            400,
            "namespace not valid: nowhere does not exist\n",
        ),
        (&put, "", r#"{"name":"raw","value":"other"}"#, 202, ""),
        (&put, "", r#"{"name":"absent","value":"other"}"#, 404, "unable to find secret: absent\n"),
        (&delete, "", r#"{"name":"absent"}"#, 404, "unable to find secret: absent\n"),
        (&post, "", "{", 400, "bad JSON at line 1 column 1\n"),
        (&put, "", r#"{"name":"raw","value":7}"#, 400, "value: expected a text\n"),
        (&delete, "", "", 400, "bad JSON at line 1 column 0\n"),
        (&post, "", r#"{"name":"","value":"x"}"#, 400, "name: is required\n"),
        (&put, "", "{}", 400, "name: is required\n"),
        (&delete, "", r#"{"name":null}"#, 400, "name: is required\n"),
        (&post, "", r#"{"name":"x","rawValue":"?"}"#, 400, "rawValue: expected base64\n"),
        (&post, "", &large, 413, "value: 1048577 bytes, expected at most 1048576\n"),
        (&post, "", &largest, 202, ""),
        (&delete, "", r#"{"name":"largest"}"#, 202, ""),
        (&delete, "", r#"{"name":"a.b-c","namespace":""}"#, 202, ""),
        (&delete, "", r#"{"name":"raw"}"#, 202, ""),
        (&delete, "", r#"{"name":"raw"}"#, 404, "unable to find secret: raw\n"),
        (&get, "", "", 200, "[]"),
        (&Method::PATCH, "", "", 405, ""),
    ] {
        let answer = host.api.send(method.clone(), &format!("{PATH}{query}"), body.to_owned()).await;
        let asked = format!("{method} {query} {body:.80}");
        assert_eq!((answer.status.as_u16(), answer.text()), (status, text), "{asked}");
        let kind = match status {
            200 => "application/json",
            202 | 405 => "",
            _ => REFUSED,
        };
        assert_eq!(answer.header("content-type"), kind, "{asked}");
    }
    for name in ["../up", "a/b", "..", "A", "a_b", "a b"] {
        let (status, text) = send(&host, post.clone(), json!({ "name": name, "value": "x" })).await;
        assert!(status == 400 && text.starts_with(&format!("name: {name:?} is not valid")), "{name}: {text}");
    }
    let nobody = roost_tests::Api::new(host.port(), None);
    for method in [get, post, put, delete] {
        assert_eq!(nobody.send(method, PATH, r#"{"name":"x"}"#).await.status, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(below(&host.dir().join("state/secrets")), [""; 0]);

    host.log_in().await;
    let typed = host.roost_with(&["secret", "create", "typed", "--trim"], "by-nobody\n").await;
    assert_eq!((typed.code, typed.stdout.as_str()), (Some(0), "Created typed\n"), "{typed:?}");
    let again = host.roost(&["secret", "create", "typed", "--from-literal", "x"]).await;
    assert_eq!(again.code, Some(1), "{again:?}");
    host.roost_done(&["secret", "create", "typed", "--from-literal", "changed", "--replace"]).await;
    assert_eq!(fs::read_to_string(host.dir().join("state/secrets/openfaas-fn/typed")).unwrap(), "changed");
    assert_eq!(host.roost_done(&["secret", "list"]).await, "NAME   NAMESPACE\ntyped  openfaas-fn\n");
    host.roost_done(&["secret", "remove", "typed"]).await;
    assert_eq!(below(&host.dir().join("state/secrets")), [""; 0]);
}

#[tokio::test]
async fn functions_read_the_secrets_that_they_name_and_nobody_else_does() {
    let mut host = shell().await;
    let dir = host.dir().to_owned();
    for (name, value) in [("alpha", "first-of-alpha"), ("beta", "only-of-beta"), ("gamma", "only-of-gamma")] {
        done(&host, Method::POST, json!({ "name": name, "value": value })).await;
    }
    let there = json!({ "service": "twin", "image": "sh:1", "secrets": ["alpha"], "namespace": "elsewhere" });
    done_at(&host, "/system/namespace/", json!({ "name": "elsewhere" })).await;
    build(&host, "elsewhere").await;
    done_at(&host, PATH, json!({ "name": "alpha", "value": "other-alpha", "namespace": "elsewhere" })).await;
    done_at(&host, "/system/functions", there).await;

    // What is missing is refused by its name, also when another namespace has it.
    let elsewhere = json!({ "service": "x", "image": "sh:1", "secrets": ["beta"], "namespace": "elsewhere" });
    let missing = (400, "unable to find secret: beta\n".to_owned());
    assert_eq!(deploy(&host, Method::POST, &elsewhere).await, missing);
    let refused = (400, "unable to find secret: delta\n".to_owned());
    let deployment = |secrets: Value| json!({ "service": "sh", "image": "sh:1", "secrets": secrets });
    assert_eq!(deploy(&host, Method::POST, &deployment(json!(["alpha", "delta"]))).await, refused);
    host.post_function(&deployment(json!(["beta", "alpha"]))).await;
    let revision = host.ready("sh").await["status"]["revision"].clone();
    let process = host.process_of("sh");
    assert_eq!(deploy(&host, Method::PUT, &deployment(json!(["delta"]))).await, refused);
    assert_eq!(host.ready("sh").await["status"]["revision"], revision, "the old one serves on");

    // A user who is not root reads what it names, all of it and no more, and changes nothing.
    let script = "busybox id -u; cd /var/openfaas/secrets; busybox ls -A; cat alpha beta; echo; \
        busybox rm -f alpha; echo x >alpha; echo x >new; cat alpha";
    let seen = run(&host, "sh", script).await;
    assert!(seen.starts_with("1000\nalpha\nbeta\nfirst-of-alphaonly-of-beta\n"), "{seen}");
    assert!(seen.ends_with("\nfirst-of-alpha") && seen.matches("Read-only").count() == 3, "{seen}");
    // Also below a root that cannot be written, in an image without the directory.
    host.post_function(&json!({
        "service": "fixed", "image": "sh:1", "secrets": ["gamma"], "readOnlyRootFilesystem": true
    }))
    .await;
    host.ready("fixed").await;
    assert_eq!(
        run(&host, "fixed", "cd /var/openfaas/secrets; busybox ls -A; cat *").await,
        "gamma\nonly-of-gamma"
    );

    let modes = |tree: &str| {
        let paths = below(&dir.join(tree)).into_iter();
        let of =
            paths.map(|path| mode(&dir.join(tree).join(path))).collect::<std::collections::BTreeSet<_>>();
        of.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(
        (mode(&dir.join("state/secrets")), modes("state/secrets")),
        (0o40700, vec![0o40700, 0o100600])
    );
    // What every user may read lies where no user comes.
    let run_modes = vec![0o40700, 0o40755, 0o100444];
    assert_eq!((mode(&dir.join("run/secrets")), modes("run/secrets")), (0o40700, run_modes));
    assert_eq!(file_system(&dir.join("run/secrets")), "tmpfs");

    // An update is seen by what runs; also by what the next daemon adopts; also if one ends in its midst.
    done(&host, Method::PUT, json!({ "name": "alpha", "value": "second-of-alpha" })).await;
    assert_eq!(run(&host, "sh", "cat /var/openfaas/secrets/alpha").await, "second-of-alpha");
    host.ready("twin?namespace=elsewhere").await;
    assert_eq!(run(&host, "twin.elsewhere", "cat /var/openfaas/secrets/*").await, "other-alpha");
    host.restart().await;
    done(&host, Method::PUT, json!({ "name": "alpha", "rawValue": "dGhpcmQtb2YtYWxwaGE=" })).await;
    host.ready("sh").await;
    assert_eq!(run(&host, "sh", "cat /var/openfaas/secrets/alpha").await, "third-of-alpha");
    host.kill9();
    fs::write(dir.join("state/secrets/openfaas-fn/alpha"), "fourth-of-alpha").unwrap();
    fs::create_dir_all(dir.join("run/secrets/openfaas-fn/stray")).unwrap();
    fs::write(dir.join("run/secrets/openfaas-fn/stray/alpha"), "stray").unwrap();
    host.start_daemon().await;
    host.ready("sh").await;
    assert_eq!(run(&host, "sh", "cat /var/openfaas/secrets/alpha").await, "fourth-of-alpha");
    assert_eq!(host.process_of("sh"), process, "none of this restarts it");
    let mut replicas: Vec<_> = host.processes().into_iter().map(|(id, _)| id).collect();
    replicas.sort();
    let of = |namespace: &str| names(&dir.join("run/secrets").join(namespace));
    let mut copied = [of("openfaas-fn"), of("elsewhere")].concat();
    copied.sort();
    assert_eq!(copied, replicas);

    nowhere_else(&host, &["-of-alpha", "only-of-beta", "only-of-gamma", "other-alpha"]).await;

    // One that is in use stays, also for the revision that serves while the newest cannot.
    let used = |name: &str| (409, format!("secret {name} is used by: sh\n"));
    assert_eq!(send(&host, Method::DELETE, json!({ "name": "alpha" })).await, used("alpha"));
    host.put_function(&deployment(json!(["beta"]))).await;
    replaced(&host, &revision).await;
    assert_eq!(run(&host, "sh", "busybox ls -A /var/openfaas/secrets").await, "beta\n");
    done(&host, Method::DELETE, json!({ "name": "alpha" })).await;
    let revision = host.function("sh").await["status"]["revision"].clone();
    host.put_function(&json!({ "service": "sh", "image": "127.0.0.1:1/none:1" })).await;
    assert_eq!(send(&host, Method::DELETE, json!({ "name": "beta" })).await, used("beta"));
    host.put_function(&deployment(json!(null))).await;
    replaced(&host, &revision).await;
    assert_eq!(
        run(&host, "sh", "busybox ls -A /var/openfaas/secrets 2>/dev/null || echo none").await,
        "none\n"
    );
    done(&host, Method::DELETE, json!({ "name": "beta" })).await;

    for (path, body) in [
        ("/system/functions", json!({ "functionName": "twin", "namespace": "elsewhere" })),
        (&format!("{PATH}?namespace=elsewhere"), json!({ "name": "alpha" })),
        ("/system/namespace/elsewhere", json!({ "name": "elsewhere" })),
    ] {
        let answer = host.api.send(Method::DELETE, path, body.to_string()).await;
        assert_eq!((answer.status, answer.text()), (StatusCode::ACCEPTED, ""), "{path}");
    }
    host.remove("fixed").await;
    done(&host, Method::DELETE, json!({ "name": "gamma" })).await;
    host.remove("sh").await;
    host.assert_nothing_left().await;
    for tree in ["state/secrets", "run/secrets"] {
        assert_eq!(below(&dir.join(tree)), [""; 0], "{tree}");
    }
}

/// A host with an image of a shell that is not root.
async fn shell() -> Host {
    Example::Shell.archive().await;
    let host = Host::start_with(Config::default()).await;
    host.log_in().await;
    build(&host, "openfaas-fn").await;
    host
}

/// Makes the image for a namespace.
async fn build(host: &Host, namespace: &str) {
    let root = Example::Shell.dir().join("rootfs");
    let of = ["image", "build", root.to_str().unwrap(), "-t", "sh:1", "-n", namespace];
    let that = ["--user", "1000:1000", "--cmd", "/bin/watchdog /bin/sh"];
    host.roost_done(&[&of[..], &that[..]].concat()).await;
}

/// Posts what has to be accepted.
async fn done_at(host: &Host, path: &str, body: Value) {
    let answer = host.api.post(path, body.to_string()).await;
    assert!(answer.status.is_success(), "{path}: {} {}", answer.status, answer.text());
}

/// Runs a script inside, and returns what it printed.
async fn run(host: &Host, function: &str, script: &str) -> String {
    let answer = host.call(function, &format!("exec 2>&1\n{script}")).await;
    assert_eq!(answer.status, StatusCode::OK, "{script}: {}", answer.text());
    answer.text().to_owned()
}

async fn deploy(host: &Host, method: Method, deployment: &Value) -> (u16, String) {
    let answer = host.api.send(method, "/system/functions", deployment.to_string()).await;
    (answer.status.as_u16(), answer.text().to_owned())
}

/// Waits until another revision than `before` is ready, and the only one that runs.
async fn replaced(host: &Host, before: &Value) {
    let new = |status: &Value| {
        let replicas = status["replicas"].as_array().unwrap();
        status["phase"] == "Ready" && status["revision"] != *before && replicas.len() == 1
    };
    host.status("sh", "a new revision alone", new).await;
}

/// Looks for values in everything that the host has on its disk or tells: they are where they belong, and only there.
async fn nowhere_else(host: &Host, values: &[&str]) {
    let holds =
        |bytes: &[u8], value: &str| bytes.windows(value.len()).any(|window| window == value.as_bytes());
    let (mut at_home, mut looked) = (Vec::new(), Vec::new());
    for path in below(host.dir()) {
        let file = host.dir().join(&path);
        if !fs::symlink_metadata(&file).is_ok_and(|about| about.is_file()) {
            continue;
        }
        // A file may go while it is looked for; of a network namespace nothing can be read.
        let bytes = fs::read(&file).unwrap_or_default();
        let found = values.iter().filter(|value| holds(&bytes, value));
        if path.starts_with("state/secrets/") || path.starts_with("run/secrets/") {
            at_home.extend(found);
        } else {
            assert_eq!(found.collect::<Vec<_>>(), [&""; 0], "{path}");
            looked.push(path);
        }
    }
    assert!(values.iter().all(|value| at_home.contains(value)), "{at_home:?}");
    for file in ["state/roost.redb", "roostd.log"] {
        assert!(looked.iter().any(|path| path == file), "{file} in {looked:?}");
    }
    for path in ["secrets", "functions", "function/sh", "info", "namespaces", "logs?name=sh&follow=false"] {
        let answer = host.api.get(&format!("/system/{path}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        assert!(!values.iter().any(|value| holds(&answer.body, value)), "{path}: {}", answer.text());
    }
}

/// All paths below a directory, from there.
fn below(dir: &Path) -> Vec<String> {
    let mut todo = vec![PathBuf::new()];
    let mut found = Vec::new();
    while let Some(path) = todo.pop() {
        for name in names(&dir.join(&path)) {
            let path = path.join(name);
            found.push(path.to_str().unwrap().to_owned());
            if fs::symlink_metadata(dir.join(&path)).is_ok_and(|about| about.is_dir()) {
                todo.push(path);
            }
        }
    }
    found
}

/// What is in a directory, unless it is gone.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode()
}

/// The type of the file system that is mounted on `dir`.
fn file_system(dir: &Path) -> String {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().rfind(|line| line.split(' ').nth(4) == dir.to_str()).unwrap();
    line.rsplit_once(" - ").unwrap().1.split(' ').next().unwrap().to_owned()
}
