//! Whatever is sent, the answer is the contract's, nothing leaks and nothing dies.

use std::time::Duration;

use hyper::{Method, StatusCode};
use roost_tests::{Api, Config, Host, Image, PATIENCE, Registry, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn deployments_that_make_no_sense_are_refused_whole() {
    let host = Host::start().await;
    let long = "a".repeat(64);
    let good = "127.0.0.1:1/echo:1";
    let bad = [
        json!({ "service": 5, "image": good }),
        json!({ "service": "a", "image": ["b"] }),
        json!({ "service": "a", "image": good, "labels": ["x"] }),
        json!({ "service": "a", "image": good, "envVars": { "A": 1 } }),
        json!({ "service": "a", "image": good, "secrets": "one" }),
        json!({ "service": "a", "image": good, "readOnlyRootFilesystem": "yes" }),
        json!({ "service": "a", "image": good, "limits": [] }),
        json!({ "service": "Bad_Name", "image": good }),
        json!({ "service": "../etc", "image": good }),
        json!({ "service": long, "image": good }),
        json!({ "service": "", "image": good }),
        json!({ "image": good }),
        json!({ "service": "a" }),
        json!({ "service": "a", "image": "" }),
        json!({ "service": "a", "image": "UPPER/case:1" }),
        json!({ "service": "a", "image": "with space" }),
        json!({ "service": "a", "image": "a@sha256:short" }),
        json!({ "service": "a", "image": good, "namespace": "Bad_NS" }),
        json!({ "service": "a", "image": good, "namespace": "does-not-exist" }),
        json!({ "service": "a", "image": good, "limits": { "memory": "lots" } }),
        json!({ "service": "a", "image": good, "limits": { "memory": "-5Mi" } }),
        json!({ "service": "a", "image": good, "limits": { "cpu": "many" } }),
        json!({ "service": "a", "image": good, "limits": { "memory": 5 } }),
        json!({ "service": "a", "image": good, "secrets": ["does-not-exist"] }),
        json!({ "service": "a", "image": good, "envVars": { "A=B": "c" } }),
        json!({ "service": "a", "image": good, "envVars": { "A": "nul\u{0}byte" } }),
        json!([]),
        json!(null),
    ];
    let mut wrong = Vec::new();
    let bodies = bad.iter().map(Value::to_string);
    for body in bodies
        .chain(["", "{", "not json", "{\"service\": \"a\", \"image\": \"b\"} trailing"].map(str::to_owned))
    {
        let answer = host.api.post("/system/functions", body.clone()).await;
        let told = answer.text().ends_with('\n') && answer.text().len() > 5;
        let text = answer.header("content-type").starts_with("text/plain");
        if answer.status != StatusCode::BAD_REQUEST || !told || !text {
            wrong.push(format!(
                "{body}: {} {:?} {:?}",
                answer.status,
                answer.header("content-type"),
                answer.text()
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(host.api.get("/system/functions").await.json(), json!([]), "nothing was deployed");
}

#[tokio::test]
async fn all_mistakes_of_a_deployment_are_told_at_once() {
    let host = Host::start().await;
    let body = json!({ "service": "Bad_Name", "image": "UPPER", "limits": { "memory": "lots" } }).to_string();
    let answer = host.api.post("/system/functions", body).await;
    for part in ["Bad_Name", "UPPER", "lots"] {
        assert!(answer.text().contains(part), "{part}: {}", answer.text());
    }
}

#[tokio::test]
async fn the_unknown_is_not_found_and_the_malformed_refused() {
    let host = Host::start().await;
    let mut wrong = Vec::new();
    for (method, path, body, status) in [
        (Method::GET, "/system/function/nobody", "", 404),
        (Method::DELETE, "/system/functions", r#"{"functionName":"nobody"}"#, 404),
        (Method::DELETE, "/system/functions", "", 400),
        (Method::DELETE, "/system/functions", "{", 400),
        (Method::DELETE, "/system/functions", "{}", 400),
        (Method::POST, "/system/scale-function/nobody", r#"{"replicas":2}"#, 404),
        (Method::PUT, "/system/functions", "{", 400),
        (Method::GET, "/system/functions?namespace=Bad_NS", "", 400),
        (Method::GET, "/system/nothing", "", 404),
        (Method::GET, "/nothing", "", 404),
        (Method::PATCH, "/system/functions", "", 405),
        (Method::DELETE, "/healthz", "", 405),
        (Method::DELETE, "/system/images?name=nothing:1", "", 404),
        (Method::POST, "/system/images?name=UPPER", "x", 400),
        (Method::GET, "/function/", "", 404),
    ] {
        let answer = host.api.send(method.clone(), path, body).await;
        if answer.status.as_u16() != status {
            wrong.push(format!(
                "{method} {path} {body}: {} instead of {status}: {:?}",
                answer.status,
                answer.text()
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn paths_that_lead_nowhere_are_answered_as_the_contract_says() {
    let host = Host::start().await;
    let text = "text/plain; charset=utf-8";
    let page = "text/html; charset=utf-8";
    for (method, path, status, location, kind, body) in [
        (Method::GET, "/nothing", 404, "", text, Some("404 page not found\n")),
        (Method::GET, "/system/nothing", 404, "", text, Some("404 page not found\n")),
        (Method::GET, "/ui/nothing", 404, "", text, Some("404 page not found\n")),
        (Method::GET, "/metrics", 404, "", text, Some("404 page not found\n")),
        (Method::PATCH, "/system/functions", 405, "", "", Some("")),
        (Method::GET, "/system/scale-function/nobody", 405, "", "", Some("")),
        (Method::TRACE, "/function/nobody", 405, "", "", Some("")),
        (Method::GET, "/system//functions?namespace=a", 301, "/system/functions?namespace=a", "", Some("")),
        (Method::POST, "/system/./functions", 301, "/system/functions", "", Some("")),
        (Method::GET, "/function/../system/info", 301, "/system/info", "", Some("")),
        (Method::GET, "/ui/../healthz", 301, "/healthz", "", Some("")),
        (Method::HEAD, "/healthz", 200, "", "", Some("")),
        (Method::GET, "/", 307, "/ui/", "", Some("")),
        (Method::GET, "/ui/", 200, "", page, None),
        (Method::GET, "/function/nobody//system/../x", 404, "", text, None),
    ] {
        let answer = host.api.send(method.clone(), path, "").await;
        let found = (answer.status.as_u16(), answer.header("location"), answer.header("content-type"));
        assert_eq!(found, (status, location, kind), "{method} {path}");
        assert!(body.is_none_or(|body| body == answer.text()), "{method} {path}: {}", answer.text());
        assert!(answer.headers.get("allow").is_none(), "{method} {path}");
    }
    let page = host.api.get("/ui/").await;
    assert!(page.text().contains("Roost") && page.text().contains("/system/info"), "{}", page.text());
    for (name, value) in
        [("headers", "Content-Type"), ("methods", "GET"), ("origin", "raw.githubusercontent.com")]
    {
        assert_eq!(page.header(&format!("access-control-allow-{name}")), value);
    }
    let nobody = Api::new(host.port(), None);
    for path in ["/ui/", "/ui/nothing", "/system/nothing"] {
        let answer = nobody.get(path).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (401, "invalid credentials"), "{path}");
    }
    assert_eq!(nobody.get("/").await.status.as_u16(), 307, "tells no secret");
}

#[tokio::test]
async fn nobody_gets_in_without_the_password() {
    let host = Host::start().await;
    let right = host.password().to_owned();
    let mut longer = right.clone();
    longer.push('x');
    for login in [
        None,
        Some(("admin", "")),
        Some(("admin", "wrong")),
        Some(("admin", &right[1..])),
        Some(("admin", longer.as_str())),
        Some(("root", right.as_str())),
        Some(("", right.as_str())),
    ] {
        let api = Api::new(host.port(), login);
        for (method, path) in [
            (Method::GET, "/system/functions"),
            (Method::POST, "/system/functions"),
            (Method::GET, "/system/info"),
            (Method::GET, "/system/logs?name=echo"),
            (Method::GET, "/system/images"),
            (Method::GET, "/system/nothing"),
        ] {
            let answer = api.send(method.clone(), path, "").await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{login:?} {method} {path}");
            assert!(answer.header("www-authenticate").starts_with("Basic"), "{login:?} {method} {path}");
        }
        assert_eq!(api.get("/healthz").await.status, StatusCode::OK, "needs no password");
    }
    let info = host.api.get("/system/info").await.json();
    for field in [
        "/provider/provider",
        "/provider/orchestration",
        "/provider/version/sha",
        "/provider/version/release",
        "/version/release",
        "/arch",
    ] {
        assert!(
            info.pointer(field).and_then(Value::as_str).is_some_and(|text| !text.is_empty()),
            "{field}: {info:#}"
        );
    }
}

async fn echo_with(config: Config) -> (Registry, Host) {
    let registry = Registry::open().await;
    let image = registry.push(&Image::echo(), "echo", "1").await;
    let host = Host::start_with(config).await;
    host.deploy("echo", &image).await;
    (registry, host)
}

/// Reads what comes until the other side closes.
async fn rest(stream: &mut TcpStream) -> String {
    ended(stream, PATIENCE).await.expect("the connection is closed")
}

/// Reads what comes until the other side closes; nothing when it does not.
async fn ended(stream: &mut TcpStream, patience: Duration) -> Option<String> {
    let mut bytes = Vec::new();
    // A reset is an end, too.
    tokio::time::timeout(patience, stream.read_to_end(&mut bytes)).await.ok()?.ok();
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test]
async fn a_header_without_end_is_cut_off() {
    const GIB: usize = 1 << 30;
    let (_registry, host) = echo_with(Config::default()).await;
    let before = host.daemon_memory();
    for begin in [
        "GET /function/echo HTTP/1.1\r\nHost: x\r\nX-Long: ",
        "GET /function/echo?",
        "GET /system/functions HTTP/1.1\r\nHost: x\r\nA: b\r\nX: ",
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", host.port())).await.unwrap();
        stream.write_all(begin.as_bytes()).await.unwrap();
        let block = vec![b'x'; 64 * 1024];
        let mut sent = 0;
        while sent < GIB && stream.write_all(&block).await.is_ok() {
            sent += block.len();
        }
        assert!(sent < 64 << 20, "{sent} bytes of a header were taken");
        let answer = rest(&mut stream).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    // Many small ones are no better.
    let mut stream = TcpStream::connect(("127.0.0.1", host.port())).await.unwrap();
    stream.write_all(b"GET /function/echo HTTP/1.1\r\nHost: x\r\n").await.unwrap();
    let lines = "X-A: b\r\n".repeat(8192);
    let mut sent = 0;
    while sent < GIB && stream.write_all(lines.as_bytes()).await.is_ok() {
        sent += lines.len();
    }
    assert!(sent < 64 << 20, "{sent} bytes of headers were taken");
    assert!(host.daemon_memory() < before + 20 * 1024, "{} KiB, before {before}", host.daemon_memory());
    host.assert_echoes("echo").await;
}

#[tokio::test]
async fn half_a_request_is_given_up_and_leaves_nothing() {
    let (_registry, host) = echo_with(Config { header_timeout: "1s", ..Config::default() }).await;
    host.assert_echoes("echo").await;
    let files = host.daemon_files();
    let mut streams = Vec::new();
    for half in ["GET", "GET /function/echo HTTP/1.1\r\nHost: x\r\n", "GET /function/echo HTTP/1.1\r\nHo"] {
        let mut stream = TcpStream::connect(("127.0.0.1", host.port())).await.unwrap();
        stream.write_all(half.as_bytes()).await.unwrap();
        streams.push((half, stream));
    }
    let mut open = Vec::new();
    for (half, stream) in &mut streams {
        match ended(stream, PATIENCE / 4).await {
            Some(answer) => {
                assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{half:?}: {answer}");
            }
            None => open.push(*half),
        }
    }
    assert!(open.is_empty(), "still open behind: {open:?}");
    // Half a body, and away: the function is told, and the call is not counted for ever.
    for _ in 0..20 {
        let mut stream = TcpStream::connect(("127.0.0.1", host.port())).await.unwrap();
        let head = "POST /function/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nten bytes.";
        stream.write_all(head.as_bytes()).await.unwrap();
    }
    drop(streams);
    eventually("the end of all connections", || async { (host.daemon_files() <= files + 4).then_some(()) })
        .await;
    host.assert_echoes("echo").await;
}

#[tokio::test]
async fn what_is_no_http_is_refused() {
    let (_registry, host) = echo_with(Config::default()).await;
    for bytes in [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(),
        b"HELO mail\r\n\r\n",
        b"GET /function/echo HTTP/9.9\r\n\r\n",
        b"POST /function/echo HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
        b"POST /function/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST /function/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnot hex\r\n",
        b"GET /function/echo HTTP/1.1\r\nHost: x\r\nBad Name: x\r\n\r\n",
        &[0; 100],
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", host.port())).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(!answer.starts_with("HTTP/1.1 2"), "{}: {answer}", bytes.escape_ascii());
    }
    host.assert_echoes("echo").await;
}

#[tokio::test]
async fn paths_do_not_lead_out_of_a_function() {
    let (_registry, host) = echo_with(Config::default()).await;
    for path in [
        "/function/echo/../../system/functions",
        "/function/../system/functions",
        "/function/%2e%2e/system/info",
    ] {
        let answer = Api::new(host.port(), None).get(path).await;
        assert!(!answer.text().contains("provider"), "{path}: {}", answer.text());
        assert!(!answer.text().starts_with('['), "{path}: {}", answer.text());
    }
}
