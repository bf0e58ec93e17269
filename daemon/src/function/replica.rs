//! The life of one replica, from its address to the last trace of it. One task owns it all the way.
//!
//! ```text
//! attach → start → ready? ──▶ Ready ──drain: last claim gone, or the deadline──▶ Ended ──▶ stop → detach ──▶ Gone
//!    └────────┴───────┴────── failure, exit, drain ───────────────────────────────▲
//! ```
//!
//! A step is never cut off half-way: what it made is taken apart by the same task, which tries until it succeeds.
//! When the daemon ends, these tasks end with it and the containers run on; the next daemon adopts them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use roost_proxy::function::{FunctionKey, ReplicaId};
use roost_proxy::{Endpoint, ReplicaKey};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::function::binds::Binds;
use crate::function::controller::Happening;
use crate::function::grants::Allowed;
use crate::function::liveness::Liveness;
use crate::function::readiness::{self, Answer, Probe, Watched};
use crate::function::spec::FunctionSpec;
use crate::image::ResolvedImage;
use crate::logs::LogStore;
use crate::network::HostNetwork;
use crate::pauses::Pauses;
use crate::runtime::ReplicaPlan;
use crate::runtime::containerd::Containerd;
use crate::secrets::Secrets;

/// The port on which a function answers.
pub const FUNCTION_PORT: u16 = 8080;

/// The pauses between tries to take a replica apart.
const CLEAN_UP_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// What every replica is made with.
#[derive(Clone)]
pub struct Host {
    /// Containers.
    pub runtime: Containerd,
    /// Addresses.
    pub network: HostNetwork,
    /// Secrets.
    pub secrets: Secrets,
    /// What replicas print.
    pub logs: LogStore,
    /// What of the host functions may be given.
    pub allowed: Arc<Allowed>,
    /// What of the host's files they were given.
    pub binds: Binds,
    /// Limits of time and space.
    pub settings: ReplicaSettings,
}

/// Limits of time and space in a replica's life.
#[derive(Debug, Clone)]
pub struct ReplicaSettings {
    /// From TERM to KILL.
    pub stop_grace: Duration,
    /// How long a draining replica may go on with what it has, where its function does not say.
    pub drain: Duration,
    /// From the start of the process until it is ready.
    pub start_timeout: Duration,
    /// How much output of one replica is kept, in bytes.
    pub log_limit: u64,
}

/// Why a replica ended that should not have.
#[derive(Debug, Clone)]
pub enum Cause {
    /// It was never started: what failed, for whoever runs the host.
    NotStarted(String),
    /// Its process ended, or never became ready: how. Holds nothing of the host.
    Ended(String),
    /// Its process was ended because it reached its memory limit: as above.
    OutOfMemory(String),
}

/// What a replica is told by its controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// To be made, but for the start of its process, and wait.
    Stand,
    /// To run, and to take requests when it is ready.
    Run,
    /// To finish what it has, and then to be frozen.
    Pause,
    /// To take nothing new, to finish what it has within this time, and to end. There is no order behind this one.
    End(Duration),
}

/// What a replica tells its controller.
#[derive(Debug)]
pub enum Event {
    /// All is made; its process waits for the order to run.
    Created,
    /// It can take requests (again), at this endpoint.
    Ready(Arc<Endpoint>),
    /// It can take no more requests for now, and has said so itself.
    Busy,
    /// It is frozen.
    Paused,
    /// It takes no more. With the cause, if nobody asked for it.
    Ended(Option<Cause>),
    /// Nothing is left of it.
    Gone,
}

/// Where a replica begins.
#[derive(Debug)]
pub enum Origin {
    /// It is made from an image.
    New(Box<(FunctionSpec, ResolvedImage)>),
    /// It runs already, at this address, and may be asked whether it lives: an earlier daemon made it.
    Adopted(SocketAddr, Option<Liveness>),
    /// An earlier daemon left it, and nobody wants it.
    Leftover,
}

/// The task of one replica.
pub struct Replica {
    /// Its id.
    pub id: ReplicaId,
    /// Its function.
    pub key: FunctionKey,
    /// Its revision.
    pub revision: String,
    /// What it is made with.
    pub host: Host,
    /// The key that it is for.
    pub replica_key: Option<ReplicaKey>,
    /// What it is told.
    pub orders: watch::Receiver<Order>,
    /// Where its events go.
    pub tell: mpsc::Sender<Happening>,
}

impl Replica {
    /// Lives.
    pub async fn run(self, origin: Origin) {
        let cause = match origin {
            Origin::New(new) => match self.make(&new.0, &new.1).await {
                Ok(address) => self.live(Some(&new.0.probe), new.0.liveness.as_ref(), address).await,
                Err(cause) => Some(Cause::NotStarted(cause)),
            },
            Origin::Adopted(address, liveness) => self.live(None, liveness.as_ref(), address).await,
            Origin::Leftover => None,
        };
        self.tell(Event::Ended(cause)).await;
        self.take_apart().await;
        self.tell(Event::Gone).await;
    }

