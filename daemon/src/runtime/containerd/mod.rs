//! containerd, by its services: replicas are its containers.
//!
//! Owns everything that is said to containerd about a running replica: namespaces, leases, snapshots of replicas,
//! containers, tasks. Never pulls an image, never attaches a network, and keeps no list of replicas: containerd
//! does, and labels on its containers say which are ours. Works with containerd 1.6.20 and later, and asks what it
//! can do rather than which version it is.
//!
//! `start`, `begin`, `freezer`, `stop` and `wait` are the life of a replica; `spec` is what the OCI runtime is told of it.

pub mod client;
pub mod lease;

mod begin;
mod capabilities;
mod cgroup;
pub mod container;
mod counted;
mod devices;
mod error;
mod exec_fifo;
mod freezer;
mod host;
mod mounts;
mod moves;
mod namespace;
pub mod oci;
mod output;
mod plugins;
mod rootfs;
mod seccomp;
mod shim;
mod snapshot;
mod spec;
mod start;
mod starts;
mod stop;
mod task;
mod user;
mod wait;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use roost_proxy::function::{Namespace, ReplicaId};

use self::client::{Client, Scope};
pub use self::error::{Error, Kind};
use self::host::Host;
use self::moves::Moves;
pub use self::plugins::Version;
use self::shim::Gates;
use self::snapshot::Snapshots;
use self::starts::Starts;
use self::task::Tasks;
pub use self::user::InvalidUser;
use self::user::Users;
use crate::runtime::{Found, Standing, Usage};

/// Which containerd, and how replicas are run by it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// containerd's socket.
    pub socket: PathBuf,
    /// The snapshotter that images are unpacked with.
    pub snapshotter: String,
    /// containerd's name of the shim.
    pub runtime: String,
    /// The OCI runtime that the shim calls, by name or path; `None` is runc.
    pub oci_runtime: Option<String>,
    /// The control group that the groups of all replicas are below, from the root of the hierarchy.
    pub cgroup_parent: PathBuf,
    /// Whether all replicas of a namespace share one shim process. It saves some 13 MB a replica; the price is
    /// that they end together if it dies.
    pub share_shim: bool,
    /// Whether the system calls of replicas are filtered.
    pub seccomp: bool,
    /// The program that writes their output: our own binary.
    pub log_driver: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            socket: "/run/containerd/containerd.sock".into(),
            snapshotter: "overlayfs".to_owned(),
            runtime: "io.containerd.runc.v2".to_owned(),
            oci_runtime: None,
            cgroup_parent: "/roost".into(),
            share_shim: true,
            seccomp: true,
            log_driver: "/usr/local/bin/roostd".into(),
        }
    }
}

/// Runs replicas by containerd. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Containerd {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    client: Client,
    host: Host,
    cgroups: cgroup::Tree,
    gates: Gates,
    moves: Moves,
    starts: Starts,
    users: Users,
}

