//! What is read of the machine, all of it before the first check.
//!
//! Owns the reading; never judges. What cannot be read stands there as the reason why not.

mod certificates;
mod kernel;
mod network;
mod ports;
mod programs;
mod resources;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ipnet::{IpNet, Ipv4Net};

pub(super) use self::certificates::{Certificates, SecretFile};
#[cfg(test)]
pub(super) use self::certificates::{Given, Refused};
pub(super) use self::kernel::{CONTROLLERS, Cgroups, Hierarchy, Kernel, MODULES, Presence};
pub(super) use self::network::{Firewall, NetworkFacts, Resolver, Route};
#[cfg(test)]
pub(super) use self::ports::Holder;
pub(super) use self::ports::Listener;
pub(super) use self::programs::{Containerd, OciRuntime, Units};
pub(super) use self::resources::Disk;
use crate::config::{Config, ConfigError};
use crate::disk;
use crate::runtime::containerd;
#[cfg(test)]
pub(super) use crate::space::Space;
use crate::{app, resolvers};

/// How long containerd and each program that is asked may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// A fact, or why it cannot be read.
pub(super) type Known<T> = Result<T, String>;

/// What the settings are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Settings {
    Valid,
    /// Not for us to read.
    Closed,
    Missing,
    /// What is wrong, and where.
    Wrong(String),
}

/// The machine, as it is at this moment.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) root: bool,
    pub(super) config_path: PathBuf,
    pub(super) settings: Settings,
    /// What the settings say, or the defaults where they say nothing that counts.
    pub(super) config: Config,
    pub(super) kernel: Kernel,
    pub(super) cgroups: Cgroups,
    pub(super) containerd: Containerd,
    pub(super) runtime: OciRuntime,
    pub(super) network: Known<NetworkFacts>,
    /// Of IPv4, but the way to everywhere.
    pub(super) routes: Known<Vec<Route>>,
    /// From which subnets Docker gives addresses, where somebody has set them.
    pub(super) docker_pools: Vec<Ipv4Net>,
    pub(super) forwards: Known<bool>,
    pub(super) bridge_there: bool,
    pub(super) firewall: Firewall,
    pub(super) resolvers: Vec<Resolver>,
    pub(super) now: SystemTime,
    /// When the file of this program was put here.
    pub(super) installed: Option<SystemTime>,
    pub(super) synchronised: Known<bool>,
    pub(super) disks: Vec<Disk>,
    /// How many files the daemon that runs may have open, or one that we start, and how that is known.
    pub(super) open_files: (u64, &'static str),
    pub(super) listeners: Known<Vec<Listener>>,
    pub(super) secrets: Vec<SecretFile>,
    pub(super) certificates: Certificates,
    /// What systemd says; `None` where it does not run.
    pub(super) units: Option<Known<Units>>,
}

impl Facts {
    /// What systemd says of a unit; empty where it does not run, or does not know.
    pub(super) fn unit(&self, unit: &str, property: &str) -> &str {
        self.units
            .as_ref()
            .and_then(|units| units.as_ref().ok())
            .map_or("", |units| units.get(unit, property))
    }

    /// Looks at the machine.
    pub(super) async fn read(config_path: &Path) -> Self {
        let (settings, config) = settings(config_path);
        let client = app::runtime_settings(&config).map(containerd::Containerd::new);
        let (containerd, runtime, firewall, resolvers, units) = tokio::join!(
            programs::containerd(client),
            programs::runtime(&config),
            network::firewall(),
            network::resolvers(names(&config)),
            programs::units(),
        );
        let network = network::network(&config);
        let bridge = network.as_ref().ok().and_then(|network| network.bridge.as_deref());
        let bridge_there = bridge.is_some_and(|bridge| Path::new("/sys/class/net").join(bridge).exists());
        let listeners = ports::listeners();
        let daemon = ports::daemon(listeners.as_deref().unwrap_or_default(), &config);
        let mut places = vec![("state", config.state.clone())];
        if let Ok(version) = &containerd.asked {
            let usual = || disk::USUAL_ROOT.into();
            places.push(("containerd", version.root.clone().unwrap_or_else(usual)));
        }
        Self {
            root: nix::unistd::geteuid().is_root(),
            config_path: config_path.to_owned(),
            settings,
            kernel: kernel::read(),
            cgroups: kernel::cgroups(),
            containerd,
            runtime,
            routes: network::routes(),
            docker_pools: network::docker_pools(),
            forwards: network::forwards(),
            bridge_there,
            firewall,
            network,
            resolvers,
            now: SystemTime::now(),
            installed: resources::installed(),
            synchronised: resources::synchronised(),
            disks: resources::disks(places),
            open_files: resources::open_files(daemon, units.as_ref()),
            listeners,
            secrets: certificates::secrets(&config),
            certificates: certificates::read(&config),
            units,
            config,
        }
    }
}

fn settings(path: &Path) -> (Settings, Config) {
    match Config::load(path) {
        Ok(config) => (Settings::Valid, config),
        Err(ConfigError::Read { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {
            (Settings::Closed, Config::usual())
        }
        Err(ConfigError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            (Settings::Missing, Config::usual())
        }
        // One line: what is wrong may be several.
        Err(error) => {
            let lines: Vec<String> = error.to_string().lines().map(|line| line.trim().to_owned()).collect();
            (Settings::Wrong(lines.join(" ")), Config::usual())
        }
    }
}

/// What functions find in their `/etc/resolv.conf`.
fn names(config: &Config) -> Vec<std::net::IpAddr> {
    if !config.network.dns.is_empty() {
        return config.network.dns.clone();
    }
    let text = resolvers::of_host();
    let servers = text.lines().filter_map(|line| line.strip_prefix("nameserver"));
    servers.filter_map(|address| address.trim().parse().ok()).collect()
}

/// The text of a file, or why there is none.
fn text(path: impl AsRef<Path>) -> Known<String> {
    let path = path.as_ref();
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// `KEY=VALUE` lines, as systemd prints them.
fn pairs(text: &str) -> BTreeMap<String, String> {
    let mut pairs: BTreeMap<String, String> = BTreeMap::new();
    for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
        // What there is several of has several lines.
        let all = pairs.entry(key.to_owned()).or_default();
        if !all.is_empty() {
            all.push(' ');
        }
        all.push_str(value);
    }
    pairs
}

/// Only those of IPv4: the plugins that are installed give no others unless somebody sets them.
fn v4(subnet: IpNet) -> Option<Ipv4Net> {
    match subnet {
        IpNet::V4(subnet) => Some(subnet),
        IpNet::V6(_) => None,
    }
}
