//! What a user asks for: the deployment as it was sent, and the function that it describes.
//!
//! Owns the JSON of a deployment and every rule about what is valid in it. Validation reports all mistakes at
//! once, each with the name of its field. Nothing here looks at the host.

use std::collections::BTreeMap;
use std::fmt;

use roost_proxy::Access;
use roost_proxy::function::{FunctionKey, FunctionName, Namespace};
use serde::{Deserialize, Deserializer, Serialize};

use crate::function::bounds::Said;
use crate::function::domains;
use crate::function::grants::Wishes;
use crate::function::liveness::Liveness;
use crate::function::readiness::Probe;
use crate::function::timeouts::Times;
use crate::function::{access, compression, event_mode, protocol};
use crate::image::Reference;
use crate::lambda;
use crate::queue;
use crate::runtime::Limits;
use crate::scaling::Policy;
use crate::triggers::{schedule, topics};
use crate::units;

/// How many replicas a function may have. One machine, and each replica takes an address and a process.
pub const MAX_REPLICAS: u32 = 500;

/// The longest key or value of a label or an annotation, in bytes. Any text will do.
const MAX_TEXT: usize = 64 << 10;

/// The body of `POST` and `PUT /system/functions`, kept as it was sent so that it can be echoed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Deployment {
    /// The function's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// The image reference, as written.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// The namespace; empty for the default one.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Becomes `fprocess` in the environment.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "String::is_empty")]
    pub env_process: String,
    /// The environment.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "BTreeMap::is_empty")]
    pub env_vars: BTreeMap<String, String>,
    /// Kept and echoed; one machine has nothing to choose from.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<String>,
    /// Names of secrets.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// Labels.
    #[serde(deserialize_with = "null_is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What a replica may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Resources>,
    /// What a replica would like to have: kept and echoed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<Resources>,
    /// Is the root file system read-only, with a writable `/tmp`?
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "std::ops::Not::not")]
    pub read_only_root_filesystem: bool,
}

/// Amounts as Kubernetes writes them, kept in the spelling they were sent in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Such as `128Mi`.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "String::is_empty")]
    pub memory: String,
    /// Such as `100m`.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "String::is_empty")]
    pub cpu: String,
    /// What else was sent, such as `nvidia.com/gpu`: kept and echoed.
    #[serde(flatten)]
    pub others: BTreeMap<String, serde_json::Value>,
}

/// Official clients send a literal `null` for what the user did not set.
pub(super) fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Deployment {
    /// What its labels and annotations say to the host. An annotation goes before a label of the same name.
    #[must_use]
    pub fn settings(&self) -> BTreeMap<&str, &str> {
        let all = self.labels.iter().chain(&self.annotations);
        all.map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }
}

/// A valid function: a deployment with everything in it that Roost acts on, parsed.
#[derive(Debug, Clone)]
pub struct FunctionSpec {
    /// Which function.
    pub key: FunctionKey,
    /// Its image.
    pub image: Reference,
    /// What a replica may use.
    pub limits: Limits,
    /// How a replica shows that it is ready.
    pub probe: Probe,
    /// How it shows that it still lives, if it is asked.
    pub liveness: Option<Liveness>,
    /// What of the host it asks for.
    pub wishes: Wishes,
    /// What is asked of its callers.
    pub access: Access,
    /// The hosts that are all its own.
    pub domains: Vec<String>,
    /// How it is scaled.
    pub policy: Policy,
    /// What was sent.
    pub deployment: Deployment,
    /// The names of fields that were sent and are none of a deployment.
    pub ignored: Vec<String>,
}

