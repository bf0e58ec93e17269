//! From numbers to the page: one function for each part of it.
//!
//! Owns which number is which metric. Never gathers any.

use std::collections::BTreeMap;

use roost_proxy::Distribution;

use super::collect::{Function, Snapshot};
use super::families as f;
use super::text::{Family, Page};
use super::websockets;
use crate::api::COMMIT;
use crate::function::rollout::Phase;
use crate::jwt::RemoteFigures;
use crate::queue::QueueLoad;
use crate::triggers::figures::Counts;

/// The name of the one queue there is: that of the default queue in OpenFaaS.
const QUEUE: &str = "faas-request";

/// All phases, in the order in which a replica may come to them.
const PHASES: [Phase; 7] = [
    Phase::Created,
    Phase::Starting,
    Phase::Ready,
    Phase::Busy,
    Phase::Paused,
    Phase::Draining,
    Phase::Stopping,
];

/// Writes everything.
pub(super) fn render(snapshot: &Snapshot) -> String {
    let mut page = Page::default();
    write(&mut page, snapshot);
    page.finish()
}

fn write(page: &mut Page, snapshot: &Snapshot) {
    let names: Vec<String> = snapshot.functions.iter().map(|function| function.key.to_string()).collect();
    let functions: Vec<(&str, &Function)> =
        names.iter().map(String::as_str).zip(&snapshot.functions).collect();
    invocations(page, &functions);
    websockets::write(page, &functions, snapshot);
    nodes(page, snapshot);
    websockets::dead_letters(page, &functions, &snapshot.letters);
    replicas(page, &functions);
    waiting(page, &functions);
    limits(page, &functions, snapshot);
    starts(page, snapshot);
    queue(page, &functions, snapshot);
    triggers(page, snapshot);
    api(page, snapshot);
    containerd(page, snapshot);
    process(page, snapshot);
}

fn invocations(page: &mut Page, functions: &[(&str, &Function)]) {
    let mut seconds = page.family(&f::FUNCTION_SECONDS);
    for (name, function) in functions {
        for (status, durations) in &function.totals.outcomes {
            seconds.distribution(&[name, &status.to_string()], durations);
        }
    }
    let mut total = page.family(&f::INVOCATIONS);
    for (name, function) in functions {
        for (status, durations) in &function.totals.outcomes {
            total.add(&[name, &status.to_string()], durations.count());
        }
    }
    each(page, &f::STARTED, functions, |function| function.totals.load.started_total);
    each(page, &f::IN_FLIGHT, functions, |function| function.totals.load.in_flight as u64);
    each(page, &f::TUNNELS, functions, |function| function.totals.tunnels as u64);
    each(page, &f::SENT, functions, |function| function.totals.sent_bytes);
}

fn replicas(page: &mut Page, functions: &[(&str, &Function)]) {
    each(page, &f::DESIRED, functions, |function| function.desired.into());
    each(page, &f::READY, functions, |function| function.ready as u64);
    let mut phases = page.family(&f::REPLICAS);
    for (name, function) in functions {
        for phase in PHASES {
            let count = function.phases.iter().filter(|of| **of == phase).count();
            phases.add(&[name, name_of(phase)], count as u64);
        }
    }
    let mut decisions = page.family(&f::DECISIONS);
    for (name, function) in functions {
        decisions.add(&[name, "up"], function.decisions.up);
        decisions.add(&[name, "down"], function.decisions.down);
    }
    let mut target = page.family(&f::TARGET_LOAD);
    for (name, function) in functions {
        target.add(&[name, function.scaling_type], function.target_load);
    }
    each(page, &f::MINIMUM, functions, |function| function.minimum.into());
    let mut cpu = page.family(&f::CPU);
    for (name, function) in functions {
        cpu.add(&[name, function.key.namespace.as_str()], function.cpu_usec as f64 / 1e6);
    }
    let mut memory = page.family(&f::MEMORY);
    for (name, function) in functions {
        memory.add(&[name, function.key.namespace.as_str()], function.memory_bytes);
    }
    each(page, &f::RESTARTS, functions, |function| function.restarts);
    each(page, &f::OOM_KILLS, functions, |function| function.oom_kills);
}

