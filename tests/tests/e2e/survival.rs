//! Processes end, in order or not, and functions go on.

use bytes::Bytes;
use hyper::{Method, StatusCode};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use roost_tests::{Config, Host, Image, Load, Registry, body_in_pieces, eventually, next_piece};
use serde_json::{Value, json};

async fn echo() -> (Registry, Host) {
    let registry = Registry::open().await;
    let image = registry.push(&Image::echo(), "echo", "1").await;
    let host = Host::start().await;
    host.deploy("echo", &image).await;
    (registry, host)
}

#[tokio::test]
async fn a_killed_function_is_started_again_and_the_reason_is_told() {
    let (_registry, host) = echo().await;
    let killed = host.kill_function("echo");
    let again = |status: &Value| {
        status["phase"] == "Ready"
            && status["lastExit"].as_str().is_some_and(|reason| reason.contains("signal 9"))
    };
    host.status("echo", "Ready again, with the reason of the exit", again).await;
    eventually("a new process", || async {
        let processes = host.processes();
        (processes.len() == 1 && processes[0].1 != killed).then_some(())
    })
    .await;
    host.assert_echoes("echo").await;
}

#[tokio::test]
async fn a_function_that_answers_no_more_is_replaced_if_it_may_be_asked() {
    let registry = Registry::open().await;
    let image = registry.push(&Image::echo(), "echo", "1").await;
    let mut host = Host::start().await;
    let labels = json!({ "com.openfaas.health.http.path": "/_/health" });
    let annotations = json!({
        "com.openfaas.health.http.initialDelay": "100ms",
        "com.openfaas.health.http.periodSeconds": "200ms",
        "com.openfaas.health.http.failureThreshold": "2",
    });
    let body = json!({ "service": "echo", "image": image, "labels": labels, "annotations": annotations });
    host.post_function(&body).await;
    host.ready("echo").await;
    // The first time it is asked by the daemon that started it, the second by one that adopted it.
    for _ in 0..2 {
        let (_, stuck) = host.process_of("echo");
        kill(Pid::from_raw(stuck.pid), Signal::SIGSTOP).unwrap();
        eventually("another process", || async {
            let processes = host.processes();
            (processes.len() == 1 && processes[0].1 != stuck).then_some(())
        })
        .await;
        let function = host.ready("echo").await;
        let exit = function["status"]["lastExit"].as_str().unwrap();
        assert_eq!(exit, "not alive: GET /_/health gets no answer, 2 times");
        host.assert_echoes("echo").await;
        host.restart().await;
        host.ready("echo").await;
    }
}

#[tokio::test]
async fn a_function_that_ends_at_once_is_failed_and_does_not_spin() {
    let registry = Registry::open().await;
    let image = registry.push(&Image::script("echo broken >&2; exit 7"), "broken", "1").await;
    let host = Host::start().await;
    host.post_function(&json!({ "service": "broken", "image": image })).await;
    let told = |status: &Value| {
        let text = status.to_string();
        text.contains("code 7") && status["phase"] == "Failed"
    };
    let function = host.status("broken", "Failed with exit code 7", told).await;
    assert_eq!(function.get("availableReplicas").and_then(Value::as_u64).unwrap_or(0), 0);
    let answer = host.call("broken", "hi").await;
    assert!(answer.status.is_server_error(), "{}", answer.status);
    assert!(!answer.text().is_empty(), "says why");
    assert!(host.log_lines("broken").await.contains(&"broken".to_owned()));
}

#[tokio::test]
async fn memory_over_the_limit_ends_a_function_and_is_told() {
    let registry = Registry::open().await;
    // Takes its memory in the first process, which is the one that has to be missed.
    let script = "exec busybox dd if=/dev/zero of=/dev/null bs=200M";
    let image = registry.push(&Image::script(script), "eater", "1").await;
    let host = Host::start().await;
    host.post_function(&json!({ "service": "eater", "image": image, "limits": { "memory": "32Mi" } })).await;
    let told = |status: &Value| status.to_string().contains("memory");
    host.status("eater", "an exit for want of memory", told).await;
}

#[tokio::test]
async fn a_killed_daemon_adopts_what_runs() {
    let (_registry, mut host) = echo().await;
    let before = host.processes();
    assert_eq!(before.len(), 1);
    host.kill9();
    assert_eq!(host.processes(), before, "functions do not end with the daemon");
    host.start_daemon().await;
    host.ready("echo").await;
    host.assert_echoes("echo").await;
    assert_eq!(host.processes(), before, "the same process, not a new one");

    // The adopted replica is looked after as one that was started: its end is noticed.
    host.kill_function("echo");
    eventually("a new process", || async {
        let processes = host.processes();
        (processes.len() == 1 && processes != before).then_some(())
    })
    .await;
    host.ready("echo").await;
    host.assert_echoes("echo").await;
}

#[tokio::test]
async fn what_happened_while_the_daemon_was_away_is_put_right() {
    let (_registry, mut host) = echo().await;
    let (_, process) = host.process_of("echo");
    host.kill9();
    kill(Pid::from_raw(process.pid), Signal::SIGKILL).unwrap();
    eventually("the end of the function", || async {
        roost_tests::started(process.pid).is_none().then_some(())
    })
    .await;
    host.start_daemon().await;
    host.ready("echo").await;
    host.assert_echoes("echo").await;
    assert_eq!(host.processes().len(), 1);
}

