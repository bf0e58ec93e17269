//! Limits of a function's own: how long its calls and its WebSockets may take, and how these end.

use hyper::{Method, StatusCode};
use roost_tests::{Config, ECHO, Host, Image, Socket};
use serde_json::{Value, json};

/// A function that answers after two seconds.
fn slow() -> Image {
    let answer = "#!/bin/sh\nbusybox sleep 2\nprintf \"Status: 200 OK\\r\\n\\r\\ndone\"\n";
    Image::script(&format!(
        "busybox mkdir -p /www/cgi-bin
         busybox cat >/www/cgi-bin/slow <<'EOF'\n{answer}EOF
         busybox chmod +x /www/cgi-bin/slow
         exec busybox httpd -f -p 8080 -h /www"
    ))
}

#[tokio::test]
async fn limits_of_a_function_count_at_once_and_replace_no_replica() {
    let host = Host::start().await;
    host.import(&slow(), "slow:1").await;
    let body =
        |annotations: Value| json!({ "service": "slow", "image": "slow:1", "annotations": annotations });
    host.deployed(&body(json!({ "roost.timeout.request": "1s" }))).await;
    let process = host.process_of("slow");
    for (annotations, status, limit) in [
        (None, StatusCode::BAD_GATEWAY, "request"),
        (Some(json!({ "roost.timeout.header": "1" })), StatusCode::BAD_GATEWAY, "header"),
        (Some(json!({ "roost.timeout.request": "48h" })), StatusCode::OK, ""),
    ] {
        if let Some(annotations) = annotations {
            host.put_function(&body(annotations)).await;
        }
        let answer = host.api.get("/function/slow/cgi-bin/slow").await;
        assert_eq!((answer.status, answer.header("x-roost-timeout")), (status, limit), "{}", answer.text());
    }
    host.has_ready("slow", 1).await;
    assert_eq!(host.process_of("slow"), process);
    // What makes no sense is refused by its name; of the environment it is told.
    let wrong = body(json!({ "roost.timeout.request": "soon", "roost.websocket.keepalive": "1ms" }));
    let answer = host.api.send(Method::PUT, "/system/functions", wrong.to_string()).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    for name in ["annotations.roost.timeout.request", "annotations.roost.websocket.keepalive"] {
        assert!(answer.text().contains(name), "{}", answer.text());
    }
    let strange = json!({ "service": "slow", "image": "slow:1", "envVars": { "exec_timeout": "soon" } });
    host.put_function(&strange).await;
    let warnings = host.function("slow").await["status"]["warnings"].to_string();
    assert!(warnings.contains("envVars.exec_timeout: not heeded here"), "{warnings}");
}

#[tokio::test]
async fn sockets_end_by_age_by_a_message_too_long_and_by_whoever_asks_for_it() {
    let host = Host::with_echo(Config::default()).await;
    let annotations =
        |name: &str, value: &str| json!({ "service": "echo", "image": ECHO, "annotations": { name: value } });
    host.deployed(&annotations("roost.websocket.max-message", "1Ki")).await;
    let mut socket = Socket::open(&host, "/function/echo").await;
    socket.echoes(&"x".repeat(1024)).await;
    socket.says(&"x".repeat(1025)).await;
    assert_eq!(socket.closed().await, (1009, "message too big".to_owned()));
    // Those that are open keep to what held when they opened.
    let mut old = Socket::open(&host, "/function/echo").await;
    host.put_function(&annotations("roost.timeout.lifetime", "1s")).await;
    host.has_ready("echo", 1).await;
    let mut young = Socket::open(&host, "/function/echo").await;
    assert_eq!(young.closed().await, (1001, "lifetime".to_owned()));
    old.echoes("still here").await;
    // Those that were told and have not gone are still counted.
    drop((socket, young));
    host.status("echo", "one connection", |status| status["replicas"][0]["connections"] == 1).await;
    let close = "/system/function/echo/connections?code=4001&reason=moved%20on";
    let answer = host.api.send(Method::DELETE, close, "").await;
    assert_eq!((answer.status, answer.json()), (StatusCode::OK, json!({ "closed": 1 })));
    assert_eq!(old.closed().await, (4001, "moved on".to_owned()));
    for (call, status) in [
        ("/system/function/nobody/connections", StatusCode::NOT_FOUND),
        ("/system/function/echo/connections?code=x", StatusCode::BAD_REQUEST),
    ] {
        let answer = host.api.send(Method::DELETE, call, "").await;
        assert_eq!(answer.status, status, "{call}: {}", answer.text());
    }
}
