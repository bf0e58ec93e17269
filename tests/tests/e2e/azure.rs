//! The middleware of Azure Web PubSub's users, unmodified, as the function behind WebSockets that are held here.

use std::path::Path;

use hyper::{Method, StatusCode};
use roost_tests::{Message, NodeApp, Socket, eventually};
use serde_json::json;

/// The name of the function, and of its hub.
const NAME: &str = "chat";

/// Where Azure's middleware takes events of this hub, unless it is told another place.
const PATH: &str = "/api/webpubsub/hubs/chat/";

async fn heard(socket: &mut Socket) -> String {
    match socket.next().await {
        Some(Ok(Message::Text(text))) => text.to_string(),
        other => panic!("expected a text, got {other:?}"),
    }
}

#[tokio::test]
async fn azures_middleware_is_told_of_all_that_happens_and_its_signatures_follow_the_secret() {
    let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/azure/server.mjs");
    let place = tempfile::tempdir().unwrap();
    let app = NodeApp::new(place.path(), &[(&server, "server.js")]).await;
    let host = app.host().await;
    for (name, value) in [("primary", "one\n"), ("secondary", "two")] {
        let secret = json!({ "name": name, "value": value }).to_string();
        assert_eq!(host.api.post("/system/secrets", secret).await.status, StatusCode::ACCEPTED);
    }
    let annotations = json!({
        "roost.websocket": "events",
        "roost.websocket.events": "connect,connected,message,disconnected",
        "roost.websocket.path": PATH,
        "roost.websocket.signing": "primary,secondary",
        "roost.websocket.validate": "true",
    });
    let mut deployment = app.deployment(NAME, annotations);
    deployment["secrets"] = json!(["primary", "secondary"]);
    host.deployed(&deployment).await;

    let refused = Socket::try_open(&host, "/function/chat", &[]).await.unwrap_err();
    assert_eq!(refused, StatusCode::UNAUTHORIZED);
    let protocols = [("sec-websocket-protocol", "a, b")];
    let mut ada = Socket::try_open(&host, "/function/chat?name=ada", &protocols).await.unwrap();
    assert_eq!(ada.header("sec-websocket-protocol"), "a");
    ada.says("hello").await;
    assert_eq!(heard(&mut ada).await, "ada said text 1: hello");
    ada.says("again").await;
    assert_eq!(heard(&mut ada).await, "ada said text 2: again", "its state comes back to it");
    // The groups and the user that it said are those of the connection.
    let sent = host.api.post("/system/groups/all", "to all").await;
    assert_eq!((sent.status, heard(&mut ada).await), (StatusCode::OK, "to all".to_owned()));

    // Another secret counts at once, for connections that are open as well.
    let secret = json!({ "name": "primary", "value": "three" }).to_string();
    let updated = host.api.send(Method::PUT, "/system/secrets", secret).await;
    assert_eq!(updated.status, StatusCode::ACCEPTED);
    ada.says("third").await;
    assert_eq!(heard(&mut ada).await, "ada said text 3: third");
    ada.leave().await;
    for line in ["asked by roost", "connected ada", "disconnected ada"] {
        eventually(line, || async {
            host.log_lines(NAME).await.iter().any(|said| said == line).then_some(())
        })
        .await;
    }

    let asked = host.log_lines(NAME).await.iter().filter(|line| *line == "asked by roost").count();
    assert_eq!(asked, 1, "once for a revision");

    // Without the signature nobody is let in: so it was looked at.
    deployment["annotations"]["roost.websocket.signing"] = json!("secondary");
    host.put_function(&deployment).await;
    host.ready(NAME).await;
    let refused = eventually("a refusal", || async {
        Socket::try_open(&host, "/function/chat?name=ada", &[]).await.err()
    })
    .await;
    assert_eq!(refused, StatusCode::FORBIDDEN);
}
