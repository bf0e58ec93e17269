//! The life of one replica, from its address to the last trace of it. One task owns it all the way.
//!
//! ```text
//!        ┌─ Stand: create ─▶ Created ─┐          ┌──── Busy ◀───▶┐      ┌───────── Run: thaw ─────────┐
//!        │                       Run: begin      │  says it is full     ▼                              │
//! attach ┼─ Run: start ───────────────┴─▶ ready? ┴▶ Ready ─ Pause: last claim gone → freeze ─▶ Paused ─┘
//!        └───── failure, exit, End ──────┘             │                                        │
//!                               ▼                      └─ End: last claim gone, or the deadline ┤
//!                             Ended ──▶ stop → detach ──▶ Gone                                  │
//!                               ▲──────────────────── exit, End ────────────────────────────────┘
//! ```
//!
//! A step is never cut off half-way: what it made is taken apart by the same task, which tries until it succeeds.
//! When the daemon ends, these tasks end with it and the containers run on, wait or stay frozen; the next daemon adopts
//! them as they are.
//!
//! The module `life` is what happens between the making and the taking apart, which are in `build`.

mod build;
mod life;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use roost_proxy::function::{FunctionKey, ReplicaId};
use roost_proxy::{Endpoint, ReplicaKey, UpstreamLimits};
use tokio::sync::{mpsc, watch};
use tracing::warn;

use self::life::Life;
use crate::function::binds::Binds;
use crate::function::controller::Happening;
use crate::function::grants::Allowed;
use crate::function::liveness::Liveness;
use crate::function::readiness::Probe;
use crate::function::spec::{Deployment, FunctionSpec};
use crate::function::steps::Steps;
use crate::image::ResolvedImage;
use crate::lambda::{Lambda, Runtimes, Seat};
use crate::logs::LogStore;
use crate::metrics::Timings;
use crate::network::HostNetwork;
use crate::passes::Passes;
use crate::runtime::Standing;
use crate::runtime::containerd::Containerd;
use crate::secrets::Secrets;

/// The port on which a function answers.
pub const FUNCTION_PORT: u16 = 8080;

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
    /// What its replicas are known by when they speak to connections.
    pub passes: Passes,
    /// Where those are asked that poll for their events.
    pub runtimes: Runtimes,
    /// How long the steps took that led to being ready, by their names.
    pub steps: Timings<&'static str>,
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
    /// What holds for the requests of functions that say nothing of it.
    pub limits: UpstreamLimits,
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

/// What a replica is told by its controller. Only the last order counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// To be made, but for the start of its process, and wait. Changes nothing for one that was started.
    Stand,
    /// To run, and to take requests when it is ready. It answers each such order with [`Event::Ready`], or with
    /// [`Event::Busy`], also if it runs already.
    Run,
    /// To finish what it has within this time, and then to be frozen: once it is ready, if it is not yet. Where requests
    /// are left then, it ends with them: nobody would answer them. Its endpoint is withdrawn by whoever orders this,
    /// before. Changes nothing for one that was not started.
    Pause(Duration),
    /// To take nothing new, to finish what it has within this time, and to end. There is no order behind this one.
    End(Duration),
}

/// What a replica tells its controller.
#[derive(Debug)]
pub enum Event {
    /// All is made; its process waits for the order to run.
    Created,
    /// It can take requests (again), at this endpoint, which is the same each time.
    Ready(Arc<Endpoint>),
    /// It can take no more requests for now, and has said so itself. It tells when it is ready again.
    Busy,
    /// It is frozen.
    Paused,
    /// It takes no more. With the cause, if nobody asked for it.
    Ended(Option<Cause>),
    /// Nothing is left of it.
    Gone,
}

/// A replica that an earlier daemon made.
#[derive(Debug)]
pub struct Inherited {
    /// Which replica.
    pub id: ReplicaId,
    /// Its revision.
    pub revision: String,
    /// The key that it is for, if it is for one.
    pub key: Option<ReplicaKey>,
    /// What there is to go on with; nothing if its process has ended or was never made, or nobody knows where it answers.
    pub state: Option<Adoptable>,
}

