//! The objects of the HTTP API, as far as people look at them. What we do not know is passed over, so an older or
//! newer daemon, and any other OpenFaaS host, is understood as far as it goes.

pub(crate) use roost_stack::Map;
use serde::{Deserialize, Serialize};

/// Quantities in Kubernetes' notation: `128Mi`, `100m`, `0.5`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Resources {
    pub(crate) memory: Option<String>,
    pub(crate) cpu: Option<String>,
}

/// A function as the daemon sees it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) image: String,
    pub(crate) env_process: String,
    pub(crate) env_vars: Map,
    pub(crate) secrets: Vec<String>,
    pub(crate) labels: Option<Map>,
    pub(crate) annotations: Option<Map>,
    pub(crate) limits: Option<Resources>,
    pub(crate) requests: Option<Resources>,
    pub(crate) read_only_root_filesystem: bool,
    pub(crate) invocation_count: f64,
    pub(crate) replicas: u64,
    pub(crate) available_replicas: u64,
    pub(crate) created_at: String,
    pub(crate) usage: Option<Usage>,
    /// Ours: what the function is doing right now. Other hosts do not send it.
    pub(crate) status: Option<Status>,
}

/// What a function uses right now, all replicas together.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Usage {
    /// Thousandths of a core.
    pub(crate) cpu: f64,
    pub(crate) total_memory_bytes: f64,
}

/// What a function is doing, in words and numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Status {
    pub(crate) phase: String,
    pub(crate) message: String,
    pub(crate) revision: String,
    pub(crate) image: Option<Fetched>,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) load: Option<Load>,
    pub(crate) scaling: Scaling,
    pub(crate) last_exit: Option<String>,
    /// The digest that the image stands for.
    pub(crate) digest: String,
    /// What was asked for and has no effect.
    pub(crate) warnings: Vec<String>,
    /// When the clock calls it.
    pub(crate) schedules: Vec<Scheduled>,
}

/// A schedule, and when it is due next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Scheduled {
    pub(crate) schedule: String,
    pub(crate) next: Option<String>,
}

/// How much of an image is here, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Fetched {
    pub(crate) done: u64,
    pub(crate) total: u64,
}

/// One replica of a function.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Replica {
    pub(crate) id: String,
    pub(crate) phase: String,
    pub(crate) revision: String,
    /// What it is for, where there is one for each key.
    pub(crate) key: Option<String>,
    pub(crate) address: Option<String>,
    pub(crate) in_flight: u64,
    pub(crate) connections: u64,
    pub(crate) started_at: Option<String>,
}

/// What is going on at a function now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Load {
    /// Requests at replicas, open connections included.
    pub(crate) in_flight: u64,
    pub(crate) connections: u64,
    pub(crate) waiting: u64,
    /// Calls that nobody waits for and that are not over. Older hosts do not send it.
    pub(crate) queued: Option<u64>,
    /// Requests that ended, since the daemon began.
    pub(crate) finished: u64,
}

/// How many replicas there are to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Scaling {
    pub(crate) last_decision: Option<Decision>,
}

/// A change of that which the daemon decided.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Decision {
    pub(crate) at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) reason: String,
}

/// A WebSocket that the daemon holds.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Connection {
    pub(crate) id: String,
    pub(crate) function: String,
    pub(crate) namespace: String,
    pub(crate) user: Option<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) subprotocol: Option<String>,
    pub(crate) peer: String,
    pub(crate) path: String,
    pub(crate) user_agent: Option<String>,
    pub(crate) since: String,
    pub(crate) last_active: String,
    pub(crate) state: String,
    pub(crate) messages: Ways,
    pub(crate) bytes: Ways,
    pub(crate) unsent_bytes: u64,
}

/// What came from a client, and what went to it.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Ways {
    pub(crate) r#in: u64,
    pub(crate) out: u64,
}

/// A group of such WebSockets.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) connections: u64,
}

/// To how many something was said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Told {
    pub(crate) queued: u64,
    pub(crate) too_slow: u64,
}

/// How many were closed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Closed {
    pub(crate) closed: u64,
}

/// Something that a function could not be brought to deal with.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DeadLetter {
    pub(crate) id: String,
    pub(crate) function: String,
    pub(crate) namespace: String,
    pub(crate) event: String,
    pub(crate) connection: String,
    pub(crate) call: String,
    pub(crate) at: String,
    pub(crate) attempts: u64,
    pub(crate) last_attempt: String,
    pub(crate) reason: String,
    pub(crate) status: u16,
    pub(crate) cause: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) size: u64,
}

/// The same, with its request.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct WholeDeadLetter {
    #[serde(flatten)]
    pub(crate) letter: DeadLetter,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    pub(crate) is_base64_encoded: bool,
}

/// What came of those that were sent again.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct AllRedriven {
    pub(crate) redriven: usize,
    pub(crate) failed: usize,
    #[serde(skip_serializing)]
    pub(crate) next: Option<String>,
    pub(crate) stopped: Option<String>,
}

/// How many were removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Removed {
    pub(crate) removed: u64,
}

/// The calls of a function that nobody waits for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct QueueLine {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) pending: u64,
    pub(crate) in_flight: u64,
    /// How long ago the oldest that is not over was taken over.
    pub(crate) oldest_seconds: Option<f64>,
    pub(crate) bytes: u64,
    pub(crate) processed: u64,
    pub(crate) retried: u64,
    pub(crate) dead: u64,
}

/// An image on the daemon's host.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Image {
    pub(crate) name: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    pub(crate) created_at: String,
    pub(crate) imported: bool,
    pub(crate) in_use: bool,
}

/// A namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Namespace {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<Map>,
    pub(crate) labels: Option<Map>,
}

/// A secret, without its value.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Secret {
    pub(crate) name: String,
    pub(crate) namespace: String,
}

/// A line of a function's log.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct LogRecord {
    pub(crate) instance: String,
    pub(crate) timestamp: String,
    pub(crate) text: String,
}

/// Who answers at the other end.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Info {
    pub(crate) provider: Provider,
    pub(crate) version: Version,
    pub(crate) arch: String,
}

/// What runs the functions.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Provider {
    pub(crate) provider: String,
    pub(crate) orchestration: String,
    pub(crate) version: Version,
}

/// A version and the commit it was built from.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Version {
    pub(crate) release: String,
    pub(crate) sha: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_maps_and_unknown_fields_are_understood() {
        let text = r#"{"name":"a","image":"b","labels":null,"annotations":null,"createdAt":"x","news":1}"#;
        let function: Function = serde_json::from_str(text).unwrap();
        assert!(function.labels.is_none() && function.status.is_none());
    }
}
