//! Which upstream serves a function.
//!
//! Owns the table: immutable, swapped whole, so a lookup takes no lock. Never changes an upstream. Where no function has a
//! domain of its own, hosts of requests are not even looked at.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use http::Request;
use http::header::HOST;
use tokio::sync::Notify;

use crate::function::{DEFAULT_NAMESPACE, FunctionKey, FunctionName, Namespace};
use crate::upstream::Upstream;

/// All functions at one moment.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    /// In two steps, so that it can be asked with two slices of a path, without building a key.
    namespaces: HashMap<Namespace, HashMap<FunctionName, Arc<Upstream>>>,
    /// Hosts that are all one function's, in lower case.
    domains: HashMap<Box<str>, FunctionKey>,
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
        self.set_domains(key, &[]);
    }

    /// What another function has already stays with that.
    fn set_domains(&mut self, key: &FunctionKey, domains: &[String]) {
        self.domains.retain(|_, owner| owner != key);
        for domain in domains {
            self.domains.entry(domain.as_str().into()).or_insert_with(|| key.clone());
        }
    }
}

/// The name and the namespace of a path segment: the namespace stands behind the last dot.
pub(crate) fn split(segment: &str) -> (&str, &str) {
    segment.rsplit_once('.').unwrap_or((segment, DEFAULT_NAMESPACE))
}

/// The host that a request is for, in lower case: without the port, and without the dot of the root.
fn host<B>(request: &Request<B>) -> Option<Cow<'_, str>> {
    let host = match request.uri().authority() {
        Some(authority) => authority.host(),
        None => {
            let host = request.headers().get(HOST)?.to_str().ok()?;
            host.rsplit_once(':').map_or(host, |(host, _)| host)
        }
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    Some(if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    })
}

/// The current table. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Routes(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    table: ArcSwap<RouteTable>,
    /// There was a domain once.
    any_domain: AtomicBool,
    /// Woken by each change of them.
    domains_changed: Notify,
}

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
        if self.0.any_domain.load(Ordering::Relaxed) {
            self.0.domains_changed.notify_one();
        }
    }

    /// Gives a function these hosts, written in lower case, and takes from it those that it had. One that another function
    /// has stays with that.
    pub fn set_domains(&self, key: &FunctionKey, domains: &[String]) {
        if domains.is_empty() && !self.0.any_domain.load(Ordering::Relaxed) {
            return;
        }
        self.change(|table| table.set_domains(key, domains));
        self.0.any_domain.store(true, Ordering::Release);
        self.0.domains_changed.notify_one();
    }

    /// The hosts that functions have, in lower case.
    #[must_use]
    pub fn domains(&self) -> BTreeSet<String> {
        self.0.table.load().domains.keys().map(ToString::to_string).collect()
    }

    /// Resolves when they may have changed since it last did. For one who waits.
    ///
    /// Cancel safe.
    pub async fn domains_changed(&self) {
        self.0.domains_changed.notified().await;
    }

    /// The upstream of `key`.
    #[must_use]
    pub fn get(&self, key: &FunctionKey) -> Option<Arc<Upstream>> {
        self.0.table.load().get(key).map(Arc::clone)
    }

    /// The table as it is now.
    #[must_use]
    pub fn table(&self) -> Arc<RouteTable> {
        self.0.table.load_full()
    }

    pub(crate) fn find(&self, segment: &str) -> Option<Arc<Upstream>> {
        self.0.table.load().find(segment).map(Arc::clone)
    }

    /// Was there ever a host that is all a function's?
    pub(crate) fn has_domains(&self) -> bool {
        self.0.any_domain.load(Ordering::Acquire)
    }

    /// The function that has the host which `request` is for.
    pub(crate) fn find_domain<B>(&self, request: &Request<B>) -> Option<Arc<Upstream>> {
        if !self.has_domains() {
            return None;
        }
        let host = host(request)?;
        let table = self.0.table.load();
        table.domains.get(&*host).and_then(|key| table.get(key)).map(Arc::clone)
    }

    /// Copies, changes and swaps; runs `change` again when somebody else was faster.
    fn change(&self, change: impl Fn(&mut RouteTable)) {
        self.0.table.rcu(|table| {
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
    fn a_host_is_a_functions_in_any_spelling_until_it_is_taken_from_it() {
        let routes = Routes::new();
        let keys = ["chat", "shop.blue"].map(|segment| FunctionKey::from_route(segment).unwrap());
        for key in &keys {
            routes.insert(Upstream::new(key.clone(), UpstreamLimits::default()));
        }
        let found = |uri: &str, host: &str| {
            let request = Request::get(uri).header(HOST, host).body(()).unwrap();
            routes.find_domain(&request).map(|upstream| upstream.key().to_string())
        };
        assert_eq!(found("/", "chat.example.org"), None);
        let domains = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        routes.set_domains(&keys[0], &domains(&["chat.example.org", "talk.example.org"]));
        routes.set_domains(&keys[1], &domains(&["shop.example.org", "talk.example.org"]));
        for (uri, host, expected) in [
            ("/x", "chat.example.org", Some("chat.openfaas-fn")),
            ("/x", "Chat.Example.ORG.:8443", Some("chat.openfaas-fn")),
            ("/x", "talk.example.org:80", Some("chat.openfaas-fn")),
            ("/x", "shop.example.org", Some("shop.blue")),
            ("http://shop.example.org:1/x", "chat.example.org", Some("shop.blue")),
            ("http://elsewhere.example/x", "chat.example.org", None),
            ("/x", "example.org", None),
            ("/x", "a.chat.example.org", None),
            ("/x", "[::1]:80", None),
            ("/x", "", None),
        ] {
            assert_eq!(found(uri, host).as_deref(), expected, "{uri} {host}");
        }
        routes.remove(&keys[0]);
        assert_eq!(found("/", "chat.example.org"), None);
        routes.set_domains(&keys[1], &domains(&["talk.example.org"]));
        assert_eq!(found("/", "talk.example.org").as_deref(), Some("shop.blue"));
        assert_eq!(found("/", "shop.example.org"), None);
    }

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
