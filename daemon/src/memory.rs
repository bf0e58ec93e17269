//! Keeping the daemon small. glibc gives each thread that allocates an arena of its own and keeps what was freed
//! there. A daemon that fetches images now and then has many short-lived threads, and would hold megabytes for
//! nothing.

use std::time::Duration;

use crate::procfs;

/// How often what is not used is given back, whoever had it.
const EVERY: Duration = Duration::from_secs(15);

/// Gives back what is not used, now and then, for as long as the daemon runs. What a burst of work leaves is given back
/// at once by whoever did it; this is for what is freed behind that: threads that end, connections that close.
pub async fn keep_small() {
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        ticks.tick().await;
        give_back();
    }
}

/// Has all threads share as many arenas as there are async workers, which are the ones that must not wait for each
/// other. Called once, before there is a second thread.
pub fn bound(workers: usize) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let workers = libc::c_int::try_from(workers).unwrap_or(libc::c_int::MAX);
        // SAFETY: mallopt is told of a parameter that it knows; it may refuse, and then nothing has changed.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, workers) };
    }
}

/// Gives back what the allocator holds and nobody uses, after a burst of work. Takes about a millisecond.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: malloc_trim has no preconditions and may be called from any thread at any time.
        unsafe { libc::malloc_trim(0) };
    }
}

/// Below this much available memory the host is short of it, in bytes; or below a tenth of all it has.
const SHORT: u64 = 128 << 20;

/// Has the host little memory left?
#[must_use]
pub fn is_short() -> bool {
    // A host that does not say is taken for one that has enough: nothing is lost but speed, either way.
    procfs::memory().is_ok_and(|memory| memory.available < SHORT.max(memory.total / 10))
}
