//! The file, as it is written: plain structs that refuse what they do not know, and what each section means.
//!
//! Owns the defaults of the sections. Looks at nothing but the text.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};
use roost_proxy::AccessLogOptions;
use serde::Deserialize;

use crate::runtime::containerd::oci;

use super::jwt::RawJwt;
use super::limits::RawLimits;
use super::tls::RawTls;
use super::triggers::{RawShared, RawTriggers};
use super::{AllowedMount, Containerd, Functions, Images, Logs, Mistakes, Network, Timeouts};
use crate::image::{PullPolicy, RegistrySettings};
use crate::network::LONGEST_PREFIX;
use crate::{access_log, deadletters, disk, queue, units};

/// Each is a network namespace that the kernel has to keep.
const MAX_SLOTS: usize = 64;

/// How full, in percent, the disk of the images may be until unused ones go before their time, and how full it is then.
const DISK_HIGH: u8 = 85;
const DISK_LOW: u8 = 80;

/// A year and a month: this month can be compared with the same one of last year.
const USAGE_DAYS: u16 = 400;

/// Ten years.
const MAX_USAGE_DAYS: u16 = 3660;

/// The file, as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    pub(super) server: RawServer,
    pub(super) tls: RawTls,
    pub(super) auth: RawAuth,
    pub(super) jwt: RawJwt,
    pub(super) paths: RawPaths,
    pub(super) containerd: RawContainerd,
    pub(super) functions: RawFunctions,
    pub(super) network: RawNetwork,
    pub(super) images: RawImages,
    pub(super) timeouts: RawTimeouts,
    pub(super) limits: RawLimits,
    pub(super) queue: RawQueue,
    pub(super) nats: Option<RawShared>,
    pub(super) logs: RawLogs,
    pub(super) access_log: RawAccessLog,
    pub(super) usage: RawUsage,
    pub(super) deadletters: RawDeadLetters,
    pub(super) triggers: RawTriggers,
    pub(super) tracing: RawTracing,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawServer {
    pub(super) listen: Option<String>,
    pub(super) metrics: Option<String>,
    pub(super) drain: Option<String>,
    pub(super) kept_tunnels: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawAuth {
    pub(super) enabled: Option<bool>,
    pub(super) user: Option<String>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) users_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPaths {
    pub(super) state: Option<PathBuf>,
    pub(super) run: Option<PathBuf>,
    pub(super) stacks: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawContainerd {
    pub(super) socket: Option<PathBuf>,
    pub(super) snapshotter: Option<String>,
    pub(super) runtime: Option<String>,
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
    pub(super) mounts: Vec<String>,
    pub(super) devices: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawNetwork {
    pub(super) conflist: Option<PathBuf>,
    pub(super) plugin_dirs: Option<Vec<PathBuf>>,
    pub(super) bridge: Option<String>,
    pub(super) subnet: Option<String>,
    pub(super) namespaces: Option<String>,
    pub(super) dns: Vec<String>,
    pub(super) slots: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawImages {
    pub(super) policy: Option<String>,
    pub(super) docker_config: Option<PathBuf>,
    pub(super) keep_unused: Option<String>,
    pub(super) disk_high: Option<u8>,
    pub(super) disk_low: Option<u8>,
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
    pub(super) lifetime: Option<String>,
    pub(super) tcp_keepalive: Option<String>,
    pub(super) header: Option<String>,
    pub(super) connect: Option<String>,
    pub(super) waiting: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawQueue {
    pub(super) engine: queue::Place,
    pub(super) concurrency: Option<usize>,
    pub(super) max_concurrency: Option<usize>,
    pub(super) max_body: Option<String>,
    pub(super) max_size: Option<String>,
    pub(super) max_calls: Option<usize>,
    pub(super) reserve: Option<String>,
    pub(super) retry_for: Option<String>,
    pub(super) callback_timeout: Option<String>,
    pub(super) callback_attempts: Option<u32>,
    pub(super) idempotency: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLogs {
    pub(super) max_size: Option<String>,
    pub(super) level: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawAccessLog {
    pub(super) target: Option<String>,
    pub(super) sample: Option<f64>,
    pub(super) query: Option<bool>,
    pub(super) referer: Option<bool>,
    pub(super) max_size: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawUsage {
    pub(super) keep_days: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawDeadLetters {
    pub(super) enabled: Option<bool>,
    pub(super) max_size: Option<String>,
    pub(super) max_total: Option<String>,
    pub(super) max_age: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTracing {
    pub(super) spans: Option<bool>,
    pub(super) otlp: Option<String>,
}

impl RawContainerd {
    pub(super) fn resolve(self) -> Containerd {
        Containerd {
            socket: self.socket.unwrap_or_else(|| "/run/containerd/containerd.sock".into()),
            snapshotter: self.snapshotter.unwrap_or_else(|| "overlayfs".into()),
            runtime: self.runtime.unwrap_or_else(|| oci::AUTO.into()),
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
            mounts: self
                .mounts
                .iter()
                .filter_map(|text| m.read("functions.mounts", Some(text), None, mount))
                .collect(),
            devices: self
                .devices
                .iter()
                .filter_map(|text| m.read("functions.devices", Some(text), None, device))
                .collect(),
        }
    }
}

/// `PATH` or `PATH:rw`.
fn mount(text: &str) -> Result<Option<AllowedMount>, &'static str> {
    let (path, writable) = text.strip_suffix(":rw").map_or((text, false), |path| (path, true));
    let path = PathBuf::from(path);
    if !path.is_absolute() || path.components().any(|part| part == std::path::Component::ParentDir) {
        return Err("expected an absolute path without '..', or such a path and ':rw'");
    }
    Ok(Some(AllowedMount { path, writable }))
}

fn device(text: &str) -> Result<Option<PathBuf>, &'static str> {
    let path = PathBuf::from(text);
    let plain = !path.components().any(|part| part == std::path::Component::ParentDir);
    let below = path.strip_prefix("/dev").is_ok_and(|rest| rest.components().next().is_some());
    if plain && below {
        Ok(Some(path))
    } else {
        Err("expected the path of a device below /dev, without '..'")
    }
}

/// What the subnets of namespaces are cut from.
fn pool(text: &str) -> Result<IpNet, String> {
    match text.parse() {
        Ok(IpNet::V4(pool)) if pool.prefix_len() <= LONGEST_PREFIX => Ok(IpNet::V4(pool)),
        Ok(IpNet::V4(_)) => Err(format!("expected a prefix of at most /{LONGEST_PREFIX}")),
        _ => Err("expected a subnet of IPv4 such as 10.64.0.0/16".to_owned()),
    }
}

impl RawNetwork {
    pub(super) fn resolve(self, m: &mut Mistakes) -> Network {
        let usual = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 64, 0, 0), 16));
        let subnet = |text: &str| {
            text.parse::<IpNet>().map(Some).map_err(|_| "expected a subnet such as 10.63.0.0/16")
        };
        let mut dns = Vec::new();
        for text in &self.dns {
            let parse = |text: &str| text.parse().map(Some).map_err(|_| "expected the address of a resolver");
            dns.extend(m.read("network.dns", Some(text), None::<IpAddr>, parse));
        }
        let subnet = m.read("network.subnet", self.subnet.as_deref(), None, subnet);
        let namespaces = m.read("network.namespaces", self.namespaces.as_deref(), usual, pool);
        let slots = self.slots.unwrap_or(4);
        m.require(slots <= MAX_SLOTS, &format!("network.slots = {slots}: expected at most {MAX_SLOTS}"));
        if let Some(subnet) =
            subnet.filter(|subnet| subnet.contains(&namespaces) || namespaces.contains(subnet))
        {
            let mistake = format!("network.namespaces = {namespaces}: overlaps network.subnet = {subnet}");
            m.require(false, &mistake);
        }
        Network {
            conflist: self.conflist.unwrap_or_else(|| "/etc/roost/cni/10-roost.conflist".into()),
            plugin_dirs: self
                .plugin_dirs
                .unwrap_or_else(|| vec!["/usr/lib/cni".into(), "/opt/cni/bin".into()]),
            bridge: self.bridge,
            subnet,
            namespaces,
            dns,
            slots,
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
        let high = self.disk_high.unwrap_or(DISK_HIGH);
        let disk = disk::Settings {
            keep_unused: m.duration("images.keep_unused", self.keep_unused.as_deref(), 24 * 3600),
            high,
            low: self.disk_low.unwrap_or(high.min(DISK_LOW)),
        };
        m.require(
            (1..=100).contains(&high),
            &format!("images.disk_high = {high}: expected 1 to 100 (percent)"),
        );
        let low = disk.low;
        m.require(
            low <= high,
            &format!("images.disk_low = {low}: expected no more than images.disk_high, {high}"),
        );
        Images {
            policy: m.read("images.policy", self.policy.as_deref(), PullPolicy::Always, policy),
            docker_config: self.docker_config.unwrap_or_else(|| "/etc/roost/config.json".into()),
            disk,
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
            lifetime: m.duration("timeouts.lifetime", self.lifetime.as_deref(), 0),
            tcp_keepalive: m.duration("timeouts.tcp_keepalive", self.tcp_keepalive.as_deref(), 60),
            header: m.duration("timeouts.header", self.header.as_deref(), 10),
            connect: m.duration("timeouts.connect", self.connect.as_deref(), 5),
            waiting: m.duration("timeouts.waiting", self.waiting.as_deref(), 60),
        }
    }
}

impl RawQueue {
    pub(super) fn resolve(self, m: &mut Mistakes) -> queue::Settings {
        queue::Settings {
            engine: self.engine,
            concurrency: self.concurrency.unwrap_or(10),
            max_concurrency: self.max_concurrency.unwrap_or(100),
            max_body: m.read("queue.max_body", self.max_body.as_deref(), 16 << 20, units::memory),
            max_size: m.read("queue.max_size", self.max_size.as_deref(), 1 << 30, units::memory),
            max_calls: self.max_calls.unwrap_or(500_000),
            reserve: m.read("queue.reserve", self.reserve.as_deref(), 64 << 20, units::memory),
            retry_for: m.duration("queue.retry_for", self.retry_for.as_deref(), 3600),
            callback_timeout: m.duration("queue.callback_timeout", self.callback_timeout.as_deref(), 300),
            callback_attempts: self.callback_attempts.unwrap_or(5),
            idempotency: m.duration("queue.idempotency", self.idempotency.as_deref(), 24 * 3600),
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

impl RawUsage {
    pub(super) fn resolve(self, m: &mut Mistakes) -> u16 {
        let days = self.keep_days.unwrap_or(i64::from(USAGE_DAYS));
        let kept = u16::try_from(days).ok().filter(|days| (1..=MAX_USAGE_DAYS).contains(days));
        let mistake = format!("usage.keep_days = {days}: expected a number from 1 to {MAX_USAGE_DAYS}");
        m.require(kept.is_some(), &mistake);
        kept.unwrap_or(USAGE_DAYS)
    }
}

impl RawDeadLetters {
    pub(super) fn resolve(self, m: &mut Mistakes) -> deadletters::Settings {
        let settings = deadletters::Settings {
            enabled: self.enabled.unwrap_or(true),
            max_size: m.read("deadletters.max_size", self.max_size.as_deref(), 16 << 20, units::memory),
            max_total: m.read("deadletters.max_total", self.max_total.as_deref(), 128 << 20, units::memory),
            max_age: m.duration("deadletters.max_age", self.max_age.as_deref(), 7 * 24 * 3600),
        };
        m.require(!settings.max_age.is_zero(), "deadletters.max_age: expected more than zero");
        settings
    }
}

impl RawAccessLog {
    pub(super) fn resolve(self, m: &mut Mistakes) -> access_log::Settings {
        let target = |text: &str| match text {
            "off" => Ok(access_log::Target::Off),
            "stdout" => Ok(access_log::Target::Stdout),
            path if path.starts_with('/') => Ok(access_log::Target::File(path.into())),
            _ => Err("expected off, stdout or an absolute path"),
        };
        let sample = self.sample.unwrap_or(1.0);
        m.require(
            (0.0..=1.0).contains(&sample),
            &format!("access_log.sample = {sample}: expected a number from 0 to 1"),
        );
        let max_size = m.read("access_log.max_size", self.max_size.as_deref(), 20 << 20, units::memory);
        m.require(max_size >= access_log::MIN_SIZE, "access_log.max_size: expected at least 256KiB");
        access_log::Settings {
            target: m.read("access_log.target", self.target.as_deref(), access_log::Target::Off, target),
            max_size,
            options: AccessLogOptions {
                sample,
                query: self.query.unwrap_or(false),
                referer: self.referer.unwrap_or(false),
            },
        }
    }
}
