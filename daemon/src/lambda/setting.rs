//! Whether a function is a Lambda function, as a deployment says it.
//!
//! Owns the annotation `roost.lambda`, and what has no effect beside it. A label of this name counts the same; an annotation
//! goes before a label. A change of it replaces the replicas. Pure.

use std::time::Duration;

use roost_proxy::UpstreamLimits;

use crate::function::protocol;
use crate::function::spec::Deployment;
use crate::function::timeouts::Times;

/// The name of the setting.
pub const LAMBDA: &str = "roost.lambda";

/// How long a handler is told that it has where its function has no limit: the longest at AWS.
const LONGEST: Duration = Duration::from_mins(15);

/// What begins the names of probes, which ask port 8080.
const PROBES: [&str; 2] = ["com.openfaas.ready.http.", "com.openfaas.health.http."];

/// How the replicas of a Lambda function are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lambda {
    /// How long a handler has for one event.
    pub timeout: Duration,
}

impl Lambda {
    /// What a deployment asks for, where `limits` hold for functions that say nothing; `None` if it is an ordinary
    /// function, or says what nobody understands.
    #[must_use]
    pub fn of(deployment: &Deployment, limits: UpstreamLimits) -> Option<Self> {
        is_asked_for(deployment).then(|| {
            let times = Times::parse(deployment).unwrap_or_default();
            Self { timeout: times.apply(limits).timeouts.request.unwrap_or(LONGEST) }
        })
    }
}

/// Does it say `runtime-api`?
#[must_use]
pub fn is_asked_for(deployment: &Deployment) -> bool {
    matches!(parse(deployment), Ok(true))
}

/// What a deployment says.
///
/// # Errors
/// When it says something else, named by its field, or together with what cannot be.
pub fn parse(deployment: &Deployment) -> Result<bool, String> {
    let settings = deployment.settings();
    let kind = if deployment.annotations.contains_key(LAMBDA) { "annotations" } else { "labels" };
    match settings.get(LAMBDA).map(|value| value.trim()) {
        None | Some("off") => Ok(false),
        Some("runtime-api")
            if settings.get(protocol::PROTOCOL).is_some_and(|value| value.trim() != "http") =>
        {
            Err(format!("{kind}.{LAMBDA}: cannot be together with {}", protocol::PROTOCOL))
        }
        Some("runtime-api") => Ok(true),
        Some(other) => {
            let shown: String = other.chars().take(64).collect();
            Err(format!("{kind}.{LAMBDA}: {shown:?}: expected runtime-api or off"))
        }
    }
}

/// What of a deployment has no effect because nothing of a replica listens.
#[must_use]
pub fn without_effect(deployment: &Deployment) -> Vec<String> {
    if !is_asked_for(deployment) {
        return Vec::new();
    }
    let names = deployment.settings().into_keys();
    let probes = names.filter(|name| PROBES.iter().any(|prefix| name.starts_with(prefix)));
    probes.map(|name| format!("{name}: no effect: with {LAMBDA} a replica is asked for nothing")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(annotations: &serde_json::Value) -> Deployment {
        serde_json::from_value(json!({ "service": "f", "image": "i", "annotations": annotations })).unwrap()
    }

    #[test]
    fn a_function_is_an_ordinary_one_unless_it_says_otherwise() {
        for (annotations, expected) in [
            (json!({}), Ok(false)),
            (json!({ LAMBDA: "off" }), Ok(false)),
            (json!({ LAMBDA: " runtime-api " }), Ok(true)),
            (json!({ LAMBDA: "runtime-api", "roost.protocol": "http" }), Ok(true)),
            (
                json!({ LAMBDA: "true" }),
                Err("annotations.roost.lambda: \"true\": expected runtime-api or off"),
            ),
            (
                json!({ LAMBDA: "runtime-api", "roost.protocol": "h2c" }),
                Err("annotations.roost.lambda: cannot be together with roost.protocol"),
            ),
        ] {
            assert_eq!(parse(&deployment(&annotations)), expected.map_err(str::to_owned));
        }
    }

    #[test]
    fn a_handler_has_as_long_as_a_request_of_its_function_may_take() {
        let limits = |request| {
            let mut limits = UpstreamLimits::default();
            limits.timeouts.request = request;
            limits
        };
        let timeout = |annotations: serde_json::Value, request| {
            Lambda::of(&deployment(&annotations), limits(request)).map(|lambda| lambda.timeout.as_secs())
        };
        let minute = Some(Duration::from_mins(1));
        assert_eq!(timeout(json!({}), minute), None);
        assert_eq!(timeout(json!({ LAMBDA: "runtime-api" }), minute), Some(60));
        assert_eq!(timeout(json!({ LAMBDA: "runtime-api", "roost.timeout.request": "5s" }), minute), Some(5));
        assert_eq!(timeout(json!({ LAMBDA: "runtime-api" }), None), Some(900));
    }

    #[test]
    fn probes_have_no_effect_where_nothing_listens() {
        let probed = json!({ "com.openfaas.ready.http.path": "/up", LAMBDA: "runtime-api" });
        let [warning] = &*without_effect(&deployment(&probed)) else { panic!("one warning") };
        assert!(warning.starts_with("com.openfaas.ready.http.path: no effect"), "{warning}");
        assert!(without_effect(&deployment(&json!({ "com.openfaas.ready.http.path": "/up" }))).is_empty());
    }
}
