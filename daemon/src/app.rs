//! The daemon, put together: who is made in which order, who knows whom, and how it ends.
//!
//! Start: containerd answers → replicas that run are found → controllers adopt them → stack files are applied →
//! sockets are served, connections of the last daemon go on → ready.
//! End: no new connections → requests in flight finish → the containers run on, unless the host ends too (`host_end`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use roost_acme::{Keeper, Keeping};
use roost_cni::{Conflist, Overrides};
use roost_proxy::function::{FunctionKey, Namespace};
use roost_proxy::websocket::event::Identity;
use roost_proxy::websocket::{Held, Hub, Redrive};
use roost_proxy::{AccessLog, Caller, Challenges, Routes, Server, UpstreamLimits};
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::{self, Api, ApiCall};
use crate::config::{self, Config};
use crate::deadletters::{self, DeadLetters};
use crate::disk::Disk;
use crate::function::binds::Binds;
use crate::function::controller::Tools;
use crate::function::grants::Allowed;
use crate::function::namespace::Namespaces;
use crate::function::record::FunctionRecord;
use crate::function::registry::{Registry, Trusts};
use crate::function::replica::{Adoptable, FUNCTION_PORT, Host, Inherited, ReplicaSettings};
use crate::gateways::{Gateways, bind};
use crate::guard::HostGuard;
use crate::image::Images;
use crate::journal::{self, Journal};
use crate::jwt::Tokens;
use crate::keeper::HostKeeper;
use crate::lambda::Runtimes;
use crate::logs::LogStore;
use crate::metrics::{self, Collector, Sources, Timings};
use crate::network::HostNetwork;
use crate::nodes::Nodes;
use crate::passes::Passes;
use crate::pauses::Pauses;
use crate::queue::{self, Queue};
use crate::runtime::containerd::{self, Containerd, oci};
use crate::scaling::events::Events;
use crate::secrets::Secrets;
use crate::store::Store;
use crate::systemd::{self, Asked};
use crate::tls::Certificates;
use crate::usage::{self, Ledger, Sampler, UsageRecord};
use crate::users::{self, Users};
use crate::{access_log, files, handover, host_keys, image, memory, otel, stacks, triggers};

/// Threads for calls that block: files, the store, archives.
pub const BLOCKING_THREADS: usize = 32;

/// The pauses between tries to reach containerd.
const CONTAINERD_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long the last lines of the access log may take.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Runs the daemon until it is asked to end; `true` if it leaves its connections to another one. `inherited` is what
/// systemd has for it.
///
/// # Errors
/// When it cannot start: the text says what is missing.
pub async fn run(config: &Config, inherited: systemd::Inherited) -> anyhow::Result<bool> {
    let (mut house, mut stored, sockets) = House::open(config, inherited.listeners).await?;
    let left = std::mem::take(&mut stored.connections);
    house.restore(config, stored).await?;
    house.queue.start(house.broken.clone()).context("cannot start the queue")?;
    let kept = handover::keep(config.kept_tunnels, inherited.kept).await;
    let keeps = kept.is_some();
    let (server, ending) = house.serve(config, sockets, kept, left)?;
    systemd::notify(&[NotifyState::Ready, NotifyState::Status("serving")]);

    let why = tokio::select! {
        asked = systemd::asked_to_end() => match asked {
            Asked::ToHandOver if keeps => None,
            Asked::ToHandOver => Some("nothing is kept for another daemon"),
            Asked::ToEnd(signal) => Some(signal),
        },
        () = house.broken.cancelled() => Some("broken"),
    };
    ending.cancel();
    info!("{}: ending", why.unwrap_or("for another daemon"));
    systemd::notify(&[NotifyState::Stopping, NotifyState::Status("finishing requests")]);
    let served = async {
        if why.is_none() { server.hand_over(config.drain).await } else { server.shutdown(config.drain).await }
    };
    let (drained, unended) = tokio::join!(served, house.queue.drain(config.drain));
    if drained.cut > 0 {
        warn!("{} connections that had not ended were cut", drained.cut);
    }
    if unended > 0 {
        warn!("{unended} queued calls had not ended: the next daemon makes them again");
    }
    // Behind the last request.
    usage::write(&house.registry).await;
    house.ledger.write().await;
    if why.is_none() {
        // Until here they went on.
        server.leave().await;
    }
    house.nodes.end().await;
    house.letters.flush().await;
    let spans = std::mem::take(&mut house.spans);
    tokio::join!(house.end_access_log(), spans.end());
    anyhow::ensure!(!house.broken.is_cancelled(), "a controller broke: see above");
    Ok(why.is_none())
}

