use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::time::{Duration, SystemTime};

use http::{Method, Version};
use roost_proxy::function::FunctionKey;
use roost_proxy::{EntryKind, Trace, TunnelClose, TunnelEntry};
use serde_json::{Value, json};

use super::line::write_line;
use super::*;

fn entry(path: &str) -> Box<AccessEntry> {
    Box::new(AccessEntry {
        kind: EntryKind::Request,
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_042),
        duration: Duration::from_nanos(1_500_999),
        function: None,
        method: Method::GET,
        path: path.into(),
        query: None,
        version: Version::HTTP_11,
        secure: false,
        status: 200,
        received: None,
        sent: None,
        first_byte: None,
        waited: None,
        peer: None,
        user: None,
        call_id: None,
        replica: None,
        user_agent: None,
        referer: None,
        trace: None,
        broken: None,
        tunnel: None,
    })
}

fn full(kind: EntryKind) -> Box<AccessEntry> {
    let close = TunnelClose { code: Some(1012), by: Some("host"), category: "restart", failed: false };
    let (opening, subprotocol) = (Duration::from_millis(2), Some("chat".into()));
    let tunnel = TunnelEntry { opening, subprotocol, messages: Some([3, 4]), close };
    Box::new(AccessEntry {
        kind,
        function: Some(FunctionKey::from_route("echo").unwrap()),
        query: Some("a=1".into()),
        received: Some(1),
        sent: Some(2),
        first_byte: Some(Duration::from_millis(1)),
        waited: Some(Duration::ZERO),
        peer: Some("192.0.2.1:5".parse().unwrap()),
        user: Some("ann".into()),
        call_id: Some("id".into()),
        replica: Some("echo-1".parse().unwrap()),
        user_agent: Some("a \"b\"\n\u{1}".into()),
        referer: Some("http://x/".into()),
        trace: Some(Trace { trace_id: 0xab, parent_id: Some(1), span_id: Some(2), sampled: true }),
        broken: Some("client"),
        tunnel: Some(Box::new(tunnel)),
        ..*entry("/function/echo/a%20b")
    })
}

fn written(entry: &AccessEntry) -> Value {
    let mut line = Vec::new();
    write_line(entry, &mut line);
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "one line each");
    assert_eq!(line.last(), Some(&b'\n'));
    serde_json::from_slice(&line).unwrap()
}

#[test]
fn what_is_not_known_is_not_in_the_line() {
    assert_eq!(
        written(&entry("/x")),
        json!({
            "time": "2023-11-14T22:13:20.042Z", "kind": "request", "method": "GET", "path": "/x",
            "protocol": "HTTP/1.1", "status": 200, "seconds": 0.0015
        })
    );
}

#[test]
fn a_tunnel_has_all_fields() {
    let tunnel = written(&full(EntryKind::Tunnel));
    assert_eq!(
        tunnel,
        json!({
            "time": "2023-11-14T22:13:20.042Z", "kind": "tunnel", "function": "echo.openfaas-fn",
            "method": "GET", "path": "/function/echo/a%20b", "query": "a=1", "protocol": "HTTP/1.1", "status": 200,
            "seconds": 0.0015, "first_byte": 0.001, "waited": 0.0, "bytes_in": 1, "bytes_out": 2,
            "peer": "192.0.2.1:5", "user": "ann", "call_id": "id", "replica": "echo-1",
            "user_agent": "a \"b\"\n\u{1}", "referer": "http://x/",
            "trace_id": "000000000000000000000000000000ab", "parent_id": "0000000000000001",
            "span_id": "0000000000000002", "broken": "client", "subprotocol": "chat", "messages_in": 3,
            "messages_out": 4, "code": 1012, "by": "host", "category": "restart"
        })
    );
    let request = written(&full(EntryKind::Request));
    assert!(request.get("messages_in").is_none() && request.get("category").is_none(), "{request}");
}

#[test]
fn the_document_tells_of_every_field_and_of_no_other() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/access-log.md");
    let text = fs::read_to_string(path).unwrap();
    let told: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .flat_map(|row| row.split(" | ").next().unwrap_or_default().split(", "))
        .map(|name| name.trim_matches('`'))
        .collect();
    let line = written(&full(EntryKind::Tunnel));
    assert_eq!(told, line.as_object().unwrap().keys().map(String::as_str).collect());
}

fn settings(path: &Path) -> Settings {
    Settings {
        target: Target::File(path.to_owned()),
        max_size: MIN_SIZE,
        options: AccessLogOptions::default(),
    }
}

fn paths_in(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let path = |line: &str| serde_json::from_str::<Value>(line).unwrap()["path"].as_str().unwrap().to_owned();
    text.lines().map(path).collect()
}

/// A queue to the writer of `settings`, without a proxy in front of it.
fn queue(running: &Running) -> Queue {
    let (sender, _) = running.end.as_ref().unwrap();
    Queue { sender: sender.clone(), dropped: running.dropped() }
}

#[test]
fn all_that_came_before_the_end_is_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let running = Running::start(&settings(&file)).unwrap();
    let queue = queue(&running);
    for n in 0..100 {
        queue.take(entry(&format!("/{n}")));
    }
    running.end();
    assert_eq!(paths_in(&file), (0..100).map(|n| format!("/{n}")).collect::<Vec<_>>());
}

#[test]
fn the_file_and_the_one_before_it_stay_within_the_limit_and_keep_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let sent = 20_000_u32;
    let running = Running::start(&settings(&file)).unwrap();
    let queue = queue(&running);
    for n in 0..sent {
        // The queue's way out when it is full is to drop; here all are wanted.
        queue.sender.send(Message::Entry(entry(&format!("/{n}")))).unwrap();
    }
    running.end();
    let before = dir.path().join("access.log.1");
    let size = |path: &Path| fs::metadata(path).unwrap().len();
    assert!(size(&file) + size(&before) <= MIN_SIZE);
    let kept: Vec<_> = [paths_in(&before), paths_in(&file)].concat();
    assert!(kept.len() > 100);
    let first = sent - u32::try_from(kept.len()).unwrap();
    assert_eq!(kept, (first..sent).map(|n| format!("/{n}")).collect::<Vec<_>>());
}

#[test]
fn what_does_not_fit_into_the_queue_is_counted_and_nobody_waits() {
    let (sender, receiver): (_, Receiver<Message>) = sync_channel(2);
    let queue = Queue { sender, dropped: Arc::default() };
    for _ in 0..5 {
        queue.take(entry("/"));
    }
    assert_eq!(queue.dropped.load(Ordering::Relaxed), 3);
    assert_eq!(receiver.try_iter().count(), 2);
}

#[test]
fn what_cannot_be_written_is_counted_and_what_can_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let running = Running::start(&settings(&file)).unwrap();
    let (queue, dropped) = (queue(&running), running.dropped());
    // Where the file is to be moved when it is full: a directory that is not empty is in the way, even for root.
    fs::create_dir_all(dir.path().join("access.log.1/x")).unwrap();
    let sent = 5_000_u64;
    for n in 0..sent {
        queue.sender.send(Message::Entry(entry(&format!("/{n}")))).unwrap();
    }
    running.end();
    let lost = dropped.load(Ordering::Relaxed);
    assert!(lost > 0);
    assert_eq!(paths_in(&file).len() as u64 + lost, sent);
}

#[test]
fn a_file_that_cannot_be_opened_is_told_of_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Running::start(&settings(&dir.path().join("no/access.log"))).is_err());
    let off = Settings { target: Target::Off, ..settings(dir.path()) };
    assert!(Running::start(&off).unwrap().end.is_none());
}
