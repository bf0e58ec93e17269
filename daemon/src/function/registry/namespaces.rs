//! Namespaces: made, changed, deleted.
//!
//! ```text
//!   ∅ ─create─▶ making ─containerd, network─▶ there ─delete, when empty─▶ ending ─replicas gone, images, network─▶ ∅
//!                  └──────────────────failed, or cut short──────────────────▲
//! ```
//!
//! Each state is in the store before its first act. Every step from state to state is under the same lock as functions;
//! what takes its time, between them, is not: functions wake and are deployed meanwhile. What a crash interrupts is
//! made good at the next start: a namespace that is there is completed, one that was being made was promised to nobody
//! and ends, one that is ending goes on ending.

use std::sync::Arc;
use std::time::Duration;

use roost_proxy::function::Namespace;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::{Registry, whole, whole_blocking};
use crate::function::namespace::{NamespaceRecord, NamespaceView, Namespaces, free_index};
use crate::image::ImageError;
use crate::network::NetworkError;
use crate::pauses::Pauses;
use crate::runtime::containerd;
use crate::secrets::SecretError;
use crate::store::StoreError;

/// The pauses between tries to take a namespace away.
const END_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// How often containerd is asked to delete a namespace before it is left to whoever has something in it.
const DELETE_TRIES: u32 = 4;

/// How long a deletion waits for the end of the namespace before it is answered. Most end in far less.
const END_WAIT: Duration = Duration::from_secs(5);

/// How many names an answer lists.
const NAMES_SHOWN: usize = 20;

