//! The life of one replica, from its address to the last trace of it. One task owns it all the way.
//!
//! ```text
//! attach → start → ready? ──▶ Ready ──(Drain: last claim gone, or the deadline)──▶ stop → detach ──▶ Gone
//!    └────────┴───────┴── failure, exit, Stop ──▶ Ended ────────────────────────────▲
//! ```
//!
//! A step is never cut off half-way: what it made is taken apart by the same task, which tries until it succeeds.
//! When the daemon ends, these tasks end with it and the containers run on; the next daemon adopts them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use roost_proxy::Endpoint;
use roost_proxy::function::{FunctionKey, ReplicaId};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::function::controller::Happening;
use crate::function::spec::FunctionSpec;
use crate::image::ResolvedImage;
use crate::network::HostNetwork;
use crate::runtime::ReplicaPlan;
use crate::runtime::containerd::Containerd;

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
    /// Limits of time and space.
    pub settings: ReplicaSettings,
}

/// Limits of time and space in a replica's life.
#[derive(Debug, Clone)]
pub struct ReplicaSettings {
    /// From TERM to KILL.
    pub stop_grace: Duration,
    /// How long a draining replica may go on with what it has.
    pub drain: Duration,
    /// From the start of the process until it is ready.
    pub start_timeout: Duration,
    /// Where its output is kept.
    pub logs: std::path::PathBuf,
    /// How much output of one replica is kept, in bytes.
    pub log_limit: u64,
}

/// What the controller wants of a replica. It only ever moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Intent {
    /// Come up and serve.
    Serve,
    /// Take nothing new; end when the last request is answered.
    Drain,
    /// End now.
    Stop,
}

/// What a replica tells its controller.
#[derive(Debug)]
pub enum Event {
    /// It can take requests, at this endpoint.
    Ready(Arc<Endpoint>),
    /// It takes no more. With the cause, if nobody asked for it.
    Ended(Option<String>),
    /// Nothing is left of it.
    Gone,
}

/// Where a replica begins.
#[derive(Debug)]
pub enum Origin {
    /// It is made from an image.
    New(Box<(FunctionSpec, ResolvedImage)>),
    /// It runs already, at this address: an earlier daemon made it.
    Adopted(Box<FunctionSpec>, SocketAddr),
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
    /// What is wanted of it.
    pub intent: watch::Receiver<Intent>,
    /// Where its events go.
    pub tell: mpsc::Sender<Happening>,
}

impl Replica {
    /// Lives.
    pub async fn run(mut self, origin: Origin) {
        let cause = match origin {
            Origin::New(new) => match self.make(&new.0, &new.1).await {
                Ok(address) => self.live(&new.0, address).await,
                Err(cause) => Some(cause),
            },
            Origin::Adopted(spec, address) => self.live(&spec, address).await,
            Origin::Leftover => None,
        };
        self.tell(Event::Ended(cause)).await;
        self.take_apart().await;
        self.tell(Event::Gone).await;
    }

    /// Makes the replica and starts its process. What it made is taken apart by `run` if it fails.
    async fn make(&mut self, spec: &FunctionSpec, image: &ResolvedImage) -> Result<SocketAddr, String> {
        let attachment =
            self.host.network.attach(&self.id, &spec.key).await.map_err(|e| format!("network: {e}"))?;
        if *self.intent.borrow() != Intent::Serve {
            return Err("no longer wanted".to_owned());
        }
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
            mounts: self.host.network.mounts(&self.id),
            labels: std::collections::BTreeMap::new(),
            log_dir: self.host.settings.logs.join(self.key.namespace.as_str()).join(self.key.name.as_str()),
            log_limit: self.host.settings.log_limit,
        };
        self.host.runtime.start(&plan).await.map_err(|e| e.to_string())?;
        Ok(SocketAddr::new(attachment.address, FUNCTION_PORT))
    }

    /// From the started process to its end: the cause, if nobody asked for it.
    async fn live(&mut self, spec: &FunctionSpec, address: SocketAddr) -> Option<String> {
        let runtime = self.host.runtime.clone();
        let exit = async {
            match runtime.wait(&self.key.namespace, &self.id).await {
                Ok(exit) => exit.to_string(),
                Err(error) => format!("lost: {error}"),
            }
        };
        tokio::pin!(exit);

        let start_timeout = self.host.settings.start_timeout;
        tokio::select! {
            cause = &mut exit => return Some(format!("{cause} before it was ready")),
            ready = timeout(start_timeout, spec.probe.ready(address)) => if ready.is_err() {
                return Some(format!("not ready after {start_timeout:?}: nothing answers on port {FUNCTION_PORT}"));
            },
            () = reached(self.intent.clone(), Intent::Drain) => return None,
        }
        let endpoint = Endpoint::new(self.id.clone(), address);
        self.tell(Event::Ready(Arc::clone(&endpoint))).await;
        let cause = tokio::select! {
            cause = &mut exit => Some(cause),
            () = reached(self.intent.clone(), Intent::Stop) => None,
            () = self.drained(&endpoint) => None,
        };
        endpoint.close();
        cause
    }

    /// Resolves when the replica was told to drain and has, or its time to do so is over.
    async fn drained(&self, endpoint: &Endpoint) {
        reached(self.intent.clone(), Intent::Drain).await;
        if timeout(self.host.settings.drain, endpoint.drained()).await.is_err() {
            let left = endpoint.in_flight();
            info!(function = %self.key, replica = %self.id, "replica {}: drained for long enough, {left} requests are left", self.id);
        }
    }

    /// Takes everything apart, until nothing is left.
    async fn take_apart(&self) {
        let (mut pause, longest) = CLEAN_UP_PAUSE;
        while let Err(error) = self.try_take_apart().await {
            warn!(function = %self.key, replica = %self.id, "replica {}: cannot be taken apart yet: {error}", self.id);
            sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    async fn try_take_apart(&self) -> Result<(), String> {
        let grace = self.host.settings.stop_grace;
        self.host.runtime.stop(&self.key.namespace, &self.id, grace).await.map_err(|e| e.to_string())?;
        self.host.network.detach(&self.id).await.map_err(|e| e.to_string())
    }

    async fn tell(&self, event: Event) {
        if self.tell.send(Happening::Replica(self.id.clone(), event)).await.is_err() {
            // The controller is gone only when the daemon ends, and then so is this task.
            tracing::debug!(replica = %self.id, "nobody listens");
        }
    }
}

/// Resolves when the intent is `wanted` or beyond.
async fn reached(mut intent: watch::Receiver<Intent>, wanted: Intent) {
    if intent.wait_for(|intent| *intent >= wanted).await.is_err() {
        // Nobody is left who could ask for it.
        std::future::pending::<()>().await;
    }
}
