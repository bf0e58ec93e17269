//! What is told of a function: the body of `GET /system/function/{name}`.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use roost_proxy::Upstream;
use roost_proxy::function::{FunctionKey, ReplicaId};
use serde::Serialize;

use crate::function::record::FunctionRecord;
use crate::function::rollout::Phase;
use crate::function::spec::{self, Deployment};
use crate::function::warnings;
use crate::image::Progress;
use crate::scaling::events::Scaled;
use crate::usage::Use;

/// What the function's controller is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum FunctionPhase {
    /// The image is being fetched.
    Pulling,
    /// Replicas are coming up.
    #[default]
    Starting,
    /// All replicas of the newest revision are ready.
    Ready,
    /// No replicas are wanted: the next request brings them back.
    Idle,
    /// Replicas of the newest revision are coming up beside those that serve.
    Updating,
    /// The newest revision does not come up. It is tried again; what served before goes on serving.
    Failed,
    /// The function was deleted and its replicas are ending.
    Removing,
}

/// One replica, as shown.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaStatus {
    /// Which replica.
    pub id: ReplicaId,
    /// How far it is.
    pub phase: Phase,
    /// Its revision.
    pub revision: String,
    /// Where it answers, once it is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// When it was started, or adopted by this daemon.
    pub started_at: Timestamp,
}

/// What the controller last said.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// The newest revision that the controller knew of when it said this.
    pub revision: String,
    /// What it is doing.
    pub phase: FunctionPhase,
    /// For people: why the newest revision is not up.
    pub message: Option<String>,
    /// How far the image is, while it is fetched.
    pub image: Option<Progress>,
    /// Its replicas.
    pub replicas: Vec<ReplicaStatus>,
    /// How many there are to be.
    pub desired: u32,
    /// How often it had been scaled by hand when this was said.
    pub scalings: u64,
    /// The last time that load, or its absence, changed that, since the daemon started.
    pub last_decision: Option<Scaled>,
    /// How many replicas had to be replaced since the daemon started.
    pub restarts: u64,
    /// How many of them ended because they reached their memory limit.
    pub oom_kills: u64,
    /// How the last replica that ended by itself ended.
    pub last_exit: Option<String>,
}

/// A function, for those who count and measure.
#[derive(Debug)]
pub struct Observed {
    /// Which function.
    pub key: FunctionKey,
    /// How many replicas are wanted.
    pub desired: u32,
    /// How many take requests.
    pub available: usize,
    /// How it is to be scaled.
    pub scaling: Scaling,
    /// All of its replicas, also those that are coming up or ending.
    pub replicas: Vec<ReplicaId>,
    /// How many replicas had to be replaced since the daemon started.
    pub restarts: u64,
    /// How many of them ended because they reached their memory limit.
    pub oom_kills: u64,
    /// What the proxy counted.
    pub upstream: Arc<Upstream>,
}

/// What the labels of a function say of how it is to be scaled, or what holds without them.
#[derive(Debug, Clone)]
pub struct Scaling {
    /// At least so many replicas.
    pub minimum: u32,
    /// By what.
    pub kind: String,
    /// As much of that for each replica.
    pub target: f64,
}

impl Scaling {
    pub(super) fn of(labels: &BTreeMap<String, String>) -> Self {
        let target = labels.get("com.openfaas.scale.target").and_then(|text| text.parse().ok());
        Self {
            minimum: spec::replicas(labels).unwrap_or(1),
            kind: labels.get("com.openfaas.scale.type").map_or("rps", String::as_str).to_owned(),
            target: target.filter(|n: &f64| n.is_finite()).unwrap_or(50.0),
        }
    }
}

impl Status {
    /// How many replicas there are to be: as the controller said, unless that was of an older record than this one.
    #[must_use]
    pub fn desired(&self, record: &FunctionRecord) -> u32 {
        if self.scalings == record.scalings && self.revision == record.newest.id {
            self.desired
        } else {
            record.wanted(&record.newest)
        }
    }

    /// How many replicas take requests.
    #[must_use]
    pub fn available(&self) -> usize {
        self.replicas.iter().filter(|r| r.phase == Phase::Ready).count()
    }
}

/// A function, as the API shows it: the fields of the contract, and `status`, which is ours.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FunctionView {
    name: String,
    image: String,
    namespace: String,
    #[serde(flatten)]
    deployment: Deployment,
    #[serde(skip_serializing_if = "is_zero")]
    invocation_count: u64,
    replicas: u64,
    available_replicas: u64,
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Use>,
    status: StatusView,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusView {
    phase: FunctionPhase,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    revision: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<ImageView>,
    replicas: Vec<ReplicaStatus>,
    restarts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_exit: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ImageView {
    done: u64,
    total: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl FunctionView {
    /// The replicas that it tells of.
    pub fn replica_ids(&self) -> impl Iterator<Item = &ReplicaId> {
        self.status.replicas.iter().map(|replica| &replica.id)
    }

    /// The same, with what its replicas use.
    #[must_use]
    pub fn with_usage(self, usage: Use) -> Self {
        Self { usage: Some(usage), ..self }
    }

    /// Puts together what is wanted and what is.
    #[must_use]
    pub fn new(
        namespace: String,
        record: &FunctionRecord,
        wanted: u32,
        status: &Status,
        requests: u64,
    ) -> Self {
        let mut deployment = record.newest.deployment.clone();
        let name = std::mem::take(&mut deployment.service);
        let image = std::mem::take(&mut deployment.image);
        deployment.namespace.clear();
        // Official providers add this label, and clients look for it.
        deployment.labels.insert("faas_function".to_owned(), name.clone());
        // What was said of an older revision is not true of this one.
        let current = status.revision == record.newest.id;
        let waiting =
            if record.serving.is_some() { FunctionPhase::Updating } else { FunctionPhase::Starting };
        let progress =
            status.image.as_ref().map(|p| ImageView { done: p.done_bytes(), total: p.total_bytes() });
        Self {
            name,
            image,
            namespace,
            deployment,
            invocation_count: requests,
            replicas: wanted.into(),
            available_replicas: status.available() as u64,
            created_at: record.created_at,
            usage: None,
            status: StatusView {
                phase: if current { status.phase } else { waiting },
                message: status.message.clone().filter(|_| current),
                revision: record.newest.id.clone(),
                digest: record.newest.image.as_ref().map(|image| image.digest.clone()),
                image: progress,
                replicas: status.replicas.clone(),
                restarts: status.restarts,
                last_exit: status.last_exit.clone(),
                warnings: warnings::of(&record.newest),
            },
        }
    }
}
