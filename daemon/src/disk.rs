//! What Roost keeps on the disk, and what it takes away when nobody needs it.
//!
//! ```text
//! every hour ──► images that nothing has used for images.keep_unused go
//! every minute ► is the file system fuller than images.disk_high? Then those unused longest go, until it is at disk_low
//! when asked ──► all go that nothing uses
//! ```
//!
//! Owns when images go; which ones may, [`Images`] decides. Output, calls and dead letters have limits of their own, kept by
//! whoever writes them; here they are only added up.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use roost_proxy::function::Namespace;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use crate::function::registry::Registry;
use crate::image::{ImageError, Images, KeptImage};
use crate::runtime::containerd::Containerd;
use crate::space::Space;

/// How often images that nobody uses are looked for.
const COLLECT_EVERY: Duration = Duration::from_secs(3600);

/// How often it is looked at how full the disk is.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Where containerd keeps images, if it does not say so.
pub const USUAL_ROOT: &str = "/var/lib/containerd";

/// When images go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long an image that no function uses is kept.
    pub keep_unused: Duration,
    /// How full, in percent, the file system of the images may be before images go that are not that old.
    pub high: u8,
    /// How full it is, in percent, when that is enough.
    pub low: u8,
}

/// The disk, and who knows what is needed of it. Cheap to clone.
#[derive(Clone)]
pub struct Disk {
    /// Functions.
    pub registry: Arc<Registry>,
    /// Images.
    pub images: Images,
    /// Asked where it keeps them.
    pub containerd: Containerd,
    /// Where the state is.
    pub state: PathBuf,
    /// When images go.
    pub settings: Settings,
}

/// An image that nothing uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unused {
    /// Whose it is.
    pub namespace: Namespace,
    /// The image, by one of its names.
    pub image: KeptImage,
}

/// What is kept, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The file systems that Roost is on, each once.
    pub file_systems: Vec<FileSystem>,
    /// Images, with the compressed size of each counted once.
    pub images: Sum,
    /// Those among them that [`Disk::prune`] would take away.
    pub unused: Sum,
    /// What is in the state directory, by name.
    pub state: Vec<(String, u64)>,
}

/// A file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// A directory on it.
    pub path: PathBuf,
    /// What is on it: `images`, `state`.
    pub holds: Vec<&'static str>,
    /// How full it is.
    pub space: Space,
}

/// So many, with so many bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many.
    pub count: usize,
    /// Bytes.
    pub size: u64,
}

impl Disk {
    /// Takes away what is not needed, now and then.
    pub async fn keep(self) {
        let (mut hours, mut looks) = (interval(COLLECT_EVERY), interval(LOOK_EVERY));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut full = false;
        loop {
            tokio::select! {
                _ = hours.tick() => self.collect().await,
                _ = looks.tick() => match self.relieve().await {
                    Ok(is_full) => {
                        self.tell(full, is_full);
                        full = is_full;
                    }
                    // Of containerd all else says more.
                    Err(error) => debug!(%error, "how full the disk is cannot be seen"),
                },
            }
        }
    }

    /// Removes images that have been unused for long.
    async fn collect(&self) {
        for namespace in self.registry.namespaces() {
            let in_use = self.registry.images_in_use(&namespace);
            match self.images.collect(&namespace, &in_use, self.settings.keep_unused).await {
                Ok(removed) if removed.is_empty() => {}
                Ok(removed) => info!("unused images of {namespace} removed: {}", removed.join(", ")),
                Err(error) => warn!("unused images of {namespace} stay: {error}"),
            }
        }
    }

    /// Removes images while the disk is too full; `true` if it is still, and there are no others.
    async fn relieve(&self) -> anyhow::Result<bool> {
        let root = self.root().await?;
        if Space::of(&root)?.used_percent <= self.settings.high {
            return Ok(false);
        }
        let enough = || Space::of(&root).is_ok_and(|space| space.used_percent <= self.settings.low);
        self.remove(self.unused().await?, enough).await?;
        Ok(Space::of(&root)?.used_percent > self.settings.high)
    }

    /// Says so when the disk is full, and when it is not any more.
    fn tell(&self, was: bool, is: bool) {
        let high = self.settings.high;
        match (was, is) {
            (false, true) => {
                warn!(
                    "the disk of the images is fuller than {high} % (images.disk_high), and all are used: see `roost system disk`"
                );
            }
            (true, false) => info!("the disk of the images is not fuller than {high} % any more"),
            _ => {}
        }
    }

    /// What [`Disk::prune`] would take away, those that have been unused longest first.
    ///
    /// # Errors
    /// When containerd fails.
    pub async fn unused(&self) -> Result<Vec<Unused>, ImageError> {
        let mut unused = Vec::new();
        for namespace in self.registry.namespaces() {
            let kept = self.images.kept(&namespace, &self.registry.images_in_use(&namespace)).await?;
            let may_go = kept.into_iter().filter(|image| image.disposable && !image.used);
            unused.extend(may_go.map(|image| Unused { namespace: namespace.clone(), image }));
        }
        unused.sort_by_key(|unused| unused.image.unused_since.unwrap_or(Timestamp::MAX));
        Ok(unused)
    }

