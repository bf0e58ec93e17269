//! The stream of a function's output.

use hyper::Method;
use roost_tests::{Config, PATIENCE, body_of, eventually, next_piece};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{IMAGE, Table, error, host, host_with};

#[tokio::test]
async fn output_is_told_by_the_query() {
    let host = host().await;
    host.deploy("echo", IMAGE).await;
    for n in 0..3 {
        host.call("echo", &format!("{n}")).await;
    }
    eventually("four lines", || async { (host.log_lines("echo").await.len() >= 4).then_some(()) }).await;
    let (instance, _) = host.process_of("echo");

    let read = async |query: &str| {
        let answer = host.api.get(&format!("/system/logs?name=echo{query}")).await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.text());
        let mut names: Vec<_> = answer.headers.keys().map(ToString::to_string).collect();
        names.sort();
        assert_eq!(names, ["content-type", "date", "transfer-encoding"], "{query}");
        assert_eq!(answer.header("content-type"), "application/x-ndjson");
        let records = answer.text().lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        records.collect::<Vec<_>>()
    };
    let all = read("").await;
    assert!(all.len() >= 4 && all[0]["text"] == "listening on 0.0.0.0:8080", "{all:?}");
    for record in &all {
        let fields = record.as_object().unwrap();
        let known = json!({
            "name": "echo", "namespace": "openfaas-fn", "instance": instance,
            "timestamp": fields["timestamp"], "text": fields["text"],
        });
        assert_eq!(*record, known, "these five, always");
        assert!(fields["timestamp"].as_str().unwrap().ends_with('Z'), "{record}");
    }
    let last = &all[all.len() - 1];
    let since = last["timestamp"].as_str().unwrap();
    for (query, wanted) in [
        ("&tail=-1".to_owned(), &all[..]),
        ("&tail=0".to_owned(), &all),
        ("&tail=2".to_owned(), &all[all.len() - 2..]),
        // The last of a name counts.
        ("&tail=1&tail=2".to_owned(), &all[all.len() - 2..]),
        ("&follow=0&tail=1".to_owned(), &all[all.len() - 1..]),
        ("&follow=false&tail=1".to_owned(), &all[all.len() - 1..]),
        // What Go does not take for true is not true.
        ("&follow=yes&tail=1".to_owned(), &all[all.len() - 1..]),
        ("&namespace=openfaas-fn&tail=1".to_owned(), &all[all.len() - 1..]),
        (format!("&instance={instance}&tail=1"), &all[all.len() - 1..]),
        ("&instance=another".to_owned(), &[]),
        ("&since=2999-01-01T00:00:00Z".to_owned(), &[]),
        ("&since=1999-01-01T00:00:00%2B01:00".to_owned(), &all),
        (format!("&since={since}"), &all[all.len() - 1..]),
    ] {
        assert_eq!(read(&query).await, wanted, "{query}");
    }

    let mut t = Table::of(&host.api);
    let logs = "GET /system/logs";
    t.row(logs, "", error(400, "name: is required\n")).await;
    t.row(&format!("{logs}?name="), "", error(400, "name: is required\n")).await;
    t.row(&format!("{logs}?name=nobody"), "", error(404, "function: nobody.openfaas-fn not found\n")).await;
    t.row(&format!("{logs}?name=Not_A"), "", error(404, "function: Not_A.openfaas-fn not found\n")).await;
    let nowhere = error(400, "namespace not valid: nowhere does not exist\n");
    t.row(&format!("{logs}?name=echo&namespace=nowhere"), "", nowhere).await;
    let tail = error(422, "tail: \"many\": expected a number of lines\n");
    t.row(&format!("{logs}?name=echo&tail=many"), "", tail).await;
    let since = error(422, "since: \"yesterday\": expected a time such as 2006-01-02T15:04:05Z\n");
    t.row(&format!("{logs}?name=echo&since=yesterday"), "", since).await;
}

