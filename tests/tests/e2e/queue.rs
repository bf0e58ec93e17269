//! Calls that were accepted are made: over kills of the daemon, full disks and functions that fail.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use roost_tests::{Answer, Api, Config, Host, Image, Receiver, Registry, body_of, eventually};
use serde_json::{Value, json};

/// How many calls the crash test makes, if nobody says it.
const CALLS: usize = 3000;

/// Those who make them.
const CLIENTS: usize = 16;

pub(crate) async fn host(config: Config, annotations: Value) -> (Registry, Host) {
    let registry = Registry::open().await;
    let function = Image::of_program(Path::new(env!("CARGO_BIN_EXE_ledger-function")));
    let image = registry.push(&function, "ledger", "1").await;
    let host = Host::start_with(config).await;
    host.post_function(&json!({ "service": "ledger", "image": image, "annotations": annotations })).await;
    host.ready("ledger").await;
    (registry, host)
}

pub(crate) async fn hand_over(
    api: &Api,
    path: &str,
    body: &str,
    headers: &[(&str, &str)],
) -> Result<Answer, String> {
    let mut request = api.request(&Method::POST, &format!("/async-function/ledger{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    api.try_send(request.body(body_of(body.to_owned())).unwrap()).await
}

pub(crate) async fn taken(host: &Host, path: &str, headers: &[(&str, &str)]) -> String {
    let answer = hand_over(&host.api, path, "", headers).await.unwrap();
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text());
    answer.header("x-call-id").to_owned()
}

/// What the function remembers: each path, how often it was done, at which attempt.
async fn seen(host: &Host) -> Vec<(String, u32, String)> {
    let answer = host.api.get("/function/ledger/seen").await;
    let line = |line: &str| {
        let mut words = line.split(' ');
        let mut next = || words.next().unwrap_or_default().to_owned();
        (next(), next().parse().unwrap(), next())
    };
    answer.text().lines().map(line).collect()
}

pub(crate) async fn done(host: &Host, paths: &[&str]) -> Vec<(String, u32, String)> {
    eventually("the calls", || async {
        let seen = seen(host).await;
        paths.iter().all(|path| seen.iter().any(|(done, ..)| done == path)).then_some(seen)
    })
    .await
}

pub(crate) async fn letters(host: &Host) -> Vec<Value> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page = host
            .api
            .get(&format!("/system/deadletters?function=ledger&limit=1000&after={after}"))
            .await
            .json();
        all.extend(page["letters"].as_array().unwrap().iter().cloned());
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => return all,
        }
    }
}

/// `queue_worker_pending_messages` and the calls in flight.
async fn left(host: &Host) -> u64 {
    let page = Api::new(host.metrics_port(), None).get("/metrics").await;
    let of = |name: &str| {
        let line = page.text().lines().find(|line| line.starts_with(name)).unwrap_or("x 0").to_owned();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    of("queue_worker_pending_messages{") + of("queue_worker_function_invocation_inflight{")
}

/// How many of these calls are neither done nor dead.
async fn open(host: &Host, numbers: &HashSet<usize>) -> usize {
    let number = |path: &str| path.rsplit('/').next().unwrap().parse::<usize>().unwrap();
    let done = seen(host).await.into_iter().map(|(path, ..)| number(&path));
    let dead = letters(host).await.into_iter().map(|letter| number(letter["path"].as_str().unwrap()));
    let over: HashSet<usize> = done.chain(dead).collect();
    numbers.difference(&over).count()
}

/// `ROOST_TEST_CALLS` says how many calls there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_accepted_call_is_lost_while_the_daemon_is_killed_and_the_function_fails() {
    let calls = std::env::var("ROOST_TEST_CALLS").map_or(CALLS, |calls| calls.parse().unwrap());
    no_accepted_call_is_lost(Config::default(), calls).await;
}

