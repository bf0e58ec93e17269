//! Calls that no client makes: by the clock and by files. Those of brokers are beside it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use hyper::{Method, StatusCode};
use roost_tests::{Api, Config, Host, Image, eventually};
use serde_json::{Value, json};

/// What a function has seen of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) connector: String,
    pub(crate) topic: String,
    /// For which time it is, or which file.
    pub(crate) about: String,
    pub(crate) body: String,
}

/// A function that writes a line to its log for each call of a trigger, and answers after `$HOLD` seconds.
pub(crate) fn recorder() -> Image {
    let answer = r#"#!/bin/sh
        body=$(busybox head -c "${CONTENT_LENGTH:-0}")
        if [ -n "$HTTP_X_CONNECTOR" ]; then
            about=$HTTP_X_ROOST_SCHEDULED_FOR$HTTP_X_ROOST_FILE
            echo "seen|$HTTP_X_CONNECTOR|$HTTP_X_TOPIC|$about|$body" >/proc/1/fd/2
            busybox sleep "${HOLD:-0}"
        fi
        printf 'Content-Type: text/plain\r\n\r\n'
    "#;
    let mut script = tempfile::NamedTempFile::new().unwrap();
    script.write_all(answer.as_bytes()).unwrap();
    let busybox = Path::new("/bin/busybox");
    Image::new(
        &[(busybox, "/bin/busybox"), (busybox, "/bin/sh"), (script.path(), "/www/cgi-bin/index.cgi")],
        &["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"],
    )
}

/// All calls that the function has seen, in their order.
pub(crate) async fn seen(host: &Host, function: &str) -> Vec<Seen> {
    let lines = host.log_lines(function).await.into_iter();
    let words =
        lines.filter_map(|line| Some(line.strip_prefix("seen|")?.split('|').map(str::to_owned).collect()));
    let seen = words.filter_map(|words: Vec<String>| {
        let [connector, topic, about, body] = words.try_into().ok()?;
        Some(Seen { connector, topic, about, body })
    });
    seen.collect()
}

/// Waits until the function has seen what is wanted.
pub(crate) async fn eventually_seen<T>(
    host: &Host,
    function: &str,
    what: &str,
    wanted: impl Fn(&[Seen]) -> Option<T>,
) -> T {
    eventually(what, || async { wanted(&seen(host, function).await) }).await
}

pub(crate) async fn host(triggers: String) -> Host {
    let host = Host::start_with(Config { triggers, ..Config::default() }).await;
    host.import(&recorder(), "recorder:1").await;
    host
}

pub(crate) fn deployment(name: &str, annotations: &Value) -> Value {
    json!({ "service": name, "image": "recorder:1", "annotations": annotations })
}

/// Deploys, and waits until it is ready.
pub(crate) async fn deploy(host: &Host, name: &str, annotations: &Value) {
    host.post_function(&deployment(name, annotations)).await;
    host.ready(name).await;
}

/// A count of the metrics.
pub(crate) async fn counted(host: &Host, metric: &str, function: &str, trigger: &str) -> u64 {
    let page = Api::new(host.metrics_port(), None).get("/metrics").await;
    let sample = format!("{metric}{{function_name=\"{function}.openfaas-fn\",trigger=\"{trigger}\"}} ");
    page.text()
        .lines()
        .find_map(|line| line.strip_prefix(&sample))
        .map_or(0, |number| number.parse().unwrap())
}

fn clock(schedule: &str, more: &[(&str, &str)]) -> Value {
    let mut annotations = BTreeMap::from([("topic", "cron-function"), ("schedule", schedule)]);
    annotations.extend(more.iter().copied());
    json!(annotations)
}

/// When the runs were due that the function has seen, in seconds.
fn times(seen: &[Seen]) -> Vec<i64> {
    seen.iter().map(|seen| seen.about.parse::<jiff::Timestamp>().unwrap().as_second()).collect()
}

