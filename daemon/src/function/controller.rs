//! The life of a function: the only task that changes its replicas and publishes its endpoints.
//!
//! The loop is: look at what is wanted and what is going on, decide how many replicas there are to be ([`Shard`]) and what
//! that asks of each ([`rollout::plan`]), act, tell, wait for something to happen. What can happen is a new record from the
//! registry, an image that arrived or did not, an event of a replica, a request that waits, or the time of the next look.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{Timestamp, Zoned};
use roost_proxy::function::{FunctionKey, ReplicaId};
use roost_proxy::websocket::{Category, Ending, EventMode, Filter, Hub};
use roost_proxy::{By, CloseFrame, Endpoint, ReplicaKey, Upstream, UpstreamLimits};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::function::bounds::Said;
use crate::function::compression;
use crate::function::event_mode;
use crate::function::kept::{Kept, new_replica_id};
use crate::function::known::{ImageState, Known};
use crate::function::record::{FunctionRecord, PinnedImage, Revision};
use crate::function::registry::Registry;
use crate::function::replica::{Cause, Checks, Event, Host, Inherited, Order, Origin, Replica};
use crate::function::rollout::{self, Phase, Plan, Step, Target, View, Wish};
use crate::function::shard::Shard;
use crate::function::status::Status;
use crate::function::timeouts::Times;
use crate::image::{Images, PullPolicy, ResolvedImage};
use crate::journal::Journal;
use crate::memory;
use crate::queue::Queue;
use crate::runtime::Standing;
use crate::scaling::Policy;
use crate::scaling::events::{Events, Scaled};
use crate::usage::Sampler;

/// What has happened and the controller has not looked at; those who tell it wait when it is full.
const HAPPENINGS: usize = 64;

mod keys;
mod load;
mod tell;

/// The shortest time between two looks because somebody waits: many may come at once, and one look is for all.
const DEMAND_PAUSE: Duration = Duration::from_millis(5);

