//! What a replica needs to reach and to be reached: its address, its names, its resolvers.
//!
//! Owns the files that replicas see as `/etc/hosts` and `/etc/resolv.conf`. Attaching itself is `roost-cni`'s.

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use roost_cni::{Attachment, Conflist, Network};
use roost_proxy::function::{FunctionKey, ReplicaId};
use tracing::warn;

use crate::resolvers;
use crate::runtime::BindMount;

/// The names under which functions know the proxy, in OpenFaaS on one machine and on Kubernetes.
const GATEWAY_NAMES: &str = "gateway gateway.openfaas gateway.openfaas.svc.cluster.local";

/// What can go wrong with a replica's network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A plugin or a namespace.
    #[error(transparent)]
    Cni(#[from] roost_cni::Error),
    /// A file that a replica is to see.
    #[error("cannot write {path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The network of the host's functions. Cheap to clone.
#[derive(Clone)]
pub struct HostNetwork {
    cni: Network,
    files: Arc<Files>,
}

#[derive(Debug)]
struct Files {
    gateway: Option<IpAddr>,
    /// One `hosts` file a replica.
    hosts: PathBuf,
    resolv_conf: PathBuf,
    dns: Vec<IpAddr>,
}

impl HostNetwork {
    /// The network that `conflist` describes, with its files under `run`. `dns` overrides the host's resolvers.
    ///
    /// # Errors
    /// When a plugin is missing or a file cannot be written.
    pub fn new(
        conflist: Conflist,
        plugin_dirs: Vec<PathBuf>,
        run: &Path,
        dns: Vec<IpAddr>,
    ) -> Result<Self, NetworkError> {
        let files = Files {
            gateway: conflist.gateway(),
            hosts: run.join("hosts"),
            resolv_conf: run.join("resolv.conf"),
            dns,
        };
        std::fs::create_dir_all(&files.hosts)
            .map_err(|source| NetworkError::File { path: files.hosts.clone(), source })?;
        let cni = Network::new(roost_cni::Settings {
            conflist,
            plugin_dirs,
            cache_dir: run.join("cni"),
            netns_dir: run.join("netns"),
        })?;
        let network = Self { cni, files: Arc::new(files) };
        network.write_resolv_conf()?;
        Ok(network)
    }

    /// The address at which functions reach this host.
    #[must_use]
    pub fn gateway(&self) -> Option<IpAddr> {
        self.files.gateway
    }

    /// Gives a replica its network namespace, its address and its hosts file.
    ///
    /// # Errors
    /// When a plugin fails; then nothing is left of the attachment.
    pub async fn attach(&self, id: &ReplicaId, key: &FunctionKey) -> Result<Attachment, NetworkError> {
        let attachment = self.cni.attach(id.as_str()).await?;
        let text = hosts(self.files.gateway, attachment.address, key.name.as_str());
        write(&self.files.hosts.join(id.as_str()), &text)?;
        Ok(attachment)
    }

    /// Takes a replica's network away. All is well if there is none.
    ///
    /// # Errors
    /// When a plugin fails; then it can be tried again.
    pub async fn detach(&self, id: &ReplicaId) -> Result<(), NetworkError> {
        self.cni.detach(id.as_str()).await?;
        let path = self.files.hosts.join(id.as_str());
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(NetworkError::File { path, source })
            }
            _ => Ok(()),
        }
    }

    /// Takes away what earlier daemons left, except of the replicas in `keep`.
    ///
    /// # Errors
    /// When what is there cannot be listed.
    pub async fn collect(
        &self,
        keep: &std::collections::HashSet<String>,
    ) -> Result<Vec<String>, NetworkError> {
        let freed = self.cni.collect(keep).await?;
        let directory = &self.files.hosts;
        let failed = |source| NetworkError::File { path: directory.clone(), source };
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if !entry.file_name().to_str().is_some_and(|id| keep.contains(id)) {
                std::fs::remove_file(entry.path()).map_err(failed)?;
            }
        }
        Ok(freed)
    }

    /// What a replica sees of the network's files.
    #[must_use]
    pub fn mounts(&self, id: &ReplicaId) -> Vec<BindMount> {
        let mount =
            |source: PathBuf, target: &str| BindMount { source, target: target.into(), read_only: true };
        vec![
            mount(self.files.hosts.join(id.as_str()), "/etc/hosts"),
            mount(self.files.resolv_conf.clone(), "/etc/resolv.conf"),
        ]
    }

    /// Follows the host's resolvers until the daemon ends: replicas see the change at once.
    pub async fn follow_resolvers(&self) {
        if !self.files.dns.is_empty() {
            return;
        }
        let mut changes = match resolvers::Changes::new() {
            Ok(changes) => changes,
            Err(error) => return warn!("changes of the host's resolvers are not followed: {error}"),
        };
        loop {
            if let Err(error) = changes.next().await {
                return warn!("changes of the host's resolvers are no longer followed: {error}");
            }
            if let Err(error) = self.write_resolv_conf() {
                warn!("{error}");
            }
        }
    }

    fn write_resolv_conf(&self) -> Result<(), NetworkError> {
        let text = if self.files.dns.is_empty() {
            resolvers::of_host()
        } else {
            self.files.dns.iter().map(|server| format!("nameserver {server}\n")).collect()
        };
        if !text.contains("nameserver") {
            warn!("no resolver was found that functions can reach: set network.dns");
        }
        write(&self.files.resolv_conf, &text)
    }
}

/// Writes a file in place: it may be mounted into replicas, and a mount follows the file, not its name.
fn write(path: &Path, text: &str) -> Result<(), NetworkError> {
    use std::os::unix::fs::OpenOptionsExt;
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o644)));
    written.map_err(|source| NetworkError::File { path: path.to_owned(), source })
}

/// The hosts file of a replica at `address` whose host name is `name`.
fn hosts(gateway: Option<IpAddr>, address: IpAddr, name: &str) -> String {
    let gateway = gateway.map(|gateway| format!("{gateway}\t{GATEWAY_NAMES}\n")).unwrap_or_default();
    format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n{address}\t{name}\n{gateway}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_knows_itself_and_the_gateway() {
        let text = hosts(Some([10, 63, 0, 1].into()), [10, 63, 0, 9].into(), "echo");
        assert!(text.contains("10.63.0.9\techo\n"));
        assert!(text.contains("10.63.0.1\tgateway gateway.openfaas gateway.openfaas.svc.cluster.local\n"));
    }
}
