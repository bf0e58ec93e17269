//! `/system/functions` and `/system/function/{name}`.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use roost_proxy::function::{FunctionKey, FunctionName, Namespace};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Api, ApiError};
use crate::function::spec::{Deployment, FunctionSpec, parse_namespace};
use crate::function::status::FunctionView;

/// The query of calls that name a namespace.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Scope {
    #[serde(default)]
    pub(super) namespace: String,
}

/// The body of `DELETE /system/functions`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Removal {
    #[serde(default)]
    function_name: String,
    #[serde(default)]
    namespace: Option<String>,
}

pub(super) async fn list(
    State(api): State<Api>,
    Query(scope): Query<Scope>,
) -> Result<Json<Vec<FunctionView>>, ApiError> {
    let namespace = namespace(&scope.namespace)?;
    Ok(Json(api.registry.views(&namespace)))
}

pub(super) async fn describe(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(scope): Query<Scope>,
) -> Result<Response, ApiError> {
    let namespace = namespace(&scope.namespace)?;
    // A text that is no name names no function.
    let view = name.parse().ok().and_then(|name| api.registry.view(&FunctionKey::new(namespace, name)));
    Ok(view.map_or_else(|| StatusCode::NOT_FOUND.into_response(), |view| Json(view).into_response()))
}

pub(super) async fn deploy(
    State(api): State<Api>,
    Query(scope): Query<Scope>,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    api.registry.create(deployment(&body, scope)?).await?;
    Ok(StatusCode::ACCEPTED)
}

pub(super) async fn update(
    State(api): State<Api>,
    Query(scope): Query<Scope>,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    api.registry.update(deployment(&body, scope)?).await?;
    Ok(StatusCode::ACCEPTED)
}

pub(super) async fn remove(
    State(api): State<Api>,
    Query(scope): Query<Scope>,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    let removal: Removal = json(&body)?;
    if removal.function_name.is_empty() {
        return Err(ApiError::bad_request("functionName: is required"));
    }
    let namespace = namespace(&removal.namespace.filter(|text| !text.is_empty()).unwrap_or(scope.namespace))?;
    let gone = || {
        ApiError::new(
            StatusCode::NOT_FOUND,
            format!("function {}.{namespace} not found", removal.function_name),
        )
    };
    let name: FunctionName = removal.function_name.parse().map_err(|_| gone())?;
    match api.registry.delete(FunctionKey::new(namespace.clone(), name)).await {
        Err(crate::function::registry::RegistryError::Unknown(_)) => Err(gone()),
        other => Ok(other.map(|()| StatusCode::ACCEPTED)?),
    }
}

/// The function that a body describes. The namespace in the body goes before the one in the query.
fn deployment(body: &[u8], scope: Scope) -> Result<FunctionSpec, ApiError> {
    let mut deployment: Deployment = json(body)?;
    if deployment.namespace.is_empty() {
        deployment.namespace = scope.namespace;
    }
    Ok(FunctionSpec::parse(deployment)?)
}

/// Reads a JSON body whatever its content type says: the contract's clients often send none.
pub(super) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let why = error.into_inner();
        ApiError::bad_request(if path == "." { format!("bad JSON: {why}") } else { format!("{path}: {why}") })
    })?;
    deserializer.end().map_err(|why| ApiError::bad_request(format!("bad JSON: {why}")))?;
    Ok(value)
}

/// The namespace of a call.
pub(super) fn namespace(text: &str) -> Result<Namespace, ApiError> {
    parse_namespace(text).map_err(ApiError::bad_request)
}
