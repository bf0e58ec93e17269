//! The start of a replica.
//!
//! ```text
//! lease → user of the image → spec → snapshot → container → task created → task started → lease released
//! ```
//! What was made is taken back in reverse when a later step fails; a failure to take back is logged, and the
//! rest goes on. Dropped in the middle, it leaves at most what `list` shows and `stop` removes.

use std::time::Duration;

use super::client::Scope;
use super::error::gone_is_fine;
use super::lease::Lease;
use super::snapshot::Snapshots;
use super::task::Tasks;
use super::user::{self, User};
use super::{Containerd, Error, container, output, rootfs, spec};
use crate::runtime::ReplicaPlan;

/// How long the lease of a start lives if we do not live to release it.
const LEASE_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// Where an image keeps its users and groups.
const ACCOUNTS: &[&str] = &["/etc/passwd", "/etc/group"];

/// A step of the start that has something to take back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Snapshot,
    Container,
    Task,
}

impl Containerd {
    /// Starts the replica `plan`; when this returns, its program runs.
    ///
    /// # Errors
    /// When a step fails. Then nothing of the replica is left, or the log says what.
    pub async fn start(&self, plan: &ReplicaPlan) -> Result<(), Error> {
        let scope = self.client().scope(&plan.function.namespace);
        tokio::fs::create_dir_all(&plan.log_dir)
            .await
            .map_err(Error::host("cannot create", &plan.log_dir))?;
        let lease = Lease::take(&scope, LEASE_LIFETIME).await?;
        let mut done = Vec::new();
        let started = self.start_under(lease.scope(), plan, &mut done).await;
        if let Err(error) = &started {
            tracing::debug!(replica = %plan.id, %error, "taking back a failed start");
            self.take_back(&scope, plan, &done).await;
        }
        lease.release().await;
        started
    }

    async fn start_under(
        &self,
        scope: &Scope,
        plan: &ReplicaPlan,
        done: &mut Vec<Step>,
    ) -> Result<(), Error> {
        let snapshots = self.snapshots(scope);
        let user = self.user(snapshots, plan).await?;
        let spec = spec::build(plan, self.settings(), &user, self.host())?;

        let rootfs = snapshots.prepare(plan.id.as_str(), &plan.image.chain_id).await?;
        done.push(Step::Snapshot);
        container::create(scope, self.settings(), plan, &spec).await?;
        done.push(Step::Container);

        let tasks = Tasks::new(scope);
        let output = output::uri(&self.settings().log_driver, plan.log_limit, &plan.log_dir);
        let entering = self.gates().enter(&plan.function.namespace).await;
        // Before the call: when it is not answered in time, the task may come all the same.
        done.push(Step::Task);
        tasks.create(plan.id.as_str(), rootfs, output).await?;
        self.gates().settle(&plan.function.namespace, &plan.id);
        drop(entering);
        tasks.start(plan.id.as_str()).await
    }

    /// Whom the image wants to run as. Its files are only looked at when they matter.
    async fn user(&self, snapshots: Snapshots<'_>, plan: &ReplicaPlan) -> Result<User, Error> {
        let image = &plan.image;
        if image.config.user.is_empty() {
            return Ok(User::root());
        }
        let key = format!("{}-accounts", plan.id);
        let mounts = snapshots.view(&key, &image.chain_id).await?;
        let texts = rootfs::read(mounts, ACCOUNTS).await;
        if let Err(error) = snapshots.remove(&key).await {
            tracing::warn!("the view of an image stays until its lease expires: {error}");
        }
        let texts = texts.map_err(|source| Error::Rootfs { image: image.name.clone(), source })?;
        let [passwd, group] = &texts[..] else { unreachable!("one text for each of the two files") };
        user::resolve(&image.config.user, passwd, group).map_err(|reason| Error::User {
            image: image.name.clone(),
            user: image.config.user.clone(),
            reason,
        })
    }

    async fn take_back(&self, scope: &Scope, plan: &ReplicaPlan, done: &[Step]) {
        let id = &plan.id;
        for step in done.iter().rev() {
            let undone = match step {
                Step::Task => self.remove_task(scope, &plan.function.namespace, id).await,
                Step::Container => container::delete(scope, id.as_str()).await,
                Step::Snapshot => self.snapshots(scope).remove(id.as_str()).await,
            };
            if let Err(error) = gone_is_fine(undone) {
                tracing::warn!(replica = %id, "replica {id}: cannot take back a step of a failed start, {step:?}: {error}");
            }
        }
    }
}