/// What a controller works with, beside what its replicas are made with.
#[derive(Clone)]
pub struct Tools {
    /// What replicas are made with.
    pub host: Host,
    /// Where images come from.
    pub images: Images,
    /// When a registry is asked.
    pub policy: PullPolicy,
    /// Deferred calls.
    pub queue: Queue,
    /// Who watches how functions are scaled.
    pub events: Events,
    /// The connections that are held here.
    pub hub: Arc<Hub>,
    /// Which of them functions are to hear the end of.
    pub journal: Arc<Journal>,
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
    /// What replicas were last made for, by the revision that they say they are of.
    revisions: HashMap<String, Known>,
    /// In the order in which they were started.
    replicas: Vec<Kept>,
    /// What the settings of the newest revision say, and which revision that is.
    policy: (String, Policy),
    /// How often it was scaled by hand when that was last heeded.
    scalings: u64,
    /// By key; under none, the one of a function without keys.
    shards: BTreeMap<Option<ReplicaKey>, Shard>,
    /// Reads what the replicas use.
    sampler: Sampler,
    last_scaled: Option<Scaled>,
    restarts: u64,
    oom_kills: u64,
    /// Of which revision the last replica was that ended by itself, and how.
    last_exit: Option<(String, String)>,
    /// When a request that waits was last looked at.
    demanded: Instant,
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
        let sampler = Sampler::new(tools.host.runtime.clone());
        Self {
            key,
            tools,
            registry,
            upstream,
            wanted,
            status,
            revisions: HashMap::new(),
            replicas: Vec::new(),
            policy: Default::default(),
            scalings: 0,
            shards: BTreeMap::new(),
            sampler,
            last_scaled: None,
            restarts: 0,
            oom_kills: 0,
            last_exit: None,
            demanded: Instant::now(),
            happenings: mpsc::channel(HAPPENINGS),
        }
    }

    /// Runs until the function is deleted and nothing is left of it.
    pub async fn run(mut self, inherited: Vec<Inherited>) {
        self.adopt(inherited);
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            match &wanted {
                Some(record) => {
                    self.learn(record);
                    self.scale(record).await;
                    self.pursue(record).await;
                }
                None => self.wind_up(),
            }
            self.publish(wanted.as_ref());
            if wanted.is_none() && self.replicas.is_empty() && self.retire().await {
                return;
            }
            match self.next().await {
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
        for Inherited { id, revision, key, state } in inherited {
            let counts =
                wanted.as_ref().and_then(|record| record.revisions().find(|r| r.of_replicas() == revision));
            let (origin, phase) = match (state, counts) {
                (Some(state), Some(revision)) => {
                    let checks = Box::new(Checks::of(&revision.deployment, self.tools.host.settings.limits));
                    let phase = match state.standing {
                        Standing::Created => Phase::Created,
                        Standing::Running => Phase::Starting,
                        Standing::Paused => Phase::Paused,
                    };
                    (Origin::Adopted(state, checks), phase)
                }
                _ => (Origin::Leftover, Phase::Stopping),
            };
            self.spawn_replica(id, revision, key, origin, phase);
        }
        if let Some(record) = &wanted {
            self.learn(record);
            self.resume(record);
        }
    }

    /// Reads what a new record says of scaling, and heeds it.
    fn learn(&mut self, record: &FunctionRecord) {
        let now = Instant::now();
        let is_new = self.policy.0 != record.newest.id;
        if is_new {
            // It was valid when it was sent; what was valid for an earlier daemon and is not for this one is left aside.
            let policy = Policy::parse(&record.newest.deployment).unwrap_or_else(|mistakes| {
                warn!(function = %self.key, "{}: scaled as if nothing was set: {}", self.key, mistakes.join("; "));
                Policy::default()
            });
            self.upstream.set_placement(policy.placement.clone());
            let times = Times::parse(&record.newest.deployment).unwrap_or_else(|mistakes| {
                warn!(function = %self.key, "{}: as much time as if nothing was set: {}", self.key, mistakes.join("; "));
                Times::default()
            });
            let mut limits = self.registry.limits_of(&policy, &times);
            limits.bounds = Said::parse(&record.newest.deployment).unwrap_or_default().over(limits.bounds);
            self.upstream.set_limits(limits);
            self.upstream.set_compression(compression::parse(&record.newest.deployment).unwrap_or(false));
            self.hold(&record.newest, &limits);
            self.policy = (record.newest.id.clone(), policy);
        }
        let policy = &self.policy.1;
        if record.complete {
            self.shards.values_mut().for_each(Shard::updated);
        }
        if policy.placement.key.is_some() {
            self.shards.remove(&None);
            return;
        }
        self.shards.retain(|key, _| key.is_none());
        let told = record.scalings != self.scalings;
        self.scalings = record.scalings;
        let shard = self.shards.entry(None).or_insert_with(|| Shard::new(record.wanted(&record.newest), now));
        if told {
            shard.tell(record.wanted(&record.newest), now);
        } else if is_new {
            // A revision has to come up once to be known to be good; settings alone wake nobody.
            let asleep = shard.desired() == 0 && (record.complete || record.newest.only_settings);
            let desired = match &policy.load {
                _ if asleep => 0,
                Some(_) => shard.desired().clamp(policy.min.max(1), policy.max),
                None => record.wanted(&record.newest).max(1),
            };
            if desired != shard.desired() {
                shard.update(desired, now);
            }
        }
    }

    /// Takes the next step towards what is wanted.
    async fn pursue(&mut self, record: &FunctionRecord) {
        let now = Instant::now();
        self.revisions.retain(|id, _| record.revisions().any(|revision| revision.of_replicas() == id));
        for revision in record.revisions() {
            let id = revision.of_replicas().to_owned();
            let known = self.revisions.entry(id).or_insert_with(|| Known::new(revision));
            known.seek_image(revision, &self.tools, &self.happenings.0, now);
        }
        for (key, shard) in &mut self.shards {
            if shard.has_fallen_idle() {
                self.revisions.values_mut().for_each(|known| known.rest(key));
            }
        }
        self.revisions.values_mut().for_each(|known| known.keep(|key| self.shards.contains_key(key)));
        let Some(newest) = self.target(&record.newest, &None, now) else { return };
        let mut complete = self.is_good_for_keys(&newest);
        let plan = |(key, shard): (&Option<ReplicaKey>, &Shard)| {
            Some((key.clone(), self.plan(record, key, shard, now)?))
        };
        let plans: Vec<_> = self.shards.iter().filter_map(plan).collect();
        let mut leaving = Vec::new();
        for (key, plan) in plans {
            complete |= plan.complete && key.is_none();
            for start in &plan.start {
                self.start(&start.revision, key.clone(), start.stand);
            }
            leaving.extend(plan.steps);
        }
        // Of a key that there is not any more, or of a time when there were none.
        let strays = self.replicas.iter().filter(|replica| !self.shards.contains_key(&replica.key));
        leaving.extend(strays.map(|replica| (replica.id.clone(), Step::End)));
        // Those that stay take over before those that go are told, and before anything is written.
        let stays =
            |replica: &Kept| !leaving.iter().any(|(id, step)| *id == replica.id && *step != Step::Run);
        self.upstream.publish(self.endpoints(stays));
        let drain = self.drain();
        for (id, step) in leaving {
            if let Some(replica) = self.replicas.iter_mut().find(|replica| replica.id == id) {
                replica.tell(step, drain);
            }
        }
        if complete && !record.complete {
            self.registry.complete(&self.key, &record.newest.id).await;
            info!(function = %self.key, "{}: revision {} is up", self.key, record.newest.id);
            memory::settle();
        }
    }

    /// A revision as the plan for a key is to see it; `None` if nothing is to be started of it, since it may turn out to
    /// need nothing of its own.
    fn target(&self, revision: &Revision, key: &Option<ReplicaKey>, now: Instant) -> Option<Target> {
        let known = self.revisions.get(revision.of_replicas())?;
        let undecided = revision.only_settings && matches!(known.image, ImageState::Here(_));
        (!undecided).then(|| known.target(revision.of_replicas(), key, now))
    }

    fn plan(
        &self,
        record: &FunctionRecord,
        key: &Option<ReplicaKey>,
        shard: &Shard,
        now: Instant,
    ) -> Option<Plan> {
        let policy = &self.policy.1;
        let newest = self.target(&record.newest, key, now)?;
        let serving = record.serving.as_ref().and_then(|serving| self.target(serving, key, now));
        let wish = Wish {
            newest: &newest,
            serving: serving.as_ref(),
            replicas: shard.desired() as usize,
            recreate: policy.recreate,
            asleep: shard.is_unasked(),
            rest: shard.rung(policy, now).0,
        };
        Some(rollout::plan(&wish, &self.views(key.as_ref())))
    }

    /// Nothing is wanted any more.
    fn wind_up(&mut self) {
        // What the settings say of it holds to the end, though they are gone then.
        let drain = self.drain();
        self.revisions.clear();
        self.shards.clear();
        self.policy = Default::default();
        (self.restarts, self.oom_kills, self.last_exit, self.last_scaled) = (0, 0, None, None);
        self.upstream.publish(Vec::new());
        self.let_go(&CloseFrame::new(1001, "function deleted"));
        self.tools.hub.end_watching(&self.key);
        self.tools.hub.ask_for_history(&self.key, None);
        self.replicas.iter_mut().for_each(|replica| replica.tell(Step::End, drain));
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

    /// Holds its WebSockets here, if it asks for that. Those that were held when it does so no longer are closed: whoever
    /// comes again finds the function itself.
    fn hold(&self, revision: &Revision, limits: &UpstreamLimits) {
        let mode = event_mode::signed(&self.key, revision, &limits.websocket, &self.tools.host.secrets);
        let before = self.upstream.event_mode();
        let lets_go = mode.is_none() && before.is_some();
        let hears = |mode: &EventMode| mode.events.disconnected;
        let begins_to_hear = mode.as_ref().is_some_and(hears) && !before.is_some_and(|mode| hears(&mode));
        self.tools.hub.ask_for_history(&self.key, mode.as_ref().and_then(|mode| mode.history));
        if mode.as_ref().is_none_or(|mode| mode.group_events.is_empty()) {
            self.tools.hub.end_watching(&self.key);
        }
        self.upstream.set_event_mode(mode);
        if begins_to_hear {
            self.tools.journal.note(&self.tools.hub, &self.key);
        }
        if lets_go {
            self.let_go(&CloseFrame::new(1012, "service restart"));
        }
    }

    fn let_go(&self, frame: &CloseFrame) {
        let of_this = Filter { function: Some(self.key.clone()), ..Filter::default() };
        let ending = Ending::new(frame.clone(), By::Host, Category::Deploy);
        self.tools.hub.end(&self.key.namespace, &of_this, &ending);
    }

    /// How long a replica that goes may go on with what it has.
    fn drain(&self) -> Duration {
        self.policy.1.drain.unwrap_or(self.tools.host.settings.drain)
    }

    /// Are there to be no replicas?
    fn is_idle(&self) -> bool {
        self.shards.values().all(|shard| shard.desired() == 0)
    }

    fn views(&self, key: Option<&ReplicaKey>) -> Vec<View> {
        self.replicas.iter().filter(|replica| replica.key.as_ref() == key).map(Kept::view).collect()
    }

    fn ready(&self, wanted: impl Fn(&Kept) -> bool) -> impl Iterator<Item = &Kept> {
        self.replicas.iter().filter(move |replica| replica.phase == Phase::Ready && wanted(replica))
    }

    fn endpoints(&self, wanted: impl Fn(&Kept) -> bool) -> Vec<Arc<Endpoint>> {
        self.ready(wanted).filter_map(|replica| replica.endpoint.clone()).collect()
    }

    fn start(&mut self, revision: &str, key: Option<ReplicaKey>, stand: bool) {
        let Some(known) = self.revisions.get(revision) else { return };
        if let (Ok(spec), ImageState::Here(image)) = (&known.spec, &known.image) {
            let origin = Origin::New(Box::new((spec.clone(), (**image).clone())));
            let phase = if stand { Phase::Created } else { Phase::Starting };
            self.spawn_replica(new_replica_id(&self.key), revision.to_owned(), key, origin, phase);
        }
    }

    fn spawn_replica(
        &mut self,
        id: ReplicaId,
        revision: String,
        key: Option<ReplicaKey>,
        origin: Origin,
        phase: Phase,
    ) {
        let what = match (&origin, phase) {
            (Origin::New(_), Phase::Created) => "making",
            (Origin::New(_), _) => "starting",
            (Origin::Adopted(..), _) => "adopting",
            (Origin::Leftover, _) => "clearing away",
        };
        info!(function = %self.key, replica = %id, "{}: {what} replica {id}", self.key);
        let order = match phase {
            Phase::Created => Order::Stand,
            Phase::Paused => Order::Pause(self.drain()),
            _ => Order::Run,
        };
        let orders = watch::Sender::new(order);
        let replica = Replica {
            id: id.clone(),
            key: self.key.clone(),
            revision: revision.clone(),
            host: self.tools.host.clone(),
            replica_key: key.clone(),
            orders: orders.subscribe(),
            tell: self.happenings.0.clone(),
        };
        tokio::spawn(replica.run(origin));
        self.replicas.push(Kept {
            id,
            revision,
            key,
            phase,
            rests: false,
            endpoint: None,
            orders,
            started_at: Timestamp::now(),
            ready_since: None,
        });
    }

    /// Waits for the next thing to happen; `None` when it is time to look again, or the record changed.
    async fn next(&mut self) -> Option<Happening> {
        let (now, clock) = (Instant::now(), Zoned::now());
        let tries = self.revisions.values().filter_map(|known| known.due(now));
        let looks = self.shards.values().filter_map(|shard| shard.due(&self.policy.1, now, &clock));
        let due = tries.chain(looks).min();
        let sleep = async {
            match due {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let (upstream, from) = (&self.upstream, self.demanded + DEMAND_PAUSE);
        let demand = async {
            tokio::time::sleep_until(from.into()).await;
            upstream.demand().await;
        };
        tokio::select! {
            happening = self.happenings.1.recv() => happening,
            _ = self.wanted.changed() => None,
            () = demand => {
                self.demanded = Instant::now();
                None
            }
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
                if self.registry.settle_replicas(&self.key, revision).await {
                    info!(function = %self.key, "{}: revision {revision} goes on with the replicas that serve", self.key);
                }
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
            Event::Ready(endpoint) => replica.is_ready(endpoint, Instant::now()),
            Event::Busy => replica.is_busy(),
            Event::Created | Event::Paused => replica.is_at_rest(),
            Event::Ended(cause) => {
                let unasked = replica.ends();
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
        let Kept { id, key, revision, ready_since, .. } = &self.replicas[index];
        let (Cause::NotStarted(why) | Cause::Ended(why) | Cause::OutOfMemory(why)) = cause;
        warn!(function = %self.key, replica = %id, "{}: replica {id}: {why}", self.key);
        self.restarts += 1;
        self.oom_kills += u64::from(matches!(cause, Cause::OutOfMemory(_)));
        if let Cause::Ended(how) | Cause::OutOfMemory(how) = cause {
            self.last_exit = Some((revision.clone(), how.clone()));
        }
        if let Some(known) = self.revisions.get_mut(revision) {
            known.replica_failed(key, cause, *ready_since, Instant::now());
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
}
