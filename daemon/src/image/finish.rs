//! The last steps of a pull and of an import, which are the same: documents, snapshot, names.
//!
//! Owns the labels by which containerd's collector finds its way from a name to all that belongs to it:
//!
//! ```text
//! record ─► index ─► manifest ─► configuration ─► snapshot of the topmost layer ─► … of the lowest
//!                        └─────► layers
//! ```

use bytes::Bytes;

use super::content::Labels;
use super::error::ImageError;
use super::manifest::{Descriptor, Manifest};
use super::record::{Origin, Record};
use super::store::Leased;
use super::{Image, ResolvedImage};

/// The documents of one image, as they came.
pub(super) struct Documents {
    /// The index that led to the manifest, if one did, and the place of the manifest in it.
    pub(super) index: Option<(Descriptor, Bytes, usize)>,
    pub(super) manifest: Bytes,
    pub(super) configuration: Bytes,
}

impl Documents {
    /// What the image's name leads to.
    pub(super) fn target(&self, image: &Image) -> Descriptor {
        self.index.as_ref().map_or_else(|| image.descriptor.clone(), |(index, _, _)| index.clone())
    }
}

impl Leased {
    /// Stores the documents of `image`, whose layers are here, unpacks it, and gives it its names.
    pub(super) async fn finish(
        &self,
        image: &Image,
        documents: &Documents,
        name: &str,
        pinned: String,
        origin: Origin,
    ) -> Result<ResolvedImage, ImageError> {
        let store = &self.store;
        let labels = configuration_labels(&store.snapshotter, image.chain_id());
        store.put(&image.manifest.config.digest, &documents.configuration, labels).await?;
        let labels = manifest_labels(&image.manifest);
        store.put(&image.descriptor.digest, &documents.manifest, labels).await?;
        if let Some((index, bytes, at)) = &documents.index {
            let labels = Labels::from([(
                format!("containerd.io/gc.ref.content.m.{at}"),
                image.descriptor.digest.clone(),
            )]);
            store.put(&index.digest, bytes, labels).await?;
        }
        self.unpack(image).await?;
        let size = image.manifest.size().unwrap_or(u64::MAX);
        let digest = &image.descriptor.digest;
        // The pin first: a name that is there stands for an image that survives a restart without the network.
        store.save(&Record::new(pinned, &image.descriptor, origin, digest, size)).await?;
        let target = documents.target(image);
        store.save(&Record::new(name.to_owned(), &target, origin, digest, size)).await?;
        Ok(image.resolved(name))
    }
}

pub(super) fn layer_labels(diff_id: &str) -> Labels {
    Labels::from([("containerd.io/uncompressed".to_owned(), diff_id.to_owned())])
}

fn configuration_labels(snapshotter: &str, chain_id: &str) -> Labels {
    Labels::from([(format!("containerd.io/gc.ref.snapshot.{snapshotter}"), chain_id.to_owned())])
}

fn manifest_labels(manifest: &Manifest) -> Labels {
    let config = ("containerd.io/gc.ref.content.config".to_owned(), manifest.config.digest.clone());
    let layers = manifest.layers.iter().enumerate();
    let layers = layers.map(|(at, l)| (format!("containerd.io/gc.ref.content.l.{at}"), l.digest.clone()));
    std::iter::once(config).chain(layers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_leads_to_its_configuration_and_each_layer() {
        let blob = |digest: &str| Descriptor { digest: digest.to_owned(), ..Descriptor::default() };
        let labels = manifest_labels(&Manifest::new(blob("c"), vec![blob("x"), blob("y")]));
        let mut labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        labels.sort();
        assert_eq!(
            labels,
            [
                "containerd.io/gc.ref.content.config=c",
                "containerd.io/gc.ref.content.l.0=x",
                "containerd.io/gc.ref.content.l.1=y"
            ]
        );
        let labels = configuration_labels("overlayfs", "chain");
        assert_eq!(labels["containerd.io/gc.ref.snapshot.overlayfs"], "chain");
    }
}
