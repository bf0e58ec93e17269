//! Secrets: texts and bytes that functions need and nobody else may see.
//!
//! Owns two trees: the files that keep them ([`files`], on disk) and what replicas see of them ([`copies`], in memory).
//! A value is in those two and nowhere else: not in the store, a log or an answer. Never knows who uses which: the
//! registry does, and asks before one is removed.

mod copies;
mod files;
mod value;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use roost_proxy::function::{Namespace, ReplicaId};
use roost_proxy::websocket::codec::cloudevents::SigningKey;
use tracing::{info, warn};

use self::copies::Copies;
use self::files::Files;
pub use self::value::{InvalidSecretName, MAX_VALUE, SecretName, SecretValue, TooLarge};
use crate::runtime::BindMount;

/// Where functions find their secrets, one file each.
const INSIDE: &str = "/var/openfaas/secrets";

/// What can go wrong with a secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// There is none of that name.
    #[error("unable to find secret: {0}")]
    Absent(String),
    /// There is one of that name.
    #[error("secret {0} already exists: update it with PUT")]
    Exists(SecretName),
    /// A file or directory cannot be read or written.
    #[error("cannot {doing} {path}: {source}")]
    File {
        /// What was tried.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl SecretError {
    fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { doing, path, source }
    }
}

/// All secrets. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Secrets {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    files: Files,
    copies: Copies,
    /// Those that events are signed with.
    keys: Mutex<HashMap<(Namespace, SecretName), SigningKey>>,
    /// Held by whoever writes to either tree, so that no copy is older than its file.
    writer: Mutex<()>,
}

impl Secrets {
    /// The secrets in `<state>/secrets`, with the copies for replicas in `<run>/secrets`. If that is not on a tmpfs, one
    /// is mounted there.
    ///
    /// # Errors
    /// When a directory or the tmpfs cannot be made.
    pub fn open(state: &Path, run: &Path) -> Result<Self, SecretError> {
        let (files, copies) = (Files::open(state.join("secrets"))?, Copies::open(run.join("secrets"))?);
        Ok(Self {
            inner: Arc::new(Inner { files, copies, keys: Mutex::default(), writer: Mutex::default() }),
        })
    }

    /// Is there such a secret? Looks at one entry of a directory; a text that is no name names none.
    #[must_use]
    pub fn contains(&self, namespace: &Namespace, name: &str) -> bool {
        name.parse().is_ok_and(|name| self.inner.files.contains(namespace, &name))
    }

    /// A key to sign with, which is what the secret holds, but for white space behind it. From then on it follows every
    /// update. Reads one file, if it is asked for for the first time.
    ///
    /// # Errors
    /// When there is none of that name, or it cannot be read.
    pub fn signing_key(&self, namespace: &Namespace, name: &SecretName) -> Result<SigningKey, SecretError> {
        let mut keys = self.inner.keys();
        let of = (namespace.clone(), name.clone());
        if let Some(key) = keys.get(&of) {
            return Ok(key.clone());
        }
        let key = SigningKey::new(self.inner.files.read(namespace, name)?.bytes().trim_ascii_end());
        keys.insert(of, key.clone());
        Ok(key)
    }

    /// What a secret holds.
    ///
    /// # Errors
    /// When there is none of that name, or it cannot be read.
    pub async fn read(&self, namespace: Namespace, name: SecretName) -> Result<SecretValue, SecretError> {
        self.work(move |inner| inner.files.read(&namespace, &name)).await
    }

    /// The names of a namespace's secrets, in order.
    ///
    /// # Errors
    /// When the files cannot be listed.
    pub async fn list(&self, namespace: Namespace) -> Result<Vec<SecretName>, SecretError> {
        self.work(move |inner| inner.files.list(&namespace)).await
    }

    /// A new secret.
    ///
    /// # Errors
    /// When there is one of that name, or it cannot be written.
    pub async fn create(
        &self,
        namespace: Namespace,
        name: SecretName,
        value: SecretValue,
    ) -> Result<(), SecretError> {
        self.work(move |inner| {
            if inner.files.contains(&namespace, &name) {
                return Err(SecretError::Exists(name));
            }
            inner.write(&namespace, &name, &value)?;
            info!("secret {name}.{namespace}: created");
            Ok(())
        })
        .await
    }

