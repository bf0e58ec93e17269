//! Images: from a reference that a person wrote to an unpacked snapshot that a replica can start from.
//!
//! ```text
//! ensure(reference) ── here, and the policy is content ──────────────────► unpack if need be ─► ResolvedImage
//!      │ ask the registry for the digest ── the same as here ────────────►       ▲
//!      └── pull: documents → layers → snapshot → names ──────────────────────────┘
//! import(archive) ── the same, from a file       pinned(name, digest) ── from this host alone
//! ```
//!
//! Owns what is fetched, checked, unpacked, named and collected. It knows nothing of functions: who uses an image
//! is told to [`Images::collect`]. All bytes live in containerd; this module keeps nothing but what is under way.

mod archive;
mod collect;
mod content;
mod credentials;
mod error;
mod finish;
mod flight;
mod import;
mod local;
mod manifest;
mod platform;
mod progress;
mod pull;
mod record;
mod reference;
mod registry;
mod store;
mod unpack;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::Timestamp;
use roost_proxy::function::Namespace;

pub use self::error::ImageError;
pub use self::platform::Platform;
pub use self::progress::{Phase, Progress};
pub use self::reference::Reference;

use self::collect::{Recent, Verdict};
use self::flight::Flights;
use self::manifest::{Configuration, Descriptor, Manifest};
use self::record::{Origin, Record};
use self::store::{Locks, Store};
use crate::runtime::containerd::client::Client;

/// An image that is on this host, unpacked, and pinned by its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedImage {
    /// The reference in full, such as `docker.io/library/busybox:latest`.
    pub name: String,
    /// The digest of the manifest for this platform, such as `sha256:…`.
    pub digest: String,
    /// The chain id of its topmost layer: the key of the committed snapshot to start from.
    pub chain_id: String,
    /// What the image says about running it.
    pub config: ImageConfig,
}

/// What an image says about running it: the `config` part of an OCI image configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `ENTRYPOINT`.
    pub entrypoint: Vec<String>,
    /// `CMD`, behind the entrypoint.
    pub cmd: Vec<String>,
    /// `KEY=VALUE`.
    pub env: Vec<String>,
    /// `user[:group]`, names or numbers; empty for root.
    pub user: String,
    /// Empty for `/`.
    pub working_dir: String,
}

/// Whether a registry is asked for an image that is on this host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// Ask what the tag means now, and fetch what is new. Imported images and digests are taken as they are.
    #[default]
    Always,
    /// Take what is on this host; ask only for what is not.
    IfNotPresent,
}

/// How to fetch images.
#[derive(Debug, Clone)]
pub struct Settings {
    /// containerd's snapshotter, such as `overlayfs`.
    pub snapshotter: String,
    /// What to choose from images that are there for several platforms.
    pub platform: Platform,
    /// Credentials, in the form of Docker's `config.json`. Read at each pull; may be missing.
    pub docker_config: PathBuf,
    /// What is special about a registry, by `host[:port]`.
    pub registries: HashMap<String, RegistrySettings>,
    /// The largest image that is fetched or imported, in bytes as it travels; for archives, unpacked from gzip.
    pub max_image_bytes: u64,
    /// The largest layer that is fetched, in bytes as it travels.
    pub max_layer_bytes: u64,
    /// Where compressed archives are unpacked to while they are imported.
    pub work_dir: PathBuf,
}

/// What is special about one registry.
#[derive(Debug, Clone, Default)]
pub struct RegistrySettings {
    /// Speak HTTP without TLS. Unset: only to this machine itself.
    pub plain_http: Option<bool>,
    /// A file with certificates (PEM) to trust besides the system's.
    pub ca_file: Option<PathBuf>,
}

/// One image on this host, by one of its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSummary {
    /// The reference in full.
    pub name: String,
    /// The digest of the manifest for this platform.
    pub digest: String,
    /// Bytes, compressed.
    pub size: u64,
    /// When it was pulled or imported.
    pub created_at: Timestamp,
    /// Did it come from an archive?
    pub imported: bool,
}

