//! How long the requests and the connections of a function may take, and what else its WebSockets are held to, as a
//! deployment says it.
//!
//! Owns the annotations `roost.timeout.…`, `roost.auth.grace` and `roost.websocket.…` that mean this, and what the timeouts of a watchdog, in
//! the environment, mean here. Labels of these names count the same; an annotation goes before a label. Pure.

use std::time::Duration;

use roost_proxy::UpstreamLimits;

use crate::config;
use crate::function::spec::Deployment;
use crate::units;

const REQUEST: &str = "roost.timeout.request";
const REQUEST_BODY: &str = "roost.timeout.request-body";
const IDLE: &str = "roost.timeout.idle";
const CONNECT: &str = "roost.timeout.connect";
const HEADER: &str = "roost.timeout.header";
const LIFETIME: &str = "roost.timeout.lifetime";
const GRACE: &str = "roost.auth.grace";
pub(super) const KEEPALIVE: &str = "roost.websocket.keepalive";
const MAX_MESSAGE: &str = "roost.websocket.max-message";

/// All of them.
const NAMES: [&str; 9] =
    [REQUEST, REQUEST_BODY, IDLE, CONNECT, HEADER, LIFETIME, GRACE, KEEPALIVE, MAX_MESSAGE];

/// What a watchdog is told: how long the function may take, and how long reading a request and writing an answer may.
const EXEC: &str = "exec_timeout";
const READ: &str = "read_timeout";
const WRITE: &str = "write_timeout";

/// Nobody waits for longer. Also stands for no limit where there has to be one.
const LONGEST: Duration = Duration::from_hours(365 * 24);

const PINGS: [Duration; 2] = [Duration::from_secs(1), Duration::from_hours(1)];

/// How much more than the watchdog's own limit: what it says of its end is better than what we could say.
const MARGIN: Duration = Duration::from_secs(5);

/// The longest part of a value that an error repeats, in characters.
const MAX_SHOWN: usize = 64;

/// A limit that was given: `Some(None)` is that there is to be none.
type Given = Option<Option<Duration>>;

/// What a deployment says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Times {
    request: Given,
    request_body: Option<bool>,
    idle: Given,
    connect: Given,
    header: Given,
    lifetime: Given,
    token_grace: Given,
    keepalive: Given,
    max_message: Option<Option<u64>>,
    /// At least so long a request, and so long a silence of a body, because a watchdog allows for it.
    watchdog: [Given; 2],
}

impl Times {
    /// What a deployment says of all this.
    ///
    /// # Errors
    /// With every mistake in it, each named by its field.
    pub fn parse(deployment: &Deployment) -> Result<Self, Vec<String>> {
        let mut reader = Reader { deployment, mistakes: Vec::new() };
        let times = Self {
            request: reader.limit(REQUEST),
            request_body: reader.read(REQUEST_BODY, "true or false", |value| match value {
                "true" | "1" => Some(true),
                "false" | "0" => Some(false),
                _ => None,
            }),
            idle: reader.limit(IDLE),
            connect: reader.limit(CONNECT),
            header: reader.limit(HEADER),
            lifetime: reader.limit(LIFETIME),
            token_grace: reader.read(GRACE, "a duration such as 30s, or never", config::grace),
            keepalive: reader.read(KEEPALIVE, "a duration from 1s to 1h, or 0 for no pings", |value| {
                let every = units::duration(value).ok()?;
                let [least, most] = PINGS;
                (every.is_zero() || (least..=most).contains(&every)).then(|| given(every))
            }),
            max_message: reader.read(MAX_MESSAGE, "a size such as 65536 or 1Mi, or 0 for any", |value| {
                if value == "0" { Some(None) } else { units::memory(value).ok().map(Some) }
            }),
            watchdog: [longest([EXEC, WRITE], deployment), longest([READ, WRITE], deployment)],
        };
        if reader.mistakes.is_empty() { Ok(times) } else { Err(reader.mistakes) }
    }

    /// Is `name` a label or annotation that says nothing but this? Replicas that run see none of it.
    #[must_use]
    pub fn is_setting_name(name: &str) -> bool {
        NAMES.contains(&name)
    }

