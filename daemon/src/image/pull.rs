//! One pull, from a digest in a registry to a snapshot on this host.
//!
//! ```text
//! documents: (index →) manifest → configuration     what is it, does it run here, is it too large?
//!   → lease: hold all that belongs to it
//!   → layers, a few at once: skip what is here, resume what was begun, fetch, commit under the digest
//!   → finish: store the documents with their labels, unpack, name   → release the lease
//! ```
//!
//! Owns the order, the limits and the tries. A failure that may pass leaves the lease, so that the next pull goes on
//! where this one stopped; any other leaves nothing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::content::Writer;
use super::error::ImageError;
use super::finish::{Documents, layer_labels};
use super::manifest::{Configuration, Descriptor, Document, MAX_DOCUMENT, Manifest, OCI_MANIFEST};
use super::platform::{Platform, choose};
use super::progress::{Counters, Phase, megabytes};
use super::record::Origin;
use super::reference::Reference;
use super::registry::Registry;
use super::store::{Leased, Store};
use super::{Image, ResolvedImage, Settings};

/// How many layers are fetched at once.
const PARALLEL: usize = 3;

/// How many tries in a row may gain nothing.
const MAX_FRUITLESS: u32 = 5;

/// How many tries one layer may take in all, on a line that breaks again and again.
const MAX_TRIES: u32 = 100;

/// The first pause before another try; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The longest pause before another try.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A pull of one image.
pub(super) struct Pull {
    pub(super) settings: Settings,
    pub(super) store: Store,
    pub(super) registry: Registry,
    pub(super) reference: Reference,
    pub(super) counters: Arc<Counters>,
}

impl Pull {
    /// Fetches what `digest` leads to, and returns it unpacked and named.
    pub(super) async fn run(&self, digest: &str) -> Result<ResolvedImage, ImageError> {
        let name = self.reference.to_string();
        tracing::info!(image = name, digest, "pulling {name}");
        self.counters.enter(Phase::Resolving);
        let (image, documents) = self.documents(digest).await?;
        let size = self.admit(&image.manifest)?;
        self.counters.expect(size);
        self.counters.enter(Phase::Downloading);
        let leased = self.store.lease(&name).await?;
        let pulled = self.under_lease(&leased, &image, &documents).await;
        match &pulled {
            Ok(_) => {
                self.counters.enter(Phase::Done);
                tracing::info!(image = name, digest, "pulled {name}, {} MB", megabytes(size));
            }
            Err(error) => tracing::warn!(image = name, digest, "could not pull {name}: {error}"),
        }
        if pulled.as_ref().err().is_none_or(|error| !error.is_retryable()) {
            leased.release().await;
        }
        pulled
    }

    async fn under_lease(
        &self,
        leased: &Leased,
        image: &Image,
        documents: &Documents,
    ) -> Result<ResolvedImage, ImageError> {
        for digest in image.blobs().chain([documents.target(image).digest.as_str()]) {
            leased.hold_blob(digest).await?;
        }
        leased.end_older().await?;
        self.counters.add(&self.reference.to_string(), image.manifest.config.size);
        let layers = image.manifest.layers.iter().zip(&image.configuration.diff_ids);
        let layers: Vec<_> =
            layers.map(|(layer, diff_id)| self.layer(&leased.store, layer, diff_id)).collect();
        futures_util::stream::iter(layers).buffer_unordered(PARALLEL).try_collect::<()>().await?;
        self.counters.enter(Phase::Unpacking);
        let pinned = self.reference.pinned(&image.descriptor.digest);
        leased.finish(image, documents, &self.reference.to_string(), pinned, Origin::Pulled).await
    }

