//! Tells when the log files of functions changed: one inotify instance for all who follow any.
//!
//! Owns the instance and its watches. Instances are few on a host (`fs.inotify.max_user_instances`, often 128), followers
//! may be many. Reads no file.
//!
//! ```text
//! first follower ──▶ instance, and a task that reads it ──▶ the last one leaves: both are gone
//!                        └─events─▶ judged for each function that is followed ─▶ told to its followers
//! ```

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nix::errno::Errno;
use nix::sys::inotify::{Inotify, InotifyEvent};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;

use super::armed::{self, Armed, Changes, Verdict};
use super::told::Told;
use crate::inotify::Events;

/// Where followers come to. There is an instance as long as there is a follower.
#[derive(Debug, Default)]
pub(super) struct Following(Mutex<Weak<Shared>>);

/// A watch on the log files of one function.
pub(super) struct Watch {
    shared: Arc<Shared>,
    dir: PathBuf,
    told: Arc<Told>,
}

/// The instance, and who is to be told what it tells.
#[derive(Debug)]
struct Shared {
    root: PathBuf,
    events: Arc<Events>,
    /// By directory. None when the kernel tells no more.
    followed: Mutex<Option<HashMap<PathBuf, Followed>>>,
    /// Ends the reading.
    _reading: DropGuard,
}

/// The log files of one function.
#[derive(Debug)]
struct Followed {
    armed: Vec<Armed>,
    followers: Vec<Arc<Told>>,
}

impl Following {
    /// Watches `dir`, which may come to be later, below `root`, which exists and is always the same. Changes from now on are
    /// told.
    ///
    /// # Errors
    /// When `root` is not there, a part of the way is no directory, or the host has no more instances or watches.
    pub(super) fn watch(&self, root: &Path, dir: &Path) -> io::Result<Watch> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = match known.upgrade() {
            Some(shared) if shared.followed().is_some() => shared,
            _ => {
                let shared = Shared::start(root)?;
                *known = Arc::downgrade(&shared);
                shared
            }
        };
        drop(known);
        let told = Arc::new(Told::default());
        shared.join(dir, &told)?;
        Ok(Watch { shared, dir: dir.to_owned(), told })
    }
}

impl Watch {
    /// Waits for a change. May tell of one where there is none to be seen. Cancel safe.
    ///
    /// # Errors
    /// When no more will be told.
    pub(super) async fn changed(&mut self) -> io::Result<Changes> {
        self.told.next().await
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.leave(&self.dir, &self.told);
    }
}

impl Shared {
    fn start(root: &Path) -> io::Result<Arc<Self>> {
        let events = Arc::new(Events::new()?);
        let ended = CancellationToken::new();
        let shared = Arc::new(Self {
            root: root.to_owned(),
            events: Arc::clone(&events),
            followed: Mutex::new(Some(HashMap::new())),
            _reading: ended.clone().drop_guard(),
        });
        let reader = read(events, Arc::downgrade(&shared));
        tokio::spawn(async move { ended.run_until_cancelled(reader).await });
        Ok(shared)
    }

    fn followed(&self) -> MutexGuard<'_, Option<HashMap<PathBuf, Followed>>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, dir: &Path, told: &Arc<Told>) -> io::Result<()> {
        let mut followed = self.followed();
        let Some(all) = &mut *followed else { return Err(io::ErrorKind::BrokenPipe.into()) };
        if !all.contains_key(dir) {
            let armed = self.arm(dir, all)?;
            all.insert(dir.to_owned(), Followed { armed, followers: Vec::new() });
        }
        if let Some(function) = all.get_mut(dir) {
            function.followers.push(Arc::clone(told));
        }
        Ok(())
    }

    fn leave(&self, dir: &Path, told: &Arc<Told>) {
        let mut followed = self.followed();
        let Some(all) = &mut *followed else { return };
        let Some(function) = all.get_mut(dir) else { return };
        function.followers.retain(|other| !Arc::ptr_eq(other, told));
        if function.followers.is_empty()
            && let Some(function) = all.remove(dir)
        {
            release(self.events.inotify(), &function.armed, all);
        }
    }

    /// Watches a function's directory. When that fails, nothing that nobody else needs stays watched.
    fn arm(&self, dir: &Path, others: &HashMap<PathBuf, Followed>) -> io::Result<Vec<Armed>> {
        let mut armed = Vec::new();
        let result = armed::arm(self.events.inotify(), &self.root, dir, &mut armed);
        result.inspect_err(|_| release(self.events.inotify(), &armed, others)).map(|()| armed)
    }

    /// Tells of a batch of events whom it concerns.
    fn tell(&self, events: &[InotifyEvent]) {
        let mut followed = self.followed();
        let Some(all) = &mut *followed else { return };
        let mut moved = Vec::new();
        for (dir, function) in &*all {
            match armed::judge(events, &function.armed) {
                Verdict::Nothing => {}
                Verdict::Changed(changes) => function.tell(&changes),
                Verdict::Moved => moved.push(dir.clone()),
            }
        }
        for dir in moved {
            let Some(mut function) = all.remove(&dir) else { continue };
            match self.arm(&dir, all) {
                Ok(armed) => {
                    let before = std::mem::replace(&mut function.armed, armed);
                    function.tell(&Changes::All);
                    all.insert(dir, function);
                    release(self.events.inotify(), &before, all);
                }
                Err(error) => {
                    function.fail(&error);
                    release(self.events.inotify(), &function.armed, all);
                }
            }
        }
    }

    /// Tells everybody that no more will be told.
    fn fail(&self, error: &io::Error) {
        for function in self.followed().take().into_iter().flat_map(HashMap::into_values) {
            function.fail(error);
        }
    }
}

