//! The end of a replica on our order.
//!
//! ```text
//! start over → thaw → TERM to the first process → wait for the exit, at most the grace → KILL to all → delete task, container, snapshot
//! ```
//! Every step takes "not there" for done, so that a stop can be repeated until it works.

use std::time::Duration;

use nix::sys::signal::Signal;
use roost_proxy::function::{Namespace, ReplicaId};
use tokio::time::timeout;

use super::client::Scope;
use super::error::{Kind, gone_is_fine};
use super::shim::Leaving;
use super::task::Tasks;
use super::{Containerd, Error, container};
use crate::runtime::Standing;

/// How long the kernel may take to end what was killed: a process in a disk wait ends when the disk answers.
const KILL_DEADLINE: Duration = Duration::from_secs(30);

impl Containerd {
    /// Stops the replica and removes all of it. It gets TERM and the time `grace` to end, then KILL. What is gone
    /// already is taken for stopped.
    ///
    /// # Errors
    /// When containerd fails, or the kernel does not end a killed process in time. The call may be repeated.
    pub async fn stop(&self, namespace: &Namespace, id: &ReplicaId, grace: Duration) -> Result<(), Error> {
        self.starts().over(namespace, id).await;
        let scope = self.client().scope(namespace);
        let tasks = self.tasks(&scope, namespace);
        match tasks.get(id.as_str()).await {
            Ok(process) => match self.standing(namespace, id, &process) {
                Some(standing @ (Standing::Running | Standing::Paused)) => {
                    if standing == Standing::Paused
                        && let Err(error) = tasks.resume(id.as_str()).await
                    {
                        // By the state that was asked for; if containerd did not pause it, it cannot resume it.
                        tracing::debug!(replica = %id, %error, "not resumed by containerd");
                    }
                    // Signals reach it when it is thawed. One that we froze may run by containerd's word.
                    self.thaw(namespace, id).await?;
                    end(&tasks, id.as_str(), grace).await?;
                }
                // It has no program yet that could be asked to end.
                Some(Standing::Created) | None => {}
            },
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        self.remove_task(&scope, namespace, id).await?;
        gone_is_fine(container::delete(&scope, id.as_str()).await)?;
        gone_is_fine(self.snapshots(&scope).remove(id.as_str()).await)
    }

    /// Deletes the task, and with the namespace's last one the control group above it.
    pub(super) async fn remove_task(
        &self,
        scope: &Scope,
        namespace: &Namespace,
        id: &ReplicaId,
    ) -> Result<(), Error> {
        let leaving = self.gates().leave(namespace, id).await;
        gone_is_fine(self.tasks(scope, namespace).delete(id.as_str()).await)?;
        if matches!(leaving, Leaving::Last(_)) {
            self.cgroups().remove_namespace(&self.settings().cgroup_parent, namespace);
        }
        Ok(())
    }
}

/// Ends the first process of a running task, and all others with it.
async fn end(tasks: &Tasks, id: &str, grace: Duration) -> Result<(), Error> {
    gone_is_fine(tasks.kill(id, Signal::SIGTERM, false).await)?;
    match timeout(grace, tasks.wait(id)).await {
        Ok(ended) => return gone_is_fine(ended.map(drop)),
        Err(_elapsed) => tracing::debug!(replica = id, ?grace, "TERM was not enough"),
    }
    gone_is_fine(tasks.kill(id, Signal::SIGKILL, true).await)?;
    match timeout(KILL_DEADLINE, tasks.wait(id)).await {
        Ok(ended) => gone_is_fine(ended.map(drop)),
        Err(_elapsed) => Err(Error::Call {
            doing: "kill task",
            subject: id.to_owned(),
            kind: Kind::Timeout,
            message: format!("it still runs {KILL_DEADLINE:?} after KILL"),
        }),
    }
}