/// Everything that is wrong with a deployment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Invalid(Vec<String>);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl FunctionSpec {
    /// Checks a deployment.
    ///
    /// # Errors
    /// With every mistake in it, each named by its field.
    pub fn parse(deployment: Deployment) -> Result<Self, Invalid> {
        let mut mistakes = Mistakes::default();
        let name = mistakes.take("service", required(&deployment.service).and_then(parsed::<FunctionName>));
        let namespace = mistakes.take("namespace", parse_namespace(&deployment.namespace));
        let image = mistakes.take("image", required(&deployment.image).and_then(parsed::<Reference>));
        let limits = parse_limits(&mut mistakes, "limits", deployment.limits.as_ref());
        parse_limits(&mut mistakes, "requests", deployment.requests.as_ref());
        let probe = mistakes.take("annotations", Probe::parse(&deployment.settings()));
        let liveness = mistakes.take("annotations", Liveness::parse(&deployment.settings()));
        let wishes = Wishes::parse(&deployment.settings()).unwrap_or_else(|why| {
            mistakes.0.extend(why.into_iter().map(|why| format!("annotations.{why}")));
            Wishes::default()
        });
        let access = access::parse(&deployment).unwrap_or_else(|why| {
            mistakes.0.extend(why);
            Access::STRICTEST
        });
        let domains = domains::parse(&deployment.settings()).unwrap_or_else(|why| {
            mistakes.add(format!("annotations.{why}"));
            Vec::new()
        });
        mistakes.0.extend(Said::parse(&deployment).err().into_iter().flatten());
        let policy = Policy::parse(&deployment).map_err(|why| mistakes.0.extend(why)).ok();
        if let Err(why) = Times::parse(&deployment) {
            mistakes.0.extend(why);
        }
        mistakes.0.extend(queue::Policy::parse(&deployment).err().into_iter().flatten());
        mistakes.0.extend(compression::parse(&deployment).err());
        mistakes.0.extend(event_mode::parse(&deployment).err().into_iter().flatten());
        mistakes.0.extend(protocol::parse(&deployment).err());
        mistakes.0.extend(lambda::setting::parse(&deployment).err());
        mistakes.0.extend(topics::parse(&deployment).err().into_iter().flatten());
        mistakes.0.extend(schedule::parse(&deployment).err().into_iter().flatten());
        check_environment(&mut mistakes, &deployment.env_process, &deployment.env_vars);
        mistakes.0.extend(check_texts("labels", &deployment.labels));
        mistakes.0.extend(check_texts("annotations", &deployment.annotations));
        match (name, namespace, image, probe, liveness, policy) {
            (Some(name), Some(namespace), Some(image), Some(probe), Some(liveness), Some(policy))
                if mistakes.0.is_empty() =>
            {
                let key = FunctionKey::new(namespace, name);
                Ok(Self {
                    key,
                    image,
                    limits,
                    probe,
                    liveness,
                    wishes,
                    access,
                    domains,
                    policy,
                    deployment,
                    ignored: Vec::new(),
                })
            }
            _ => Err(Invalid(mistakes.0)),
        }
    }

    /// Checks a deployment that is sent now, also for what was once let through and is still in stores.
    ///
    /// # Errors
    /// With every mistake in it, each named by its field.
    pub fn parse_sent(deployment: Deployment) -> Result<Self, Invalid> {
        let fields = [("limits", &deployment.limits), ("requests", &deployment.requests)];
        let odd: Vec<_> =
            fields.iter().flat_map(|(field, amounts)| not_texts(field, amounts.as_ref())).collect();
        match Self::parse(deployment) {
            Ok(spec) if odd.is_empty() => Ok(spec),
            Ok(_) => Err(Invalid(odd)),
            Err(Invalid(mistakes)) => Err(Invalid([mistakes, odd].concat())),
        }
    }

    /// The environment of a replica, without the image's own: what the user set, and who the function is.
    #[must_use]
    pub fn environment(&self) -> BTreeMap<String, String> {
        let mut environment = BTreeMap::from([
            ("OPENFAAS_NAME".to_owned(), self.key.name.to_string()),
            ("OPENFAAS_NAMESPACE".to_owned(), self.key.namespace.to_string()),
        ]);
        if !self.deployment.env_process.is_empty() {
            environment.insert("fprocess".to_owned(), self.deployment.env_process.clone());
        }
        environment.extend(self.deployment.env_vars.iter().map(|(k, v)| (k.clone(), v.clone())));
        environment
    }
}

