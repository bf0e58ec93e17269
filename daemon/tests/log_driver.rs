//! The log driver as a process, with real pipes, and the store that reads what it wrote.

#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use futures_util::{Stream, StreamExt, TryStreamExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use roost_proxy::function::FunctionKey;
use roostd::logs::{LogStore, Query, Record, Stream as Printed};

/// Long enough for a busy machine; reached only when something does not hold.
const DEADLINE: Duration = Duration::from_secs(30);

const MIB: u64 = 1 << 20;

/// A place for logs, and the store that reads it.
struct Place {
    root: tempfile::TempDir,
    store: LogStore,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = LogStore::new(root.path().to_owned());
        Self { root, store }
    }

    fn directory(&self) -> PathBuf {
        self.store.directory(&key())
    }

    fn drive(&self, replica: &str, max_bytes: u64) -> Driver {
        assert!(self.directory().starts_with(self.root.path()));
        Driver::start(replica, &format!("{max_bytes}:{}", self.directory().display()))
    }

    async fn follow(&self, query: Query) -> Pin<Box<dyn Stream<Item = io::Result<Record>> + Send>> {
        Box::pin(self.store.read(Query { follow: true, ..query }).await.unwrap())
    }

    async fn records(&self) -> Vec<Record> {
        self.store.read(query()).await.unwrap().try_collect().await.unwrap()
    }

    async fn texts(&self) -> Vec<String> {
        self.records().await.into_iter().map(|record| record.text).collect()
    }
}

fn key() -> FunctionKey {
    FunctionKey::from_route("echo").unwrap()
}

fn query() -> Query {
    Query { key: key(), instance: None, tail: None, since: None, follow: false }
}

async fn next(stream: &mut (impl Stream<Item = io::Result<Record>> + Unpin)) -> Record {
    let next = tokio::time::timeout(DEADLINE, stream.next()).await;
    next.expect("a line before the deadline").expect("the stream goes on").unwrap()
}

/// A driver and the function's ends of its pipes.
struct Driver {
    child: Child,
    stdout: Option<io::PipeWriter>,
    stderr: Option<io::PipeWriter>,
}

