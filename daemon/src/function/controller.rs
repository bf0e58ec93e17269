//! The life of a function: the only task that changes its replicas and publishes its endpoints.
//!
//! The loop is: look at what is wanted, decide ([`rollout::plan`]), act, tell, wait for something to happen. What
//! can happen is a new record from the registry, an image that arrived or did not, an event of a replica, a request
//! for a function that has no replicas, or the end of a back-off.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use roost_proxy::function::{FunctionKey, ReplicaId};
use roost_proxy::{Endpoint, Upstream};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::function::known::{ImageState, Known};
use crate::function::liveness::Liveness;
use crate::function::record::{FunctionRecord, PinnedImage, Revision};
use crate::function::registry::Registry;
use crate::function::replica::{Cause, Event, Host, Order, Origin, Replica};
use crate::function::rollout::{self, Phase, Target, View};
use crate::function::status::{FunctionPhase, ReplicaStatus, Status};
use crate::image::{Images, PullPolicy, ResolvedImage};
use crate::memory;
use crate::scaling::events::Events;

/// What has happened and the controller has not looked at; those who tell it wait when it is full.
const HAPPENINGS: usize = 64;

/// What a controller works with, beside what its replicas are made with.
#[derive(Clone)]
pub struct Tools {
    /// What replicas are made with.
    pub host: Host,
    /// Where images come from.
    pub images: Images,
    /// When a registry is asked.
    pub policy: PullPolicy,
    /// Whom decisions about replicas are told.
    pub events: Events,
}

/// A replica that an earlier daemon made.
#[derive(Debug)]
pub struct Inherited {
    /// Which replica.
    pub id: ReplicaId,
    /// Its revision.
    pub revision: String,
    /// Where it answers, if it runs.
    pub address: Option<std::net::SocketAddr>,
}

