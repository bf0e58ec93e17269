//! What OpenFaaS's own clients send, byte for byte, and what they need to get back.
//!
//! The requests are those of `tests/contract/recorded`. They go over a raw socket: nothing of ours writes them.

use std::collections::BTreeMap;
use std::fs;

use roost_tests::{Config, Host, PATIENCE, eventually, repository};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::support::{IMAGE, credentials, host, host_with};

/// What came back, read as plainly as can be.
struct Reply {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|why| panic!("{why}: {}", self.body))
    }
}

/// The bytes of a recording, for this host.
fn recorded(name: &str, host: &Host) -> Vec<u8> {
    let path = repository().join("tests/contract/recorded").join(format!("{name}.http"));
    let bytes = fs::read(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    let bytes = replace(&bytes, b"{{HOST}}", host.url().trim_start_matches("http://").as_bytes());
    replace(&bytes, b"{{CREDENTIALS}}", credentials(host).as_bytes())
}

fn replace(bytes: &[u8], what: &[u8], with: &[u8]) -> Vec<u8> {
    let Some(at) = bytes.windows(what.len()).position(|window| window == what) else { return bytes.to_vec() };
    [&bytes[..at], with, &bytes[at + what.len()..]].concat()
}

/// Sends bytes, and reads the answer as far as `enough` says, or to its end.
async fn exchange(host: &Host, bytes: &[u8], enough: impl Fn(&str) -> bool) -> Reply {
    let talk = async {
        let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", host.port())).await.unwrap());
        stream.get_mut().write_all(bytes).await.unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("{line:?}")).parse().unwrap();
        let mut headers = BTreeMap::new();
        loop {
            line.clear();
            stream.read_line(&mut line).await.unwrap();
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let body = read_body(&mut stream, &headers, enough).await;
        Reply { status, headers, body }
    };
    tokio::time::timeout(PATIENCE, talk).await.expect("an answer")
}

async fn read_body(
    stream: &mut BufReader<TcpStream>,
    headers: &BTreeMap<String, String>,
    enough: impl Fn(&str) -> bool,
) -> String {
    let mut body = Vec::new();
    if let Some(length) = headers.get("content-length") {
        body.resize(length.parse().unwrap(), 0);
        stream.read_exact(&mut body).await.unwrap();
        return String::from_utf8(body).unwrap();
    }
    assert_eq!(headers.get("transfer-encoding").map(String::as_str), Some("chunked"));
    loop {
        let mut size = String::new();
        stream.read_line(&mut size).await.unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        stream.read_exact(&mut chunk).await.unwrap();
        body.extend_from_slice(&chunk[..size]);
        let text = String::from_utf8_lossy(&body);
        if size == 0 || enough(&text) {
            return text.into_owned();
        }
    }
}

/// Replays recordings on one host.
struct Replay<'a>(&'a Host);

impl Replay<'_> {
    /// Sends a recording; the status has to be this one.
    async fn send(&self, name: &str, status: u16) -> Reply {
        let reply = exchange(self.0, &recorded(name, self.0), |_| false).await;
        assert_eq!(reply.status, status, "{name}: {}", reply.body);
        reply
    }

    /// The same, where the client looks for a JSON body.
    async fn json(&self, name: &str) -> Value {
        let reply = self.send(name, 200).await;
        assert_eq!(reply.headers["content-type"], "application/json", "{name}");
        reply.json()
    }

    async fn gone(&self) {
        eventually("the end of the function", || async {
            let answer = self.0.api.get("/system/function/recorded").await;
            (answer.status == 404).then_some(())
        })
        .await;
    }
}

/// What faas-cli and go-sdk look into without asking whether it is there.
fn assert_is_a_function(function: &Value, ready: bool) {
    assert_eq!((&function["name"], &function["namespace"]), (&json!("recorded"), &json!("openfaas-fn")));
    assert!(function["labels"].is_object() && function["annotations"].is_object(), "{function:#}");
    assert!(function["createdAt"].as_str().is_some_and(|time| time.ends_with('Z')), "{function:#}");
    assert!(function["replicas"].is_u64(), "{function:#}");
    if ready {
        assert!(function["availableReplicas"].as_u64() > Some(0), "{function:#}");
    }
}

