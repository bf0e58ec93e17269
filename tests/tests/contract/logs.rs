//! The stream of a function's output.

use hyper::Method;
use roost_tests::{body_of, eventually, next_piece};
use serde_json::{Value, json};

use crate::support::{IMAGE, Table, error, host};

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