/// All parts of the daemon that live as long as it does.
struct House {
    store: Arc<Store>,
    users: Option<Arc<Users>>,
    tokens: Option<Arc<Tokens>>,
    containerd: Containerd,
    network: HostNetwork,
    images: Images,
    secrets: Secrets,
    binds: Binds,
    logs: LogStore,
    queue: Queue,
    events: Events,
    /// The connections that are held here.
    hub: Arc<Hub>,
    /// Those of other nodes, if there are any.
    nodes: Nodes,
    /// Which of them functions are to hear the end of.
    journal: Arc<Journal>,
    /// What functions could not be brought to deal with.
    letters: DeadLetters,
    redrive: Redrive,
    /// By what functions are known that speak to them.
    passes: Passes,
    /// How long the steps of replicas' starts took.
    steps: Timings<&'static str>,
    /// How long calls of the API took.
    calls: Timings<ApiCall>,
    access_log: access_log::Running,
    spans: otel::Running,
    /// The way to both.
    log: AccessLog,
    routes: Routes,
    registry: Arc<Registry>,
    ledger: Arc<Ledger>,
    /// What made calls that no client made.
    triggers: triggers::figures::Figures,
    ahead: triggers::ahead::Ahead,
    /// Cancelled when a controller broke.
    broken: CancellationToken,
}

/// What the store held at the start.
struct Stored {
    functions: Vec<FunctionRecord>,
    namespaces: Namespaces,
    /// By `namespace/name`.
    usage: HashMap<String, UsageRecord>,
    /// Connections that an earlier daemon held, and that nobody has told the end of.
    connections: Vec<Identity>,
}

/// What is listened on.
struct Sockets {
    main: Vec<TcpListener>,
    tls: Option<Secure>,
    /// What is answered to an authority at any of them.
    challenges: Challenges,
    metrics: Option<TcpListener>,
}

/// Where TLS is spoken, as whom, and who sees to it that this stays so.
struct Secure {
    listener: TcpListener,
    certificates: Certificates,
    keeper: Option<Keeper>,
}