    /// Makes the replica and starts its process. What it made is taken apart by `run` if it fails.
    async fn make(&self, spec: &FunctionSpec, image: &ResolvedImage) -> Result<SocketAddr, String> {
        let attachment =
            self.host.network.attach(&self.id, &spec.key).await.map_err(|e| format!("network: {e}"))?;
        if matches!(*self.orders.borrow(), Order::End(_)) {
            return Err("no longer wanted".to_owned());
        }
        let granted = self.host.allowed.grant(&spec.wishes).await?;
        let (namespace, names) = (self.key.namespace.clone(), &spec.deployment.secrets);
        let secrets = self.host.secrets.give(namespace, self.id.clone(), names).await;
        let mut mounts = self.host.network.mounts(&self.id);
        mounts.extend(secrets.map_err(|e| e.to_string())?);
        mounts.extend(self.host.binds.make(&self.id, granted.mounts).await.map_err(|e| e.to_string())?);
        let plan = ReplicaPlan {
            id: self.id.clone(),
            function: self.key.clone(),
            revision: self.revision.clone(),
            image: image.clone(),
            env: spec.environment(),
            limits: spec.limits,
            read_only_root: spec.deployment.read_only_root_filesystem,
            netns: attachment.netns,
            address: attachment.address,
            mounts,
            devices: granted.devices,
            labels: BTreeMap::new(),
            log_dir: self.host.logs.directory(&self.key),
            log_limit: self.host.settings.log_limit,
        };
        self.host.runtime.start(&plan).await.map_err(|e| e.to_string())?;
        Ok(SocketAddr::new(attachment.address, FUNCTION_PORT))
    }

    /// From the started process to its end: the cause, if nobody asked for it. Without a probe it was ready before, or
    /// will be: it is not judged again.
    async fn live(
        &self,
        probe: Option<&Probe>,
        liveness: Option<&Liveness>,
        address: SocketAddr,
    ) -> Option<Cause> {
        let exit = async {
            match self.host.runtime.wait(&self.key.namespace, &self.id).await {
                Ok(exit) => (exit.to_string(), exit.out_of_memory),
                Err(error) => {
                    warn!(function = %self.key, replica = %self.id, "replica {}: lost: {error}", self.id);
                    ("lost".to_owned(), false)
                }
            }
        };
        tokio::pin!(exit);

        let ready = async {
            match probe {
                Some(probe) => self.late(probe, address).await,
                None => {
                    readiness::accepts(address).await;
                    None
                }
            }
        };
        tokio::select! {
            (how, memory) = &mut exit => return Some(ended(format!("{how} before it was ready"), memory)),
            late = ready => if let Some(late) = late {
                return Some(Cause::Ended(late));
            },
            _ = self.told_to_end() => return None,
        }
        let endpoint = Endpoint::new(self.id.clone(), address);
        self.tell(Event::Ready(Arc::clone(&endpoint))).await;
        let lost = async {
            match liveness {
                Some(liveness) => liveness.lost(address).await,
                None => std::future::pending().await,
            }
        };
        let cause = tokio::select! {
            (how, memory) = &mut exit => Some(ended(how, memory)),
            how = lost => Some(ended(how, false)),
            () = self.drained(&endpoint) => None,
        };
        endpoint.close();
        cause
    }

    /// Waits until the replica is ready: `None`, or what it was like when its time was over.
    async fn late(&self, probe: &Probe, address: SocketAddr) -> Option<String> {
        let last = Watched::default();
        let limit = self.host.settings.start_timeout;
        timeout(probe.initial_delay() + limit, probe.ready(address, &last)).await.err().map(|_| {
            let found = match last.get() {
                Answer::Status(status) => format!("GET {} answers {}", probe.path(), status.as_u16()),
                Answer::NoAnswer => format!("GET {} gets no answer", probe.path()),
                Answer::Silence | Answer::Ready => format!("nothing listens on port {FUNCTION_PORT}"),
            };
            format!("not ready after {} s: {found}", limit.as_secs())
        })
    }

    /// Resolves when the replica was told to drain and has, or its time to do so is over.
    async fn drained(&self, endpoint: &Endpoint) {
        let limit = self.told_to_end().await;
        if timeout(limit, endpoint.drained()).await.is_err() {
            let left = endpoint.in_flight();
            info!(
                function = %self.key, replica = %self.id,
                "replica {}: drained for long enough, {left} requests are left", self.id
            );
        }
    }

    /// Resolves when it was told to end, with the time it has for what it has.
    async fn told_to_end(&self) -> Duration {
        let mut orders = self.orders.clone();
        loop {
            if let Order::End(limit) = *orders.borrow_and_update() {
                return limit;
            }
            if orders.changed().await.is_err() {
                // The controller is gone only when the daemon ends, and then so is this task.
                return std::future::pending().await;
            }
        }
    }

    /// Takes everything apart, until nothing is left.
    async fn take_apart(&self) {
        let mut pauses = Pauses::new(CLEAN_UP_PAUSE);
        while let Err(error) = self.try_take_apart().await {
            warn!(
                function = %self.key, replica = %self.id,
                "replica {}: cannot be taken apart yet: {error}", self.id
            );
            pauses.wait().await;
        }
    }

    async fn try_take_apart(&self) -> Result<(), String> {
        let grace = self.host.settings.stop_grace;
        let namespace = &self.key.namespace;
        self.host.runtime.stop(namespace, &self.id, grace).await.map_err(|e| e.to_string())?;
        self.host.binds.remove(&self.id).await.map_err(|e| e.to_string())?;
        let gone = self.host.secrets.take_away(namespace.clone(), self.id.clone()).await;
        gone.map_err(|e| e.to_string())?;
        self.host.network.detach(&self.id).await.map_err(|e| e.to_string())
    }

    async fn tell(&self, event: Event) {
        if self.tell.send(Happening::Replica(self.id.clone(), event)).await.is_err() {
            // The controller is gone only when the daemon ends, and then so is this task.
            tracing::debug!(replica = %self.id, "nobody listens");
        }
    }
}

fn ended(how: String, out_of_memory: bool) -> Cause {
    if out_of_memory { Cause::OutOfMemory(how) } else { Cause::Ended(how) }
}
