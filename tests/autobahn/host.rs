//! A Roost with a WebSocket server of another make as its function, for `tests/autobahn/run`; or, with the word `events`, with
//! a plain HTTP function whose WebSockets it holds.
//!
//! Prints the URL of the function itself, if that speaks WebSocket, and the one through Roost, and ends, with all of it, at the
//! end of its input.

#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]
#![allow(clippy::print_stdout, reason = "the URLs are for the script")]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use roost_tests::{Config, Host, Image, clients, libraries, repository};
use serde_json::json;

const NAME: &str = "autobahn";

#[tokio::main]
async fn main() {
    let modules = clients().await.node_modules();
    let host = Host::start_with(Config::default()).await;
    let through = format!("ws://127.0.0.1:{}/function/{NAME}/", host.port());
    if std::env::args().nth(1).as_deref() == Some("events") {
        host.import(&image(&modules, "events.js"), NAME).await;
        let annotations = json!({
            "roost.websocket": "events",
            "roost.websocket.compression": "deflate",
            "roost.websocket.max-message": "32Mi",
            "roost.websocket.outbound": "64Mi",
        });
        host.deployed(&json!({ "service": NAME, "image": NAME, "annotations": annotations })).await;
        println!("{through}");
    } else {
        host.import(&image(&modules, "server.js"), NAME).await;
        let function = host.deployed(&json!({ "service": NAME, "image": NAME })).await;
        let address = function["status"]["replicas"][0]["address"].as_str().unwrap();
        println!("ws://{address}/ {through}");
    }
    let wait = || std::io::stdin().read_to_end(&mut Vec::new());
    tokio::task::spawn_blocking(wait).await.unwrap().unwrap();
}

/// This machine's node with its libraries, `ws`, and one of the scripts here.
fn image(modules: &Path, script: &str) -> Image {
    let node = std::fs::canonicalize(which("node")).unwrap();
    let mut files: Vec<(PathBuf, String)> = libraries(&node);
    files.push((node, "/bin/node".to_owned()));
    files.push((repository().join("tests/autobahn").join(script), "/app/server.js".to_owned()));
    all_below(&modules.join("ws"), "/app/node_modules/ws", &mut files);
    let files: Vec<(&Path, &str)> = files.iter().map(|(from, to)| (&**from, &**to)).collect();
    Image::new(&files, &["/bin/node", "/app/server.js"])
}

fn which(program: &str) -> String {
    said("sh", &["-c", &format!("command -v {program}")]).trim().to_owned()
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn all_below(directory: &Path, target: &str, files: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let target = format!("{target}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            all_below(&entry.path(), &target, files);
        } else {
            files.push((entry.path(), target));
        }
    }
}
