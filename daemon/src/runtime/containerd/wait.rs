//! The end of a replica, seen.
//!
//! A wait lasts as long as the replica does, which is longer than containerd may: after a break the state is
//! asked for, and if the replica still runs, it is waited for again.

use std::time::Duration;

use roost_proxy::function::{Namespace, ReplicaId};

use super::cgroup::{self, Memory};
use super::error::Kind;
use super::task::{self, Ended};
use super::{Containerd, Error};
use crate::pauses::Pauses;
use crate::runtime::Exit;

/// The waits between two attempts. There is no last attempt: an upgrade of containerd takes as long as it takes, and
/// the replica runs on meanwhile.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

impl Containerd {
    /// Waits until the replica ends. Survives restarts of containerd. A replica that is not there has ended with
    /// nobody watching: its exit has no code.
    ///
    /// # Errors
    /// When containerd refuses the question for good.
    pub async fn wait(&self, namespace: &Namespace, id: &ReplicaId) -> Result<Exit, Error> {
        // Its program may run before containerd knows that there is one.
        self.starts().over(namespace, id).await;
        let tasks = self.tasks(&self.client().scope(namespace), namespace);
        let mut pauses = Pauses::new(BACK_OFF);
        loop {
            let error = match tasks.wait(id.as_str()).await {
                Ok(ended) => return Ok(self.exit(namespace, id, ended).await),
                Err(error) => error,
            };
            match error.kind() {
                Some(Kind::NotFound) => return Ok(gone()),
                Some(Kind::Invalid | Kind::Unimplemented) => return Err(error),
                _ => tracing::debug!(replica = %id, %error, "will ask again"),
            }
            // A socket does not tell when somebody listens on it again.
            pauses.wait().await;
            match tasks.get(id.as_str()).await {
                Ok(process) => {
                    if let Some(ended) = task::ended(&process) {
                        return Ok(self.exit(namespace, id, ended).await);
                    }
                }
                Err(error) if error.is_not_found() => return Ok(gone()),
                Err(_still_away) => {}
            }
        }
    }

    /// An exit, with what the control group tells of it while it is still there: until the task is deleted.
    pub(super) async fn exit(&self, namespace: &Namespace, id: &ReplicaId, ended: Ended) -> Exit {
        let group = cgroup::path(&self.settings().cgroup_parent, namespace, id);
        let cgroups = self.cgroups().clone();
        let read = tokio::task::spawn_blocking(move || cgroups.memory(&group)).await;
        let memory = match read {
            Ok(Ok(memory)) => memory,
            // Somebody deleted the task just now. Then nobody asks why it ended either.
            Ok(Err(error)) => {
                tracing::debug!(replica = %id, %error, "no word on memory");
                Memory::default()
            }
            Err(error) => {
                tracing::warn!(replica = %id, "replica {id}: reading the control group failed: {error}");
                Memory::default()
            }
        };
        judge(ended, memory)
    }
}

/// A process that ended well was not ended by the kernel, whatever happened to a child of it before.
fn judge(ended: Ended, memory: Memory) -> Exit {
    Exit {
        code: Some(ended.code),
        at: ended.at,
        out_of_memory: memory.oom_kills > 0 && ended.code != 0,
        memory_limit: memory.limit,
    }
}

fn gone() -> Exit {
    Exit { code: None, at: jiff::Timestamp::now(), out_of_memory: false, memory_limit: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bad_end_after_a_kill_for_memory_is_out_of_memory() {
        let at = jiff::Timestamp::UNIX_EPOCH;
        for (code, oom_kills, expected) in [
            (137, 1, "out of memory (limit 1 MiB)"),
            (1, 2, "out of memory (limit 1 MiB)"),
            (0, 1, "exited with code 0"),
            (137, 0, "killed by signal 9"),
        ] {
            let exit = judge(Ended { code, at }, Memory { oom_kills, limit: Some(1 << 20) });
            assert_eq!(exit.to_string(), expected);
        }
    }
}
