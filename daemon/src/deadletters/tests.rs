use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;

use bytes::Bytes;
use http::{Request, StatusCode};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use roost_proxy::websocket::event::ConnectionId;
use roost_proxy::websocket::{Failing, Reason, Redrive};
use roost_proxy::{Caller, Endpoint, Routes, Upstream, UpstreamLimits};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::queue::{self, Queue};

use super::*;
use crate::deadletters::letter::{Kind, Last};

fn function(segment: &str) -> FunctionKey {
    FunctionKey::from_route(segment).unwrap()
}

fn dead(segment: &str, body: &[u8]) -> DeadEvent {
    let request = Request::post("/room?token=t")
        .header("ce-id", "1")
        .header("authorization", "Bearer x")
        .header("Cookie", "a=b")
        .header("x-bytes", http::HeaderValue::from_bytes(&[0xe4, 0xff]).unwrap())
        .body(Bytes::copy_from_slice(body))
        .unwrap();
    DeadEvent {
        function: function(segment),
        of: function("front"),
        connection: ConnectionId::random(),
        event: "message",
        key: Some("k".parse().unwrap()),
        two_way: true,
        request,
        attempts: 3,
        failing: failing("it answered 500"),
    }
}

fn failing(cause: &str) -> Failing {
    Failing { reason: Reason::Failed, status: StatusCode::INTERNAL_SERVER_ERROR, cause: cause.to_owned() }
}

fn settings() -> Settings {
    let max_age = Duration::from_secs(3600);
    Settings { enabled: true, max_size: 1 << 20, max_total: 4 << 20, max_age }
}

/// A store in a directory of its own.
struct Kept {
    directory: TempDir,
    store: Store,
}

impl Kept {
    fn new(settings: Settings) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join(NAME), settings).unwrap();
        Self { directory, store }
    }

    fn add(&mut self, segment: &str, body: &[u8]) -> usize {
        self.store.add(&function(segment), Draft::of_event(dead(segment, body))).unwrap()
    }

    fn again(&mut self, settings: Settings) {
        self.store = Store::open(&self.directory.path().join(NAME), settings).unwrap();
    }

    fn all(&self, segment: Option<&str>) -> Vec<Found> {
        self.store.list(&wanted(segment), usize::MAX).unwrap()
    }

    fn bodies(&self, segment: &str) -> Vec<Bytes> {
        let of = |found: Found| {
            let letter = self.store.get(&found.function.namespace, found.id).unwrap();
            letter.unwrap().1.body
        };
        self.all(Some(segment)).into_iter().map(of).collect()
    }

    fn path(&self, segment: &str) -> PathBuf {
        self.directory.path().join(NAME).join(format!("{}.letters", function(segment)))
    }
}

fn wanted(segment: Option<&str>) -> Wanted {
    Wanted { namespace: Namespace::default(), function: segment.map(function), after: None }
}

