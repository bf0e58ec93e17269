//! WebSockets that the host holds, by clients that others wrote: Python `websockets` and npm `ws`, both as their users have them.

use std::path::Path;

use roost_tests::{Host, NodeApp, Runner, clients, eventually};
use serde_json::json;

const NAME: &str = "held";

/// How the connections of a client's script end, as the function is told of it. One of those that are too
/// long is compressed if `deflate`.
fn ends_of(deflate: bool) -> [String; 4] {
    let compressed = if deflate { "compressed " } else { "" };
    [
        "gone 1009 by host: a message is too long".to_owned(),
        format!("gone 1009 by host: a {compressed}message is too long"),
        "gone 4001 by client: bye".to_owned(),
        "gone 4002 by function: enough".to_owned(),
    ]
}

/// What the function has heard of ends, in order, once it has heard of so many.
async fn ends(host: &Host, count: usize) -> Vec<String> {
    eventually("the ends of all connections", || async {
        let mut lines = host.log_lines(NAME).await;
        lines.retain(|line| line.starts_with("gone "));
        lines.sort_unstable();
        (lines.len() >= count).then_some(lines)
    })
    .await
}

#[tokio::test]
async fn python_websockets_and_node_ws_talk_to_a_function_that_knows_no_websocket() {
    let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/held/server.mjs");
    let place = tempfile::tempdir().unwrap();
    let app = NodeApp::new(place.path(), &[(&server, "server.js")]).await;
    let host = app.host().await;
    let mut deployment = app.deployment(
        NAME,
        json!({
            "roost.websocket": "events",
            "roost.websocket.events": "connect,message,disconnected",
            "roost.websocket.keepalive": "1s",
        }),
    );
    host.deployed(&deployment).await;
    let url = format!("ws://127.0.0.1:{}/function/{NAME}", host.port());
    let clients = clients().await;
    let mut expected = Vec::new();
    for deflate in [false, true] {
        if deflate {
            deployment["annotations"]["roost.websocket.compression"] = json!("deflate");
            host.put_function(&deployment).await;
            host.ready(NAME).await;
        }
        for runner in [Runner::Python, Runner::Node] {
            clients.run_held(runner, &url, deflate).await;
            expected.extend(ends_of(deflate));
            expected.sort_unstable();
            assert_eq!(ends(&host, expected.len()).await, expected, "{runner:?}, {deflate}");
        }
    }
}
