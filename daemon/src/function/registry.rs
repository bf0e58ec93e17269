//! What functions and [`namespaces`] there should be: the store first, then memory, then the function's controller.
//!
//! Owns the store, the list of functions and that of namespaces. A change is durable before it is answered and before anybody acts on
//! it; changes are made one after the other. Never touches a replica.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use roost_proxy::function::{FunctionKey, Namespace};
use roost_proxy::{KeySource, Routes, Upstream, UpstreamLimits};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::function::access;
use crate::function::controller::{Controller, Tools};
use crate::function::domains;
use crate::function::event_mode;
use crate::function::namespace::{NamespaceRecord, Namespaces};
use crate::function::record::{FunctionRecord, PinnedImage, Revision};
use crate::function::replica::Inherited;
use crate::function::spec::{self, Deployment, FunctionSpec};
use crate::function::status::Status;
use crate::function::timeouts::Times;
use crate::queue::{self, Queue};
use crate::scaling::{Policy, labels};
use crate::secrets::{SecretError, SecretName};
use crate::store::{Store, StoreError, path_of};
use crate::triggers::topics::Sources;
use crate::usage::UsageRecord;

mod look;
mod namespaces;
mod secrets;
mod usage;

pub use self::namespaces::NamespaceError;

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// There is no such function.
    #[error("{0} not found")]
    Unknown(FunctionKey),
    /// There is one of that name.
    #[error("function {0} already exists: update it with PUT")]
    Exists(FunctionKey),
    /// It names something that this host does not have, or does not give.
    #[error("{0}")]
    Refused(String),
    /// A secret cannot be removed: functions name it.
    #[error("secret {name} is used by: {functions}")]
    SecretInUse {
        /// Which secret.
        name: SecretName,
        /// The names of the functions.
        functions: String,
    },
    /// There is no such secret, or its file failed.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A function and who looks after it.
struct Entry {
    wanted: watch::Sender<Option<FunctionRecord>>,
    status: watch::Receiver<Status>,
    upstream: Arc<Upstream>,
}

/// All functions.
pub struct Registry {
    store: Arc<Store>,
    functions: Mutex<BTreeMap<FunctionKey, Entry>>,
    namespaces: watch::Sender<Namespaces>,
    /// Told when nothing is left of a function.
    retired: Notify,
    /// Held by whoever changes something, across the store and memory. In it, the counts of requests that are written
    /// down.
    writer: tokio::sync::Mutex<HashMap<FunctionKey, u64>>,
    /// Told when a deployment is new, changed or gone.
    deployments: watch::Sender<()>,
    routes: Routes,
    limits: UpstreamLimits,
    tools: Tools,
    queue: Queue,
    trusts: Trusts,
    /// Cancelled when a controller broke: nobody would look after its function.
    broken: CancellationToken,
}

/// Whom this host can know callers by, and what it listens to, so that functions can ask for it.
#[derive(Debug, Clone)]
pub struct Trusts {
    /// It has users.
    pub users: bool,
    /// It has keys that verify tokens.
    pub tokens: bool,
    /// It has these brokers and directories.
    pub sources: Sources,
}

/// Has the proxy ask callers for what the function asks for now. What tokens have to say comes first: there is no moment in
/// which they are looked at without.
fn ask(upstream: &Upstream, record: &FunctionRecord) {
    upstream.set_required_claims(access::claims_of(record));
    upstream.set_access(access::of(record));
}

impl Trusts {
    /// Can callers be what the function asks for, and can it listen to what it wants to?
    fn admit(&self, spec: &FunctionSpec) -> Result<(), String> {
        self.sources.admit(&spec.deployment)?;
        if spec.access.login && !self.users {
            let why =
                "roost.auth: this host has no users that could log in: auth.enabled is false in its settings";
            return Err(why.to_owned());
        }
        if spec.access.token && !self.tokens {
            let asked = match &spec.policy.placement.key {
                Some(key @ KeySource::Jwt(_)) => format!("{}: {key}", labels::KEY),
                _ => format!("{}: jwt", access::AUTH),
            };
            return Err(format!(
                "{asked}: this host verifies no tokens: name keys in the section [jwt] of its settings"
            ));
        }
        Ok(())
    }
}