/// A replica, as its controller keeps it.
#[derive(Debug)]
struct Kept {
    id: ReplicaId,
    revision: String,
    phase: Phase,
    endpoint: Option<Arc<Endpoint>>,
    orders: watch::Sender<Order>,
    started_at: Timestamp,
    ready_since: Option<Instant>,
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
    /// In the order in which they were started.
    replicas: Vec<Kept>,
    restarts: u64,
    oom_kills: u64,
    /// Of which revision the last replica was that ended by itself, and how.
    last_exit: Option<(String, String)>,
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
            oom_kills: 0,
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
                None => self.wind_up(),
            }
            self.publish(wanted.as_ref());
            if wanted.is_none() && self.replicas.is_empty() && self.retire().await {
                return;
            }
            let idle = wanted.as_ref().is_some_and(is_idle);
            if idle && self.upstream.load().waiting > 0 {
                self.registry.wake(&self.key).await;
                continue;
            }
            match self.next(idle).await {
                Some(Happening::Image(revision, result)) => self.image_arrived(&revision, result).await,
                Some(Happening::Replica(id, event)) => self.replica_said(&id, event).await,
                None => {}
            }
        }
    }

    /// Goes on with the replicas that an earlier daemon made. Those that run and are of a revision that counts are
    /// taken as they are, whatever this daemon thinks of what was once sent.
    fn adopt(&mut self, inherited: Vec<Inherited>) {
        let wanted = self.wanted.borrow().clone();
        for Inherited { id, revision, address } in inherited {
            let counts = wanted.as_ref().and_then(|record| record.revisions().find(|r| r.id == revision));
            let origin = match (address, counts) {
                (Some(address), Some(revision)) => {
                    let liveness = Liveness::parse(&revision.deployment.settings()).ok().flatten();
                    Origin::Adopted(address, liveness)
                }
                _ => Origin::Leftover,
            };
            self.spawn_replica(id, revision, origin);
        }
    }

    /// Takes the next step towards what is wanted.
    async fn pursue(&mut self, record: &FunctionRecord) {
        let now = Instant::now();
        self.revisions.retain(|id, _| record.revisions().any(|revision| revision.id == *id));
        for revision in record.revisions() {
            let known = self.revisions.entry(revision.id.clone()).or_insert_with(|| Known::new(revision));
            known.seek_image(revision, &self.tools, &self.happenings.0, now);
        }
        if is_idle(record) {
            self.revisions.values_mut().for_each(Known::rest);
        }
        let target = |revision: &Revision| {
            let known = self.revisions.get(&revision.id)?;
            Some(known.target(&revision.id, record.wanted(revision), now))
        };
        let Some(newest) = target(&record.newest) else { return };
        let serving: Option<Target> = record.serving.as_ref().and_then(target);
        let plan = rollout::plan(&newest, serving.as_ref(), &self.views());

        for _ in 0..plan.start_newest {
            self.start(&newest.revision);
        }
        for _ in 0..plan.start_serving {
            self.start(serving.as_ref().map_or("", |serving| &serving.revision));
        }
        // Those that stay take over before those that go are told, and before anything is written.
        self.upstream.publish(self.endpoints(|replica| !plan.drain.contains(&replica.id)));
        for replica in self.replicas.iter_mut().filter(|replica| plan.drain.contains(&replica.id)) {
            retreat(replica, self.tools.host.settings.drain);
        }
        if plan.complete && !record.complete {
            self.registry.complete(&self.key, &record.newest.id).await;
            info!(function = %self.key, "{}: revision {} is up", self.key, record.newest.id);
            memory::give_back();
        }
    }

    /// Nothing is wanted any more.
    fn wind_up(&mut self) {
        self.revisions.clear();
        self.restarts = 0;
        self.oom_kills = 0;
        self.last_exit = None;
        self.upstream.publish(Vec::new());
        let drain = self.tools.host.settings.drain;
        self.replicas.iter_mut().for_each(|replica| retreat(replica, drain));
    }

    /// Leaves nothing of the function; `false` if it is wanted again.
    async fn retire(&self) -> bool {
        if let Err(error) = self.tools.host.logs.remove_function(&self.key).await {
            warn!(function = %self.key, "{}: its output stays: {error}", self.key);
        }
        let retired = self.registry.retire(&self.key);
        if retired {
            self.upstream.retire();
            info!(function = %self.key, "{}: removed", self.key);
        }
        retired
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
            let origin = Origin::New(Box::new((spec.clone(), (**image).clone())));
            self.spawn_replica(new_replica_id(&self.key), revision.to_owned(), origin);
        }
    }

    fn spawn_replica(&mut self, id: ReplicaId, revision: String, origin: Origin) {
        let (phase, what) = match origin {
            Origin::New(_) => (Phase::Starting, "starting"),
            Origin::Adopted(..) => (Phase::Starting, "adopting"),
            Origin::Leftover => (Phase::Stopping, "clearing away"),
        };
        info!(function = %self.key, replica = %id, "{}: {what} replica {id}", self.key);
        let orders = watch::Sender::new(Order::Run);
        let replica = Replica {
            id: id.clone(),
            key: self.key.clone(),
            revision: revision.clone(),
            host: self.tools.host.clone(),
            replica_key: None,
            orders: orders.subscribe(),
            tell: self.happenings.0.clone(),
        };
        tokio::spawn(replica.run(origin));
        let started_at = Timestamp::now();
        self.replicas.push(Kept {
            id,
            revision,
            phase,
            endpoint: None,
            orders,
            started_at,
            ready_since: None,
        });
    }

    /// Waits for the next thing to happen; `None` when it is time to look again, or the record changed.
    async fn next(&mut self, idle: bool) -> Option<Happening> {
        let now = Instant::now();
        let due = self.revisions.values().filter_map(|known| known.due(now)).min();
        let sleep = async {
            match due {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            happening = self.happenings.1.recv() => happening,
            _ = self.wanted.changed() => None,
            () = self.upstream.demand(), if idle => None,
            () = sleep => None,
        }
    }

    async fn image_arrived(&mut self, revision: &str, result: Result<ResolvedImage, String>) {
        let Some(known) = self.revisions.get_mut(revision) else { return };
        match result {
            Ok(image) => {
                let pin = PinnedImage { name: image.name.clone(), digest: image.digest.clone() };
                known.image_arrived(image);
                self.registry.pin(&self.key, revision, &pin).await;
            }
            Err(why) => {
                warn!(function = %self.key, "{}: {why}", self.key);
                known.image_failed(why, Instant::now());
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
            Event::Created => replica.phase = Phase::Created,
            Event::Busy => replica.phase = Phase::Busy,
            Event::Paused => replica.phase = Phase::Paused,
            Event::Ended(cause) => {
                let unasked = matches!(replica.phase, Phase::Starting | Phase::Ready);
                replica.phase = Phase::Stopping;
                if let (true, Some(cause)) = (unasked, cause) {
                    self.replica_failed(index, &cause);
                }
            }
            Event::Gone => {
                self.replicas.remove(index);
                self.prune_logs().await;
            }
        }
    }

    fn replica_failed(&mut self, index: usize, cause: &Cause) {
        let Kept { id, revision, ready_since, .. } = &self.replicas[index];
        let (Cause::NotStarted(why) | Cause::Ended(why) | Cause::OutOfMemory(why)) = cause;
        warn!(function = %self.key, replica = %id, "{}: replica {id}: {why}", self.key);
        self.restarts += 1;
        self.oom_kills += u64::from(matches!(cause, Cause::OutOfMemory(_)));
        if let Cause::Ended(how) | Cause::OutOfMemory(how) = cause {
            self.last_exit = Some((revision.clone(), how.clone()));
        }
        if let Some(known) = self.revisions.get_mut(revision) {
            known.replica_failed(cause, *ready_since, Instant::now());
        }
    }

    /// Drops the output of replicas that ended long ago.
    async fn prune_logs(&self) {
        let live: Vec<ReplicaId> = self.replicas.iter().map(|replica| replica.id.clone()).collect();
        let Host { logs, settings, .. } = &self.tools.host;
        if let Err(error) = logs.prune(&self.key, &live, settings.log_limit).await {
            warn!(function = %self.key, "{}: old output stays: {error}", self.key);
        }
    }

    /// Tells the proxy and whoever asks how things are.
    fn publish(&mut self, wanted: Option<&FunctionRecord>) {
        let endpoints = self.endpoints(|_| true);
        let nobody = endpoints.is_empty();
        self.upstream.publish(endpoints);
        let phase = wanted.map_or(FunctionPhase::Removing, |record| self.phase(record));
        let newest = wanted.and_then(|record| self.revisions.get(&record.newest.id));
        let hopeless = self.revisions.values().all(Known::refuses);
        let reason = match newest {
            None => Some("the function was deleted".to_owned()),
            // A request for an idle function is what wakes it: it has to wait.
            Some(_) if wanted.is_some_and(is_idle) => None,
            Some(known) => known.failure.as_ref().filter(|_| hopeless).map(|failure| failure.outside.clone()),
        };
        self.upstream.set_unavailable(reason.filter(|_| nobody));

        let revision = wanted.map(|record| record.newest.id.clone()).unwrap_or_default();
        let replica = |r: &Kept| ReplicaStatus {
            id: r.id.clone(),
            phase: r.phase,
            revision: r.revision.clone(),
            key: None,
            endpoint: r.endpoint.clone(),
            started_at: r.started_at,
        };
        let of_newest = |(of, how): &(String, String)| (*of == revision).then(|| how.clone());
        self.status.send_replace(Status {
            phase,
            message: newest.and_then(|known| known.failure.as_ref()).map(|failure| failure.inside.clone()),
            image: newest.and_then(|known| match &known.image {
                ImageState::Fetching(progress, _) => Some(progress.clone()),
                _ => None,
            }),
            replicas: self.replicas.iter().map(replica).collect(),
            last_decision: None,
            restarts: self.restarts,
            oom_kills: self.oom_kills,
            last_exit: self.last_exit.as_ref().and_then(of_newest),
            revision,
        });
    }

    /// What the function is doing. What went wrong is forgotten when all is well.
    fn phase(&mut self, record: &FunctionRecord) -> FunctionPhase {
        let ready = |r: &&Kept| r.phase == Phase::Ready && r.revision == record.newest.id;
        let ready = self.replicas.iter().filter(ready).count();
        let Some(known) = self.revisions.get_mut(&record.newest.id) else { return FunctionPhase::Starting };
        if is_idle(record) {
            return FunctionPhase::Idle;
        }
        let all = ready >= record.wanted(&record.newest) as usize;
        if all {
            known.failure = None;
        }
        match &known.image {
            _ if all => FunctionPhase::Ready,
            _ if known.failure.is_some() => FunctionPhase::Failed,
            ImageState::Fetching(..) => FunctionPhase::Pulling,
            _ if record.serving.is_some() => FunctionPhase::Updating,
            _ => FunctionPhase::Starting,
        }
    }
}

/// Are no replicas wanted of a function that is?
fn is_idle(record: &FunctionRecord) -> bool {
    record.wanted(&record.newest) == 0
}

/// Moves a replica on towards its end. Never back.
fn retreat(replica: &mut Kept, drain: Duration) {
    if matches!(replica.phase, Phase::Starting | Phase::Ready) {
        replica.phase = Phase::Draining;
        replica.orders.send_replace(Order::End(drain));
    }
}

/// A new id for a replica of `key`: its name, as much of it as fits, and eight random letters or digits.
fn new_replica_id(key: &FunctionKey) -> ReplicaId {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    const LONGEST_NAME: usize = 54;
    let random = uuid::Uuid::new_v4().into_bytes();
    let suffix: String = random[8..].iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect();
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
