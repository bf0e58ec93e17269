//! containerd's namespaces: one for each namespace of functions, marked as ours.
//!
//! Deletes none that anything is in, and never looks into one without our mark.

use std::collections::HashMap;

use containerd_client::services::v1::namespaces_client::NamespacesClient;
use containerd_client::services::v1::{
    CreateNamespaceRequest, DeleteNamespaceRequest, ListNamespacesRequest, Namespace as Record,
    UpdateNamespaceRequest,
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

/// Is there a namespace of this name that neither OpenFaaS nor we have marked?
pub(super) async fn is_foreign(client: &Client, namespace: &Namespace) -> Result<bool, Error> {
    let marks = [OPENFAAS_LABEL.0, ROOST_LABEL.0];
    let all = list(client).await?;
    let there = all.iter().find(|record| record.name == namespace.as_str());
    Ok(there.is_some_and(|record| !marks.iter().any(|mark| record.labels.contains_key(*mark))))
}

/// Deletes the namespace; `false` if something is in it. It need not be there.
pub(super) async fn delete(client: &Client, namespace: &Namespace) -> Result<bool, Error> {
    let scope = client.scope(namespace);
    let request = scope.call(DeleteNamespaceRequest { name: namespace.to_string() });
    match NamespacesClient::new(scope.channel()).delete(request).await {
        Ok(_) => Ok(true),
        Err(status) => match Kind::of(&status) {
            Kind::NotFound => Ok(true),
            Kind::FailedPrecondition => Ok(false),
            _ => Err(Error::call("delete namespace", namespace)(status)),
        },
    }
}

/// Takes our marks off a namespace that stays for what others have in it.
pub(super) async fn unmark(client: &Client, namespace: &Namespace) -> Result<(), Error> {
    let unmarked = [OPENFAAS_LABEL, ROOST_LABEL].map(|(key, _)| (key.to_owned(), String::new()));
    let record = Record { name: namespace.to_string(), labels: HashMap::from(unmarked) };
    update(client, namespace, record, "unmark namespace").await
}

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
    // Somebody made it before.
    update(client, namespace, record, "mark namespace").await
}

/// Sets our two labels and no others: somebody else may have put theirs.
async fn update(
    client: &Client,
    namespace: &Namespace,
    record: Record,
    doing: &'static str,
) -> Result<(), Error> {
    let scope = client.scope(namespace);
    let paths = [OPENFAAS_LABEL, ROOST_LABEL].map(|(key, _)| format!("labels.{key}")).into();
    let request = UpdateNamespaceRequest { namespace: Some(record), update_mask: Some(FieldMask { paths }) };
    let updated = NamespacesClient::new(scope.channel()).update(scope.call(request)).await;
    updated.map(drop).map_err(Error::call(doing, namespace))
}

/// The namespaces with our mark.
pub(super) async fn ours(client: &Client) -> Result<Vec<Namespace>, Error> {
    let marked =
        |record: &Record| record.labels.get(ROOST_LABEL.0).is_some_and(|value| value == ROOST_LABEL.1);
    let all = list(client).await?;
    // One whose name is not a label cannot be ours, whoever marked it.
    Ok(all.iter().filter(|record| marked(record)).filter_map(|record| record.name.parse().ok()).collect())
}

/// All of containerd's namespaces. To ask for one tells nothing: containerd answers for those that are not there, too.
async fn list(client: &Client) -> Result<Vec<Record>, Error> {
    let scope = client.scope(&Namespace::default());
    let request = scope.call(ListNamespacesRequest { filter: String::new() });
    let listed = NamespacesClient::new(scope.channel()).list(request).await;
    Ok(listed.map_err(Error::call("list", "namespaces"))?.into_inner().namespaces)
}
