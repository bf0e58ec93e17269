//! Images from an archive, for hosts without a network: an OCI image layout, or what `docker save` writes.
//!
//! Owns what the archive's files mean. Its blobs go straight into the content store, which checks their digests.
//! A `docker save` archive has no manifest in the sense of registries: one is made for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;

use super::archive::{Archive, Range};
use super::error::{ImageError, shortened};
use super::finish::{Documents, layer_labels};
use super::manifest::{
    Configuration, Descriptor, Document, Manifest, OCI_CONFIG, OCI_MANIFEST, digest_of, layer_type,
};
use super::platform::{Platform, choose};
use super::record::Origin;
use super::reference::Reference;
use super::store::{Leased, Store};
use super::{Image, ResolvedImage};

/// The most images that one archive may hold.
const MAX_IMAGES: usize = 100;

/// The annotation with an image's full name.
const FULL_NAME: &str = "io.containerd.image.name";

/// The annotation with an image's name, or only its tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// One image of an archive, ready to be stored.
struct Found {
    name: Reference,
    image: Image,
    documents: Documents,
    /// Where its layers stand in the archive, lowest first.
    layers: Vec<Range>,
}

/// Stores and unpacks all images of `archive` that are for `platform`. If it holds one, `name` may name it.
pub(super) async fn import(
    store: &Store,
    platform: &Platform,
    archive: Archive,
    name: Option<&Reference>,
) -> Result<Vec<ResolvedImage>, ImageError> {
    let reader = Reader { archive: Arc::new(archive), platform: platform.clone(), name: name.cloned() };
    let archive = reader.archive.clone();
    let images = blocking(move || reader.images()).await?;
    let mut imported = Vec::with_capacity(images.len());
    for found in &images {
        let leased = store.lease(&found.name.to_string()).await?;
        let stored = store_image(&leased, &archive, found).await;
        leased.release().await;
        let resolved = stored?;
        tracing::info!(image = resolved.name, digest = resolved.digest, "imported {}", resolved.name);
        imported.push(resolved);
    }
    Ok(imported)
}

async fn store_image(
    leased: &Leased,
    archive: &Arc<Archive>,
    found: &Found,
) -> Result<ResolvedImage, ImageError> {
    let image = &found.image;
    for digest in image.blobs().chain([found.documents.target(image).digest.as_str()]) {
        leased.hold_blob(digest).await?;
    }
    let layers = image.manifest.layers.iter().zip(&image.configuration.diff_ids).zip(&found.layers);
    for ((layer, diff_id), range) in layers {
        store_layer(&leased.store, archive, layer, diff_id, *range).await?;
    }
    let pinned = found.name.pinned(&image.descriptor.digest);
    leased.finish(image, &found.documents, &found.name.to_string(), pinned, Origin::Imported).await
}

async fn store_layer(
    store: &Store,
    archive: &Arc<Archive>,
    layer: &Descriptor,
    diff_id: &str,
    range: Range,
) -> Result<(), ImageError> {
    let _one_writer = store.lock(&layer.digest).await;
    if store.blob(&layer.digest).await?.is_some() {
        return store.label(&layer.digest, layer_labels(diff_id)).await;
    }
    let Some(mut writer) = store.open_blob(&layer.digest, layer.size).await? else {
        return store.label(&layer.digest, layer_labels(diff_id)).await;
    };
    loop {
        let (archive, at) = (archive.clone(), writer.offset());
        match blocking(move || archive.chunk(range, at)).await? {
            Some(chunk) => writer.write(&chunk).await?,
            None => return writer.commit(layer_labels(diff_id)).await,
        }
    }
}

/// Runs what reads the disk where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ImageError::Host {
        doing: "read the archive".to_owned(),
        cause: error.to_string(),
    })?
}

/// What `docker save` writes beside the images.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

struct Reader {
    archive: Arc<Archive>,
    platform: Platform,
    name: Option<Reference>,
}

impl Reader {
    fn images(&self) -> Result<Vec<Found>, ImageError> {
        // What `docker save` writes today is both; the layout has the digests of the registry.
        if let Some(index) = self.archive.document("index.json")? {
            return self.layout(&index);
        }
        match self.archive.document("manifest.json")? {
            Some(manifest) => self.saved(&manifest),
            None => Err(ImageError::archive(
                "it has neither an index.json (OCI image layout) nor a manifest.json (docker save)",
            )),
        }
    }

