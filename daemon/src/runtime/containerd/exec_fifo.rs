//! The pipe at which a process of runc's waits before it becomes the program, and how it is let go on.
//!
//! ```text
//! runc create   makes the pipe, and a process that opens it to write and stands there
//!                            │ somebody opens it to read
//!                            ▼
//!               the process writes a byte and becomes the program
//! runc start    opens it to read, takes the byte, waits until nobody can write any more, removes the pipe
//! ```
//! Owns the part of that somebody. To have it done by a `runc start`, which containerd has to have started, takes some
//! 14 ms. Here the pipe is opened to read and to write: the process goes on at once, its byte stays in the pipe, and is
//! there for the `runc start` that containerd's word of the replica still needs. That one comes to its end when the pipe is
//! closed here, which is to be done as soon as the byte is taken: never before the byte is there, or its writer would end.
//!
//! All of it is runc's own way of doing; other runtimes have others. Where it is not found nothing is touched.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::inotify::AddWatchFlags;
use roost_proxy::function::{Namespace, ReplicaId};
use serde::Deserialize;
use tokio::net::unix::pipe;

use crate::inotify::Events;

/// Below this runc keeps its state, by namespace and id: containerd's shim says so, unless it is told otherwise.
const STATE_ROOT: &str = "/run/containerd/runc";

/// The pipe, in the directory of a container's state.
const FIFO: &str = "exec.fifo";

/// The state itself.
const STATE: &str = "state.json";

/// What a process of runc's is called by the kernel until it becomes the program.
const WAITING: &str = "runc:[2:INIT]";

/// What it writes. `runc start` looks at no more than that there is something.
const BYTE: &[u8] = b"0";

/// How far the first process of a replica is, by runc's word and the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    /// It waits at its pipe.
    Waits,
    /// It is the program, and runc was not told.
    Runs,
    /// Runc was told, or has nothing to do with it, or there is no such process.
    Unknown,
}

/// Of runc's state what matters here.
#[derive(Debug, Deserialize)]
struct State {
    init_process_pid: u32,
}

/// Where runc keeps what it knows of a replica.
pub(super) fn state_dir(namespace: &Namespace, id: &ReplicaId) -> PathBuf {
    Path::new(STATE_ROOT).join(namespace.as_str()).join(id.as_str())
}

/// How far the first process is of the replica whose state is in this directory.
pub(super) fn look(dir: &Path) -> First {
    let name = || -> io::Result<String> {
        if !fs::symlink_metadata(dir.join(FIFO))?.file_type().is_fifo() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no pipe"));
        }
        let state: State = serde_json::from_slice(&fs::read(dir.join(STATE))?)?;
        fs::read_to_string(format!("/proc/{}/comm", state.init_process_pid))
    };
    match name() {
        Ok(name) => judge(&name),
        Err(error) => {
            tracing::trace!(dir = %dir.display(), %error, "nobody waits here");
            First::Unknown
        }
    }
}

/// How far a first process is that the kernel calls by this name, while its pipe is there.
fn judge(name: &str) -> First {
    if name.trim_end() == WAITING { First::Waits } else { First::Runs }
}