#[test]
fn a_letter_is_read_back_as_it_was_but_for_its_secrets() {
    let mut kept = Kept::new(settings());
    let event = dead("chat", &[0, 159, 146]);
    kept.store.add(&event.function, Draft::of_event(event.clone())).unwrap();
    kept.again(settings());
    let found = kept.all(None).remove(0);
    assert_eq!((found.function.clone(), found.size, found.head.attempts), (event.function.clone(), 3, 3));
    let (of, letter) = kept.store.get(&Namespace::default(), found.id).unwrap().unwrap();
    let back = letter.event(of).unwrap();
    assert_eq!((&back.of, back.connection, back.event), (&event.of, event.connection, "message"));
    assert_eq!((&back.key, back.two_way, &back.failing), (&event.key, true, &event.failing));
    assert_eq!(back.request.uri(), "/room?token=t");
    assert_eq!(back.request.body(), event.request.body());
    let names: Vec<_> = back.request.headers().keys().map(http::HeaderName::as_str).collect();
    assert_eq!(names, ["ce-id", "x-bytes"]);
    assert_eq!(back.request.headers()["x-bytes"].as_bytes(), [0xe4, 0xff]);
    let mode = fs::metadata(kept.path("chat")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let Kind::Event(written) = letter.head.kind else { panic!("{letter:?}") };
    assert_eq!(written.of.as_deref(), Some("front.openfaas-fn"));
}

#[test]
fn what_was_tried_and_what_is_gone_is_known_to_the_next_daemon() {
    let mut kept = Kept::new(settings());
    for body in [b"1", b"2", b"3"] {
        kept.add("chat", body);
    }
    let ids: Vec<_> = kept.all(None).iter().map(|found| found.id).collect();
    let last = Last::new(Timestamp::now(), &failing("again"));
    kept.store.tried(&function("chat"), ids[1], 4, last).unwrap();
    assert!(kept.store.remove(&Namespace::default(), ids[0]).unwrap());
    assert!(!kept.store.remove(&Namespace::default(), ids[0]).unwrap(), "once");
    assert!(!kept.store.remove(&"other".parse().unwrap(), ids[1]).unwrap(), "of its namespace");
    kept.again(settings());
    let found = kept.all(None);
    assert_eq!(found.iter().map(|one| one.id).collect::<Vec<_>>(), ids[1..]);
    assert_eq!((found[0].head.attempts, found[0].head.last.cause.as_str()), (4, "again"));
    assert_eq!(found[1].head.attempts, 3);
    assert_eq!(kept.store.remove_all(&function("chat")).unwrap(), 2);
    assert!(!kept.path("chat").exists(), "the file goes with its last letter");
}

#[test]
fn a_record_that_is_not_whole_is_cut_off_and_what_comes_next_is_kept() {
    let mut kept = Kept::new(settings());
    kept.add("chat", b"first");
    let whole = fs::metadata(kept.path("chat")).unwrap().len();
    kept.add("chat", b"second");
    let bytes = fs::read(kept.path("chat")).unwrap();
    for end in whole..bytes.len() as u64 {
        fs::write(kept.path("chat"), &bytes[..end as usize]).unwrap();
        kept.again(settings());
        assert_eq!(kept.bodies("chat"), [&b"first"[..]], "{end} of {}", bytes.len());
        assert_eq!(fs::metadata(kept.path("chat")).unwrap().len(), whole);
    }
    // The room for the body is there, and not the body.
    fs::write(kept.path("chat"), &bytes).unwrap();
    let file = OpenOptions::new().write(true).open(kept.path("chat")).unwrap();
    file.write_all_at(&[0; 6], bytes.len() as u64 - 6).unwrap();
    kept.again(settings());
    assert_eq!(kept.bodies("chat"), [&b"first"[..]]);
    kept.add("chat", b"third");
    kept.again(settings());
    assert_eq!(kept.bodies("chat"), [&b"first"[..], b"third"]);
}

#[test]
fn a_file_of_another_kind_is_left_as_it_is() {
    let mut kept = Kept::new(settings());
    fs::write(kept.path("other"), b"not one of ours, but of this name").unwrap();
    kept.again(settings());
    assert!(kept.all(None).is_empty());
    kept.add("chat", b"1");
    assert_eq!(fs::read(kept.path("other")).unwrap(), b"not one of ours, but of this name");
}

#[test]
fn the_oldest_go_when_there_is_no_room_and_the_file_does_not_grow_with_them() {
    let mut kept = Kept::new(Settings { max_size: 100 << 10, max_total: 180 << 10, ..settings() });
    let body = |number: u32| [&number.to_be_bytes()[..], &vec![b'x'; 1 << 10]].concat();
    let mut gone = 0;
    for number in 0..1000 {
        gone += kept.add("chat", &body(number));
    }
    let left = kept.bodies("chat");
    assert_eq!(left.len() + gone, 1000);
    assert_eq!(*left.last().unwrap(), body(999));
    assert_eq!(left[0], body(1000 - u32::try_from(left.len()).unwrap()));
    let (_, of) = kept.store.kept().remove(0);
    assert!((90 << 10..=100 << 10).contains(&of.bytes), "{}", of.bytes);
    let size = fs::metadata(kept.path("chat")).unwrap().len();
    assert!(size < 300 << 10, "{size}");
    // All together are too many: who has most gives.
    for number in 0..90 {
        kept.add("other", &body(number));
    }
    let all: u64 = kept.store.kept().iter().map(|(_, of)| of.bytes).sum();
    assert!((160 << 10..=180 << 10).contains(&all), "{all}");
    let before = kept.bodies("chat");
    kept.again(Settings { max_size: 100 << 10, max_total: 180 << 10, ..settings() });
    assert_eq!(kept.bodies("chat"), before, "none comes back");
    assert_eq!(kept.add("big", &vec![0; 200 << 10]), 1, "one that is too large by itself does not stay");
    assert!(kept.bodies("big").is_empty());
}

#[test]
fn one_that_is_too_old_goes() {
    let mut kept = Kept::new(settings());
    kept.add("chat", b"1");
    kept.add("other", b"2");
    let now = Timestamp::now();
    assert_eq!(kept.store.expire(now + SignedDuration::from_secs(3590)).unwrap(), 0);
    assert_eq!(kept.store.expire(now + SignedDuration::from_secs(3610)).unwrap(), 2);
    assert!(kept.all(None).is_empty() && !kept.path("chat").exists());
}

#[test]
fn a_list_is_in_the_order_in_which_they_came_of_one_namespace_in_pages() {
    let mut kept = Kept::new(settings());
    for segment in ["chat", "other", "chat.dev", "chat", "other"] {
        kept.add(segment, segment.as_bytes());
    }
    let mut seen = Vec::new();
    let mut wanted = wanted(None);
    loop {
        let page = kept.store.list(&wanted, 2).unwrap();
        let Some(last) = page.last() else { break };
        wanted.after = Some(last.id);
        seen.extend(page.iter().map(|found| found.function.name.as_str().to_owned()));
    }
    assert_eq!(seen, ["chat", "other", "chat", "other"]);
    let id = kept.all(None)[0].id;
    assert_eq!(LetterId::parse(&id.to_string()), Some(id));
    for text in ["", "1", "01A2B3C4D5E60000", "+1a2b3c4d5e60000", "01a2b3c4d5e600000"] {
        assert_eq!(LetterId::parse(text), None, "{text}");
    }
}

proptest! {
    /// Whatever is added, tried and removed, and wherever a crash cuts the file: what is found is a beginning of what was there.
    #[test]
    fn of_a_file_that_was_cut_a_beginning_is_found(sizes in prop::collection::vec(0_usize..300, 1..12), cut in 0.0..1.0) {
        let mut kept = Kept::new(settings());
        let bodies: Vec<Vec<u8>> = sizes.iter().map(|size| vec![u8::try_from(size % 251).unwrap(); *size]).collect();
        for body in &bodies {
            kept.add("chat", body);
        }
        let bytes = fs::read(kept.path("chat")).unwrap();
        let end = (bytes.len() as f64 * cut) as usize;
        fs::write(kept.path("chat"), &bytes[..end]).unwrap();
        kept.again(settings());
        let found = kept.bodies("chat");
        prop_assert!(found.len() <= bodies.len());
        prop_assert_eq!(&found, &bodies[..found.len()]);
    }
}

#[tokio::test]
async fn nobody_waits_for_the_disk_and_what_does_not_fit_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let (letters, writer) = DeadLetters::open(directory.path(), &settings()).unwrap();
    // Nobody writes yet.
    for _ in 0..WAITING + 10 {
        letters.bury(dead("chat", b"x"));
    }
    assert_eq!(letters.figures().lost, [10, 0, 0, 0]);
    let running = tokio::spawn(writer.run());
    letters.flush().await;
    assert_eq!(letters.figures().kept[0].1.letters, WAITING);
    for _ in 0..5 {
        letters.bury(dead("chat", &vec![0; 3 << 20]));
    }
    assert_eq!(letters.figures().lost[0], 13, "two of them are as much as may wait");
    letters.flush().await;
    // None of them fits into what one function may have.
    assert!(letters.figures().lost[Lost::Size as usize] >= 2);
    running.abort();
}