    /// Takes away all images that nothing uses, but for those that a person has imported, and tells which.
    ///
    /// # Errors
    /// When containerd fails; what was removed by then stays removed.
    pub async fn prune(&self) -> Result<Vec<Unused>, ImageError> {
        self.remove(self.unused().await?, || false).await
    }

    async fn remove(
        &self,
        unused: Vec<Unused>,
        enough: impl Fn() -> bool,
    ) -> Result<Vec<Unused>, ImageError> {
        let mut removed = Vec::new();
        for one in unused {
            if enough() {
                break;
            }
            let in_use = self.registry.images_in_use(&one.namespace);
            if self.images.discard(&one.namespace, &one.image, &in_use).await? {
                removed.push(one);
            }
        }
        Ok(removed)
    }

    /// What there is.
    ///
    /// # Errors
    /// When containerd fails, or the state cannot be read.
    pub async fn report(&self) -> anyhow::Result<Report> {
        let (mut images, mut unused) = (Vec::new(), Vec::new());
        for namespace in self.registry.namespaces() {
            let kept = self.images.kept(&namespace, &self.registry.images_in_use(&namespace)).await?;
            unused.extend(kept.iter().filter(|image| image.disposable && !image.used).cloned());
            images.extend(kept);
        }
        let places = [("images", self.root().await?), ("state", self.state.clone())];
        let state = self.state.clone();
        let (file_systems, state) = tokio::task::spawn_blocking(move || {
            Ok::<_, io::Error>((file_systems(places)?, entries(&state)?))
        })
        .await??;
        Ok(Report { file_systems, images: sum(images), unused: sum(unused), state })
    }

    async fn root(&self) -> anyhow::Result<PathBuf> {
        Ok(self.containerd.connect().await?.root.unwrap_or_else(|| USUAL_ROOT.into()))
    }
}

/// Each image once, whatever names it has.
fn sum(mut images: Vec<KeptImage>) -> Sum {
    images.sort_by(|a, b| a.digest.cmp(&b.digest));
    images.dedup_by(|a, b| a.digest == b.digest);
    Sum { count: images.len(), size: images.iter().map(|image| image.size).sum() }
}

fn file_systems(places: impl IntoIterator<Item = (&'static str, PathBuf)>) -> io::Result<Vec<FileSystem>> {
    let mut found: Vec<(u64, FileSystem)> = Vec::new();
    for (what, path) in places {
        let device = std::fs::metadata(&path)?.dev();
        match found.iter_mut().find(|(other, _)| *other == device) {
            Some((_, there)) => there.holds.push(what),
            None => found.push((device, FileSystem { space: Space::of(&path)?, path, holds: vec![what] })),
        }
    }
    Ok(found.into_iter().map(|(_, file_system)| file_system).collect())
}

/// What is in a directory, with what it takes on the disk, the largest first.
fn entries(directory: &Path) -> io::Result<Vec<(String, u64)>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        entries.push((entry.file_name().to_string_lossy().into_owned(), taken(&entry.path())?));
    }
    entries.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Ok(entries)
}

/// What a file takes, or a directory with all that is in it. What goes meanwhile takes nothing.
fn taken(path: &Path) -> io::Result<u64> {
    let mut taken = 0;
    let mut left = vec![path.to_owned()];
    while let Some(path) = left.pop() {
        let found = std::fs::symlink_metadata(&path).and_then(|about| {
            if about.is_dir() {
                for entry in std::fs::read_dir(&path)? {
                    left.push(entry?.path());
                }
            }
            Ok(about.blocks() * 512)
        });
        match found {
            Ok(bytes) => taken += bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_of_two_names_is_counted_once() {
        let image = |name: &str, digest: &str| KeptImage {
            name: name.to_owned(),
            digest: digest.to_owned(),
            size: 100,
            used: false,
            disposable: true,
            unused_since: None,
        };
        let images = vec![image("a:1", "x"), image("b:1", "y"), image("a@x", "x")];
        assert_eq!(sum(images), Sum { count: 2, size: 200 });
    }

    #[test]
    fn entries_take_what_is_below_them() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("queue/deep")).unwrap();
        std::fs::write(dir.path().join("queue/deep/file"), vec![1; 300_000]).unwrap();
        std::fs::write(dir.path().join("roost.redb"), vec![1; 10_000]).unwrap();
        // It leads out of here, and is not followed.
        std::os::unix::fs::symlink("/usr", dir.path().join("queue/link")).unwrap();
        let found = entries(dir.path()).unwrap();
        let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["queue", "roost.redb"]);
        assert!((300_000..400_000).contains(&found[0].1), "{found:?}");
    }

    #[test]
    fn places_of_one_file_system_are_told_together() {
        let dir = tempfile::tempdir().unwrap();
        let places = [("images", dir.path().to_owned()), ("state", dir.path().to_owned())];
        let found = file_systems(places).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].holds, ["images", "state"]);
    }
}
