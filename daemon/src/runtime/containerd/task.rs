//! Tasks: the processes of containers. One function for each call, with its errors named.
//!
//! ```text
//!            create          start                    kill / exit            delete
//! (nothing) ───────▶ created ───────▶ running ◀─▶ paused ───────▶ stopped ───────▶ (nothing)
//! ```

use std::time::Duration;

use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{
    CreateTaskRequest, DeleteTaskRequest, GetRequest, KillRequest, ListTasksRequest, ResumeTaskRequest,
    StartRequest, WaitRequest,
};
use containerd_client::types::Mount;
use containerd_client::types::v1::{Process, Status};
use jiff::Timestamp;
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use super::Error;
use super::client::{Channel, Scope};
use super::error::Kind;
use super::shim::Turns;
use crate::runtime::Standing;

/// How long a task that was killed may take to be deletable.
const DELETE_DEADLINE: Duration = Duration::from_secs(10);

/// How long to wait between two attempts to delete. containerd publishes the exit before it takes note of it
/// itself; there is no event for the latter.
const DELETE_INTERVAL: Duration = Duration::from_millis(50);

/// How a task's first process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) code: u32,
    pub(super) at: Timestamp,
}

/// The tasks of one scope.
#[derive(Debug, Clone)]
pub(super) struct Tasks {
    scope: Scope,
    turns: Turns,
}

impl Tasks {
    pub(super) fn new(scope: &Scope, turns: Turns) -> Self {
        Self { scope: scope.clone(), turns }
    }

    fn client(&self) -> TasksClient<Channel> {
        TasksClient::new(self.scope.channel())
    }

    /// Makes the namespaces and the first process of `id`, which waits for [`Tasks::start`].
    pub(super) async fn create(&self, id: &str, rootfs: Vec<Mount>, output: String) -> Result<(), Error> {
        let request = CreateTaskRequest {
            container_id: id.to_owned(),
            rootfs,
            stdout: output.clone(),
            stderr: output,
            ..CreateTaskRequest::default()
        };
        let _turn = self.turns.begin().await;
        let created = self.client().create(self.scope.call(request)).await;
        created.map(drop).map_err(Error::call("create task", id))
    }

    /// Lets the program of `id` run.
    pub(super) async fn start(&self, id: &str) -> Result<(), Error> {
        let _turn = self.turns.begin().await;
        let request = StartRequest { container_id: id.to_owned(), exec_id: String::new() };
        self.client().start(self.scope.call(request)).await.map(drop).map_err(Error::call("start task", id))
    }

    /// Waits for the end of `id`, as long as it takes.
    pub(super) async fn wait(&self, id: &str) -> Result<Ended, Error> {
        let request = WaitRequest { container_id: id.to_owned(), exec_id: String::new() };
        let ended = self.client().wait(self.scope.endless(request)).await;
        let ended = ended.map_err(Error::call("wait for task", id))?.into_inner();
        Ok(Ended { code: ended.exit_status, at: time(ended.exited_at) })
    }

    /// The state of `id`.
    pub(super) async fn get(&self, id: &str) -> Result<Process, Error> {
        let request = GetRequest { container_id: id.to_owned(), exec_id: String::new() };
        let got = self.client().get(self.scope.call(request)).await;
        let got = got.map_err(Error::call("get task", id))?.into_inner();
        got.process.ok_or_else(|| Error::call("get task", id)(tonic::Status::not_found("no process")))
    }

    /// The states of all tasks.
    pub(super) async fn list(&self) -> Result<Vec<Process>, Error> {
        let request = self.scope.call(ListTasksRequest { filter: String::new() });
        let listed = self.client().list(request).await;
        Ok(listed.map_err(Error::call("list", "tasks"))?.into_inner().tasks)
    }

    /// Sends `signal` to the first process of `id`, or to all of them.
    pub(super) async fn kill(&self, id: &str, signal: Signal, all: bool) -> Result<(), Error> {
        let signal = signal as i32 as u32;
        let _turn = self.turns.end().await;
        let request = KillRequest { container_id: id.to_owned(), exec_id: String::new(), signal, all };
        self.client().kill(self.scope.call(request)).await.map(drop).map_err(Error::call("kill task", id))
    }

    /// Lets a frozen task go on, so that signals reach it.
    pub(super) async fn resume(&self, id: &str) -> Result<(), Error> {
        let request = ResumeTaskRequest { container_id: id.to_owned() };
        self.client().resume(self.scope.call(request)).await.map(drop).map_err(Error::call("resume task", id))
    }

    /// Deletes what is left of `id` after its end, killing what is not ended yet.
    pub(super) async fn delete(&self, id: &str) -> Result<(), Error> {
        let deadline = Instant::now() + DELETE_DEADLINE;
        loop {
            let request = DeleteTaskRequest { container_id: id.to_owned() };
            let turn = self.turns.end().await;
            let deleted = self.client().delete(self.scope.call(request)).await;
            drop(turn);
            let Err(error) = deleted.map_err(Error::call("delete task", id)) else { return Ok(()) };
            // The last of these is also what comes when the shim has just died: containerd removes its tasks in a
            // moment, and has no code of its own for it.
            let worth_a_try =
                matches!(error.kind(), Some(Kind::FailedPrecondition | Kind::Unavailable | Kind::Other));
            if !worth_a_try || Instant::now() >= deadline {
                return Err(error);
            }
            // If it fails for a reason that matters, the deletion fails again.
            if let Err(error) = self.kill(id, Signal::SIGKILL, true).await {
                tracing::debug!(%error, "the task may have ended meanwhile");
            }
            sleep(DELETE_INTERVAL).await;
        }
    }
}

/// How far a task is by containerd's word; `None` if it has ended.
pub(super) fn standing(process: &Process) -> Option<Standing> {
    match process.status() {
        Status::Created => Some(Standing::Created),
        Status::Running => Some(Standing::Running),
        Status::Paused | Status::Pausing => Some(Standing::Paused),
        Status::Stopped | Status::Unknown => None,
    }
}

/// How a task ended, if it did.
pub(super) fn ended(process: &Process) -> Option<Ended> {
    (process.status() == Status::Stopped)
        .then(|| Ended { code: process.exit_status, at: time(process.exited_at) })
}

/// A time of containerd's; now, where it has none.
fn time(time: Option<prost_types::Timestamp>) -> Timestamp {
    time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok()).unwrap_or_else(Timestamp::now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_stands_or_has_ended() {
        let process =
            |status: Status| Process { status: status.into(), exit_status: 3, ..Process::default() };
        for (status, expected, has_ended) in [
            (Status::Unknown, None, false),
            (Status::Created, Some(Standing::Created), false),
            (Status::Running, Some(Standing::Running), false),
            (Status::Pausing, Some(Standing::Paused), false),
            (Status::Paused, Some(Standing::Paused), false),
            (Status::Stopped, None, true),
        ] {
            let process = process(status);
            assert_eq!((standing(&process), ended(&process).is_some()), (expected, has_ended), "{status:?}");
        }
        assert_eq!(ended(&process(Status::Stopped)).map(|ended| ended.code), Some(3));
    }
}