impl House {
    /// Makes the parts, each with those that it needs. Nothing acts yet.
    async fn open(
        config: &Config,
        inherited: Vec<std::net::TcpListener>,
    ) -> anyhow::Result<(Self, Stored, Sockets)> {
        let users = config.auth.as_ref().map(Users::load).transpose()?;
        let tokens = config.jwt.as_ref().map(|jwt| Tokens::load(jwt, &config.state));
        let tokens = tokens.transpose().context("jwt")?;
        // First of all: it can be open once only, so from here on this daemon is alone with its files.
        make_directory(&config.state, 0o700)?;
        let store = Arc::new(Store::open(&config.state.join("roost.redb"))?);
        make_directories(config)?;
        let (journal, connections) =
            Journal::open(&config.state).context("cannot open the journal of connections")?;
        let (letters, letter_writer) =
            DeadLetters::open(&config.state, &config.deadletters).context("cannot open the dead letters")?;
        tokio::spawn(letter_writer.run());
        let main = listeners(config, inherited)?;
        let here = main.first().context("no socket to listen on")?.local_addr()?;
        let challenges = Challenges::default();
        let sockets = Sockets {
            main,
            tls: config.tls.as_ref().map(|tls| open_tls(tls, &challenges)).transpose()?,
            challenges,
            metrics: config.metrics.map(metrics_listener).transpose()?,
        };

        let containerd = Containerd::new(runtime_settings(config)?);
        reach(&containerd).await;
        containerd
            .ensure_namespace(&Namespace::default())
            .await
            .context("cannot make containerd's namespace")?;
        let network = host_network(config)?;
        let images = Images::new(image_settings(config), containerd.client().clone())?;
        let logs = LogStore::new(config.state.join("logs"));
        let secrets = Secrets::open(&config.state, &config.run)?;
        #[cfg(feature = "nats")]
        if config.queue.engine == queue::Place::Nats
            && let Some(nodes) = &config.nodes
        {
            letters.share(nodes.clone(), secrets.clone(), config.deadletters.clone());
        }
        let binds = Binds::open(&config.run)?;
        let steps = Timings::default();
        let passes = host_keys::passes(&config.state);
        let host = Host {
            runtime: containerd.clone(),
            network: network.clone(),
            secrets: secrets.clone(),
            logs: logs.clone(),
            allowed: Arc::new(Allowed::new(
                config.functions.mounts.clone(),
                config.functions.devices.clone(),
            )),
            binds: binds.clone(),
            passes: passes.clone(),
            runtimes: Runtimes::default(),
            steps: steps.clone(),
            settings: replica_settings(config),
        };
        let stored = Stored {
            functions: store.functions()?,
            namespaces: store.namespaces()?,
            usage: store.usage()?,
            connections,
        };
        let (routes, broken) = (Routes::default(), CancellationToken::new());
        let (calls, replicas) = (Timings::default(), network.clone());
        let is_replica = move |address| replicas.is_replica(address);
        let access_log = access_log::Running::start(&config.access_log).context("access_log.target")?;
        let spans = otel::Running::start(config.otlp.as_ref()).context("tracing.otlp")?;
        let log = spans.watch(access_log.log());
        let caller = Caller::new(routes.clone()).watched(log.clone(), config.spans);
        let (events, hub) = (Events::default(), Arc::<Hub>::default());
        let redrive = Redrive::new(caller.clone(), Arc::clone(&hub));
        let around = queue::Around {
            caller,
            here,
            letters: letters.clone(),
            answered: calls.clone(),
            shared: config.nodes.clone().map(|nodes| (nodes, secrets.clone())),
        };
        let queue = Queue::open(&config.state, config.queue.clone(), around, is_replica);
        let queue = queue.context("cannot open the queue")?;
        let tools = Tools {
            host,
            images: images.clone(),
            policy: config.images.policy,
            queue: queue.clone(),
            events: events.clone(),
            hub: Arc::clone(&hub),
            journal: Arc::clone(&journal),
        };
        let registry = Registry::new(
            Arc::clone(&store),
            routes.clone(),
            limits(config),
            tools,
            queue.clone(),
            Trusts { users: users.is_some(), tokens: tokens.is_some(), sources: config.triggers.sources() },
            broken.clone(),
        );
        let nodes = Nodes::new(Arc::clone(&hub), Arc::clone(&registry), config.nodes.as_ref());
        let ledger = Ledger::open(Arc::clone(&store), Arc::clone(&registry), config.usage_days)?;
        let house = Self {
            store,
            users,
            tokens,
            containerd,
            network,
            images,
            secrets,
            binds,
            logs,
            queue,
            events,
            hub,
            nodes,
            journal,
            letters,
            redrive,
            passes,
            steps,
            calls,
            access_log,
            spans,
            log,
            routes,
            registry,
            ledger,
            triggers: triggers::figures::Figures::default(),
            ahead: triggers::ahead::Ahead::default(),
            broken,
        };
        Ok((house, stored, sockets))
    }