#[tokio::test]
async fn a_schedule_is_refused_by_the_annotation_that_is_wrong_and_ends_with_its_function() {
    let host = host(String::new()).await;
    for (annotations, expected) in [
        (
            clock("61 * * * *", &[]),
            "annotations.schedule: \"61 * * * *\": \"61\": expected a number from 0 to 59",
        ),
        (json!({ "topic": "cron-function" }), "annotations.schedule: is required"),
        (
            clock("@daily", &[("roost.schedule.timezone", "Mars/Base")]),
            "annotations.roost.schedule.timezone: \"Mars/Base\"",
        ),
        (
            json!({ "topic": "mqtt:a" }),
            "annotations.topic: \"mqtt:a\": this host has no [triggers.mqtt.NAME] in its settings",
        ),
        (json!({ "topic": "mqtt:a/#/b" }), "annotations.topic: \"mqtt:a/#/b\": expected a topic of MQTT"),
    ] {
        let answer = host.api.post("/system/functions", deployment("bad", &annotations).to_string()).await;
        assert_eq!(
            (answer.status, answer.text().contains(expected)),
            (StatusCode::BAD_REQUEST, true),
            "{}",
            answer.text()
        );
    }
    // A topic of somebody else's connector is none of ours.
    deploy(&host, "other", &json!({ "topic": "kafka-topic" })).await;

    deploy(&host, "often", &clock("@every 1s", &[])).await;
    let first = eventually_seen(&host, "often", "a run", |seen| seen.first().cloned()).await;
    assert_eq!(
        (first.connector.as_str(), first.topic.as_str(), first.body.as_str()),
        ("cron-connector", "cron-function", "")
    );
    let runs =
        eventually_seen(&host, "often", "more runs", |seen| (seen.len() >= 4).then(|| times(seen))).await;
    assert!(runs.windows(2).all(|pair| pair[1] > pair[0]), "each second once at most: {runs:?}");

    // An update ends the schedule, and a removal.
    host.put_function(&deployment("often", &clock("@every 24h", &[]))).await;
    let function = host.status("often", "the next run of the new schedule", |status| {
        status["schedules"][0]["schedule"] == "@every 24h"
    });
    let next = function.await["status"]["schedules"][0]["next"].as_str().unwrap().to_owned();
    let left = next.parse::<jiff::Timestamp>().unwrap().as_second() - jiff::Timestamp::now().as_second();
    assert!((23 * 3600..=24 * 3600).contains(&left), "{next}");
    host.log_in().await;
    let described = host.roost_done(&["describe", "often"]).await;
    assert!(described.contains(&format!("Next runs:    {next} (in ")), "{described}");
    let fired = counted(&host, "roost_trigger_fired_total", "often", "cron").await;
    deploy(&host, "witness", &clock("@every 1s", &[])).await;
    eventually_seen(&host, "witness", "three runs", |seen| (seen.len() >= 3).then_some(())).await;
    assert!(counted(&host, "roost_trigger_fired_total", "often", "cron").await <= fired + 1);
    host.remove("witness").await;
    let page = Api::new(host.metrics_port(), None).get("/metrics").await;
    assert!(!page.text().contains("function_name=\"witness.openfaas-fn\",trigger"), "{}", page.text());
}

#[tokio::test]
async fn runs_that_were_missed_are_made_up_for_as_it_was_asked() {
    let mut host = host(String::new()).await;
    let policies = ["skip", "once", "all"];
    for policy in policies {
        deploy(&host, policy, &clock("@every 1s", &[("roost.schedule.missed", policy)])).await;
    }
    for policy in policies {
        eventually_seen(&host, policy, "a run", |seen| (!seen.is_empty()).then_some(())).await;
    }
    host.kill9();
    let down_since = jiff::Timestamp::now().as_second();
    // Four runs of each are due while nobody is there.
    eventually("the time that is missed", || async {
        (jiff::Timestamp::now().as_second() >= down_since + 5).then_some(())
    })
    .await;
    let up_before = jiff::Timestamp::now().as_second();
    host.start_daemon().await;
    // What was due in the seconds in which it was down for certain.
    let missed: Vec<i64> = (down_since + 1..up_before).collect();
    for policy in policies {
        let runs = eventually_seen(&host, policy, "runs after the start", |seen| {
            let mut runs = times(seen);
            runs.sort_unstable();
            let all = policy != "all" || missed.iter().all(|at| runs.contains(at));
            (all && runs.iter().any(|at| *at > up_before + 2)).then_some(runs)
        })
        .await;
        let made: Vec<i64> = runs.iter().copied().filter(|at| missed.contains(at)).collect();
        match policy {
            "skip" => assert_eq!(made, [0; 0], "{runs:?}"),
            // The one that is made may be one of the second in which the daemon came up.
            "once" => assert!(made.len() <= 1, "{runs:?}"),
            _ => assert_eq!(made, missed, "{runs:?}"),
        }
        let counted = counted(&host, "roost_trigger_missed_total", policy, "cron").await;
        assert_eq!(counted > 0, policy != "all", "{policy}: {counted}");
    }
    // As if nothing had happened, a schedule that is new has missed nothing.
    deploy(&host, "new", &clock("* * * * *", &[("roost.schedule.missed", "all")])).await;
    assert_eq!(counted(&host, "roost_trigger_missed_total", "new", "cron").await, 0);
}