impl Followed {
    fn tell(&self, changes: &Changes) {
        for told in &self.followers {
            told.tell(changes);
        }
    }

    fn fail(&self, error: &io::Error) {
        for told in &self.followers {
            told.fail(error);
        }
    }
}

/// Reads events for as long as there is somebody to tell.
async fn read(events: Arc<Events>, shared: Weak<Shared>) {
    loop {
        let read = events.next().await;
        let Some(shared) = shared.upgrade() else { return };
        match read {
            Ok(events) => shared.tell(&events),
            Err(error) => return shared.fail(&error),
        }
    }
}

/// Takes watches away, but those that the functions in `kept` have as well.
fn release(inotify: &Inotify, old: &[Armed], kept: &HashMap<PathBuf, Followed>) {
    let needed = |armed: &&Armed| {
        kept.values().any(|function| function.armed.iter().any(|other| other.watch == armed.watch))
    };
    for armed in old.iter().filter(|armed| !needed(armed)) {
        match inotify.rm_watch(armed.watch) {
            // The kernel has dropped it already if its directory is gone.
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(error) => warn!("a directory of log files stays watched: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fs;

    use super::*;

    fn some(ids: &[&str]) -> Changes {
        Changes::Some(ids.iter().map(|id| (*id).to_owned()).collect::<HashSet<_>>())
    }

    /// How many directories are watched for a function.
    fn depth(watch: &Watch) -> usize {
        watch.shared.followed().as_ref().unwrap()[&watch.dir].armed.len()
    }

    #[tokio::test]
    async fn a_directory_that_is_made_later_is_watched_then() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("openfaas-fn/echo");
        let mut watch = Following::default().watch(root.path(), &dir).unwrap();
        assert_eq!(depth(&watch), 1);
        fs::create_dir_all(&dir).unwrap();
        while depth(&watch) < 3 {
            assert_eq!(watch.changed().await.unwrap(), Changes::All);
        }
        fs::write(dir.join("echo-a.log"), "x").unwrap();
        // What was told of the making may not have been taken yet.
        while watch.changed().await.unwrap() != some(&["echo-a"]) {}

        // As long as a driver has a file open there, the directory lives on without a name.
        let open = fs::File::open(dir.join("echo-a.log")).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        while depth(&watch) == 3 {
            watch.changed().await.unwrap();
        }
        fs::create_dir(&dir).unwrap();
        while depth(&watch) < 3 {
            watch.changed().await.unwrap();
        }
        drop(open);
    }

    #[tokio::test]
    async fn without_a_root_there_is_nothing_to_watch() {
        let root = tempfile::tempdir().unwrap();
        let missing = root.path().join("missing");
        assert!(Following::default().watch(&missing, &missing.join("a/b")).is_err());
    }

    #[tokio::test]
    async fn more_followers_than_a_user_may_have_instances_share_one_and_each_is_told_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let dirs = ["a", "b"].map(|name| root.path().join("openfaas-fn").join(name));
        for dir in &dirs {
            fs::create_dir_all(dir).unwrap();
        }
        let following = Following::default();
        let limit = fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").unwrap();
        let many = limit.trim().parse::<usize>().unwrap().min(2000) / 2 + 1;
        let watch = |dir: &PathBuf| following.watch(root.path(), dir).unwrap();
        let mut watches: Vec<_> = (0..many).flat_map(|_| [watch(&dirs[0]), watch(&dirs[1])]).collect();
        assert!(watches.iter().all(|watch| Arc::ptr_eq(&watch.shared, &watches[0].shared)));
        fs::write(dirs[0].join("a-1.log"), "x").unwrap();
        fs::write(dirs[1].join("b-1.log"), "x").unwrap();
        for (index, watch) in watches.iter_mut().enumerate() {
            let expected = some(&[["a-1", "b-1"][index % 2]]);
            assert_eq!(watch.changed().await.unwrap(), expected, "{index}");
        }
        // When nobody follows a function any more it is watched no more; when nobody follows any, the instance is gone.
        watches.retain(|watch| watch.dir == dirs[0]);
        let shared = Arc::downgrade(&watches[0].shared);
        assert_eq!(watches[0].shared.followed().as_ref().unwrap().len(), 1);
        fs::write(dirs[0].join("a-2.log"), "x").unwrap();
        while watches[0].changed().await.unwrap() != some(&["a-2"]) {}
        watches.clear();
        // The task that reads may be in the middle of a batch.
        while shared.upgrade().is_some() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_file_in_the_place_of_the_directory_is_an_error_for_its_followers_alone() {
        let root = tempfile::tempdir().unwrap();
        let dirs = ["a", "b"].map(|name| root.path().join(name));
        for dir in &dirs {
            fs::create_dir(dir).unwrap();
        }
        let following = Following::default();
        let [mut broken, mut whole] = dirs.each_ref().map(|dir| following.watch(root.path(), dir).unwrap());
        fs::rename(&dirs[0], root.path().join("elsewhere")).unwrap();
        fs::write(&dirs[0], "").unwrap();
        let error = loop {
            match broken.changed().await {
                // The moment between the two.
                Ok(changes) => assert_eq!(changes, Changes::All),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory, "{error}");
        assert!(following.watch(root.path(), &dirs[0]).is_err());
        fs::write(dirs[1].join("b-1.log"), "x").unwrap();
        assert_eq!(whole.changed().await.unwrap(), some(&["b-1"]));
    }
}