impl Registry {
    /// A registry on `store` that publishes to `routes`. It knows nothing before [`Registry::restore`].
    pub fn new(
        store: Arc<Store>,
        routes: Routes,
        limits: UpstreamLimits,
        tools: Tools,
        queue: Queue,
        trusts: Trusts,
        broken: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            functions: Mutex::default(),
            namespaces: watch::Sender::new(Namespaces::from([(
                Namespace::default(),
                NamespaceRecord::default_one(),
            )])),
            retired: Notify::new(),
            deployments: watch::Sender::default(),
            writer: tokio::sync::Mutex::default(),
            routes,
            limits,
            tools,
            queue,
            trusts,
            broken,
        })
    }

    /// Starts the controllers of all functions in the store, each with the replicas that are still its and what was
    /// counted of it.
    pub fn restore(
        self: &Arc<Self>,
        records: Vec<FunctionRecord>,
        usage: &HashMap<String, UsageRecord>,
        mut inherited: BTreeMap<FunctionKey, Vec<Inherited>>,
    ) {
        for record in records {
            match key_of(&record) {
                Ok(key) => {
                    let replicas = inherited.remove(&key).unwrap_or_default();
                    let domains = domains::of(&record.newest.deployment);
                    self.begin(&key, Some(record), replicas);
                    self.routes.set_domains(&key, &domains);
                    let counted = usage.get(&path_of(&key)).copied().unwrap_or_default();
                    if let Some(entry) = self.lock().get(&key) {
                        entry.upstream.set_requests(counted.requests);
                    }
                }
                Err(why) => {
                    error!(
                        "the function {:?} in the store is left out: {why}",
                        record.newest.deployment.service
                    );
                }
            }
        }
        // Replicas of functions that are no longer wanted: a controller that wants nothing clears them away.
        for (key, replicas) in inherited {
            self.begin(&key, None, replicas);
        }
    }

    /// A new function. Answers the id of its revision.
    ///
    /// # Errors
    /// When there is one of that name, or the store fails.
    pub async fn create(self: &Arc<Self>, spec: FunctionSpec) -> Result<String, RegistryError> {
        let registry = Arc::clone(self);
        whole(async move {
            registry.grant(&spec).await?;
            let _writer = registry.writer.lock().await;
            if registry.record(&spec.key).is_some() {
                return Err(RegistryError::Exists(spec.key));
            }
            registry.admit(&spec)?;
            let record = FunctionRecord::new(Revision::of(spec.deployment, spec.ignored));
            registry.put(&spec.key, &record).await?;
            info!(function = %spec.key, "{}: deployed, image {}", spec.key, record.newest.deployment.image);
            let revision = record.newest.id.clone();
            registry.set(&spec.key, record);
            // It may have the upstream of one of its name whose last replica is still ending.
            if let Some(entry) = registry.lock().get(&spec.key) {
                entry.upstream.set_requests(0);
            }
            Ok(revision)
        })
        .await
    }

    /// A new revision of a function. Answers its id.
    ///
    /// # Errors
    /// When there is no such function, or the store fails.
    pub async fn update(self: &Arc<Self>, spec: FunctionSpec) -> Result<String, RegistryError> {
        let registry = Arc::clone(self);
        whole(async move {
            registry.grant(&spec).await?;
            let _writer = registry.writer.lock().await;
            registry.require_namespace(&spec.key.namespace).map_err(RegistryError::Refused)?;
            let old = registry.record(&spec.key).ok_or_else(|| RegistryError::Unknown(spec.key.clone()))?;
            registry.admit(&spec)?;
            let record = old.updated(Revision::of(spec.deployment, spec.ignored));
            registry.put(&spec.key, &record).await?;
            info!(function = %spec.key, "{}: updated, image {}", spec.key, record.newest.deployment.image);
            let revision = record.newest.id.clone();
            registry.set(&spec.key, record);
            Ok(revision)
        })
        .await
    }

    /// As many replicas of a function as `decide` makes of what there are to be now and its deployment, from now on.
    ///
    /// # Errors
    /// When there is no such function, its network has no room for so many, or the store fails.
    pub async fn scale(
        self: &Arc<Self>,
        key: FunctionKey,
        decide: impl FnOnce(u32, &Deployment) -> u32 + Send + 'static,
    ) -> Result<(), RegistryError> {
        let registry = Arc::clone(self);
        whole(async move {
            let _writer = registry.writer.lock().await;
            let old = registry.record(&key).ok_or_else(|| RegistryError::Unknown(key.clone()))?;
            let replicas = decide(registry.desired(&key, &old), &old.newest.deployment);
            registry.require_room("replicas", &key.namespace, replicas)?;
            let policy = Policy::parse(&old.newest.deployment).unwrap_or_default();
            if policy.placement.key.is_some() {
                let why = format!("{key} has a replica for each key that is asked for (roost.scale.key): it cannot be scaled");
                return Err(RegistryError::Refused(why));
            }
            if replicas > 1 && policy.is_singleton() {
                return Err(RegistryError::Refused("replicas: expected 0 or 1: the function is a singleton".to_owned()));
            }
            let record = old.scaled(replicas);
            registry.put(&key, &record).await?;
            info!(function = %key, "{key}: scaled to {replicas}");
            registry.set(&key, record);
            Ok(())
        })
        .await
    }

    /// Does this host have what the function names? Asked under the writer's lock: what is there stays until the
    /// function is written down.
    fn admit(&self, spec: &FunctionSpec) -> Result<(), RegistryError> {
        self.require_namespace(&spec.key.namespace).map_err(RegistryError::Refused)?;
        self.trusts.admit(spec).map_err(RegistryError::Refused)?;
        self.require_free(&spec.key, &spec.domains)?;
        let annotated = spec.deployment.annotations.contains_key(labels::MIN);
        let field = format!("{}.{}", if annotated { "annotations" } else { "labels" }, labels::MIN);
        self.require_room(&field, &spec.key.namespace, spec.policy.min)?;
        let secrets = &self.tools.host.secrets;
        let missing = |name: &&String| !secrets.contains(&spec.key.namespace, name);
        match spec.deployment.secrets.iter().find(missing) {
            Some(secret) => Err(RegistryError::Refused(format!("unable to find secret: {secret}"))),
            None => Ok(()),
        }
    }

    /// Does no other function have one of these hosts?
    fn require_free(&self, key: &FunctionKey, domains: &[String]) -> Result<(), RegistryError> {
        if domains.is_empty() {
            return Ok(());
        }
        let functions = self.lock();
        let others = functions.iter().filter(|(other, _)| *other != key).map(|(other, entry)| {
            let wanted = entry.wanted.borrow();
            (other, wanted.as_ref().map(|record| domains::of(&record.newest.deployment)).unwrap_or_default())
        });
        match domains::taken(domains, others) {
            None => Ok(()),
            Some((domain, owner)) => Err(RegistryError::Refused(format!(
                "annotations.roost.domain: {domain} is {owner}'s, so {key} cannot have it"
            ))),
        }
    }

    /// Has the namespace's network addresses for so many replicas of one function?
    fn require_room(&self, field: &str, namespace: &Namespace, replicas: u32) -> Result<(), RegistryError> {
        match self.tools.host.network.room(namespace) {
            Some(room) if replicas > room => Err(RegistryError::Refused(format!(
                "{field}: expected at most {room}: the network of namespace {namespace} has no more addresses"
            ))),
            _ => Ok(()),
        }
    }

    /// Would this host give what the function asks of it? Asked again for each replica, so it needs no lock; and it may take
    /// long, so nobody may hold one.
    async fn grant(&self, spec: &FunctionSpec) -> Result<(), RegistryError> {
        let granted = self.tools.host.allowed.grant(&spec.wishes).await;
        granted.map(drop).map_err(|why| RegistryError::Refused(format!("annotations.{why}")))
    }

    /// No such function any more. Its replicas drain behind the answer.
    ///
    /// # Errors
    /// When there is no such function, or the store fails.
    pub async fn delete(self: &Arc<Self>, key: FunctionKey) -> Result<(), RegistryError> {
        let registry = Arc::clone(self);
        whole(async move {
            let mut written = registry.writer.lock().await;
            if registry.record(&key).is_none() {
                return Err(RegistryError::Unknown(key));
            }
            let (store, of) = (Arc::clone(&registry.store), key.clone());
            whole_blocking(move || store.remove(&of)).await?;
            written.remove(&key);
            info!(function = %key, "{key}: deleted");
            registry.routes.remove(&key);
            registry.queue.forget(&key).await;
            if let Some(entry) = registry.lock().get(&key) {
                entry.wanted.send_replace(None);
            }
            registry.deployments.send_replace(());
            Ok(())
        })
        .await
    }

    /// Notes which image a revision stands for. For its controller.
    pub async fn pin(&self, key: &FunctionKey, revision: &str, image: &PinnedImage) {
        self.amend(key, |record| record.pinned(revision, image)).await;
    }

    /// Settles whether a revision whose image is known takes over the replicas of the one that serves; `true` if it does.
    /// For its controller.
    pub async fn settle_replicas(&self, key: &FunctionKey, revision: &str) -> bool {
        let mut taken_over = false;
        self.amend(key, |record| {
            if record.newest.of_replicas() != revision || !record.newest.only_settings {
                return record.clone();
            }
            let next = record.taken_over();
            taken_over = next.is_some();
            next.unwrap_or_else(|| record.parted())
        })
        .await;
        taken_over
    }

    /// The limits of a function with these settings.
    #[must_use]
    pub fn limits_of(&self, policy: &Policy, times: &Times) -> UpstreamLimits {
        let cap = policy.cap.per_replica.and_then(|cap| NonZeroUsize::try_from(cap).ok());
        times.apply(UpstreamLimits { cap, cap_wait: policy.cap.wait, ..self.limits })
    }

    /// How many replicas a function is to have now.
    fn desired(&self, key: &FunctionKey, record: &FunctionRecord) -> u32 {
        let functions = self.lock();
        functions.get(key).map_or(0, |entry| entry.status.borrow().desired(record))
    }

    /// Notes that a revision is up with all its replicas. For its controller.
    pub async fn complete(&self, key: &FunctionKey, revision: &str) {
        self.amend(
            key,
            |record| if record.newest.id == revision { record.completed() } else { record.clone() },
        )
        .await;
    }

    /// Gives a function that has no replicas those that its labels ask for, unless it was scaled by hand more than
    /// `scalings` times: that came later. For its controller, which starts the replica meanwhile: no caller waits for the
    /// disk.
    pub async fn wake(&self, key: &FunctionKey, scalings: u64) {
        info!(function = %key, "{key}: a request wakes it");
        self.amend(key, |record| if record.scalings == scalings { record.woken() } else { record.clone() })
            .await;
    }

    /// Forgets a function that is not wanted and of which nothing is left; `false` if it is wanted again. For its
    /// controller, which ends when it gets `true`.
    pub fn retire(&self, key: &FunctionKey) -> bool {
        let mut functions = self.lock();
        let unwanted = functions.get(key).is_none_or(|entry| entry.wanted.borrow().is_none());
        if unwanted {
            functions.remove(key);
            self.tools.events.forget(key);
            self.retired.notify_waiters();
        }
        unwanted
    }

    /// Changes what is noted of a function, if it is still wanted. A note that is lost costs work after the next
    /// start, so the store's failure is logged and the function goes on.
    async fn amend(&self, key: &FunctionKey, change: impl FnOnce(&FunctionRecord) -> FunctionRecord) {
        let _writer = self.writer.lock().await;
        let Some(old) = self.record(key) else { return };
        let record = change(&old);
        if record == old {
            return;
        }
        if let Err(error) = self.put(key, &record).await {
            error!(function = %key, "{key}: its progress cannot be noted: {error}");
        }
        if let Some(entry) = self.lock().get(key) {
            ask(&entry.upstream, &record);
            entry.wanted.send_replace(Some(record));
        }
    }

    /// Hands a record to the function's controller; starts one if there is none.
    fn set(self: &Arc<Self>, key: &FunctionKey, record: FunctionRecord) {
        self.set_calls(key, &record);
        let domains = domains::of(&record.newest.deployment);
        let upstream = self.lock().get(key).map(|entry| {
            ask(&entry.upstream, &record);
            entry.wanted.send_replace(Some(record.clone()));
            Arc::clone(&entry.upstream)
        });
        match upstream {
            Some(upstream) => self.routes.insert(upstream),
            None => self.begin(key, Some(record), Vec::new()),
        }
        self.routes.set_domains(key, &domains);
        self.deployments.send_replace(());
    }

    /// Holds its WebSockets from its first request on, if it asks for that: its controller sees to it from then on, and may
    /// not have begun when clients of an earlier daemon come back.
    fn hold(&self, record: &FunctionRecord, upstream: &Upstream) {
        let deployment = &record.newest.deployment;
        let limits = Times::parse(deployment).unwrap_or_default().apply(self.limits);
        let secrets = &self.tools.host.secrets;
        let mode = event_mode::signed(upstream.key(), &record.newest, &limits.websocket, secrets);
        self.tools.hub.ask_for_history(upstream.key(), mode.as_ref().and_then(|mode| mode.history));
        upstream.set_event_mode(mode);
    }

    /// Has its calls in the queue made as it says. It was valid when it was sent.
    fn set_calls(&self, key: &FunctionKey, record: &FunctionRecord) {
        self.queue.set_policy(key, queue::Policy::parse(&record.newest.deployment).unwrap_or_default());
    }

    fn begin(self: &Arc<Self>, key: &FunctionKey, record: Option<FunctionRecord>, inherited: Vec<Inherited>) {
        let upstream = Upstream::new(key.clone(), self.limits);
        if let Some(record) = &record {
            ask(&upstream, record);
            self.set_calls(key, record);
            self.hold(record, &upstream);
            self.routes.insert(Arc::clone(&upstream));
        }
        let (wanted, watched) = watch::channel(record);
        let (tell, status) = watch::channel(Status::default());
        let controller = Controller::new(
            key.clone(),
            self.tools.clone(),
            Arc::clone(self),
            Arc::clone(&upstream),
            watched,
            tell,
        );
        self.lock().insert(key.clone(), Entry { wanted, status, upstream });
        let (key, broken) = (key.clone(), self.broken.clone());
        tokio::spawn(async move {
            if let Err(error) = tokio::spawn(controller.run(inherited)).await
                && error.is_panic()
            {
                error!(function = %key, "{key}: its controller broke: the daemon ends, to begin again with what runs");
                broken.cancel();
            }
        });
    }

    fn record(&self, key: &FunctionKey) -> Option<FunctionRecord> {
        self.lock().get(key).and_then(|entry| entry.wanted.borrow().clone())
    }

    async fn put(&self, key: &FunctionKey, record: &FunctionRecord) -> Result<(), StoreError> {
        let (store, key, record) = (Arc::clone(&self.store), key.clone(), record.clone());
        whole_blocking(move || store.put(&key, &record)).await
    }

    /// The list. Held for a look-up, never across an await.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<FunctionKey, Entry>> {
        self.functions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which function a record is of.
fn key_of(record: &FunctionRecord) -> Result<FunctionKey, String> {
    let deployment = &record.newest.deployment;
    let name = deployment.service.parse().map_err(|e| format!("{e}"))?;
    Ok(FunctionKey::new(spec::parse_namespace(&deployment.namespace)?, name))
}

/// Does something to its end, even when whoever asked for it goes away in the middle: between the store and memory
/// nothing may be left undone.
async fn whole<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    joined(tokio::spawn(work).await)
}

/// Runs a call of the store off the async workers.
async fn whole_blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    joined(tokio::task::spawn_blocking(call).await)
}

fn joined<T>(result: Result<T, tokio::task::JoinError>) -> T {
    // A task that nobody aborts can only fail by a panic, which goes on here.
    result.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
