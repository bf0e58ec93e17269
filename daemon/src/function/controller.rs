//! The life of a function: the only task that changes its replicas and publishes its endpoints.
//!
//! The loop is: look at what is wanted, decide ([`rollout::plan`]), act, tell, wait for something to happen. What
//! can happen is a new record from the registry, an image that arrived or did not, an event of a replica, or the end
//! of a back-off.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use roost_proxy::function::{FunctionKey, ReplicaId};
use roost_proxy::{Endpoint, Upstream};
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::function::backoff::Backoff;
use crate::function::record::{FunctionRecord, PinnedImage, Revision};
use crate::function::registry::Registry;
use crate::function::replica::{Event, Host, Intent, Origin, Replica};
use crate::function::rollout::{self, Phase, Target, View};
use crate::function::spec::FunctionSpec;
use crate::function::status::{FunctionPhase, ReplicaStatus, Status};
use crate::image::{Images, Progress, PullPolicy, ResolvedImage};
use crate::logs::LogStore;

/// What has happened and the controller has not looked at; those who tell it wait when it is full.
const HAPPENINGS: usize = 64;

/// The pauses after a replica that failed. The first failure after a good time is made good at once.
const RESTART_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The pauses after an image that could not be fetched.
const IMAGE_PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// A replica that was ready for this long was good: its end is the first failure again.
const GOOD_TIME: Duration = Duration::from_secs(10);

/// Behind how many failures in a row a request without a replica is refused at once instead of held.
const REFUSE_BEHIND: u32 = 2;

/// What a controller works with, beside what its replicas are made with.
#[derive(Clone)]
pub struct Tools {
    /// What replicas are made with.
    pub host: Host,
    /// Where images come from.
    pub images: Images,
    /// When a registry is asked.
    pub policy: PullPolicy,
    /// What replicas wrote.
    pub logs: LogStore,
    /// How much output of replicas that have ended is kept of a function, in bytes.
    pub log_limit: u64,
    /// The tasks of images and replicas.
    pub tasks: TaskTracker,
}

/// A replica that an earlier daemon made.
#[derive(Debug)]
pub struct Inherited {
    /// Which replica.
    pub id: ReplicaId,
    /// Its revision.
    pub revision: String,
    /// Where it answers.
    pub address: std::net::SocketAddr,
}

/// A replica, as its controller keeps it.
#[derive(Debug)]
struct Kept {
    id: ReplicaId,
    revision: String,
    phase: Phase,
    endpoint: Option<Arc<Endpoint>>,
    intent: watch::Sender<Intent>,
    started_at: Timestamp,
    ready_since: Option<Instant>,
}

/// A revision that replicas may be started of.
#[derive(Debug)]
struct Known {
    spec: Result<FunctionSpec, String>,
    image: ImageState,
    backoff: Backoff,
    failure: Option<String>,
}

#[derive(Debug)]
enum ImageState {
    Absent,
    Fetching(Progress),
    Here(ResolvedImage),
}

/// What can happen to a function, but for a new record.
#[derive(Debug)]
pub enum Happening {
    /// The image of a revision arrived, or did not.
    Image(String, Result<ResolvedImage, String>),
    /// A replica moved on.
    Replica(ReplicaId, Event),
}

/// The controller of one function.
pub struct Controller {
    key: FunctionKey,
    tools: Tools,
    registry: Arc<Registry>,
    upstream: Arc<Upstream>,
    wanted: watch::Receiver<Option<FunctionRecord>>,
    status: watch::Sender<Status>,
    revisions: HashMap<String, Known>,
    replicas: Vec<Kept>,
    restarts: u64,
    last_exit: Option<String>,
    happenings: (mpsc::Sender<Happening>, mpsc::Receiver<Happening>),
}

impl Controller {
    /// The controller of `key`, which serves through `upstream` and tells through `status`.
    pub fn new(
        key: FunctionKey,
        tools: Tools,
        registry: Arc<Registry>,
        upstream: Arc<Upstream>,
        wanted: watch::Receiver<Option<FunctionRecord>>,
        status: watch::Sender<Status>,
    ) -> Self {
        Self {
            key,
            tools,
            registry,
            upstream,
            wanted,
            status,
            revisions: HashMap::new(),
            replicas: Vec::new(),
            restarts: 0,
            last_exit: None,
            happenings: mpsc::channel(HAPPENINGS),
        }
    }

