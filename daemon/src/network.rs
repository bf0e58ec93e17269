//! What a replica needs to reach and to be reached: its address, its names, its resolvers, a way out.
//!
//! Owns which network is whose: the default namespace has the one that the conflist describes, each other one a bridge and
//! a subnet of its own, kept apart from all others. Networks are attached ahead (`slots.rs`, `fill.rs`); a replica takes
//! one that is ready, or waits until one is made for it. Attaching, keeping apart and masquerading themselves are
//! `roost-cni`'s. Which namespaces there are is the registry's.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use roost_cni::{Accepts, Attachment, Conflist, Held, Isolation, Masquerade, Network, Segments};
use roost_proxy::function::{FunctionKey, Namespace, ReplicaId};

use self::files::Files;
pub(crate) use self::files::GATEWAY_NAMES;
pub(crate) use self::pool::LONGEST_PREFIX;
use self::pool::Pool;
use self::slots::Slots;
use crate::runtime::BindMount;

mod files;
mod fill;
mod pool;
mod slots;

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
    slots: Arc<Slots>,
}

/// Which network is whose.
#[derive(Debug)]
struct Parts {
    default: Conflist,
    /// What the networks of further namespaces are cut from, or why there can be none.
    pool: Result<Pool, String>,
    further: Mutex<BTreeMap<Namespace, Conflist>>,
    isolation: Isolation,
    masquerade: Masquerade,
    accepts: Accepts,
    /// Held by whoever changes what the rules are to be, from the look at what there is on: what is set last is what there is.
    ruled: tokio::sync::Mutex<()>,
}

impl HostNetwork {
    /// The network that `conflist` describes, with its files under `run`. The subnets of further namespaces are cut from
    /// `namespaces`; `dns` overrides the host's resolvers; `slots` networks are kept ready for each namespace.
    ///
    /// # Errors
    /// When a plugin is missing or a file cannot be written.
    pub fn new(
        conflist: Conflist,
        plugin_dirs: Vec<PathBuf>,
        run: &Path,
        namespaces: IpNet,
        dns: Vec<IpAddr>,
        slots: usize,
    ) -> Result<Self, NetworkError> {
        let bridge = conflist.bridge().unwrap_or_default();
        let parts = Parts {
            pool: Pool::new(&conflist, namespaces),
            further: Mutex::default(),
            isolation: Isolation::new(bridge),
            masquerade: Masquerade::new(bridge),
            accepts: Accepts::default(),
            default: conflist.clone(),
            ruled: tokio::sync::Mutex::default(),
        };
        let cni = Network::new(roost_cni::Settings {
            conflist,
            plugin_dirs,
            cache_dir: run.join("cni"),
            netns_dir: run.join("netns"),
        })?;
        let (files, slots) = (Files::open(run, dns)?, Slots::open(run, slots)?);
        Ok(Self { cni, files: files.into(), parts: parts.into(), slots: slots.into() })
    }

    /// How many namespaces there can be beside the default one: their indices begin with 1.
    ///
    /// # Errors
    /// When there can be none, with what to change.
    pub fn last_index(&self) -> Result<u32, String> {
        self.parts.pool.as_ref().map(Pool::last).map_err(Clone::clone)
    }