/// The name of a phase, as the API has it.
fn name_of(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Created => "created",
        Phase::Ready => "ready",
        Phase::Busy => "busy",
        Phase::Paused => "paused",
        Phase::Draining => "draining",
        Phase::Stopping => "stopping",
    }
}

fn waiting(page: &mut Page, functions: &[(&str, &Function)]) {
    each(page, &f::COLD_STARTS, functions, |function| function.totals.cold_starts.count());
    let mut seconds = page.family(&f::COLD_START_SECONDS);
    for (name, function) in functions {
        seconds.distribution(&[name], &function.totals.cold_starts);
    }
    each(page, &f::WAITING, functions, |function| function.totals.load.waiting as u64);
    let mut refused = page.family(&f::REFUSED);
    for (name, function) in functions {
        refused.add(&[name, "full"], function.totals.refused_full);
        refused.add(&[name, "timeout"], function.totals.refused_late);
        refused.add(&[name, "unavailable"], function.totals.refused_unavailable);
        refused.add(&[name, "capacity"], function.totals.refused_capacity);
    }
}

fn limits(page: &mut Page, functions: &[(&str, &Function)], snapshot: &Snapshot) {
    let mut limited = page.family(&f::LIMITED);
    for (name, function) in functions {
        for (limit, count) in &function.limited {
            limited.add(&[name, limit.name()], *count);
        }
    }
    let mut limited = page.family(&f::CLIENTS_LIMITED);
    for (limit, count) in &snapshot.connections.limited {
        limited.add(&[limit.name()], *count);
    }
    page.number(&f::CONNECTIONS, snapshot.connections.open as u64);
    page.number(&f::MAX_CONNECTIONS, snapshot.connections.most as u64);
    let kept = snapshot.connections.kept;
    page.number(&f::KEPT, kept.kept as u64);
    let mut handed_over = page.family(&f::HANDED_OVER);
    for (outcome, count) in [("resumed", kept.resumed), ("lost", kept.lost), ("refused", kept.refused)] {
        handed_over.add(&[outcome], count);
    }
}

fn starts(page: &mut Page, snapshot: &Snapshot) {
    let mut seconds = page.family(&f::START_SECONDS);
    for (step, durations) in &snapshot.steps {
        seconds.distribution(&[step], durations);
    }
    let mut slots = page.family(&f::SLOTS);
    for (namespace, count) in &snapshot.slots {
        slots.add(&[namespace.as_str()], *count as u64);
    }
}

fn nodes(page: &mut Page, snapshot: &Snapshot) {
    let Some(nodes) = &snapshot.nodes else { return };
    page.family(&f::NODES_CONNECTED).add(&[], u64::from(nodes.connected));
    page.family(&f::NODES_KNOWN).add(&[], nodes.known as u64);
    for (family, counts) in [(&f::NODES_MESSAGES, nodes.told), (&f::NODES_LOST, nodes.lost)] {
        let mut samples = page.family(family);
        for (dir, count) in ["out", "in"].iter().zip(counts) {
            samples.add(&[dir], count);
        }
    }
}

fn triggers(page: &mut Page, snapshot: &Snapshot) {
    let mut each = |family, number: fn(&Counts) -> u64| {
        let mut samples = page.family(family);
        for (function, source, counts) in &snapshot.triggered {
            samples.add(&[&function.to_string(), source], number(counts));
        }
    };
    each(&f::TRIGGER_FIRED, |counts| counts.fired);
    each(&f::TRIGGER_MISSED, |counts| counts.missed);
    each(&f::TRIGGER_FAILED, |counts| counts.failed);
    let mut connected = page.family(&f::TRIGGER_CONNECTED);
    for (source, is_connected) in &snapshot.sources {
        connected.add(&[source], u64::from(*is_connected));
    }
}