impl Containerd {
    /// A runtime by these settings. It connects at the first call; [`Containerd::connect`] tells whether it can.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let host = Host::read();
        let cgroups = cgroup::Tree::new(host.cgroups);
        let inner = Inner {
            client: Client::new(&settings.socket),
            moves: Moves::new(&cgroups),
            cgroups,
            gates: Gates::default(),
            starts: Starts::default(),
            users: Users::default(),
            settings,
            host,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The connection, for whoever else speaks to this containerd.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    /// Asks containerd for its version and whether it can do what the settings want.
    ///
    /// # Errors
    /// When it does not answer, with what to do about it; when it lacks the snapshotter, with those it has.
    pub async fn connect(&self) -> Result<Version, Error> {
        plugins::check(self.client(), self.settings()).await
    }

    /// Asks containerd what it is, without wanting anything of it.
    ///
    /// # Errors
    /// When it does not answer, with what to do about it.
    pub async fn ask(&self) -> Result<Version, Error> {
        plugins::ask(self.client(), self.settings()).await
    }

    /// Makes containerd's namespace for `namespace` if it is not there, and marks it as ours.
    ///
    /// # Errors
    /// When containerd fails.
    pub async fn ensure_namespace(&self, namespace: &Namespace) -> Result<(), Error> {
        namespace::ensure(self.client(), namespace).await
    }

    /// Is containerd's namespace of this name somebody else's?
    ///
    /// # Errors
    /// When containerd fails.
    pub async fn is_foreign(&self, namespace: &Namespace) -> Result<bool, Error> {
        namespace::is_foreign(self.client(), namespace).await
    }

    /// Deletes containerd's namespace for `namespace`, which need not be there; `false` if something is in it.
    ///
    /// # Errors
    /// When containerd fails.
    pub async fn delete_namespace(&self, namespace: &Namespace) -> Result<bool, Error> {
        namespace::delete(self.client(), namespace).await
    }

    /// Gives containerd's namespace up: it stays, without our marks.
    ///
    /// # Errors
    /// When containerd fails.
    pub async fn unmark_namespace(&self, namespace: &Namespace) -> Result<(), Error> {
        namespace::unmark(self.client(), namespace).await
    }

    /// All replicas of ours, in all namespaces, whoever started them.
    ///
    /// # Errors
    /// When containerd fails.
    pub async fn list(&self) -> Result<Vec<Found>, Error> {
        let mut all = Vec::new();
        for namespace in namespace::ours(self.client()).await? {
            all.extend(self.list_in(&namespace).await?);
        }
        Ok(all)
    }

    async fn list_in(&self, namespace: &Namespace) -> Result<Vec<Found>, Error> {
        let scope = self.client().scope(namespace);
        let mut replicas = container::list(&scope, namespace).await?;
        if replicas.is_empty() {
            return Ok(replicas);
        }
        // Before containerd is asked: it may have no answer until then.
        join_all(replicas.iter().map(|replica| self.unblock(namespace, &replica.id))).await;
        let processes = self.tasks(&scope, namespace).list().await?;
        let mut processes: HashMap<String, _> =
            processes.into_iter().map(|process| (process.id.clone(), process)).collect();
        for replica in &mut replicas {
            let Some(process) = processes.remove(replica.id.as_str()) else { continue };
            self.gates().settle(namespace, &replica.id);
            replica.standing = self.standing(namespace, &replica.id, &process);
            // containerd knows of no freeze but its own.
            if replica.standing == Some(Standing::Running) && self.is_frozen(namespace, &replica.id).await? {
                replica.standing = Some(Standing::Paused);
            }
            if let Some(ended) = task::ended(&process) {
                replica.exit = Some(self.exit(namespace, &replica.id, ended).await);
            }
        }
        Ok(replicas)
    }

    /// What the replica uses now.
    ///
    /// # Errors
    /// When its control group cannot be read; it is gone with the replica.
    pub async fn usage(&self, namespace: &Namespace, id: &ReplicaId) -> Result<Usage, Error> {
        self.ask_group(namespace, id, cgroup::Tree::usage).await
    }

    /// How long ago the oldest process of the replica began; `None` if it has none.
    ///
    /// # Errors
    /// When its control group cannot be read; it is gone with the replica.
    pub async fn age(&self, namespace: &Namespace, id: &ReplicaId) -> Result<Option<Duration>, Error> {
        self.ask_group(namespace, id, cgroup::Tree::age).await
    }

    /// Reads something of a replica's control group, off the async workers.
    async fn ask_group<T: Send + 'static>(
        &self,
        namespace: &Namespace,
        id: &ReplicaId,
        ask: fn(&cgroup::Tree, &Path) -> std::io::Result<T>,
    ) -> Result<T, Error> {
        let group = cgroup::path(&self.settings().cgroup_parent, namespace, id);
        let (cgroups, path) = (self.cgroups().clone(), group.clone());
        tokio::task::spawn_blocking(move || ask(&cgroups, &path))
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
            .map_err(Error::host("cannot read the control group", &group))
    }

    fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    fn host(&self) -> Host {
        self.inner.host
    }

    fn cgroups(&self) -> &cgroup::Tree {
        &self.inner.cgroups
    }

    fn moves(&self) -> &Moves {
        &self.inner.moves
    }

    /// The tasks of `namespace`, by the calls of `scope`.
    fn tasks(&self, scope: &Scope, namespace: &Namespace) -> Tasks {
        Tasks::new(scope, self.gates().turns(namespace))
    }

    fn gates(&self) -> &Gates {
        &self.inner.gates
    }

    fn starts(&self) -> &Starts {
        &self.inner.starts
    }

    fn users(&self) -> &Users {
        &self.inner.users
    }

    fn snapshots<'a>(&'a self, scope: &'a Scope) -> Snapshots<'a> {
        Snapshots { scope, snapshotter: &self.settings().snapshotter }
    }
}