    /// Goes on where the last daemon ended: adopts what runs, clears away what it left, applies the stack files.
    async fn restore(&self, config: &Config, stored: Stored) -> anyhow::Result<()> {
        self.registry.restore_namespaces(stored.namespaces).await;
        let replicas = find(&self.containerd).await?;
        let keep: HashSet<String> =
            replicas.values().flatten().map(|replica| replica.id.as_str().to_owned()).collect();
        let freed = self.network.collect(&keep).await.unwrap_or_else(|error| {
            // It is tried again at the next start; the functions that are well need not wait for it.
            warn!("networks of earlier daemons are left: {error}");
            Vec::new()
        });
        info!(
            "{} functions in the store, {} replicas in containerd, {} stray networks freed",
            stored.functions.len(),
            keep.len(),
            freed.len()
        );
        if let Err(error) = self.binds.collect(keep.clone()).await {
            warn!("mounts of earlier daemons are left: {error}");
        }
        if let Err(error) = self.secrets.collect(keep).await {
            // As above; a replica that sees an old value gets today's with the next update.
            warn!("copies of secrets that earlier daemons left are as they were: {error}");
        }
        self.registry.restore(stored.functions, &stored.usage, replicas);
        self.registry.resume_endings();
        if let Err(error) = self.logs.retain(self.registry.keys()).await {
            warn!("output of functions that are gone is left: {error}");
        }
        stacks::apply(&self.registry, &config.stacks).await;
        Ok(())
    }

    /// Waits for the last lines, but not for a reader of standard output that hangs.
    async fn end_access_log(&mut self) {
        let ending = std::mem::take(&mut self.access_log);
        let written = tokio::task::spawn_blocking(move || ending.end());
        if tokio::time::timeout(LAST_LINES, written).await.is_err() {
            warn!("the access log is not written to its end: nobody takes it");
        }
    }