    /// Finds the manifest for this platform and what belongs to it, without fetching a layer.
    async fn documents(&self, digest: &str) -> Result<(Image, Documents), ImageError> {
        let invalid = |reason| ImageError::invalid(self.reference.to_string(), reason);
        let root = self.document(digest).await?;
        let (index, (descriptor, bytes), manifest) = match Document::parse(&root).map_err(invalid)? {
            Document::Manifest(manifest) => (None, (describe(digest, &root, &manifest), root), manifest),
            Document::Index { media_type, manifests } => {
                let (at, chosen) = self.choose(&manifests)?;
                let bytes = self.document(&chosen.digest).await?;
                let Document::Manifest(manifest) = Document::parse(&bytes).map_err(invalid)? else {
                    return Err(invalid("its index leads to another index".to_owned()));
                };
                let found = describe(&chosen.digest, &bytes, &manifest);
                let index = Descriptor {
                    media_type,
                    digest: digest.to_owned(),
                    size: root.len() as u64,
                    ..Descriptor::default()
                };
                (Some((index, root, at)), (found, bytes), manifest)
            }
        };
        let configuration = self.configuration(&manifest.config).await?;
        let parsed = Configuration::parse(&configuration, manifest.layers.len()).map_err(invalid)?;
        if !self.settings.platform.runs(&parsed.platform) {
            return Err(self.wrong_platform(vec![parsed.platform.to_string()]));
        }
        let image = Image::new(descriptor, manifest, parsed);
        Ok((image, Documents { index, manifest: bytes, configuration }))
    }

    fn choose<'a>(&self, manifests: &'a [Descriptor]) -> Result<(usize, &'a Descriptor), ImageError> {
        let chosen =
            choose(manifests, &self.settings.platform).map_err(|there| self.wrong_platform(there))?;
        let at = manifests.iter().position(|manifest| std::ptr::eq(manifest, chosen)).unwrap_or(0);
        Ok((at, chosen))
    }

    fn wrong_platform(&self, available: Vec<String>) -> ImageError {
        let wanted: &Platform = &self.settings.platform;
        ImageError::Platform { reference: self.reference.to_string(), wanted: wanted.to_string(), available }
    }

    /// A manifest or an index: from this host if it is here.
    async fn document(&self, digest: &str) -> Result<Bytes, ImageError> {
        match self.store.read(digest).await? {
            Some(bytes) => Ok(bytes),
            None => again(|| self.registry.manifest(digest)).await,
        }
    }

    async fn configuration(&self, config: &Descriptor) -> Result<Bytes, ImageError> {
        if config.size > MAX_DOCUMENT {
            let what = format!("the configuration of {}", self.reference);
            return Err(ImageError::TooLarge { what, size: config.size, limit: MAX_DOCUMENT });
        }
        match self.store.read(&config.digest).await? {
            Some(bytes) => Ok(bytes),
            None => again(|| self.registry.document(&config.digest)).await,
        }
    }

    /// The size of the image, if it is within the limits.
    fn admit(&self, manifest: &Manifest) -> Result<u64, ImageError> {
        let size = manifest.size().unwrap_or(u64::MAX);
        let limit = self.settings.max_image_bytes;
        if size > limit {
            return Err(ImageError::TooLarge { what: self.reference.to_string(), size, limit });
        }
        let limit = self.settings.max_layer_bytes;
        match manifest.layers.iter().find(|layer| layer.size > limit) {
            Some(layer) => {
                let what = format!("layer {} of {}", layer.digest, self.reference);
                Err(ImageError::TooLarge { what, size: layer.size, limit })
            }
            None => Ok(size),
        }
    }

    /// Brings one layer to this host.
    async fn layer(&self, store: &Store, layer: &Descriptor, diff_id: &str) -> Result<(), ImageError> {
        let name = self.reference.to_string();
        let _one_writer = store.lock(&layer.digest).await;
        if store.blob(&layer.digest).await?.is_some() {
            self.counters.add(&name, layer.size);
            return store.label(&layer.digest, layer_labels(diff_id)).await;
        }
        loop {
            let Some(mut writer) = store.open_blob(&layer.digest, layer.size).await? else {
                self.counters.add(&name, layer.size);
                return store.label(&layer.digest, layer_labels(diff_id)).await;
            };
            let resumed = writer.offset();
            self.counters.add(&name, resumed);
            let fetched = match self.fetch(&mut writer, layer).await {
                Ok(()) => writer.commit(layer_labels(diff_id)).await,
                Err(error @ ImageError::Invalid { .. }) => {
                    drop(writer);
                    store.forget_ingest(&layer.digest).await?;
                    Err(error)
                }
                Err(error) => {
                    // What has come so far is what the next pull goes on from.
                    writer.flush().await?;
                    Err(error)
                }
            };
            match fetched {
                // The part that was here before may be what was wrong: once more, from the start.
                Err(ImageError::Invalid { .. }) if resumed > 0 => self.counters.take_back(layer.size),
                other => return other,
            }
        }
    }

    /// Fetches what is missing of a layer, through broken connections.
    async fn fetch(&self, writer: &mut Writer, layer: &Descriptor) -> Result<(), ImageError> {
        let (mut fruitless, mut tries) = (0, 0);
        while writer.offset() < layer.size {
            let before = writer.offset();
            let error = match self.fetch_on(writer, layer).await {
                Ok(()) if writer.offset() == layer.size => return Ok(()),
                Ok(()) => ImageError::Network {
                    host: self.reference.host().to_owned(),
                    cause: format!("{} ended at byte {} of {}", layer.digest, writer.offset(), layer.size),
                },
                Err(error) if is_passing(&error) => error,
                Err(error) => return Err(error),
            };
            fruitless = if writer.offset() > before { 0 } else { fruitless + 1 };
            tries += 1;
            if fruitless >= MAX_FRUITLESS || tries >= MAX_TRIES {
                return Err(error);
            }
            let (digest, at) = (&layer.digest, writer.offset());
            tracing::info!(digest, at, "{digest}: trying again at byte {at}: {error}");
            tokio::time::sleep(pause(fruitless)).await;
        }
        Ok(())
    }

    /// Fetches from where the writer stands until the end, or until the connection breaks.
    async fn fetch_on(&self, writer: &mut Writer, layer: &Descriptor) -> Result<(), ImageError> {
        let name = self.reference.to_string();
        let mut arriving = self.registry.blob(&layer.digest, writer.offset()).await?;
        if let Some(size) = arriving.size.filter(|size| *size != layer.size) {
            let reason = format!("the registry has {size} bytes, and the manifest says {}", layer.size);
            return Err(ImageError::invalid(&layer.digest, reason));
        }
        let mut skip = writer.offset().saturating_sub(arriving.offset);
        while let Some(chunk) = arriving.stream.next().await {
            let chunk = chunk?;
            let known = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
            skip -= known as u64;
            writer.write(&chunk[known..]).await?;
            self.counters.add(&name, (chunk.len() - known) as u64);
        }
        Ok(())
    }
}