#[tokio::test]
async fn none_is_kept_where_that_is_not_wanted() {
    let directory = tempfile::tempdir().unwrap();
    let (letters, writer) =
        DeadLetters::open(directory.path(), &Settings { enabled: false, ..settings() }).unwrap();
    tokio::spawn(writer.run());
    letters.bury(dead("chat", b"x"));
    letters.flush().await;
    assert!(letters.figures().kept.is_empty());
}

#[test]
fn of_one_function_ten_thousand_are_kept_however_small() {
    let mut kept = Kept::new(Settings { max_size: 64 << 20, max_total: 64 << 20, ..settings() });
    let gone: usize = (0..10_000_u32).map(|number| kept.add("chat", &number.to_be_bytes())).sum();
    assert_eq!(gone, 0);
    assert_eq!(kept.add("chat", b"one more"), 1);
    let bodies = kept.bodies("chat");
    assert_eq!((bodies.len(), &bodies[0][..]), (10_000, &1_u32.to_be_bytes()[..]));
    assert_eq!(kept.add("other", b"of another one"), 0);
}

/// A function `chat` that is asked at the listener, and who sends letters to it again.
async fn sender() -> (Redrive, tokio::net::TcpListener) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = Upstream::new(function("chat"), UpstreamLimits::default());
    upstream.publish(vec![Endpoint::new("chat-1".parse().unwrap(), listener.local_addr().unwrap())]);
    let routes = Routes::new();
    routes.insert(upstream);
    (Redrive::new(Caller::new(routes), Arc::default()), listener)
}