    /// Opens the doors, and starts what goes on beside them. The token ends answers that have no end of their own.
    fn serve(
        &self,
        config: &Config,
        sockets: Sockets,
        kept: Option<handover::Kept>,
        left: Vec<Identity>,
    ) -> anyhow::Result<(Server, CancellationToken)> {
        let ending = CancellationToken::new();
        let sampler = Sampler::new(self.containerd.clone());
        let disk = Disk {
            registry: Arc::clone(&self.registry),
            images: self.images.clone(),
            containerd: self.containerd.clone(),
            state: config.state.clone(),
            settings: config.images.disk,
        };
        let api = Api {
            disk: disk.clone(),
            disk_limits: vec![
                (queue::NAME, config.queue.max_size),
                (deadletters::NAME, config.deadletters.max_total),
            ],
            registry: Arc::clone(&self.registry),
            images: self.images.clone(),
            work_dir: config.state.join("work"),
            max_archive: config.images.max_size,
            logs: self.logs.clone(),
            sampler: sampler.clone(),
            ledger: Arc::clone(&self.ledger),
            events: self.events.clone(),
            hub: Arc::clone(&self.hub),
            nodes: self.nodes.clone(),
            letters: self.letters.clone(),
            redrive: self.redrive.clone(),
            queue: self.queue.clone(),
            passes: self.passes.clone(),
            calls: self.calls.clone(),
            users: self.users.clone(),
            secrets: self.secrets.clone(),
            ahead: self.ahead.clone(),
            ending: ending.clone(),
        };
        let guard = Arc::new(HostGuard {
            users: self.users.clone(),
            tokens: self.tokens.clone(),
            network: self.network.clone(),
        });
        let keeper =
            Arc::new(HostKeeper { journal: Arc::clone(&self.journal), letters: self.letters.clone() });
        let server = Server::new(
            roost_proxy::Settings {
                held: Held { hub: Arc::clone(&self.hub), keeper },
                ..server_settings(config, self.log.clone(), sockets.challenges.clone())
            },
            self.routes.clone(),
            api::fallback(api),
            guard,
            Arc::new(self.queue.clone()),
        );
        let mut bequest = None;
        if let Some(handover::Kept { keep, store, tunnels, connections }) = kept {
            server.keep(keep);
            server.keep_held(store);
            if let Some(tunnels) = tunnels {
                server.resume(tunnels);
            }
            bequest = connections;
            if let Some(bequest) = &mut bequest {
                server.resume_groups(bequest);
            }
        }
        // What others say from now on is said to those who were in groups before, too.
        self.nodes.start(&self.secrets);
        let (server_of_held, hub) = (server.clone(), Arc::clone(&self.hub));
        tokio::spawn(async move {
            if let Some(bequest) = bequest {
                server_of_held.resume_held(bequest).await;
            }
            // What has not gone on by now does so no more.
            server_of_held.lost(journal::lost(left, &hub));
        });
        tokio::spawn(Arc::clone(&self.journal).keep_synced());
        let mut gateways = Gateways::new(server.clone(), self.network.clone(), &sockets.main);
        let mut namespaces = self.registry.watch_namespaces();
        gateways.set(&namespaces.borrow_and_update());
        tokio::spawn(gateways.follow(namespaces));
        for listener in sockets.main {
            info!("listening on {}", listener.local_addr()?);
            let server = server.clone();
            tokio::spawn(async move { server.serve(listener).await });
        }
        let mut acme = None;
        if let Some(Secure { listener, certificates, keeper }) = sockets.tls {
            info!("listening on {}, in TLS", listener.local_addr()?);
            let (server, tls) = (server.clone(), certificates.tls());
            tokio::spawn(async move { server.serve_tls(listener, tls).await });
            if let Some(keeper) = keeper {
                acme = Some(keeper.keeping());
                tokio::spawn(keeper.run(self.routes.clone(), sockets.challenges, certificates.has()));
            }
            tokio::spawn(certificates.follow());
        }
        if let Some(listener) = sockets.metrics {
            info!("metrics on {}", listener.local_addr()?);
            let containerd_calls = self.containerd.client().channel().calls().clone();
            let server = metrics::server::server(Collector::new(Sources {
                registry: Arc::clone(&self.registry),
                server: server.clone(),
                queue: self.queue.clone(),
                network: self.network.clone(),
                sampler: sampler.clone(),
                events: self.events.clone(),
                hub: Arc::clone(&self.hub),
                nodes: self.nodes.clone(),
                letters: self.letters.clone(),
                api: self.calls.clone(),
                containerd: containerd_calls,
                steps: self.steps.clone(),
                access_log_dropped: self.access_log.dropped(),
                spans: self.spans.figures(),
                acme,
                tokens: self.tokens.clone(),
                triggers: self.triggers.clone(),
            }));
            tokio::spawn(async move { server.serve(listener).await });
        }
        let tools = triggers::Tools {
            deliver: self.queue.clone(),
            store: Arc::clone(&self.store),
            secrets: self.secrets.clone(),
            figures: self.triggers.clone(),
            ahead: self.ahead.clone(),
            max_body: config.queue.max_body,
            ending: ending.clone(),
        };
        triggers::start(&config.triggers, Arc::clone(&self.registry), &tools);
        tokio::spawn(users::follow(self.users.clone()));
        if let Some(tokens) = &self.tokens {
            tokio::spawn(Arc::clone(tokens).follow());
        }
        tokio::spawn(stacks::follow(Arc::clone(&self.registry), config.stacks.clone()));
        tokio::spawn(usage::keep(Arc::clone(&self.registry), sampler));
        tokio::spawn(Arc::clone(&self.ledger).keep());
        tokio::spawn(systemd::watchdog());
        tokio::spawn(systemd::tell(Arc::clone(&self.registry), server.clone(), ending.clone()));
        tokio::spawn(memory::keep_small());
        let (following, filling) = (self.network.clone(), self.network.clone());
        tokio::spawn(async move { following.follow_resolvers().await });
        tokio::spawn(async move { filling.keep_slots().await });
        tokio::spawn(disk.keep());
        Ok((server, ending))
    }
}

