//! How full a file system is.

use std::io;
use std::path::Path;

use nix::sys::statvfs::{FsFlags, statvfs};

/// What a file system has, in bytes and in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What is left for programs that are not root's, in bytes.
    pub free: u64,
    /// All of it, in bytes.
    pub total: u64,
    /// What is taken, in percent of what programs can have, rounded up: as `df` says it.
    pub used_percent: u8,
    /// How many files it can take yet.
    pub free_inodes: u64,
    /// How many files it can take in all; 0 where there is no such limit.
    pub inodes: u64,
    /// Is it mounted so?
    pub read_only: bool,
}

impl Space {
    /// That of the file system of `path`.
    ///
    /// # Errors
    /// When there is no such path, or it may not be looked at.
    #[allow(clippy::useless_conversion, reason = "the types differ by machine")]
    pub fn of(path: &Path) -> io::Result<Self> {
        let about = statvfs(path)?;
        let bytes = |blocks: u64| blocks.saturating_mul(about.fragment_size().into());
        let (total, free) = (bytes(about.blocks().into()), bytes(about.blocks_available().into()));
        Ok(Self {
            free,
            total,
            used_percent: used_percent(total.saturating_sub(bytes(about.blocks_free().into())), free),
            free_inodes: about.files_available().into(),
            inodes: about.files().into(),
            read_only: about.flags().contains(FsFlags::ST_RDONLY),
        })
    }
}

fn used_percent(used: u64, free: u64) -> u8 {
    let all = u128::from(used) + u128::from(free);
    let percent = (u128::from(used) * 100).checked_div(all).unwrap_or(0);
    let exact = all == 0 || percent * all == u128::from(used) * 100;
    u8::try_from(percent + u128::from(!exact)).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_rounded_up_and_never_over_a_hundred() {
        let table = [(0, 100, 0), (1, 999, 1), (85, 15, 85), (851, 149, 86), (7, 0, 100), (0, 0, 0)];
        for (used, free, percent) in table {
            assert_eq!(used_percent(used, free), percent, "{used} {free}");
        }
        assert_eq!(used_percent(u64::MAX, u64::MAX), 50);
    }
}
