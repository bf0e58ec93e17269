//! A host whose daemon has a supervisor: ended and followed by another one while its connections stay.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Host;
use crate::eventually;
use crate::process::{open_files, resident};

impl Host {
    /// The process of the daemon that the supervisor has now.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn supervised(&self) -> i32 {
        self.child().expect("a daemon")
    }

    fn child(&self) -> Option<i32> {
        let supervisor = self.daemon.as_ref().unwrap().pid();
        let children = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap();
        children.split_whitespace().next()?.parse().ok()
    }

    /// Has the daemon hand over to another one, as an upgrade does.
    pub async fn hand_over(&self) {
        let last = self.supervised();
        self.daemon.as_ref().unwrap().signal(Signal::SIGUSR2);
        self.followed(last).await;
    }

    /// Ends the daemon as a crash does; the supervisor starts another one.
    pub async fn crash(&self) {
        let last = self.supervised();
        kill(Pid::from_raw(last), Signal::SIGKILL).unwrap();
        self.followed(last).await;
    }

    /// Waits until the daemon that came after this one answers.
    async fn followed(&self, last: i32) {
        eventually("another daemon", || async { self.child().filter(|next| *next != last) }).await;
        eventually("its answer", || async { self.healthy().await.then_some(()) }).await;
    }

    /// The resident memory of the daemon and of its supervisor, in KiB, and how many files each has open.
    #[must_use]
    pub fn supervised_use(&self) -> [(u64, usize); 2] {
        let supervisor = self.daemon.as_ref().unwrap().pid();
        [Pid::from_raw(self.supervised()), supervisor].map(|pid| (resident(pid), open_files(pid)))
    }
}
