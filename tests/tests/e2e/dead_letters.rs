//! What a function could not be brought to deal with: kept over a crash, shown, sent again, removed.

use hyper::{Method, StatusCode};
use roost_tests::{Api, Config, Example, Host, Message, Socket, eventually};
use serde_json::{Value, json};

/// A function that fails with all it is told, or, once it is repaired, answers it.
fn chat(repaired: bool) -> Value {
    let annotations = json!({
        "roost.websocket": "events",
        "roost.websocket.on-error": "ignore",
        "roost.websocket.retries": "0",
    });
    let environment = if repaired { json!({ "REPAIRED": "yes" }) } else { json!({}) };
    json!({ "service": "chat", "image": "chat", "annotations": annotations, "envVars": environment })
}

async fn host() -> Host {
    let host = Host::start_with(Config::default()).await;
    Example::Shell.archive().await;
    let root = Example::Shell.dir().join("rootfs");
    host.log_in().await;
    let script = r#"[ "$REPAIRED" = yes ] || exit 1; cat"#;
    let command = json!(["/bin/watchdog", "/bin/sh", "-c", script]).to_string();
    host.roost_done(&["image", "build", root.to_str().unwrap(), "-t", "chat", "--cmd", &command]).await;
    host.post_function(&chat(false)).await;
    host.was_up("chat").await;
    host
}

async fn letters(host: &Host, query: &str) -> Vec<Value> {
    let answer = host.api.get(&format!("/system/deadletters{query}")).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.json()["letters"].as_array().unwrap().clone()
}

/// Waits until there are so many, and returns their ids.
async fn ids(host: &Host, count: usize) -> Vec<String> {
    let all = eventually("the dead letters", || async {
        Some(letters(host, "").await).filter(|all| all.len() == count)
    })
    .await;
    all.iter().map(|letter| letter["id"].as_str().unwrap().to_owned()).collect()
}

async fn post(host: &Host, path: &str) -> (StatusCode, String) {
    let answer = host.api.post(&format!("/system/deadletters/{path}"), "").await;
    (answer.status, answer.text().to_owned())
}

