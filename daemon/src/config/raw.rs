//! The file, as it is written: plain structs that refuse what they do not know, and what each section means.
//!
//! Owns the defaults of the sections. Looks at nothing but the text.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;

use super::{Containerd, Functions, Images, Logs, Mistakes, Network, Timeouts};
use crate::image::{PullPolicy, RegistrySettings};
use crate::units;

/// The file, as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    pub(super) server: RawServer,
    pub(super) auth: RawAuth,
    pub(super) paths: RawPaths,
    pub(super) containerd: RawContainerd,
    pub(super) functions: RawFunctions,
    pub(super) network: RawNetwork,
    pub(super) images: RawImages,
    pub(super) timeouts: RawTimeouts,
    pub(super) logs: RawLogs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawServer {
    pub(super) listen: Option<String>,
    pub(super) drain: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawAuth {
    pub(super) enabled: Option<bool>,
    pub(super) user: Option<String>,
    pub(super) password_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPaths {
    pub(super) state: Option<PathBuf>,
    pub(super) run: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawContainerd {
    pub(super) socket: Option<PathBuf>,
    pub(super) snapshotter: Option<String>,
    pub(super) cgroup_parent: Option<String>,
    pub(super) share_shim: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawFunctions {
    pub(super) stop_grace: Option<String>,
    pub(super) drain: Option<String>,
    pub(super) start_timeout: Option<String>,
    pub(super) seccomp: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawNetwork {
    pub(super) conflist: Option<PathBuf>,
    pub(super) plugin_dirs: Option<Vec<PathBuf>>,
    pub(super) bridge: Option<String>,
    pub(super) subnet: Option<String>,
    pub(super) dns: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawImages {
    pub(super) policy: Option<String>,
    pub(super) docker_config: Option<PathBuf>,
    pub(super) keep_unused: Option<String>,
    pub(super) max_size: Option<String>,
    pub(super) registries: BTreeMap<String, RawRegistry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRegistry {
    pub(super) plain_http: Option<bool>,
    pub(super) ca_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTimeouts {
    pub(super) request: Option<String>,
    pub(super) idle: Option<String>,
    pub(super) tunnel_idle: Option<String>,
    pub(super) header: Option<String>,
    pub(super) connect: Option<String>,
    pub(super) waiting: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLogs {
    pub(super) max_size: Option<String>,
    pub(super) level: Option<String>,
}

impl RawContainerd {
    pub(super) fn resolve(self) -> Containerd {
        Containerd {
            socket: self.socket.unwrap_or_else(|| "/run/containerd/containerd.sock".into()),
            snapshotter: self.snapshotter.unwrap_or_else(|| "overlayfs".into()),
            cgroup_parent: self.cgroup_parent.unwrap_or_else(|| "/roost".into()),
            share_shim: self.share_shim.unwrap_or(true),
        }
    }
}

impl RawFunctions {
    pub(super) fn resolve(self, m: &mut Mistakes) -> Functions {
        Functions {
            stop_grace: m.duration("functions.stop_grace", self.stop_grace.as_deref(), 10),
            drain: m.duration("functions.drain", self.drain.as_deref(), 30),
            start_timeout: m.duration("functions.start_timeout", self.start_timeout.as_deref(), 60),
            seccomp: self.seccomp.unwrap_or(true),
        }
    }
}

impl RawNetwork {
    pub(super) fn resolve(self, m: &mut Mistakes) -> Network {
        let subnet =
            |text: &str| text.parse().map(Some).map_err(|_| "expected a subnet such as 10.63.0.0/16");
        let mut dns = Vec::new();
        for text in &self.dns {
            let parse = |text: &str| text.parse().map(Some).map_err(|_| "expected the address of a resolver");
            dns.extend(m.read("network.dns", Some(text), None::<IpAddr>, parse));
        }
        Network {
            conflist: self.conflist.unwrap_or_else(|| "/etc/roost/cni/10-roost.conflist".into()),
            plugin_dirs: self
                .plugin_dirs
                .unwrap_or_else(|| vec!["/usr/lib/cni".into(), "/opt/cni/bin".into()]),
            bridge: self.bridge,
            subnet: m.read("network.subnet", self.subnet.as_deref(), None, subnet),
            dns,
        }
    }
}

impl RawImages {
    pub(super) fn resolve(self, m: &mut Mistakes) -> Images {
        let policy = |text: &str| match text {
            "Always" => Ok(PullPolicy::Always),
            "IfNotPresent" => Ok(PullPolicy::IfNotPresent),
            _ => Err("expected Always or IfNotPresent"),
        };
        let registry =
            |raw: RawRegistry| RegistrySettings { plain_http: raw.plain_http, ca_file: raw.ca_file };
        Images {
            policy: m.read("images.policy", self.policy.as_deref(), PullPolicy::Always, policy),
            docker_config: self.docker_config.unwrap_or_else(|| "/etc/roost/config.json".into()),
            keep_unused: m.duration("images.keep_unused", self.keep_unused.as_deref(), 24 * 3600),
            max_size: m.read("images.max_size", self.max_size.as_deref(), 10 << 30, units::memory),
            registries: self.registries.into_iter().map(|(host, raw)| (host, registry(raw))).collect(),
        }
    }
}

impl RawTimeouts {
    pub(super) fn resolve(self, m: &mut Mistakes) -> Timeouts {
        Timeouts {
            request: m.duration("timeouts.request", self.request.as_deref(), 300),
            idle: m.duration("timeouts.idle", self.idle.as_deref(), 300),
            tunnel_idle: m.duration("timeouts.tunnel_idle", self.tunnel_idle.as_deref(), 3600),
            header: m.duration("timeouts.header", self.header.as_deref(), 10),
            connect: m.duration("timeouts.connect", self.connect.as_deref(), 5),
            waiting: m.duration("timeouts.waiting", self.waiting.as_deref(), 60),
        }
    }
}

impl RawLogs {
    pub(super) fn resolve(self, m: &mut Mistakes) -> Logs {
        let level = |text: &str| {
            text.parse::<tracing_subscriber::filter::Targets>()
                .map(|_| text.to_owned())
                .map_err(|why| why.to_string())
        };
        Logs {
            max_size: m.read("logs.max_size", self.max_size.as_deref(), 10 << 20, units::memory),
            level: m.read("logs.level", self.level.as_deref(), "info".to_owned(), level),
        }
    }
}
