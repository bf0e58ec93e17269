//! `/system/namespaces` and `/system/namespace/{name}`.
//!
//! Clients name a namespace in the path, in the body, or in both; a trailing slash and the plural mean the same.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{MethodRouter, get};
use axum::{Json, Router};
use roost_proxy::function::Namespace;

use super::extract::{Body, Path};
use super::functions::json;
use super::{Api, ApiError};
use crate::function::namespace::NamespaceView;

pub(super) fn routes() -> Router<Api> {
    let named = || -> MethodRouter<Api> { get(describe).post(create_named).put(update).delete(remove) };
    let unnamed = || get(nameless).post(create).put(nameless).delete(nameless);
    Router::new()
        .route("/namespaces", get(list))
        .route("/namespaces/{name}", named())
        .route("/namespace", unnamed())
        .route("/namespace/", unnamed())
        .route("/namespace/{name}", named())
}

async fn list(State(api): State<Api>) -> Json<Vec<Namespace>> {
    Json(api.registry.namespaces())
}

async fn nameless() -> ApiError {
    ApiError::bad_request("name: is required")
}

async fn describe(State(api): State<Api>, Path(name): Path) -> Result<Json<NamespaceView>, ApiError> {
    Ok(Json(api.registry.namespace_view(&existing(&name)?)?))
}

async fn create(State(api): State<Api>, Body(body): Body) -> Result<StatusCode, ApiError> {
    let said = read(&body, None)?;
    if said.name.is_empty() {
        return Err(nameless().await);
    }
    let name: Namespace = said.name.parse().map_err(|why| ApiError::bad_request(format!("name: {why}")))?;
    api.registry.create_namespace(name, said).await?;
    Ok(StatusCode::CREATED)
}

async fn create_named(
    State(api): State<Api>,
    Path(name): Path,
    Body(body): Body,
) -> Result<StatusCode, ApiError> {
    let said = read(&body, Some(&name))?;
    let name: Namespace = name.parse().map_err(|why| ApiError::bad_request(format!("name: {why}")))?;
    api.registry.create_namespace(name, said).await?;
    Ok(StatusCode::CREATED)
}

async fn update(State(api): State<Api>, Path(name): Path, Body(body): Body) -> Result<StatusCode, ApiError> {
    let said = read(&body, Some(&name))?;
    api.registry.update_namespace(existing(&name)?, said).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn remove(State(api): State<Api>, Path(name): Path, Body(body): Body) -> Result<StatusCode, ApiError> {
    if !body.trim_ascii().is_empty() {
        read(&body, Some(&name))?;
    }
    api.registry.delete_namespace(existing(&name)?).await?;
    Ok(StatusCode::ACCEPTED)
}

/// What a body says of a namespace; of the one that the path names, if it names one.
fn read(body: &[u8], named: Option<&str>) -> Result<NamespaceView, ApiError> {
    let said: NamespaceView = json(body)?;
    if let Some(named) = named
        && !said.name.is_empty()
        && said.name != named
    {
        return Err(ApiError::bad_request(format!(
            "name: {:?}: expected {named:?}, as in the path",
            said.name
        )));
    }
    said.check().map_err(ApiError::bad_request)?;
    Ok(said)
}

/// A text that is no name names no namespace.
fn existing(name: &str) -> Result<Namespace, ApiError> {
    name.parse().map_err(|_| {
        let name: String = name.chars().take(80).collect();
        ApiError::new(StatusCode::NOT_FOUND, format!("namespace {name} not found"))
    })
}
