//! containerd, as images see it: one namespace of it, and perhaps a lease.
//!
//! Owns leases, and the locks that keep two tasks from fetching or unpacking the same thing at once.
//! What is done with content, snapshots and records stands in the modules of those names.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::{
    AddResourceRequest, CreateRequest, DeleteRequest, ListRequest, Resource,
};
use jiff::{SignedDuration, Timestamp};
use roost_proxy::function::Namespace;
use tonic::Code;

use super::error::ImageError;
use crate::runtime::containerd::client::{Channel, Client, Scope};

/// How long a lease lasts that nobody ends: long enough for a large image on a slow line, short enough that what a
/// crash left behind does not fill the disk. What was fetched so far is kept as long, to resume from.
const LEASE_TIME: SignedDuration = SignedDuration::from_hours(24);

/// The label of a lease that says which image is fetched under it.
const LEASE_IMAGE: &str = "roost.image";

/// One namespace of containerd. Cheap to clone.
#[derive(Clone)]
pub(super) struct Store {
    pub(super) scope: Scope,
    pub(super) snapshotter: Arc<str>,
    namespace: Namespace,
    locks: Locks,
}

impl Store {
    pub(super) fn new(client: &Client, namespace: &Namespace, snapshotter: Arc<str>, locks: Locks) -> Self {
        Self { scope: client.scope(namespace), snapshotter, namespace: namespace.clone(), locks }
    }

    /// Waits until nobody else works on `key` in this namespace.
    pub(super) async fn lock(&self, key: &str) -> tokio::sync::OwnedMutexGuard<()> {
        self.locks.lock(&format!("{}/{key}", self.namespace)).await
    }

    /// Takes a lease for the work on `image`. Until it is released or a day has passed, nothing is collected
    /// that is made or held under it.
    pub(super) async fn lease(&self, image: &str) -> Result<Leased, ImageError> {
        let expires = Timestamp::now() + LEASE_TIME;
        let request = CreateRequest {
            id: format!("roost-image-{}", uuid::Uuid::new_v4().simple()),
            labels: HashMap::from([
                ("containerd.io/gc.expire".to_owned(), expires.to_string()),
                (LEASE_IMAGE.to_owned(), image.to_owned()),
            ]),
        };
        let id = request.id.clone();
        let failed = || ImageError::containerd("take a lease");
        self.leases().create(self.scope.call(request)).await.map_err(failed())?;
        let scope = self.scope.with_lease(&id).map_err(failed())?;
        Ok(Leased { store: Self { scope, ..self.clone() }, id, image: image.to_owned() })
    }

    fn leases(&self) -> LeasesClient<Channel> {
        LeasesClient::new(self.scope.channel())
    }
}

/// A [`Store`] under a lease.
///
/// Dropping it leaves the lease to expire: what was fetched so far stays for the next try.
pub(super) struct Leased {
    pub(super) store: Store,
    id: String,
    image: String,
}

impl Leased {
    /// Keeps the blob `digest` from being collected, and what has arrived of it, whether or not they exist yet.
    pub(super) async fn hold_blob(&self, digest: &str) -> Result<(), ImageError> {
        self.hold("content", digest).await?;
        self.hold("ingests", &super::content::ingest(digest)).await
    }

    /// Keeps the snapshot `chain_id` from being collected, whether or not it exists yet.
    pub(super) async fn hold_snapshot(&self, chain_id: &str) -> Result<(), ImageError> {
        self.hold(&format!("snapshots/{}", self.store.snapshotter), chain_id).await
    }

    async fn hold(&self, kind: &str, id: &str) -> Result<(), ImageError> {
        let resource = Resource { id: id.to_owned(), r#type: kind.to_owned() };
        let request = AddResourceRequest { id: self.id.clone(), resource: Some(resource) };
        match self.store.leases().add_resource(self.store.scope.call(request)).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            Err(status) => Err(ImageError::containerd(format!("hold {id}"))(status)),
        }
    }

    /// Ends the leases that earlier, failed tries for the same image left: this one holds by now what they held.
    pub(super) async fn end_older(&self) -> Result<(), ImageError> {
        let filter = format!("labels.{LEASE_IMAGE:?}=={:?}", self.image);
        let request = ListRequest { filters: vec![filter] };
        let listed = self.store.leases().list(self.store.scope.call(request)).await;
        let leases = listed.map_err(ImageError::containerd("list leases"))?.into_inner().leases;
        for lease in leases.iter().filter(|lease| lease.id != self.id) {
            self.store.end_lease(&lease.id, false).await?;
        }
        Ok(())
    }

    /// Ends the lease: what is now referred to by an image record stays, the rest is free to be collected.
    pub(super) async fn release(self) {
        if let Err(error) = self.store.end_lease(&self.id, false).await {
            // It expires by itself.
            tracing::warn!(image = %self.image, "could not end the lease of {}: {error}", self.image);
        }
    }
}

impl Store {
    /// Ends all leases for images, and returns when containerd has collected what nothing refers to any more.
    pub(super) async fn end_leases(&self) -> Result<(), ImageError> {
        // The end of one lease can be waited for with what it frees: one is made for that.
        let last = self.lease("none").await?;
        let listed = self.leases().list(self.scope.call(ListRequest::default())).await;
        let leases = listed.map_err(ImageError::containerd("list leases"))?.into_inner().leases;
        for lease in
            leases.iter().filter(|lease| lease.labels.contains_key(LEASE_IMAGE) && lease.id != last.id)
        {
            self.end_lease(&lease.id, false).await?;
        }
        self.end_lease(&last.id, true).await
    }

    async fn end_lease(&self, id: &str, sync: bool) -> Result<(), ImageError> {
        let request = DeleteRequest { id: id.to_owned(), sync };
        match self.leases().delete(self.scope.call(request)).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::NotFound => Ok(()),
            Err(status) => Err(ImageError::containerd("end a lease")(status)),
        }
    }
}

/// Locks by name. A name takes no memory while nobody holds it or waits for it.
#[derive(Clone, Default)]
pub(super) struct Locks {
    held: Arc<Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>>,
}

impl Locks {
    async fn lock(&self, key: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.retain(|_, lock| lock.strong_count() > 0);
            let found = held.get(key).and_then(Weak::upgrade);
            found.unwrap_or_else(|| {
                let lock = Arc::new(tokio::sync::Mutex::new(()));
                held.insert(key.to_owned(), Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lock_is_held_by_one_and_forgotten_by_all() {
        let locks = Locks::default();
        let first = locks.lock("a").await;
        let other = locks.lock("b").await;
        let waiting = tokio::spawn({
            let locks = locks.clone();
            async move { locks.lock("a").await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        drop(waiting.await.unwrap());
        drop(other);
        drop(locks.lock("c").await);
        assert_eq!(locks.held.lock().unwrap().len(), 1, "only the last, which nobody asked after yet");
    }
}