    /// Runs until the function is deleted and nothing is left of it.
    pub async fn run(mut self, inherited: Vec<Inherited>) {
        self.adopt(inherited);
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            match &wanted {
                Some(record) => self.pursue(record).await,
                None => self.replicas.iter_mut().for_each(|replica| retreat(replica, Intent::Drain)),
            }
            self.publish(wanted.as_ref());
            if wanted.is_none() && self.replicas.is_empty() {
                if let Err(error) = self.tools.logs.remove_function(&self.key).await {
                    warn!(function = %self.key, "{}: its output stays: {error}", self.key);
                }
                if self.registry.retire(&self.key) {
                    info!(function = %self.key, "{}: removed", self.key);
                    return;
                }
            }
            match self.next().await {
                Some(Happening::Image(revision, result)) => self.image_arrived(&revision, result).await,
                Some(Happening::Replica(id, event)) => self.replica_said(&id, event).await,
                None => {}
            }
        }
    }

    /// Goes on with the replicas that an earlier daemon made.
    fn adopt(&mut self, inherited: Vec<Inherited>) {
        let wanted = self.wanted.borrow().clone();
        for Inherited { id, revision, address } in inherited {
            let deployment = wanted.iter().flat_map(|record| [Some(&record.newest), record.serving.as_ref()]);
            let spec = deployment
                .flatten()
                .find(|each| each.id == revision)
                .and_then(|each| FunctionSpec::parse(each.deployment.clone()).ok());
            let origin = match spec {
                Some(spec) => Origin::Adopted(Box::new(spec), address),
                None => Origin::Leftover,
            };
            self.spawn_replica(id, revision, origin);
        }
    }

    /// Takes the next step towards what is wanted.
    async fn pursue(&mut self, record: &FunctionRecord) {
        let revisions = || [Some(&record.newest), record.serving.as_ref()].into_iter().flatten();
        self.revisions.retain(|id, _| revisions().any(|revision| revision.id == *id));
        for revision in revisions() {
            self.know(revision);
        }
        let now = Instant::now();
        let newest = self.target(&record.newest, now);
        let serving = record.serving.as_ref().map(|revision| self.target(revision, now));
        let plan = rollout::plan(&newest, serving.as_ref(), &self.views());
        for _ in 0..plan.start_newest {
            self.start(&record.newest.id);
        }
        for _ in 0..plan.start_serving {
            self.start(&serving.as_ref().unwrap_or(&newest).revision);
        }
        if plan.complete && !record.complete {
            self.registry.complete(&self.key, &record.newest.id).await;
            info!(function = %self.key, "{}: revision {} is up", self.key, record.newest.id);
        }
        if !plan.drain.is_empty() {
            // Those that stay take over before those that go are told.
            let stay = self.endpoints(|replica| !plan.drain.contains(&replica.id));
            self.upstream.publish(stay);
            let draining = self.replicas.iter_mut().filter(|replica| plan.drain.contains(&replica.id));
            draining.for_each(|replica| retreat(replica, Intent::Drain));
        }
    }

    /// Makes sure that a revision is known and that its image is on the way.
    fn know(&mut self, revision: &Revision) {
        let known = self.revisions.entry(revision.id.clone()).or_insert_with(|| Known {
            spec: FunctionSpec::parse(revision.deployment.clone()).map_err(|why| why.to_string()),
            image: ImageState::Absent,
            backoff: Backoff::new(RESTART_PAUSE.0, RESTART_PAUSE.1),
            failure: None,
        });
        match &known.spec {
            Err(why) => known.failure = Some(why.clone()),
            Ok(spec) => {
                if matches!(known.image, ImageState::Absent) && known.backoff.until(Instant::now()).is_none()
                {
                    let progress = Progress::new();
                    known.image = ImageState::Fetching(progress.clone());
                    let (tools, spec, revision) = (self.tools.clone(), spec.clone(), revision.clone());
                    let tell = self.happenings.0.clone();
                    self.tools.tasks.spawn(async move {
                        let result = fetch(&tools, &spec, &revision, &progress).await;
                        // Nobody listens only when the daemon ends.
                        tell.send(Happening::Image(revision.id, result)).await.ok();
                    });
                }
            }
        }
    }

    fn target(&self, revision: &Revision, now: Instant) -> Target {
        let known = self.revisions.get(&revision.id);
        let replicas = known.and_then(|known| known.spec.as_ref().ok()).map_or(1, |spec| spec.replicas);
        let startable = known.is_some_and(|known| {
            matches!(known.image, ImageState::Here(_)) && known.backoff.until(now).is_none()
        });
        Target { revision: revision.id.clone(), replicas: replicas as usize, startable }
    }

    fn views(&self) -> Vec<View> {
        let view = |r: &Kept| View { id: r.id.clone(), revision: r.revision.clone(), phase: r.phase };
        self.replicas.iter().map(view).collect()
    }

    fn endpoints(&self, wanted: impl Fn(&Kept) -> bool) -> Vec<Arc<Endpoint>> {
        let ready = self.replicas.iter().filter(|replica| replica.phase == Phase::Ready && wanted(replica));
        ready.filter_map(|replica| replica.endpoint.clone()).collect()
    }

    fn start(&mut self, revision: &str) {
        let Some(known) = self.revisions.get(revision) else { return };
        if let (Ok(spec), ImageState::Here(image)) = (&known.spec, &known.image) {
            let origin = Origin::New(Box::new((spec.clone(), image.clone())));
            self.spawn_replica(new_replica_id(&self.key), revision.to_owned(), origin);
        }
    }

    fn spawn_replica(&mut self, id: ReplicaId, revision: String, origin: Origin) {
        let (intent, intents) = watch::channel(Intent::Serve);
        let phase = if matches!(origin, Origin::Leftover) { Phase::Stopping } else { Phase::Starting };
        let what = match origin {
            Origin::New(_) => "starting",
            Origin::Adopted(..) => "adopting",
            Origin::Leftover => "clearing away",
        };
        info!(function = %self.key, replica = %id, "{}: {what} replica {id}", self.key);
        let replica = Replica {
            id: id.clone(),
            key: self.key.clone(),
            revision: revision.clone(),
            host: self.tools.host.clone(),
            intent: intents,
            tell: self.happenings.0.clone(),
        };
        self.tools.tasks.spawn(replica.run(origin));
        let started_at = Timestamp::now();
        self.replicas.push(Kept {
            id,
            revision,
            phase,
            endpoint: None,
            intent,
            started_at,
            ready_since: None,
        });
    }

    /// Waits for the next thing to happen; `None` when it is time to look again, or the record changed.
    async fn next(&mut self) -> Option<Happening> {
        let now = Instant::now();
        let wake = self.revisions.values().filter_map(|known| known.backoff.until(now)).min();
        let sleep = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            happening = self.happenings.1.recv() => happening,
            _ = self.wanted.changed() => None,
            () = sleep => None,
        }
    }

    async fn image_arrived(&mut self, revision: &str, result: Result<ResolvedImage, String>) {
        let Some(known) = self.revisions.get_mut(revision) else { return };
        match result {
            Ok(image) => {
                let pin = PinnedImage { name: image.name.clone(), digest: image.digest.clone() };
                known.image = ImageState::Here(image);
                known.failure = None;
                known.backoff = Backoff::new(RESTART_PAUSE.0, RESTART_PAUSE.1);
                self.registry.pin(&self.key, revision, &pin).await;
            }
            Err(why) => {
                warn!(function = %self.key, "{}: {why}", self.key);
                if known.backoff.failures() == 0 {
                    known.backoff = Backoff::new(IMAGE_PAUSE.0, IMAGE_PAUSE.1);
                }
                known.backoff.fail(Instant::now());
                known.image = ImageState::Absent;
                known.failure = Some(why);
            }
        }
    }

    async fn replica_said(&mut self, id: &ReplicaId, event: Event) {
        let Some(index) = self.replicas.iter().position(|replica| replica.id == *id) else { return };
        let replica = &mut self.replicas[index];
        match event {
            Event::Ready(endpoint) => {
                replica.endpoint = Some(endpoint);
                replica.ready_since = Some(Instant::now());
                if replica.phase == Phase::Starting {
                    replica.phase = Phase::Ready;
                }
            }
            Event::Ended(cause) => {
                let unasked = matches!(replica.phase, Phase::Starting | Phase::Ready);
                replica.phase = Phase::Stopping;
                if let (true, Some(cause)) = (unasked, cause) {
                    let (revision, ready_since) = (replica.revision.clone(), replica.ready_since);
                    self.replica_failed(id, &revision, cause, ready_since);
                }
            }
            Event::Gone => {
                self.replicas.remove(index);
                self.prune_logs().await;
            }
        }
    }

    /// Drops the output of replicas that ended long ago.
    async fn prune_logs(&self) {
        let live: Vec<ReplicaId> = self.replicas.iter().map(|replica| replica.id.clone()).collect();
        if let Err(error) = self.tools.logs.prune(&self.key, &live, self.tools.log_limit).await {
            warn!(function = %self.key, "{}: old output stays: {error}", self.key);
        }
    }

    /// A replica ended that should not have: the next one is started at once, or behind a pause if this is not the
    /// first time, or it never was ready.
    fn replica_failed(
        &mut self,
        id: &ReplicaId,
        revision: &str,
        cause: String,
        ready_since: Option<Instant>,
    ) {
        warn!(function = %self.key, replica = %id, "{}: replica {id}: {cause}", self.key);
        self.restarts += 1;
        self.last_exit = Some(cause.clone());
        if let Some(known) = self.revisions.get_mut(revision) {
            match ready_since {
                Some(since) if since.elapsed() >= GOOD_TIME => known.backoff.reset(),
                Some(_) if known.backoff.failures() == 0 => known.backoff.forgive(),
                _ => known.backoff.fail(Instant::now()),
            }
            known.failure = Some(cause);
        }
    }

    /// Tells the proxy and whoever asks how things are.
    fn publish(&mut self, wanted: Option<&FunctionRecord>) {
        let endpoints = self.endpoints(|_| true);
        let nobody = endpoints.is_empty();
        self.upstream.publish(endpoints);
        let known = wanted.and_then(|record| self.revisions.get_mut(&record.newest.id));
        let phase = match (wanted, known) {
            (Some(record), Some(known)) => {
                let ready =
                    self.replicas.iter().any(|r| r.phase == Phase::Ready && r.revision == record.newest.id);
                if ready && record.complete {
                    known.failure = None;
                }
                self.upstream.set_unavailable(known.failure.clone().filter(|_| nobody && known.refuses()));
                known.phase(record, ready)
            }
            _ => {
                self.upstream.set_unavailable(Some("the function was deleted".to_owned()));
                FunctionPhase::Removing
            }
        };
        let newest = wanted.and_then(|record| self.revisions.get(&record.newest.id));
        let replica = |r: &Kept| ReplicaStatus {
            id: r.id.clone(),
            phase: r.phase,
            revision: r.revision.clone(),
            address: r.endpoint.as_ref().map(|endpoint| endpoint.address().to_string()),
            started_at: r.started_at,
        };
        self.status.send_replace(Status {
            revision: wanted.map(|record| record.newest.id.clone()).unwrap_or_default(),
            phase,
            message: newest.and_then(|known| known.failure.clone()),
            image: newest.and_then(|known| match &known.image {
                ImageState::Fetching(progress) => Some(progress.clone()),
                _ => None,
            }),
            replicas: self.replicas.iter().map(replica).collect(),
            restarts: self.restarts,
            last_exit: self.last_exit.clone(),
        });
    }
}

