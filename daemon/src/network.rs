//! What a replica needs to reach and to be reached: its address, its names, its resolvers.
//!
//! Owns the files that replicas see as `/etc/hosts` and `/etc/resolv.conf`, and which network is whose: the default
//! namespace has the one that the conflist describes, each other one a bridge and a subnet of its own, kept apart from
//! all others. Attaching and keeping apart themselves are `roost-cni`'s. Which namespaces there are is the registry's.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use roost_cni::{Attachment, Conflist, Isolation, Network, Segments};
use roost_proxy::function::{FunctionKey, Namespace, ReplicaId};
use tracing::warn;

pub(crate) use self::pool::LONGEST_PREFIX;
use self::pool::Pool;
use crate::resolvers;
use crate::runtime::BindMount;

mod pool;

/// The names under which functions know the proxy, in OpenFaaS on one machine and on Kubernetes.
pub(crate) const GATEWAY_NAMES: &str = "gateway gateway.openfaas gateway.openfaas.svc.cluster.local";

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
    /// A namespace has no network: why.
    #[error("{0}")]
    Namespace(String),
}

/// The network of the host's functions. Cheap to clone.
#[derive(Clone)]
pub struct HostNetwork {
    cni: Network,
    files: Arc<Files>,
    parts: Arc<Parts>,
}

/// Which network is whose.
#[derive(Debug)]
struct Parts {
    default: Conflist,
    /// What the networks of further namespaces are cut from, or why there can be none.
    pool: Result<Pool, String>,
    further: Mutex<BTreeMap<Namespace, Conflist>>,
    isolation: Isolation,
    /// Held by whoever changes what is kept apart, from the look at what there is on: what is set last is what there is.
    apart: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Files {
    /// One `hosts` file a replica.
    hosts: PathBuf,
    resolv_conf: PathBuf,
    dns: Vec<IpAddr>,
}

impl HostNetwork {
    /// The network that `conflist` describes, with its files under `run`. The subnets of further namespaces are cut from
    /// `namespaces`; `dns` overrides the host's resolvers.
    ///
    /// # Errors
    /// When a plugin is missing or a file cannot be written.
    pub fn new(
        conflist: Conflist,
        plugin_dirs: Vec<PathBuf>,
        run: &Path,
        namespaces: IpNet,
        dns: Vec<IpAddr>,
    ) -> Result<Self, NetworkError> {
        let files = Files { hosts: run.join("hosts"), resolv_conf: run.join("resolv.conf"), dns };
        std::fs::create_dir_all(&files.hosts)
            .map_err(|source| NetworkError::File { path: files.hosts.clone(), source })?;
        let parts = Parts {
            pool: Pool::new(&conflist, namespaces),
            further: Mutex::default(),
            isolation: Isolation::new(conflist.bridge().unwrap_or_default()),
            default: conflist.clone(),
            apart: tokio::sync::Mutex::default(),
        };
        let cni = Network::new(roost_cni::Settings {
            conflist,
            plugin_dirs,
            cache_dir: run.join("cni"),
            netns_dir: run.join("netns"),
        })?;
        let network = Self { cni, files: Arc::new(files), parts: Arc::new(parts) };
        network.write_resolv_conf()?;
        Ok(network)
    }

    /// How many namespaces there can be beside the default one: their indices begin with 1.
    ///
    /// # Errors
    /// When there can be none, with what to change.
    pub fn last_index(&self) -> Result<u32, String> {
        self.parts.pool.as_ref().map(Pool::last).map_err(Clone::clone)
    }

    /// Gives namespaces their networks, kept apart from each other and the default one's. Those that have one keep it.
    /// What makes a network is made with its first replica; the rules that keep them apart are there before.
    ///
    /// # Errors
    /// When one of them cannot have one, or the rules cannot be written. What could be given is given.
    pub async fn open(
        &self,
        namespaces: impl IntoIterator<Item = (Namespace, u32)>,
    ) -> Result<(), NetworkError> {
        let mut refused = Ok(());
        for (namespace, index) in namespaces {
            let pool = self.parts.pool.as_ref().map_err(Clone::clone);
            match pool.and_then(|pool| pool.network(&namespace, index)) {
                Ok(conflist) => drop(self.parts.further().insert(namespace, conflist)),
                Err(why) => refused = Err(NetworkError::Namespace(why)),
            }
        }
        self.keep_apart().await.and(refused)
    }

    /// Takes the network of a namespace away: its bridge, its rules and what is noted of its addresses. All is well if it
    /// has none.
    ///
    /// # Errors
    /// When something of it stays; then it can be tried again.
    pub async fn close(&self, namespace: &Namespace) -> Result<(), NetworkError> {
        let conflist = self.parts.further().get(namespace).cloned();
        if let Some(conflist) = conflist {
            self.cni.dismantle(&conflist).await?;
            self.parts.further().remove(namespace);
        }
        self.keep_apart().await
    }