fn replica_settings(config: &Config) -> ReplicaSettings {
    ReplicaSettings {
        stop_grace: config.functions.stop_grace,
        drain: config.functions.drain,
        start_timeout: config.functions.start_timeout,
        log_limit: config.logs.max_size,
        limits: limits(config),
    }
}

fn make_directories(config: &Config) -> anyhow::Result<()> {
    let work = config.state.join("work");
    if let Err(error) = std::fs::remove_dir_all(&work)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        warn!("{}: what an earlier daemon left cannot be removed: {error}", work.display());
    }
    make_directory(&config.state.join("logs"), 0o700)?;
    make_directory(&work, 0o700)?;
    make_directory(&config.run, 0o755)
}

fn make_directory(path: &Path, mode: u32) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(path);
    made.with_context(|| format!("cannot make the directory {}", path.display()))
}

/// The sockets that people and programs on and off this host use.
fn listeners(config: &Config, inherited: Vec<std::net::TcpListener>) -> anyhow::Result<Vec<TcpListener>> {
    let listeners = if inherited.is_empty() {
        vec![bind(config.listen, false).context("server.listen")?]
    } else {
        inherited
    };
    let listeners: std::io::Result<Vec<TcpListener>> =
        listeners.into_iter().map(TcpListener::from_std).collect();
    listeners.context("cannot use the listening socket")
}

fn open_tls(settings: &config::Tls, challenges: &Challenges) -> anyhow::Result<Secure> {
    let keeper = settings.acme.clone().map(Keeper::open).transpose().context("tls.acme")?;
    let given = keeper.as_ref().map(Keeper::keeping).map(|Keeping { held, .. }| held);
    let certificates = Certificates::load(&settings.certificates, given, challenges.clone());
    let certificates = certificates.context("tls.certificates")?;
    let listener = bind(settings.listen, false).context("tls.listen")?;
    let listener = TcpListener::from_std(listener).context("tls.listen: cannot use the socket")?;
    Ok(Secure { listener, certificates, keeper })
}

fn metrics_listener(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = bind(address, false).context("server.metrics")?;
    TcpListener::from_std(listener).context("server.metrics: cannot use the socket")
}

/// Waits until containerd answers and can do what is needed.
async fn reach(containerd: &Containerd) {
    let mut pauses = Pauses::new(CONTAINERD_PAUSE);
    loop {
        match containerd.connect().await {
            Ok(version) => return info!("containerd {}", version.version),
            Err(error) => {
                warn!("waiting for containerd: {error}");
                systemd::notify(&[NotifyState::Status("waiting for containerd")]);
            }
        }
        pauses.wait().await;
    }
}

/// What earlier daemons left in containerd, by function.
async fn find(containerd: &Containerd) -> anyhow::Result<BTreeMap<FunctionKey, Vec<Inherited>>> {
    let found = containerd.list().await.context("cannot list the containers that are there")?;
    let mut replicas: BTreeMap<FunctionKey, Vec<Inherited>> = BTreeMap::new();
    for found in found {
        let state = found.standing.zip(found.address).map(|(standing, address)| Adoptable {
            standing,
            address: SocketAddr::new(address, FUNCTION_PORT),
        });
        let inherited = Inherited { id: found.id, revision: found.revision, key: found.key, state };
        replicas.entry(found.function).or_default().push(inherited);
    }
    Ok(replicas)
}

