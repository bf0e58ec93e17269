//! How the program of a replica begins, and how containerd comes to know that it does.
//!
//! ```text
//!          let go on at its pipe              containerd's own start, behind it
//! Created ───────────────────────▶ begun ──────────────────────────────────────▶ Running
//!    │                               │ the daemon ended: the next one finds it so, and makes up for it
//!    └── no such pipe: containerd's own start, waited for ──────────────────────────▲
//! ```
//! A replica that is begun is a running one by the kernel's word, which is what counts here ([`Containerd::standing`]), and
//! a created one by containerd's. Its end is seen and it can be killed in either state, but the start has to find it there,
//! and in motion: so whoever stops or freezes one waits for the start to be over ([`super::starts`]). When it fails all the
//! same, nothing is lost but containerd's word.

use std::io;
use std::path::Path;
use std::time::Duration;

use containerd_client::types::v1::Process;
use roost_proxy::function::{Namespace, ReplicaId};
use tokio::time::timeout;

use super::error::Kind;
use super::exec_fifo::{self, ExecFifo, First};
use super::starts::UnderWay;
use super::task;
use super::{Containerd, Error};
use crate::runtime::Standing;

/// How long a process that was let go on may take to do so. It has little to do: only a machine without memory or processor
/// time for it makes it late.
const PASS_DEADLINE: Duration = Duration::from_secs(60);

/// How long a start may still come of which containerd has no word because it is gone itself: its shim goes on.
const LATE_START: Duration = Duration::from_secs(2);

/// How long a start that waits at the pipe may take to see that there is a byte.
const TAKE_DEADLINE: Duration = Duration::from_millis(500);

impl Containerd {
    /// Lets the program of a created replica run; when this returns, it does.
    ///
    /// # Errors
    /// When it is not there, was begun before, or the program cannot be run. What there is of it stays.
    pub async fn begin(&self, namespace: &Namespace, id: &ReplicaId) -> Result<(), Error> {
        self.starts().over(namespace, id).await;
        if exec_fifo::look(&exec_fifo::state_dir(namespace, id)) == First::Runs {
            self.resume(namespace, id);
            return Ok(());
        }
        self.let_go(namespace, id, self.starts().begin(namespace, id)).await
    }

    /// As [`begin`](Self::begin), where `start` is the start that is under way.
    pub(super) async fn let_go(
        &self,
        namespace: &Namespace,
        id: &ReplicaId,
        start: UnderWay,
    ) -> Result<(), Error> {
        let dir = exec_fifo::state_dir(namespace, id);
        // One that runs already has gone on by the same start: its byte is in the pipe.
        let fifo = if exec_fifo::look(&dir) == First::Unknown { None } else { open(&dir) };
        let Some(fifo) = fifo else {
            return self.tasks(&self.client().scope(namespace), namespace).start(id.as_str()).await;
        };
        passed(&dir, &fifo).await?;
        tokio::spawn(self.clone().catch_up(namespace.clone(), id.clone(), fifo, start));
        Ok(())
    }

    /// Makes up for a daemon that began the replica and did not live to see containerd know it. For any that runs.
    pub fn resume(&self, namespace: &Namespace, id: &ReplicaId) {
        let dir = exec_fifo::state_dir(namespace, id);
        if exec_fifo::look(&dir) != First::Runs {
            return;
        }
        let Some(fifo) = open(&dir) else { return };
        if let Err(error) = fifo.fill() {
            return tracing::warn!(replica = %id, "containerd takes replica {id} for one that waits: {error}");
        }
        let start = self.starts().begin(namespace, id);
        tokio::spawn(self.clone().catch_up(namespace.clone(), id.clone(), fifo, start));
    }