/// One name of an image, as the disk sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptImage {
    /// The reference in full, or with the digest that it is pinned by.
    pub name: String,
    /// The digest of the manifest for this platform.
    pub digest: String,
    /// Bytes, compressed.
    pub size: u64,
    /// Does a function use it, or may one soon?
    pub used: bool,
    /// May it go when nothing uses it? What a person has imported stays.
    pub disposable: bool,
    /// When it was found that nothing uses it.
    pub unused_since: Option<Timestamp>,
}

/// The images of this host. Cheap to clone.
#[derive(Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    snapshotter: Arc<str>,
    client: Client,
    flights: Flights,
    locks: Locks,
    recent: Recent,
}

impl Images {
    /// Images in the containerd behind `client`. No I/O yet.
    ///
    /// # Errors
    /// When the process has not chosen a TLS implementation: see `rustls::crypto::CryptoProvider`.
    pub fn new(settings: Settings, client: Client) -> Result<Self, ImageError> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            let cause = "no TLS implementation is installed in this process".to_owned();
            return Err(ImageError::Host { doing: "prepare for pulling images".to_owned(), cause });
        }
        let snapshotter = settings.snapshotter.as_str().into();
        let (flights, locks, recent) = (Flights::default(), Locks::default(), Recent::default());
        let inner = Inner { settings, snapshotter, client, flights, locks, recent };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Sees to it that the image of `reference` is on this host, unpacked.
    ///
    /// Calls that want the same image at the same time share one pull, and its progress. A call that is dropped
    /// takes nothing from the others.
    ///
    /// # Errors
    /// When the image cannot be had. With [`PullPolicy::Always`] also when its registry cannot be asked and an image
    /// of that name is on this host: whether to be content with it is the caller's decision.
    pub async fn ensure(
        &self,
        namespace: &Namespace,
        reference: &Reference,
        policy: PullPolicy,
        progress: &Progress,
    ) -> Result<ResolvedImage, ImageError> {
        let image = self.find_or_pull(namespace, reference, policy, progress).await?;
        self.inner.recent.note(&image.digest);
        Ok(image)
    }

    async fn find_or_pull(
        &self,
        namespace: &Namespace,
        reference: &Reference,
        policy: PullPolicy,
        progress: &Progress,
    ) -> Result<ResolvedImage, ImageError> {
        let store = self.store(namespace);
        let here = self.here(&store, reference).await?;
        let must_ask = policy == PullPolicy::Always && reference.digest().is_none();
        if let Some((record, image)) = &here
            && (!must_ask || record.origin == Origin::Imported)
            && let Some(resolved) = self.reuse(&store, record, image, reference).await?
        {
            return Ok(resolved);
        }
        let registry = registry::Registry::open(&self.inner.settings, reference).await?;
        let digest = match reference.digest() {
            Some(digest) => digest.to_owned(),
            None => pull::again(|| registry.digest()).await?,
        };
        if let Some((record, image)) = &here
            && record.target == digest
            && let Some(resolved) = self.reuse(&store, record, image, reference).await?
        {
            return Ok(resolved);
        }
        let key = format!("{namespace} {reference} {digest}");
        let settings = self.inner.settings.clone();
        let reference = reference.clone();
        let (work, counters) = self.inner.flights.join(key, move |counters| {
            let pull = pull::Pull { settings, store, registry, reference, counters };
            async move { pull.run(&digest).await }.boxed()
        });
        progress.follow(&counters);
        work.await
    }

    /// The image that was pinned as `name` with `digest`, from this host alone; `None` if it is not here any more.
    /// Unpacks it again if its snapshot is gone.
    ///
    /// # Errors
    /// When `name` is not a reference, or containerd fails.
    pub async fn pinned(
        &self,
        namespace: &Namespace,
        name: &str,
        digest: &str,
    ) -> Result<Option<ResolvedImage>, ImageError> {
        let reference: Reference = name.parse()?;
        let store = self.store(namespace);
        let Some(record) = store.record(&reference.pinned(digest)).await? else { return Ok(None) };
        let Some(image) = self.load(&store, &record).await? else { return Ok(None) };
        self.reuse(&store, &record, &image, &reference).await
    }

    /// Stores and unpacks the images of an archive: an OCI image layout or what `docker save` writes, as tar, plain
    /// or gzip. If it holds one image, `name` may name it; else the archive has to.
    ///
    /// # Errors
    /// When the archive cannot be used, with what is wrong with it, or when containerd fails.
    pub async fn import(
        &self,
        namespace: &Namespace,
        archive: File,
        name: Option<&Reference>,
    ) -> Result<Vec<ResolvedImage>, ImageError> {
        let settings = &self.inner.settings;
        let (work_dir, limit) = (settings.work_dir.clone(), settings.max_image_bytes);
        let archive = import::blocking(move || archive::Archive::open(archive, &work_dir, limit)).await?;
        let images = import::import(&self.store(namespace), &settings.platform, archive, name).await?;
        images.iter().for_each(|image| self.inner.recent.note(&image.digest));
        Ok(images)
    }

    /// The images of this host by the names that people gave; those that are only pinned are left out.
    ///
    /// # Errors
    /// When containerd fails.
    pub async fn list(&self, namespace: &Namespace) -> Result<Vec<ImageSummary>, ImageError> {
        let records = self.store(namespace).records().await?;
        let named = records.iter().filter(|record| !is_only_pin(record, &records));
        let mut summaries: Vec<ImageSummary> = named.map(summary).collect();
        summaries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(summaries)
    }

    /// Removes the name `reference`, and the image with it if it has no other. Returns when containerd has freed
    /// what nothing else needs. Whether a function uses it is for the caller to know.
    ///
    /// # Errors
    /// [`ImageError::Absent`] when there is no such name, or when containerd fails.
    pub async fn remove(&self, namespace: &Namespace, reference: &Reference) -> Result<(), ImageError> {
        let store = self.store(namespace);
        let name = reference.to_string();
        let records = store.records().await?;
        let Some(record) = records.iter().find(|record| record.name == name) else {
            return Err(ImageError::Absent { name });
        };
        let pinned = reference.pinned(&record.manifest);
        let has_other_name = records.iter().any(|other| {
            let is_another = other.name != name && other.name != pinned;
            is_another && other.manifest == record.manifest && is_same_path(&other.name, &pinned)
        });
        store.forget(&name, has_other_name).await?;
        if !has_other_name {
            store.forget(&pinned, true).await?;
        }
        tracing::info!(image = name, digest = record.manifest, "removed the image {name}");
        Ok(())
    }

    /// Removes images that were pulled, and that have not been among the digests `in_use` for as long as
    /// `older_than`. Imported images stay. Returns the names that were removed.
    ///
    /// # Errors
    /// When containerd fails; what was removed by then stays removed.
    pub async fn collect(
        &self,
        namespace: &Namespace,
        in_use: &HashSet<String>,
        older_than: Duration,
    ) -> Result<Vec<String>, ImageError> {
        let store = self.store(namespace);
        let (in_use, now) = (self.inner.recent.and(in_use), Timestamp::now());
        let mut removed = Vec::new();
        for mut record in store.records().await? {
            match collect::decide(&record, &in_use, older_than, now) {
                Verdict::Keep => {}
                Verdict::Mark => {
                    record.unused_since = Some(now);
                    store.save(&record).await?;
                }
                Verdict::Unmark => {
                    record.unused_since = None;
                    store.save(&record).await?;
                }
                Verdict::Remove => {
                    store.forget(&record.name, false).await?;
                    tracing::info!(
                        image = record.name,
                        "removed the image {}, which nothing uses",
                        record.name
                    );
                    removed.push(record.name);
                }
            }
        }
        Ok(removed)
    }

    /// The images of `namespace` by all their names, when functions use the digests `in_use`.
    ///
    /// # Errors
    /// When containerd fails.
    pub async fn kept(
        &self,
        namespace: &Namespace,
        in_use: &HashSet<String>,
    ) -> Result<Vec<KeptImage>, ImageError> {
        let in_use = self.inner.recent.and(in_use);
        let kept = |record: Record| KeptImage {
            used: collect::is_used(&record, &in_use),
            disposable: collect::is_disposable(&record),
            name: record.name,
            digest: record.manifest,
            size: record.size,
            unused_since: record.unused_since,
        };
        Ok(self.store(namespace).records().await?.into_iter().map(kept).collect())
    }

    /// Removes the name of an image that nothing uses; `false` if something uses it by now. Returns when containerd has freed
    /// what nothing else needs.
    ///
    /// # Errors
    /// When containerd fails.
    pub async fn discard(
        &self,
        namespace: &Namespace,
        image: &KeptImage,
        in_use: &HashSet<String>,
    ) -> Result<bool, ImageError> {
        if self.inner.recent.and(in_use).contains(&image.digest) {
            return Ok(false);
        }
        self.store(namespace).forget(&image.name, true).await?;
        tracing::info!(image = image.name, "removed the image {}, which nothing uses", image.name);
        Ok(true)
    }

    /// Removes all images that were pulled or imported into `namespace`, what was left half-fetched too, and returns when
    /// containerd has freed what nothing else needs. Images that others put there stay.
    ///
    /// # Errors
    /// When containerd fails; what was removed by then stays removed.
    pub async fn clear(&self, namespace: &Namespace) -> Result<(), ImageError> {
        let store = self.store(namespace);
        for record in store.records().await?.iter().filter(|record| record.origin != Origin::Foreign) {
            store.forget(&record.name, false).await?;
        }
        store.end_leases().await
    }

    fn store(&self, namespace: &Namespace) -> Store {
        let inner = &self.inner;
        Store::new(&inner.client, namespace, inner.snapshotter.clone(), inner.locks.clone())
    }
}

