//! What a WebSocket API does, by serverless-offline: the same handler and the same clients have the same to tell under it and
//! under Roost, but for ids and times.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use roost_tests::{Example, NodeApp, PATIENCE, free_port};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

/// Installs serverless-offline, and returns where it is.
async fn installed() -> PathBuf {
    let setup = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/oracle/setup");
    let output = Command::new(setup).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// What the clients see at `url`, line by line.
async fn transcript(dir: &Path, url: &str) -> Vec<String> {
    let mut command = Command::new("node");
    command.arg(dir.join("script.mjs")).arg(url).stdin(Stdio::null()).kill_on_drop(true);
    let output =
        tokio::time::timeout(PATIENCE, command.output()).await.expect("an end of the script").unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// The same under serverless-offline.
async fn of_oracle(dir: &Path) -> Vec<String> {
    let [http, websocket, lambda] = [free_port(), free_port(), free_port()];
    let mut command = Command::new("node");
    command.arg(dir.join("node_modules/serverless/bin/serverless.js")).arg("offline").current_dir(dir);
    for (name, port) in [("--httpPort", http), ("--websocketPort", websocket), ("--lambdaPort", lambda)] {
        command.arg(name).arg(port.to_string());
    }
    let url = format!("http://127.0.0.1:{websocket}");
    let variables = [
        ("AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI", url.as_str()),
        ("AWS_ACCESS_KEY_ID", "any"),
        ("AWS_SECRET_ACCESS_KEY", "any"),
        ("AWS_REGION", "roost"),
        ("SLS_TELEMETRY_DISABLED", "1"),
        ("SLS_NOTIFICATIONS_MODE", "off"),
    ];
    for (name, value) in variables {
        command.env(name, value);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut oracle = command.spawn().unwrap();
    let mut said = BufReader::new(oracle.stderr.take().unwrap()).lines();
    let ready = async {
        while let Some(line) = said.next_line().await.unwrap() {
            if line.contains("[http for websocket] listening") {
                return;
            }
        }
        panic!("serverless-offline ended");
    };
    tokio::time::timeout(PATIENCE, ready).await.expect("serverless-offline");
    let url = format!("ws://127.0.0.1:{websocket}");
    let transcript = tokio::select! {
        transcript = transcript(dir, &url) => transcript,
        // Nobody else reads it.
        () = async { while said.next_line().await.unwrap().is_some() {} } => panic!("serverless-offline ended"),
    };
    oracle.kill().await.unwrap();
    transcript
}

/// The same under Roost, where the example of a chat calls the handler.
async fn of_roost(dir: &Path) -> Vec<String> {
    let serve = Example::ChatLambda.dir().join("serve.mjs");
    let place = tempfile::tempdir().unwrap();
    let app =
        NodeApp::new(place.path(), &[(&serve, "server.js"), (&dir.join("handler.mjs"), "handler.mjs")]).await;
    let host = app.host().await;
    let annotations = json!({
        "roost.websocket": "events",
        "roost.websocket.codec": "aws",
        "roost.websocket.aws.transport": "lambda",
        "roost.websocket.aws.routes": "$connect,$disconnect,$default;two-way,ask;two-way,tell",
    });
    host.deployed(&app.deployment("oracle", annotations)).await;
    transcript(dir, &format!("ws://127.0.0.1:{}/function/oracle", host.port())).await
}

#[tokio::test]
async fn a_handler_and_its_clients_have_the_same_to_tell_as_under_serverless_offline() {
    let dir = installed().await;
    let (expected, told) = tokio::join!(of_oracle(&dir), of_roost(&dir));
    assert!(expected.len() > 30, "{expected:#?}");
    assert_eq!(told.join("\n"), expected.join("\n"));
}
