//! A containerd of a test's own: its own directories and socket, ended with the test.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{
    ListSnapshotsRequest, RemoveSnapshotRequest, ViewSnapshotRequest,
};
use containerd_client::services::v1::{
    CreateRequest, DeleteContentRequest, DeleteRequest, ListContentRequest, ListRequest, ListStatusesRequest,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use roost_proxy::function::Namespace;
use roostd::runtime::containerd::client::{Client, Scope};

const SNAPSHOTTER: &str = "overlayfs";

pub(crate) struct PrivateContainerd {
    process: Child,
    dir: tempfile::TempDir,
}

impl PrivateContainerd {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("roost-image-").tempdir().unwrap();
        let path = dir.path().display();
        let config = format!(
            "version = 2\nroot = \"{path}/root\"\nstate = \"{path}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{path}/containerd.sock\"\n"
        );
        fs::write(dir.path().join("containerd.toml"), config).unwrap();
        let log = File::create(dir.path().join("containerd.log")).unwrap();
        let process = Command::new("containerd")
            .arg("--config")
            .arg(dir.path().join("containerd.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let started = Self { process, dir };
        let socket = started.socket();
        super::until("containerd listens", async || tokio::net::UnixStream::connect(&socket).await.is_ok())
            .await;
        started
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("containerd.sock")
    }

    pub(crate) fn scope(&self) -> Scope {
        Client::new(&self.socket()).scope(&Namespace::default())
    }

    /// The digests of all blobs.
    pub(crate) async fn blobs(&self) -> BTreeSet<String> {
        let scope = self.scope();
        let request = scope.call(ListContentRequest::default());
        let mut stream = ContentClient::new(scope.channel()).list(request).await.unwrap().into_inner();
        let mut digests = BTreeSet::new();
        while let Some(part) = stream.message().await.unwrap() {
            digests.extend(part.info.into_iter().map(|info| info.digest));
        }
        digests
    }

    /// The names of all blobs in the making.
    pub(crate) async fn ingests(&self) -> Vec<String> {
        let scope = self.scope();
        let request = scope.call(ListStatusesRequest::default());
        let answer = ContentClient::new(scope.channel()).list_statuses(request).await.unwrap();
        answer.into_inner().statuses.into_iter().map(|status| status.r#ref).collect()
    }

    pub(crate) async fn delete_blob(&self, digest: &str) {
        let scope = self.scope();
        let request = scope.call(DeleteContentRequest { digest: digest.to_owned() });
        ContentClient::new(scope.channel()).delete(request).await.unwrap();
    }

    /// The keys of all snapshots.
    pub(crate) async fn snapshots(&self) -> Vec<String> {
        let scope = self.scope();
        let request = ListSnapshotsRequest { snapshotter: SNAPSHOTTER.to_owned(), ..Default::default() };
        let answer = SnapshotsClient::new(scope.channel()).list(scope.call(request)).await.unwrap();
        let mut stream = answer.into_inner();
        let mut keys = Vec::new();
        while let Some(part) = stream.message().await.unwrap() {
            keys.extend(part.info.into_iter().map(|info| info.name));
        }
        keys
    }

    pub(crate) async fn remove_snapshot(&self, key: &str) {
        let scope = self.scope();
        let request = RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: key.to_owned() };
        SnapshotsClient::new(scope.channel()).remove(scope.call(request)).await.unwrap();
    }

    pub(crate) async fn leases(&self) -> usize {
        let scope = self.scope();
        let request = scope.call(ListRequest::default());
        LeasesClient::new(scope.channel()).list(request).await.unwrap().into_inner().leases.len()
    }

    /// Makes containerd collect now: it does so when a lease ends synchronously.
    pub(crate) async fn collect_garbage(&self) {
        let scope = self.scope();
        let mut leases = LeasesClient::new(scope.channel());
        let id = "test-collects".to_owned();
        let request = CreateRequest { id: id.clone(), ..Default::default() };
        leases.create(scope.call(request)).await.unwrap();
        leases.delete(scope.call(DeleteRequest { id, sync: true })).await.unwrap();
    }

    /// The files of a committed snapshot, mounted as a replica would see them.
    pub(crate) async fn view(&self, chain_id: &str) -> View {
        let scope = self.scope();
        let key = format!("view-{chain_id}");
        let request = ViewSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: key.clone(),
            parent: chain_id.to_owned(),
            ..Default::default()
        };
        let answer = SnapshotsClient::new(scope.channel()).view(scope.call(request)).await.unwrap();
        let from = answer.into_inner().mounts.remove(0);
        let target = tempfile::tempdir_in(self.dir()).unwrap();
        let is_bind = from.options.iter().any(|option| option.ends_with("bind"));
        let flags = if is_bind { MsFlags::MS_BIND } else { MsFlags::MS_RDONLY };
        let options: Vec<_> = from.options.iter().filter(|o| o.contains('=')).cloned().collect();
        let (source, kind) = (from.source.as_str(), from.r#type.as_str());
        mount(Some(source), target.path(), Some(kind), flags, Some(options.join(",").as_str())).unwrap();
        View { target }
    }
}

impl Drop for PrivateContainerd {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.process.id().cast_signed());
        if let Err(error) = kill(pid, Signal::SIGKILL).map(|()| self.process.wait()) {
            tracing::warn!(%pid, %error, "could not end containerd");
        }
    }
}

/// A mounted snapshot.
pub(crate) struct View {
    target: tempfile::TempDir,
}

impl View {
    pub(crate) fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.target.path().join(path)).ok()
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.target.path(), MntFlags::MNT_DETACH) {
            tracing::warn!(%error, "could not unmount {}", self.target.path().display());
        }
    }
}
