//! The access log of a host, and the compression of a function's answers.

use std::fs;

use hyper::{Method, StatusCode};
use roost_tests::{Answer, Config, Host, Socket, body_of, eventually};
use serde_json::{Value, json};

fn lines(host: &Host) -> Vec<Value> {
    let text = fs::read_to_string(host.dir().join("access.log")).unwrap();
    // A batch is written in one go, but may be read before its end.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

/// Waits for the line of a call, of this kind.
async fn line(host: &Host, kind: &str, call_id: &str) -> Value {
    eventually("the line of a call", || async {
        let of_it = |line: &Value| line["kind"] == kind && line["call_id"] == call_id;
        let mut found: Vec<_> = lines(host).into_iter().filter(of_it).collect();
        assert!(found.len() < 2, "{found:?}");
        found.pop()
    })
    .await
}

async fn send(host: &Host, path: &str, body: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = host.api.request(&Method::POST, path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    host.api.try_send(request.body(body_of(body.to_owned())).unwrap()).await.unwrap()
}

#[tokio::test]
async fn requests_tunnels_and_calls_of_a_host_are_told_of() {
    let mut host = Host::with_echo(Config { access_log: true, ..Config::default() }).await;
    host.deploy("echo", "echo:1").await;
    let (replica, _) = host.process_of("echo");
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers =
        [("x-call-id", "one"), ("traceparent", parent), ("cookie", "biscuit=1"), ("user-agent", "me")];
    let answer = send(&host, "/function/echo/headers?token=hush", "hello", &headers).await;
    let one = line(&host, "request", "one").await;
    for (field, value) in [
        ("function", json!("echo.openfaas-fn")),
        ("method", json!("POST")),
        ("path", json!("/function/echo/headers")),
        ("protocol", json!("HTTP/1.1")),
        ("status", json!(200)),
        ("bytes_in", json!(5)),
        ("bytes_out", json!(answer.body.len())),
        ("replica", json!(replica)),
        ("user_agent", json!("me")),
        ("trace_id", json!("4bf92f3577b34da6a3ce929d0e0e4736")),
        ("parent_id", json!("00f067aa0ba902b7")),
    ] {
        assert_eq!(one[field], value, "{field} of {one}");
    }
    let span = one["span_id"].as_str().unwrap();
    let seen = format!("traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-{span}-01");
    assert!(answer.text().lines().any(|line| line == seen), "{seen} in {}", answer.text());
    assert!(one["peer"].as_str().unwrap().starts_with("127.0.0.1:"));

    let mut socket = Socket::try_open(&host, "/function/echo", &[("x-call-id", "two")]).await.unwrap();
    assert_eq!(line(&host, "request", "two").await["status"], 101);
    socket.echoes("hi").await;
    socket.leave().await;
    let tunnel = line(&host, "tunnel", "two").await;
    assert_eq!((&tunnel["messages_in"], &tunnel["messages_out"]), (&json!(1), &json!(1)), "{tunnel}");
    assert_eq!((&tunnel["replica"], &tunnel["category"]), (&json!(replica), &json!("normal")), "{tunnel}");

    let later = send(&host, "/async-function/echo/later", "hi", &[("x-call-id", "three")]).await;
    assert_eq!(later.status, StatusCode::ACCEPTED);
    let call = line(&host, "call", "three").await;
    assert_eq!((&call["path"], &call["status"]), (&json!("/later"), &json!(200)), "{call}");
    let taken = line(&host, "request", "three").await;
    assert_eq!((&taken["status"], &taken["trace_id"]), (&json!(202), &call["trace_id"]), "{taken} {call}");

    let before = lines(&host);
    let api = |line: &Value| line["path"] == "/system/functions" && line["status"] == 202;
    assert!(before.iter().any(api), "{before:?}");
    host.restart().await;
    assert_eq!(lines(&host)[..before.len()], before, "what was written stays");
    host.assert_echoes("echo").await;
    let text = fs::read_to_string(host.dir().join("access.log")).unwrap();
    for secret in [host.password(), "hush", "biscuit", "Basic"] {
        assert!(!text.contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn a_function_says_whether_its_answers_are_compressed_and_keeps_its_replica() {
    let host = Host::with_echo(Config::default()).await;
    let deployment = |compression: &str| json!({ "service": "echo", "image": "echo:1", "annotations": { "roost.compression": compression } });
    host.deployed(&deployment("gzip")).await;
    let (replica, _) = host.process_of("echo");
    let text = "the same again and again ".repeat(1000);
    let headers = [("accept-encoding", "gzip"), ("content-type", "text/plain")];
    let answer = send(&host, "/function/echo/x", &text, &headers).await;
    assert_eq!((answer.header("content-encoding"), answer.header("vary")), ("gzip", "accept-encoding"));
    let mut unpacked = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&*answer.body), &mut unpacked).unwrap();
    assert_eq!(unpacked, text);
    assert!(answer.body.len() < text.len() / 10);

    host.put_function(&deployment("off")).await;
    eventually("answers as they are", || async {
        let answer = send(&host, "/function/echo/x", &text, &headers).await;
        (answer.header("content-encoding").is_empty()).then(|| assert_eq!(answer.text(), text))
    })
    .await;
    assert_eq!(host.process_of("echo").0, replica);
    let refused = host.api.send(Method::PUT, "/system/functions", deployment("br").to_string()).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(refused.text().contains("annotations.roost.compression"), "{}", refused.text());
}
