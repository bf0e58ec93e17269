//! What was sent with a deployment and has no effect here: said in the status, never an error.
//!
//! Pure. Owns the list of fields that a deployment has, and of those that mean nothing on one machine.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;

use crate::function::access::{AUTH, INTERNAL};
use crate::function::grants::{DEVICE, MOUNT};
use crate::function::record::Revision;
use crate::function::spec::Deployment;

/// The fields of a deployment.
const FIELDS: [&str; 12] = [
    "service",
    "image",
    "namespace",
    "envProcess",
    "envVars",
    "constraints",
    "secrets",
    "labels",
    "annotations",
    "limits",
    "requests",
    "readOnlyRootFilesystem",
];

/// Labels and annotations of other OpenFaaS hosts, and what becomes of them. A dot at the end stands for all that begin so.
const FOREIGN: [(&str, &str); 12] = [
    ("com.openfaas.profile", "ignored: Roost has no profiles"),
    ("com.openfaas.serviceaccount", "ignored: Roost has no service accounts"),
    ("com.openfaas.queue", "ignored: there is one queue"),
    ("com.openfaas.retry.", "ignored: failed calls are not repeated yet"),
    ("com.openfaas.scale.zero", NO_IDLE),
    ("com.openfaas.scale.zero-duration", NO_IDLE),
    ("com.openfaas.scale.type", NO_LOAD),
    ("com.openfaas.scale.target", NO_LOAD),
    ("com.openfaas.scale.target-proportion", NO_LOAD),
    ("com.openfaas.scale.down.window", NO_LOAD),
    ("com.openfaas.scale.max", ALERTS),
    ("com.openfaas.scale.factor", ALERTS),
];

const NO_IDLE: &str = "ignored: what is idle is not scaled to zero yet";
const NO_LOAD: &str = "ignored: nothing is scaled by load yet, but for alerts (POST /system/alert)";
const ALERTS: &str = "counts for alerts (POST /system/alert) only: nothing is scaled by load yet";

/// What names of ours begin with. Others may think of what they like; a misspelt one of these opens a function.
const OURS: &str = "roost.";

/// How many unknown fields are told of, and how much of the name of each, in characters.
const MAX_FIELDS: usize = 32;
const MAX_NAME: usize = 64;

/// The names of the fields of a deployment's JSON that are none of a deployment. What is no object has none.
#[must_use]
pub fn unknown_fields(body: &[u8]) -> Vec<String> {
    let fields: BTreeMap<String, IgnoredAny> = serde_json::from_slice(body).unwrap_or_default();
    let unknown = fields.into_keys().filter(|name| !FIELDS.contains(&name.as_str()));
    unknown.take(MAX_FIELDS).map(|name| name.chars().take(MAX_NAME).collect()).collect()
}

/// What of a revision has no effect.
#[must_use]
pub fn of(revision: &Revision) -> Vec<String> {
    let Deployment { constraints, requests, limits, .. } = &revision.deployment;
    let mut warnings: Vec<String> = revision
        .ignored
        .iter()
        .map(|field| format!("{field}: ignored: not a field of a deployment"))
        .collect();
    if !constraints.is_empty() {
        warnings.push("constraints: ignored: there is one machine".to_owned());
    }
    if requests.is_some() {
        warnings.push("requests: ignored: nothing is reserved on one machine; set limits".to_owned());
    }
    for resource in limits.iter().flat_map(|limits| limits.others.keys()) {
        warnings.push(format!("limits.{resource}: ignored: expected memory or cpu"));
    }
    for name in revision.deployment.settings().into_keys() {
        let ignored = |(foreign, _): &&(&str, &str)| {
            *foreign == name || (foreign.ends_with('.') && name.starts_with(foreign))
        };
        if let Some((_, becomes)) = FOREIGN.iter().find(ignored) {
            let name: String = name.chars().take(MAX_NAME).collect();
            warnings.push(format!("{name}: {becomes}"));
        }
    }
    let known =
        |name: &str| [AUTH, INTERNAL].contains(&name) || [MOUNT, DEVICE].iter().any(|p| name.starts_with(p));
    let names = revision.deployment.settings().into_keys();
    let unknown = names.filter(|name| name.starts_with(OURS) && !known(name)).take(MAX_FIELDS);
    warnings.extend(unknown.map(|name| {
        let name: String = name.chars().take(MAX_NAME).collect();
        format!("{name}: ignored: expected {AUTH}, {INTERNAL}, {MOUNT}… or {DEVICE}…")
    }));
    warnings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_has_no_effect_is_told_and_what_has_is_not() {
        let sent = json!({
            "service": "f", "image": "i", "namespace": "n", "envProcess": "p", "envVars": {"A": "b"},
            "constraints": ["a"], "secrets": ["s"], "labels": {"com.openfaas.serviceaccount": "s", "com.openfaas.scale.min": "2",
                "com.openfaas.scale.max": "9", "com.openfaas.scale.zero": "true", "com.openfaas.scale.zero-duration": "5m"},
            "annotations": {"com.openfaas.profile": "p", "topic": "t", "roost.internl": "true", "roost.internal": "true", "com.openfaas.retry.attempts": "3",
                "com.openfaas.queue": "q", "com.openfaas.scale.zero": "true"},
            "limits": {"memory": "5Mi", "nvidia.com/gpu": "1"}, "requests": {"memory": "1Mi"},
            "readOnlyRootFilesystem": true, "network": "n", "registryAuth": null,
        });
        let deployment: Deployment = serde_json::from_value(sent.clone()).unwrap();
        // Every field of a deployment is known, so only these two are not.
        let kept = serde_json::to_vec(&deployment).unwrap();
        assert_eq!(unknown_fields(&kept), Vec::<String>::new());
        let mut revision = Revision::new(deployment);
        revision.ignored = unknown_fields(sent.to_string().as_bytes());
        let warnings = of(&revision);
        let named: Vec<_> = warnings.iter().map(|text| text.split_once(": ").unwrap().0).collect();
        let expected = [
            "network",
            "registryAuth",
            "constraints",
            "requests",
            "limits.nvidia.com/gpu",
            "com.openfaas.profile",
            "com.openfaas.queue",
            "com.openfaas.retry.attempts",
            "com.openfaas.scale.max",
            "com.openfaas.scale.zero",
            "com.openfaas.scale.zero-duration",
            "com.openfaas.serviceaccount",
            "roost.internl",
        ];
        assert_eq!(named, expected);
        let partly = warnings.iter().filter(|text| !text.contains(": ignored: ")).collect::<Vec<_>>();
        assert_eq!(partly, [&format!("com.openfaas.scale.max: {ALERTS}")]);
    }

    #[test]
    fn no_number_and_no_length_of_unknown_fields_is_too_much() {
        let many: serde_json::Map<_, _> =
            (0..1000).map(|n| (format!("{}{n}", "x".repeat(1000)), json!(n))).collect();
        let unknown = unknown_fields(json!(many).to_string().as_bytes());
        assert_eq!((unknown.len(), unknown[0].len()), (MAX_FIELDS, MAX_NAME));
    }
}