impl Known {
    /// Is a request better refused than held?
    fn refuses(&self) -> bool {
        self.spec.is_err()
            || self.backoff.failures() >= REFUSE_BEHIND
            || (matches!(self.image, ImageState::Absent) && self.failure.is_some())
    }

    fn phase(&self, record: &FunctionRecord, ready: bool) -> FunctionPhase {
        match &self.image {
            _ if record.complete && ready => FunctionPhase::Ready,
            _ if self.failure.is_some() => FunctionPhase::Failed,
            ImageState::Fetching(_) => FunctionPhase::Pulling,
            _ if record.serving.is_some() => FunctionPhase::Updating,
            _ => FunctionPhase::Starting,
        }
    }
}

/// Moves a replica on towards its end. Never back.
fn retreat(replica: &mut Kept, intent: Intent) {
    if matches!(replica.phase, Phase::Starting | Phase::Ready) {
        replica.phase = Phase::Draining;
        replica.intent.send_if_modified(|now| {
            let later = intent > *now;
            *now = intent.max(*now);
            later
        });
    }
}

/// The image of a revision: the one it was pinned to if that is still here, else what its reference stands for now.
async fn fetch(
    tools: &Tools,
    spec: &FunctionSpec,
    revision: &Revision,
    progress: &Progress,
) -> Result<ResolvedImage, String> {
    let namespace = &spec.key.namespace;
    if let Some(pin) = &revision.image {
        match tools.images.pinned(namespace, &pin.name, &pin.digest).await {
            Ok(Some(image)) => return Ok(image),
            Ok(None) => {
                warn!(function = %spec.key, "{}: the image {} is no longer on this host", spec.key, pin.digest);
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    tools.host.runtime.ensure_namespace(namespace).await.map_err(|e| e.to_string())?;
    tools.images.ensure(namespace, &spec.image, tools.policy, progress).await.map_err(|e| e.to_string())
}

/// A new id for a replica of `key`: its name, as much of it as fits, and eight random letters or digits.
fn new_replica_id(key: &FunctionKey) -> ReplicaId {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    const LONGEST_NAME: usize = 54;
    let random = uuid::Uuid::new_v4().into_bytes();
    let suffix: String = random[..8].iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect();
    let name: String = key.name.as_str().chars().take(LONGEST_NAME).collect();
    format!("{name}-{suffix}").parse().expect("a name, a dash and letters are a label")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replica_ids_begin_with_the_name_and_stay_valid_for_the_longest() {
        let long = FunctionKey::from_route(&"a".repeat(63)).unwrap();
        assert_eq!(new_replica_id(&long).as_str().len(), 63);
        let short = FunctionKey::from_route("echo").unwrap();
        assert!(new_replica_id(&short).as_str().starts_with("echo-"));
        assert_ne!(new_replica_id(&short), new_replica_id(&short));
    }
}
