//! Settings: what is written in `roostd.toml`, and what it means.
//!
//! `Raw` is the file and nothing more. [`Config::resolve`] is the only way from it to the settings that the daemon
//! uses: it fills in defaults, reads durations and amounts, and reports all mistakes with the paths of their keys.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use roost_proxy::MAX_KEPT;

use self::limits::Limits;
use self::raw::Raw;
use crate::image::{PullPolicy, RegistrySettings};
use crate::{access_log, deadletters, disk, otel, queue, units};

mod jwt;
pub mod limits;
mod raw;
mod tls;
mod triggers;

pub(crate) use self::jwt::grace;
pub use self::jwt::{Issuer, Jwt, KeysAt};
pub use self::tls::{CertificateFiles, Tls};

/// Where the settings are, unless the command line says otherwise.
pub const DEFAULT_PATH: &str = "/etc/roost/roostd.toml";

/// The settings of the daemon, complete and valid.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the API and the functions answer, unless systemd hands over a socket.
    pub listen: SocketAddr,
    /// Where metrics are served; `None` for nowhere.
    pub metrics: Option<SocketAddr>,
    /// How long requests in flight may go on when the daemon ends.
    pub drain: Duration,
    /// Where the same is answered in TLS; `None` for nowhere.
    pub tls: Option<Tls>,
    /// How many tunnels at most outlive the daemon.
    pub kept_tunnels: usize,
    /// Who may use the API; `None` for everybody.
    pub auth: Option<Auth>,
    /// Whose tokens count where functions ask for one; `None` for nobody's.
    pub jwt: Option<Jwt>,
    /// What must survive a reboot.
    pub state: PathBuf,
    /// What must not.
    pub run: PathBuf,
    /// Stack files that are applied at every start.
    pub stacks: PathBuf,
    /// containerd.
    pub containerd: Containerd,
    /// Functions.
    pub functions: Functions,
    /// Their network.
    pub network: Network,
    /// Their images.
    pub images: Images,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// What clients may send, how fast, and how much at once.
    pub limits: Limits,
    /// Calls that nobody waits for.
    pub queue: queue::Settings,
    /// What this host shares with others, if it does.
    pub nodes: Option<crate::nodes::Settings>,
    /// Output.
    pub logs: Logs,
    /// Requests and tunnels.
    pub access_log: access_log::Settings,
    /// For how many days before today it is kept what functions have used.
    pub usage_days: u16,
    /// How much is kept of what functions could not be brought to deal with.
    pub deadletters: deadletters::Settings,
    /// Brokers and directories that functions may listen to.
    pub triggers: crate::triggers::settings::Settings,
    /// Is each request to a function a span in a trace?
    pub spans: bool,
    /// Where these spans are sent; `None` for nowhere.
    pub otlp: Option<otel::Endpoint>,
}

/// Who may use the API.
#[derive(Debug, Clone)]
pub struct Auth {
    /// The name of the user whose password is in `password_file`.
    pub user: String,
    /// The file that holds that password, as it is.
    pub password_file: PathBuf,
    /// The file of further users, their passwords hashed.
    pub users_file: PathBuf,
}

/// How to reach containerd and what to ask of it.
#[derive(Debug, Clone)]
pub struct Containerd {
    /// Its socket.
    pub socket: PathBuf,
    /// The snapshotter that holds root file systems.
    pub snapshotter: String,
    /// The OCI runtime: a name, a path, or `auto`.
    pub runtime: String,
    /// The cgroup under which replicas are put.
    pub cgroup_parent: String,
    /// Do the replicas of a namespace share one shim?
    pub share_shim: bool,
}

/// The lives of replicas.
#[derive(Debug, Clone)]
pub struct Functions {
    /// From TERM to KILL.
    pub stop_grace: Duration,
    /// How long a replica that is replaced may go on with what it has.
    pub drain: Duration,
    /// From the start of the process until it is ready.
    pub start_timeout: Duration,
    /// Are system calls filtered?
    pub seccomp: bool,
    /// What of the host's files functions may ask to see.
    pub mounts: Vec<AllowedMount>,
    /// Which of the host's devices functions may ask for.
    pub devices: Vec<PathBuf>,
}

/// A directory or file of the host that functions may mount, and everything below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedMount {
    /// The absolute path on the host.
    pub path: PathBuf,
    /// May it be written?
    pub writable: bool,
}

