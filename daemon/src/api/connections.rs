//! `/system/function/{name}/connections`: the WebSockets of a function.

use axum::Json;
use axum::extract::State;
use roost_proxy::function::FunctionKey;
use roost_proxy::websocket::Filter;
use serde::{Deserialize, Serialize};

use super::extract::{Path, Query};
use super::functions::Scope;
use super::{Api, ApiError};
use crate::nodes::{Close, Found};

/// Nothing is wrong: there is just no more to say.
const NORMAL: u16 = 1000;

/// With what they are to be closed.
#[derive(Debug, Deserialize)]
pub(super) struct Closing {
    code: Option<String>,
    #[serde(default)]
    reason: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Closed {
    /// How many were open.
    closed: usize,
    /// Nodes that have not answered in time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<String>,
}

impl From<Found<usize>> for Closed {
    fn from(Found { found, silent }: Found<usize>) -> Self {
        Self { closed: found, missing: silent }
    }
}

impl Closing {
    pub(super) fn close(&self) -> Result<Close, ApiError> {
        let code = self.code.as_ref().map_or(Ok(NORMAL), |code| code.parse());
        let code = code.map_err(|_| ApiError::bad_request("code: expected a number from 0 to 65535"))?;
        Ok(Close::new(code, &self.reason))
    }
}

pub(super) async fn close(
    State(api): State<Api>,
    Path(segment): Path,
    Query(scope): Query<Scope>,
    Query(closing): Query<Closing>,
) -> Result<Json<Closed>, ApiError> {
    let (name, namespace) = api.function(&segment, &scope.namespace)?;
    let close = closing.close()?;
    let unknown = || ApiError::unknown_function(format!("{name}.{namespace}"));
    let key = FunctionKey::new(namespace.clone(), name.parse().map_err(|_| unknown())?);
    if !api.registry.contains(&key) {
        return Err(unknown());
    }
    let of_this = Filter { function: Some(key), ..Filter::default() };
    Ok(Json(api.nodes.end_those(&namespace, &of_this, close, true).await.into()))
}