/// Opens the pipe of the replica whose state will be in this directory, as soon as it is there.
///
/// # Errors
/// When nothing tells that it comes: where runc has not made a replica of this namespace since the host began, too.
pub(super) async fn coming(dir: &Path) -> io::Result<ExecFifo> {
    let events = Events::new()?;
    let watch = |dir: &Path| events.inotify().add_watch(dir, AddWatchFlags::IN_CREATE);
    watch(dir.parent().unwrap_or(dir))?;
    loop {
        // The directory comes first. Before it is there, its parent tells.
        match watch(dir) {
            Ok(_) | Err(Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
        match ExecFifo::open(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        events.next().await?;
    }
}

/// The pipe of one replica, open: whoever waits at it, or will, goes on.
#[derive(Debug)]
pub(super) struct ExecFifo(OwnedFd);

impl ExecFifo {
    /// Opens the pipe of the replica whose state is in this directory.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
            .open(dir.join(FIFO))?;
        // From here on it has to stay open until there is a byte.
        let fifo = Self(file.into());
        if let Err(error) = fifo.narrow() {
            tracing::debug!(%error, "nothing will tell when the byte is taken");
        }
        Ok(fifo)
    }

    /// Makes the pipe so small that one byte fills it: it can be written again when that was taken, and that is told.
    fn narrow(&self) -> io::Result<()> {
        // Of less than a page the kernel makes a page.
        fcntl(&self.0, FcntlArg::F_SETPIPE_SZ(1))?;
        Ok(())
    }

    /// Resolves when there is a byte in the pipe: the process has gone on. Never, where nobody waits. Cancel safe.
    ///
    /// # Errors
    /// When it is no pipe, or the kernel tells nothing of it.
    pub(super) async fn passed(&self) -> io::Result<()> {
        pipe::Receiver::from_owned_fd(self.0.try_clone()?)?.readable().await
    }

    /// Puts a byte into the pipe, in the name of one who went on when nobody took his.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn fill(&self) -> io::Result<()> {
        nix::unistd::write(&self.0, BYTE)?;
        Ok(())
    }

    /// Resolves when the byte that is in the pipe was taken, and closes it.
    ///
    /// # Errors
    /// When it is no pipe, or the kernel tells nothing of it. It is closed then, too.
    pub(super) async fn taken(self) -> io::Result<()> {
        pipe::Sender::from_owned_fd(self.0)?.writable().await
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::process::Command;
    use std::thread;
    use std::time::Duration;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use tokio::time::timeout;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);
    /// As long as nothing is looked for in vain.
    const MOMENT: Duration = Duration::from_millis(20);

    /// A directory as runc makes it, with a pipe.
    fn state() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        make_fifo(dir.path());
        dir
    }

    fn make_fifo(dir: &Path) {
        mkfifo(&dir.join(FIFO), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    }

    /// Waits at the pipe as a process of runc's does; what it then is waits for a word.
    fn waiter(dir: &Path) -> thread::JoinHandle<()> {
        let path = dir.join(FIFO);
        thread::spawn(move || OpenOptions::new().write(true).open(path).unwrap().write_all(BYTE).unwrap())
    }

    /// What `runc start` reads.
    fn start(dir: &Path) -> thread::JoinHandle<Vec<u8>> {
        let path = dir.join(FIFO);
        thread::spawn(move || {
            let mut read = Vec::new();
            fs::File::open(path).unwrap().read_to_end(&mut read).unwrap();
            read
        })
    }

    #[tokio::test]
    async fn who_waits_goes_on_at_once_and_a_start_behind_it_finds_the_byte() {
        let dir = state();
        let waiter = waiter(dir.path());
        let fifo = ExecFifo::open(dir.path()).unwrap();
        timeout(DEADLINE, fifo.passed()).await.unwrap().unwrap();
        waiter.join().unwrap();

        let taken = fifo.taken();
        tokio::pin!(taken);
        assert!(timeout(MOMENT, &mut taken).await.is_err(), "nobody took it yet");
        let start = start(dir.path());
        timeout(DEADLINE, taken).await.unwrap().unwrap();
        assert_eq!(start.join().unwrap(), BYTE);
    }

    #[tokio::test]
    async fn where_nobody_waits_nobody_goes_on_until_one_comes() {
        let dir = state();
        let fifo = ExecFifo::open(dir.path()).unwrap();
        assert!(timeout(MOMENT, fifo.passed()).await.is_err());
        let waiter = waiter(dir.path());
        timeout(DEADLINE, fifo.passed()).await.unwrap().unwrap();
        waiter.join().unwrap();
    }

    #[tokio::test]
    async fn a_byte_is_made_up_for_one_who_went_on_alone() {
        let dir = state();
        let fifo = ExecFifo::open(dir.path()).unwrap();
        fifo.fill().unwrap();
        let start = start(dir.path());
        timeout(DEADLINE, fifo.taken()).await.unwrap().unwrap();
        assert_eq!(start.join().unwrap(), BYTE);
    }

    #[tokio::test]
    async fn a_pipe_is_opened_as_soon_as_it_comes() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("echo-1");
        for made_before in [0, 1, 2] {
            let coming = coming(&dir);
            tokio::pin!(coming);
            if made_before > 0 {
                fs::create_dir(&dir).unwrap();
            }
            if made_before > 1 {
                make_fifo(&dir);
            }
            if made_before < 2 {
                assert!(timeout(MOMENT, &mut coming).await.is_err());
                fs::create_dir_all(&dir).unwrap();
                assert!(timeout(MOMENT, &mut coming).await.is_err());
                make_fifo(&dir);
            }
            timeout(DEADLINE, coming).await.unwrap().unwrap();
            fs::remove_dir_all(&dir).unwrap();
        }
        coming(&root.path().join("no/echo-1")).await.unwrap_err();
    }

    #[test]
    fn who_waits_is_told_from_who_runs() {
        let dir = state();
        assert_eq!(look(dir.path()), First::Unknown, "no word of a process");
        let write =
            |pid| fs::write(dir.path().join(STATE), format!(r#"{{"id": "a", "init_process_pid": {pid}}}"#));
        write(std::process::id()).unwrap();
        assert_eq!(look(dir.path()), First::Runs);
        write(u32::MAX).unwrap();
        assert_eq!(look(dir.path()), First::Unknown, "it has ended");

        let program = dir.path().join(WAITING);
        fs::copy("/bin/sleep", &program).unwrap();
        let mut waiting = Command::new(program).arg("60").spawn().unwrap();
        write(waiting.id()).unwrap();
        assert_eq!(look(dir.path()), First::Waits);
        fs::remove_file(dir.path().join(FIFO)).unwrap();
        assert_eq!(look(dir.path()), First::Unknown, "runc was told");
        waiting.kill().unwrap();
        waiting.wait().unwrap();
    }

    #[test]
    fn what_is_no_pipe_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        ExecFifo::open(dir.path()).unwrap_err();
        fs::write(dir.path().join(FIFO), "").unwrap();
        fs::write(dir.path().join(STATE), r#"{"init_process_pid": 1}"#).unwrap();
        assert_eq!(look(dir.path()), First::Unknown);
    }
}
