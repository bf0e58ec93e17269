//! `/system/scale-function/{name}`.

use axum::extract::State;
use axum::http::StatusCode;
use roost_proxy::function::FunctionKey;
use serde::Deserialize;

use super::extract::{Body, Path, Query};
use super::functions::{Scope, json};
use super::{Api, ApiError};
use crate::function::spec::MAX_REPLICAS;

/// What is asked for. The function's name is in the path; old documentation calls it `service` here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Scaling {
    service_name: Option<String>,
    service: Option<String>,
    replicas: u64,
    namespace: Option<String>,
}

pub(super) async fn scale(
    State(api): State<Api>,
    Path(segment): Path,
    Query(scope): Query<Scope>,
    Body(body): Body,
) -> Result<StatusCode, ApiError> {
    // The words that clients of the contract know.
    let scaling: Scaling =
        json(&body).map_err(|_| ApiError::bad_request("Error unmarshalling request body"))?;
    let given = scaling.namespace.filter(|text| !text.is_empty()).unwrap_or(scope.namespace);
    let (name, namespace) = api.function(&segment, &given)?;
    for given in [&scaling.service_name, &scaling.service].into_iter().flatten() {
        // With its namespace or without: what the path says counts.
        let said = given.rsplit_once('.').map_or(given.as_str(), |(said, _)| said);
        if !given.is_empty() && said != name {
            return Err(ApiError::bad_request(format!("serviceName: expected {name}, as in the path")));
        }
    }
    let replicas = u32::try_from(scaling.replicas).ok().filter(|replicas| *replicas <= MAX_REPLICAS);
    let replicas = replicas.ok_or_else(|| {
        ApiError::bad_request(format!("replicas: expected a number from 0 to {MAX_REPLICAS}"))
    })?;
    // A text that is no name names no function.
    let name = name.parse().map_err(|_| ApiError::unknown_function(format!("{name}.{namespace}")))?;
    api.registry.scale(FunctionKey::new(namespace, name), move |_, _| replicas).await?;
    Ok(StatusCode::ACCEPTED)
}