/// How a replica that can be adopted was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adoptable {
    /// How far it is.
    pub standing: Standing,
    /// Where it answers, or will.
    pub address: SocketAddr,
}

/// How a replica is asked how it is.
#[derive(Debug, Clone, Default)]
pub struct Checks {
    /// Whether it may take requests.
    pub probe: Probe,
    /// Whether it still lives, if it is asked.
    pub liveness: Option<Liveness>,
    /// It polls for its events, and is asked for nothing.
    pub lambda: Option<Lambda>,
}

impl Checks {
    /// What a deployment asks for where `limits` hold for all, as far as this daemon understands it: an earlier one took it
    /// as it is.
    #[must_use]
    pub fn of(deployment: &Deployment, limits: UpstreamLimits) -> Self {
        if let Some(lambda) = Lambda::of(deployment, limits) {
            return Self { lambda: Some(lambda), ..Self::default() };
        }
        let settings = deployment.settings();
        Self {
            probe: Probe::parse(&settings).unwrap_or_default(),
            liveness: Liveness::parse(&settings).ok().flatten(),
            lambda: None,
        }
    }
}

/// Where a replica begins.
#[derive(Debug)]
pub enum Origin {
    /// It is made from an image.
    New(Box<(FunctionSpec, ResolvedImage)>),
    /// An earlier daemon made it. It goes on as it was found, and follows the orders from there on: one that runs is told
    /// ready when something accepts connections there, since it was judged before; one that was only created, or is
    /// paused, says so, and waits for the order to run, if that is not the first one that it finds.
    Adopted(Adoptable, Box<Checks>),
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
        let cause = self.live(origin).await;
        self.tell(Event::Ended(cause)).await;
        self.take_apart().await;
        self.tell(Event::Gone).await;
    }

    /// Lives until its end: why it ended, if nobody asked for it.
    async fn live(&self, origin: Origin) -> Option<Cause> {
        let mut steps = Steps::begin();
        let (found, seat, checks, known) = match origin {
            Origin::New(new) => {
                let (spec, image) = *new;
                let checks = Checks::of(&spec.deployment, self.host.settings.limits);
                match self.make(&spec, &image, checks.lambda, &mut steps).await {
                    Ok((made, seat)) => (made, seat, checks, false),
                    Err(why) => return Some(Cause::NotStarted(why)),
                }
            }
            Origin::Adopted(found, checks) => match self.seat(found.address.ip(), checks.lambda) {
                Ok(seat) => (found, seat, *checks, true),
                Err(why) => return Some(Cause::NotStarted(why)),
            },
            Origin::Leftover => return None,
        };
        Life::new(self, found, seat, checks, steps, known).run().await
    }

    /// A place at the Runtime API, if it polls for its events.
    fn seat(&self, address: IpAddr, lambda: Option<Lambda>) -> Result<Option<Seat>, String> {
        let Host { runtimes, network, .. } = &self.host;
        let gateway = network.gateway(&self.key.namespace);
        lambda.map(|lambda| runtimes.seat(&self.key, address, gateway, lambda)).transpose()
    }

    /// Resolves when the first process has ended: how, and whether it was for its memory.
    async fn exit(&self) -> (String, bool) {
        match self.host.runtime.wait(&self.key.namespace, &self.id).await {
            Ok(exit) => (exit.to_string(), exit.out_of_memory),
            Err(error) => {
                warn!(function = %self.key, replica = %self.id, "replica {}: lost: {error}", self.id);
                ("lost".to_owned(), false)
            }
        }
    }

    /// Resolves when it was told to end.
    async fn told_to_end(&self) {
        let mut orders = self.orders.clone();
        let ended = orders.wait_for(|order| matches!(order, Order::End(_))).await.is_ok();
        if !ended {
            // The controller is gone only when the daemon ends, and then so is this task.
            std::future::pending::<()>().await;
        }
    }

    async fn tell(&self, event: Event) {
        if self.tell.send(Happening::Replica(self.id.clone(), event)).await.is_err() {
            // As above.
            tracing::debug!(replica = %self.id, "nobody listens");
        }
    }
}
