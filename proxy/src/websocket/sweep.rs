//! Writing what was said to many.
//!
//! Owns, for one lane, the list of connections that have something to be written, and the task that goes through it. Nobody
//! wakes the task of a connection for a frame that its socket takes at once: there are thousands of them, and each would be
//! woken and polled for one system call.
//!
//! What is said first is written at once. Behind that the sweep rests for as long as it has taken some times over, so that of
//! what is said meanwhile all that is for one client is written with one system call: sending costs the kernel by the call,
//! and hardly by the byte. Who is told something now and then does not wait, and a small group waits less than anybody sees.
//!
//! ```text
//!   said to many ──► each one's queue ──► the list of its lane ──► sweep: each one's queue ──► socket
//!                                                                     └── takes no more, ends, is in TLS ──► its task
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use super::member::Member;

/// How many times as long as it has taken a sweep rests.
const REST: u32 = 4;

/// The longest rest: so much later than without one may a client hear what was said to many.
const LONGEST_REST: Duration = Duration::from_millis(10);

/// So many are written to before others have their turn on the lane.
const AT_ONCE: usize = 64;

/// The sweep of one lane.
#[derive(Debug)]
pub(super) struct Sweep {
    lane: Handle,
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    /// Each is in it once, and leaves it before it is written to.
    members: Vec<Arc<Member>>,
    /// There is a task that goes through it.
    running: bool,
}

/// Those to whom something was said, by the sweeps that are to write it.
#[derive(Debug, Default)]
pub(super) struct Dirty(Vec<(Arc<Sweep>, Vec<Arc<Member>>)>);

impl Sweep {
    /// That of the lane, or runtime, in which this is called.
    pub(super) fn here() -> Arc<Self> {
        Arc::new(Self { lane: Handle::current(), list: Mutex::default() })
    }

    fn add(self: &Arc<Self>, mut members: Vec<Arc<Member>>) {
        let mut list = self.lock();
        if list.members.is_empty() {
            list.members = members;
        } else {
            list.members.append(&mut members);
        }
        if !list.running {
            list.running = true;
            self.lane.spawn(Arc::clone(self).run());
        }
    }

    async fn run(self: Arc<Self>) {
        loop {
            let members = {
                let mut list = self.lock();
                list.running = !list.members.is_empty();
                if !list.running {
                    return;
                }
                std::mem::take(&mut list.members)
            };
            let began = Instant::now();
            for (number, member) in members.into_iter().enumerate() {
                member.outbound.sweep();
                if number % AT_ONCE == AT_ONCE - 1 {
                    yield_now().await;
                }
            }
            let rest = began.elapsed().saturating_mul(REST).min(LONGEST_REST);
            // A timer knows no less than a millisecond.
            if rest >= Duration::from_millis(1) {
                sleep(rest).await;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        // Nothing happens under the lock that could leave it half done.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dirty {
    /// This one is to be written to by this sweep.
    pub(super) fn add(&mut self, sweep: &Arc<Sweep>, member: &Arc<Member>) {
        let known = self.0.iter_mut().find(|(one, _)| Arc::ptr_eq(one, sweep));
        match known {
            Some((_, members)) => members.push(Arc::clone(member)),
            None => self.0.push((Arc::clone(sweep), vec![Arc::clone(member)])),
        }
    }

    /// Has them written to.
    pub(super) fn sweep(self) {
        for (sweep, members) in self.0 {
            sweep.add(members);
        }
    }
}