/// The network of functions.
#[derive(Debug, Clone)]
pub struct Network {
    /// The CNI configuration.
    pub conflist: PathBuf,
    /// Where CNI plugins are.
    pub plugin_dirs: Vec<PathBuf>,
    /// Instead of the bridge that the configuration names.
    pub bridge: Option<String>,
    /// Instead of the subnet that the configuration names.
    pub subnet: Option<IpNet>,
    /// What the subnets of further namespaces are cut from.
    pub namespaces: IpNet,
    /// Resolvers, instead of the host's.
    pub dns: Vec<IpAddr>,
    /// How many networks are kept ready in each namespace for replicas to come.
    pub slots: usize,
}

/// Where images come from and how long they stay.
#[derive(Debug, Clone)]
pub struct Images {
    /// When a registry is asked.
    pub policy: PullPolicy,
    /// Credentials, in Docker's form.
    pub docker_config: PathBuf,
    /// When those go that no function uses.
    pub disk: disk::Settings,
    /// The largest image, in bytes.
    pub max_size: u64,
    /// Registries that are not reached in the ordinary way, by `host[:port]`.
    pub registries: HashMap<String, RegistrySettings>,
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Until the head of a function's answer.
    pub request: Duration,
    /// Without a byte on a body.
    pub idle: Duration,
    /// Without a byte on an upgraded connection.
    pub tunnel_idle: Duration,
    /// The age of an upgraded connection.
    pub lifetime: Duration,
    /// Until the kernel asks whether the other end of a silent connection of a client is still there.
    pub tcp_keepalive: Duration,
    /// Until the head of a client's request is complete.
    pub header: Duration,
    /// Until a replica accepts a connection.
    pub connect: Duration,
    /// Until there is a replica.
    pub waiting: Duration,
}

/// Output of functions and of the daemon.
#[derive(Debug, Clone)]
pub struct Logs {
    /// How much of a replica's output is kept, in bytes.
    pub max_size: u64,
    /// What the daemon says: a filter of the `tracing` kind.
    pub level: String,
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML, or has a key that is not known.
    #[error("{path}: {why}")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and where.
        why: Box<toml::de::Error>,
    },
    /// The file says things that cannot be.
    #[error("{path}:\n{mistakes}")]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// All of them.
        mistakes: Mistakes,
    },
}

