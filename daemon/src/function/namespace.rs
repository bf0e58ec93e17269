//! What is kept of a namespace, and the rules for what a caller may say of one.
//!
//! Nothing here looks at the host.

use std::collections::BTreeMap;

use jiff::Timestamp;
use roost_proxy::function::Namespace;
use serde::{Deserialize, Serialize};

use crate::function::spec::check_texts;

/// All namespaces by name, also those that are on their way in or out.
pub type Namespaces = BTreeMap<Namespace, NamespaceRecord>;

/// The label by which OpenFaaS knows a namespace that functions may be deployed to. Every namespace has it.
const OPENFAAS_LABEL: (&str, &str) = ("openfaas", "1");

/// The index of the namespace that is always there: its network is the host's usual one.
pub const DEFAULT_INDEX: u32 = 0;

/// A namespace, as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceRecord {
    /// When it was made.
    pub created_at: Timestamp,
    /// Which network is its: unique among the namespaces, and given to another one when this is gone.
    pub index: u32,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Is it still being made? Nothing can be in it yet.
    #[serde(default)]
    pub making: bool,
    /// Was it deleted? It stays until nothing of it is left on the host.
    #[serde(default)]
    pub ending: bool,
}

/// What a caller says of a namespace, and is told of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NamespaceView {
    /// Its name.
    pub name: String,
    /// Annotations.
    #[serde(deserialize_with = "super::spec::null_is_empty", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Labels.
    #[serde(deserialize_with = "super::spec::null_is_empty", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl NamespaceRecord {
    /// The namespace that is always there, before anybody said anything of it.
    #[must_use]
    pub fn default_one() -> Self {
        Self::new(DEFAULT_INDEX, NamespaceView::default())
    }

    /// A new namespace.
    #[must_use]
    pub fn new(index: u32, said: NamespaceView) -> Self {
        let created_at = Timestamp::now();
        let (labels, annotations) = Default::default();
        Self { created_at, index, labels, annotations, making: false, ending: false }.changed(said)
    }

    /// The same namespace with other labels and annotations.
    #[must_use]
    pub fn changed(&self, said: NamespaceView) -> Self {
        let NamespaceView { name: _, mut labels, annotations } = said;
        let (key, value) = OPENFAAS_LABEL;
        labels.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        Self { labels, annotations, ..self.clone() }
    }

    /// Can functions be in it?
    #[must_use]
    pub fn is_there(&self) -> bool {
        !self.making && !self.ending
    }

    /// The namespace as a caller is told of it.
    #[must_use]
    pub fn view(&self, name: &Namespace) -> NamespaceView {
        let (labels, annotations) = (self.labels.clone(), self.annotations.clone());
        NamespaceView { name: name.to_string(), annotations, labels }
    }
}

impl NamespaceView {
    /// Checks labels and annotations. The name is for whoever knows which one is meant.
    ///
    /// # Errors
    /// With the first pair that is not valid, named by its field.
    pub fn check(&self) -> Result<(), String> {
        for (field, pairs) in [("labels", &self.labels), ("annotations", &self.annotations)] {
            check_texts(field, pairs).next().map_or(Ok(()), Err)?;
        }
        Ok(())
    }
}

/// The smallest index that is free, if there is one up to `last`.
#[must_use]
pub fn free_index(namespaces: &Namespaces, last: u32) -> Option<u32> {
    (DEFAULT_INDEX + 1..=last).find(|index| namespaces.values().all(|record| record.index != *index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_always_has_the_label_by_which_clients_know_it() {
        let said = |text: &str| serde_json::from_str::<NamespaceView>(text).unwrap();
        let record = NamespaceRecord::new(1, said(r#"{"name":"a","labels":null,"annotations":{"x":"y"}}"#));
        assert_eq!(record.labels["openfaas"], "1");
        let record = record.changed(said(r#"{"labels":{"openfaas":"true","team":"b"}}"#));
        let view = serde_json::to_value(record.view(&"a".parse().unwrap())).unwrap();
        let labels = serde_json::json!({"openfaas": "true", "team": "b"});
        assert_eq!(view, serde_json::json!({"name": "a", "labels": labels}));
    }

    #[test]
    fn pairs_without_a_key_or_too_long_are_refused_by_their_field() {
        let one = |key: &str, value: String| BTreeMap::from([(key.to_owned(), value)]);
        let labels = NamespaceView { labels: one("", "x".into()), ..NamespaceView::default() };
        assert!(labels.check().unwrap_err().starts_with("labels.:"));
        let annotations = one("big", "x".repeat((64 << 10) + 1));
        let annotations = NamespaceView { annotations, ..NamespaceView::default() };
        assert!(annotations.check().unwrap_err().starts_with("annotations.big:"));
    }

    #[test]
    fn an_index_is_given_again_when_its_namespace_is_gone() {
        let mut namespaces = Namespaces::from([(Namespace::default(), NamespaceRecord::default_one())]);
        for (name, index) in [("a", Some(1)), ("b", Some(2)), ("c", None)] {
            assert_eq!(free_index(&namespaces, 2), index, "{name}");
            if let Some(index) = index {
                let record = NamespaceRecord::new(index, NamespaceView::default());
                namespaces.insert(name.parse().unwrap(), record);
            }
        }
        namespaces.remove("a");
        assert_eq!(free_index(&namespaces, 2), Some(1));
    }
}
