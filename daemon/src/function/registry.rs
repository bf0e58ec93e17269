//! What functions there should be: the store first, then memory, then the function's controller.
//!
//! Owns the store and the list of functions. A change is durable before it is answered and before anybody acts on
//! it; changes are made one after the other. Never touches a replica.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use roost_proxy::function::{FunctionKey, Namespace};
use roost_proxy::{Routes, Upstream, UpstreamLimits};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::function::controller::{Controller, Inherited, Tools};
use crate::function::record::{FunctionRecord, PinnedImage, Revision};
use crate::function::spec::{self, FunctionSpec};
use crate::function::status::{FunctionView, Status};
use crate::store::{Store, StoreError};

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// There is no such function.
    #[error("{0} not found")]
    Unknown(FunctionKey),
    /// There is one of that name.
    #[error("function {0} already exists: update it with PUT")]
    Exists(FunctionKey),
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
    /// Held by whoever changes something, across the store and memory.
    writer: tokio::sync::Mutex<()>,
    routes: Routes,
    limits: UpstreamLimits,
    tools: Tools,
    /// Cancelled when a controller broke: nobody would look after its function.
    broken: CancellationToken,
}

impl Registry {
    /// A registry on `store` that publishes to `routes`. It knows nothing before [`Registry::restore`].
    pub fn new(
        store: Store,
        routes: Routes,
        limits: UpstreamLimits,
        tools: Tools,
        broken: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            store: Arc::new(store),
            functions: Mutex::default(),
            writer: tokio::sync::Mutex::default(),
            routes,
            limits,
            tools,
            broken,
        })
    }

    /// Starts the controllers of all functions in the store, each with the replicas that are still its.
    pub fn restore(
        self: &Arc<Self>,
        records: Vec<FunctionRecord>,
        mut inherited: BTreeMap<FunctionKey, Vec<Inherited>>,
    ) {
        for record in records {
            match key_of(&record) {
                Ok(key) => {
                    let replicas = inherited.remove(&key).unwrap_or_default();
                    self.begin(&key, Some(record), replicas);
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

    /// A new function.
    ///
    /// # Errors
    /// When there is one of that name, or the store fails.
    pub async fn create(self: &Arc<Self>, spec: FunctionSpec) -> Result<(), RegistryError> {
        let registry = Arc::clone(self);
        whole(async move {
            let _writer = registry.writer.lock().await;
            if registry.record(&spec.key).is_some() {
                return Err(RegistryError::Exists(spec.key));
            }
            let record = FunctionRecord::new(Revision::new(spec.deployment));
            registry.put(&spec.key, &record).await?;
            info!(function = %spec.key, "{}: deployed, image {}", spec.key, record.newest.deployment.image);
            registry.set(&spec.key, record);
            Ok(())
        })
        .await
    }

    /// A new revision of a function.
    ///
    /// # Errors
    /// When there is no such function, or the store fails.
    pub async fn update(self: &Arc<Self>, spec: FunctionSpec) -> Result<(), RegistryError> {
        let registry = Arc::clone(self);
        whole(async move {
            let _writer = registry.writer.lock().await;
            let old = registry.record(&spec.key).ok_or_else(|| RegistryError::Unknown(spec.key.clone()))?;
            let record = old.updated(Revision::new(spec.deployment));
            registry.put(&spec.key, &record).await?;
            info!(function = %spec.key, "{}: updated, image {}", spec.key, record.newest.deployment.image);
            registry.set(&spec.key, record);
            Ok(())
        })
        .await
    }

    /// No such function any more. Its replicas drain behind the answer.
    ///
    /// # Errors
    /// When there is no such function, or the store fails.
    pub async fn delete(self: &Arc<Self>, key: FunctionKey) -> Result<(), RegistryError> {
        let registry = Arc::clone(self);
        whole(async move {
            let _writer = registry.writer.lock().await;
            if registry.record(&key).is_none() {
                return Err(RegistryError::Unknown(key));
            }
            let (store, of) = (Arc::clone(&registry.store), key.clone());
            whole_blocking(move || store.remove(&of)).await?;
            info!(function = %key, "{key}: deleted");
            registry.routes.remove(&key);
            if let Some(entry) = registry.lock().get(&key) {
                entry.wanted.send_replace(None);
            }
            Ok(())
        })
        .await
    }

    /// The function as the API shows it.
    #[must_use]
    pub fn view(&self, key: &FunctionKey) -> Option<FunctionView> {
        self.lock().get(key).and_then(|entry| entry.view(key))
    }

    /// All functions of a namespace as the API shows them, by name.
    #[must_use]
    pub fn views(&self, namespace: &Namespace) -> Vec<FunctionView> {
        let functions = self.lock();
        let of_namespace = functions.iter().filter(|(key, _)| key.namespace == *namespace);
        of_namespace.filter_map(|(key, entry)| entry.view(key)).collect()
    }

    /// All functions that somebody looks after, also those that are being removed.
    #[must_use]
    pub fn keys(&self) -> HashSet<FunctionKey> {
        self.lock().keys().cloned().collect()
    }

    /// Is there such a function?
    #[must_use]
    pub fn contains(&self, key: &FunctionKey) -> bool {
        self.record(key).is_some()
    }

    /// Resolves when the function is deleted; at once if there is none.
    pub async fn deleted(&self, key: &FunctionKey) {
        let wanted = self.lock().get(key).map(|entry| entry.wanted.subscribe());
        if let Some(mut wanted) = wanted {
            // An error means that even its controller is gone.
            wanted.wait_for(Option::is_none).await.ok();
        }
    }

    /// The digests of all images that a function of `namespace` may start from.
    #[must_use]
    pub fn images_in_use(&self, namespace: &Namespace) -> HashSet<String> {
        let mut digests = HashSet::new();
        for (_, entry) in self.lock().iter().filter(|(key, _)| key.namespace == *namespace) {
            if let Some(record) = &*entry.wanted.borrow() {
                record.images_in_use(&mut digests);
            }
        }
        digests
    }

    /// Notes which image a revision stands for. For its controller.
    pub async fn pin(&self, key: &FunctionKey, revision: &str, image: &PinnedImage) {
        self.amend(key, |record| record.pinned(revision, image)).await;
    }

    /// Notes that a revision is up with all its replicas. For its controller.
    pub async fn complete(&self, key: &FunctionKey, revision: &str) {
        self.amend(
            key,
            |record| if record.newest.id == revision { record.completed() } else { record.clone() },
        )
        .await;
    }

    /// Forgets a function that is not wanted and of which nothing is left; `false` if it is wanted again. For its
    /// controller, which ends when it gets `true`.
    pub fn retire(&self, key: &FunctionKey) -> bool {
        let mut functions = self.lock();
        let unwanted = functions.get(key).is_none_or(|entry| entry.wanted.borrow().is_none());
        if unwanted {
            functions.remove(key);
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
            entry.wanted.send_replace(Some(record));
        }
    }

    /// Hands a record to the function's controller; starts one if there is none.
    fn set(self: &Arc<Self>, key: &FunctionKey, record: FunctionRecord) {
        let upstream = self.lock().get(key).map(|entry| {
            entry.wanted.send_replace(Some(record.clone()));
            Arc::clone(&entry.upstream)
        });
        match upstream {
            Some(upstream) => self.routes.insert(upstream),
            None => self.begin(key, Some(record), Vec::new()),
        }
    }

    fn begin(self: &Arc<Self>, key: &FunctionKey, record: Option<FunctionRecord>, inherited: Vec<Inherited>) {
        let upstream = Upstream::new(key.clone(), self.limits);
        if record.is_some() {
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

impl Entry {
    fn view(&self, key: &FunctionKey) -> Option<FunctionView> {
        let wanted = self.wanted.borrow();
        let record = wanted.as_ref()?;
        let replicas = spec::replicas(&record.newest.deployment.labels).unwrap_or(1);
        let invocations = self.upstream.load().requests_total;
        Some(FunctionView::new(
            key.namespace.to_string(),
            record,
            replicas,
            &self.status.borrow(),
            invocations,
        ))
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