/// What is wrong with the settings: one line a mistake, each with the path of its key.
#[derive(Debug, Default)]
pub struct Mistakes(Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(|line| format!("  {line}")).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl Mistakes {
    /// Reads the value of `key`, or takes the default; a mistake is noted and the default stands in for it.
    fn read<T, E: fmt::Display>(
        &mut self,
        key: &str,
        value: Option<&str>,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> T {
        match value.map(|text| parse(text).map_err(|why| format!("{key} = {text:?}: {why}"))) {
            None => default,
            Some(Ok(parsed)) => parsed,
            Some(Err(mistake)) => {
                self.0.push(mistake);
                default
            }
        }
    }

    fn duration(&mut self, key: &str, value: Option<&str>, default_seconds: u64) -> Duration {
        self.read(key, value, Duration::from_secs(default_seconds), units::duration)
    }

    fn require(&mut self, holds: bool, mistake: &str) {
        if !holds {
            self.0.push(mistake.to_owned());
        }
    }
}

impl Config {
    /// Reads the settings in `path`.
    ///
    /// # Errors
    /// When the file cannot be read or does not hold settings.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let raw = toml::from_str(&text)
            .map_err(|why| ConfigError::Parse { path: path.to_owned(), why: Box::new(why) })?;
        Self::resolve(raw).map_err(|mistakes| ConfigError::Invalid { path: path.to_owned(), mistakes })
    }

    /// What counts where nothing is set.
    ///
    /// # Panics
    /// Never: the defaults are valid.
    #[must_use]
    pub fn usual() -> Self {
        Self::resolve(Raw::default()).expect("the defaults are valid")
    }

    fn resolve(raw: Raw) -> Result<Self, Mistakes> {
        let mut mistakes = Mistakes::default();
        let m = &mut mistakes;
        let listen = SocketAddr::from(([127, 0, 0, 1], 8080));
        let metrics = SocketAddr::from(([127, 0, 0, 1], 8082));
        let state = raw.paths.state.unwrap_or_else(|| "/var/lib/roost".into());
        let config = Self {
            listen: m.read("server.listen", raw.server.listen.as_deref(), listen, |text| {
                text.parse().map_err(|_| "expected ADDRESS:PORT, such as 127.0.0.1:8080 or [::]:8080")
            }),
            metrics: m.read(
                "server.metrics",
                raw.server.metrics.as_deref(),
                Some(metrics),
                |text| match text {
                    "off" => Ok(None),
                    text => text.parse().map(Some).map_err(|_| "expected ADDRESS:PORT, or off"),
                },
            ),
            drain: m.duration("server.drain", raw.server.drain.as_deref(), 10),
            tls: raw.tls.resolve(m, &state),
            kept_tunnels: raw.server.kept_tunnels.unwrap_or(MAX_KEPT),
            auth: raw.auth.enabled.unwrap_or(true).then(|| Auth {
                user: raw.auth.user.unwrap_or_else(|| "admin".into()),
                password_file: raw.auth.password_file.unwrap_or_else(|| "/etc/roost/admin-password".into()),
                users_file: raw.auth.users_file.unwrap_or_else(|| "/etc/roost/users".into()),
            }),
            jwt: raw.jwt.resolve(m),
            state,
            run: raw.paths.run.unwrap_or_else(|| "/run/roost".into()),
            stacks: raw.paths.stacks.unwrap_or_else(|| "/etc/roost/functions.d".into()),
            containerd: raw.containerd.resolve(),
            functions: raw.functions.resolve(m),
            network: raw.network.resolve(m),
            images: raw.images.resolve(m),
            timeouts: raw.timeouts.resolve(m),
            limits: raw.limits.resolve(m),
            queue: raw.queue.resolve(m),
            nodes: raw.nats.and_then(|nats| nats.resolve(m)),
            logs: raw.logs.resolve(m),
            access_log: raw.access_log.resolve(m),
            usage_days: raw.usage.resolve(m),
            deadletters: raw.deadletters.resolve(m),
            triggers: raw.triggers.resolve(m),
            spans: raw.tracing.spans.unwrap_or(false),
            otlp: m.read("tracing.otlp", raw.tracing.otlp.as_deref(), None, |text| text.parse().map(Some)),
        };
        for (key, path) in config.paths() {
            m.require(path.is_absolute(), &format!("{key} = {path:?}: expected an absolute path"));
        }
        for (key, limit) in [
            ("timeouts.header", config.timeouts.header),
            ("timeouts.connect", config.timeouts.connect),
            ("timeouts.waiting", config.timeouts.waiting),
            ("functions.start_timeout", config.functions.start_timeout),
            ("images.keep_unused", config.images.disk.keep_unused),
            ("queue.callback_timeout", config.queue.callback_timeout),
        ] {
            m.require(!limit.is_zero(), &format!("{key}: expected more than zero"));
        }
        for (key, number) in [
            ("queue.concurrency", config.queue.concurrency),
            ("queue.max_concurrency", config.queue.max_concurrency),
        ] {
            m.require((1..=10_000).contains(&number), &format!("{key} = {number}: expected 1 to 10000"));
        }
        m.require(
            config.kept_tunnels <= MAX_KEPT,
            &format!("server.kept_tunnels = {}: expected 0 to {MAX_KEPT}", config.kept_tunnels),
        );
        m.require(
            config.queue.max_body <= config.queue.max_size,
            "queue.max_body: expected no more than queue.max_size",
        );
        m.require(
            config.queue.engine == queue::Place::Local || config.nodes.is_some(),
            "queue.engine = \"nats\": expected a section [nats] with it",
        );
        m.require(
            config.containerd.cgroup_parent.starts_with('/'),
            "containerd.cgroup_parent: expected a path that begins with '/'",
        );
        m.require(
            config.spans || config.otlp.is_none(),
            "tracing.otlp: expected tracing.spans = true with it: else there are none to send",
        );
        let runtime = &config.containerd.runtime;
        m.require(
            !runtime.is_empty() && (!runtime.contains('/') || runtime.starts_with('/')),
            &format!(
                "containerd.runtime = {runtime:?}: expected auto, the name of a program or an absolute path"
            ),
        );
        if mistakes.0.is_empty() { Ok(config) } else { Err(mistakes) }
    }

    /// Where something is that must be found wherever the daemon is started, by key.
    fn paths(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let one = [
            ("paths.state", &self.state),
            ("paths.run", &self.run),
            ("paths.stacks", &self.stacks),
            ("containerd.socket", &self.containerd.socket),
            ("network.conflist", &self.network.conflist),
            ("images.docker_config", &self.images.docker_config),
        ];
        let auth = self.auth.iter();
        one.into_iter()
            .chain(auth.flat_map(|auth| {
                [("auth.password_file", &auth.password_file), ("auth.users_file", &auth.users_file)]
            }))
            .chain(self.network.plugin_dirs.iter().map(|dir| ("network.plugin_dirs", dir)))
            .map(|(key, path)| (key, path.as_path()))
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn resolve(text: &str) -> Result<Config, String> {
        let raw: Raw = toml::from_str(text).map_err(|why| why.to_string())?;
        Config::resolve(raw).map_err(|mistakes| mistakes.to_string())
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        let config = resolve("").unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.auth.unwrap().user, "admin");
        assert_eq!(config.timeouts.request, Duration::from_secs(300));
    }

    #[test]
    fn the_access_log_is_off_unless_it_is_said_where_it_goes() {
        use access_log::Target;
        for (text, target, sample) in [
            ("", Target::Off, 1.0),
            ("target = 'off'", Target::Off, 1.0),
            ("target = 'stdout'\nsample = 0.25", Target::Stdout, 0.25),
            ("target = '/var/log/roost.log'\nsample = 0", Target::File("/var/log/roost.log".into()), 0.0),
        ] {
            let settings = resolve(&format!("[access_log]\n{text}")).unwrap().access_log;
            assert_eq!((settings.target, settings.options.sample), (target, sample), "{text}");
        }
        for (text, mistake) in [
            (
                "target = 'here.log'",
                "access_log.target = \"here.log\": expected off, stdout or an absolute path",
            ),
            ("target = ''", "access_log.target = \"\": expected"),
            ("sample = 1.5", "access_log.sample = 1.5: expected a number from 0 to 1"),
            ("sample = nan", "access_log.sample = NaN: expected a number from 0 to 1"),
            ("max_size = '1KiB'", "access_log.max_size: expected at least 256KiB"),
            ("header = true", "header"),
        ] {
            let told = resolve(&format!("[access_log]\n{text}")).unwrap_err();
            assert!(told.contains(mistake), "{mistake} in {told}");
        }
    }

    #[test]
    fn usage_is_kept_for_a_number_of_days() {
        assert_eq!(resolve("").unwrap().usage_days, 400);
        assert_eq!(resolve("[usage]\nkeep_days = 31").unwrap().usage_days, 31);
        for days in [-1, 0, 3661, 70_000] {
            let told = resolve(&format!("[usage]\nkeep_days = {days}")).unwrap_err();
            assert!(told.contains("usage.keep_days = ") && told.contains("from 1 to 3660"), "{told}");
        }
    }

    #[test]
    fn a_key_that_is_not_known_is_refused_by_name() {
        assert!(resolve("[server]\nlisten_on = 1").unwrap_err().contains("listen_on"));
        assert!(resolve("[sever]").unwrap_err().contains("sever"));
    }

    #[test]
    fn all_mistakes_are_reported_with_their_keys() {
        let text = resolve(
            "[server]\nlisten = '8080'\n[functions]\ndrain = 'soon'\n[network]\nsubnet = 'x'\ndns = ['y']\nslots = 65\n\
             [images]\npolicy = 'Never'\nmax_size = '0'\n[paths]\nstate = 'here'\n\
             [queue]\nconcurrency = 0\nmax_body = '2GiB'\n\
             [limits]\nconnections = 0\nconnections_per_client = -1\nrequests_per_client = 'fast'\nheaders = 1\n\
             header_size = '1KiB'\nbody = 'big'\nbody_time = 'soon'\nfunction_connections = 'x'",
        )
        .unwrap_err();
        for key in [
            "server.listen",
            "functions.drain",
            "network.subnet",
            "network.dns",
            "network.slots",
            "images.policy",
            "images.max_size",
            "paths.state",
            "queue.concurrency",
            "queue.max_body",
            "limits.connections:",
            "limits.connections_per_client",
            "limits.requests_per_client",
            "limits.headers",
            "limits.header_size",
            "limits.body =",
            "limits.body_time",
            "limits.function_connections",
        ] {
            assert!(text.contains(key), "{key} in {text}");
        }
    }

    #[test]
    fn paths_that_depend_on_where_the_daemon_is_started_are_refused() {
        for (section, key) in [
            ("paths", "state"),
            ("paths", "run"),
            ("paths", "stacks"),
            ("auth", "password_file"),
            ("auth", "users_file"),
            ("containerd", "socket"),
            ("network", "conflist"),
            ("images", "docker_config"),
        ] {
            let text = resolve(&format!("[{section}]\n{key} = 'here/it'")).unwrap_err();
            assert!(text.contains(&format!("{section}.{key} = \"here/it\"")), "{text}");
            resolve(&format!("[{section}]\n{key} = '/here/it'")).unwrap();
        }
        let text = resolve("[network]\nplugin_dirs = ['/here', 'there']").unwrap_err();
        assert!(text.contains("network.plugin_dirs = \"there\""), "{text}");
    }

    #[test]
    fn an_oci_runtime_is_found_wherever_the_daemon_is_started() {
        assert_eq!(resolve("").unwrap().containerd.runtime, "auto");
        for runtime in ["crun", "/opt/bin/youki"] {
            let config = resolve(&format!("[containerd]\nruntime = '{runtime}'")).unwrap();
            assert_eq!(config.containerd.runtime, runtime);
        }
        for runtime in ["", "bin/crun", "./crun"] {
            let text = resolve(&format!("[containerd]\nruntime = '{runtime}'")).unwrap_err();
            assert!(text.contains(&format!("containerd.runtime = {runtime:?}")), "{text}");
        }
    }

    #[test]
    fn devices_are_below_dev() {
        for device in ["fuse", "/dev", "/devices/x", "/dev/../etc/x", "/etc/x", ""] {
            let text = resolve(&format!("[functions]\ndevices = ['/dev/fuse', '{device}']")).unwrap_err();
            assert!(text.contains(&format!("functions.devices = \"{device}\"")), "{text}");
        }
        let devices = resolve("[functions]\ndevices = ['/dev/dri/card0']").unwrap().functions.devices;
        assert_eq!(devices, [Path::new("/dev/dri/card0")]);
    }

    #[test]
    fn a_pool_that_no_namespace_can_have_a_part_of_is_refused() {
        for (settings, why) in [
            ("namespaces = 'fd00::/48'", "IPv4"),
            ("namespaces = '10.64.0.0/29'", "at most /28"),
            ("subnet = '10.64.3.0/24'", "overlaps"),
            ("subnet = '10.63.0.0/16'\nnamespaces = '10.63.128.0/17'", "overlaps"),
        ] {
            let text = resolve(&format!("[network]\n{settings}")).unwrap_err();
            assert!(text.contains("network.namespaces = ") && text.contains(why), "{settings}: {text}");
        }
        resolve("[network]\nsubnet = '10.63.0.0/16'\nnamespaces = '10.62.0.0/28'").unwrap();
    }

    #[test]
    fn where_spans_are_sent_is_a_url_in_a_build_that_sends_them() {
        assert!(resolve("").unwrap().otlp.is_none());
        let tracing = |text: &str| resolve(&format!("[tracing]\n{text}")).map(|config| config.otlp.is_some());
        let good = tracing("spans = true\notlp = 'http://127.0.0.1:4318'");
        if cfg!(feature = "otel") {
            assert_eq!(good, Ok(true));
            let told = tracing("otlp = 'http://127.0.0.1:4318'").unwrap_err();
            assert!(told.contains("tracing.otlp: expected tracing.spans = true"), "{told}");
            let told = tracing("spans = true\notlp = 'here'").unwrap_err();
            assert!(told.contains("tracing.otlp = \"here\": expected the http or https URL"), "{told}");
        } else {
            let why = "tracing.otlp = \"http://127.0.0.1:4318\": this build has no OpenTelemetry: \
                       build it with --features otel";
            let told = good.unwrap_err();
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn limits_are_numbers_rates_sizes_and_times_or_off() {
        let limits = resolve(
            "[limits]\nconnections = 100\nconnections_per_client = 10\nrequests_per_client = '5/s burst 9'\n\
             handshakes_per_client = 'off'\nbody = '1MiB'\nbody_time = '0'\nfunction_connections = 'off'\n\
             function_requests = '100/m'",
        )
        .unwrap()
        .limits;
        assert_eq!(limits.connections.map(NonZeroUsize::get), Some(100));
        assert_eq!(limits.clients.connections.map(NonZeroUsize::get), Some(10));
        assert_eq!(limits.clients.requests, "5/s burst 9".parse().ok());
        assert_eq!(limits.clients.handshakes, None);
        let bounds = limits.bounds;
        assert_eq!((bounds.body, bounds.body_time, bounds.connections), (Some(1 << 20), None, None));
        assert_eq!(bounds.requests, "100/m".parse().ok());
        let none = resolve("").unwrap().limits;
        assert_eq!(
            (none.bounds, none.clients),
            (roost_proxy::Bounds::default(), roost_proxy::ClientLimits::default())
        );
    }

    #[test]
    fn the_file_that_is_shipped_means_the_defaults() {
        let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../systemd/roostd.toml");
        let config = Config::load(Path::new(shipped)).unwrap();
        assert_eq!(format!("{config:?}"), format!("{:?}", resolve("").unwrap()));
    }
}
