//! `/system/function/{name}/connections`: the WebSockets of a function.

use axum::Json;
use axum::extract::State;
use roost_proxy::function::FunctionKey;
use roost_proxy::websocket::{Category, Ending, Filter};
use roost_proxy::{By, CloseFrame};
use serde::{Deserialize, Serialize};

use super::extract::{Path, Query};
use super::functions::Scope;
use super::{Api, ApiError};

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
    pub(super) closed: usize,
}

impl Closing {
    pub(super) fn frame(&self) -> Result<CloseFrame, ApiError> {
        let code = self.code.as_ref().map_or(Ok(NORMAL), |code| code.parse());
        let code = code.map_err(|_| ApiError::bad_request("code: expected a number from 0 to 65535"))?;
        Ok(CloseFrame::new(code, &self.reason))
    }

    pub(super) fn ending(&self) -> Result<Ending, ApiError> {
        Ok(Ending::new(self.frame()?, By::Host, Category::Api))
    }
}

pub(super) async fn close(
    State(api): State<Api>,
    Path(segment): Path,
    Query(scope): Query<Scope>,
    Query(closing): Query<Closing>,
) -> Result<Json<Closed>, ApiError> {
    let (name, namespace) = api.function(&segment, &scope.namespace)?;
    let (frame, ending) = (closing.frame()?, closing.ending()?);
    let unknown = || ApiError::unknown_function(format!("{name}.{namespace}"));
    let key = FunctionKey::new(namespace.clone(), name.parse().map_err(|_| unknown())?);
    let passed_on = api.registry.close_connections(&key, frame).ok_or_else(unknown)?;
    let of_this = Filter { function: Some(key), ..Filter::default() };
    let held = api.hub.end(&namespace, &of_this, &ending);
    Ok(Json(Closed { closed: passed_on + held }))
}