impl Driver {
    /// Starts a driver as the shim does, and waits until it is ready.
    fn start(replica: &str, arg: &str) -> Self {
        let (stdout_end, stdout) = io::pipe().unwrap();
        let (stderr_end, stderr) = io::pipe().unwrap();
        let (mut ready, ready_end) = io::pipe().unwrap();
        // A shell moves the three descriptors to where the shim puts them.
        let child = Command::new("sh")
            .arg("-c")
            .arg(r#"exec "$0" log-driver "$1" 3<&0 4<&1 5>&2 </dev/null >/dev/null 2>/dev/null"#)
            .arg(env!("CARGO_BIN_EXE_roostd"))
            .arg(arg)
            .env("CONTAINER_ID", replica)
            .env("CONTAINER_NAMESPACE", "openfaas-fn")
            .stdin(Stdio::from(OwnedFd::from(stdout_end)))
            .stdout(Stdio::from(OwnedFd::from(stderr_end)))
            .stderr(Stdio::from(OwnedFd::from(ready_end)))
            .spawn()
            .unwrap();
        let mut rest = Vec::new();
        ready.read_to_end(&mut rest).unwrap();
        Self { child, stdout: Some(stdout), stderr: Some(stderr) }
    }

    fn print(&mut self, text: impl AsRef<[u8]>) {
        self.stdout.as_mut().unwrap().write_all(text.as_ref()).unwrap();
    }

    fn complain(&mut self, text: impl AsRef<[u8]>) {
        self.stderr.as_mut().unwrap().write_all(text.as_ref()).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// The function ends; so does the driver.
    fn end(mut self) -> ExitStatus {
        self.stdout = None;
        self.stderr = None;
        self.child.wait().unwrap()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
    }
}

#[tokio::test]
async fn both_streams_are_kept_with_their_names() {
    let place = Place::new();
    let mut driver = place.drive("echo-1", MIB);
    driver.print("out\n");
    driver.complain("err\n");
    driver.print("no newline at the end");
    assert!(driver.end().success());
    let mut got: Vec<_> = place
        .records()
        .await
        .into_iter()
        .map(|record| (record.stream == Printed::Stderr, record.text))
        .collect();
    // Which of the two streams is read first is not known.
    got.sort();
    let expected = [(false, "no newline at the end"), (false, "out"), (true, "err")];
    assert_eq!(got, expected.map(|(stderr, text)| (stderr, text.to_owned())));
}

#[tokio::test]
async fn a_line_of_one_stream_is_not_mixed_with_the_other() {
    let place = Place::new();
    let mut driver = place.drive("echo-1", 64 * MIB);
    let stdout = driver.stdout.take().unwrap();
    let stderr = driver.stderr.take().unwrap();
    let lines = |letter: char| (0..200).map(move |n| format!("{n} {}", letter.to_string().repeat(n * 500)));
    let print = |mut pipe: io::PipeWriter, letter: char| {
        std::thread::spawn(move || {
            for line in lines(letter) {
                // In small pieces, so that lines are unfinished most of the time.
                for piece in format!("{line}\n").as_bytes().chunks(1009) {
                    pipe.write_all(piece).unwrap();
                }
            }
        })
    };
    for thread in [print(stdout, 'o'), print(stderr, 'e')] {
        thread.join().unwrap();
    }
    assert!(driver.end().success());
    let records = place.records().await;
    for (stream, letter) in [(Printed::Stdout, 'o'), (Printed::Stderr, 'e')] {
        let texts = records.iter().filter(|record| record.stream == stream).map(|record| record.text.clone());
        assert!(texts.eq(lines(letter)), "{letter}");
    }
}

#[tokio::test]
async fn long_lines_and_binary_output_are_survived() {
    let place = Place::new();
    let mut driver = place.drive("echo-1", 16 * MIB);
    let line_200k = "x".repeat(200_000);
    driver.print(format!("{line_200k}\n"));
    driver.print(vec![b'y'; 1_000_000]);
    driver.print("\n");
    let binary: Vec<u8> = (0..=255).filter(|byte| *byte != b'\n').collect();
    driver.print(&binary);
    driver.print("\nlast\n");
    assert!(driver.end().success());
    let texts = place.texts().await;
    let [long, cut, bytes, last] = &texts[..] else { panic!("{} lines", texts.len()) };
    assert_eq!(*long, line_200k);
    assert_eq!(cut.trim_start_matches('y'), " [roost: cut, the line has 1000000 bytes]");
    assert_eq!(*bytes, String::from_utf8_lossy(&binary));
    assert_eq!(last, "last");
}

#[tokio::test]
async fn rotation_under_load_keeps_the_newest_lines_within_the_cap() {
    let place = Place::new();
    let mut driver = place.drive("echo-1", 256 * 1024);
    let total = 100_000;
    let text: String = (0..total).map(|n| format!("line {n}\n")).collect();
    driver.print(text);
    assert!(driver.end().success());
    let size: u64 =
        fs::read_dir(place.directory()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(size <= 256 * 1024, "{size}");
    let texts = place.texts().await;
    // At least the half of the cap that the file before holds, at 50 to 60 bytes a line.
    assert!(texts.len() > 2000, "{}", texts.len());
    let expected: Vec<_> = (total - texts.len()..total).map(|n| format!("line {n}")).collect();
    assert_eq!(texts, expected);
}

#[tokio::test]
async fn term_does_not_end_a_driver_before_the_output_has_ended() {
    let place = Place::new();
    let mut driver = place.drive("echo-1", MIB);
    driver.print("before\n");
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        kill(driver.pid(), signal).unwrap();
    }
    driver.print("the last words\n");
    assert!(driver.end().success());
    assert_eq!(place.texts().await, ["before", "the last words"]);
}

#[tokio::test]
async fn one_stream_may_end_before_the_other() {
    let place = Place::new();
    let mut driver = place.drive("echo-1", MIB);
    driver.stdout = None;
    driver.complain("still here\n");
    assert!(driver.end().success());
    assert_eq!(place.texts().await, ["still here"]);
}

#[tokio::test]
async fn a_removed_function_is_read_to_its_end_and_makes_no_files() {
    let place = Place::new();
    let mut driver = place.drive("echo-1", 128 * 1024);
    place.store.remove_function(&key()).await.unwrap();
    driver.print("x".repeat(1_000_000));
    assert!(driver.end().success());
    assert!(!place.directory().exists());
}

#[tokio::test]
async fn following_begins_before_the_first_line_and_crosses_replicas() {
    let place = Place::new();
    let mut records = place.follow(query()).await;
    // Nothing is there yet, not even the directory: the stream waits.
    let waited = tokio::time::timeout(Duration::from_millis(50), records.next()).await;
    assert!(waited.is_err());

    let mut first = place.drive("echo-1", MIB);
    first.print("one\n");
    assert_eq!(next(&mut records).await.text, "one");
    let mut second = place.drive("echo-2", MIB);
    second.print("two\n");
    let record = next(&mut records).await;
    assert_eq!((record.text.as_str(), record.instance.as_str()), ("two", "echo-2"));
    first.print("three\n");
    assert_eq!(next(&mut records).await.text, "three");
    drop(first);
    // Its files go, it comes again: as after a deploy of a function that was removed.
    place.store.remove_function(&key()).await.unwrap();
    let mut third = place.drive("echo-3", MIB);
    third.print("four\n");
    assert_eq!(next(&mut records).await.text, "four");
}

#[tokio::test]
async fn following_loses_and_doubles_nothing_across_rotations() {
    let place = Place::new();
    let mut driver = place.drive("echo-1", 256 * 1024);
    let line = |n: usize| format!("{n} {}", "x".repeat(100));
    let total = 20_000;
    driver.print(format!("{}\n{}\n", line(0), line(1)));
    let mut records = pin!(place.follow(Query { tail: Some(1), ..query() }).await);
    // The reader sets the pace: the function stays less than a file ahead of it, as the cap would cut off more.
    let mut printed = 2;
    let mut expected = None;
    while expected != Some(total) {
        let record = next(&mut records).await;
        // Where the tail begins depends on when the first lines arrived.
        let n = expected.unwrap_or_else(|| record.text.split(' ').next().unwrap().parse().unwrap());
        assert_eq!(record.text, line(n));
        expected = Some(n + 1);
        while printed < total && printed < n + 400 {
            driver.print(format!("{}\n", line(printed)));
            printed += 1;
        }
    }
    assert!(place.directory().join("echo-1.log.1").exists());
}

#[tokio::test]
async fn a_follower_that_goes_away_leaves_nothing_behind() {
    let place = Place::new();
    let mut driver = place.drive("echo-1", MIB);
    driver.print("one\n");
    let mut records = place.follow(query()).await;
    assert_eq!(next(&mut records).await.text, "one");
    let open = |name: &str| {
        let fds = fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
        fds.filter(|target| target.to_string_lossy().contains(name)).count()
    };
    let dir = place.directory().display().to_string();
    assert_eq!(open(&dir), 1);
    drop(records);
    assert_eq!(open(&dir), 0);
}
