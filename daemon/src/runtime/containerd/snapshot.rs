//! Snapshots: the file system of a replica on top of its image's.

use std::collections::HashMap;

use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{
    PrepareSnapshotRequest, RemoveSnapshotRequest, ViewSnapshotRequest,
};
use containerd_client::types::Mount;

use super::Error;
use super::client::Scope;

/// The snapshots of one snapshotter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Snapshots<'a> {
    pub(super) scope: &'a Scope,
    pub(super) snapshotter: &'a str,
}

impl Snapshots<'_> {
    /// Makes the writable snapshot `key` on `parent`.
    pub(super) async fn prepare(self, key: &str, parent: &str) -> Result<Vec<Mount>, Error> {
        let request = PrepareSnapshotRequest {
            snapshotter: self.snapshotter.to_owned(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: HashMap::new(),
        };
        let prepared = SnapshotsClient::new(self.scope.channel()).prepare(self.scope.call(request)).await;
        Ok(prepared.map_err(Error::call("prepare snapshot", key))?.into_inner().mounts)
    }

    /// Makes the snapshot `key` to look at `parent`, which cannot be written.
    pub(super) async fn view(self, key: &str, parent: &str) -> Result<Vec<Mount>, Error> {
        let request = ViewSnapshotRequest {
            snapshotter: self.snapshotter.to_owned(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: HashMap::new(),
        };
        let viewed = SnapshotsClient::new(self.scope.channel()).view(self.scope.call(request)).await;
        Ok(viewed.map_err(Error::call("view snapshot", key))?.into_inner().mounts)
    }

    /// Removes the snapshot `key`.
    pub(super) async fn remove(self, key: &str) -> Result<(), Error> {
        let request = RemoveSnapshotRequest { snapshotter: self.snapshotter.to_owned(), key: key.to_owned() };
        let removed = SnapshotsClient::new(self.scope.channel()).remove(self.scope.call(request)).await;
        removed.map(drop).map_err(Error::call("remove snapshot", key))
    }
}