    /// Another value for a secret. Replicas that run see it when they read the file again.
    ///
    /// # Errors
    /// When there is none of that name, or it cannot be written.
    pub async fn update(
        &self,
        namespace: Namespace,
        name: SecretName,
        value: SecretValue,
    ) -> Result<(), SecretError> {
        self.work(move |inner| {
            if !inner.files.contains(&namespace, &name) {
                return Err(SecretError::Absent(name.to_string()));
            }
            inner.write(&namespace, &name, &value)?;
            info!("secret {name}.{namespace}: updated");
            Ok(())
        })
        .await
    }

    /// No such secret any more. For the registry, which knows that no function uses it.
    ///
    /// # Errors
    /// When there is none of that name, or its file cannot be removed.
    pub async fn remove(&self, namespace: Namespace, name: SecretName) -> Result<(), SecretError> {
        self.work(move |inner| {
            inner.files.remove(&namespace, &name)?;
            inner.keys().remove(&(namespace.clone(), name.clone()));
            info!("secret {name}.{namespace}: removed");
            Ok(())
        })
        .await
    }

    /// Copies the secrets of these names for a replica that is about to start: what is to be mounted into it, if there is
    /// any. From then on the copies follow every update, until [`Secrets::take_away`].
    ///
    /// # Errors
    /// When one is not there, or cannot be copied. What was copied before is left for [`Secrets::take_away`].
    pub async fn give(
        &self,
        namespace: Namespace,
        id: ReplicaId,
        names: &[String],
    ) -> Result<Option<BindMount>, SecretError> {
        if names.is_empty() {
            return Ok(None);
        }
        let name = |text: &String| text.parse().map_err(|_| SecretError::Absent(text.clone()));
        let names = names.iter().map(name).collect::<Result<BTreeSet<SecretName>, _>>()?;
        self.work(move |inner| {
            inner.copies.make(&namespace, &id)?;
            let source = inner.copies.of(&namespace, &id);
            for name in &names {
                inner.copies.put(&source, name, &inner.files.read(&namespace, name)?)?;
            }
            Ok(Some(BindMount { source, target: INSIDE.into(), read_only: true }))
        })
        .await
    }

    /// Removes a replica's copies. All is well if there are none.
    ///
    /// # Errors
    /// When they cannot be removed; then it can be tried again.
    pub async fn take_away(&self, namespace: Namespace, id: ReplicaId) -> Result<(), SecretError> {
        self.work(move |inner| inner.copies.remove(&namespace, &id)).await
    }

    /// Goes on with what an earlier daemon left: the copies of replicas in `keep` get the values of today, should it have
    /// ended in the middle of an update; all others are removed.
    ///
    /// # Errors
    /// When a copy cannot be removed or written.
    pub async fn collect(&self, keep: HashSet<String>) -> Result<(), SecretError> {
        self.work(move |inner| {
            for (namespace, dir) in inner.copies.collect(|id| keep.contains(id))? {
                for name in inner.copies.names(&dir)? {
                    match inner.files.read(&namespace, &name) {
                        Ok(value) => inner.copies.put(&dir, &name, &value)?,
                        // Only a replica that is about to go can see a secret that was removed.
                        Err(SecretError::Absent(_)) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            Ok(())
        })
        .await
    }

    /// Runs a call on the files off the async workers, to its end, and alone.
    async fn work<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Inner) -> Result<T, SecretError> + Send + 'static,
    ) -> Result<T, SecretError> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || {
            // Nothing in memory can be half-changed by a panic: all state is in the files.
            let _writer = inner.writer.lock().unwrap_or_else(PoisonError::into_inner);
            call(&inner)
        });
        // A task that nobody aborts can only fail by a panic, which goes on here.
        done.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }
}

impl Inner {
    /// Whoever reads or writes a file for one holds this meanwhile: what is in here is never older than its file.
    fn keys(&self) -> MutexGuard<'_, HashMap<(Namespace, SecretName), SigningKey>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a secret down and hands it to all replicas that see it.
    fn write(
        &self,
        namespace: &Namespace,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<(), SecretError> {
        self.files.write(namespace, name, value)?;
        if let Some(key) = self.keys().get(&(namespace.clone(), name.clone())) {
            key.replace(value.bytes().trim_ascii_end());
        }
        let mut result = Ok(());
        for dir in self.copies.with(namespace, name)? {
            if let Err(error) = self.copies.put(&dir, name, value) {
                // The others get it all the same; this one at the daemon's next start.
                warn!("{error}");
                result = Err(error);
            }
        }
        result
    }
}

#[cfg(test)]
mod tests;
