//! A page in a real browser speaks to a function whose WebSockets the host holds. Only where a browser is installed:
//! `tests/browser/run` does that.

#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

use std::path::PathBuf;
use std::process::Stdio;

use roost_tests::{Example, Host, PATIENCE, eventually, repository};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// The browser with its two pages.
struct Browser {
    process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Browser {
    fn start(driver: &std::path::Path, url: &str) -> Self {
        let mut command = Command::new("node");
        command.arg(driver.join("chat.mjs")).arg(repository().join("examples/chat-shell/page.html")).arg(url);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let (input, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        Self { process, input, output: BufReader::new(output).lines() }
    }

    async fn tells(&mut self, expected: &str) {
        let line = tokio::time::timeout(PATIENCE, self.output.next_line()).await.expect("an answer");
        assert_eq!(line.unwrap().as_deref(), Some(expected));
    }

    async fn asked(&mut self, what: &str) {
        self.input.write_all(format!("{what}\n").as_bytes()).await.unwrap();
    }

    async fn ends_well(mut self) {
        drop(self.input);
        let status = tokio::time::timeout(PATIENCE, self.process.wait()).await.expect("an end");
        assert!(status.unwrap().success());
    }
}

fn chat(environment: &Value) -> Value {
    json!({
        "service": "chat", "image": "chat", "envVars": environment,
        "labels": { "com.openfaas.scale.zero": "true", "com.openfaas.scale.zero-duration": "2s" },
        "annotations": {
            "roost.websocket": "events",
            "roost.websocket.events": "connected,message",
            "roost.idle.state": "stopped",
        },
    })
}

#[tokio::test]
async fn people_with_a_page_in_a_browser_chat_from_zero_and_over_a_deployment() {
    let Some(driver) = std::env::var_os("ROOST_TEST_BROWSER").map(PathBuf::from) else { return };
    let host = Host::start().await;
    Example::Shell.archive().await;
    let root = Example::Shell.dir().join("rootfs");
    host.log_in().await;
    let script = std::fs::read_to_string(repository().join("examples/chat-shell/handler.sh")).unwrap();
    let command = json!(["/bin/watchdog", "/bin/sh", "-c", script]).to_string();
    let build = ["image", "build", root.to_str().unwrap(), "-t", "chat", "--env", "OUTPUT=cgi"];
    host.roost_done(&[&build[..], &["--cmd", &command]].concat()).await;
    host.post_function(&chat(&json!({}))).await;
    host.was_up("chat").await;

    let url = format!("ws://127.0.0.1:{}/function/chat", host.port());
    let mut browser = Browser::start(&driver, &url);
    browser.tells("joined").await;
    browser.asked("say Ada hello").await;
    browser.tells("read hello").await;
    host.idle("chat").await;
    eventually("the end of its replica", || async { host.processes().is_empty().then_some(()) }).await;
    browser.asked("say Bob from zero").await;
    browser.tells("read from zero").await;
    host.put_function(&chat(&json!({ "CHANGED": "yes" }))).await;
    host.was_up("chat").await;
    browser.asked("say Ada behind a deployment").await;
    browser.tells("read behind a deployment").await;
    browser.asked("connected").await;
    browser.tells("connected").await;
    browser.ends_well().await;
}