#[tokio::test]
async fn faas_cli_deploys_shows_calls_and_removes_a_function() {
    let host = host().await;
    let r = Replay(&host);
    assert_eq!(r.json("login").await, json!([]));
    r.send("login-wrong", 401).await;
    for name in ["version"] {
        let info = r.json(name).await;
        for field in
            ["/provider/provider", "/provider/orchestration", "/provider/version/sha", "/version/release"]
        {
            assert!(
                info.pointer(field).and_then(Value::as_str).is_some_and(|text| !text.is_empty()),
                "{field}"
            );
        }
    }
    r.send("ready", 200).await;

    // `deploy` tries an update first, and creates only when that is a 404.
    r.send("deploy-new-1", 404).await;
    r.send("deploy-new-2", 202).await;
    host.ready("recorded").await;
    assert_is_a_function(&r.json("ready-function").await, true);
    for name in ["list", "list-json", "list-verbose-namespace", "describe-2", "describe-namespace-2"] {
        let all = r.json(name).await;
        assert_eq!(all.as_array().unwrap().len(), 1, "{name}");
        assert_is_a_function(&all[0], true);
    }
    for name in ["describe-1", "describe-namespace-1"] {
        assert_is_a_function(&r.json(name).await, true);
    }
    assert_eq!(r.send("invoke", 200).await.body, "hi there");
    assert_eq!(r.send("invoke-namespace", 200).await.body, "hi");
    assert_eq!(r.send("invoke-signed", 200).await.body, "signed");
    r.send("invoke-get", 200).await;

    // `logs` follows, from the first line on, and nobody cuts it.
    let lines = |n: usize| move |text: &str| text.matches('\n').count() >= n;
    let logs = exchange(&host, &recorded("logs", &host), lines(4)).await;
    assert_eq!((logs.status, logs.headers["content-type"].as_str()), (200, "application/x-ndjson"));
    for line in logs.body.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&record["name"], &record["namespace"]), (&json!("recorded"), &json!("openfaas-fn")));
    }
    assert!(r.send("logs-tail", 200).await.body.lines().count() <= 5);

    // `--update=false` on one that is there is refused; `--replace` removes it first, and does not wait.
    r.send("deploy-create-only", 400).await;
    r.send("deploy-replace-1", 202).await;
    r.send("deploy-replace-2", 202).await;
    host.ready("recorded").await;
    r.send("remove-namespace", 202).await;
    r.gone().await;
    r.send("remove", 404).await;
}

#[tokio::test]
async fn a_faas_cli_that_is_not_logged_in_is_refused_or_let_through_as_the_host_is_set() {
    let host = host().await;
    for name in ["list-anonymous", "deploy-anonymous", "version-anonymous", "list-token"] {
        let bytes = recorded(name, &host);
        let blank = replace(&bytes, b"Authorization: Bearer\r\n", b"Authorization: Bearer \r\n");
        for bytes in [bytes, blank] {
            let reply = exchange(&host, &bytes, |_| false).await;
            assert_eq!((reply.status, reply.body.as_str()), (401, "invalid credentials"), "{name}");
            assert_eq!(reply.headers["www-authenticate"], "Basic realm=\"Restricted\"", "{name}");
        }
    }
    let open = host_with(Config { auth: false, ..Config::default() }).await;
    for (name, status) in
        [("list-anonymous", 200), ("version-anonymous", 200), ("list-token", 200), ("deploy-anonymous", 404)]
    {
        let bytes = recorded(name, &open);
        let blank = replace(&bytes, b"Authorization: Bearer\r\n", b"Authorization: Bearer \r\n");
        for bytes in [bytes, blank] {
            assert_eq!(exchange(&open, &bytes, |_| false).await.status, status, "{name}");
        }
    }
}

