//! The metrics there are: names, labels, and what they say.
//!
//! Owns the names. Those that begin with `roost_` or `ws_` are ours, all others are those that dashboards and scalers made for
//! OpenFaaS know. `docs/metrics.md` explains each of them, which a test compares.

use super::text::{Family, Kind};

macro_rules! families {
    ($($constant:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub(super) static $constant: Family =
                Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };
        )*

        /// All metrics.
        #[cfg(test)]
        pub(super) static ALL: &[&Family] = &[$(&$constant),*];
    };
}

families! {
    FUNCTION_SECONDS: Histogram "gateway_functions_seconds" ["function_name", "code"]
        "Time from a request's arrival to the last byte of its answer, or to the head of a 101.";
    INVOCATIONS: Counter "gateway_function_invocation_total" ["function_name", "code"]
        "Requests that were answered.";
    STARTED: Counter "gateway_function_invocation_started" ["function_name"]
        "Requests that began.";
    IN_FLIGHT: Gauge "gateway_function_invocation_inflight" ["function_name"]
        "Requests at a replica now, open tunnels included.";
    WS_FRAMES: Counter "ws_frames_total" ["function_name", "mode", "dir", "type"]
        "Frames of WebSockets.";
    WS_MESSAGES: Counter "ws_messages_total" ["function_name", "mode", "dir", "type"]
        "Messages of WebSockets.";
    WS_BYTES: Counter "ws_bytes_total" ["function_name", "mode", "dir"]
        "Bytes of messages of WebSockets, and of other upgraded connections.";
    WS_SIZES: Histogram "ws_message_size_bytes" ["function_name", "mode", "dir"]
        "How long messages of WebSockets are.";
    WS_CLOSES: Counter "ws_closes_total" ["function_name", "mode", "code", "by", "category"]
        "WebSockets that were closed, by code, by who closed them and why.";
    WS_PINGS: Counter "ws_pings_sent_total" ["function_name", "mode"]
        "Pings to clients that were not their function's.";
    WS_PONG_TIMEOUTS: Counter "ws_pong_timeouts_total" ["function_name", "mode"]
        "Clients that did not answer one.";
    WS_CONNECTIONS: Gauge "ws_connections" ["function_name", "mode", "state"]
        "WebSockets that are held here now.";
    WS_OUTBOUND: Gauge "ws_outbound_queue_bytes" ["function_name"]
        "Bytes that wait for clients of WebSockets that are held here to read them.";
    WS_REPLICA: Gauge "ws_replica_connections" ["function_name", "replica"]
        "WebSockets and other upgraded connections that go through to a replica now.";
    WS_LIVES: Histogram "ws_connection_duration_seconds" ["function_name", "mode"]
        "For how long WebSockets were open that have ended.";
    WS_HANDSHAKES: Counter "ws_handshakes_total" ["function_name", "mode", "code", "reason"]
        "Handshakes of WebSockets, by how they were answered, and why.";
    WS_HANDSHAKE_SECONDS: Histogram "ws_handshake_seconds" ["function_name", "mode", "code"]
        "Time until they were answered.";
    WS_DROPPED: Counter "ws_dropped_messages_total" ["function_name", "reason"]
        "Messages to clients of WebSockets that are held here and that did not get them.";
    WS_CONNECTION_SECONDS: Counter "ws_connection_seconds_total" ["function_name"]
        "How long connections were open, all together.";
    WS_ACTIVE_SECONDS: Counter "ws_active_seconds_total" ["function_name"]
        "How long replicas had connections, of each the union of them.";
    WS_HANDED_OVER: Counter "ws_handed_over_total" ["outcome"]
        "WebSockets that an earlier roostd held.";
    WS_EVENTS: Counter "ws_events_total" ["function_name", "event", "outcome"]
        "Events of WebSockets that are held here, by what came of them.";
    WS_EVENT_SECONDS: Histogram "ws_event_seconds" ["function_name", "event"]
        "Time until an event was dealt with, all tries together.";
    WS_MAILBOX: Gauge "ws_mailbox_messages" ["function_name"]
        "Messages of clients of WebSockets that are held here that wait for the function.";
    WS_QUEUE_WAIT: Histogram "ws_event_queue_wait_seconds" ["function_name"]
        "Time until the function was told of a message, without the telling.";
    WS_PING_RTT: Histogram "ws_ping_rtt_seconds" ["function_name"]
        "Time until clients answered a ping.";
    WS_FANOUT: Counter "ws_fanout_messages_total" []
        "Messages to clients of something that was said to many.";
    WS_FANOUT_SECONDS: Histogram "ws_fanout_seconds" []
        "Time from the first write to the last of something that was said to many.";
    WS_EVENT_RETRIES: Counter "ws_event_retries_total" ["function_name"]
        "Tries of events behind the first one.";
    WS_DEAD_LETTERS: Counter "ws_dead_letters_total" ["function_name", "reason"]
        "Events of WebSockets that are held here and that found no end.";
    DEAD_LETTERS: Gauge "roost_dead_letters" ["function_name"]
        "Dead letters that are kept.";
    DEAD_LETTER_BYTES: Gauge "roost_dead_letter_bytes" ["function_name"]
        "Bytes that they take.";
    DEAD_LETTERS_LOST: Counter "roost_dead_letters_lost_total" ["reason"]
        "Dead letters that were not kept, or no longer, without anybody's having asked for that.";
    DEAD_LETTERS_REDRIVEN: Counter "roost_dead_letters_redriven_total" ["outcome"]
        "Dead letters that were sent again.";
    WS_AUTORESPONSES: Counter "ws_autoresponse_total" ["function_name"]
        "Messages that were answered without the function.";
    WS_GROUPS: Gauge "ws_groups" []
        "Groups of WebSockets that there are.";
    WS_GROUP_MEMBERS: Gauge "ws_group_members" []
        "Memberships in them.";
    WS_RESUMES: Counter "ws_resumes_total" ["function_name", "outcome"]
        "Clients that came back to their connections, by what they found.";
    WS_HISTORY_GROUPS: Gauge "ws_history_groups" []
        "Groups of which messages are kept, or that are watched.";
    WS_HISTORY_BYTES: Gauge "ws_history_bytes" []
        "Bytes that are kept of groups.";
    WS_STREAMS: Gauge "ws_group_streams" []
        "Clients that watch groups as streams of events.";
    WS_STREAM_EVENTS: Counter "ws_group_stream_events_total" []
        "Events that they were sent.";
    WS_STREAMS_BEHIND: Counter "ws_group_streams_behind_total" []
        "Streams that ended because their clients did not keep up.";
    WS_STREAM_RESUMES: Counter "ws_group_stream_resumes_total" ["outcome"]
        "Clients that came back to a stream: whole if all was kept that they had missed, else lost.";
    WS_UNTRACKED: Counter "ws_untracked_total" ["function_name"]
        "Directions of WebSockets in which something else than frames was found.";
    DESIRED: Gauge "gateway_service_count" ["function_name"]
        "Replicas that are wanted.";
    READY: Gauge "gateway_service_ready_count" ["function_name"]
        "Replicas that take requests.";
    TARGET_LOAD: Gauge "gateway_service_target_load" ["function_name", "scaling_type"]
        "Load that one replica is meant to take.";
    MINIMUM: Gauge "gateway_service_min" ["function_name"]
        "The fewest replicas under load.";
    REPLICAS: Gauge "roost_replicas" ["function_name", "phase"]
        "Replicas that there are.";
    DECISIONS: Counter "roost_scaling_decisions_total" ["function_name", "direction"]
        "Changes of how many replicas there are to be that were decided here.";
    CPU: Counter "pod_cpu_usage_seconds_total" ["function_name", "namespace"]
        "Processor time of all replicas.";
    MEMORY: Gauge "pod_memory_working_set_bytes" ["function_name", "namespace"]
        "Memory of all replicas, without file cache that is not in use.";
    QUEUE_PENDING: Gauge "queue_worker_pending_messages" ["queue_name", "function_name"]
        "Calls below /async-function that have not begun.";
    QUEUE_IN_FLIGHT: Gauge "queue_worker_function_invocation_inflight" ["queue_name", "function_name"]
        "Calls below /async-function that have begun and not ended.";
    QUEUE_SUBMITTED: Counter "queue_worker_messages_submitted_total" ["queue_name", "function_name"]
        "Calls below /async-function that were taken over.";
    QUEUE_PROCESSED: Counter "queue_worker_messages_processed_total" ["queue_name", "function_name"]
        "Calls below /async-function that came to an end of their own.";
    QUEUE_DROPPED: Counter "roost_queue_dropped_total" ["queue_name", "function_name"]
        "Calls below /async-function that were cancelled or dropped.";
    QUEUE_OLDEST: Gauge "roost_queue_oldest_seconds" ["queue_name", "function_name"]
        "How long ago the oldest call below /async-function that is not over was taken over; 0 if there is none.";
    QUEUE_BYTES: Gauge "roost_queue_bytes" ["queue_name", "function_name"]
        "Bytes that calls below /async-function take that are not over.";
    QUEUE_RETRIES: Counter "roost_queue_retries_total" ["queue_name", "function_name"]
        "Attempts of calls below /async-function behind the first one.";
    QUEUE_DEAD_LETTERS: Counter "roost_queue_dead_letters_total" ["queue_name", "function_name"]
        "Calls below /async-function that came to nothing.";
    QUEUE_REDELIVERED: Counter "roost_queue_redelivered_total" ["queue_name", "function_name"]
        "Calls below /async-function that had begun when an earlier roostd ended, and began again.";
    QUEUE_CALLBACKS_FAILED: Counter "roost_queue_callbacks_failed_total" []
        "Callbacks that were sent as often as may be, in vain.";
    NODES_CONNECTED: Gauge "roost_nodes_connected" []
        "Can the NATS servers of [nats] be reached? 1 or 0.";
    NODES_KNOWN: Gauge "roost_nodes_known" []
        "Other nodes that were heard of in the last seconds.";
    NODES_MESSAGES: Counter "roost_nodes_messages_total" ["dir"]
        "What was said to many WebSockets and passed on to other nodes, or heard from them.";
    NODES_LOST: Counter "roost_nodes_messages_lost_total" ["dir"]
        "What was said to many WebSockets that other nodes were not told, or that did not come from them.";
    TRIGGER_FIRED: Counter "roost_trigger_fired_total" ["function_name", "trigger"]
        "Calls of schedules, messages and files that the queue has taken.";
    TRIGGER_MISSED: Counter "roost_trigger_missed_total" ["function_name", "trigger"]
        "Runs of schedules that were due and not made.";
    TRIGGER_FAILED: Counter "roost_trigger_failed_total" ["function_name", "trigger"]
        "Calls of schedules, messages and files that the queue will never take.";
    TRIGGER_CONNECTED: Gauge "roost_trigger_connected" ["trigger"]
        "Is the broker connected, or the directory watched? 1 or 0.";
    HTTP_REQUESTS: Counter "http_requests_total" ["method", "path", "status"]
        "Calls of the API.";
    HTTP_SECONDS: Histogram "http_request_duration_seconds" ["method", "path", "status"]
        "Time until the head of the API's answer.";
    PROVIDER_REQUESTS: Counter "provider_http_requests_total" ["code", "method", "path"]
        "Calls of the API below /system.";
    PROVIDER_SECONDS: Histogram "provider_http_request_duration_seconds" ["code", "method", "path"]
        "Time until the head of the API's answer, below /system.";
    COLD_STARTS: Counter "roost_cold_starts_total" ["function_name"]
        "Requests that waited for a replica and were served.";
    COLD_START_SECONDS: Histogram "roost_cold_start_seconds" ["function_name"]
        "How long they waited.";
    START_SECONDS: Histogram "roost_replica_start_seconds" ["step"]
        "How long the steps took that led to a replica that is ready.";
    SLOTS: Gauge "roost_network_slots_ready" ["namespace"]
        "Networks that are ready for replicas to come.";
    WAITING: Gauge "roost_waiting_requests" ["function_name"]
        "Requests that wait for a replica now.";
    REFUSED: Counter "roost_waiting_refused_total" ["function_name", "reason"]
        "Requests that were turned away for want of a replica.";
    LIMITED: Counter "roost_function_limited_total" ["function_name", "limit"]
        "What a limit of a function turned away.";
    CLIENTS_LIMITED: Counter "roost_limited_total" ["limit"]
        "What a limit on all clients turned away.";
    CONNECTIONS: Gauge "roost_open_connections" []
        "Connections of clients that are open now, tunnels included.";
    MAX_CONNECTIONS: Gauge "roost_max_connections" []
        "How many may be.";
    TUNNELS: Gauge "roost_open_tunnels" ["function_name"]
        "WebSockets and other upgraded connections that are open now.";
    KEPT: Gauge "roost_kept_tunnels" []
        "Open tunnels that would outlive roostd.";
    HANDED_OVER: Counter "roost_handed_over_tunnels_total" ["outcome"]
        "Tunnels of an earlier roostd that went on, or were lost; and tunnels of this one that there was no place for.";
    SENT: Counter "roost_response_bytes_total" ["function_name"]
        "Bytes of answers' bodies and of ended tunnels, to clients.";
    RESTARTS: Counter "roost_replica_restarts_total" ["function_name"]
        "Replicas that ended unasked.";
    OOM_KILLS: Counter "roost_oom_kills_total" ["function_name"]
        "Replicas that ended because they reached their memory limit.";
    CONTAINERD_CALLS: Counter "roost_containerd_calls_total" ["service", "method", "code"]
        "Calls of containerd.";
    CONTAINERD_SECONDS: Histogram "roost_containerd_call_seconds" ["service", "method"]
        "Time until the head of containerd's answer.";
    ACCESS_LOG_DROPPED: Counter "roost_access_log_dropped_total" []
        "Lines of the access log that did not fit into its queue or could not be written.";
    SPANS_EXPORTED: Counter "roost_spans_exported_total" []
        "Spans that the collector has.";
    SPANS_DROPPED: Counter "roost_spans_dropped_total" []
        "Spans that did not fit into the queue, or that the collector did not take.";
    SPANS_FAILURES: Counter "roost_spans_failures_total" []
        "Tries to send spans that failed.";
    CERTIFICATE_ORDERS: Counter "roost_certificate_orders_total" ["result"]
        "Orders of certificates, by what came of them.";
    CERTIFICATE_UNTIL: Gauge "roost_certificate_expiry_timestamp_seconds" ["name"]
        "Until when the certificate for a name is good that an authority gave, in Unix time.";
    JWT_KEYS: Gauge "roost_jwt_keys" ["url"]
        "Keys of tokens that were fetched from an issuer.";
    JWT_FETCHED: Gauge "roost_jwt_keys_fetched_timestamp_seconds" ["url"]
        "When they were last fetched, in Unix time; 0 for never.";
    JWT_FETCHES: Counter "roost_jwt_fetches_total" ["url", "result"]
        "Fetches of keys of tokens, by what came of them.";
    BUILD: Gauge "roost_build_info" ["version", "commit", "arch"]
        "Which roostd this is: always 1.";
    PROCESS_CPU: Counter "process_cpu_seconds_total" []
        "Processor time of roostd.";
    PROCESS_MEMORY: Gauge "process_resident_memory_bytes" []
        "Resident memory of roostd.";
    PROCESS_VIRTUAL: Gauge "process_virtual_memory_bytes" []
        "Memory that roostd has mapped.";
    PROCESS_FILES: Gauge "process_open_fds" []
        "Files that roostd has open, connections included.";
    PROCESS_MAX_FILES: Gauge "process_max_fds" []
        "Files that roostd may have open.";
    PROCESS_BEGAN: Gauge "process_start_time_seconds" []
        "When roostd began, in Unix time.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    fn document(name: &str) -> String {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// `| name | kind | labels |`, as the tables of the document have it.
    fn row(family: &Family) -> String {
        let kind = format!("{:?}", family.kind).to_lowercase();
        let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{}` | {kind} | {} |", family.name, labels.join(", "))
    }

    #[test]
    fn the_document_tells_of_every_metric_with_its_kind_and_labels_and_of_no_other() {
        let text = document("metrics.md");
        let rows: BTreeSet<String> = text
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| line.split_inclusive('|').take(4).collect::<String>())
            .collect();
        assert_eq!(rows, ALL.iter().map(|family| row(family)).collect());
    }

    #[test]
    fn the_dashboard_asks_for_metrics_and_labels_that_there_are() {
        let dashboard: serde_json::Value = serde_json::from_str(&document("grafana-dashboard.json")).unwrap();
        let mut expressions = Vec::new();
        collect(&dashboard, &mut expressions);
        assert!(expressions.len() >= 15, "{expressions:?}");
        let used = used_by(&expressions);
        for name in ["gateway_functions_seconds", "gateway_service_ready_count", "roost_cold_starts_total"] {
            assert!(used.contains(name), "{name} is on no panel");
        }
    }

    #[test]
    fn the_alerts_ask_for_metrics_and_labels_that_there_are() {
        let text = document("alerts.yml");
        // What stands between a rule's expression and its next key.
        let rules = text.split("expr:").skip(1).filter_map(|rest| rest.split("labels:").next());
        let expressions: Vec<String> =
            rules.filter_map(|rule| Some(rule.split("for:").next()?.trim().to_owned())).collect();
        assert_eq!(expressions.len(), text.matches("- alert:").count());
        let used = used_by(&expressions);
        for name in ["gateway_service_ready_count", "roost_queue_oldest_seconds", "roost_nodes_connected"] {
            assert!(used.contains(name), "{name} is in no alert");
        }
    }

    /// The metrics in these expressions. All else in them is a label of theirs or a word of PromQL.
    fn used_by(expressions: &[String]) -> BTreeSet<&'static str> {
        let mut used = BTreeSet::new();
        for expression in expressions {
            let names: Vec<&Family> = words(expression).filter_map(find).collect();
            assert!(!names.is_empty() || expression.starts_with("up{"), "no metric of ours in {expression}");
            let labels: BTreeSet<&str> = names.iter().flat_map(|family| family.labels).copied().collect();
            for word in words(expression).filter(|word| find(word).is_none()) {
                assert!(labels.contains(word) || KEYWORDS.contains(&word), "{word} in {expression}");
            }
            used.extend(names.iter().map(|family| family.name));
        }
        used
    }

    /// What PromQL and Grafana have words for, of that which the dashboard and the alerts use.
    const KEYWORDS: [&str; 13] = [
        "up",
        "and",
        "or",
        "time",
        "sum",
        "by",
        "rate",
        "increase",
        "histogram_quantile",
        "label_values",
        "__rate_interval",
        "job",
        "le",
    ];

    fn find(word: &str) -> Option<&'static Family> {
        ALL.iter().copied().find(|family| {
            let suffixes: &[&str] = match family.kind {
                Kind::Histogram => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            word.strip_prefix(family.name).is_some_and(|suffix| suffixes.contains(&suffix))
        })
    }

    /// The identifiers of an expression, without what is quoted and without numbers and durations.
    fn words(expression: &str) -> impl Iterator<Item = &str> {
        let unquoted = expression.split('"').step_by(2);
        unquoted
            .flat_map(|part| part.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')))
            .filter(|word| word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'))
    }

    /// Everything under `expr`, and the queries of variables.
    fn collect(value: &serde_json::Value, into: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(map) => {
                for (key, value) in map {
                    match value {
                        serde_json::Value::String(text)
                            if key == "expr" || (key == "query" && text.contains('(')) =>
                        {
                            into.push(text.clone());
                        }
                        other => collect(other, into),
                    }
                }
            }
            serde_json::Value::Array(list) => list.iter().for_each(|value| collect(value, into)),
            _ => {}
        }
    }
}
