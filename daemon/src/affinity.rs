//! The key of the cookies by which clients come back to their replica: it outlives the daemon, as the replicas do.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use roost_proxy::AffinityKey;

/// Its file, below the daemon's state.
const FILE: &str = "affinity-key";

/// The key that an earlier daemon left in `state`, or a new one that the next will find there. The file is readable by its
/// owner alone.
///
/// # Errors
/// When the file can neither be read nor written.
pub fn key(state: &Path) -> anyhow::Result<AffinityKey> {
    let path = state.join(FILE);
    let key = match fs::read(&path) {
        Ok(bytes) => <[u8; 32]>::try_from(bytes).ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let key = match key {
        Some(key) => key,
        // Or the file is cut short: then all cookies are those of somebody else, and clients are placed anew.
        None => make(&path).with_context(|| format!("cannot write {}", path.display()))?,
    };
    Ok(AffinityKey::from(key))
}

fn make(path: &Path) -> io::Result<[u8; 32]> {
    let mut key = [0; 32];
    for half in key.chunks_exact_mut(16) {
        half.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    }
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(&key)?;
    file.sync_all()?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_next_daemon_has_the_same_key_and_nobody_else_reads_it() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join(FILE);
        key(state.path()).unwrap();
        let first = fs::read(&path).unwrap();
        key(state.path()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), first);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, b"short").unwrap();
        key(state.path()).unwrap();
        assert_eq!(fs::read(&path).unwrap().len(), 32);
    }
}
