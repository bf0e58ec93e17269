//! The files that hold secrets: `DIRECTORY/NAMESPACE/NAME`, for nobody but root.
//!
//! Owns that directory. A file appears and changes whole and for good, or not at all. All calls block.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use roost_proxy::function::Namespace;

use super::SecretError;
use super::value::{SecretName, SecretValue};

/// Begins the names of files that are not whole yet. No secret's name does.
const UNFINISHED: &str = ".";

/// The secrets of all namespaces.
#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
}

impl Files {
    /// Those below `dir`, which is made if it is not there. What an earlier daemon did not finish writing is removed.
    pub(super) fn open(dir: PathBuf) -> Result<Self, SecretError> {
        private_directory(&dir)?;
        let unfinished = |path: &PathBuf| {
            path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(UNFINISHED.as_bytes()))
        };
        for namespace in entries(&dir)?.into_iter().filter(|path| path.is_dir()) {
            for path in entries(&namespace)?.into_iter().filter(|path| unfinished(path) && path.is_file()) {
                fs::remove_file(&path).map_err(SecretError::file("remove", &path))?;
            }
        }
        Ok(Self { dir })
    }

    fn path(&self, namespace: &Namespace, name: &SecretName) -> PathBuf {
        self.dir.join(namespace.as_str()).join(name.as_str())
    }

    pub(super) fn contains(&self, namespace: &Namespace, name: &SecretName) -> bool {
        self.path(namespace, name).is_file()
    }

    /// The names of a namespace's secrets, in order.
    pub(super) fn list(&self, namespace: &Namespace) -> Result<Vec<SecretName>, SecretError> {
        let paths = entries(&self.dir.join(namespace.as_str()))?;
        let name = |path: PathBuf| path.file_name()?.to_str()?.parse().ok();
        let mut names: Vec<SecretName> = paths.into_iter().filter_map(name).collect();
        names.sort();
        Ok(names)
    }

    pub(super) fn read(&self, namespace: &Namespace, name: &SecretName) -> Result<SecretValue, SecretError> {
        let path = self.path(namespace, name);
        match fs::read(&path) {
            Ok(bytes) => {
                let large = |error| SecretError::file("use", &path)(io::Error::other(error));
                SecretValue::try_from(bytes).map_err(large)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Err(SecretError::Absent(name.to_string())),
            Err(error) => Err(SecretError::file("read", &path)(error)),
        }
    }

    /// Writes a secret. It is on disk when this returns.
    pub(super) fn write(
        &self,
        namespace: &Namespace,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<(), SecretError> {
        let dir = self.dir.join(namespace.as_str());
        private_directory(&dir)?;
        let path = dir.join(name.as_str());
        put(&dir, &path, value, 0o600)
            .and_then(|()| sync(&dir))
            .and_then(|()| sync(&self.dir))
            .map_err(SecretError::file("write", &path))
    }

    /// Removes a secret, and with the last one the namespace's directory.
    pub(super) fn remove(&self, namespace: &Namespace, name: &SecretName) -> Result<(), SecretError> {
        let (dir, path) = (self.dir.join(namespace.as_str()), self.path(namespace, name));
        match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(SecretError::Absent(name.to_string()));
            }
            removed => removed.and_then(|()| sync(&dir)).map_err(SecretError::file("remove", &path))?,
        }
        remove_if_empty(&dir).map_err(SecretError::file("remove", &dir))
    }
}

/// Writes a file beside `temporary`'s other entries and then puts it at `path`: whoever opens that finds the old
/// content or the new one. `temporary` and `path` must be on one mount.
pub(super) fn put(temporary: &Path, path: &Path, value: &SecretValue, mode: u32) -> io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(temporary)?;
    file.write_all(value.bytes())?;
    // Not at its creation: the umask would take from it.
    file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Makes a directory that only root can look into, also if it was there with other rights.
pub(super) fn private_directory(path: &Path) -> Result<(), SecretError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
        .map_err(SecretError::file("make the directory", path))
}

/// What is in a directory; nothing if there is none.
pub(super) fn entries(dir: &Path) -> Result<Vec<PathBuf>, SecretError> {
    let listed = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect()),
    };
    listed.map_err(SecretError::file("list", dir))
}

/// Removes a directory if nothing is in it.
pub(super) fn remove_if_empty(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => Ok(()),
        removed => removed,
    }
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
