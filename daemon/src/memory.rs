//! Keeping the daemon small. glibc gives each thread that allocates an arena of its own and keeps what was freed
//! there. A daemon that fetches images now and then has many short-lived threads, and would hold megabytes for
//! nothing.

use std::time::Duration;

use crate::procfs;

/// How often what is not used is given back, whoever had it.
const EVERY: Duration = Duration::from_secs(15);

/// Gives back what is not used, now and then, for as long as the daemon runs. What a burst of work leaves is given back
/// at once by whoever did it; this is for what is freed behind that: threads that end, connections that close, and the code
/// of it all. A daemon that is busy has its code mapped again within microseconds.
pub async fn keep_small() {
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        ticks.tick().await;
        settle();
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

/// Gives back what a burst of work leaves: what the allocator holds and nobody uses, and the code that was run for it.
/// Takes about a millisecond.
pub fn settle() {
    give_back();
    if let Err(error) = forget_code() {
        tracing::debug!("the code that was run stays mapped: {error}");
    }
}

/// Unmaps the pages of our own code. Those that are needed are mapped again at once, from the kernel's cache; those that
/// only a start or a pull needed stay out, and are the first that the kernel may use for something else.
fn forget_code() -> std::io::Result<()> {
    let exe = std::fs::read_link("/proc/self/exe")?;
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    for (start, end) in maps.lines().filter_map(|line| code(line, exe.to_str()?)) {
        // SAFETY: the range is one mapping of this process, private, of a file, executable and not writable. Nothing was
        // ever written there, so what is read again from the file is what was there before.
        let advised = unsafe {
            libc::madvise(std::ptr::with_exposed_provenance_mut(start), end - start, libc::MADV_DONTNEED)
        };
        if advised != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

/// From where to where a line of `/proc/self/maps` maps code of the file `exe`.
fn code(line: &str, exe: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let is_code = fields.next()? == "r-xp" && fields.nth(3)? == exe && fields.next().is_none();
    let address = |text| usize::from_str_radix(text, 16).ok();
    is_code.then_some((address(start)?, address(end)?))
}

/// Gives back what the allocator holds and nobody uses.
fn give_back() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_the_program_itself_is_forgotten_and_it_goes_on() {
        let line = |rights: &str, file: &str| format!("5580-55a0 {rights} 00001000 fe:01 42    {file}");
        assert_eq!(code(&line("r-xp", "/bin/roostd"), "/bin/roostd"), Some((0x5580, 0x55a0)));
        assert_eq!(code(&line("r-xp", "/bin/roostd (deleted)"), "/bin/roostd"), None);
        for (rights, file) in
            [("rw-p", "/bin/roostd"), ("r--p", "/bin/roostd"), ("r-xp", "/lib/libc.so"), ("r-xp", "")]
        {
            assert_eq!(code(&line(rights, file), "/bin/roostd"), None, "{rights} {file}");
        }
        settle();
    }
}
