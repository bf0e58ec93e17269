//! The secret of the cookies by which clients come back to their replicas, kept from one daemon to the next.
//!
//! Owns the file. Never makes a cookie: the proxy does.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use roost_proxy::AffinityKey;
use tempfile::NamedTempFile;
use tracing::warn;

const FILE: &str = "affinity.key";

/// The key in the directory `state`, made there if there is none. Where it cannot be kept, it is one for this daemon
/// only: clients lose their replicas with the next restart, which is no reason to serve nobody.
#[must_use]
pub fn key(state: &Path) -> AffinityKey {
    let path = state.join(FILE);
    match fs::read(&path).map(<[u8; 32]>::try_from) {
        Ok(Ok(key)) => return key.into(),
        Ok(Err(_)) => warn!("{} is not of 32 bytes: clients with a cookie get a new one", path.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => warn!("cannot read {}: {error}", path.display()),
    }
    let key = AffinityKey::random();
    if let Err(error) = keep(&key, state, &path) {
        warn!("cannot keep {}: {error}", path.display());
    }
    key
}

/// All of it or nothing, and readable for nobody else: that is how temporary files are made.
fn keep(key: &AffinityKey, state: &Path, path: &Path) -> io::Result<()> {
    let mut file = NamedTempFile::new_in(state)?;
    file.write_all(key.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_key_is_made_once_and_is_for_nobody_elses_eyes() {
        let state = tempfile::tempdir().unwrap();
        let made = key(state.path());
        assert_eq!(key(state.path()).as_bytes(), made.as_bytes());
        let file = state.path().join(FILE);
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&file, "short").unwrap();
        let second = key(state.path());
        assert_ne!(second.as_bytes(), made.as_bytes());
        assert_eq!(fs::read(&file).unwrap(), second.as_bytes());
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1, "nothing else is left there");
    }

    #[test]
    fn where_it_cannot_be_kept_there_is_one_all_the_same() {
        let state = tempfile::tempdir().unwrap();
        let nowhere = state.path().join("none");
        assert_ne!(key(&nowhere).as_bytes(), key(&nowhere).as_bytes());
    }
}
