//! Where the daemon finds, and removes, what functions printed.
//!
//! Owns the layout of the directory, and the files of replicas that have ended. Never writes a line, never touches a
//! file that a driver may still write to.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::Stream;
use roost_proxy::function::{FunctionKey, Namespace, ReplicaId};

use super::follow::Following;
use super::read::{self, Query};
use super::record::Record;
use super::replica_of;

/// How many replicas that have ended keep their files. A function that ends at once, again and again, prints little each time.
const ENDED_LIMIT: usize = 32;

/// The log files of all functions on this host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LogStore {
    root: PathBuf,
    following: Arc<Following>,
}

impl LogStore {
    /// The files below `root`, which need not exist yet.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root, following: Arc::default() }
    }

    /// Where the drivers of this function's replicas write: the last two parts are its namespace and its name.
    #[must_use]
    pub fn directory(&self, key: &FunctionKey) -> PathBuf {
        self.root.join(key.namespace.as_str()).join(key.name.as_str())
    }

    /// What a function printed, in order of time. No lines, and no error, when it never printed.
    ///
    /// Files are read as the stream is polled. It fails once at most, and ends there.
    ///
    /// # Errors
    /// When what is there cannot be opened, or what is to come cannot be watched.
    pub async fn read(
        &self,
        query: Query,
    ) -> io::Result<impl Stream<Item = io::Result<Record>> + Send + use<>> {
        read::read(self.root.clone(), self.directory(&query.key), &self.following, query).await
    }

    /// Removes files of replicas that are not in `live`, the oldest first, until those that are left hold at most `cap` bytes.
    /// Returns whose files it removed.
    ///
    /// # Errors
    /// When the directory cannot be read or a file cannot be removed.
    pub async fn prune(&self, key: &FunctionKey, live: &[ReplicaId], cap: u64) -> io::Result<Vec<String>> {
        let dir = self.directory(key);
        let live = live.to_vec();
        tokio::task::spawn_blocking(move || prune(&dir, &live, cap)).await?
    }

    /// Removes the files of all functions but these: a daemon that was killed may have left some.
    ///
    /// # Errors
    /// When something cannot be read or removed.
    pub async fn retain(&self, keys: HashSet<FunctionKey>) -> io::Result<()> {
        let root = self.root.clone();
        tokio::task::spawn_blocking(move || retain(&root, &keys)).await?
    }

    /// Removes all files of a function. Its replicas have ended, or are ending: what they still print is lost.
    ///
    /// # Errors
    /// When something cannot be removed. That there is nothing is no error.
    pub async fn remove_function(&self, key: &FunctionKey) -> io::Result<()> {
        let dir = self.directory(key);
        tokio::task::spawn_blocking(move || if_there(fs::remove_dir_all(dir))).await?
    }

    /// Removes the directory of a namespace in which no function is left.
    ///
    /// # Errors
    /// When it cannot be removed, or something is in it. That it is not there is no error.
    pub async fn remove_namespace(&self, namespace: &Namespace) -> io::Result<()> {
        let dir = self.root.join(namespace.as_str());
        tokio::task::spawn_blocking(move || if_there(fs::remove_dir(dir))).await?
    }
}

/// See [`LogStore::retain`].
fn retain(root: &Path, keys: &HashSet<FunctionKey>) -> io::Result<()> {
    for namespace in fs::read_dir(root)? {
        let namespace = namespace?;
        for function in fs::read_dir(namespace.path())? {
            let function = function?;
            let (namespace, name) = (namespace.file_name(), function.file_name());
            let known = |key: &FunctionKey| {
                namespace.as_os_str() == key.namespace.as_str() && name.as_os_str() == key.name.as_str()
            };
            if !keys.iter().any(known) {
                if_there(fs::remove_dir_all(function.path()))?;
            }
        }
    }
    Ok(())
}