fn describe(digest: &str, bytes: &Bytes, manifest: &Manifest) -> Descriptor {
    let media_type = if manifest.media_type.is_empty() { OCI_MANIFEST } else { &manifest.media_type };
    Descriptor {
        media_type: media_type.to_owned(),
        digest: digest.to_owned(),
        size: bytes.len() as u64,
        ..Descriptor::default()
    }
}

/// Is it the registry or the way to it that failed, and may it work in a moment?
fn is_passing(error: &ImageError) -> bool {
    matches!(error, ImageError::Network { .. } | ImageError::Registry { retryable: true, .. })
}

/// Asks the registry, again if that may help.
pub(super) async fn again<T, F>(ask: impl Fn() -> F) -> Result<T, ImageError>
where
    F: Future<Output = Result<T, ImageError>>,
{
    let mut tries = 0;
    loop {
        match ask().await {
            Err(error) if is_passing(&error) && tries + 1 < MAX_FRUITLESS => {
                tracing::info!("trying again: {error}");
                tokio::time::sleep(pause(tries)).await;
                tries += 1;
            }
            answer => return answer,
        }
    }
}

/// How long to wait after `failures` tries in a row that gained nothing.
fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_limit() {
        let pauses: Vec<_> = (0..6).map(|failures| pause(failures).as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 10_000]);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }
}