/// While the daemon is killed and the function fails.
#[allow(clippy::print_stderr, reason = "the figures are for whoever asks for them")]
pub(crate) async fn no_accepted_call_is_lost(config: Config, calls: usize) {
    let annotations = json!({
        "com.openfaas.retry.attempts": "4",
        "com.openfaas.retry.min_wait": "1s",
        "com.openfaas.retry.max_wait": "2s",
    });
    let (_registry, mut host) = host(config, annotations).await;
    let (next, accepted) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let began = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (api, next, accepted) = (host.api.clone(), Arc::clone(&next), Arc::clone(&accepted));
            tokio::spawn(async move {
                let mut mine = Vec::new();
                while accepted.load(Ordering::Relaxed) < calls {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    match hand_over(&api, &format!("/call/{number}"), "the body of a call", &[]).await {
                        Ok(answer) if answer.status == StatusCode::ACCEPTED => {
                            accepted.fetch_add(1, Ordering::Relaxed);
                            mine.push(number);
                        }
                        // Nobody knows whether that one was taken over.
                        Err(_gone) => tokio::time::sleep(Duration::from_millis(20)).await,
                        // One that has just begun may not have its queue yet.
                        Ok(answer) if answer.status == StatusCode::SERVICE_UNAVAILABLE => {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                        Ok(answer) => panic!("{}: {}", answer.status, answer.text()),
                    }
                }
                mine
            })
        })
        .collect();
    // A few times while they are accepted; of many, every few seconds.
    let (mut kills, mut last) = (0, Instant::now());
    while accepted.load(Ordering::Relaxed) < calls {
        let due = calls * (kills + 1) / 6;
        if (kills < 5 && accepted.load(Ordering::Relaxed) >= due) || last.elapsed() > Duration::from_secs(4) {
            host.kill9();
            kills += 1;
            host.start_daemon().await;
            last = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut numbers = HashSet::new();
    for client in clients {
        numbers.extend(client.await.unwrap());
    }
    let accepting = began.elapsed();
    // Once more while the rest is made.
    host.kill9();
    kills += 1;
    host.start_daemon().await;
    let deadline = Instant::now() + Duration::from_secs(600);
    while left(&host).await > 0 || open(&host, &numbers).await > 0 {
        assert!(Instant::now() < deadline, "{} calls are left", left(&host).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let seen = seen(&host).await;
    let mut completed: HashMap<usize, u32> = HashMap::new();
    for (path, times, _) in &seen {
        completed.insert(path.rsplit('/').next().unwrap().parse().unwrap(), *times);
    }
    let letters = letters(&host).await;
    let mut dead: HashMap<usize, &Value> = HashMap::new();
    for letter in &letters {
        assert_eq!(
            (&letter["kind"], &letter["cause"]),
            (&json!("call"), &json!("it was answered with 500 Internal Server Error")),
            "{letter}"
        );
        dead.insert(letter["path"].as_str().unwrap().rsplit('/').next().unwrap().parse().unwrap(), letter);
    }
    let lost: Vec<_> = numbers
        .iter()
        .filter(|number| !completed.contains_key(number) && !dead.contains_key(number))
        .collect();
    assert!(lost.is_empty(), "{} of {} accepted calls are lost: {lost:?}", lost.len(), numbers.len());
    let doubled: u32 = completed.values().map(|times| times - 1).sum();
    let at_once = 10;
    eprintln!(
        "{} calls accepted in {accepting:?}, {kills} kills, {} completed, {} dead letters, {doubled} made twice",
        numbers.len(),
        completed.len(),
        dead.len()
    );
    assert!(doubled as usize <= kills * at_once, "{doubled}");
    assert!(dead.keys().all(|number| number % 100 == 99), "only those that always fail");
    assert!(numbers.iter().filter(|number| *number % 100 == 99).all(|number| dead.contains_key(number)));
}

#[tokio::test]
async fn a_call_is_made_again_as_its_function_says_and_is_a_dead_letter_that_can_be_sent_again() {
    a_call_is_made_again(Config::default()).await;
}

pub(crate) async fn a_call_is_made_again(config: Config) {
    let annotations = json!({
        "com.openfaas.retry.attempts": "3",
        "com.openfaas.retry.codes": "429,500",
        "com.openfaas.retry.min_wait": "1s",
        "com.openfaas.retry.max_wait": "1s",
    });
    let mut receiver = Receiver::open().await;
    let (_registry, host) = host(config, annotations).await;
    let url = receiver.url("/done");
    taken(&host, "/busy/1", &[("X-Callback-Url", &url)]).await;
    let callback = receiver.next().await;
    let headers =
        ["x-function-status", "x-retry", "x-retry-max"].map(|name| callback.header(name).to_owned());
    assert_eq!(headers, ["200", "2", "2"]);
    assert_eq!(seen(&host).await, [("/busy/1".to_owned(), 1, "3".to_owned())]);

    let id = taken(&host, "/call/99?secret=1", &[("X-Callback-Url", &url), ("Authorization", "Bearer mine")])
        .await;
    let callback = receiver.next().await;
    assert_eq!((callback.header("x-function-status"), callback.header("x-call-id")), ("500", id.as_str()));
    // It may come a moment behind the callback.
    let only = async |not: &Value| {
        eventually("the dead letter", || async {
            let found = letters(&host).await;
            assert!(found.len() <= 1, "{found:?}");
            found.first().filter(|letter| letter["id"] != *not).cloned()
        })
        .await
    };
    let letter = only(&Value::Null).await;
    let shown = ["kind", "call", "reason", "status", "attempts", "path"].map(|name| letter[name].clone());
    let expected = [json!("call"), json!(id), json!("status"), json!(500), json!(3), json!("/call/99")];
    assert_eq!(shown, expected, "{letter}");
    let whole = host.api.get(&format!("/system/deadletters/{}", letter["id"].as_str().unwrap())).await;
    assert!(!whole.text().contains("mine"), "{}", whole.text());
    // As a person does it. It fails again, and is a letter again.
    host.log_in().await;
    let listed = host.roost_done(&["deadletters", "list"]).await;
    assert!(listed.contains("call") && listed.contains("/call/99"), "{listed}");
    host.roost_done(&["deadletters", "redrive", letter["id"].as_str().unwrap()]).await;
    assert_eq!(receiver.next().await.header("x-function-status"), "500");
    let again = only(&letter["id"]).await;
    assert_eq!(again["call"], json!(id));
}

#[tokio::test]
async fn calls_wait_and_go_before_others_and_behind_each_other_and_once_as_their_clients_wish() {
    calls_wait_and_go_before_others(Config { queue: "concurrency = 1", ..Config::default() }).await;
}

pub(crate) async fn calls_wait_and_go_before_others(config: Config) {
    let (_registry, mut host) = host(config, json!({})).await;
    // The first ones are at work while the others come.
    for number in 0..5 {
        taken(&host, &format!("/slow/first/{number}"), &[]).await;
    }
    taken(&host, "/slow/normal", &[]).await;
    taken(&host, "/slow/last", &[("X-Roost-Priority", "0")]).await;
    taken(&host, "/slow/urgent", &[("X-Roost-Priority", "9")]).await;
    let once = [("X-Roost-Idempotency-Key", "k")];
    let first = taken(&host, "/slow/once", &once).await;
    let again = hand_over(&host.api, "/slow/once", "", &once).await.unwrap();
    assert_eq!((again.status, again.header("x-roost-duplicate")), (StatusCode::ACCEPTED, first.as_str()));
    let all = ["/slow/urgent", "/slow/normal", "/slow/once", "/slow/last"];
    let order = done(&host, &all).await.into_iter().filter(|(path, ..)| !path.contains("first"));
    let order: Vec<_> = order.map(|(path, times, _)| (path, times)).collect();
    assert_eq!(order, all.map(|path| (path.to_owned(), 1)));

    // What is delayed and what expires is so over a restart, too.
    let began = Instant::now();
    taken(&host, "/call/later", &[("X-Roost-Delay", "2s"), ("X-Roost-Order-Key", "k")]).await;
    let expired = taken(&host, "/call/never", &[("X-Roost-Delay", "1h"), ("X-Roost-Expires", "2h")]).await;
    host.restart().await;
    host.ready("ledger").await;
    done(&host, &["/call/later"]).await;
    assert!(began.elapsed() >= Duration::from_secs(2));
    let waits = host.api.get(&format!("/async-function/{expired}")).await;
    assert_eq!(waits.status, StatusCode::ACCEPTED);
    let cancelled = host.api.send(Method::DELETE, &format!("/async-function/{expired}"), "").await;
    assert_eq!(cancelled.status, StatusCode::ACCEPTED);
    for (name, value, why) in [
        ("X-Roost-Priority", "10", "x-roost-priority: expected a number from 0 to 9\n"),
        ("X-Roost-Delay", "soon", "x-roost-delay: expected a duration of up to 366 days, such as 30s\n"),
    ] {
        let answer = hand_over(&host.api, "/x", "", &[(name, value)]).await.unwrap();
        assert_eq!((answer.status, answer.text()), (StatusCode::BAD_REQUEST, why));
    }
}

#[tokio::test]
async fn a_result_is_kept_for_who_asks_and_a_large_body_goes_by_the_disk() {
    a_result_is_kept(Config::default()).await;
}

pub(crate) async fn a_result_is_kept(config: Config) {
    let (_registry, mut host) = host(config, json!({})).await;
    let large = "x".repeat(3 << 20);
    let keep = [("X-Roost-Keep-Result", "1h")];
    let answer = hand_over(&host.api, "/call/1", &large, &keep).await.unwrap();
    let id = answer.header("x-call-id").to_owned();
    let path = format!("/async-function/{id}");
    let ready = eventually("the result", || async {
        let answer = host.api.get(&path).await;
        (answer.status == StatusCode::OK).then_some(answer)
    })
    .await;
    assert_eq!((ready.text(), ready.header("x-function-status")), ("3145728 bytes for /call/1", "200"));
    assert_eq!(ready.header("x-call-id"), id);
    host.restart().await;
    assert_eq!(host.api.get(&path).await.text(), "3145728 bytes for /call/1");
    for bodies in ["bodies", "held"] {
        let left = std::fs::read_dir(host.dir().join("state/queue").join(bodies));
        assert_eq!(left.map_or(0, Iterator::count), 0, "{bodies}");
    }
    let unknown = host.api.get("/async-function/nobody-knows").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_waits_is_seen_and_ended_and_what_was_answered_is_printed() {
    let config = Config { queue: "concurrency = 1", ..Config::default() };
    let (_registry, host) = host(config, json!({})).await;
    host.log_in().await;
    assert_eq!(host.api.get("/system/queue").await.json(), json!([]));

    let once =
        ["invoke", "ledger", "--async", "--path", "/call/kept", "-d", "hello", "--idempotency-key", "k"];
    let kept = host.roost_done(&[&once[..], &["--keep-result", "1h"]].concat()).await;
    assert_eq!(host.roost_done(&once).await, kept, "it is the same call");
    let later = host.roost_done(&["invoke", "ledger", "--async", "-d", "hello", "--delay", "1h"]).await;
    let (kept, later) = (kept.trim(), later.trim());
    let line = eventually("the first call to end", || async {
        let lines = host.api.get("/system/queue?function=ledger").await.json();
        (lines[0]["processed"] == 1).then(|| lines[0].clone())
    })
    .await;
    assert!(line["oldestSeconds"].as_f64().unwrap() < 600.0 && line["bytes"].as_u64().unwrap() > 5, "{line}");
    let counts = ["pending", "inFlight", "submitted", "retried", "dead", "dropped", "redelivered"]
        .map(|name| line[name].as_u64().unwrap());
    assert_eq!(counts, [1, 0, 2, 0, 0, 0, 0], "{line}");
    let function = host.api.get("/system/function/ledger").await.json();
    assert_eq!(function["status"]["load"]["queued"], 1);

    assert_eq!(host.roost_done(&["queue", "result", kept]).await, "5 bytes for /call/kept");
    let table = host.roost_done(&["queue", "-A"]).await;
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..3], ["ledger.openfaas-fn", "1", "0"], "{table}");
    assert_eq!(row[row.len() - 3..], ["1", "0", "0"], "{table}");
    let page = Api::new(host.metrics_port(), None).get("/metrics").await;
    let oldest = page.text().lines().find(|line| line.starts_with("roost_queue_oldest_seconds{")).unwrap();
    assert!(!oldest.ends_with(" 0"), "{oldest}");

    // What a name is of a function is no id of a call, and the function is not called.
    for (call, why) in [(later, "is not over yet; ask again in 1s"), ("nobody-knows", ""), ("ledger", "")] {
        let output = host.roost(&["queue", "result", call]).await;
        assert!(output.code == Some(1) && output.stderr.contains(why), "{output:?}");
        assert_eq!(output.stdout, "");
    }
    host.roost_done(&["queue", "cancel", later]).await;
    assert_eq!(host.roost(&["queue", "cancel", later]).await.code, Some(1));
    let lines: Value = serde_json::from_str(&host.roost_done(&["queue", "--json"]).await).unwrap();
    let line = &lines[0];
    assert_eq!((&line["pending"], &line["submitted"], &line["dropped"]), (&json!(0), &json!(2), &json!(1)));
    assert!(line.get("oldestSeconds").is_none(), "{line}");
    assert_eq!(seen(&host).await.len(), 1);
}

/// A small file system.
struct Mounted(PathBuf);

impl Mounted {
    fn new(at: PathBuf) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"]).arg(&at));
        Self(at)
    }

    fn grow(&self) {
        run(Command::new("mount").args(["-o", "remount,size=64m"]).arg(&self.0));
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-l").arg(&self.0));
    }
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

#[tokio::test]
async fn a_full_disk_refuses_calls_and_loses_none_and_takes_them_again_when_there_is_room() {
    // Without the reserve, so that the disk itself is what has no room.
    let config = Config { queue: "concurrency = 1\nreserve = \"1KiB\"", ..Config::default() };
    let registry = Registry::open().await;
    let function = Image::of_program(Path::new(env!("CARGO_BIN_EXE_ledger-function")));
    let image = registry.push(&function, "ledger", "1").await;
    let mut host = Host::start_with(config).await;
    host.terminate();
    host.ended().await;
    let disk = Mounted::new(host.dir().join("state/queue"));
    host.start_daemon().await;
    host.post_function(&json!({ "service": "ledger", "image": image })).await;
    host.ready("ledger").await;
    let (mut accepted, mut refused) = (Vec::new(), 0);
    for number in 0.. {
        // Some in the database, some in files.
        let body = "x".repeat(if number % 2 == 0 { 10_000 } else { 200_000 });
        let path = format!("/slow/{number}");
        let answer = hand_over(&host.api, &path, &body, &[]).await.unwrap();
        match answer.status {
            StatusCode::ACCEPTED => accepted.push(path),
            StatusCode::INSUFFICIENT_STORAGE | StatusCode::SERVICE_UNAVAILABLE => {
                assert_eq!(answer.header("retry-after"), "10");
                refused += 1;
            }
            other => panic!("{other}: {}", answer.text()),
        }
        if refused == 5 {
            break;
        }
        assert!(number < 1000, "the disk is never full");
    }
    assert!(!accepted.is_empty());
    assert_eq!(host.api.get("/function/ledger/seen").await.status, StatusCode::OK, "others are served");
    disk.grow();
    eventually("calls to be taken again", || async {
        let answer = hand_over(&host.api, "/slow/again", "x", &[]).await.unwrap();
        (answer.status == StatusCode::ACCEPTED).then_some(())
    })
    .await;
    host.kill9();
    host.start_daemon().await;
    let paths: Vec<&str> = accepted.iter().map(String::as_str).collect();
    done(&host, &paths).await;
    host.terminate();
    host.ended().await;
    drop(disk);
}