#[tokio::test]
async fn a_daemon_that_is_killed_in_the_middle_of_a_deploy_finishes_it_later() {
    let registry = Registry::open().await;
    let image = registry.push(&Image::echo(), "echo", "1").await;
    let mut host = Host::start().await;
    for round in 0..4 {
        let name = format!("echo{round}");
        host.post_function(&json!({ "service": name, "image": image })).await;
        // At another point of the deploy in each round.
        tokio::time::sleep(std::time::Duration::from_millis(120) * round).await;
        host.kill9();
        host.start_daemon().await;
        host.ready(&name).await;
        host.assert_echoes(&name).await;
    }
    assert_eq!(host.processes().len(), 4);
}

#[tokio::test]
async fn a_restart_of_the_daemon_finishes_requests_and_keeps_functions() {
    let (_registry, mut host) = echo().await;
    let before = host.processes();
    let (sender, body) = body_in_pieces();
    let request = host.api.request(&Method::POST, "/function/echo").body(body).unwrap();
    sender.send(Bytes::from_static(b"before")).await.unwrap();
    let mut response = host.api.open(request).await.unwrap().into_body();
    assert_eq!(next_piece(&mut response).await.unwrap().unwrap(), "before");

    host.terminate();
    // It accepts no more, and yet carries on with what it has.
    eventually("the end of the listener", || async {
        tokio::net::TcpStream::connect(("127.0.0.1", host.port())).await.is_err().then_some(())
    })
    .await;
    sender.send(Bytes::from_static(b"after")).await.unwrap();
    assert_eq!(next_piece(&mut response).await.unwrap().unwrap(), "after");
    drop(sender);
    assert_eq!(next_piece(&mut response).await.unwrap(), None);
    drop(response);
    host.ended().await;
    host.start_daemon().await;
    host.ready("echo").await;
    assert_eq!(host.processes(), before);
}

#[tokio::test]
async fn a_daemon_that_cannot_drain_ends_in_time() {
    let registry = Registry::open().await;
    let image = registry.push(&Image::echo(), "echo", "1").await;
    let mut host = Host::start_with(Config { drain: "1s", ..Config::default() }).await;
    host.deploy("echo", &image).await;
    let (sender, body) = body_in_pieces();
    let request = host.api.request(&Method::POST, "/function/echo").body(body).unwrap();
    sender.send(Bytes::from_static(b"piece")).await.unwrap();
    let mut response = host.api.open(request).await.unwrap().into_body();
    assert_eq!(next_piece(&mut response).await.unwrap().unwrap(), "piece");
    host.terminate();
    host.ended().await;
    assert!(next_piece(&mut response).await.is_err(), "an answer that is cut off does not look whole");
    host.start_daemon().await;
}

#[tokio::test]
async fn containerd_may_be_restarted_or_killed_and_requests_do_not_notice() {
    let (_registry, mut host) = echo().await;
    let before = host.processes();
    let load = Load::start(&host.api, "/function/echo", 2);
    host.restart_containerd().await;
    host.crash_containerd();
    host.assert_echoes("echo").await;
    host.start_containerd().await;
    let report = load.stop().await;
    assert!(report.failed.is_empty(), "{:#?}", report.failed);
    assert_eq!(host.processes(), before);

    // And the daemon has found it again: it sees an end, and starts anew.
    host.kill_function("echo");
    eventually("a new process", || async {
        let processes = host.processes();
        (processes.len() == 1 && processes != before).then_some(())
    })
    .await;
    host.ready("echo").await;
    host.assert_echoes("echo").await;
}

#[tokio::test]
async fn what_is_asked_while_containerd_is_away_is_done_when_it_is_back() {
    let (registry, mut host) = echo().await;
    let image = registry.push(&Image::echo(), "late", "1").await;
    host.crash_containerd();
    let answer =
        host.api.post("/system/functions", json!({ "service": "late", "image": image }).to_string()).await;
    host.start_containerd().await;
    if answer.status == StatusCode::ACCEPTED {
        host.ready("late").await;
        host.assert_echoes("late").await;
    } else {
        // A refusal that says so is right, too: it must not be accepted and forgotten.
        assert!(answer.status.is_server_error() && !answer.text().is_empty(), "{}", answer.status);
    }
    host.assert_echoes("echo").await;
}

#[tokio::test]
async fn after_a_reboot_functions_come_back_without_the_network() {
    let (mut registry, mut host) = echo().await;
    registry.stop();
    // As after a power cut: no process is left, and files are as they were.
    host.kill9();
    for (_, process) in host.processes() {
        kill(Pid::from_raw(process.pid), Signal::SIGKILL).unwrap();
    }
    host.crash_containerd();
    host.kill_attendants().await;
    host.start_containerd().await;
    host.start_daemon().await;
    host.ready("echo").await;
    host.assert_echoes("echo").await;
}
