//! What is on this host already: read from containerd alone, unpacked again if its snapshot is gone.
//!
//! Owns the judgement whether it is complete. Never asks a registry: this is what starts a function with no network.

use super::error::ImageError;
use super::manifest::{Configuration, Descriptor, Document};
use super::record::Record;
use super::reference::Reference;
use super::store::Store;
use super::{Image, Images, ResolvedImage, platform};

impl Images {
    /// What is on this host under `reference`, if its documents are complete.
    pub(super) async fn here(
        &self,
        store: &Store,
        reference: &Reference,
    ) -> Result<Option<(Record, Image)>, ImageError> {
        let pinned = reference.digest().map(|digest| reference.pinned(digest));
        for name in std::iter::once(reference.to_string()).chain(pinned) {
            if let Some(record) = store.record(&name).await?
                && let Some(image) = self.load(store, &record).await?
            {
                return Ok(Some((record, image)));
            }
        }
        Ok(None)
    }

    /// Reads the documents that a record leads to; `None` if one is missing or cannot be used.
    pub(super) async fn load(&self, store: &Store, record: &Record) -> Result<Option<Image>, ImageError> {
        let Some(mut bytes) = store.read(&record.target).await? else { return Ok(None) };
        let mut digest = record.target.clone();
        let manifest = match Document::parse(&bytes) {
            Ok(Document::Manifest(manifest)) => manifest,
            Ok(Document::Index { manifests, .. }) => {
                let Ok(chosen) = platform::choose(&manifests, &self.inner.settings.platform) else {
                    return Ok(None);
                };
                digest.clone_from(&chosen.digest);
                let Some(inner) = store.read(&digest).await? else { return Ok(None) };
                bytes = inner;
                let Ok(Document::Manifest(manifest)) = Document::parse(&bytes) else { return Ok(None) };
                manifest
            }
            Err(_) => return Ok(None),
        };
        let Some(configuration) = store.read(&manifest.config.digest).await? else { return Ok(None) };
        let Ok(configuration) = Configuration::parse(&configuration, manifest.layers.len()) else {
            return Ok(None);
        };
        let descriptor = Descriptor {
            media_type: manifest.media_type.clone(),
            digest,
            size: bytes.len() as u64,
            ..Descriptor::default()
        };
        Ok(Some(Image::new(descriptor, manifest, configuration)))
    }

    /// Takes an image as it is on this host, unpacking it if need be; `None` if a layer for that is missing.
    pub(super) async fn reuse(
        &self,
        store: &Store,
        record: &Record,
        image: &Image,
        reference: &Reference,
    ) -> Result<Option<ResolvedImage>, ImageError> {
        if !store.is_unpacked(image.chain_id()).await? {
            for digest in image.blobs() {
                if store.blob(digest).await?.is_none() {
                    return Ok(None);
                }
            }
            tracing::info!(image = record.name, "unpacking {} again", record.name);
            let leased = store.lease(&record.name).await?;
            let unpacked = leased.unpack(image).await;
            leased.release().await;
            unpacked?;
        }
        if record.unused_since.is_some() {
            store.save(&Record { unused_since: None, ..record.clone() }).await?;
        }
        Ok(Some(image.resolved(&reference.to_string())))
    }
}