#[tokio::test]
async fn what_a_function_failed_with_is_kept_over_a_crash_and_sent_again_when_it_is_repaired() {
    let mut host = host().await;
    let mut socket = Socket::open(&host, "/function/chat/room?token=hidden").await;
    for text in ["one", "two", "three"] {
        socket.says(text).await;
    }
    let all = ids(&host, 3).await;
    let shown = letters(&host, "?function=chat&limit=1").await.remove(0);
    assert_eq!(
        json!([
            shown["kind"],
            shown["event"],
            shown["reason"],
            shown["status"],
            shown["attempts"],
            shown["path"]
        ]),
        json!(["event", "message", "failed", 500, 1, "/room"])
    );
    let whole = host.api.get(&format!("/system/deadletters/{}", all[0])).await.json();
    assert_eq!(json!([whole["body"], whole["isBase64Encoded"], whole["size"]]), json!(["one", false, 3]));
    let connections = host.api.get("/system/connections").await.json();
    assert_eq!(whole["connection"], connections["connections"][0]["id"]);

    // It fails again, and has been tried once more.
    let (status, why) = post(&host, &format!("{}/redrive", all[0])).await;
    assert_eq!((status, why.as_str()), (StatusCode::BAD_GATEWAY, "chat.openfaas-fn: it answered 500\n"));
    assert_eq!(letters(&host, "").await[0]["attempts"], 2);

    host.put_function(&chat(true)).await;
    host.was_up("chat").await;
    let (status, told) = post(&host, &format!("{}/redrive", all[0])).await;
    assert_eq!(status, StatusCode::OK, "{told}");
    assert_eq!(serde_json::from_str::<Value>(&told).unwrap(), json!({ "id": all[0], "delivered": true }));
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("one"));
    assert_eq!(post(&host, &format!("{}/redrive", all[0])).await.0, StatusCode::NOT_FOUND, "it is gone");

    // What is left outlives the daemon, and the connection.
    host.kill9();
    host.start_daemon().await;
    host.ready("chat").await;
    assert_eq!(ids(&host, 2).await, all[1..]);
    let (_, told) = post(&host, &format!("{}/redrive", all[1])).await;
    assert_eq!(serde_json::from_str::<Value>(&told).unwrap()["delivered"], false);
    let (status, told) = post(&host, "redrive?function=chat").await;
    assert_eq!((status, told.as_str()), (StatusCode::OK, r#"{"redriven":1,"failed":0}"#));
    assert!(letters(&host, "").await.is_empty());
}

#[tokio::test]
async fn letters_come_in_pages_are_counted_and_removed_by_api_and_by_what_is_typed() {
    let host = host().await;
    let mut socket = Socket::open(&host, "/function/chat").await;
    for number in 0..5 {
        socket.says(&number.to_string()).await;
    }
    let all = ids(&host, 5).await;
    let page = host.api.get("/system/deadletters?limit=2").await.json();
    assert_eq!(page["next"], json!(all[1]));
    let rest = letters(&host, &format!("?limit=1000&after={}", all[1])).await;
    assert_eq!(rest.iter().map(|letter| letter["id"].clone()).collect::<Vec<_>>(), all[2..]);

    for (path, status) in [
        ("?limit=0", StatusCode::BAD_REQUEST),
        ("?after=x", StatusCode::BAD_REQUEST),
        ("?namespace=none", StatusCode::BAD_REQUEST),
        ("?function=UPPER", StatusCode::BAD_REQUEST),
        ("?function=gone", StatusCode::OK),
        ("/nothing", StatusCode::NOT_FOUND),
    ] {
        assert_eq!(host.api.get(&format!("/system/deadletters{path}")).await.status, status, "{path}");
    }
    assert_eq!(post(&host, "redrive").await.0, StatusCode::BAD_REQUEST);
    assert_eq!(post(&host, "redrive?function=gone").await.0, StatusCode::NOT_FOUND);
    let without = host.api.send(Method::DELETE, "/system/deadletters", "").await;
    assert_eq!(without.status, StatusCode::BAD_REQUEST, "not all of them by a slip");
    let stranger = Api::new(host.port(), None);
    assert_eq!(stranger.get("/system/deadletters").await.status, StatusCode::UNAUTHORIZED);

    let expected = [
        r#"ws_dead_letters_total{function_name="chat.openfaas-fn",reason="failed"} 5"#,
        r#"roost_dead_letters{function_name="chat.openfaas-fn"} 5"#,
    ];
    let page = Api::new(host.metrics_port(), None).get("/metrics").await;
    assert!(expected.iter().all(|line| page.text().lines().any(|one| one == *line)), "{}", page.text());

    let table = host.roost_done(&["deadletters", "list", "--function", "chat"]).await;
    assert!(all.iter().all(|id| table.contains(id.as_str())) && table.contains("it answered 500"), "{table}");
    let shown = host.roost_done(&["deadletters", "show", &all[3]]).await;
    assert!(shown.contains("chat.openfaas-fn") && shown.ends_with("\n3\n"), "{shown}");
    assert_eq!(host.roost_done(&["deadletters", "show", &all[3], "--body"]).await, "3");
    let failed = host.roost(&["deadletters", "redrive", &all[0]]).await;
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(failed.stderr.contains("it answered 500"), "{failed:?}");
    host.roost_done(&["deadletters", "rm", &all[0], &all[1]]).await;
    let gone = host.api.send(Method::DELETE, &format!("/system/deadletters/{}", all[0]), "").await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);

    host.put_function(&chat(true)).await;
    host.was_up("chat").await;
    let one = host.api.send(Method::DELETE, &format!("/system/deadletters/{}", all[2]), "").await;
    assert_eq!(one.status, StatusCode::NO_CONTENT);
    let told = host.roost_done(&["deadletters", "redrive", "--function", "chat"]).await;
    assert_eq!(told.trim(), "Dealt with 2, failed 0");
    for text in ["3", "4"] {
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
    }
    assert_eq!(host.roost_done(&["deadletters", "rm", "--function", "chat"]).await.trim(), "Removed 0");
}