    /// The limits of a function for which `limits` hold where it says nothing.
    #[must_use]
    pub fn apply(&self, mut limits: UpstreamLimits) -> UpstreamLimits {
        let [request, idle] = self.watchdog;
        let times = &mut limits.timeouts;
        times.request = self.request.unwrap_or_else(|| longer(times.request, request));
        times.tunnel_idle = self.idle.unwrap_or(times.tunnel_idle);
        times.idle = self.idle.unwrap_or_else(|| longer(times.idle, idle));
        times.request_body = self.request_body.unwrap_or(times.request_body);
        times.connect = self.connect.map_or(times.connect, |limit| limit.unwrap_or(LONGEST));
        times.header = self.header.unwrap_or(times.header);
        times.lifetime = self.lifetime.unwrap_or(times.lifetime);
        times.token_grace = self.token_grace.unwrap_or(times.token_grace);
        let websocket = &mut limits.websocket;
        websocket.keepalive = self.keepalive.unwrap_or(websocket.keepalive);
        websocket.max_message = self.max_message.unwrap_or(websocket.max_message);
        limits
    }
}

/// What of a deployment's environment reads like a timeout and is none.
#[must_use]
pub fn unreadable(deployment: &Deployment) -> Vec<String> {
    let unread = |name: &&str| {
        let value = deployment.env_vars.get(*name).map_or("", |value| value.trim());
        !value.is_empty() && watchdog(value).is_none()
    };
    let warn = |name| format!("envVars.{name}: not heeded here: {}", units::UnitError::Duration);
    [EXEC, READ, WRITE].into_iter().filter(unread).map(warn).collect()
}

/// Zero is none.
fn given(limit: Duration) -> Option<Duration> {
    Some(limit).filter(|limit| !limit.is_zero())
}

/// The longest of what a watchdog is told, and a margin; nothing if it is told nothing.
fn longest(names: [&str; 2], deployment: &Deployment) -> Given {
    let told = names.iter().filter_map(|name| watchdog(deployment.env_vars.get(*name)?.trim()));
    told.map(|limit| limit.map(|limit| limit + MARGIN)).reduce(|one, other| longer(one, Some(other)))
}

fn watchdog(value: &str) -> Given {
    units::duration(value).ok().filter(|limit| *limit <= LONGEST).map(given)
}

/// The longer limit, none being the longest.
fn longer(limit: Option<Duration>, other: Given) -> Option<Duration> {
    match (limit, other) {
        (limit, None) => limit,
        (Some(limit), Some(Some(other))) => Some(limit.max(other)),
        (None, Some(_)) | (_, Some(None)) => None,
    }
}

/// Reads settings, and notes what is wrong with them.
struct Reader<'a> {
    deployment: &'a Deployment,
    mistakes: Vec<String>,
}

