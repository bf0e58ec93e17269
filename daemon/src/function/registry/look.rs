//! What others see of functions: snapshots, and waiting for what becomes of one.
//!
//! Owns nothing, and changes nothing but which connections are open.

use std::collections::HashSet;
use std::sync::Arc;

use roost_proxy::CloseFrame;
use roost_proxy::function::{FunctionKey, Namespace};
use tokio::sync::watch;

use super::{Entry, Registry};
use crate::function::settled::{Settled, settled};
use crate::function::spec::Deployment;
use crate::function::status::{FunctionView, Observed, Scaling};

impl Registry {
    /// The function as the API shows it.
    #[must_use]
    pub fn view(&self, key: &FunctionKey) -> Option<FunctionView> {
        self.lock().get(key).and_then(|entry| entry.view(self.queue.waiting(key)))
    }

    /// All functions of a namespace as the API shows them, by name.
    #[must_use]
    pub fn views(&self, namespace: &Namespace) -> Vec<FunctionView> {
        self.views_of(namespace, |key, entry| entry.view(self.queue.waiting(key)))
    }

    pub(super) fn views_of<T>(
        &self,
        namespace: &Namespace,
        view: impl Fn(&FunctionKey, &Entry) -> Option<T>,
    ) -> Vec<T> {
        let functions = self.lock();
        let of_namespace = functions.iter().filter(|(key, _)| key.namespace == *namespace);
        of_namespace.filter_map(|(key, entry)| view(key, entry)).collect()
    }

    /// All functions, as they are counted and measured.
    #[must_use]
    pub fn observe(&self) -> Vec<Observed> {
        self.lock().iter().filter_map(|(key, entry)| entry.observe(key)).collect()
    }

    /// All functions that somebody looks after, also those that are being removed.
    #[must_use]
    pub fn keys(&self) -> HashSet<FunctionKey> {
        self.lock().keys().cloned().collect()
    }

    /// Closes the connections of a function that are open now, if there is such a function, and tells how many.
    pub fn close_connections(&self, key: &FunctionKey, frame: CloseFrame) -> Option<usize> {
        let functions = self.lock();
        let entry = functions.get(key).filter(|entry| entry.wanted.borrow().is_some())?;
        Some(entry.upstream.close_tunnels(frame))
    }

    /// Is there such a function?
    #[must_use]
    pub fn contains(&self, key: &FunctionKey) -> bool {
        self.record(key).is_some()
    }

    /// The newest deployment of a function, if there is such a function.
    #[must_use]
    pub fn deployment(&self, key: &FunctionKey) -> Option<Deployment> {
        self.record(key).map(|record| record.newest.deployment)
    }

    /// Looks at the newest deployment of each function.
    pub fn each_deployment(&self, mut look: impl FnMut(&FunctionKey, &Deployment)) {
        for (key, entry) in &*self.lock() {
            if let Some(record) = &*entry.wanted.borrow() {
                look(key, &record.newest.deployment);
            }
        }
    }

    /// Tells when there may be something new for [`Registry::each_deployment`]. What was restored is not told of.
    #[must_use]
    pub fn watch_deployments(&self) -> watch::Receiver<()> {
        self.deployments.subscribe()
    }

    /// Resolves when the function is deleted; at once if there is none.
    pub async fn deleted(&self, key: &FunctionKey) {
        let wanted = self.lock().get(key).map(|entry| entry.wanted.subscribe());
        if let Some(mut wanted) = wanted {
            // An error means that even its controller is gone.
            wanted.wait_for(Option::is_none).await.ok();
        }
    }

    /// Resolves when a revision is ready, has failed, or is the newest no more.
    pub async fn settled(&self, key: &FunctionKey, revision: &str) -> Settled {
        let entry = self.lock().get(key).map(|entry| (entry.wanted.subscribe(), entry.status.clone()));
        match entry {
            Some((wanted, status)) => settled(wanted, status, revision).await,
            None => Settled::Overtaken,
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
}

impl Entry {
    fn observe(&self, key: &FunctionKey) -> Option<Observed> {
        let wanted = self.wanted.borrow();
        let record = wanted.as_ref()?;
        let status = self.status.borrow();
        Some(Observed {
            key: key.clone(),
            desired: status.desired(record),
            available: status.available(),
            scaling: Scaling::of(&record.newest.deployment),
            replicas: status.replicas.iter().map(|replica| replica.id.clone()).collect(),
            phases: status.replicas.iter().map(|replica| replica.phase).collect(),
            restarts: status.restarts,
            oom_kills: status.oom_kills,
            upstream: Arc::clone(&self.upstream),
        })
    }

    fn view(&self, queued: u64) -> Option<FunctionView> {
        let wanted = self.wanted.borrow();
        let record = wanted.as_ref()?;
        let status = self.status.borrow();
        Some(FunctionView::new(record, status.desired(record), &status, &self.upstream, queued))
    }
}