#[tokio::test]
async fn faas_cli_and_the_sdk_manage_secrets() {
    let host = host().await;
    let r = Replay(&host);
    assert_eq!(r.json("secret-list").await, json!([]));
    r.send("secret-update", 404).await;
    r.send("secret-create-literal", 202).await;
    // A 409 makes `--replace` go on with an update.
    r.send("secret-create-replace-1", 409).await;
    r.send("secret-create-replace-2", 202).await;
    r.send("secret-update", 202).await;
    let listed = json!([{ "name": "recorded-secret", "namespace": "openfaas-fn" }]);
    for name in ["secret-list", "secret-list-namespace", "secret-apply-1", "sdk-secrets"] {
        assert_eq!(r.json(name).await, listed, "{name}");
    }
    r.send("secret-remove", 202).await;
    r.send("secret-remove", 404).await;
    // From a file, the value comes twice: as a text, trimmed, and as it is. The latter counts.
    for (create, value) in [
        ("secret-create-file", b"  \x00\x01binary\xff\n".as_slice()),
        ("secret-create-stdin", b"from stdin"),
        ("secret-apply-2", b"applied\n"),
        ("sdk-secret-create", b"one"),
    ] {
        r.send(create, 202).await;
        let kept = find(&host.dir().join("state"), "recorded-secret");
        assert_eq!(fs::read(&kept).unwrap(), value, "{create}");
        r.send("secret-remove", 202).await;
    }
    r.send("sdk-secret-create", 202).await;
    r.send("sdk-secret-update", 202).await;
    assert_eq!(fs::read(find(&host.dir().join("state"), "recorded-secret")).unwrap(), [0, 1, 2, 255]);
    r.send("sdk-secret-delete", 202).await;
}

/// The file of this name below a directory.
fn find(dir: &std::path::Path, name: &str) -> std::path::PathBuf {
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap().flatten() {
            if entry.file_name() == name {
                return entry.path();
            }
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            }
        }
    }
    panic!("no {name} below {}", dir.display());
}

#[tokio::test]
async fn faas_cli_and_the_sdk_manage_namespaces() {
    let host = host().await;
    let r = Replay(&host);
    assert_eq!(r.json("namespace-list").await, json!(["openfaas-fn"]));
    r.send("namespace-get", 404).await;
    r.send("namespace-create", 201).await;
    let shown =
        json!({ "name": "recorded-ns", "labels": { "openfaas": "1" }, "annotations": { "openfaas": "1" } });
    assert_eq!(r.json("namespace-get").await, shown);
    assert_eq!(r.json("sdk-namespace").await, shown);
    assert_eq!(r.json("sdk-namespaces").await, json!(["openfaas-fn", "recorded-ns"]));
    r.send("namespace-update", 202).await;
    assert_eq!(r.json("namespace-get").await["labels"], json!({ "openfaas": "1", "team": "two" }));
    // It looks for the secret where it was told to.
    r.send("secret-remove-namespace", 404).await;
    r.send("namespace-delete", 202).await;
    r.send("namespace-create-marked", 201).await;
    r.send("namespace-create", 409).await;
    assert_eq!(r.json("namespace-get").await["annotations"], json!({ "note": "x", "openfaas": "1" }));
    r.send("sdk-namespace-update", 202).await;
    r.send("sdk-namespace-delete", 202).await;
    r.send("sdk-namespace-create", 201).await;
    r.send("namespace-delete", 202).await;
    r.send("namespace-get", 404).await;
}

#[tokio::test]
async fn faas_cli_deploys_stack_files_with_everything_in_them() {
    let host = host().await;
    let r = Replay(&host);
    // It names a secret that is not there: the update says so at once, as the creation would.
    let refused = r.send("deploy-stack", 404).await;
    assert_eq!(refused.body, "function: recorded.openfaas-fn not found\n");
    r.send("secret-create-literal", 202).await;
    r.send("sdk-deploy", 202).await;
    host.ready("recorded").await;
    for (name, fields) in [
        (
            "deploy-stack",
            json!({
                "envVars": { "GREETING": "hello" }, "secrets": ["recorded-secret"],
                "annotations": { "note": "{\n  \"json\": true\n}\n", "topic": "payment.received" },
                "labels": { "team": "one", "faas_function": "recorded" },
                "limits": { "memory": "64Mi", "cpu": "500m" }, "requests": { "memory": "5Mi" },
                "readOnlyRootFilesystem": true,
            }),
        ),
        (
            "deploy-full",
            json!({
                "envProcess": "cat", "envVars": { "GREETING": "a=b = c" }, "secrets": ["recorded-secret"],
                "constraints": ["node=a"], "annotations": { "topic": "payment.received" },
                "labels": { "com.openfaas.scale.min": "1", "team": "one", "faas_function": "recorded" },
                "limits": { "memory": "64Mi", "cpu": "500m" }, "requests": { "memory": "5Mi", "cpu": "100m" },
                "readOnlyRootFilesystem": true,
            }),
        ),
    ] {
        r.send(name, 202).await;
        let function = host.ready("recorded").await;
        for (field, value) in fields.as_object().unwrap() {
            assert_eq!(function[field], *value, "{name}: {field}");
        }
    }
}