/// Why a change of a namespace was not made.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// There is no such namespace.
    #[error("namespace {0} not found")]
    Unknown(Namespace),
    /// There is one of that name.
    #[error("namespace {0} already exists")]
    Exists(Namespace),
    /// It cannot be, as things are: why, and what to do.
    #[error("{0}")]
    Conflict(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// containerd failed.
    #[error(transparent)]
    Containerd(#[from] containerd::Error),
    /// The network failed.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Its secrets cannot be listed.
    #[error(transparent)]
    Secrets(#[from] SecretError),
    /// Its images cannot be removed.
    #[error(transparent)]
    Images(#[from] ImageError),
}

impl Registry {
    /// Takes over the namespaces in the store: completes those that are there. Before [`Registry::restore`].
    pub async fn restore_namespaces(self: &Arc<Self>, mut stored: Namespaces) {
        for record in stored.values_mut().filter(|record| record.making) {
            (record.making, record.ending) = (false, true);
        }
        self.namespaces.send_modify(|namespaces| namespaces.extend(stored));
        let namespaces = self.namespaces.borrow().clone();
        for (name, _) in namespaces.iter().filter(|(_, record)| !record.ending) {
            if let Err(error) = self.tools.host.runtime.ensure_namespace(name).await {
                error!("functions of the namespace {name} cannot start: {error}");
            }
        }
        let further = namespaces.iter().filter(|(name, _)| **name != Namespace::default());
        let indices = further.map(|(name, record)| (name.clone(), record.index));
        if let Err(error) = self.tools.host.network.open(indices).await {
            error!("functions of some namespaces cannot start: {error}");
        }
    }

    /// Goes on with the end of namespaces whose deletion, or making, an earlier daemon did not finish. Behind
    /// [`Registry::restore`], which knows what replicas are left.
    pub fn resume_endings(self: &Arc<Self>) {
        let namespaces = self.namespaces.borrow().clone();
        for (name, _) in namespaces.into_iter().filter(|(_, record)| record.ending) {
            tokio::spawn(Arc::clone(self).end(name));
        }
    }

    /// A new namespace.
    ///
    /// # Errors
    /// When there is one of that name, there is no room for another, or the host fails; then what was made of it is
    /// taken away.
    pub async fn create_namespace(
        self: &Arc<Self>,
        name: Namespace,
        said: NamespaceView,
    ) -> Result<(), NamespaceError> {
        let registry = Arc::clone(self);
        whole(async move {
            let record = registry.begin_making(&name, said).await?;
            let made = registry.make(&name, record.index).await;
            let _writer = registry.writer.lock().await;
            let there = NamespaceRecord { making: false, ..record.clone() };
            let noted = match made {
                Ok(()) => registry.note(&name, there).await.map_err(NamespaceError::from),
                Err(error) => Err(error),
            };
            if let Err(error) = noted {
                // If it cannot be noted, the next start finds one that was being made: that ends as well.
                let ending = NamespaceRecord { making: false, ending: true, ..record };
                if let Err(error) = registry.note(&name, ending.clone()).await {
                    warn!("namespace {name}: {error}");
                    registry.show(&name, ending);
                }
                tokio::spawn(Arc::clone(&registry).end(name));
                return Err(error);
            }
            info!("namespace {name}: made");
            Ok(())
        })
        .await
    }

    /// Other labels and annotations for a namespace, in the place of those it has.
    ///
    /// # Errors
    /// When there is no such namespace, or the store fails.
    pub async fn update_namespace(
        self: &Arc<Self>,
        name: Namespace,
        said: NamespaceView,
    ) -> Result<(), NamespaceError> {
        let registry = Arc::clone(self);
        whole(async move {
            let _writer = registry.writer.lock().await;
            let record = registry.namespace(&name)?.changed(said);
            Ok(registry.note(&name, record).await?)
        })
        .await
    }

    /// No such namespace any more. What is left of it is taken away; that is waited for as long as it usually takes.
    ///
    /// # Errors
    /// When there is no such namespace, something is in it, it is the default one, or the store fails.
    pub async fn delete_namespace(self: &Arc<Self>, name: Namespace) -> Result<(), NamespaceError> {
        let registry = Arc::clone(self);
        let ending = whole(async move {
            let _writer = registry.writer.lock().await;
            let record = NamespaceRecord { ending: true, ..registry.namespace(&name)? };
            registry.require_empty(&name).await?;
            registry.note(&name, record).await?;
            info!("namespace {name}: deleted");
            Ok::<_, NamespaceError>(tokio::spawn(Arc::clone(&registry).end(name)))
        });
        // It goes on by itself when it takes longer.
        timeout(END_WAIT, ending.await?).await.ok();
        Ok(())
    }

    /// The names of all namespaces that functions can be in.
    #[must_use]
    pub fn namespaces(&self) -> Vec<Namespace> {
        let namespaces = self.namespaces.borrow();
        namespaces.iter().filter(|(_, record)| record.is_there()).map(|(name, _)| name.clone()).collect()
    }

    /// What there is, and whatever there will be.
    #[must_use]
    pub fn watch_namespaces(&self) -> watch::Receiver<Namespaces> {
        self.namespaces.subscribe()
    }

    /// A namespace as the API shows it. One that is still being made is not shown, as in the list of all.
    ///
    /// # Errors
    /// When there is no such namespace.
    pub fn namespace_view(&self, name: &Namespace) -> Result<NamespaceView, NamespaceError> {
        let namespaces = self.namespaces.borrow();
        let record = namespaces.get(name).filter(|record| record.is_there());
        record.map(|record| record.view(name)).ok_or_else(|| NamespaceError::Unknown(name.clone()))
    }

    /// Can functions be in this namespace?
    ///
    /// # Errors
    /// When not, with a text for whoever named it.
    pub fn require_namespace(&self, name: &Namespace) -> Result<(), String> {
        self.namespace(name).map(drop).map_err(|error| match error {
            NamespaceError::Conflict(text) => text,
            _ => format!("namespace not valid: {name} does not exist"),
        })
    }

    fn namespace(&self, name: &Namespace) -> Result<NamespaceRecord, NamespaceError> {
        match self.namespaces.borrow().get(name) {
            Some(record) if record.making => Err(still_being_made(name)),
            Some(record) if !record.ending => Ok(record.clone()),
            _ => Err(NamespaceError::Unknown(name.clone())),
        }
    }

    /// A record of a new namespace: from here on, its name and its index are taken.
    async fn begin_making(
        &self,
        name: &Namespace,
        said: NamespaceView,
    ) -> Result<NamespaceRecord, NamespaceError> {
        // What can be said without containerd is said first.
        self.place_for(name)?;
        if self.tools.host.runtime.is_foreign(name).await? {
            return Err(NamespaceError::Conflict(format!(
                "containerd has a namespace {name} that is somebody else's: choose another name"
            )));
        }
        let _writer = self.writer.lock().await;
        let record = NamespaceRecord { making: true, ..NamespaceRecord::new(self.place_for(name)?, said) };
        self.note(name, record.clone()).await?;
        Ok(record)
    }

    /// The index for a new namespace.
    fn place_for(&self, name: &Namespace) -> Result<u32, NamespaceError> {
        let namespaces = self.namespaces.borrow();
        match namespaces.get(name) {
            Some(record) if record.making => return Err(still_being_made(name)),
            Some(record) if record.ending => {
                return Err(NamespaceError::Conflict(format!(
                    "namespace {name} is still being removed: try again"
                )));
            }
            Some(_) => return Err(NamespaceError::Exists(name.clone())),
            None => {}
        }
        let last = self.tools.host.network.last_index().map_err(NamespaceError::Conflict)?;
        free_index(&namespaces, last).ok_or_else(|| {
            NamespaceError::Conflict(format!(
                "all {last} subnets of network.namespaces are taken: delete a namespace first"
            ))
        })
    }

    async fn make(&self, name: &Namespace, index: u32) -> Result<(), NamespaceError> {
        self.tools.host.runtime.ensure_namespace(name).await?;
        Ok(self.tools.host.network.open([(name.clone(), index)]).await?)
    }

    async fn require_empty(&self, name: &Namespace) -> Result<(), NamespaceError> {
        if *name == Namespace::default() {
            let text = format!("namespace {name} cannot be deleted: it is the default one");
            return Err(NamespaceError::Conflict(text));
        }
        let functions =
            self.views_of(name, |key, entry| entry.wanted.borrow().is_some().then(|| key.name.to_string()));
        let secrets = self.tools.host.secrets.list(name.clone()).await?;
        let secrets = secrets.iter().map(ToString::to_string).collect();
        let inside: Vec<String> =
            [("functions", functions), ("secrets", secrets)].iter().filter_map(shown).collect();
        if inside.is_empty() {
            return Ok(());
        }
        let text = format!("namespace {name} is not empty: remove its {} first", inside.join(" and its "));
        Err(NamespaceError::Conflict(text))
    }

    /// Takes a namespace away, until nothing is left of it.
    async fn end(self: Arc<Self>, name: Namespace) {
        self.emptied(&name).await;
        let mut pauses = Pauses::new(END_PAUSE);
        while let Err(error) = self.try_end(&name).await {
            warn!("namespace {name}: cannot be taken away yet: {error}");
            pauses.wait().await;
        }
        info!("namespace {name}: removed");
    }

    /// Resolves when no function of the namespace is left, not even one that is being removed.
    async fn emptied(&self, name: &Namespace) {
        loop {
            let mut retired = std::pin::pin!(self.retired.notified());
            // From here on no word is missed.
            retired.as_mut().enable();
            if self.views_of(name, |_, _| Some(())).is_empty() {
                return;
            }
            retired.await;
        }
    }

    async fn try_end(&self, name: &Namespace) -> Result<(), NamespaceError> {
        self.end_in_containerd(name).await?;
        self.tools.host.network.close(name).await?;
        if let Err(error) = self.tools.host.logs.remove_namespace(name).await {
            warn!("namespace {name}: the directory of its output stays: {error}");
        }
        let _writer = self.writer.lock().await;
        self.remove_namespace(name).await?;
        self.namespaces.send_modify(|namespaces| drop(namespaces.remove(name)));
        Ok(())
    }

    /// Removes the images of the namespace, and then it. What others have in it is theirs: then it stays, without our mark.
    async fn end_in_containerd(&self, name: &Namespace) -> Result<(), NamespaceError> {
        if self.tools.host.runtime.is_foreign(name).await? {
            return Ok(());
        }
        let mut pauses = Pauses::new(END_PAUSE);
        for tried in 1..=DELETE_TRIES {
            self.tools.images.clear(name).await?;
            if self.tools.host.runtime.delete_namespace(name).await? {
                return Ok(());
            }
            if tried < DELETE_TRIES {
                // No event tells that the last of it is gone.
                pauses.wait().await;
            }
        }
        warn!(
            "namespace {name}: somebody else has something in containerd's namespace of this name: it stays"
        );
        Ok(self.tools.host.runtime.unmark_namespace(name).await?)
    }

    /// Writes a record down, and then shows it. Under the writer's lock.
    async fn note(&self, name: &Namespace, record: NamespaceRecord) -> Result<(), StoreError> {
        let (store, of, noted) = (Arc::clone(&self.store), name.clone(), record.clone());
        whole_blocking(move || store.put_namespace(&of, &noted)).await?;
        self.show(name, record);
        Ok(())
    }

    fn show(&self, name: &Namespace, record: NamespaceRecord) {
        self.namespaces.send_modify(|namespaces| drop(namespaces.insert(name.clone(), record)));
    }

    async fn remove_namespace(&self, name: &Namespace) -> Result<(), StoreError> {
        let (store, name) = (Arc::clone(&self.store), name.clone());
        whole_blocking(move || store.remove_namespace(&name)).await
    }
}

fn still_being_made(name: &Namespace) -> NamespaceError {
    NamespaceError::Conflict(format!("namespace {name} is still being made: try again"))
}

/// What is in a namespace, in words; nothing for nothing.
fn shown((what, names): &(&str, Vec<String>)) -> Option<String> {
    let first: Vec<&str> = names.iter().take(NAMES_SHOWN).map(String::as_str).collect();
    let more = if names.len() > NAMES_SHOWN { ", …" } else { "" };
    (!names.is_empty()).then(|| format!("{what} {}{more}", first.join(", ")))
}
