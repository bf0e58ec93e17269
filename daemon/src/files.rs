//! How many files this process may have open, and how many connections that is enough for.
//!
//! Owns the daemon's own share: whatever clients do, it can go on asking containerd, writing its store and taking in what
//! functions say. `budget` is pure.

use std::num::NonZeroUsize;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;

/// Files of the daemon itself: its sockets, store and logs, what it has open for a moment to start replicas, and those who
/// read its metrics.
const OWN: u64 = 512;

/// A connection of a client, and one to a replica.
const EACH: u64 = 2;

/// Connections where nothing is set, if there are files for them.
const USUAL: usize = 65_536;

/// Where even this is too much, nothing would work at all.
const FEWEST: usize = 16;

/// What can be had.
#[derive(Debug, PartialEq, Eq)]
struct Budget {
    connections: usize,
    /// So many were wanted, and there are not the files for them.
    short_of: Option<usize>,
}

fn budget(files: u64, wanted: Option<NonZeroUsize>) -> Budget {
    let room = usize::try_from(files.saturating_sub(OWN) / EACH).unwrap_or(usize::MAX).max(FEWEST);
    match wanted.map(NonZeroUsize::get) {
        Some(wanted) if wanted > room => Budget { connections: room, short_of: Some(wanted) },
        Some(wanted) => Budget { connections: wanted, short_of: None },
        None => Budget { connections: USUAL.min(room), short_of: None },
    }
}

/// How many files it takes to hold as many connections as are wanted (`limits.connections`), or as is usual.
#[must_use]
pub fn needed(wanted: Option<NonZeroUsize>) -> u64 {
    let connections = wanted.map_or(USUAL, NonZeroUsize::get) as u64;
    OWN.saturating_add(connections.saturating_mul(EACH))
}

/// For how many connections so many files are enough.
#[must_use]
pub fn enough_for(files: u64) -> usize {
    budget(files, NonZeroUsize::new(usize::MAX)).connections
}

/// Has the system allow as many files as it ever does, and says how many connections there are to be: what is `wanted`
/// (`limits.connections`), or less where that is too much.
#[must_use]
pub fn connections(wanted: Option<NonZeroUsize>) -> usize {
    let files = match raise() {
        Ok(files) => files,
        Err(error) => {
            warn!("cannot tell how many files may be open: {error}");
            u64::MAX
        }
    };
    let budget = budget(files, wanted);
    if let Some(wanted) = budget.short_of {
        warn!(
            "limits.connections = {wanted}: there are files for {} only: this process may have {files} open, of which a \
             connection takes {EACH} and the daemon itself {OWN}. Raise LimitNOFILE of roostd.service",
            budget.connections
        );
    }
    budget.connections
}

fn raise() -> nix::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= hard {
        return Ok(soft);
    }
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => Ok(hard),
        Err(error) => {
            warn!("the limit on open files stays at {soft}, though {hard} are allowed: {error}");
            Ok(soft)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_more_connections_than_files_for_them_and_for_the_daemon() {
        for (files, wanted, connections, short_of) in [
            (1_048_576, None, 65_536, None),
            (1_048_576, Some(100_000), 100_000, None),
            (1_048_576, Some(600_000), 524_032, Some(600_000)),
            (20_000, None, 9_744, None),
            (20_000, Some(9_744), 9_744, None),
            (20_000, Some(9_745), 9_744, Some(9_745)),
            (1024, None, 256, None),
            (64, None, 16, None),
            (64, Some(1), 1, None),
            (u64::MAX, None, 65_536, None),
        ] {
            let budget = budget(files, wanted.and_then(NonZeroUsize::new));
            assert_eq!(budget, Budget { connections, short_of }, "{files} {wanted:?}");
        }
    }

    #[test]
    fn as_many_files_are_allowed_as_ever_are() {
        let files = raise().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (files, files));
    }
}
