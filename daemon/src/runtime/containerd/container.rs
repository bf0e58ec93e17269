//! Container records: what containerd remembers of a replica, and what its labels say to a daemon that adopts it.

use std::collections::HashMap;

use containerd_client::services::v1::container::Runtime;
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::{
    Container, CreateContainerRequest, DeleteContainerRequest, ListContainersRequest,
};
use oci_spec::runtime::Spec;
use prost_types::Any;
use roost_proxy::function::{FunctionKey, Namespace};

use super::client::Scope;
use super::{Error, Settings, oci};
use crate::runtime::{Found, ReplicaPlan};

/// The function's name. Whoever has this label is a replica of ours.
pub const FUNCTION_LABEL: &str = "roost.function";
/// The function's namespace.
pub const NAMESPACE_LABEL: &str = "roost.namespace";
/// The revision of the function's spec.
pub const REVISION_LABEL: &str = "roost.revision";
/// The replica's address.
pub const ADDRESS_LABEL: &str = "roost.address";
/// The key that the replica is for, if it is for one.
pub const KEY_LABEL: &str = "roost.key";
/// The digest of the image.
pub const IMAGE_LABEL: &str = "roost.image";

/// What containerd calls an OCI spec in JSON.
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// The labels of a replica: the plan's, and ours, which nobody overrides.
fn labels(plan: &ReplicaPlan) -> HashMap<String, String> {
    let ours = [
        (FUNCTION_LABEL, plan.function.name.to_string()),
        (NAMESPACE_LABEL, plan.function.namespace.to_string()),
        (REVISION_LABEL, plan.revision.clone()),
        (ADDRESS_LABEL, plan.address.to_string()),
        (IMAGE_LABEL, plan.image.digest.clone()),
    ];
    let key = plan.key.as_ref().map(|key| (KEY_LABEL, key.to_string()));
    let ours = ours.into_iter().chain(key).map(|(key, value)| (key.to_owned(), value));
    plan.labels.clone().into_iter().chain(ours).collect()
}

/// What a container of `namespace` says of itself, if it is a replica of ours.
fn found(namespace: &Namespace, container: Container) -> Option<Found> {
    let label = |name: &str| container.labels.get(name);
    let name = label(FUNCTION_LABEL)?.parse().ok()?;
    Some(Found {
        id: container.id.parse().ok()?,
        function: FunctionKey::new(namespace.clone(), name),
        revision: label(REVISION_LABEL).cloned().unwrap_or_default(),
        key: label(KEY_LABEL).and_then(|key| key.parse().ok()),
        address: label(ADDRESS_LABEL).and_then(|address| address.parse().ok()),
        image: label(IMAGE_LABEL).cloned().unwrap_or_default(),
        labels: container.labels,
        standing: None,
        exit: None,
    })
}

/// Writes the record of `plan`.
pub(super) async fn create(
    scope: &Scope,
    settings: &Settings,
    plan: &ReplicaPlan,
    spec: &Spec,
) -> Result<(), Error> {
    let value = serde_json::to_vec(spec)
        .map_err(|source| Error::Spec { replica: plan.id.to_string(), source: Box::new(source) })?;
    let container = Container {
        id: plan.id.to_string(),
        labels: labels(plan),
        image: plan.image.name.clone(),
        runtime: Some(Runtime { name: settings.runtime.clone(), options: oci::options(settings) }),
        spec: Some(Any { type_url: SPEC_TYPE.to_owned(), value }),
        snapshotter: settings.snapshotter.clone(),
        snapshot_key: plan.id.to_string(),
        ..Container::default()
    };
    let request = scope.call(CreateContainerRequest { container: Some(container) });
    let created = ContainersClient::new(scope.channel()).create(request).await;
    created.map(drop).map_err(Error::call("create container", &plan.id))
}

/// Deletes the record `id`.
pub(super) async fn delete(scope: &Scope, id: &str) -> Result<(), Error> {
    let request = scope.call(DeleteContainerRequest { id: id.to_owned() });
    let deleted = ContainersClient::new(scope.channel()).delete(request).await;
    deleted.map(drop).map_err(Error::call("delete container", id))
}

/// All replicas of `namespace`, without a word yet on how far they are.
pub(super) async fn list(scope: &Scope, namespace: &Namespace) -> Result<Vec<Found>, Error> {
    let filters = vec![format!("labels.\"{FUNCTION_LABEL}\"")];
    let request = scope.call(ListContainersRequest { filters });
    let listed = ContainersClient::new(scope.channel()).list(request).await;
    let listed = listed.map_err(Error::call("list containers of", namespace))?.into_inner();
    Ok(listed.containers.into_iter().filter_map(|container| found(namespace, container)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_labelled_container_with_a_valid_name_is_ours() {
        let container = |id: &str, labels: &[(&str, &str)]| Container {
            id: id.to_owned(),
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            ..Container::default()
        };
        let namespace = Namespace::default();
        let labels = [
            (FUNCTION_LABEL, "echo"),
            (REVISION_LABEL, "r1"),
            (ADDRESS_LABEL, "10.63.0.2"),
            (KEY_LABEL, "room 1"),
        ];
        let ours = found(&namespace, container("echo-1", &labels)).unwrap();
        assert_eq!(ours.function.to_string(), "echo.openfaas-fn");
        assert_eq!((ours.revision.as_str(), ours.address), ("r1", Some("10.63.0.2".parse().unwrap())));
        assert_eq!(ours.key, Some("room 1".parse().unwrap()));

        assert!(found(&namespace, container("other", &[])).is_none());
        assert!(found(&namespace, container("Bad_Id", &labels)).is_none());
        let odd = found(&namespace, container("echo-1", &[(FUNCTION_LABEL, "echo"), (ADDRESS_LABEL, "?")]))
            .unwrap();
        assert_eq!(odd.address, None);
    }
}
