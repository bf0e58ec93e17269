//! Gathering what is on the page.
//!
//! Owns what is remembered between two scrapes. One scrape at a time: however many ask, the work and the memory are those
//! of one page. Reads files off the async workers.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use roost_acme::Keeping;
use roost_proxy::function::{FunctionKey, Namespace, ReplicaId};
use roost_proxy::websocket::{self, HistoryFigures, Hub};
use roost_proxy::{Distribution, KeptFigures, Limit, Metered, Server, Spread, Totals};
use tokio::sync::Mutex;
use tracing::debug;

use super::cpu::CpuTotals;
use super::render::render;
use super::timings::Timings;
use crate::api::ApiCall;
use crate::deadletters::{self, DeadLetters};
use crate::function::registry::Registry;
use crate::function::rollout::Phase;
use crate::function::status::Observed;
use crate::jwt::{RemoteFigures, Tokens};
use crate::network::HostNetwork;
use crate::nodes::{self, Nodes};
use crate::otel;
use crate::procfs::{self, Process};
use crate::queue::{Queue, QueueLoad};
use crate::runtime::containerd::client::Call;
use crate::scaling::events::{Decisions, Events};
use crate::triggers;
use crate::usage::Sampler;

/// Where the numbers come from.
#[derive(Clone)]
pub struct Sources {
    /// Functions and their replicas.
    pub registry: Arc<Registry>,
    /// Connections.
    pub server: Server,
    /// Deferred calls.
    pub queue: Queue,
    /// Networks.
    pub network: HostNetwork,
    /// What replicas use.
    pub sampler: Sampler,
    /// What is decided about replicas.
    pub events: Events,
    /// WebSockets that are held here.
    pub hub: Arc<Hub>,
    /// Other nodes.
    pub nodes: Nodes,
    /// What functions could not be brought to deal with.
    pub letters: DeadLetters,
    /// How long calls of the API took.
    pub api: Timings<ApiCall>,
    /// How long calls of containerd took.
    pub containerd: Timings<Call>,
    /// How long the steps of replicas' starts took.
    pub steps: Timings<&'static str>,
    /// Lines of the access log that are lost.
    pub access_log_dropped: Arc<AtomicU64>,
    /// Spans that are sent to a collector, if there is one.
    pub spans: Option<otel::Figures>,
    /// Certificates from an authority, if it is asked for any.
    pub acme: Option<Keeping>,
    /// Keys of tokens, if any are verified.
    pub tokens: Option<Arc<Tokens>>,
    /// Calls that no client made.
    pub triggers: triggers::figures::Figures,
}

/// Gathers, one page at a time.
#[derive(Clone)]
pub struct Collector {
    sources: Sources,
    cpu: Arc<Mutex<CpuTotals>>,
}

/// All numbers of one moment.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    pub(super) functions: Vec<Function>,
    /// Networks that are ready for replicas to come.
    pub(super) slots: BTreeMap<Namespace, usize>,
    pub(super) api: Vec<(ApiCall, Distribution)>,
    pub(super) containerd: Vec<(Call, Distribution)>,
    pub(super) steps: Vec<(&'static str, Distribution)>,
    pub(super) access_log_dropped: u64,
    pub(super) spans: Option<otel::Counts>,
    pub(super) certificates: Option<Certificates>,
    pub(super) keys: Vec<RemoteFigures>,
    pub(super) process: Option<(Process, f64)>,
    pub(super) connections: Connections,
    /// Groups of WebSockets, and memberships.
    pub(super) groups: [usize; 2],
    /// How often something that was said to many was said to one of them.
    pub(super) fanned_out: u64,
    /// How long that took.
    pub(super) fanouts: Spread,
    /// Other nodes, where there may be some.
    pub(super) nodes: Option<nodes::Figures>,
    /// Connections of an earlier daemon that it held: those that went on, and those that did not.
    pub(super) resumed: [u64; 2],
    pub(super) letters: deadletters::Figures,
    /// What is kept of groups.
    pub(super) history: HistoryFigures,
    /// Calls that no client made, by function and source.
    pub(super) triggered: Vec<(FunctionKey, String, triggers::figures::Counts)>,
    /// Sources of such calls, and whether they can be reached.
    pub(super) sources: Vec<(String, bool)>,
    /// When it was.
    pub(super) at: Timestamp,
    /// Answers of queued calls that nobody took.
    pub(super) callbacks_failed: u64,
}

/// From an authority.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    pub(super) issued: u64,
    pub(super) failed: u64,
    /// Names, and until when their certificates are good, in seconds of Unix time.
    pub(super) until: Vec<(String, u64)>,
}

/// Of the port for clients.
#[derive(Debug, Default)]
pub(super) struct Connections {
    pub(super) open: usize,
    pub(super) most: usize,
    pub(super) limited: Vec<(Limit, u64)>,
    pub(super) kept: KeptFigures,
}