    fn layout(&self, index: &[u8]) -> Result<Vec<Found>, ImageError> {
        let in_index = |reason| ImageError::archive(format!("index.json: {reason}"));
        let Document::Index { manifests, .. } = Document::parse(index).map_err(in_index)? else {
            return Err(in_index("it is no index".to_owned()));
        };
        // Some tools write each platform of an image as an entry of its own, all under one name.
        let mut by_name: BTreeMap<String, (Reference, Vec<Descriptor>)> = BTreeMap::new();
        let single = manifests.iter().all(|m| m.digest == manifests[0].digest)
            || manifests.iter().all(|m| m.platform.is_some() && annotated_name(m).is_none());
        for entry in manifests {
            let name = self.name_of(annotated_name(&entry), single)?;
            by_name.entry(name.to_string()).or_insert_with(|| (name, Vec::new())).1.push(entry);
        }
        if by_name.is_empty() || by_name.len() > MAX_IMAGES {
            return Err(in_index(format!(
                "it names {} images, and should name 1 to {MAX_IMAGES}",
                by_name.len()
            )));
        }
        by_name.into_values().map(|(name, entries)| self.layout_image(name, &entries)).collect()
    }

    /// The name of an image: what the caller said, or else what the archive says.
    fn name_of(&self, written: Option<&str>, single: bool) -> Result<Reference, ImageError> {
        match (&self.name, written) {
            (Some(_), _) if !single => {
                Err(ImageError::archive("it holds several images, which cannot all have the one name given"))
            }
            (Some(name), _) => Ok(name.clone()),
            (None, Some(written)) => written.parse(),
            (None, None) => Err(ImageError::archive("it does not say what the image is called: give a name")),
        }
    }

    fn layout_image(&self, name: Reference, entries: &[Descriptor]) -> Result<Found, ImageError> {
        let invalid = |reason: String| ImageError::invalid(name.to_string(), reason);
        let chosen = match entries {
            [only] => only,
            several => choose(several, &self.platform).map_err(|there| self.wrong_platform(&name, there))?,
        };
        let bytes = self.blob(chosen)?;
        let (index, descriptor, bytes, manifest) = match Document::parse(&bytes).map_err(invalid)? {
            Document::Manifest(manifest) => {
                let found = described(chosen, &manifest.media_type);
                (None, found, bytes, manifest)
            }
            Document::Index { media_type, manifests } => {
                let here =
                    choose(&manifests, &self.platform).map_err(|there| self.wrong_platform(&name, there))?;
                let at = manifests.iter().position(|m| std::ptr::eq(m, here)).unwrap_or(0);
                let inner = self.blob(here)?;
                let Document::Manifest(manifest) = Document::parse(&inner).map_err(invalid)? else {
                    return Err(invalid("its index leads to another index".to_owned()));
                };
                let found = described(here, &manifest.media_type);
                (Some((described(chosen, &media_type), bytes, at)), found, inner, manifest)
            }
        };
        let configuration = self.blob(&manifest.config)?;
        let parsed = Configuration::parse(&configuration, manifest.layers.len()).map_err(invalid)?;
        let layers = manifest.layers.iter().map(|layer| self.range(layer)).collect::<Result<_, _>>()?;
        let documents = Documents { index, manifest: bytes, configuration };
        self.found(name, Image::new(descriptor, manifest, parsed), documents, layers)
    }

    fn found(
        &self,
        name: Reference,
        image: Image,
        documents: Documents,
        layers: Vec<Range>,
    ) -> Result<Found, ImageError> {
        let platform = &image.configuration.platform;
        if !self.platform.runs(platform) {
            return Err(self.wrong_platform(&name, vec![platform.to_string()]));
        }
        Ok(Found { name, image, documents, layers })
    }

    fn wrong_platform(&self, name: &Reference, available: Vec<String>) -> ImageError {
        ImageError::Platform { reference: name.to_string(), wanted: self.platform.to_string(), available }
    }

    /// A document of the layout, checked against its digest.
    fn blob(&self, descriptor: &Descriptor) -> Result<Bytes, ImageError> {
        self.range(descriptor)?;
        let bytes = self.archive.document(&blob_path(&descriptor.digest))?.unwrap_or_default();
        if digest_of(&bytes) == descriptor.digest {
            Ok(bytes.into())
        } else {
            Err(ImageError::invalid(&descriptor.digest, "the archive holds something else under this digest"))
        }
    }

    fn range(&self, descriptor: &Descriptor) -> Result<Range, ImageError> {
        let range = self
            .archive
            .find(&blob_path(&descriptor.digest))
            .ok_or_else(|| ImageError::archive(format!("{} is missing in it", descriptor.digest)))?;
        if range.size == descriptor.size {
            Ok(range)
        } else {
            Err(ImageError::invalid(&descriptor.digest, "the archive holds another size under this digest"))
        }
    }