fn summary(record: &Record) -> ImageSummary {
    ImageSummary {
        name: record.name.clone(),
        digest: record.manifest.clone(),
        size: record.size,
        created_at: record.at,
        imported: record.origin == Origin::Imported,
    }
}

/// Is `record` the pin of an image that has a name beside it?
fn is_only_pin(record: &Record, records: &[Record]) -> bool {
    record.name.ends_with(&format!("@{}", record.manifest))
        && records.iter().any(|other| {
            other.name != record.name
                && other.manifest == record.manifest
                && is_same_path(&other.name, &record.name)
        })
}

/// Do two full references name the same repository?
fn is_same_path(one: &str, other: &str) -> bool {
    let path =
        |name: &str| name.parse::<Reference>().ok().map(|r| (r.host().to_owned(), r.repository().to_owned()));
    path(one).is_some_and(|one| path(other) == Some(one))
}

/// An image whose documents have been read.
#[derive(Debug, Clone)]
struct Image {
    /// Its manifest, as others point to it.
    descriptor: Descriptor,
    manifest: Manifest,
    configuration: Configuration,
    chain_ids: Vec<String>,
}

impl Image {
    fn new(descriptor: Descriptor, manifest: Manifest, configuration: Configuration) -> Self {
        let chain_ids = configuration.chain_ids();
        Self { descriptor, manifest, configuration, chain_ids }
    }

    /// The snapshot of its topmost layer.
    fn chain_id(&self) -> &str {
        // A manifest without layers is refused when it is read.
        self.chain_ids.last().map_or("", String::as_str)
    }

    /// The digests of all that belongs to it.
    fn blobs(&self) -> impl Iterator<Item = &str> {
        let documents = [self.descriptor.digest.as_str(), self.manifest.config.digest.as_str()];
        documents.into_iter().chain(self.manifest.layers.iter().map(|layer| layer.digest.as_str()))
    }

    fn resolved(&self, name: &str) -> ResolvedImage {
        ResolvedImage {
            name: name.to_owned(),
            digest: self.descriptor.digest.clone(),
            chain_id: self.chain_id().to_owned(),
            config: self.configuration.run.clone(),
        }
    }
}