/// Mistakes found so far.
#[derive(Default)]
struct Mistakes(Vec<String>);

impl Mistakes {
    fn add(&mut self, text: String) {
        self.0.push(text);
    }

    /// The value, or `None` with the mistake noted under its field's name.
    fn take<T>(&mut self, field: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|why| self.add(format!("{field}: {why}"))).ok()
    }
}

fn required(text: &str) -> Result<&str, String> {
    if text.is_empty() { Err("is required".to_owned()) } else { Ok(text) }
}

fn parsed<T: std::str::FromStr<Err: fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|why: T::Err| why.to_string())
}

/// Reads a namespace as the API's calls name it: empty for the default one. Whether it exists is for the registry.
///
/// # Errors
/// When it is not a name.
pub fn parse_namespace(text: &str) -> Result<Namespace, String> {
    if text.is_empty() { Ok(Namespace::default()) } else { parsed(text) }
}

fn parse_limits(mistakes: &mut Mistakes, field: &str, resources: Option<&Resources>) -> Limits {
    let amount = |text: &str, read: fn(&str) -> Result<u64, units::UnitError>| {
        if text.is_empty() {
            Ok(None)
        } else {
            read(text).map(Some).map_err(|why| format!("{text:?}: {why}"))
        }
    };
    let Some(resources) = resources else { return Limits::default() };
    let memory = mistakes.take(&format!("{field}.memory"), amount(&resources.memory, units::memory));
    let cpu = mistakes.take(&format!("{field}.cpu"), amount(&resources.cpu, units::cpu_millis));
    Limits { memory_bytes: memory.flatten(), cpu_millis: cpu.flatten() }
}

/// Amounts of other resources that are no texts: clients that read functions expect texts.
fn not_texts(field: &str, resources: Option<&Resources>) -> Vec<String> {
    let others = resources.into_iter().flat_map(|resources| &resources.others);
    let odd = others.filter(|(_, amount)| !amount.is_string() && !amount.is_null());
    odd.map(|(name, _)| format!("{field}.{name}: expected a text, such as \"1\"")).collect()
}

/// What is wrong with the labels or annotations of a function or a namespace.
pub(super) fn check_texts(field: &str, texts: &BTreeMap<String, String>) -> impl Iterator<Item = String> {
    let wrong =
        |(key, value): &(&String, &String)| key.is_empty() || key.len() > MAX_TEXT || value.len() > MAX_TEXT;
    texts.iter().filter(wrong).map(move |(key, _)| {
        let key: String = key.chars().take(64).collect();
        format!("{field}.{key}: expected a key, and at most {MAX_TEXT} bytes in each, it and its value")
    })
}

