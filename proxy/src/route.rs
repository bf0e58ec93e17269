//! Which upstream serves a function.
//!
//! Owns the table: immutable, swapped whole, so a lookup takes no lock. Never changes an upstream.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::function::{DEFAULT_NAMESPACE, FunctionKey, FunctionName, Namespace};
use crate::upstream::Upstream;

/// All functions at one moment.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    /// In two steps, so that it can be asked with two slices of a path, without building a key.
    namespaces: HashMap<Namespace, HashMap<FunctionName, Arc<Upstream>>>,
}

impl RouteTable {
    /// The upstream of `key`.
    #[must_use]
    pub fn get(&self, key: &FunctionKey) -> Option<&Arc<Upstream>> {
        self.namespaces.get(&key.namespace)?.get(&key.name)
    }

    /// All upstreams, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.namespaces.values().flat_map(HashMap::values)
    }

    /// The upstream of a path segment, `name` or `name.namespace`.
    pub(crate) fn find(&self, segment: &str) -> Option<&Arc<Upstream>> {
        let (name, namespace) = split(segment);
        self.namespaces.get(namespace)?.get(name)
    }

    fn insert(&mut self, upstream: Arc<Upstream>) {
        let FunctionKey { namespace, name } = upstream.key().clone();
        self.namespaces.entry(namespace).or_default().insert(name, upstream);
    }

    fn remove(&mut self, key: &FunctionKey) {
        if let Some(names) = self.namespaces.get_mut(&key.namespace) {
            names.remove(&key.name);
            if names.is_empty() {
                self.namespaces.remove(&key.namespace);
            }
        }
    }
}

/// The name and the namespace of a path segment: the namespace stands behind the last dot.
pub(crate) fn split(segment: &str) -> (&str, &str) {
    segment.rsplit_once('.').unwrap_or((segment, DEFAULT_NAMESPACE))
}

/// The current table. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Routes(Arc<ArcSwap<RouteTable>>);

impl Routes {
    /// A table without functions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the function of `upstream`, or replaces it.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the table keeps it; a lost race must not take it away"
    )]
    pub fn insert(&self, upstream: Arc<Upstream>) {
        self.change(|table| table.insert(Arc::clone(&upstream)));
    }

    /// Removes a function. Requests that found it before go on; see [`Upstream::retire`].
    pub fn remove(&self, key: &FunctionKey) {
        self.change(|table| table.remove(key));
    }

    /// The upstream of `key`.
    #[must_use]
    pub fn get(&self, key: &FunctionKey) -> Option<Arc<Upstream>> {
        self.0.load().get(key).map(Arc::clone)
    }

    /// The table as it is now.
    #[must_use]
    pub fn table(&self) -> Arc<RouteTable> {
        self.0.load_full()
    }

    pub(crate) fn find(&self, segment: &str) -> Option<Arc<Upstream>> {
        self.0.load().find(segment).map(Arc::clone)
    }

    /// Copies, changes and swaps; runs `change` again when somebody else was faster.
    fn change(&self, change: impl Fn(&mut RouteTable)) {
        self.0.rcu(|table| {
            let mut table = RouteTable::clone(table);
            change(&mut table);
            table
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::UpstreamLimits;

    #[test]
    fn a_function_is_found_by_its_key_and_by_its_segment_until_it_is_removed() {
        let routes = Routes::new();
        for segment in ["echo", "echo.staging", "cat"] {
            let key = FunctionKey::from_route(segment).unwrap();
            routes.insert(Upstream::new(key, UpstreamLimits::default()));
        }
        let found = |segment: &str| routes.find(segment).map(|upstream| upstream.key().to_string());
        assert_eq!(found("echo").as_deref(), Some("echo.openfaas-fn"));
        assert_eq!(found("echo.openfaas-fn").as_deref(), Some("echo.openfaas-fn"));
        assert_eq!(found("echo.staging").as_deref(), Some("echo.staging"));
        for unknown in ["dog", "echo.", ".echo", "echo.prod", "a.echo.staging", "cat.staging", "ECHO"] {
            assert_eq!(found(unknown), None, "{unknown}");
        }
        let key = FunctionKey::from_route("echo.staging").unwrap();
        let before = routes.table();
        routes.remove(&key);
        assert!(routes.get(&key).is_none());
        assert!(before.get(&key).is_some(), "a table that was read does not change");
        assert_eq!(routes.table().iter().count(), 2);
    }
}
