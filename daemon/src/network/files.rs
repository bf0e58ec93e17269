//! The files of the network that replicas see: `/etc/hosts`, one for each, and `/etc/resolv.conf`, one for all.
//!
//! Owns where they are and what stands in them. They are written in place: a mount follows the file, not its name.

use std::collections::HashSet;
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use roost_proxy::function::ReplicaId;
use tracing::warn;

use super::NetworkError;
use crate::resolvers;
use crate::runtime::BindMount;

/// The names under which functions know the proxy, in OpenFaaS on one machine and on Kubernetes.
pub(crate) const GATEWAY_NAMES: &str = "gateway gateway.openfaas gateway.openfaas.svc.cluster.local";

#[derive(Debug)]
pub(super) struct Files {
    /// One `hosts` file a replica.
    hosts: PathBuf,
    resolv_conf: PathBuf,
    dns: Vec<IpAddr>,
}

impl Files {
    /// Files under `run`; `dns` overrides the host's resolvers.
    pub(super) fn open(run: &Path, dns: Vec<IpAddr>) -> Result<Self, NetworkError> {
        let files = Self { hosts: run.join("hosts"), resolv_conf: run.join("resolv.conf"), dns };
        std::fs::create_dir_all(&files.hosts)
            .map_err(|source| NetworkError::File { path: files.hosts.clone(), source })?;
        files.write_resolv_conf()?;
        Ok(files)
    }

    /// The hosts file of a replica at `address` whose host name is `name`.
    pub(super) fn write_hosts(
        &self,
        id: &ReplicaId,
        gateway: Option<IpAddr>,
        address: IpAddr,
        name: &str,
    ) -> Result<(), NetworkError> {
        write(&self.hosts.join(id.as_str()), &hosts(gateway, address, name))
    }

    /// No hosts file for a replica. There need not be one.
    pub(super) fn remove_hosts(&self, id: &ReplicaId) -> Result<(), NetworkError> {
        remove(self.hosts.join(id.as_str()))
    }

    /// No hosts files but those of the replicas in `keep`.
    pub(super) fn collect(&self, keep: &HashSet<String>) -> Result<(), NetworkError> {
        let failed = |source| NetworkError::File { path: self.hosts.clone(), source };
        for entry in std::fs::read_dir(&self.hosts).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if !entry.file_name().to_str().is_some_and(|id| keep.contains(id)) {
                remove(entry.path())?;
            }
        }
        Ok(())
    }

    pub(super) fn mounts(&self, id: &ReplicaId) -> Vec<BindMount> {
        let mount =
            |source: PathBuf, target: &str| BindMount { source, target: target.into(), read_only: true };
        vec![
            mount(self.hosts.join(id.as_str()), "/etc/hosts"),
            mount(self.resolv_conf.clone(), "/etc/resolv.conf"),
        ]
    }

    /// Follows the host's resolvers until the daemon ends: replicas see the change at once.
    pub(super) async fn follow_resolvers(&self) {
        if !self.dns.is_empty() {
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
        let text = if self.dns.is_empty() {
            resolvers::of_host()
        } else {
            self.dns.iter().map(|server| format!("nameserver {server}\n")).collect()
        };
        if !text.contains("nameserver") {
            warn!("no resolver was found that functions can reach: set network.dns");
        }
        write(&self.resolv_conf, &text)
    }
}

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

/// It need not be there.
pub(super) fn remove(path: PathBuf) -> Result<(), NetworkError> {
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(NetworkError::File { path, source }),
        _ => Ok(()),
    }
}

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
