//! The daemon, put together: who is made in which order, who knows whom, and how it ends.
//!
//! Start: containerd answers → replicas that run are found → controllers adopt them → sockets are served → ready.
//! End: no new connections → requests in flight finish → the containers run on, unless the host ends too (`host_end`).

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use roost_cni::{Conflist, Overrides};
use roost_proxy::function::{FunctionKey, Namespace};
use roost_proxy::{Routes, Server, UpstreamLimits};
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::{self, Api, Credentials};
use crate::config::Config;
use crate::function::controller::{Inherited, Tools};
use crate::function::registry::Registry;
use crate::function::replica::{FUNCTION_PORT, Host, ReplicaSettings};
use crate::image::Images;
use crate::logs::LogStore;
use crate::network::HostNetwork;
use crate::runtime::containerd::{self, Containerd};
use crate::store::Store;
use crate::{image, systemd};

/// Threads for calls that block: files, the store, archives.
pub const BLOCKING_THREADS: usize = 32;

/// The port at which functions expect the gateway.
const GATEWAY_PORT: u16 = 8080;

/// Connections that the kernel holds while none is accepted.
const BACKLOG: i32 = 4096;

/// The pauses between tries to reach containerd.
const CONTAINERD_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How often images that nobody uses are looked for.
const COLLECT_EVERY: Duration = Duration::from_secs(3600);