#[tokio::test]
async fn runs_do_not_overlap_where_they_must_not() {
    let host = host(String::new()).await;
    let mut slow = deployment("slow", &clock("@every 1s", &[("roost.schedule.overlap", "skip")]));
    slow["envVars"] = json!({ "HOLD": "3" });
    host.post_function(&slow).await;
    host.ready("slow").await;
    let runs =
        eventually_seen(&host, "slow", "three runs", |seen| (seen.len() >= 3).then(|| times(seen))).await;
    assert!(runs.windows(2).all(|pair| pair[1] >= pair[0] + 3), "{runs:?}");
    assert!(counted(&host, "roost_trigger_missed_total", "slow", "cron").await >= 4);
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn files_that_are_there_and_that_come_are_calls_and_are_put_away() {
    let directory = tempfile::tempdir().unwrap();
    let (inbox, once) = (directory.path().join("inbox"), directory.path().join("once"));
    for path in [&inbox, &once] {
        fs::create_dir(path).unwrap();
    }
    let triggers = format!(
        "[triggers.directory.inbox]\npath = '{}'\n[triggers.directory.once]\npath = '{}'\nafter = 'remove'\n",
        inbox.display(),
        once.display()
    );
    let mut host =
        Host::start_with(Config { triggers, queue: "max_body = \"1KiB\"", ..Config::default() }).await;
    host.import(&recorder(), "recorder:1").await;
    fs::write(inbox.join("early.txt"), "early").unwrap();
    let annotations = json!({ "topic": "directory:inbox, directory:once" });
    deploy(&host, "reader", &annotations).await;
    let all = |count: usize| move |seen: &[Seen]| (seen.len() >= count).then(|| seen.to_vec());
    let early = eventually_seen(&host, "reader", "what was there", all(1)).await;
    let of = |topic: &str, about: &str, body: &str| Seen {
        connector: "directory-connector".into(),
        topic: topic.into(),
        about: about.into(),
        body: body.into(),
    };
    assert_eq!(early, [of("inbox", "early.txt", "early")]);
    eventually("the end of the file", || async { (names(&inbox) == ["done"]).then_some(()) }).await;
    assert_eq!(names(&inbox.join("done")), ["early.txt"]);

    // Written under another name and renamed; moved in; written here; of a name that was there; too large.
    fs::write(inbox.join(".part"), "renamed").unwrap();
    fs::rename(inbox.join(".part"), inbox.join("a b.txt")).unwrap();
    eventually_seen(&host, "reader", "what was renamed", all(2)).await;
    fs::write(directory.path().join("moved"), "moved").unwrap();
    fs::rename(directory.path().join("moved"), once.join("moved")).unwrap();
    eventually_seen(&host, "reader", "what was moved in", all(3)).await;
    fs::write(directory.path().join("early.txt"), "again").unwrap();
    fs::rename(directory.path().join("early.txt"), inbox.join("early.txt")).unwrap();
    let seen = eventually_seen(&host, "reader", "what came again", all(4)).await;
    let expected = [
        of("inbox", "a%20b.txt", "renamed"),
        of("once", "moved", "moved"),
        of("inbox", "early.txt", "again"),
    ];
    assert_eq!(seen[1..], expected);
    fs::write(directory.path().join("large"), "x".repeat(1025)).unwrap();
    fs::rename(directory.path().join("large"), inbox.join("large")).unwrap();
    eventually("the large file", || async { (names(&inbox) == ["done", "failed"]).then_some(()) }).await;
    assert_eq!(names(&inbox.join("failed")), ["large"]);
    assert_eq!(names(&inbox.join("done")), ["a b.txt", "early.txt", "early.txt.1"]);
    eventually("an empty directory", || async { names(&once).is_empty().then_some(()) }).await;
    assert_eq!(counted(&host, "roost_trigger_failed_total", "reader", "directory.inbox").await, 1);

    // What comes while nobody is there waits.
    host.kill9();
    fs::write(inbox.join("late"), "late").unwrap();
    host.start_daemon().await;
    let late = eventually_seen(&host, "reader", "what came late", |seen| seen.get(4).cloned()).await;
    assert_eq!(late, of("inbox", "late", "late"));
    let answer = host
        .api
        .send(Method::DELETE, "/system/functions", json!({ "functionName": "reader" }).to_string())
        .await;
    assert!(answer.status.is_success());
    fs::write(inbox.join("unwanted"), "").unwrap();
    deploy(&host, "second", &annotations).await;
    let first = eventually_seen(&host, "second", "what waited", |seen| seen.first().cloned()).await;
    assert_eq!(first, of("inbox", "unwanted", ""));
}
