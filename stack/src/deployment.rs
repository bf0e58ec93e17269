//! A deployment as a stack file can tell it, and as the API's JSON carries it.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

/// Names and texts.
pub type Map = BTreeMap<String, String>;

/// What is to run: the body of a deploy. Fields that were not given are not written.
///
/// It also reads what the API tells of a function, which says `name` where a deploy says `service`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Deployment {
    /// The function's name.
    #[serde(alias = "name")]
    pub service: String,
    /// The image, as written.
    pub image: String,
    /// The namespace; none for the default one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// What a watchdog runs for each request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env_process: Option<String>,
    /// The environment.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Map::is_empty")]
    pub env_vars: Map,
    /// Rules of placement, for hosts that have a choice.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<String>,
    /// Names of secrets.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// Labels.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Map::is_empty")]
    pub labels: Map,
    /// Annotations.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Map::is_empty")]
    pub annotations: Map,
    /// What a replica may use, in Kubernetes' notation: `memory` such as `128Mi`, `cpu` such as `100m`.
    #[serde(deserialize_with = "amounts", skip_serializing_if = "Map::is_empty")]
    pub limits: Map,
    /// What a replica would like to have, in the same notation.
    #[serde(deserialize_with = "amounts", skip_serializing_if = "Map::is_empty")]
    pub requests: Map,
    /// Is the root file system read-only?
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "std::ops::Not::not")]
    pub read_only_root_filesystem: bool,
}

/// A literal `null` is what some clients send for nothing.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// An amount as hosts may tell it: some take any JSON and tell it again.
#[derive(Deserialize)]
#[serde(untagged)]
enum Amount {
    Text(String),
    Whole(u64),
    Part(f64),
    /// It says nothing that a stack file could say.
    Other(IgnoredAny),
}

/// Amounts as texts. One that is none is left out: it has no effect, and a function is not lost for it.
fn amounts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map, D::Error> {
    let told: BTreeMap<String, Amount> = null_is_empty(deserializer)?;
    let text = |(name, amount)| match amount {
        Amount::Text(text) => Some((name, text)),
        Amount::Whole(number) => Some((name, number.to_string())),
        Amount::Part(number) => Some((name, number.to_string())),
        Amount::Other(IgnoredAny) => None,
    };
    Ok(told.into_iter().filter_map(text).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_sends_only_what_was_given() {
        let bare = Deployment { service: "a".into(), image: "b".into(), ..Deployment::default() };
        assert_eq!(serde_json::to_string(&bare).unwrap(), r#"{"service":"a","image":"b"}"#);
    }

    #[test]
    fn what_the_api_tells_of_a_function_is_a_deployment() {
        let told = r#"{"name":"a","image":"b","labels":null,"limits":{"memory":"5Mi"},"replicas":1}"#;
        let deployment: Deployment = serde_json::from_str(told).unwrap();
        assert_eq!((deployment.service.as_str(), deployment.labels.len()), ("a", 0));
        assert_eq!(deployment.limits["memory"], "5Mi");
    }

    #[test]
    fn amounts_that_are_no_texts_become_such_or_are_left_out() {
        let told = r#"{"name":"a","image":"b","requests":null,
            "limits":{"memory":"5Mi","nvidia.com/gpu":1,"cpu":0.5,"a":null,"b":{"c":[1]},"d":true,"e":-1}}"#;
        let deployment: Deployment = serde_json::from_str(told).unwrap();
        let limits: Vec<_> = deployment.limits.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(limits, [("cpu", "0.5"), ("e", "-1"), ("memory", "5Mi"), ("nvidia.com/gpu", "1")]);
    }
}