/// The network of the default namespace, as the settings have it.
pub(crate) fn conflist(config: &Config) -> Result<Conflist, roost_cni::Error> {
    let settings = &config.network;
    Conflist::load(&settings.conflist)?.with_overrides(&Overrides {
        bridge: settings.bridge.clone(),
        subnet: settings.subnet,
        ipam_dir: Some(config.run.join("ipam")),
        ..Overrides::default()
    })
}

fn host_network(config: &Config) -> anyhow::Result<HostNetwork> {
    let settings = &config.network;
    let conflist = conflist(config)?;
    let (plugin_dirs, dns) = (settings.plugin_dirs.clone(), settings.dns.clone());
    let (namespaces, slots) = (settings.namespaces, settings.slots);
    let network = HostNetwork::new(conflist, plugin_dirs, &config.run, namespaces, dns, slots)?;
    if let Err(why) = network.last_index() {
        warn!("there can be no namespace but openfaas-fn: {why}");
    }
    Ok(network)
}

pub(crate) fn runtime_settings(config: &Config) -> anyhow::Result<containerd::Settings> {
    Ok(containerd::Settings {
        socket: config.containerd.socket.clone(),
        snapshotter: config.containerd.snapshotter.clone(),
        oci_runtime: oci::choose(&config.containerd.runtime),
        cgroup_parent: config.containerd.cgroup_parent.clone().into(),
        share_shim: config.containerd.share_shim,
        seccomp: config.functions.seccomp,
        log_driver: own_binary()?,
        ..containerd::Settings::default()
    })
}

/// The path of this binary. After an upgrade the kernel marks the old one as deleted; the new one is at its path.
pub(crate) fn own_binary() -> anyhow::Result<std::path::PathBuf> {
    let path = std::env::current_exe().context("cannot tell which binary this is")?;
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), |text| Path::new(text).to_owned()))
}

fn image_settings(config: &Config) -> image::Settings {
    image::Settings {
        snapshotter: config.containerd.snapshotter.clone(),
        docker_config: config.images.docker_config.clone(),
        registries: config.images.registries.clone(),
        platform: image::Platform::host(),
        max_image_bytes: config.images.max_size,
        max_layer_bytes: config.images.max_size,
        work_dir: config.state.join("work"),
    }
}

fn limits(config: &Config) -> UpstreamLimits {
    let timeouts = config.timeouts;
    UpstreamLimits {
        timeouts: roost_proxy::Timeouts {
            request: limit(timeouts.request),
            idle: limit(timeouts.idle),
            tunnel_idle: limit(timeouts.tunnel_idle),
            lifetime: limit(timeouts.lifetime),
            token_grace: config.jwt.as_ref().map_or(Some(Duration::ZERO), |jwt| jwt.grace),
            connect: timeouts.connect,
            waiting: timeouts.waiting,
            ..roost_proxy::Timeouts::default()
        },
        bounds: config.limits.bounds,
        ..UpstreamLimits::default()
    }
}

/// Zero is no limit.
fn limit(duration: Duration) -> Option<Duration> {
    Some(duration).filter(|duration| !duration.is_zero())
}

fn server_settings(config: &Config, access_log: AccessLog, challenges: Challenges) -> roost_proxy::Settings {
    roost_proxy::Settings {
        header_timeout: config.timeouts.header,
        tcp_keepalive: limit(config.timeouts.tcp_keepalive),
        max_connections: files::connections(config.limits.connections),
        max_header_bytes: config.limits.header_size,
        max_headers: config.limits.headers,
        clients: config.limits.clients,
        token_places: config.jwt.as_ref().map(|jwt| jwt.places.clone()).unwrap_or_default(),
        affinity_key: host_keys::affinity(&config.state),
        lanes: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        access_log,
        spans: config.spans,
        challenges,
        ..roost_proxy::Settings::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metrics_address_that_is_taken_is_named_by_its_key() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let error = metrics_listener(taken.local_addr().unwrap()).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.starts_with("server.metrics: cannot listen on 127.0.0.1:"), "{text}");
    }
}
