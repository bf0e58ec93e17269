//! What is told of a function: the body of `GET /system/function/{name}`.

use std::sync::Arc;

use jiff::Timestamp;
use roost_proxy::function::{FunctionKey, ReplicaId};
use roost_proxy::{Endpoint, Load, ReplicaKey, Upstream};
use serde::Serialize;

use crate::function::record::FunctionRecord;
use crate::function::rollout::Phase;
use crate::function::spec::Deployment;
use crate::function::warnings;
use crate::image::Progress;
use crate::scaling::events::{DecisionView, Scaled};
use crate::scaling::{LoadTarget, Measure, Policy, labels};
use crate::triggers::ahead::Next;
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

/// One replica, as its controller last saw it.
#[derive(Debug, Clone)]
pub struct ReplicaStatus {
    /// Which replica.
    pub id: ReplicaId,
    /// How far it is.
    pub phase: Phase,
    /// Its revision.
    pub revision: String,
    /// What it is for.
    pub key: Option<ReplicaKey>,
    /// Where it answers, once it was ready. It knows what is going on there.
    pub endpoint: Option<Arc<Endpoint>>,
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
    /// How far each of them is.
    pub phases: Vec<Phase>,
    /// How many replicas had to be replaced since the daemon started.
    pub restarts: u64,
    /// How many of them ended because they reached their memory limit.
    pub oom_kills: u64,
    /// What the proxy counted.
    pub upstream: Arc<Upstream>,
}

/// How a function is to be scaled, in the words of the contract.
#[derive(Debug, Clone, PartialEq)]
pub struct Scaling {
    /// At least so many replicas.
    pub minimum: u32,
    /// By what.
    pub kind: &'static str,
    /// As much of that for each replica, before the part of it is taken that a replica is to carry.
    pub target: f64,
}