/// A function's.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) key: FunctionKey,
    pub(super) totals: Totals,
    pub(super) metered: Metered,
    /// Of connections that are held here.
    pub(super) held: websocket::Figures,
    /// The connections that go through to each replica, where there are some.
    pub(super) passed: Vec<(ReplicaId, usize)>,
    pub(super) limited: Vec<(Limit, u64)>,
    pub(super) desired: u32,
    pub(super) ready: usize,
    /// Of each replica.
    pub(super) phases: Vec<Phase>,
    pub(super) decisions: Decisions,
    pub(super) minimum: u32,
    pub(super) scaling_type: &'static str,
    pub(super) target_load: f64,
    pub(super) cpu_usec: u64,
    pub(super) memory_bytes: u64,
    pub(super) restarts: u64,
    pub(super) oom_kills: u64,
    pub(super) queue: QueueLoad,
}

fn certificates(keeping: &Keeping) -> Certificates {
    let seconds = |until: &SystemTime| until.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let until =
        keeping.expiries.borrow().iter().map(|(name, until)| (name.clone(), seconds(until))).collect();
    Certificates { issued: keeping.figures.issued(), failed: keeping.figures.failed(), until }
}

impl Collector {
    /// Gathers from these.
    #[must_use]
    pub fn new(sources: Sources) -> Self {
        Self { sources, cpu: Arc::default() }
    }

    /// The page as it is now.
    pub async fn page(&self) -> String {
        let mut cpu = self.cpu.lock().await;
        let functions = self.functions(&mut cpu).await;
        let process = match tokio::task::spawn_blocking(process).await {
            Ok(Ok(process)) => Some(process),
            Ok(Err(error)) => {
                debug!(%error, "no word on this process");
                None
            }
            Err(error) => {
                debug!(%error, "the task that reads /proc broke");
                None
            }
        };
        let Sources {
            server,
            queue,
            network,
            hub,
            nodes,
            letters,
            api,
            containerd,
            steps,
            access_log_dropped,
            spans,
            acme,
            tokens,
            triggers,
            ..
        } = &self.sources;
        render(&Snapshot {
            functions,
            slots: network.ready_slots(),
            api: api.read(),
            containerd: containerd.read(),
            steps: steps.read(),
            access_log_dropped: access_log_dropped.load(Relaxed),
            spans: spans.as_ref().map(otel::Figures::read),
            certificates: acme.as_ref().map(certificates),
            keys: tokens.as_ref().map(|tokens| tokens.figures()).unwrap_or_default(),
            process,
            connections: Connections {
                open: server.open(),
                most: server.max_connections(),
                limited: server.limited().into(),
                kept: server.kept(),
            },
            groups: hub.group_figures(),
            fanned_out: hub.fanned_out(),
            fanouts: hub.fanouts(),
            nodes: nodes.figures(),
            resumed: server.resumed(),
            letters: letters.figures(),
            history: hub.history_figures(),
            triggered: triggers.counts(),
            sources: triggers.connections(),
            at: Timestamp::now(),
            callbacks_failed: queue.callbacks_failed(),
        })
    }

    async fn functions(&self, cpu: &mut CpuTotals) -> Vec<Function> {
        let observed = self.sources.registry.observe();
        let keys: HashSet<&FunctionKey> = observed.iter().map(|function| &function.key).collect();
        cpu.retain(|key| keys.contains(key));
        let replicas: Vec<_> = observed
            .iter()
            .flat_map(|of| of.replicas.iter().map(|id| (of.key.namespace.clone(), id.clone())))
            .collect();
        let used: BTreeMap<_, _> = self.sources.sampler.read(&replicas).await.into_iter().collect();
        let mut queued: BTreeMap<_, _> = self.sources.queue.loads().into_iter().collect();
        let held = self.sources.hub.figures();
        let mut at = 0;
        let mut functions = Vec::with_capacity(observed.len());
        for of in observed {
            let used = of.replicas.iter().map(|id| {
                at += 1;
                (id.clone(), used.get(&(at - 1)).copied())
            });
            let used: Vec<_> = used.collect();
            let memory_bytes = used.iter().filter_map(|(_, usage)| Some((*usage)?.memory_bytes)).sum();
            let cpus: Vec<_> =
                used.into_iter().map(|(id, usage)| (id, usage.map(|usage| usage.cpu_usec))).collect();
            let cpu_usec = cpu.add(&of.key, &cpus);
            let queue = queued.remove(&of.key).unwrap_or_default();
            let decisions = self.sources.events.decisions(&of.key);
            let held = held.get(&of.key).copied().unwrap_or_default();
            functions.push(Function::new(of, decisions, cpu_usec, memory_bytes, queue, held));
        }
        functions
    }
}

impl Function {
    fn new(
        of: Observed,
        decisions: Decisions,
        cpu_usec: u64,
        memory_bytes: u64,
        queue: QueueLoad,
        held: websocket::Figures,
    ) -> Self {
        Self {
            totals: of.upstream.totals(),
            metered: of.upstream.metered(),
            held,
            passed: of.upstream.tunnels_of_replicas(),
            limited: of.upstream.limited().into(),
            desired: of.desired,
            ready: of.available,
            phases: of.phases,
            decisions,
            minimum: of.scaling.minimum,
            scaling_type: of.scaling.kind,
            target_load: of.scaling.target,
            cpu_usec,
            memory_bytes,
            restarts: of.restarts,
            oom_kills: of.oom_kills,
            queue,
            key: of.key,
        }
    }
}

/// This process, and when it began in Unix time.
fn process() -> io::Result<(Process, f64)> {
    let process = procfs::own()?;
    let began = procfs::host_began()? as f64 + process.began;
    Ok((process, began))
}
