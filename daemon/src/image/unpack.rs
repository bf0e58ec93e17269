//! From layers to the snapshot that a replica starts from.
//!
//! Owns the order: each layer is applied on the snapshot of those below it, checked against the image's
//! configuration, and committed under its chain id. Whiteouts and decompression are containerd's part.

use std::path::PathBuf;

use containerd_client::services::v1::ApplyRequest;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, Kind, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use containerd_client::types;
use tonic::Code;

use super::Image;
use super::error::ImageError;
use super::manifest::{Descriptor, layer_type};
use super::store::{Leased, Store};
use crate::runtime::containerd::client::Channel;

impl Store {
    /// Is the snapshot of this chain there, complete?
    pub(super) async fn is_unpacked(&self, chain_id: &str) -> Result<bool, ImageError> {
        let request =
            StatSnapshotRequest { snapshotter: self.snapshotter.to_string(), key: chain_id.to_owned() };
        match self.snapshots().stat(self.scope.call(request)).await {
            Ok(answer) => Ok(answer.into_inner().info.is_some_and(|info| info.kind() == Kind::Committed)),
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(ImageError::containerd("look for a snapshot")(status)),
        }
    }

    fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.scope.channel())
    }
}

impl Leased {
    /// Unpacks the layers of `image` that are not unpacked yet.
    pub(super) async fn unpack(&self, image: &Image) -> Result<(), ImageError> {
        // Held first and looked for afterwards: what is seen then cannot be collected any more.
        self.hold_snapshot(image.chain_id()).await?;
        if self.store.is_unpacked(image.chain_id()).await? {
            return Ok(());
        }
        let mut parent = String::new();
        for (at, layer) in image.manifest.layers.iter().enumerate() {
            let chain_id = &image.chain_ids[at];
            let _one_unpacker = self.store.lock(chain_id).await;
            self.hold_snapshot(chain_id).await?;
            if !self.store.is_unpacked(chain_id).await? {
                self.unpack_layer(layer, &image.configuration.diff_ids[at], chain_id, &parent).await?;
            }
            parent.clone_from(chain_id);
        }
        Ok(())
    }

    async fn unpack_layer(
        &self,
        layer: &Descriptor,
        diff_id: &str,
        chain_id: &str,
        parent: &str,
    ) -> Result<(), ImageError> {
        // Not the chain id itself: what a crash leaves half-made must not stand in the way of the next try.
        let key = format!("roost-unpack-{} {chain_id}", uuid::Uuid::new_v4().simple());
        let mounts = self.prepare(&key, parent).await?;
        let files = files(&mounts);
        let applied = match self.apply(layer, mounts).await {
            Ok(applied) if applied == diff_id => {
                sync(files).await;
                self.commit(&key, chain_id).await
            }
            Ok(applied) => Err(ImageError::invalid(
                &layer.digest,
                format!("unpacked it is {applied}, and should be {diff_id}"),
            )),
            Err(error) => Err(error),
        };
        if applied.is_err() {
            self.undo(&key).await;
        }
        applied
    }

    async fn prepare(&self, key: &str, parent: &str) -> Result<Vec<types::Mount>, ImageError> {
        let request = PrepareSnapshotRequest {
            snapshotter: self.store.snapshotter.to_string(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            ..PrepareSnapshotRequest::default()
        };
        let prepared = self.store.snapshots().prepare(self.store.scope.call(request)).await;
        Ok(prepared.map_err(ImageError::containerd("prepare a snapshot"))?.into_inner().mounts)
    }

    /// Applies the layer and returns the digest of what it held.
    async fn apply(&self, layer: &Descriptor, mounts: Vec<types::Mount>) -> Result<String, ImageError> {
        let first = self.store.first_bytes(&layer.digest).await?.unwrap_or_default();
        let diff = types::Descriptor {
            media_type: layer_type(&first),
            digest: layer.digest.clone(),
            size: layer.size.cast_signed(),
            ..types::Descriptor::default()
        };
        let request = ApplyRequest { diff: Some(diff), mounts, ..ApplyRequest::default() };
        let applied = DiffClient::new(self.store.scope.channel()).apply(self.store.scope.long(request)).await;
        let applied = applied.map_err(ImageError::containerd(format!("unpack {}", layer.digest)))?;
        Ok(applied.into_inner().applied.unwrap_or_default().digest)
    }

    async fn commit(&self, key: &str, chain_id: &str) -> Result<(), ImageError> {
        let request = CommitSnapshotRequest {
            snapshotter: self.store.snapshotter.to_string(),
            name: chain_id.to_owned(),
            key: key.to_owned(),
            ..CommitSnapshotRequest::default()
        };
        match self.store.snapshots().commit(self.store.scope.call(request)).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => {
                self.undo(key).await;
                Ok(())
            }
            Err(status) => Err(ImageError::containerd("commit a snapshot")(status)),
        }
    }

    async fn undo(&self, key: &str) {
        let request =
            RemoveSnapshotRequest { snapshotter: self.store.snapshotter.to_string(), key: key.to_owned() };
        if let Err(status) = self.store.snapshots().remove(self.store.scope.call(request)).await
            && status.code() != Code::NotFound
        {
            // It goes with the lease.
            tracing::warn!(key, "could not remove the half-made snapshot {key}: {}", status.message());
        }
    }
}

/// The directory that the files of a prepared snapshot are written to.
fn files(mounts: &[types::Mount]) -> Option<PathBuf> {
    let mount = mounts.first()?;
    let upper = mount.options.iter().find_map(|option| option.strip_prefix("upperdir="));
    upper.or_else(|| (mount.r#type == "bind").then_some(mount.source.as_str())).map(PathBuf::from)
}

/// Brings to the disk what was unpacked, before the snapshot counts as complete: containerd's own database survives
/// a power cut, and would from then on hand out files that are empty. (containerd does this itself only from 2.0 on,
/// when it is asked to.)
async fn sync(files: Option<PathBuf>) {
    let Some(dir) = files else { return };
    let synced = tokio::task::spawn_blocking(move || {
        let opened = std::fs::File::open(&dir).map_err(|error| error.to_string())?;
        nix::unistd::syncfs(opened).map_err(|error| error.to_string())
    });
    if let Ok(Err(error)) = synced.await {
        tracing::warn!("could not bring an unpacked layer to the disk: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_written_to_the_upper_directory_or_to_the_only_one() {
        let mount = |kind: &str, source: &str, options: &[&str]| types::Mount {
            r#type: kind.to_owned(),
            source: source.to_owned(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            ..types::Mount::default()
        };
        let overlay = mount("overlay", "overlay", &["workdir=/w", "upperdir=/u", "lowerdir=/l"]);
        assert_eq!(files(&[overlay]), Some(PathBuf::from("/u")));
        assert_eq!(files(&[mount("bind", "/s", &["rw", "rbind"])]), Some(PathBuf::from("/s")));
        assert_eq!(files(&[mount("fuse", "/dev/x", &[])]), None);
        assert_eq!(files(&[]), None);
    }
}