    /// Gives namespaces their networks, kept apart from each other and the default one's. Those that have one keep it.
    /// What makes a network is made with its first replica; the rules that keep them apart, and let them out, are there
    /// before. To be called once at the start, if only with none.
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
        self.set_rules().await.and(refused)
    }

    /// Takes the network of a namespace away: its slots, its bridge, its rules and what is noted of its addresses. All is
    /// well if it has none.
    ///
    /// # Errors
    /// When something of it stays; then it can be tried again.
    pub async fn close(&self, namespace: &Namespace) -> Result<(), NetworkError> {
        let conflist = self.parts.further().get(namespace).cloned();
        if let Some(conflist) = conflist {
            // One that is being made is made to its end, and found.
            let _working = self.slots.work.lock().await;
            for slot in self.slots.close(namespace) {
                self.cni.detach(&slot).await?;
            }
            self.cni.dismantle(&conflist).await?;
            self.slots.closed(namespace);
            self.parts.further().remove(namespace);
        }
        self.set_rules().await
    }

    /// Has the rules as they are to be now.
    async fn set_rules(&self) -> Result<(), NetworkError> {
        let _ruled = self.parts.ruled.lock().await;
        let (apart, out) = tokio::join!(
            self.parts.isolation.set(self.parts.segments()),
            self.parts.masquerade.set(self.parts.masqueraded()),
        );
        Ok(apart.and(out)?)
    }

    /// Sees to it that the rules are still there. If they were not, rules that plugins made for slots may be gone too.
    async fn hold(&self) -> Result<Held, NetworkError> {
        let (apart, out, lost) = tokio::join!(
            self.parts.isolation.hold(),
            self.parts.masquerade.hold(),
            self.are_rules_lost(None)
        );
        let restored = lost || [&apart, &out].into_iter().any(|held| matches!(held, Ok(Held::Restored)));
        if restored {
            self.slots.doubt();
        }
        apart.and(out)?;
        Ok(if restored { Held::Restored } else { Held::Intact })
    }

    /// Have slots that are ready, or are about to be, lost the rules that let them through?
    async fn are_rules_lost(&self, further: Option<IpAddr>) -> bool {
        let addresses: Vec<IpAddr> = self.slots.ready_addresses().into_iter().chain(further).collect();
        self.parts.accepts.are_lost(&addresses).await.unwrap_or_else(|error| {
            // A host on which no rule is wanted may have no programs for them.
            tracing::debug!("networks that are ready are taken as they are: {error}");
            false
        })
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

    /// Gives a replica its network namespace, its address and its hosts file: a slot, if one is ready.
    ///
    /// # Errors
    /// When a plugin fails, or the replica cannot be kept apart from those of other namespaces. It is to be detached then.
    pub async fn attach(&self, id: &ReplicaId, key: &FunctionKey) -> Result<Attachment, NetworkError> {
        let conflist = self.parts.of(&key.namespace).ok_or_else(|| no_network(&key.namespace))?;
        let _needed = self.slots.need();
        let attachment = match self.take_slot(&key.namespace, id).await? {
            Some(slot) => slot,
            None => self.attach_to(&conflist, &key.namespace, id).await?,
        };
        self.files.write_hosts(id, conflist.gateway(), attachment.address, key.name.as_str())?;
        Ok(attachment)
    }

    async fn take_slot(
        &self,
        namespace: &Namespace,
        id: &ReplicaId,
    ) -> Result<Option<Attachment>, NetworkError> {
        self.slots.fill_from_now(namespace);
        if !self.slots.has_ready(namespace) {
            return Ok(None);
        }
        // Takes no time, unless somebody has changed rules.
        self.hold().await?;
        self.slots.take(namespace, id)
    }

    async fn attach_to(
        &self,
        conflist: &Conflist,
        namespace: &Namespace,
        id: &ReplicaId,
    ) -> Result<Attachment, NetworkError> {
        let (attachment, held) = tokio::join!(self.cni.attach_to(conflist, id.as_str()), self.hold());
        let attachment = match attachment {
            Err(error) if self.slots.hold_some(namespace) => {
                tracing::debug!(replica = %id, "{error}: tried again with the address of a slot");
                self.attach_instead(conflist, namespace, id).await?
            }
            attached => attached?,
        };
        held?;
        Ok(attachment)
    }

    /// What could not be attached, when slots may have the last addresses: they give way.
    async fn attach_instead(
        &self,
        conflist: &Conflist,
        namespace: &Namespace,
        id: &ReplicaId,
    ) -> Result<Attachment, NetworkError> {
        let _working = self.slots.work.lock().await;
        if let Some(slot) = self.slots.take(namespace, id)? {
            return Ok(slot);
        }
        if let Some(slot) = self.slots.give_up(namespace)
            && let Err(error) = self.cni.detach(&slot.id).await
        {
            // What is left of it is tried again in the background.
            self.slots.discard(namespace, slot.id);
            return Err(error.into());
        }
        Ok(self.cni.attach_to(conflist, id.as_str()).await?)
    }

    /// Takes a replica's network away. All is well if there is none.
    ///
    /// # Errors
    /// When a plugin fails; then it can be tried again.
    pub async fn detach(&self, id: &ReplicaId) -> Result<(), NetworkError> {
        if let Some(slot) = self.slots.of(id)? {
            self.cni.detach(&slot).await?;
            self.slots.forget(id.as_str())?;
        }
        self.cni.detach(id.as_str()).await?;
        self.files.remove_hosts(id)?;
        self.slots.look_again();
        Ok(())
    }

    /// Takes away what earlier daemons left, except of the replicas in `keep`, and slots that can still be used. Behind
    /// [`open`](Self::open), before the first replica is attached.
    ///
    /// # Errors
    /// When what is there cannot be listed, or something of it stays.
    pub async fn collect(&self, keep: &HashSet<String>) -> Result<Vec<String>, NetworkError> {
        let taken = self.slots.taken()?;
        let of_kept =
            taken.iter().filter(|(replica, _)| keep.contains(*replica)).map(|(_, slot)| slot.clone());
        let mut kept: HashSet<String> = keep.iter().cloned().chain(of_kept).collect();
        let used: HashSet<&String> = taken.values().collect();
        for slot in self.cni.attachments().await? {
            if let Some(namespace) = slots::namespace_of(&slot.id)
                && !used.contains(&slot.id)
                && let Some(conflist) = self.parts.of(&namespace)
                && self.cni.is_attached_by(&conflist, &slot.id).await?
                && self.slots.adopt(&namespace, slot.clone())
            {
                kept.insert(slot.id);
            }
        }
        let freed = self.cni.collect(&kept).await;
        let mut left = Ok(());
        for (replica, slot) in taken.iter().filter(|(replica, _)| !keep.contains(*replica)) {
            // As long as anything is left of a slot, it has a replica's name on it.
            match self.cni.detach(slot).await {
                Ok(()) => self.slots.forget(replica)?,
                Err(error) => left = Err(error),
            }
        }
        self.files.collect(keep)?;
        let freed = freed?;
        left?;
        Ok(freed)
    }

    /// How many networks are ready for replicas to come, by namespace.
    #[must_use]
    pub fn ready_slots(&self) -> BTreeMap<Namespace, usize> {
        self.slots.ready()
    }

    /// What a replica sees of the network's files.
    #[must_use]
    pub fn mounts(&self, id: &ReplicaId) -> Vec<BindMount> {
        self.files.mounts(id)
    }

    /// Follows the host's resolvers until the daemon ends: replicas see the change at once.
    pub async fn follow_resolvers(&self) {
        self.files.follow_resolvers().await;
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

    /// What is to have the host's address outside.
    fn masqueraded(&self) -> BTreeSet<IpNet> {
        let further = self.further();
        further.values().chain([&self.default]).flat_map(Conflist::masqueraded).collect()
    }

    /// Held for a look-up, never across an await.
    fn further(&self) -> MutexGuard<'_, BTreeMap<Namespace, Conflist>> {
        self.further.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn no_network(namespace: &Namespace) -> NetworkError {
    NetworkError::Namespace(format!("the namespace {namespace} has no network"))
}

/// The addresses of a subnet that replicas can have: not its own, not the gateway's, not the broadcast's.
fn room(subnet: IpNet) -> u32 {
    let bits = u32::from(subnet.max_prefix_len() - subnet.prefix_len());
    1u32.checked_shl(bits).unwrap_or(u32::MAX).saturating_sub(3)
}

fn is_replica(subnet: Option<IpNet>, gateway: Option<IpAddr>, address: IpAddr) -> bool {
    subnet.is_some_and(|subnet| subnet.contains(&address)) && gateway != Some(address)
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
}