#[tokio::test]
async fn the_sdk_deploys_scales_and_removes_a_function() {
    let host = host().await;
    let r = Replay(&host);
    r.send("sdk-update", 404).await;
    r.send("sdk-scale", 404).await;
    r.send("sdk-get", 404).await;
    r.send("sdk-deploy", 202).await;
    r.send("sdk-update", 202).await;
    host.ready("recorded").await;
    assert_is_a_function(&r.json("sdk-get").await, true);
    assert_is_a_function(&r.json("sdk-list").await[0], true);
    assert_eq!(r.json("sdk-info").await["provider"]["provider"], "roost");
    assert_eq!(r.send("sdk-invoke", 200).await.headers["x-call-id"].len(), 36);
    for line in r.send("sdk-logs", 200).await.body.lines() {
        assert_eq!(serde_json::from_str::<Value>(line).unwrap()["name"], "recorded");
    }
    for (name, replicas) in [("sdk-scale", 2), ("sdk-scale-zero", 0)] {
        r.send(name, 202).await;
        assert_eq!(r.json("sdk-get").await["replicas"], replicas, "{name}: at once");
    }
    r.send("sdk-delete", 202).await;
    r.gone().await;
    r.send("sdk-delete", 404).await;
}

#[tokio::test]
async fn calls_for_later_of_all_clients_are_taken() {
    let host = host().await;
    let r = Replay(&host);
    for name in ["invoke-async", "sdk-invoke-async", "connector-async-3"] {
        assert_eq!(r.send(name, 404).await.headers["x-openfaas-internal"], "proxy", "{name}: to nobody");
    }
    host.deploy("recorded", IMAGE).await;
    for name in ["invoke-async", "sdk-invoke-async", "connector-async-3"] {
        let reply = r.send(name, 202).await;
        assert_eq!((reply.body.as_str(), reply.headers["x-call-id"].len()), ("", 36), "{name}");
    }
    // Three calls, and the callback of one of them.
    eventually("four calls", || async {
        let lines = host.log_lines("recorded").await;
        (lines.iter().filter(|line| *line == "POST / 200").count() == 4).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_connector_finds_the_function_of_its_topic_and_calls_it() {
    let host = host().await;
    let r = Replay(&host);
    let topic = json!({ "topic": "payment.received" });
    host.post_function(&json!({ "service": "recorded", "image": IMAGE, "annotations": topic })).await;
    host.ready("recorded").await;
    for (namespaces, functions) in
        [("connector-1", "connector-2"), ("connector-async-1", "connector-async-2")]
    {
        assert_eq!(r.json(namespaces).await, json!(["openfaas-fn"]));
        let functions = r.json(functions).await;
        assert_eq!((&functions[0]["name"], &functions[0]["annotations"]), (&json!("recorded"), &topic));
    }
    assert_eq!(r.send("connector-3", 200).await.body, r#"{"paid":1}"#);
    assert_eq!(r.send("connector-async-3", 202).await.body, "");
}

/// Each recording is sent by a test of this file.
#[test]
fn no_recording_is_forgotten() {
    let source = include_str!("recorded.rs");
    for entry in fs::read_dir(repository().join("tests/contract/recorded")).unwrap().flatten() {
        let file = entry.file_name().into_string().unwrap();
        let sent = |name: &str| source.contains(&format!("\"{name}\""));
        assert!(file.strip_suffix(".http").is_none_or(sent), "{file}");
    }
}