#[tokio::test]
async fn a_log_that_cannot_be_read_is_no_empty_log() {
    let host = host().await;
    // It never comes up, so nothing of it is printed anywhere.
    host.post_function(&json!({ "service": "absent", "image": "127.0.0.1:9/absent:1" })).await;
    let logs = "/system/logs?name=absent";
    let request = host.api.request(&Method::GET, &format!("{logs}&follow=true")).body(body_of("")).unwrap();
    let mut body = host.api.open(request).await.unwrap().into_body();
    let output = host.dir().join("state/logs/openfaas-fn/absent");
    std::fs::create_dir_all(output.parent().unwrap()).unwrap();
    std::fs::write(&output, "no directory").unwrap();
    assert!(next_piece(&mut body).await.is_err(), "broken off, not ended");
    let mut t = Table::of(&host.api);
    for follow in ["false", "true"] {
        let failed = error(500, "the host could not do this: see the log of roostd\n");
        t.row(&format!("GET {logs}&follow={follow}"), "", failed).await;
    }
    std::fs::remove_file(&output).unwrap();
    assert_eq!(host.api.get(logs).await.text(), "");
}

#[tokio::test]
async fn many_who_follow_take_one_watch_of_the_kernel() {
    let host = host().await;
    host.deploy("echo", IMAGE).await;
    let instances = || host.daemon_inotify_instances();
    let before = instances();
    let mut bodies = Vec::new();
    for _ in 0..20 {
        let request = host.api.request(&Method::GET, "/system/logs?name=echo&tail=1&follow=1");
        let mut body = host.api.open(request.body(body_of("")).unwrap()).await.unwrap().into_body();
        assert!(next_piece(&mut body).await.unwrap().is_some());
        bodies.push(body);
    }
    assert_eq!(instances(), before + 1);
    host.call("echo", "hi").await;
    for body in &mut bodies {
        let line = next_piece(body).await.unwrap().unwrap();
        assert!(str::from_utf8(&line).unwrap().contains("POST / 200"), "{line:?}");
    }
    drop(bodies);
    eventually("nobody who follows", || async { (instances() == before).then_some(()) }).await;
}

#[tokio::test]
async fn following_outlasts_the_limits_of_calls() {
    let limits = Config { request_timeout: "1s", idle_timeout: "1s", ..Config::default() };
    let host = host_with(limits).await;
    host.deploy("echo", IMAGE).await;
    host.deploy("other", IMAGE).await;
    let request = host.api.request(&Method::GET, "/system/logs?name=echo&tail=1&follow=1");
    let mut body = host.api.open(request.body(body_of("")).unwrap()).await.unwrap().into_body();
    assert!(next_piece(&mut body).await.unwrap().is_some());
    // A call that begins later and is as silent is cut off: by then the time is over for both.
    let mut call = TcpStream::connect(("127.0.0.1", host.port())).await.unwrap();
    let head = "POST /function/other/ HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n";
    call.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let cut = tokio::time::timeout(PATIENCE, call.read_to_end(&mut answer)).await;
    cut.expect("an end of the call").ok();
    host.call("echo", "hi").await;
    let line = next_piece(&mut body).await.unwrap().unwrap();
    assert!(str::from_utf8(&line).unwrap().contains("POST / "), "{line:?}");
}

#[tokio::test]
async fn following_begins_at_once_and_ends_with_the_function() {
    let host = host().await;
    host.deploy("echo", IMAGE).await;
    for follow in ["1", "t", "T", "true", "TRUE", "True"] {
        let path = format!("/system/logs?name=echo&tail=1&follow={follow}");
        let request = host.api.request(&Method::GET, &path).body(body_of("")).unwrap();
        let mut body = host.api.open(request).await.unwrap().into_body();
        assert!(next_piece(&mut body).await.unwrap().is_some(), "what there is");
        host.call("echo", "hi").await;
        let line = next_piece(&mut body).await.unwrap().unwrap();
        assert!(str::from_utf8(&line).unwrap().contains("POST / 200"), "{line:?}");
    }
    // The head comes before the first line.
    let path = "/system/logs?name=echo&follow=true&since=2999-01-01T00:00:00Z";
    let request = host.api.request(&Method::GET, path).body(body_of("")).unwrap();
    let mut body = host.api.open(request).await.unwrap().into_body();
    host.remove("echo").await;
    assert_eq!(next_piece(&mut body).await.unwrap(), None);
}