    async fn keep_apart(&self) -> Result<(), NetworkError> {
        let _apart = self.parts.apart.lock().await;
        Ok(self.parts.isolation.set(self.parts.segments()).await?)
    }

    /// The address at which functions of a namespace reach this host.
    #[must_use]
    pub fn gateway(&self, namespace: &Namespace) -> Option<IpAddr> {
        self.parts.of(namespace)?.gateway()
    }

    /// How many replicas there can be in a namespace at a time, as far as this host knows: the default one's addresses
    /// are its conflist's matter.
    #[must_use]
    pub fn room(&self, namespace: &Namespace) -> Option<u32> {
        self.parts.further().get(namespace)?.subnet().map(room)
    }

    /// Is this the address of a replica, as opposed to the host's or anybody else's?
    #[must_use]
    pub fn is_replica(&self, address: IpAddr) -> bool {
        let further = self.parts.further();
        let mut networks = further.values().chain([&self.parts.default]);
        networks.any(|conflist| is_replica(conflist.subnet(), conflist.gateway(), address))
    }

    /// Gives a replica its network namespace, its address and its hosts file.
    ///
    /// # Errors
    /// When a plugin fails, or the replica cannot be kept apart from those of other namespaces. It is to be detached then.
    pub async fn attach(&self, id: &ReplicaId, key: &FunctionKey) -> Result<Attachment, NetworkError> {
        let conflist = self.parts.of(&key.namespace).ok_or_else(|| {
            NetworkError::Namespace(format!("the namespace {} has no network", key.namespace))
        })?;
        let attach = self.cni.attach_to(&conflist, id.as_str());
        let (attachment, apart) = tokio::join!(attach, self.parts.isolation.hold());
        let attachment = attachment?;
        apart?;
        let text = hosts(conflist.gateway(), attachment.address, key.name.as_str());
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

impl Parts {
    /// The network of a namespace.
    fn of(&self, namespace: &Namespace) -> Option<Conflist> {
        if *namespace == Namespace::default() {
            Some(self.default.clone())
        } else {
            self.further().get(namespace).cloned()
        }
    }

    /// What is to be kept apart: nothing, while there is one namespace.
    fn segments(&self) -> Segments {
        let further = self.further();
        if further.is_empty() {
            return Segments::default();
        }
        let conflists = || further.values().chain([&self.default]);
        let bridges: BTreeSet<String> = conflists().filter_map(|c| c.bridge().map(str::to_owned)).collect();
        let subnets = conflists().filter_map(Conflist::subnet).filter(|subnet| subnet.addr().is_ipv4());
        // Indices are given from the first on: their subnets are neighbours, and few when put together.
        Segments { bridges, subnets: IpNet::aggregate(&subnets.collect()) }
    }

    /// Held for a look-up, never across an await.
    fn further(&self) -> MutexGuard<'_, BTreeMap<Namespace, Conflist>> {
        self.further.lock().unwrap_or_else(PoisonError::into_inner)
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

/// The addresses of a subnet that replicas can have: not its own, not the gateway's, not the broadcast's.
fn room(subnet: IpNet) -> u32 {
    let bits = u32::from(subnet.max_prefix_len() - subnet.prefix_len());
    1u32.checked_shl(bits).unwrap_or(u32::MAX).saturating_sub(3)
}

fn is_replica(subnet: Option<IpNet>, gateway: Option<IpAddr>, address: IpAddr) -> bool {
    subnet.is_some_and(|subnet| subnet.contains(&address)) && gateway != Some(address)
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
    fn a_replica_is_in_the_subnet_and_not_the_gateway() {
        let subnet = Some("10.63.0.0/16".parse().unwrap());
        let gateway = Some([10, 63, 0, 1].into());
        for (address, is) in [
            ("10.63.0.9", true),
            ("10.63.255.1", true),
            ("10.63.0.1", false),
            ("10.64.0.9", false),
            ("127.0.0.1", false),
            ("::1", false),
        ] {
            assert_eq!(is_replica(subnet, gateway, address.parse().unwrap()), is, "{address}");
        }
        assert!(!is_replica(None, gateway, [10, 63, 0, 9].into()));
    }

    #[test]
    fn a_subnet_has_room_for_all_but_three_of_its_addresses() {
        for (subnet, expected) in
            [("10.64.0.0/24", 253), ("10.9.9.16/28", 13), ("10.64.0.0/30", 1), ("fd00::/48", u32::MAX - 3)]
        {
            assert_eq!(room(subnet.parse().unwrap()), expected, "{subnet}");
        }
    }

    #[test]
    fn a_replica_knows_itself_and_the_gateway() {
        let text = hosts(Some([10, 63, 0, 1].into()), [10, 63, 0, 9].into(), "echo");
        assert!(text.contains("10.63.0.9\techo\n"));
        assert!(text.contains("10.63.0.1\tgateway gateway.openfaas gateway.openfaas.svc.cluster.local\n"));
    }
}