    /// Lets a start of containerd's go on that waits at the pipe of this replica. It came behind a daemon that was killed, and
    /// the byte that it waits for went with that: until it has one, containerd has no word of the replica at all.
    pub(super) async fn unblock(&self, namespace: &Namespace, id: &ReplicaId) {
        let dir = exec_fifo::state_dir(namespace, id);
        if exec_fifo::look(&dir) != First::Runs {
            return;
        }
        let Some(fifo) = open(&dir) else { return };
        if let Err(error) = fifo.fill() {
            return tracing::debug!(replica = %id, %error, "nobody can be let go on at the pipe");
        }
        match timeout(TAKE_DEADLINE, fifo.taken()).await {
            Ok(Ok(())) => tracing::info!(replica = %id, "replica {id}: a start that had no end goes on"),
            Ok(Err(error)) => tracing::debug!(replica = %id, %error, "no word of the byte"),
            // Then there is none, as a rule. Nothing tells that.
            Err(_elapsed) => {}
        }
    }

    /// How far a replica is: by containerd's word, but for the one thing that it may not know.
    pub(super) fn standing(
        &self,
        namespace: &Namespace,
        id: &ReplicaId,
        process: &Process,
    ) -> Option<Standing> {
        let first = || exec_fifo::look(&exec_fifo::state_dir(namespace, id));
        match task::standing(process) {
            Some(Standing::Created) if first() == First::Runs => Some(Standing::Running),
            standing => standing,
        }
    }

    /// Has containerd start the replica whose program runs: there is a byte in its pipe.
    pub(super) async fn catch_up(
        self,
        namespace: Namespace,
        id: ReplicaId,
        fifo: ExecFifo,
        _under_way: UnderWay,
    ) {
        let tasks = self.tasks(&self.client().scope(&namespace), &namespace);
        let (started, taken) = (tasks.start(id.as_str()), fifo.taken());
        tokio::pin!(started, taken);
        let started = tokio::select! {
            // Whatever becomes of the byte: the pipe is closed then, or soon.
            started = &mut started => {
                let is_cut_off = matches!(&started, Err(error) if error.kind() == Some(Kind::Unavailable));
                if is_cut_off && timeout(LATE_START, &mut taken).await.is_err() {
                    tracing::debug!(replica = %id, "no start came behind a containerd that is gone");
                }
                started
            }
            taken = &mut taken => {
                if let Err(error) = taken {
                    tracing::debug!(replica = %id, %error, "no word of the byte");
                }
                started.await
            }
        };
        match started {
            Ok(()) => {}
            Err(error) if exec_fifo::look(&exec_fifo::state_dir(&namespace, &id)) == First::Runs => {
                tracing::warn!(replica = %id, "containerd takes replica {id}, which runs, for one that waits: {error}");
            }
            // It has ended meanwhile.
            Err(error) => tracing::debug!(replica = %id, %error, "not started by containerd"),
        }
    }
}

/// Resolves when a process has come to its pipe in this directory, and has gone on. Never, where none does, or where that
/// is not seen. Begins to look when it is polled.
pub(super) async fn passes(dir: &Path) -> ExecFifo {
    let fifo = async {
        let fifo = exec_fifo::coming(dir).await?;
        fifo.passed().await?;
        Ok::<_, io::Error>(fifo)
    };
    match fifo.await {
        Ok(fifo) => fifo,
        Err(error) => {
            tracing::debug!(dir = %dir.display(), %error, "not begun as soon as it could be");
            std::future::pending().await
        }
    }
}

/// The pipe in this directory. Without it there is another way.
fn open(dir: &Path) -> Option<ExecFifo> {
    match ExecFifo::open(dir) {
        Ok(fifo) => Some(fifo),
        Err(error) => {
            tracing::debug!(dir = %dir.display(), %error, "not begun at its pipe");
            None
        }
    }
}

/// Waits until the process that was let go on has done so.
async fn passed(dir: &Path, fifo: &ExecFifo) -> Result<(), Error> {
    let late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "its process does not go on"));
    let passed = timeout(PASS_DEADLINE, fifo.passed()).await.unwrap_or_else(late);
    passed.map_err(Error::host("cannot begin the program that waits in", dir))
}