fn queue(page: &mut Page, functions: &[(&str, &Function)], snapshot: &Snapshot) {
    let mut each = |family: &'static Family, number: fn(&QueueLoad) -> u64| {
        let mut samples = page.family(family);
        for (name, function) in functions {
            samples.add(&[QUEUE, name], number(&function.queue));
        }
    };
    each(&f::QUEUE_PENDING, |queue| queue.pending as u64);
    each(&f::QUEUE_IN_FLIGHT, |queue| queue.in_flight as u64);
    each(&f::QUEUE_SUBMITTED, |queue| queue.submitted_total);
    each(&f::QUEUE_PROCESSED, |queue| queue.processed_total);
    each(&f::QUEUE_DROPPED, |queue| queue.dropped_total);
    each(&f::QUEUE_BYTES, |queue| queue.bytes);
    each(&f::QUEUE_RETRIES, |queue| queue.retried_total);
    each(&f::QUEUE_DEAD_LETTERS, |queue| queue.dead_total);
    each(&f::QUEUE_REDELIVERED, |queue| queue.redelivered_total);
    let mut oldest = page.family(&f::QUEUE_OLDEST);
    for (name, function) in functions {
        let age = function.queue.age(snapshot.at).unwrap_or_default();
        oldest.add(&[QUEUE, name], age.as_secs_f64());
    }
    page.family(&f::QUEUE_CALLBACKS_FAILED).add(&[], snapshot.callbacks_failed);
}

fn api(page: &mut Page, snapshot: &Snapshot) {
    let calls: Vec<_> = snapshot.api.iter().map(|(call, d)| (call, call.status.to_string(), d)).collect();
    let mut total = page.family(&f::HTTP_REQUESTS);
    for (call, status, durations) in &calls {
        total.add(&[call.method, &call.path, status], durations.count());
    }
    let mut seconds = page.family(&f::HTTP_SECONDS);
    for (call, status, durations) in &calls {
        seconds.distribution(&[call.method, &call.path, status], durations);
    }
    let provided = || calls.iter().filter(|(call, ..)| call.path.starts_with("/system"));
    let mut total = page.family(&f::PROVIDER_REQUESTS);
    for (call, status, durations) in provided() {
        total.add(&[status, call.method, &call.path], durations.count());
    }
    let mut seconds = page.family(&f::PROVIDER_SECONDS);
    for (call, status, durations) in provided() {
        seconds.distribution(&[status, call.method, &call.path], durations);
    }
}

fn containerd(page: &mut Page, snapshot: &Snapshot) {
    let mut total = page.family(&f::CONTAINERD_CALLS);
    let mut methods: BTreeMap<(&str, &str), Distribution> = BTreeMap::new();
    for (call, durations) in &snapshot.containerd {
        let (service, method) = call.method.split_once('/').unwrap_or(("", &call.method));
        total.add(&[service, method, call.code], durations.count());
        methods.entry((service, method)).or_default().add(durations);
    }
    let mut seconds = page.family(&f::CONTAINERD_SECONDS);
    for ((service, method), durations) in methods {
        seconds.distribution(&[service, method], &durations);
    }
}

fn process(page: &mut Page, snapshot: &Snapshot) {
    page.number(&f::ACCESS_LOG_DROPPED, snapshot.access_log_dropped);
    if let Some(spans) = snapshot.spans {
        page.number(&f::SPANS_EXPORTED, spans.exported);
        page.number(&f::SPANS_DROPPED, spans.dropped);
        page.number(&f::SPANS_FAILURES, spans.failures);
    }
    if let Some(certificates) = &snapshot.certificates {
        let mut orders = page.family(&f::CERTIFICATE_ORDERS);
        orders.add(&["issued"], certificates.issued);
        orders.add(&["failed"], certificates.failed);
        let mut until = page.family(&f::CERTIFICATE_UNTIL);
        for (name, seconds) in &certificates.until {
            until.add(&[name], *seconds);
        }
    }
    keys(page, &snapshot.keys);
    let version = env!("CARGO_PKG_VERSION");
    page.family(&f::BUILD).add(&[version, COMMIT, std::env::consts::ARCH], 1);
    let Some((process, began)) = &snapshot.process else { return };
    page.number(&f::PROCESS_CPU, process.cpu_seconds);
    page.number(&f::PROCESS_MEMORY, process.resident_bytes);
    page.number(&f::PROCESS_VIRTUAL, process.virtual_bytes);
    page.number(&f::PROCESS_FILES, process.open_files);
    if let Some(max) = process.max_files {
        page.number(&f::PROCESS_MAX_FILES, max);
    }
    page.number(&f::PROCESS_BEGAN, began);
}