fn check_environment(
    mistakes: &mut Mistakes,
    environment_process: &str,
    environment: &BTreeMap<String, String>,
) {
    if environment_process.contains('\0') {
        mistakes.add("envProcess: cannot hold a NUL byte".to_owned());
    }
    for (key, value) in environment {
        if key.is_empty() || key.contains(['=', '\0']) {
            mistakes.add(format!(
                "envVars.{}: a variable's name cannot be empty or hold '='",
                key.escape_debug()
            ));
        }
        if value.contains('\0') {
            mistakes.add(format!("envVars.{}: a variable cannot hold a NUL byte", key.escape_debug()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: serde_json::Value) -> Result<FunctionSpec, String> {
        let deployment: Deployment = serde_json::from_value(value).map_err(|e| e.to_string())?;
        FunctionSpec::parse(deployment).map_err(|e| e.to_string())
    }

    #[test]
    fn nulls_are_accepted_where_official_clients_send_them() {
        let spec = parse(json!({
            "service": "f", "image": "busybox", "labels": null, "annotations": null, "envVars": null,
            "secrets": null, "constraints": null, "namespace": null, "limits": null, "network": "old", "registryAuth": ""
        }))
        .unwrap();
        assert_eq!(spec.key.to_string(), "f.openfaas-fn");
    }

    #[test]
    fn what_was_not_set_is_not_echoed_and_what_was_set_is_echoed_as_sent() {
        let sent = json!({
            "service": "f", "image": "busybox", "labels": {}, "annotations": {"note": "a\nb"},
            "limits": {"memory": "5Mi", "cpu": "100m"}, "envVars": {"A": "b=c"}
        });
        assert_eq!(serde_json::to_value(parse(sent.clone()).unwrap().deployment).unwrap(), sent);
    }

    #[test]
    fn amounts_are_texts_when_they_are_sent_and_what_is_stored_is_still_read() {
        let sent = json!({
            "service": "f", "image": "i", "limits": {"nvidia.com/gpu": 1, "amd.com/gpu": "1", "x": null},
            "requests": {"y": {}}
        });
        let deployment: Deployment = serde_json::from_value(sent.clone()).unwrap();
        let refused = FunctionSpec::parse_sent(deployment.clone()).unwrap_err().to_string();
        let expected = "limits.nvidia.com/gpu: expected a text, such as \"1\"; requests.y: expected a text, such as \"1\"";
        assert_eq!(refused, expected);
        assert_eq!(
            serde_json::to_value(FunctionSpec::parse(deployment).unwrap().deployment).unwrap()["limits"],
            sent["limits"]
        );
        let wrong = json!({ "service": "F", "image": "i", "limits": {"x": 1} });
        let refused =
            FunctionSpec::parse_sent(serde_json::from_value(wrong).unwrap()).unwrap_err().to_string();
        assert!(refused.starts_with("service: ") && refused.contains("; limits.x: "), "{refused}");
    }

    #[test]
    fn labels_and_annotations_hold_any_text_of_64_kib() {
        let fits = "\u{0}\n\u{fc}".repeat(16 << 10);
        assert_eq!(fits.len(), MAX_TEXT);
        for field in ["labels", "annotations"] {
            let sent =
                |key: &str, value: &str| json!({ "service": "f", "image": "i", field: { key: value } });
            assert_eq!(parse(sent("k", &fits)).err(), None);
            assert_eq!(parse(sent(&fits, "")).err(), None);
            for (key, value) in [("", "v"), ("k", &format!("{fits}x")), (&format!("{fits}x"), "v")] {
                assert!(parse(sent(key, value)).unwrap_err().starts_with(&format!("{field}.")));
            }
        }
    }

    #[test]
    fn all_mistakes_are_reported_at_once_with_their_fields() {
        let text = parse(json!({
            "service": "Bad_Name", "image": "", "namespace": "No_Where", "limits": {"memory": "lots", "cpu": "-1"},
            "envVars": {"A=B": "x"}, "labels": {"com.openfaas.scale.min": "0", "roost.internal": "1", "com.openfaas.scale.zero": "maybe"},
            "annotations": {"roost.auth": "token", "roost.domain": "localhost", "roost.drain": "a day", "roost.compression": "br",
                "roost.protocol": "grpc"}
        }))
        .unwrap_err();
        for field in [
            "service:",
            "image: is required",
            "namespace:",
            "limits.memory:",
            "limits.cpu:",
            "envVars.A=B:",
            "labels.com.openfaas.scale.min: \"0\": expected a number from 1 to 500",
            "labels.com.openfaas.scale.zero: \"maybe\": expected true or false",
            "annotations.roost.drain:",
            "annotations.roost.compression: \"br\": expected gzip or off",
            "annotations.roost.protocol: \"grpc\": expected http or h2c",
            "annotations.roost.domain: \"localhost\":",
            "labels.roost.internal:",
            "annotations.roost.auth: \"token\": expected none, basic or jwt",
        ] {
            assert!(text.contains(field), "{field} in {text}");
        }
    }

    #[test]
    fn the_environment_names_the_function_and_an_explicit_variable_wins() {
        let spec = parse(json!({
            "service": "f", "image": "busybox", "envProcess": "cat", "envVars": {"fprocess": "sort", "A": "1"}
        }))
        .unwrap();
        let environment = spec.environment();
        assert_eq!(environment["fprocess"], "sort");
        assert_eq!(environment["OPENFAAS_NAMESPACE"], "openfaas-fn");
    }
}
