//! What was sent with a deployment and has no effect here: said in the status, never an error.
//!
//! Pure. Owns the list of fields that a deployment has, and of those that mean nothing on one machine.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;

use crate::function::access::{AUTH, CLAIMS, INTERNAL};
use crate::function::bounds;
use crate::function::compression::COMPRESSION;
use crate::function::domains::DOMAIN;
use crate::function::event_mode;
use crate::function::grants::{DEVICE, MOUNT};
use crate::function::protocol::PROTOCOL;
use crate::function::record::Revision;
use crate::function::spec::Deployment;
use crate::function::timeouts::{self, Times};
use crate::lambda::setting::{self as lambda, LAMBDA};
use crate::queue;
use crate::scaling::{Policy, labels};
use crate::triggers::{schedule, topics};

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

/// Labels and annotations of other OpenFaaS hosts, and what becomes of them.
const FOREIGN: [(&str, &str); 3] = [
    ("com.openfaas.profile", "ignored: Roost has no profiles"),
    ("com.openfaas.serviceaccount", "ignored: Roost has no service accounts"),
    ("com.openfaas.queue", "ignored: there is one queue"),
];

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
        if let Some((_, becomes)) = FOREIGN.iter().find(|(foreign, _)| *foreign == name) {
            warnings.push(format!("{name}: {becomes}"));
        }
    }
    warnings.extend(without_effect(&revision.deployment));
    warnings.extend(without_clock(&revision.deployment));
    warnings.extend(event_mode::without_effect(&revision.deployment));
    warnings.extend(lambda::without_effect(&revision.deployment));
    warnings.extend(timeouts::unreadable(&revision.deployment));
    let known = |name: &str| {
        [AUTH, CLAIMS, DOMAIN, INTERNAL].contains(&name)
            || [MOUNT, DEVICE].iter().any(|p| name.starts_with(p))
            || bounds::NAMES.contains(&name)
            || Policy::is_setting_name(name)
            || Times::is_setting_name(name)
            || queue::Policy::is_setting_name(name)
            || event_mode::is_setting_name(name)
            || [COMPRESSION, LAMBDA, PROTOCOL].contains(&name)
            || schedule::NAMES.contains(&name)
    };
    let names = revision.deployment.settings().into_keys();
    let unknown = names.filter(|name| name.starts_with(OURS) && !known(name)).take(MAX_FIELDS);
    warnings.extend(unknown.map(|name| {
        let name: String = name.chars().take(MAX_NAME).collect();
        format!("{name}: ignored: Roost has no setting of this name")
    }));
    warnings
}

/// What says how a function is scaled that is not scaled so.
fn without_effect(deployment: &Deployment) -> Vec<String> {
    // What cannot be read is said elsewhere.
    let Ok(policy) = Policy::parse(deployment) else { return Vec::new() };
    let load = [labels::TYPE, labels::TARGET, labels::PROPORTION, labels::WINDOW].as_slice();
    let no_load = format!("nothing is scaled by load unless {} is above {}", labels::MAX, labels::MIN);
    let zero = [labels::ZERO_DURATION, labels::IDLE].as_slice();
    let no_zero = format!("{} is not true", labels::ZERO);
    let settings = deployment.settings();
    [(policy.load.is_none(), load, no_load), (policy.zero.is_none(), zero, no_zero)]
        .iter()
        .filter(|(without, ..)| *without)
        .flat_map(|(_, names, why)| names.iter().map(move |name| (*name, why)))
        .filter(|(name, _)| settings.contains_key(name))
        .map(|(name, why)| format!("{name}: no effect: {why}"))
        .collect()
}

/// What says when a function is called that is not called by the clock.
fn without_clock(deployment: &Deployment) -> Vec<String> {
    if topics::has_clock(deployment) {
        return Vec::new();
    }
    let settings = deployment.settings();
    let given = schedule::NAMES.into_iter().filter(|name| settings.contains_key(name));
    let given = deployment
        .annotations
        .contains_key(schedule::SCHEDULE)
        .then_some(schedule::SCHEDULE)
        .into_iter()
        .chain(given);
    given.map(|name| format!("{name}: no effect: {} is not {}", topics::TOPIC, topics::CLOCK)).collect()
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
            "annotations": {"com.openfaas.profile": "p", "topic": "t", "roost.internl": "true", "roost.internal": "true", "roost.limit.body": "1MiB", "com.openfaas.retry.attempts": "3",
                "roost.queue.concurrency": "2", "roost.queue.results": "1h",
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
            "com.openfaas.serviceaccount",
            "roost.internl",
        ];
        assert_eq!(named, expected);
    }

    #[test]
    fn what_says_how_to_scale_has_to_go_with_what_says_that_it_is_scaled() {
        let warnings = |labels: serde_json::Value| {
            let deployment = serde_json::from_value(json!({"service": "f", "image": "i", "labels": labels}));
            of(&Revision::new(deployment.unwrap()))
        };
        let alone = json!({"com.openfaas.scale.type": "cpu", "com.openfaas.scale.down.window": "1m",
            "com.openfaas.scale.zero-duration": "5m", "roost.scale.idle": "traffic"});
        let named = warnings(alone).join("\n");
        for line in [
            "com.openfaas.scale.type: no effect: nothing is scaled by load unless com.openfaas.scale.max is above",
            "com.openfaas.scale.down.window: no effect",
            "com.openfaas.scale.zero-duration: no effect: com.openfaas.scale.zero is not true",
            "roost.scale.idle: no effect",
        ] {
            assert!(named.contains(line), "{line} in {named}");
        }
        let together = json!({"com.openfaas.scale.type": "cpu", "com.openfaas.scale.max": "2", "com.openfaas.scale.zero": "true",
            "com.openfaas.scale.zero-duration": "5m", "roost.queue.wait": "1s", "roost.idle.state": "paused"});
        assert_eq!(warnings(together), [""; 0]);
        assert_eq!(
            warnings(json!({"com.openfaas.scale.max": "2", "com.openfaas.scale.down.window": "off"})),
            [""; 0]
        );
        assert_eq!(
            warnings(json!({"roost.scale.key": "path[1]", "com.openfaas.scale.zero-duration": "5m"})),
            [""; 0]
        );
    }

    #[test]
    fn a_schedule_has_no_effect_without_the_clocks_topic() {
        let warnings = |topic: &str| {
            let annotations = json!({"topic": topic, "schedule": "@daily", "roost.schedule.missed": "skip"});
            let deployment =
                serde_json::from_value(json!({"service": "f", "image": "i", "annotations": annotations}));
            of(&Revision::new(deployment.unwrap()))
        };
        assert_eq!(warnings("a,cron-function"), [""; 0]);
        let named = warnings("a");
        assert_eq!(named.len(), 2, "{named:?}");
        assert_eq!(named[0], "schedule: no effect: topic is not cron-function");
    }

    #[test]
    fn no_number_and_no_length_of_unknown_fields_is_too_much() {
        let many: serde_json::Map<_, _> =
            (0..1000).map(|n| (format!("{}{n}", "x".repeat(1000)), json!(n))).collect();
        let unknown = unknown_fields(json!(many).to_string().as_bytes());
        assert_eq!((unknown.len(), unknown[0].len()), (MAX_FIELDS, MAX_NAME));
    }
}