impl Reader<'_> {
    fn limit(&mut self, name: &str) -> Given {
        self.read(name, "a duration such as 90s or 1h30m, at most 8760h, or 0 for none", |value| {
            units::duration(value).ok().filter(|limit| *limit <= LONGEST).map(given)
        })
    }

    /// What a setting means; `None` if it is not given, or means nothing and was refused.
    fn read<T>(&mut self, name: &str, expected: &str, meaning: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let Deployment { annotations, labels, .. } = self.deployment;
        let (place, value) = match (annotations.get(name), labels.get(name)) {
            (Some(value), _) => ("annotations", value.trim()),
            (None, value) => ("labels", value?.trim()),
        };
        let meant = meaning(value);
        if meant.is_none() {
            let shown: String = value.chars().take(MAX_SHOWN).collect();
            self.mistakes.push(format!("{place}.{name}: {shown:?}: expected {expected}"));
        }
        meant
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(deployment: serde_json::Value) -> Result<UpstreamLimits, Vec<String>> {
        let deployment: Deployment = serde_json::from_value(deployment).unwrap();
        Times::parse(&deployment).map(|times| times.apply(UpstreamLimits::default()))
    }

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn nothing_said_means_what_the_host_says() {
        assert_eq!(read(json!({})).unwrap(), UpstreamLimits::default());
    }

    #[test]
    fn each_setting_is_read_and_an_annotation_goes_before_a_label() {
        let limits = read(json!({
            "labels": { REQUEST: "1", IDLE: "2m" },
            "annotations": {
                REQUEST: "48h", REQUEST_BODY: "true", CONNECT: "1.5s", HEADER: " 10s ", LIFETIME: "1h",
                KEEPALIVE: "25s", MAX_MESSAGE: "1Mi"
            }
        }))
        .unwrap();
        let times = limits.timeouts;
        assert_eq!((times.request, times.request_body), (Some(S(48 * 3600)), true));
        assert_eq!((times.idle, times.tunnel_idle), (Some(S(120)), Some(S(120))));
        assert_eq!((times.connect, times.header), (Duration::from_millis(1500), Some(S(10))));
        assert_eq!(times.lifetime, Some(S(3600)));
        assert_eq!(limits.websocket.keepalive, Some(S(25)));
        assert_eq!(limits.websocket.max_message, Some(1 << 20));
    }

    #[test]
    fn zero_is_none() {
        let names = NAMES.iter().filter(|name| **name != REQUEST_BODY).map(|name| (*name, "0"));
        let annotations: std::collections::BTreeMap<_, _> = names.collect();
        let limits = read(json!({ "annotations": annotations })).unwrap();
        let times = limits.timeouts;
        assert_eq!([times.request, times.idle, times.tunnel_idle, times.header, times.lifetime], [None; 5]);
        assert_eq!(times.connect, LONGEST);
        assert_eq!((limits.websocket.keepalive, limits.websocket.max_message), (None, None));
    }

    #[test]
    fn the_environment_makes_limits_longer_and_never_shorter_and_an_annotation_goes_before_it() {
        for (environment, request, idle) in [
            (json!({ EXEC: "10m" }), Some(605), Some(300)),
            (json!({ EXEC: "3600" }), Some(3605), Some(300)),
            (json!({ EXEC: "1m", READ: "1m", WRITE: "1m" }), Some(300), Some(300)),
            (json!({ EXEC: "1m", WRITE: "20m" }), Some(1205), Some(1205)),
            (json!({ READ: "20m" }), Some(300), Some(1205)),
            (json!({ EXEC: "0" }), None, Some(300)),
            (json!({ EXEC: "", READ: "soon", WRITE: "9000h" }), Some(300), Some(300)),
        ] {
            let times = read(json!({ "envVars": environment })).unwrap().timeouts;
            assert_eq!((times.request, times.idle), (request.map(S), idle.map(S)), "{environment}");
            assert_eq!(times.tunnel_idle, UpstreamLimits::default().timeouts.tunnel_idle);
            let annotations = json!({ REQUEST: "7", IDLE: "8" });
            let times = read(json!({ "envVars": environment, "annotations": annotations })).unwrap().timeouts;
            assert_eq!((times.request, times.idle), (Some(S(7)), Some(S(8))), "{environment}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name_and_of_the_environment_only_told() {
        let mistakes = read(json!({
            "labels": { REQUEST: "soon" },
            "annotations": { IDLE: "-1", KEEPALIVE: "10ms", MAX_MESSAGE: "big", REQUEST_BODY: "maybe", LIFETIME: "8761h" }
        }))
        .unwrap_err();
        for mistake in [
            "labels.roost.timeout.request: \"soon\": expected a duration such as 90s or 1h30m, at most 8760h, or 0 for none",
            "annotations.roost.timeout.idle: \"-1\": expected a duration",
            "annotations.roost.timeout.lifetime: \"8761h\": expected a duration",
            "annotations.roost.timeout.request-body: \"maybe\": expected true or false",
            "annotations.roost.websocket.keepalive: \"10ms\": expected a duration from 1s to 1h, or 0 for no pings",
            "annotations.roost.websocket.max-message: \"big\": expected a size such as 65536 or 1Mi, or 0 for any",
        ] {
            assert!(mistakes.iter().any(|one| one.starts_with(mistake)), "{mistake} in {mistakes:#?}");
        }
        assert_eq!(mistakes.len(), 6);
        let deployment: Deployment =
            serde_json::from_value(json!({ "envVars": { EXEC: "soon", READ: "10s", WRITE: "" } })).unwrap();
        let warnings = unreadable(&deployment);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].starts_with("envVars.exec_timeout: not heeded here: expected a duration"));
    }
}
