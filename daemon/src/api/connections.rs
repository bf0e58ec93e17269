//! `/system/function/{name}/connections`: the WebSockets of a function.

use axum::Json;
use axum::extract::State;
use roost_proxy::CloseFrame;
use roost_proxy::function::FunctionKey;
use serde::{Deserialize, Serialize};

use super::extract::{Path, Query};
use super::{Api, ApiError};

/// Nothing is wrong: there is just no more to say.
const NORMAL: u16 = 1000;

/// With what they are to be closed.
#[derive(Debug, Deserialize)]
pub(super) struct Closing {
    #[serde(default)]
    namespace: String,
    code: Option<String>,
    #[serde(default)]
    reason: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Closed {
    /// How many were open.
    closed: usize,
}

pub(super) async fn close(
    State(api): State<Api>,
    Path(segment): Path,
    Query(closing): Query<Closing>,
) -> Result<Json<Closed>, ApiError> {
    let (name, namespace) = api.function(&segment, &closing.namespace)?;
    let code = closing.code.map_or(Ok(NORMAL), |code| code.parse());
    let code = code.map_err(|_| ApiError::bad_request("code: expected a number from 0 to 65535"))?;
    let unknown = || ApiError::unknown_function(format!("{name}.{namespace}"));
    let key = FunctionKey::new(namespace.clone(), name.parse().map_err(|_| unknown())?);
    let closed = api.registry.close_connections(&key, CloseFrame::new(code, &closing.reason));
    Ok(Json(Closed { closed: closed.ok_or_else(unknown)? }))
}
