//! containerd's namespaces: one for each namespace of functions, marked as ours.
//!
//! Never deletes one, and never looks into one without our mark.

use std::collections::HashMap;

use containerd_client::services::v1::namespaces_client::NamespacesClient;
use containerd_client::services::v1::{
    CreateNamespaceRequest, ListNamespacesRequest, Namespace as Record, UpdateNamespaceRequest,
};
use prost_types::FieldMask;
use roost_proxy::function::Namespace;

use super::Error;
use super::client::Client;
use super::error::Kind;

/// Marks a namespace for functions, as OpenFaaS does.
const OPENFAAS_LABEL: (&str, &str) = ("openfaas", "1");

/// Marks a namespace that holds replicas of ours.
const ROOST_LABEL: (&str, &str) = ("roost", "1");

/// Makes the namespace if it is not there, and marks it.
pub(super) async fn ensure(client: &Client, namespace: &Namespace) -> Result<(), Error> {
    // The header is needed here too: without it containerd cannot publish the event, and fails.
    let scope = client.scope(namespace);
    let mut namespaces = NamespacesClient::new(scope.channel());
    let labels = [OPENFAAS_LABEL, ROOST_LABEL].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let record = Record { name: namespace.to_string(), labels: HashMap::from(labels) };
    let request = CreateNamespaceRequest { namespace: Some(record.clone()) };
    match namespaces.create(scope.call(request)).await {
        Ok(_) => return Ok(()),
        Err(status) if Kind::of(&status) == Kind::AlreadyExists => {}
        Err(status) => return Err(Error::call("create namespace", namespace)(status)),
    }
    // Somebody made it before. Only our two labels are set: others may have put theirs.
    let paths = [OPENFAAS_LABEL, ROOST_LABEL].map(|(key, _)| format!("labels.{key}")).into();
    let request = UpdateNamespaceRequest { namespace: Some(record), update_mask: Some(FieldMask { paths }) };
    namespaces.update(scope.call(request)).await.map_err(Error::call("mark namespace", namespace))?;
    Ok(())
}

/// The namespaces with our mark.
pub(super) async fn ours(client: &Client) -> Result<Vec<Namespace>, Error> {
    let scope = client.scope(&Namespace::default());
    let request = scope.call(ListNamespacesRequest { filter: String::new() });
    let listed = NamespacesClient::new(scope.channel())
        .list(request)
        .await
        .map_err(Error::call("list", "namespaces"))?
        .into_inner();
    let marked =
        |record: &Record| record.labels.get(ROOST_LABEL.0).is_some_and(|value| value == ROOST_LABEL.1);
    // One whose name is not a label cannot be ours, whoever marked it.
    Ok(listed
        .namespaces
        .iter()
        .filter(|record| marked(record))
        .filter_map(|record| record.name.parse().ok())
        .collect())
}
