//! The start of a replica, in two halves: it can wait between them for as long as it is not needed.
//!
//! ```text
//! create: user of the image → spec → record → snapshot → task created        begin: task started
//! ```
//! The record names its snapshot from the start, so that containerd collects neither: no lease is needed.
//!
//! What was made is taken back in reverse when a later step fails; a failure to take back is logged, and the
//! rest goes on. Dropped in the middle, it leaves at most what `list` shows and `stop` removes.

use std::sync::Arc;
use std::time::Duration;

use roost_proxy::function::{Namespace, ReplicaId};

use super::client::Scope;
use super::error::gone_is_fine;
use super::lease::Lease;
use super::task::Tasks;
use super::user::{self, User};
use super::{Containerd, Error, container, output, rootfs, spec};
use crate::runtime::ReplicaPlan;

/// How long the lease of a look into an image lives if we do not live to release it.
const LEASE_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// Where an image keeps its users and groups.
const ACCOUNTS: &[&str] = &["/etc/passwd", "/etc/group"];

/// A step of the start that has something to take back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Record,
    Snapshot,
    Task,
}

impl Containerd {
    /// Makes the replica `plan` and starts it; when this returns, its program runs.
    ///
    /// # Errors
    /// When a step fails. Then nothing of the replica is left, or the log says what.
    pub async fn start(&self, plan: &ReplicaPlan) -> Result<(), Error> {
        self.create(plan).await?;
        let (namespace, id) = (&plan.function.namespace, &plan.id);
        let begun = self.begin(namespace, id).await;
        if begun.is_err() {
            let scope = self.client().scope(namespace);
            self.take_back(&scope, plan, &[Step::Record, Step::Snapshot, Step::Task]).await;
        }
        begun
    }

    /// Makes all of the replica `plan`, up to its first process, which waits for [`begin`](Self::begin) before it
    /// becomes the program. It waits through restarts of this daemon and of containerd.
    ///
    /// # Errors
    /// When a step fails. Then nothing of the replica is left, or the log says what.
    pub async fn create(&self, plan: &ReplicaPlan) -> Result<(), Error> {
        let scope = self.client().scope(&plan.function.namespace);
        let _until_made = self.moves().quick();
        tokio::fs::create_dir_all(&plan.log_dir)
            .await
            .map_err(Error::host("cannot create", &plan.log_dir))?;
        let mut done = Vec::new();
        let created = self.try_create(&scope, plan, &mut done).await;
        if let Err(error) = &created {
            tracing::debug!(replica = %plan.id, %error, "taking back a failed start");
            self.take_back(&scope, plan, &done).await;
        }
        created
    }

    /// Lets the program of a created replica run.
    ///
    /// # Errors
    /// When it is not there, was begun before, or the program cannot be run. What there is of it stays.
    pub async fn begin(&self, namespace: &Namespace, id: &ReplicaId) -> Result<(), Error> {
        Tasks::new(&self.client().scope(namespace)).start(id.as_str()).await
    }

    async fn try_create(&self, scope: &Scope, plan: &ReplicaPlan, done: &mut Vec<Step>) -> Result<(), Error> {
        let user = self.user(scope, plan).await?;
        let spec = spec::build(plan, self.settings(), &user, self.host())?;
        container::create(scope, self.settings(), plan, &spec).await?;
        done.push(Step::Record);
        let rootfs = self.snapshots(scope).prepare(plan.id.as_str(), &plan.image.chain_id).await?;
        done.push(Step::Snapshot);

        let output = output::uri(&self.settings().log_driver, plan.log_limit, &plan.log_dir);
        let entering = self.gates().enter(&plan.function.namespace).await;
        // Before the call: when it is not answered in time, the task may come all the same.
        done.push(Step::Task);
        Tasks::new(scope).create(plan.id.as_str(), rootfs, output).await?;
        self.gates().settle(&plan.function.namespace, &plan.id);
        drop(entering);
        Ok(())
    }

    /// Whom the image wants to run as. Its files are only looked at when they matter, and once.
    async fn user(&self, scope: &Scope, plan: &ReplicaPlan) -> Result<Arc<User>, Error> {
        let image = &plan.image;
        if image.config.user.is_empty() {
            return Ok(Arc::new(User::root()));
        }
        if let Some(user) = self.users().get(&image.chain_id, &image.config.user) {
            return Ok(user);
        }
        let texts = self.accounts(scope, plan).await?;
        let [passwd, group] = &texts[..] else { unreachable!("one text for each of the two files") };
        let user = user::resolve(&image.config.user, passwd, group).map_err(|reason| Error::User {
            image: image.name.clone(),
            user: image.config.user.clone(),
            reason,
        })?;
        Ok(self.users().keep(&image.chain_id, &image.config.user, user))
    }

    /// The image's lists of users and groups.
    async fn accounts(&self, scope: &Scope, plan: &ReplicaPlan) -> Result<Vec<String>, Error> {
        // Nothing but the lease names the view.
        let lease = Lease::take(scope, LEASE_LIFETIME).await?;
        let snapshots = self.snapshots(lease.scope());
        let key = format!("{}-accounts", plan.id);
        let texts = match snapshots.view(&key, &plan.image.chain_id).await {
            Ok(mounts) => {
                let texts = rootfs::read(mounts, ACCOUNTS).await;
                if let Err(error) = snapshots.remove(&key).await {
                    tracing::warn!("the view of an image stays until its lease ends: {error}");
                }
                texts.map_err(|source| Error::Rootfs { image: plan.image.name.clone(), source })
            }
            Err(error) => Err(error),
        };
        lease.release().await;
        texts
    }

    async fn take_back(&self, scope: &Scope, plan: &ReplicaPlan, done: &[Step]) {
        let id = &plan.id;
        for step in done.iter().rev() {
            let undone = match step {
                Step::Task => self.remove_task(scope, &plan.function.namespace, id).await,
                Step::Snapshot => self.snapshots(scope).remove(id.as_str()).await,
                Step::Record => container::delete(scope, id.as_str()).await,
            };
            if let Err(error) = gone_is_fine(undone) {
                tracing::warn!(replica = %id, "replica {id}: cannot take back a step of a failed start, {step:?}: {error}");
            }
        }
    }
}