impl Scaling {
    /// What the settings of a deployment come to. Where nothing is scaled by load: what they say of it, or the contract's
    /// defaults.
    pub(super) fn of(deployment: &Deployment) -> Self {
        let settings = deployment.settings();
        // Those of an older version may be refused today.
        let policy = Policy::parse(deployment).unwrap_or_default();
        let said = settings.get(labels::TYPE).and_then(|name| Measure::named(name));
        let measure = policy.load.as_ref().map(|load| load.measure).or(said).unwrap_or(Measure::Rps);
        let given = settings.get(labels::TARGET).and_then(|text| text.parse().ok());
        let target = match policy.load {
            // By steps: the rule that holds where neither kind nor target is given.
            Some(LoadTarget { step: Some(_), per_replica, .. }) => per_replica,
            _ => given.filter(|n: &f64| n.is_finite()).unwrap_or(labels::DEFAULT_TARGET),
        };
        Self { minimum: policy.min, kind: measure.name(), target }
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
    #[serde(skip)]
    key: FunctionKey,
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
    replicas: Vec<ReplicaView>,
    load: LoadView,
    scaling: ScalingView,
    restarts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_exit: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    schedules: Vec<Next>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ImageView {
    done: u64,
    total: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ReplicaView {
    id: ReplicaId,
    phase: Phase,
    revision: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    in_flight: usize,
    connections: usize,
    started_at: Timestamp,
}

/// What is going on at a function now, and how much did.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LoadView {
    in_flight: usize,
    connections: usize,
    waiting: usize,
    /// Calls that nobody waits for and that are not over.
    queued: u64,
    started: u64,
    finished: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ScalingView {
    desired: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_decision: Option<DecisionView>,
}

impl From<&ReplicaStatus> for ReplicaView {
    fn from(replica: &ReplicaStatus) -> Self {
        let endpoint = replica.endpoint.as_deref();
        Self {
            id: replica.id.clone(),
            phase: replica.phase,
            revision: replica.revision.clone(),
            key: replica.key.as_ref().map(ToString::to_string),
            address: endpoint.map(|endpoint| endpoint.address().to_string()),
            in_flight: endpoint.map_or(0, Endpoint::in_flight),
            connections: endpoint.map_or(0, Endpoint::tunnels),
            started_at: replica.started_at,
        }
    }
}

impl LoadView {
    fn new(load: &Load, queued: u64) -> Self {
        Self {
            in_flight: load.in_flight,
            connections: load.tunnels,
            waiting: load.waiting,
            queued,
            started: load.started_total,
            finished: load.finished_total,
        }
    }
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

    /// Whose it is.
    #[must_use]
    pub fn key(&self) -> &FunctionKey {
        &self.key
    }

    /// The same, with when the clock calls it.
    #[must_use]
    pub fn with_schedules(mut self, schedules: Vec<Next>) -> Self {
        self.status.schedules = schedules;
        self
    }

    /// The same, with what its replicas use.
    #[must_use]
    pub fn with_usage(self, usage: Use) -> Self {
        Self { usage: Some(usage), ..self }
    }

    /// Puts together what is wanted and what is. So many of its calls are `queued`.
    #[must_use]
    pub fn new(
        record: &FunctionRecord,
        wanted: u32,
        status: &Status,
        upstream: &Upstream,
        queued: u64,
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
            key: upstream.key().clone(),
            name,
            image,
            namespace: upstream.key().namespace.to_string(),
            deployment,
            invocation_count: upstream.requests(),
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
                replicas: status.replicas.iter().map(ReplicaView::from).collect(),
                load: LoadView::new(&upstream.load(), queued),
                scaling: ScalingView {
                    desired: wanted,
                    last_decision: status.last_decision.as_ref().map(DecisionView::from),
                },
                restarts: status.restarts,
                last_exit: status.last_exit.clone(),
                schedules: Vec::new(),
                warnings: warnings::of(&record.newest),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use roost_proxy::UpstreamLimits;
    use serde_json::json;

    use super::*;
    use crate::function::record::Revision;

    #[test]
    fn scaling_is_told_in_the_words_of_the_contract() {
        let of = |settings: &[(&str, &str)]| {
            let annotations = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let deployment = Deployment { annotations: annotations.collect(), ..Deployment::default() };
            let Scaling { minimum, kind, target } = Scaling::of(&deployment);
            (minimum, kind, target)
        };
        let (min, max) = (("com.openfaas.scale.min", "2"), ("com.openfaas.scale.max", "4"));
        let (kind, target) = (("com.openfaas.scale.type", "capacity"), ("com.openfaas.scale.target", "12"));
        for (settings, expected) in [
            (&[][..], (1, "rps", 50.0)),
            (&[min, max], (2, "rps", 5.0)),
            (&[max, kind], (1, "capacity", 50.0)),
            (&[max, target], (1, "rps", 12.0)),
            (&[max, kind, target], (1, "capacity", 12.0)),
            // Nothing to scale between, but it is said.
            (&[min, kind, target], (2, "capacity", 12.0)),
            (&[("roost.scale.key", "path[1]")], (0, "rps", 50.0)),
            (&[("com.openfaas.scale.type", "magic"), ("com.openfaas.scale.target", "inf")], (1, "rps", 50.0)),
        ] {
            assert_eq!(of(settings), expected, "{settings:?}");
        }
    }

    #[test]
    fn the_view_tells_load_and_decisions_and_each_replica_as_it_is_now() {
        let upstream = Upstream::new(FunctionKey::from_route("rooms").unwrap(), UpstreamLimits::default());
        let endpoint = Endpoint::new("rooms-1".parse().unwrap(), "10.0.0.1:8080".parse().unwrap());
        let at = Timestamp::UNIX_EPOCH;
        let replica = |id: &str, phase, endpoint| ReplicaStatus {
            id: id.parse().unwrap(),
            phase,
            revision: "r".to_owned(),
            key: Some("a room".parse().unwrap()),
            endpoint,
            started_at: at,
        };
        let status = Status {
            replicas: vec![
                replica("rooms-1", Phase::Ready, Some(Arc::clone(&endpoint))),
                replica("rooms-2", Phase::Starting, None),
            ],
            last_decision: Some(Scaled {
                at,
                function: upstream.key().clone(),
                key: None,
                from: 0,
                to: 2,
                reason: "a request waits".to_owned(),
            }),
            ..Status::default()
        };
        // Behind the controller's back: what is told is not what it was when the controller spoke.
        upstream.publish(vec![endpoint]);
        let claim = upstream.claim().unwrap();
        let record = FunctionRecord::new(Revision::new(Deployment::default()));
        let view = serde_json::to_value(FunctionView::new(&record, 2, &status, &upstream, 7)).unwrap();
        let status = &view["status"];
        let load = json!({ "inFlight": 1, "connections": 0, "waiting": 0, "queued": 7, "started": 0, "finished": 0 });
        assert_eq!(status["load"], load);
        let decision =
            json!({ "at": "1970-01-01T00:00:00Z", "from": 0, "to": 2, "reason": "a request waits" });
        assert_eq!(status["scaling"], json!({ "desired": 2, "lastDecision": decision }));
        let expected = [
            json!({ "id": "rooms-1", "phase": "ready", "revision": "r", "key": "a room", "inFlight": 1,
                "connections": 0, "address": "10.0.0.1:8080", "startedAt": "1970-01-01T00:00:00Z" }),
            json!({ "id": "rooms-2", "phase": "starting", "revision": "r", "key": "a room", "inFlight": 0,
                "connections": 0, "startedAt": "1970-01-01T00:00:00Z" }),
        ];
        assert_eq!(status["replicas"], json!(expected));
        drop(claim);
        let view =
            serde_json::to_value(FunctionView::new(&record, 0, &Status::default(), &upstream, 0)).unwrap();
        assert_eq!(view["status"]["load"]["inFlight"], 0);
        assert_eq!(view["status"]["scaling"], json!({ "desired": 0 }));
    }
}
