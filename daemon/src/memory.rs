//! Keeping the daemon small. glibc gives each thread that allocates an arena of its own and keeps what was freed
//! there. A daemon that fetches images now and then has many short-lived threads, and would hold megabytes for
//! nothing.

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
