//! The files that a host's daemon is started with.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Host;
use crate::leftovers::Marks;
use crate::netns::Netns;
use crate::repository;

/// The settings that tests change.
#[derive(Debug, Clone)]
pub struct Config {
    /// Does a supervisor start the daemon?
    pub supervised: bool,
    /// `[paths] state`, if not in the host's directory.
    pub state: Option<PathBuf>,
    /// `[auth] enabled`.
    pub auth: bool,
    /// `[images] policy`.
    pub pull_policy: &'static str,
    /// More lines of `[images]`.
    pub images: &'static str,
    /// `[functions] stop_grace`.
    pub stop_grace: &'static str,
    /// `[functions] drain`.
    pub drain: &'static str,
    /// `[functions] start_timeout`.
    pub start_timeout: &'static str,
    /// `[functions] mounts`.
    pub mounts: Vec<String>,
    /// `[functions] devices`.
    pub devices: Vec<String>,
    /// `[timeouts] header`.
    pub header_timeout: &'static str,
    /// `[timeouts] request`.
    pub request_timeout: &'static str,
    /// `[timeouts] idle`.
    pub idle_timeout: &'static str,
    /// The lines of `[queue]`.
    pub queue: &'static str,
    /// Is there an access log, `access.log` in the host's directory, and a span for each request?
    pub access_log: bool,
    /// The collector that spans go to, from a daemon that is built for it. Not without `access_log`.
    pub otlp: Option<String>,
    /// The lines of `[tls]`.
    pub tls: String,
    /// The lines of `[jwt]`.
    pub jwt: String,
    /// `[network] dns`. Empty is: as the machine.
    pub dns: &'static [&'static str],
    /// The sections `[triggers.…]`.
    pub triggers: String,
    /// The section `[nats]`, if it has one.
    pub nodes: String,
    /// The network namespace that all of it is in, if not in the test's. From outside it looks the same.
    pub network: Option<Netns>,
    /// The Docker-style credentials file.
    pub docker_config: Value,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            supervised: false,
            state: None,
            auth: true,
            pull_policy: "Always",
            images: "",
            stop_grace: "5s",
            drain: "20s",
            start_timeout: "30s",
            mounts: Vec::new(),
            devices: Vec::new(),
            header_timeout: "10s",
            request_timeout: "1m",
            idle_timeout: "5m",
            queue: "",
            access_log: false,
            otlp: None,
            tls: String::new(),
            jwt: String::new(),
            dns: &[],
            triggers: String::new(),
            nodes: String::new(),
            network: None,
            docker_config: json!({}),
        }
    }
}

impl Host {
    pub(super) fn write_settings(&self) {
        let dir = self.dir.path();
        write_secret(&dir.join("password"), &self.password);
        write_secret(&dir.join("docker.json"), &self.config.docker_config.to_string());
        fs::write(dir.join("roost.conflist"), self.conflist()).unwrap();
        fs::write(dir.join("roostd.toml"), self.daemon_config()).unwrap();
    }

    /// The conflist that is installed, with a network of this host's own.
    fn conflist(&self) -> String {
        let shipped = fs::read(repository().join("systemd/10-roost.conflist")).unwrap();
        let mut conflist: Value = serde_json::from_slice(&shipped).unwrap();
        conflist["name"] = json!(self.network());
        let bridge = &mut conflist["plugins"][0];
        assert_eq!(bridge["type"], "bridge");
        bridge["bridge"] = json!(self.bridge());
        bridge["ipam"]["dataDir"] = json!(self.dir.path().join("ipam"));
        bridge["ipam"]["ranges"] = json!([[{ "subnet": self.place.subnet() }]]);
        conflist.to_string()
    }

    fn daemon_config(&self) -> String {
        let Config {
            state,
            auth,
            pull_policy,
            images,
            stop_grace,
            drain,
            start_timeout,
            mounts,
            devices,
            header_timeout,
            request_timeout,
            idle_timeout,
            queue,
            access_log,
            otlp,
            tls,
            jwt,
            dns,
            triggers,
            nodes,
            ..
        } = &self.config;
        let dir = self.dir.path().display();
        let state = state.clone().unwrap_or_else(|| self.dir.path().join("state"));
        let log = if *access_log { format!("{dir}/access.log") } else { "off".to_owned() };
        let otlp = otlp.as_ref().map(|collector| format!("otlp = {collector:?}")).unwrap_or_default();
        format!(
            r#"
[server]
listen = "127.0.0.1:{port}"
metrics = "127.0.0.1:{metrics}"
[auth]
enabled = {auth}
password_file = "{dir}/password"
users_file = "{dir}/users"
[paths]
state = "{state}"
run = "{dir}/run"
stacks = "{dir}/functions.d"
[containerd]
socket = "{socket}"
cgroup_parent = "/{cgroup}"
[functions]
stop_grace = "{stop_grace}"
drain = "{drain}"
start_timeout = "{start_timeout}"
mounts = {mounts:?}
devices = {devices:?}
[network]
conflist = "{dir}/roost.conflist"
plugin_dirs = ["/usr/lib/cni", "/opt/cni/bin"]
namespaces = "{namespaces}"
dns = {dns:?}
[images]
policy = "{pull_policy}"
docker_config = "{dir}/docker.json"
{images}
[timeouts]
header = "{header_timeout}"
request = "{request_timeout}"
idle = "{idle_timeout}"
[queue]
{queue}
[access_log]
target = "{log}"
[tracing]
spans = {access_log}
{otlp}
[tls]
{tls}
[jwt]
{jwt}
{triggers}
{nodes}
"#,
            port = self.port,
            state = state.display(),
            metrics = self.metrics_port,
            namespaces = self.place.namespaces(),
            socket = self.containerd.socket().display(),
            cgroup = self.cgroup(),
        )
    }

    pub(super) fn marks(&self) -> Marks {
        Marks {
            dir: self.dir.path().to_owned(),
            bridge: self.bridge(),
            address_prefix: self.place.prefix.clone(),
            subnet: self.place.subnet(),
            network: self.network(),
            cgroup: self.cgroup(),
        }
    }

    fn bridge(&self) -> String {
        format!("rt{}", self.place.tag)
    }

    fn network(&self) -> String {
        format!("roost-test-{}", self.place.tag)
    }

    fn cgroup(&self) -> String {
        format!("roost-test-{}", self.place.tag)
    }
}

fn write_secret(path: &Path, text: &str) {
    let mut file =
        fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
}
