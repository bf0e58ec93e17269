//! Namespaces: what the API answers, and that functions of one are apart from those of another.

use hyper::{Method, StatusCode};
use roost_tests::{Answer, Config, Example, Host, Image, body_of, eventually};
use serde_json::{Value, json};

/// Asks for something and compares the whole answer.
async fn says(host: &Host, method: Method, path: &str, body: &str, status: u16, text: &str) {
    let answer = host.api.send(method.clone(), path, body.to_owned()).await;
    let what = format!("{method} {path} {body}");
    assert_eq!((answer.status.as_u16(), answer.text()), (status, text), "{what}");
    let expected = match (status, text) {
        (_, "") => "",
        (200, _) => "application/json",
        _ => "text/plain; charset=utf-8",
    };
    assert_eq!(answer.header("content-type"), expected, "{what}");
    let nosniff = if status >= 400 { "nosniff" } else { "" };
    assert_eq!(answer.header("x-content-type-options"), nosniff, "{what}");
}

#[tokio::test]
async fn namespaces_are_made_shown_changed_and_deleted_as_clients_do_it() {
    const ALL: &str = "/system/namespaces";
    let mut host = Host::start().await;
    let (get, post, put, delete) = (Method::GET, Method::POST, Method::PUT, Method::DELETE);
    let one = |name: &str| format!("/system/namespace/{name}");

    says(&host, get.clone(), ALL, "", 200, r#"["openfaas-fn"]"#).await;
    let default = r#"{"name":"openfaas-fn","labels":{"openfaas":"1"}}"#;
    says(&host, get.clone(), &one("openfaas-fn"), "", 200, default).await;
    for (path, body) in [
        // As official clients send it, and as their documentation spells it.
        (one(""), r#"{"name":"blue","annotations":{"openfaas":"1","owner":"b"},"labels":null}"#),
        ("/system/namespace".to_owned(), r#"{"name":"green","labels":{"team":"g"}}"#),
        (one("red"), "{}"),
        (one("grey"), r#"{"name":"grey"}"#),
    ] {
        says(&host, post.clone(), &path, body, 201, "").await;
    }
    says(&host, get.clone(), ALL, "", 200, r#"["blue","green","grey","openfaas-fn","red"]"#).await;
    let blue = r#"{"name":"blue","annotations":{"openfaas":"1","owner":"b"},"labels":{"openfaas":"1"}}"#;
    says(&host, get.clone(), &one("blue"), "", 200, blue).await;
    says(&host, get.clone(), &format!("{ALL}/blue"), "", 200, blue).await;

    let required = "name: is required\n";
    let unknown = "namespace nowhere not found\n";
    let mismatch = "name: \"red\": expected \"blue\", as in the path\n";
    for (method, path, body, status, text) in [
        (&post, one(""), r#"{"name":"blue"}"#, 409, "namespace blue already exists\n"),
        (&post, one("blue"), "{}", 409, "namespace blue already exists\n"),
        (&post, one(""), r#"{"name":"openfaas-fn"}"#, 409, "namespace openfaas-fn already exists\n"),
        (&post, one(""), "{}", 400, required),
        (&post, one(""), "", 400, "bad JSON: EOF while parsing a value at line 1 column 0\n"),
        (&post, one("blue"), r#"{"name":"red"}"#, 400, "name: \"red\": expected \"blue\", as in the path\n"),
        (
            &post,
            one(""),
            r#"{"name":"x","labels":{"":"1"}}"#,
            400,
            "labels.: expected a key, and at most 65536 bytes in each, it and its value\n",
        ),
        (&get, one(""), "", 400, required),
        (&get, one("nowhere"), "", 404, unknown),
        (&get, one("No_Name"), "", 404, "namespace No_Name not found\n"),
        (&put, one("nowhere"), "{}", 404, unknown),
        (&put, one("blue"), r#"{"name":"red"}"#, 400, mismatch),
        (&put, one(""), "{}", 400, required),
        (&delete, one("nowhere"), "", 404, unknown),
        (&delete, one("blue"), r#"{"name":"red"}"#, 400, mismatch),
        (&delete, one(""), "", 400, required),
        (
            &delete,
            one("openfaas-fn"),
            "",
            409,
            "namespace openfaas-fn cannot be deleted: it is the default one\n",
        ),
    ] {
        says(&host, method.clone(), &path, body, status, text).await;
    }
    let answer = host.api.post(&one(""), r#"{"name":"Not_A_Name"}"#).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.text().starts_with("name: namespace \"Not_A_Name\" is not valid"), "{}", answer.text());
    assert_eq!(host.api.send(Method::PATCH, &one("blue"), "").await.status, StatusCode::METHOD_NOT_ALLOWED);

    // Labels and annotations are replaced, not added to; the default one has them, too.
    for name in ["blue", "openfaas-fn"] {
        let body = json!({"name": name, "labels": {"openfaas": "true", "tier": "2"}}).to_string();
        says(&host, put.clone(), &one(name), &body, 202, "").await;
        let shown = format!(r#"{{"name":"{name}","labels":{{"openfaas":"true","tier":"2"}}}}"#);
        says(&host, get.clone(), &one(name), "", 200, &shown).await;
    }

    // What names a namespace that is not there is told so.
    let nowhere = "namespace not valid: nowhere does not exist\n";
    let function = r#"{"service":"f","image":"f:1","functionName":"f","namespace":"nowhere"}"#;
    for (method, path, body) in [
        (&get, "/system/functions?namespace=nowhere", ""),
        (&get, "/system/function/f?namespace=nowhere", ""),
        (&get, "/system/images?namespace=nowhere", ""),
        (&get, "/system/logs?name=f&namespace=nowhere", ""),
        (&get, "/system/secrets?namespace=nowhere", ""),
        (&post, "/system/secrets", r#"{"name":"s","namespace":"nowhere","value":"x"}"#),
        (&post, "/system/images?namespace=nowhere", ""),
        (&delete, "/system/images?name=f&namespace=nowhere", ""),
        (&delete, "/system/functions", function),
        (&post, "/system/functions", function),
        (&post, "/system/functions?namespace=nowhere", r#"{"service":"f","image":"f:1"}"#),
    ] {
        says(&host, method.clone(), path, body, 400, nowhere).await;
    }

    // One more than there is room for.
    for n in 5..=8 {
        says(&host, post.clone(), &one(&format!("n{n}")), "{}", 201, "").await;
    }
    let full = "all 8 subnets of network.namespaces are taken: delete a namespace first\n";
    says(&host, post.clone(), &one("n9"), "{}", 409, full).await;
    host.restart().await;
    for n in 5..=8 {
        says(&host, delete.clone(), &format!("{ALL}/n{n}"), "", 202, "").await;
    }
    says(&host, get.clone(), ALL, "", 200, r#"["blue","green","grey","openfaas-fn","red"]"#).await;
    says(
        &host,
        get,
        &one("openfaas-fn"),
        "",
        200,
        r#"{"name":"openfaas-fn","labels":{"openfaas":"true","tier":"2"}}"#,
    )
    .await;
    for name in ["blue", "green", "grey", "red"] {
        let body = json!({"name": name, "labels": {"openfaas": "1"}}).to_string();
        says(&host, delete.clone(), &one(name), &body, 202, "").await;
    }
    host.assert_nothing_left().await;
    containerd_has(&host, &["openfaas-fn"]).await;
}

/// Waits until containerd has only these namespaces: a deletion may be answered before its end.
async fn containerd_has(host: &Host, left: &[&str]) {
    eventually("the end of namespaces", || async { (host.containerd_namespaces() == left).then_some(()) })
        .await;
}

/// Deploys the shell as `sh` in a namespace and waits until it is ready.
async fn deploy(host: &Host, namespace: &str) {
    let mut function =
        json!({"service": "sh", "image": "sh:1", "envVars": {"COLOUR": format!("of {namespace}")}});
    if namespace != "openfaas-fn" {
        function["namespace"] = json!(namespace);
    }
    host.post_function(&function).await;
    let path = format!("/system/function/sh?namespace={namespace}");
    eventually("the function", || async {
        let shown = host.api.get(&path).await.json();
        (shown["status"]["phase"] == "Ready").then_some(())
    })
    .await;
}

/// What a script prints that is run inside the shell of a namespace.
async fn inside(host: &Host, namespace: &str, script: &str) -> String {
    let answer = host.call(&format!("sh.{namespace}"), &format!("exec 2>&1\n{script}")).await;
    assert_eq!(answer.status, StatusCode::OK, "{namespace}: {script}: {}", answer.text());
    answer.text().to_owned()
}

async fn address(host: &Host, namespace: &str) -> String {
    inside(host, namespace, "busybox hostname -i").await.trim().to_owned()
}

/// Can the shell of `from` open a connection to the shell of `to`?
async fn reaches(host: &Host, from: &str, to: &str) -> bool {
    let to = address(host, to).await;
    let script = format!("busybox timeout 1 busybox nc {to} 8080 </dev/null && echo yes || echo no");
    inside(host, from, &script).await.ends_with("yes\n")
}

async fn delete(host: &Host, namespace: &str) -> Answer {
    host.api.send(Method::DELETE, &format!("/system/namespace/{namespace}"), "").await
}

#[tokio::test]
async fn functions_of_a_namespace_are_its_own_and_apart_from_all_others() {
    Example::Shell.archive().await;
    let root = Example::Shell.dir().join("rootfs");
    // What is busy stays for as long as this takes.
    let mut host = Host::start_with(Config { drain: "10m", ..Config::default() }).await;
    host.log_in().await;
    let archive = host.dir().join("sh.tar");
    let build =
        ["image", "build", root.to_str().unwrap(), "-t", "sh:1", "--cmd", "/bin/watchdog /bin/sh", "-o"];
    host.roost_done(&[&build[..], &[archive.to_str().unwrap()]].concat()).await;
    let archive = std::fs::read(archive).unwrap();
    let all = ["openfaas-fn", "blue", "green"];
    for namespace in all {
        if namespace != "openfaas-fn" {
            let made = host.api.post(&format!("/system/namespace/{namespace}"), "{}").await;
            assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
        }
        let path = format!("/system/images?name=sh:1&namespace={namespace}");
        assert_eq!(host.api.post(&path, archive.clone()).await.status, StatusCode::OK);
        deploy(&host, namespace).await;
    }
    // An image of one namespace is not another's.
    let echo = Image::echo().archive("docker.io/library/echo:1");
    assert_eq!(host.api.post("/system/images?name=echo:1&namespace=blue", echo).await.status, StatusCode::OK);
    let images = |answer: Answer| -> Vec<Value> { answer.json().as_array().unwrap().clone() };
    assert_eq!(images(host.api.get("/system/images?namespace=blue").await).len(), 2);
    assert_eq!(images(host.api.get("/system/images?namespace=green").await).len(), 1);

    each_is_itself_and_apart(&host, &all).await;
    let before = host.processes();
    host.restart().await;
    assert_eq!(host.processes(), before, "replicas run on");
    each_is_itself_and_apart(&host, &all).await;

    // The rules come back with the next replica when something has cleared them away.
    std::process::Command::new("iptables").args(["-w", "-t", "mangle", "-F", "FORWARD"]).status().unwrap();
    eventually("a connection that only the rules prevent", || async {
        reaches(&host, "blue", "green").await.then_some(())
    })
    .await;
    let again =
        json!({"service": "sh", "image": "sh:1", "namespace": "green", "envVars": {"COLOUR": "of green"}});
    host.put_function(&again).await;
    eventually("isolation", || async { (!reaches(&host, "blue", "green").await).then_some(()) }).await;

    // Of 16 addresses, the network's own, the gateway's and that for all are nobody's.
    let room = "expected at most 13: the network of namespace blue has no more addresses\n";
    let answer = host.api.post("/system/scale-function/sh?namespace=blue", r#"{"replicas":14}"#).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (400, &*format!("replicas: {room}")));
    let many = r#"{"service":"f","image":"f:1","namespace":"blue","labels":{"com.openfaas.scale.min":"14"}}"#;
    let answer = host.api.post("/system/functions", many).await;
    let text = format!("labels.com.openfaas.scale.min: {room}");
    assert_eq!((answer.status.as_u16(), answer.text()), (400, &*text));

    let secret = r#"{"name":"key","namespace":"blue","value":"x"}"#;
    assert_eq!(host.api.post("/system/secrets", secret).await.status, StatusCode::ACCEPTED);
    let refused = delete(&host, "blue").await;
    let text = "namespace blue is not empty: remove its functions sh and its secrets key first\n";
    assert_eq!((refused.status, refused.text()), (StatusCode::CONFLICT, text));
    let removed = host.api.send(Method::DELETE, "/system/secrets", secret).await;
    assert_eq!(removed.status, StatusCode::ACCEPTED);
    remove_function(&host, "blue").await;
    // Its replica is still there, and goes first.
    assert_eq!(delete(&host, "blue").await.status, StatusCode::ACCEPTED);
    let gone = host.api.get("/system/functions?namespace=blue").await;
    assert_eq!(gone.status, StatusCode::BAD_REQUEST);

    // One whose replica does not go soon is gone for everybody, but its name is not free yet.
    let busy = host.api.request(&Method::POST, "/function/sh.green");
    let busy = busy.body(body_of("touch /tmp/busy; busybox sleep 600")).unwrap();
    let api = host.api.clone();
    tokio::spawn(async move { api.try_send(busy).await });
    eventually("a call that lasts", || async {
        (inside(&host, "green", "ls /tmp").await.contains("busy")).then_some(())
    })
    .await;
    remove_function(&host, "green").await;
    assert_eq!(delete(&host, "green").await.status, StatusCode::ACCEPTED);
    assert_eq!(host.api.get("/system/namespaces").await.text(), r#"["openfaas-fn"]"#);
    containerd_has(&host, &["green", "openfaas-fn"]).await;
    let refused = host.api.post("/system/namespace/green", "{}").await;
    let text = "namespace green is still being removed: try again\n";
    assert_eq!((refused.status, refused.text()), (StatusCode::CONFLICT, text));
    // What a crash interrupts goes on at the next start.
    host.kill9();
    host.start_daemon().await;
    containerd_has(&host, &["openfaas-fn"]).await;
    for namespace in ["blue", "green"] {
        let output = host.dir().join("state/logs").join(namespace);
        eventually("the end of its output", || async { (!output.exists()).then_some(()) }).await;
    }
    host.remove("sh").await;
    host.assert_nothing_left().await;

    // A name and its network can be used again; what others put into containerd's namespace stays theirs.
    assert_eq!(host.api.post("/system/namespace/blue", "{}").await.status, StatusCode::CREATED);
    host.ctr(["--namespace", "blue", "snapshots", "prepare", "theirs"]);
    host.ctr(["--namespace", "blue", "snapshots", "commit", "kept", "theirs"]);
    assert_eq!(delete(&host, "blue").await.status, StatusCode::ACCEPTED);
    let refused = eventually("the end of our part of it", || async {
        let refused = host.api.post("/system/namespace/blue", "{}").await;
        (!refused.text().contains("still being removed")).then_some(refused)
    })
    .await;
    assert_eq!(host.containerd_namespaces(), ["blue", "openfaas-fn"]);
    let text = "containerd has a namespace blue that is somebody else's: choose another name\n";
    assert_eq!((refused.status, refused.text()), (StatusCode::CONFLICT, text));
}

async fn remove_function(host: &Host, namespace: &str) {
    let body = json!({"functionName": "sh", "namespace": namespace}).to_string();
    let removed = host.api.send(Method::DELETE, "/system/functions", body).await;
    assert_eq!(removed.status, StatusCode::ACCEPTED);
}

async fn each_is_itself_and_apart(host: &Host, all: &[&str]) {
    for from in all {
        assert_eq!(inside(host, from, "echo $COLOUR").await, format!("of {from}\n"));
        let listed = host.api.get(&format!("/system/functions?namespace={from}")).await.json();
        assert_eq!(listed.as_array().unwrap().len(), 1, "{listed:#}");
        assert_eq!((&listed[0]["name"], &listed[0]["namespace"]), (&json!("sh"), &json!(from)));
        for to in all.iter().filter(|to| *to != from) {
            assert!(!reaches(host, from, to).await, "{from} reaches {to}");
            let script =
                format!("busybox wget -qO- --post-data='echo $COLOUR' http://gateway:8080/function/sh.{to}");
            assert_eq!(inside(host, from, &script).await, format!("of {to}\n"));
        }
    }
}

/// The host's `iptables-save`, but that it waits while a file is there.
struct Hold(std::path::PathBuf);

impl Hold {
    fn new(host: &Host) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let (bin, held) = (host.dir().join("bin"), host.dir().join("held"));
        std::fs::create_dir(&bin).unwrap();
        let script = format!(
            "#!/bin/sh\nwhile [ -e {} ]; do sleep 0.02; done\nexec /usr/sbin/iptables-save \"$@\"\n",
            held.display()
        );
        std::fs::write(bin.join("iptables-save"), script).unwrap();
        std::fs::set_permissions(bin.join("iptables-save"), PermissionsExt::from_mode(0o755)).unwrap();
        Self(held)
    }

    fn set(&self) {
        std::fs::write(&self.0, "").unwrap();
    }

    fn release(&self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

/// Begins to make a namespace and waits until that is known.
async fn begin(host: &Host, name: &str) -> tokio::task::JoinHandle<Option<StatusCode>> {
    let path = format!("/system/namespace/{name}");
    let (api, request) =
        (host.api.clone(), host.api.request(&Method::POST, &path).body(body_of("{}")).unwrap());
    let made = tokio::spawn(async move { api.try_send(request).await.ok().map(|answer| answer.status) });
    // A change tells one that is being made from one that is not there, and makes none.
    eventually("the beginning of a namespace", || async {
        let changed = host.api.send(Method::PUT, &path, "{}").await;
        (changed.status == StatusCode::CONFLICT).then_some(())
    })
    .await;
    made
}

#[tokio::test]
async fn a_namespace_that_takes_long_to_make_holds_up_nobody_and_ends_with_a_crash() {
    let mut host = Host::start().await;
    let hold = Hold::new(&host);
    hold.set();
    // Somebody else has its gateway's address.
    let settings = std::fs::read_to_string(host.dir().join("roostd.toml")).unwrap();
    let pool = settings.lines().find_map(|line| line.strip_prefix("namespaces = \"")).unwrap();
    let gateway = pool.replace("128/25\"", "129");
    let address = |verb: &str| {
        let done = std::process::Command::new("ip")
            .args(["address", verb, &format!("{gateway}/32"), "dev", "lo"])
            .status();
        assert!(done.unwrap().success(), "{verb} {gateway}");
    };
    address("add");
    let taken = std::net::TcpListener::bind(format!("{gateway}:8080")).unwrap();

    let (get, post) = (Method::GET, Method::POST);
    let blue = begin(&host, "blue").await;
    let making = "namespace blue is still being made: try again\n";
    let function = r#"{"service":"f","image":"f:1"}"#;
    for (method, path, body, status, text) in [
        (&post, "/system/functions", function, 202, ""),
        (&post, "/system/functions?namespace=blue", function, 400, making),
        (&post, "/system/namespace/blue", "{}", 409, making),
        (&Method::PUT, "/system/namespace/blue", "{}", 409, making),
        (&Method::DELETE, "/system/namespace/blue", "", 409, making),
        (&get, "/system/namespaces", "", 200, r#"["openfaas-fn"]"#),
        (&get, "/system/namespace/blue", "", 404, "namespace blue not found\n"),
        (&Method::DELETE, "/system/functions", r#"{"functionName":"f"}"#, 202, ""),
    ] {
        says(&host, method.clone(), path, body, status, text).await;
    }
    assert!(!blue.is_finished());
    hold.release();
    assert_eq!(blue.await.unwrap(), Some(StatusCode::CREATED));
    says(&host, get.clone(), "/system/namespaces", "", 200, r#"["blue","openfaas-fn"]"#).await;

    eventually("a gateway that cannot be opened", || async {
        let log = std::fs::read_to_string(host.daemon_log()).unwrap();
        log.contains("functions of blue cannot reach the gateway yet").then_some(())
    })
    .await;
    drop(taken);
    eventually("the gateway", || async {
        tokio::net::TcpStream::connect(format!("{gateway}:8080")).await.ok().map(drop)
    })
    .await;
    address("del");

    hold.set();
    let green = begin(&host, "green").await;
    host.kill9();
    hold.release();
    assert_eq!(green.await.unwrap(), None);
    host.start_daemon().await;
    says(&host, get, "/system/namespaces", "", 200, r#"["blue","openfaas-fn"]"#).await;
    containerd_has(&host, &["blue", "openfaas-fn"]).await;
    eventually("its name", || async {
        let made = host.api.post("/system/namespace/green", "{}").await;
        (made.status == StatusCode::CREATED).then_some(())
    })
    .await;
    for name in ["blue", "green"] {
        assert_eq!(delete(&host, name).await.status, StatusCode::ACCEPTED);
    }
    host.assert_nothing_left().await;
}
