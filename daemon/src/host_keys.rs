//! The secrets that this host makes for itself, kept from one daemon to the next.
//!
//! Owns their files. Never uses one: the proxy makes cookies, [`Passes`] tokens.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use roost_proxy::AffinityKey;
use tempfile::NamedTempFile;
use tracing::warn;
use uuid::Uuid;

use crate::passes::Passes;

type Key = [u8; 32];

/// The secret of the cookies by which clients come back to their replicas.
#[must_use]
pub fn affinity(state: &Path) -> AffinityKey {
    kept(state, "affinity.key", "clients with a cookie get a new one").into()
}

/// The secret by which functions are known when they speak to connections.
#[must_use]
pub fn passes(state: &Path) -> Passes {
    Passes::new(&kept(state, "connections.key", "replicas that run cannot speak to connections any more"))
}

/// The key in `file` of the directory `state`, made there if there is none. Where it cannot be kept, it is one for this
/// daemon only: what is lost with the next restart is no reason to serve nobody.
fn kept(state: &Path, file: &str, if_lost: &str) -> Key {
    let path = state.join(file);
    match fs::read(&path).map(Key::try_from) {
        Ok(Ok(key)) => return key,
        Ok(Err(_)) => warn!("{} is not of 32 bytes: {if_lost}", path.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => warn!("cannot read {}: {error}", path.display()),
    }
    let key = random();
    if let Err(error) = keep(&key, state, &path) {
        warn!("cannot keep {}: {error}", path.display());
    }
    key
}

/// 244 random bits.
fn random() -> Key {
    let mut key = [0; 32];
    key[..16].copy_from_slice(Uuid::new_v4().as_bytes());
    key[16..].copy_from_slice(Uuid::new_v4().as_bytes());
    key
}

/// All of it or nothing, and readable for nobody else: that is how temporary files are made.
fn keep(key: &Key, state: &Path, path: &Path) -> io::Result<()> {
    let mut file = NamedTempFile::new_in(state)?;
    file.write_all(key)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_is_for_nobody_elses_eyes() {
        let state = tempfile::tempdir().unwrap();
        let made = kept(state.path(), "a.key", "");
        assert_eq!(kept(state.path(), "a.key", ""), made);
        let file = state.path().join("a.key");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&file, "short").unwrap();
        let second = kept(state.path(), "a.key", "");
        assert_ne!(second, made);
        assert_eq!(fs::read(&file).unwrap(), second);
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1, "nothing else is left there");
        assert_ne!(kept(state.path(), "b.key", ""), second);
    }

    #[test]
    fn where_it_cannot_be_kept_there_is_one_all_the_same() {
        let state = tempfile::tempdir().unwrap();
        let nowhere = state.path().join("none");
        assert_ne!(kept(&nowhere, "a.key", ""), kept(&nowhere, "a.key", ""));
    }
}
