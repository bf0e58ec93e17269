//! What functions print, kept by Roost itself.
//!
//! ```text
//! function ──stdout──┐                         ┌─ <state>/logs/<namespace>/<function>/<replica>.log
//!          ──stderr──┴─▶ driver (own process) ─┤                                      <replica>.log.1
//!                                              └─ the journal, where it runs                 │
//!                              GET /system/logs ◀── read, follow ◀── LogStore ◀──────────────┘
//! ```
//!
//! The driver is a process of its own, started by the shim for each replica. So a restart of the daemon loses
//! nothing, and files are all that the two sides share: the driver only appends and renames, the store only reads,
//! and removes what ended replicas left. Neither knows what a function is doing.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

mod armed;
pub mod driver;
mod follow;
mod journal;
mod output;
mod read;
mod record;
mod replica;
pub(crate) mod rotated;
mod split;
mod store;
mod told;

pub use read::Query;
pub use record::{Record, Stream};
pub use store::LogStore;

/// The longest text of one line in a log file, in bytes. A longer line of a function is written in parts.
const PART_LIMIT: usize = 16 * 1024;

/// The file that a replica's driver appends to.
fn current_file(dir: &Path, replica: &str) -> PathBuf {
    dir.join(format!("{replica}.log"))
}

/// The file before the current one. There is never a second.
fn rotated_file(dir: &Path, replica: &str) -> PathBuf {
    dir.join(format!("{replica}.log.1"))
}

/// The replica whose file this is; nothing for a file of any other kind.
fn replica_of(file_name: &OsStr) -> Option<&str> {
    let name = file_name.to_str()?;
    name.strip_suffix(".log").or_else(|| name.strip_suffix(".log.1")).filter(|replica| !replica.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_belongs_to_the_replica_in_its_name() {
        for (file, replica) in [
            ("echo-1a2b.log", Some("echo-1a2b")),
            ("echo-1a2b.log.1", Some("echo-1a2b")),
            ("echo-1a2b.log.2", None),
            ("echo-1a2b", None),
            (".log", None),
        ] {
            assert_eq!(replica_of(OsStr::new(file)), replica, "{file}");
        }
    }
}