fn prune(dir: &Path, live: &[ReplicaId], cap: u64) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut ended = HashMap::<String, Ended>::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(id) = replica_of(&name).filter(|id| live.iter().all(|live| live.as_str() != *id)) else {
            continue;
        };
        let metadata = entry.metadata()?;
        let files = ended.entry(id.to_owned()).or_insert_with(|| Ended::new(id));
        files.bytes += metadata.len();
        files.last_written = files.last_written.max(metadata.modified()?);
        files.paths.push(entry.path());
    }
    let doomed = over_cap(ended.into_values().collect(), cap);
    for path in doomed.iter().flat_map(|files| &files.paths) {
        if_there(fs::remove_file(path))?;
    }
    Ok(doomed.into_iter().map(|files| files.id).collect())
}

fn if_there(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// The files of a replica that has ended.
#[derive(Debug)]
struct Ended {
    id: String,
    bytes: u64,
    last_written: SystemTime,
    paths: Vec<PathBuf>,
}

impl Ended {
    fn new(id: &str) -> Self {
        Self { id: id.to_owned(), bytes: 0, last_written: SystemTime::UNIX_EPOCH, paths: Vec::new() }
    }
}

/// Which have to go, so that the newest stay within `cap` bytes and [`ENDED_LIMIT`] replicas.
fn over_cap(mut ended: Vec<Ended>, cap: u64) -> Vec<Ended> {
    ended.sort_by(|a, b| b.last_written.cmp(&a.last_written).then_with(|| a.id.cmp(&b.id)));
    let mut bytes = 0_u64;
    let kept = ended.iter().take(ENDED_LIMIT).take_while(|files| {
        bytes = bytes.saturating_add(files.bytes);
        bytes <= cap
    });
    let kept = kept.count();
    ended.split_off(kept)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_newest_stay_within_the_cap() {
        let ended = |sizes: &[u64]| -> Vec<Ended> {
            let age = |n: usize| SystemTime::UNIX_EPOCH + Duration::from_secs(n as u64);
            let files = |(n, bytes): (usize, &u64)| Ended {
                bytes: *bytes,
                last_written: age(n),
                ..Ended::new(&n.to_string())
            };
            sizes.iter().enumerate().map(files).collect()
        };
        for (sizes, cap, gone) in [
            (vec![], 10, vec![]),
            (vec![5, 5], 10, vec![]),
            (vec![5, 5, 5], 10, vec!["0"]),
            (vec![1, 100, 5], 10, vec!["1", "0"]),
            (vec![5], 0, vec!["0"]),
        ] {
            let doomed: Vec<_> = over_cap(ended(&sizes), cap).into_iter().map(|files| files.id).collect();
            assert_eq!(doomed, gone, "{sizes:?} within {cap}");
        }
        assert_eq!(over_cap(ended(&vec![0; ENDED_LIMIT + 3]), 10).len(), 3);
    }

    #[tokio::test]
    async fn only_functions_that_are_known_keep_their_files() {
        let root = tempfile::tempdir().unwrap();
        let store = LogStore::new(root.path().to_owned());
        let [kept, gone] = ["kept", "gone"].map(|name| FunctionKey::from_route(name).unwrap());
        for key in [&kept, &gone] {
            fs::create_dir_all(store.directory(key)).unwrap();
        }
        store.retain(HashSet::from([kept.clone()])).await.unwrap();
        assert!(store.directory(&kept).exists());
        assert!(!store.directory(&gone).exists());
    }

    #[tokio::test]
    async fn files_of_live_replicas_stay_and_removing_a_function_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let store = LogStore::new(root.path().to_owned());
        let key = FunctionKey::from_route("echo").unwrap();
        assert_eq!(store.prune(&key, &[], 0).await.unwrap(), [""; 0]);
        store.remove_function(&key).await.unwrap();

        let dir = store.directory(&key);
        fs::create_dir_all(&dir).unwrap();
        for name in ["echo-a.log", "echo-a.log.1", "echo-b.log", "echo-b.log.1"] {
            fs::write(dir.join(name), "1234").unwrap();
        }
        let live: [ReplicaId; 1] = ["echo-b".parse().unwrap()];
        assert_eq!(store.prune(&key, &live, 8).await.unwrap(), [""; 0]);
        assert_eq!(store.prune(&key, &live, 7).await.unwrap(), ["echo-a"]);
        let mut left: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["echo-b.log", "echo-b.log.1"]);

        store.remove_function(&key).await.unwrap();
        assert!(!dir.exists());
    }
}