/// Runs the daemon until it is asked to end. `inherited` are the sockets that systemd listens on.
///
/// # Errors
/// When it cannot start: the text says what is missing.
pub async fn run(config: &Config, inherited: Vec<std::net::TcpListener>) -> anyhow::Result<()> {
    let credentials = match &config.auth {
        Some(auth) => Some(Arc::new(Credentials::load(&auth.user, &auth.password_file)?)),
        None => None,
    };
    // First of all: it can be open once only, so from here on this daemon is alone with its files.
    make_directory(&config.state, 0o700)?;
    let store = Store::open(&config.state.join("roost.redb"))?;
    make_directories(config)?;
    let listeners = listeners(config, inherited)?;

    let containerd = Containerd::new(runtime_settings(config)?);
    reach(&containerd).await;
    containerd.ensure_namespace(&Namespace::default()).await.context("cannot make containerd's namespace")?;
    let network = host_network(config)?;
    let images = Images::new(image_settings(config), containerd.client().clone())?;
    let logs = LogStore::new(config.state.join("logs"));
    let tools = Tools {
        host: Host {
            runtime: containerd.clone(),
            network: network.clone(),
            logs: logs.clone(),
            settings: ReplicaSettings {
                stop_grace: config.functions.stop_grace,
                drain: config.functions.drain,
                start_timeout: config.functions.start_timeout,
                log_limit: config.logs.max_size,
            },
        },
        images: images.clone(),
        policy: config.images.policy,
    };

    let records = store.functions()?;
    let routes = Routes::default();
    let broken = CancellationToken::new();
    let registry = Registry::new(store, routes.clone(), limits(config), tools, broken.clone());
    let replicas = find(&containerd).await?;
    let keep: HashSet<String> =
        replicas.values().flatten().map(|replica| replica.id.as_str().to_owned()).collect();
    let freed = network.collect(&keep).await.unwrap_or_else(|error| {
        // It is tried again at the next start; the functions that are well need not wait for it.
        warn!("networks of earlier daemons are left: {error}");
        Vec::new()
    });
    info!(
        "{} functions in the store, {} replicas in containerd, {} stray networks freed",
        records.len(),
        keep.len(),
        freed.len()
    );
    registry.restore(records, replicas);
    if let Err(error) = logs.retain(registry.keys()).await {
        warn!("output of functions that are gone is left: {error}");
    }

    let ending = CancellationToken::new();
    let api = Api {
        registry: Arc::clone(&registry),
        images: images.clone(),
        work_dir: config.state.join("work"),
        max_archive: config.images.max_size,
        logs,
        credentials,
        ending: ending.clone(),
    };
    let server = Server::new(server_settings(config), routes, api::fallback(api));
    let gateway = gateway_listener(&listeners, &network);
    for listener in listeners.into_iter().chain(gateway) {
        info!("listening on {}", listener.local_addr()?);
        let server = server.clone();
        tokio::spawn(async move { server.serve(listener).await });
    }
    tokio::spawn(systemd::watchdog());
    tokio::spawn(async move { network.follow_resolvers().await });
    tokio::spawn(collect_images(Arc::clone(&registry), images, config.images.keep_unused));
    systemd::notify(&[NotifyState::Ready, NotifyState::Status("serving")]);

    let why = tokio::select! {
        signal = systemd::asked_to_end() => signal,
        () = broken.cancelled() => "broken",
    };
    ending.cancel();
    info!("{why}: ending");
    systemd::notify(&[NotifyState::Stopping, NotifyState::Status("finishing requests")]);
    let drained = server.shutdown(config.drain).await;
    if drained.cut > 0 {
        warn!("{} connections that had not ended were cut", drained.cut);
    }
    anyhow::ensure!(!broken.is_cancelled(), "a controller broke: see above");
    Ok(())
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

/// The socket that functions use: the gateway's port on the bridge, unless the main socket covers it.
fn gateway_listener(listeners: &[TcpListener], network: &HostNetwork) -> Option<TcpListener> {
    let address = SocketAddr::new(network.gateway()?, GATEWAY_PORT);
    let covers =
        |there: SocketAddr| there == address || (there.ip().is_unspecified() && there.port() == GATEWAY_PORT);
    if listeners.iter().filter_map(|listener| listener.local_addr().ok()).any(covers) {
        return None;
    }
    // The bridge comes with the first replica; the address is bound before it is there.
    match bind(address, true).and_then(|listener| Ok(TcpListener::from_std(listener)?)) {
        Ok(listener) => Some(listener),
        Err(error) => {
            warn!("functions cannot reach the gateway: {error:#}");
            None
        }
    }
}

fn bind(address: SocketAddr, free: bool) -> anyhow::Result<std::net::TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        if free && address.is_ipv4() {
            socket.set_freebind_v4(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok::<_, std::io::Error>(socket.into())
    };
    open().with_context(|| format!("cannot listen on {address}"))
}

/// Waits until containerd answers and can do what is needed.
async fn reach(containerd: &Containerd) {
    let (mut pause, longest) = CONTAINERD_PAUSE;
    loop {
        match containerd.connect().await {
            Ok(version) => return info!("containerd {}", version.version),
            Err(error) => {
                warn!("waiting for containerd: {error}");
                systemd::notify(&[NotifyState::Status("waiting for containerd")]);
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// What earlier daemons left in containerd, by function.
async fn find(containerd: &Containerd) -> anyhow::Result<BTreeMap<FunctionKey, Vec<Inherited>>> {
    let found = containerd.list().await.context("cannot list the containers that are there")?;
    let mut replicas: BTreeMap<FunctionKey, Vec<Inherited>> = BTreeMap::new();
    for found in found {
        let address = found.address.filter(|_| found.running).map(|ip| SocketAddr::new(ip, FUNCTION_PORT));
        let inherited = Inherited { id: found.id, revision: found.revision, address };
        replicas.entry(found.function).or_default().push(inherited);
    }
    Ok(replicas)
}

/// Removes images that no function uses, now and then.
async fn collect_images(registry: Arc<Registry>, images: Images, keep: Duration) {
    let mut ticks = tokio::time::interval(COLLECT_EVERY);
    loop {
        ticks.tick().await;
        let namespace = Namespace::default();
        match images.collect(&namespace, &registry.images_in_use(&namespace), keep).await {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => info!("unused images removed: {}", removed.join(", ")),
            Err(error) => warn!("unused images stay: {error}"),
        }
    }
}

fn host_network(config: &Config) -> anyhow::Result<HostNetwork> {
    let settings = &config.network;
    let conflist = Conflist::load(&settings.conflist)?.with_overrides(&Overrides {
        bridge: settings.bridge.clone(),
        subnet: settings.subnet,
        ipam_dir: Some(config.run.join("ipam")),
        ..Overrides::default()
    })?;
    Ok(HostNetwork::new(conflist, settings.plugin_dirs.clone(), &config.run, settings.dns.clone())?)
}

pub(crate) fn runtime_settings(config: &Config) -> anyhow::Result<containerd::Settings> {
    Ok(containerd::Settings {
        socket: config.containerd.socket.clone(),
        snapshotter: config.containerd.snapshotter.clone(),
        cgroup_parent: config.containerd.cgroup_parent.clone().into(),
        share_shim: config.containerd.share_shim,
        seccomp: config.functions.seccomp,
        log_driver: own_binary()?,
        ..containerd::Settings::default()
    })
}

/// The path of this binary. After an upgrade the kernel marks the old one as deleted; the new one is at its path.
fn own_binary() -> anyhow::Result<std::path::PathBuf> {
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
    let limit = |duration: Duration| Some(duration).filter(|duration| !duration.is_zero());
    UpstreamLimits {
        timeouts: roost_proxy::Timeouts {
            request: limit(timeouts.request),
            idle: limit(timeouts.idle),
            tunnel_idle: limit(timeouts.tunnel_idle),
            connect: timeouts.connect,
            waiting: timeouts.waiting,
        },
        ..UpstreamLimits::default()
    }
}

fn server_settings(config: &Config) -> roost_proxy::Settings {
    roost_proxy::Settings { header_timeout: config.timeouts.header, ..roost_proxy::Settings::default() }
}