    fn saved(&self, manifest: &[u8]) -> Result<Vec<Found>, ImageError> {
        let saved: Vec<SavedImage> = serde_json::from_slice(manifest)
            .map_err(|error| ImageError::archive(format!("manifest.json: {error}")))?;
        if saved.is_empty() || saved.len() > MAX_IMAGES {
            let count = saved.len();
            return Err(ImageError::archive(format!(
                "it holds {count} images, and should hold 1 to {MAX_IMAGES}"
            )));
        }
        let single = saved.len() == 1;
        let mut found = Vec::new();
        for image in &saved {
            let tags = image.repo_tags.as_deref().unwrap_or_default();
            let names = if tags.is_empty() || self.name.is_some() {
                vec![self.name_of(None, single)?]
            } else {
                tags.iter().map(|tag| self.name_of(Some(tag), single)).collect::<Result<_, _>>()?
            };
            for name in names {
                found.push(self.saved_image(name, image)?);
            }
        }
        Ok(found)
    }

    fn saved_image(&self, name: Reference, saved: &SavedImage) -> Result<Found, ImageError> {
        let missing = |path: &str| ImageError::archive(format!("{:?} is missing in it", shortened(path, 80)));
        let configuration = self.archive.document(&saved.config)?.ok_or_else(|| missing(&saved.config))?;
        let mut ranges = Vec::new();
        let mut layers = Vec::new();
        for path in &saved.layers {
            let range = self.archive.find(path).ok_or_else(|| missing(path))?;
            let first =
                self.archive.chunk(Range { size: range.size.min(16), ..range }, 0)?.unwrap_or_default();
            layers.push(Descriptor {
                media_type: layer_type(&first),
                digest: self.archive.digest(range)?,
                size: range.size,
                ..Descriptor::default()
            });
            ranges.push(range);
        }
        let config = Descriptor {
            media_type: OCI_CONFIG.to_owned(),
            digest: digest_of(&configuration),
            size: configuration.len() as u64,
            ..Descriptor::default()
        };
        let made = serde_json::to_vec(&Manifest::new(config, layers))
            .map_err(|error| ImageError::invalid(name.to_string(), error.to_string()))?;
        // Read back like any other, so that the same rules hold for it.
        let invalid = |reason| ImageError::invalid(name.to_string(), reason);
        let Document::Manifest(manifest) = Document::parse(&made).map_err(invalid)? else {
            return Err(ImageError::archive("manifest.json: it describes no image"));
        };
        let parsed = Configuration::parse(&configuration, manifest.layers.len()).map_err(invalid)?;
        let descriptor = Descriptor {
            media_type: OCI_MANIFEST.to_owned(),
            digest: digest_of(&made),
            size: made.len() as u64,
            ..Descriptor::default()
        };
        let documents = Documents { index: None, manifest: made.into(), configuration: configuration.into() };
        self.found(name, Image::new(descriptor, manifest, parsed), documents, ranges)
    }
}

fn described(descriptor: &Descriptor, media_type: &str) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: descriptor.digest.clone(),
        size: descriptor.size,
        ..Descriptor::default()
    }
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

/// The name that an entry of a layout carries. A bare tag is none: it does not say of what.
fn annotated_name(entry: &Descriptor) -> Option<&str> {
    let annotations = entry.annotations.as_ref()?;
    let name = |key: &str| annotations.get(key).map(String::as_str).filter(|name| !name.is_empty());
    name(FULL_NAME).or_else(|| name(REF_NAME).filter(|name| name.contains([':', '/'])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_that_says_more_than_a_tag() {
        let table = [
            (None, None, None),
            (None, Some("latest"), None),
            (None, Some("app:1"), Some("app:1")),
            (None, Some("registry.lan/app"), Some("registry.lan/app")),
            (Some("docker.io/library/app:1"), Some("1"), Some("docker.io/library/app:1")),
            (Some(""), Some("app:1"), Some("app:1")),
        ];
        for (full, short, name) in table {
            let pairs = [(FULL_NAME, full), (REF_NAME, short)];
            let annotations =
                pairs.iter().filter_map(|(k, v)| Some(((*k).to_owned(), (*v)?.to_owned()))).collect();
            let entry = Descriptor { annotations: Some(annotations), ..Descriptor::default() };
            assert_eq!(annotated_name(&entry), name, "{full:?} {short:?}");
        }
        assert_eq!(annotated_name(&Descriptor::default()), None);
    }
}