/// Keys of tokens that are fetched; nothing where none are.
fn keys(page: &mut Page, keys: &[RemoteFigures]) {
    if keys.is_empty() {
        return;
    }
    let mut known = page.family(&f::JWT_KEYS);
    keys.iter().for_each(|of| known.add(&[&of.url], of.keys as u64));
    let mut fetched = page.family(&f::JWT_FETCHED);
    keys.iter().for_each(|of| fetched.add(&[&of.url], of.fetched_at));
    let mut fetches = page.family(&f::JWT_FETCHES);
    for of in keys {
        fetches.add(&[&of.url, "fetched"], of.succeeded);
        fetches.add(&[&of.url, "failed"], of.failed);
    }
}

/// One number for each function.
fn each(
    page: &mut Page,
    family: &'static Family,
    functions: &[(&str, &Function)],
    number: impl Fn(&Function) -> u64,
) {
    let mut samples = page.family(family);
    for (name, function) in functions {
        samples.add(&[name], number(function));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::otel::Counts;
    use jiff::Timestamp;
    use roost_proxy::function::{FunctionKey, Namespace};
    use roost_proxy::websocket::{Category, EventTotals, Figures, HistoryFigures};
    use roost_proxy::{
        By, Handshaken, Histogram, KeptFigures, Limit, Metered, Spread, Upstream, UpstreamLimits, WebSockets,
    };

    use super::super::collect::{Certificates, Connections};

    use super::*;
    use crate::api::ApiCall;
    use crate::deadletters::{self, Kept};
    use crate::procfs::Process;
    use crate::runtime::containerd::client::Call;
    use crate::scaling::events::Decisions;

    fn took(millis: u64) -> Distribution {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(millis));
        histogram.read()
    }

    /// One of so many units, in the fourth bucket.
    fn spread(units: u64) -> Spread {
        let mut spread = Spread { sum: units, ..Spread::default() };
        spread.cumulative[3..].fill(1);
        spread
    }

    fn handshaken(status: u16, reason: &'static str) -> Handshaken {
        Handshaken { status: Some(status), reason, took: took(2) }
    }

    fn snapshot() -> Snapshot {
        let key = FunctionKey::from_route("echo.staging").unwrap();
        let mut totals = Upstream::new(key.clone(), UpstreamLimits::default()).totals();
        totals.outcomes = vec![(200, took(1)), (503, took(20_000))];
        totals.load.in_flight = 3;
        totals.refused_capacity = 9;
        totals.websockets = WebSockets {
            frames: [[0, 8, 0, 0, 0, 2], [1, 0, 6, 0, 0, 0]],
            closes: vec![(Some(1012), By::Host, 3), (None, By::Client, 4)],
            pings: 2,
            unanswered: 1,
            untracked: 1,
            sizes: [spread(500), Spread::default()],
            lives: spread(2_000),
            handshakes: vec![handshaken(502, "unreachable")],
        };
        totals.events = EventTotals {
            open: 6,
            messages: [8, 9],
            bytes: [80, 90],
            events: [[0; 3], [0; 3], [5, 1, 0], [0; 3], [0; 3], [0; 3]],
            returns: [1, 0, 0],
            seconds: [0, 0, 1, 0, 0, 0].map(|ms| if ms > 0 { took(ms) } else { Distribution::default() }),
            handshakes: vec![
                handshaken(101, ""),
                handshaken(403, "origin"),
                handshaken(403, "forbidden"),
                Handshaken { status: None, ..handshaken(0, "function") },
            ],
            frames: [[0; 6], [0, 0, 0, 3, 0, 0]],
            sizes: [spread(10), spread(70)],
            lives: spread(1),
            dropped: [0, 2],
            waiting: 4,
            waits: took(1),
            round_trips: took(30),
            retries: 3,
            answered_here: 4,
            pings: 5,
            unanswered_pings: 2,
            dead: [3, 0, 1],
            ends: vec![((Some(1013), By::Host, Category::SlowConsumer), 7)],
        };
        let function = Function {
            key,
            totals,
            metered: Metered {
                connection: Duration::from_millis(2500),
                active: Duration::from_secs(1),
                bytes: [81, 97],
                ..Metered::default()
            },
            held: Figures { opening: 1, unsent: 12 },
            desired: 2,
            ready: 1,
            phases: vec![Phase::Ready, Phase::Draining, Phase::Draining],
            decisions: Decisions { up: 3, down: 2 },
            minimum: 1,
            scaling_type: "capacity",
            target_load: 12.5,
            cpu_usec: 1_500_000,
            memory_bytes: 4096,
            restarts: 7,
            oom_kills: 5,
            queue: QueueLoad {
                pending: 4,
                oldest: Some(500),
                bytes: 77,
                submitted_total: 5,
                retried_total: 6,
                dead_total: 2,
                redelivered_total: 1,
                ..QueueLoad::default()
            },
            passed: vec![("echo-1".parse().unwrap(), 2)],
            limited: vec![(Limit::Body, 6)],
        };
        let call = |path: &str| ApiCall { method: "GET", path: path.to_owned(), status: 404 };
        let rpc = |code| Call { method: "containerd.services.tasks.v1.Tasks/Get".to_owned(), code };
        Snapshot {
            triggered: vec![(
                FunctionKey::from_route("echo.staging").unwrap(),
                "mqtt.lan".to_owned(),
                crate::triggers::figures::Counts { fired: 6, missed: 0, failed: 1 },
            )],
            sources: vec![("mqtt.lan".to_owned(), true)],
            functions: vec![function],
            slots: [(Namespace::default(), 4)].into(),
            steps: vec![("create", took(30))],
            api: vec![(call("/system/function"), took(1)), (call("/async-function"), took(1))],
            containerd: vec![(rpc("NotFound"), took(1)), (rpc("OK"), took(1))],
            access_log_dropped: 6,
            spans: Some(Counts { exported: 30, dropped: 20, failures: 10 }),
            certificates: Some(Certificates { issued: 2, failed: 1, until: vec![("h.example".into(), 99)] }),
            keys: vec![RemoteFigures {
                url: "https://id.example/jwks".into(),
                keys: 2,
                fetched_at: 1_700_000_000,
                succeeded: 3,
                failed: 1,
            }],
            process: Some((Process { max_files: Some(1024), ..Process::default() }, 1_700_000_000.25)),
            connections: Connections {
                open: 8,
                most: 256,
                limited: vec![(Limit::Head, 3)],
                kept: KeptFigures { kept: 7, resumed: 5, lost: 1, refused: 2 },
            },
            groups: [2, 11],
            fanned_out: 33,
            fanouts: spread(1_500),
            nodes: Some(crate::nodes::Figures { connected: true, known: 2, told: [7, 5], lost: [1, 3] }),
            resumed: [4, 1],
            letters: deadletters::Figures {
                lost: [0, 4, 0, 0],
                redriven: [1, 2],
                kept: vec![(FunctionKey::from_route("gone").unwrap(), Kept { letters: 3, bytes: 99 })],
            },
            at: Timestamp::from_second(2).unwrap(),
            callbacks_failed: 12,
            history: HistoryFigures { groups: 3, resumed: 4, ..HistoryFigures::default() },
        }
    }

    #[test]
    fn every_metric_is_on_the_page_once() {
        let mut page = Page::default();
        write(&mut page, &snapshot());
        let mut written = page.written.clone();
        written.sort_unstable();
        let mut all: Vec<_> = f::ALL.iter().map(|family| family.name).collect();
        all.sort_unstable();
        assert_eq!(written, all);
        let text = page.finish();
        for family in f::ALL {
            let sample = |line: &&str| line.starts_with(family.name);
            assert!(text.lines().any(|line| sample(&line)), "{} has no sample in\n{text}", family.name);
        }
    }

    #[test]
    fn phases_have_the_names_that_the_api_has_for_them() {
        for phase in PHASES {
            assert_eq!(serde_json::to_value(phase).unwrap(), name_of(phase));
        }
    }

    #[test]
    fn numbers_stand_where_dashboards_look_for_them() {
        let text = render(&snapshot());
        for line in [
            r#"gateway_functions_seconds_bucket{function_name="echo.staging",code="503",le="10"} 0"#,
            r#"gateway_functions_seconds_count{function_name="echo.staging",code="503"} 1"#,
            r#"gateway_function_invocation_total{function_name="echo.staging",code="200"} 1"#,
            r#"gateway_function_invocation_inflight{function_name="echo.staging"} 3"#,
            r#"ws_frames_total{function_name="echo.staging",mode="pass",dir="in",type="pong"} 2"#,
            r#"ws_frames_total{function_name="echo.staging",mode="pass",dir="out",type="continuation"} 1"#,
            r#"ws_frames_total{function_name="echo.staging",mode="event",dir="out",type="close"} 3"#,
            r#"ws_message_size_bytes_bucket{function_name="echo.staging",mode="pass",dir="in",le="4096"} 1"#,
            r#"ws_message_size_bytes_sum{function_name="echo.staging",mode="event",dir="out"} 70"#,
            r#"ws_connection_duration_seconds_bucket{function_name="echo.staging",mode="pass",le="300"} 1"#,
            r#"ws_connection_duration_seconds_sum{function_name="echo.staging",mode="pass"} 2"#,
            r#"ws_replica_connections{function_name="echo.staging",replica="echo-1"} 2"#,
            r#"ws_handshakes_total{function_name="echo.staging",mode="pass",code="502",reason="unreachable"} 1"#,
            r#"ws_handshakes_total{function_name="echo.staging",mode="event",code="403",reason="origin"} 1"#,
            r#"ws_handshake_seconds_count{function_name="echo.staging",mode="event",code="403"} 2"#,
            r#"ws_fanout_seconds_bucket{le="0.005"} 1"#,
            "ws_fanout_seconds_sum 0.0015",
            r#"ws_messages_total{function_name="echo.staging",mode="pass",dir="out",type="binary"} 6"#,
            r#"ws_messages_total{function_name="echo.staging",mode="event",dir="in"} 8"#,
            r#"ws_bytes_total{function_name="echo.staging",mode="event",dir="out"} 90"#,
            r#"ws_closes_total{function_name="echo.staging",mode="pass",code="1012",by="host"} 3"#,
            r#"ws_closes_total{function_name="echo.staging",mode="pass",code="other",by="client"} 4"#,
            r#"ws_closes_total{function_name="echo.staging",mode="event",code="1013",by="host",category="slow_consumer"} 7"#,
            r#"ws_pings_sent_total{function_name="echo.staging",mode="pass"} 2"#,
            r#"ws_pings_sent_total{function_name="echo.staging",mode="event"} 5"#,
            r#"ws_connections{function_name="echo.staging",mode="event",state="open"} 6"#,
            r#"ws_connections{function_name="echo.staging",mode="event",state="opening"} 1"#,
            r#"ws_outbound_queue_bytes{function_name="echo.staging"} 12"#,
            r#"ws_handshakes_total{function_name="echo.staging",mode="event",code="101"} 1"#,
            r#"ws_handshake_seconds_count{function_name="echo.staging",mode="event",code="other"} 1"#,
            r#"ws_bytes_total{function_name="echo.staging",mode="pass",dir="out"} 7"#,
            r#"ws_dropped_messages_total{function_name="echo.staging",reason="closed"} 2"#,
            r#"ws_connection_seconds_total{function_name="echo.staging"} 2.5"#,
            r#"ws_active_seconds_total{function_name="echo.staging"} 1"#,
            r#"ws_handed_over_total{outcome="lost"} 1"#,
            r#"ws_events_total{function_name="echo.staging",event="message",outcome="failed"} 1"#,
            r#"ws_event_seconds_count{function_name="echo.staging",event="message"} 1"#,
            "ws_groups 2",
            r#"ws_dead_letters_total{function_name="echo.staging",reason="unavailable"} 1"#,
            r#"roost_dead_letter_bytes{function_name="gone.openfaas-fn"} 99"#,
            r#"roost_dead_letters_lost_total{reason="size"} 4"#,
            r#"roost_dead_letters_redriven_total{outcome="failed"} 2"#,
            "ws_group_members 11",
            "ws_fanout_messages_total 33",
            r#"ws_mailbox_messages{function_name="echo.staging"} 4"#,
            r#"ws_event_queue_wait_seconds_count{function_name="echo.staging"} 1"#,
            r#"ws_ping_rtt_seconds_count{function_name="echo.staging"} 1"#,
            "ws_history_groups 3",
            r#"ws_group_stream_resumes_total{outcome="whole"} 4"#,
            r#"gateway_service_count{function_name="echo.staging"} 2"#,
            r#"roost_function_limited_total{function_name="echo.staging",limit="body"} 6"#,
            r#"roost_limited_total{limit="header_size"} 3"#,
            "roost_open_connections 8",
            "roost_max_connections 256",
            "roost_kept_tunnels 7",
            r#"roost_handed_over_tunnels_total{outcome="resumed"} 5"#,
            r#"roost_handed_over_tunnels_total{outcome="refused"} 2"#,
            r#"gateway_service_ready_count{function_name="echo.staging"} 1"#,
            r#"roost_replicas{function_name="echo.staging",phase="ready"} 1"#,
            r#"roost_replicas{function_name="echo.staging",phase="draining"} 2"#,
            r#"roost_replicas{function_name="echo.staging",phase="paused"} 0"#,
            r#"roost_scaling_decisions_total{function_name="echo.staging",direction="up"} 3"#,
            r#"roost_scaling_decisions_total{function_name="echo.staging",direction="down"} 2"#,
            r#"gateway_service_target_load{function_name="echo.staging",scaling_type="capacity"} 12.5"#,
            r#"pod_cpu_usage_seconds_total{function_name="echo.staging",namespace="staging"} 1.5"#,
            r#"pod_memory_working_set_bytes{function_name="echo.staging",namespace="staging"} 4096"#,
            r#"http_requests_total{method="GET",path="/async-function",status="404"} 1"#,
            r#"provider_http_requests_total{code="404",method="GET",path="/system/function"} 1"#,
            r#"roost_waiting_refused_total{function_name="echo.staging",reason="capacity"} 9"#,
            r#"roost_oom_kills_total{function_name="echo.staging"} 5"#,
            r#"roost_trigger_fired_total{function_name="echo.staging",trigger="mqtt.lan"} 6"#,
            r#"roost_trigger_failed_total{function_name="echo.staging",trigger="mqtt.lan"} 1"#,
            r#"roost_trigger_connected{trigger="mqtt.lan"} 1"#,
            r#"queue_worker_pending_messages{queue_name="faas-request",function_name="echo.staging"} 4"#,
            r#"queue_worker_messages_submitted_total{queue_name="faas-request",function_name="echo.staging"} 5"#,
            r#"roost_queue_oldest_seconds{queue_name="faas-request",function_name="echo.staging"} 1.5"#,
            r#"roost_queue_bytes{queue_name="faas-request",function_name="echo.staging"} 77"#,
            r#"roost_queue_retries_total{queue_name="faas-request",function_name="echo.staging"} 6"#,
            r#"roost_queue_dead_letters_total{queue_name="faas-request",function_name="echo.staging"} 2"#,
            r#"roost_queue_redelivered_total{queue_name="faas-request",function_name="echo.staging"} 1"#,
            "roost_queue_callbacks_failed_total 12",
            r#"roost_containerd_calls_total{service="containerd.services.tasks.v1.Tasks",method="Get",code="OK"} 1"#,
            r#"roost_containerd_call_seconds_count{service="containerd.services.tasks.v1.Tasks",method="Get"} 2"#,
            r#"roost_replica_start_seconds_bucket{step="create",le="0.025"} 0"#,
            r#"roost_replica_start_seconds_count{step="create"} 1"#,
            r#"roost_network_slots_ready{namespace="openfaas-fn"} 4"#,
            "roost_access_log_dropped_total 6",
            "roost_spans_dropped_total 20",
            r#"roost_certificate_orders_total{result="failed"} 1"#,
            r#"roost_certificate_expiry_timestamp_seconds{name="h.example"} 99"#,
            "process_start_time_seconds 1700000000.25",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(
            !text.contains(
                r#"ws_messages_total{function_name="echo.staging",mode="pass",dir="in",type="pong"#
            )
        );
        assert!(!text.contains(r#"provider_http_requests_total{code="404",method="GET",path="/async"#));
    }
}
