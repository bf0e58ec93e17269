//! The making of a replica. What is made can wait for its start for as long as it is not needed; what is needed at once is
//! begun before all of it is made.
//!
//! ```text
//! create: user of the image → spec → record → snapshot → task            begin, some time later
//! start:  user of the image → spec → record → snapshot → task ───────▶ made → containerd's own start
//!                                                         └─ the process is there: the program runs
//! ```
//! The record names its snapshot from the start, so that containerd collects neither: no lease is needed.
//!
//! What was made is taken back in reverse when a later step fails; a failure to take back is logged, and the
//! rest goes on. Dropped in the middle, it leaves at most what `list` shows and `stop` removes.

use std::sync::Arc;
use std::time::Duration;

use containerd_client::types::Mount;
use futures_util::future::{self, Either};
use roost_proxy::function::{Namespace, ReplicaId};

use super::client::Scope;
use super::error::gone_is_fine;
use super::exec_fifo::{self, ExecFifo};
use super::lease::Lease;
use super::moves::Quick;
use super::starts::UnderWay;
use super::user::{self, User};
use super::{Containerd, Error, begin, container, output, rootfs, spec};
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

/// What a task is made with.
struct Task {
    namespace: Namespace,
    id: ReplicaId,
    rootfs: Vec<Mount>,
    output: String,
    /// Until it is made.
    quick: Arc<Quick>,
}

impl Containerd {
    /// Makes the replica `plan` and starts it; when this returns, its program runs. What containerd does behind that is
    /// not waited for.
    ///
    /// # Errors
    /// When a step fails. Then nothing of the replica is left, or the log says what.
    pub async fn start(&self, plan: &ReplicaPlan) -> Result<(), Error> {
        let scope = self.client().scope(&plan.function.namespace);
        let mut done = Vec::new();
        let started = self.try_start(&scope, plan, &mut done).await;
        self.or_take_back(started, &scope, plan, &done).await
    }

    /// Makes all of the replica `plan`, up to its first process, which waits for [`begin`](Self::begin) before it
    /// becomes the program. It waits through restarts of this daemon and of containerd.
    ///
    /// # Errors
    /// When a step fails. Then nothing of the replica is left, or the log says what.
    pub async fn create(&self, plan: &ReplicaPlan) -> Result<(), Error> {
        let scope = self.client().scope(&plan.function.namespace);
        let mut done = Vec::new();
        let created = self.try_create(&scope, plan, &mut done).await;
        self.or_take_back(created, &scope, plan, &done).await
    }

    async fn try_create(&self, scope: &Scope, plan: &ReplicaPlan, done: &mut Vec<Step>) -> Result<(), Error> {
        let task = self.prepare(scope, plan, done).await?;
        self.make(scope, task).await
    }

    /// Lets the process go on as soon as it comes to its pipe: runc, the shim and containerd have more to do behind that
    /// than the program has until it answers.
    async fn try_start(&self, scope: &Scope, plan: &ReplicaPlan, done: &mut Vec<Step>) -> Result<(), Error> {
        self.starts().over(&plan.function.namespace, &plan.id).await;
        let start = self.starts().begin(&plan.function.namespace, &plan.id);
        let task = self.prepare(scope, plan, done).await?;
        let (namespace, id) = (task.namespace.clone(), task.id.clone());
        let dir = exec_fifo::state_dir(&namespace, &id);
        let passes = Box::pin(begin::passes(&dir));
        let making = Box::pin({
            let (containerd, scope) = (self.clone(), scope.clone());
            async move { containerd.make(&scope, task).await }
        });
        match future::select(passes, making).await {
            Either::Left((fifo, making)) => {
                tokio::spawn(self.clone().finish(namespace, id, making, fifo, start));
                Ok(())
            }
            // The pipe is kept open, if it is open, until it is opened again.
            Either::Right((made, _passes)) => {
                made?;
                self.let_go(&namespace, &id, start).await
            }
        }
    }

    /// Waits until the task of a replica is made whose program runs already.
    async fn finish(
        self,
        namespace: Namespace,
        id: ReplicaId,
        making: impl Future<Output = Result<(), Error>> + Send,
        fifo: ExecFifo,
        start: UnderWay,
    ) {
        match making.await {
            Ok(()) => self.catch_up(namespace, id, fifo, start).await,
            // Whoever waits for its end finds that there is no such task, or how it ended.
            Err(error) => tracing::warn!(replica = %id, "replica {id}: begun, and then: {error}"),
        }
    }

    /// Makes what a task stands on.
    async fn prepare(&self, scope: &Scope, plan: &ReplicaPlan, done: &mut Vec<Step>) -> Result<Task, Error> {
        let quick = self.moves().quick();
        tokio::fs::create_dir_all(&plan.log_dir)
            .await
            .map_err(Error::host("cannot create", &plan.log_dir))?;
        let user = self.user(scope, plan).await?;
        let spec = spec::build(plan, self.settings(), &user, self.host())?;
        container::create(scope, self.settings(), plan, &spec).await?;
        done.push(Step::Record);
        let rootfs = self.snapshots(scope).prepare(plan.id.as_str(), &plan.image.chain_id).await?;
        // With the task, before the call: when it is not answered in time, the task may come all the same.
        done.extend([Step::Snapshot, Step::Task]);
        let output = output::uri(&self.settings().log_driver, plan.log_limit, &plan.log_dir);
        let (namespace, id) = (plan.function.namespace.clone(), plan.id.clone());
        Ok(Task { namespace, id, rootfs, output, quick })
    }

    async fn make(&self, scope: &Scope, task: Task) -> Result<(), Error> {
        let Task { namespace, id, rootfs, output, quick } = task;
        let entering = self.gates().enter(&namespace).await;
        self.tasks(scope, &namespace).create(id.as_str(), rootfs, output).await?;
        self.gates().settle(&namespace, &id);
        drop((entering, quick));
        Ok(())
    }

    /// Takes back what was done, if the rest of it failed.
    async fn or_take_back(
        &self,
        made: Result<(), Error>,
        scope: &Scope,
        plan: &ReplicaPlan,
        done: &[Step],
    ) -> Result<(), Error> {
        if let Err(error) = &made {
            tracing::debug!(replica = %plan.id, %error, "taking back a failed start");
            self.take_back(scope, plan, done).await;
        }
        made
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
