//! The endpoints of a function at one moment, by their keys.
//!
//! Owns the grouping, which is immutable and swapped whole. Never looks at a load.

use std::collections::HashMap;
use std::sync::Arc;

use crate::endpoint::Endpoint;
use crate::placement::ReplicaKey;

type Set = Vec<Arc<Endpoint>>;

/// All endpoints that take new work.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    of_no_key: Set,
    by_key: HashMap<ReplicaKey, Set>,
}

impl Endpoints {
    pub(crate) fn new(endpoints: Set) -> Self {
        let mut grouped = Self::default();
        for endpoint in endpoints {
            let set = match endpoint.key() {
                None => &mut grouped.of_no_key,
                Some(key) => grouped.by_key.entry(key.clone()).or_default(),
            };
            set.push(endpoint);
        }
        grouped
    }

    /// Those that take requests of `key`; without one, those that take requests without one.
    pub(crate) fn of(&self, key: Option<&ReplicaKey>) -> &[Arc<Endpoint>] {
        match key {
            None => &self.of_no_key,
            Some(key) => self.by_key.get(key).map_or(&[], Vec::as_slice),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.of_no_key.iter().chain(self.by_key.values().flatten())
    }

    /// Those that are not in `other`.
    pub(crate) fn without<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a Arc<Endpoint>> {
        self.iter()
            .filter(|endpoint| !other.of(endpoint.key()).iter().any(|there| Arc::ptr_eq(there, endpoint)))
    }

    /// The keys that have an endpoint.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &ReplicaKey> {
        self.by_key.keys()
    }
}