/// Waits for the next request there, all of it.
async fn asked(listener: &tokio::net::TcpListener) -> tokio::net::TcpStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\nx") {
        assert!(stream.read_buf(&mut read).await.unwrap() > 0, "{}", String::from_utf8_lossy(&read));
    }
    stream
}

async fn answer(mut stream: tokio::net::TcpStream, status: &str) {
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(answer.as_bytes()).await.unwrap();
}

/// Where there are so many letters of `chat`, and their ids.
async fn with_letters(directory: &TempDir, count: usize) -> (DeadLetters, Vec<LetterId>) {
    let (letters, writer) = DeadLetters::open(directory.path(), &settings()).unwrap();
    tokio::spawn(writer.run());
    for _ in 0..count {
        letters.bury(dead("chat", b"x"));
    }
    letters.flush().await;
    let ids = letters.list(wanted(Some("chat")), 10).await.unwrap().iter().map(|found| found.id).collect();
    (letters, ids)
}

/// One that makes no calls.
fn queue(directory: &TempDir, letters: &DeadLetters) -> Queue {
    let settings = queue::Settings {
        engine: queue::Place::Local,
        concurrency: 1,
        max_concurrency: 1,
        max_body: 1 << 20,
        max_size: 1 << 20,
        max_calls: 10,
        reserve: 0,
        retry_for: Duration::from_secs(1),
        callback_timeout: Duration::from_secs(1),
        callback_attempts: 1,
        idempotency: Duration::from_secs(1),
    };
    let around = queue::Around {
        caller: Caller::new(Routes::new()),
        here: "127.0.0.1:1".parse().unwrap(),
        letters: letters.clone(),
        answered: crate::metrics::Timings::default(),
        shared: None,
    };
    Queue::open(directory.path(), settings, around, |_| false).unwrap()
}

#[tokio::test]
async fn a_letter_is_sent_by_one_at_a_time_and_is_gone_when_it_is_dealt_with() {
    let directory = tempfile::tempdir().unwrap();
    let (letters, ids) = with_letters(&directory, 2).await;
    let (by, listener) = sender().await;
    let queue = queue(&directory, &letters);
    let send = |id| {
        let (letters, by, queue) = (letters.clone(), by.clone(), queue.clone());
        tokio::spawn(async move { letters.redrive(&by, &queue, function("chat").namespace, id).await })
    };
    let first = send(ids[0]);
    let stream = asked(&listener).await;
    assert!(matches!(send(ids[0]).await.unwrap(), Err(CannotRedrive::InHand)));
    answer(stream, "500 Internal Server Error").await;
    assert!(matches!(first.await.unwrap(), Err(CannotRedrive::Failed { .. })));
    assert_eq!(letters.figures().kept[0].1.letters, 2, "it stays");
    let again = send(ids[0]);
    answer(asked(&listener).await, "200 OK").await;
    assert!(!again.await.unwrap().unwrap(), "its connection is gone");
    let left = letters.list(wanted(Some("chat")), 10).await.unwrap();
    assert_eq!(left.iter().map(|found| found.id).collect::<Vec<_>>(), ids[1..]);
    assert!(matches!(send(ids[0]).await.unwrap(), Err(CannotRedrive::Unknown)));
}

#[tokio::test]
async fn of_several_none_is_sent_any_more_once_the_function_cannot_be_had() {
    let directory = tempfile::tempdir().unwrap();
    let (letters, ids) = with_letters(&directory, 3).await;
    let nobody = Redrive::new(Caller::new(Routes::new()), Arc::default());
    let redriven =
        letters.redrive_all(&nobody, &queue(&directory, &letters), wanted(Some("chat")), 10).await.unwrap();
    assert_eq!((redriven.done, redriven.failed, redriven.stopped.is_some()), (0, 1, true));
    let left = letters.list(wanted(Some("chat")), 10).await.unwrap();
    assert_eq!(left.iter().map(|found| found.id).collect::<Vec<_>>(), ids);
    assert_eq!(left.iter().map(|found| found.head.attempts).collect::<Vec<_>>(), [4, 3, 3]);
}
