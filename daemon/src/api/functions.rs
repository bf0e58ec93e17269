//! `/system/functions` and `/system/function/{name}`.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use roost_proxy::function::{FunctionKey, FunctionName, Namespace};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::extract::{Body, Path, Query};
use super::logs::is_true;
use super::{Api, ApiError};
use crate::function::settled::Settled;
use crate::function::spec::{Deployment, FunctionSpec};
use crate::function::status::FunctionView;
use crate::function::warnings::unknown_fields;
use crate::units;

/// The query of calls that name a namespace.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Scope {
    #[serde(default)]
    pub(super) namespace: String,
}

/// The query of a deployment.
#[derive(Debug, Deserialize)]
pub(super) struct Deploying {
    #[serde(default)]
    namespace: String,
    /// How long to wait until it is ready.
    wait: Option<String>,
}

/// The longest wait for a deployment.
const MAX_WAIT: Duration = Duration::from_secs(3600);

/// The query of calls that show functions.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Shown {
    #[serde(default)]
    namespace: String,
    /// Anything that Go takes for true: with what the replicas use.
    #[serde(default)]
    usage: String,
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
    Query(shown): Query<Shown>,
) -> Result<Json<Vec<FunctionView>>, ApiError> {
    let namespace = api.namespace(&shown.namespace)?;
    let views = api.registry.views(&namespace).into_iter().map(|view| with_schedules(&api, view)).collect();
    Ok(Json(if is_true(&shown.usage) { with_usage(&api, &namespace, views).await } else { views }))
}

/// The same function, with what the clock has for it.
fn with_schedules(api: &Api, view: FunctionView) -> FunctionView {
    let ahead = api.ahead.of(view.key());
    view.with_schedules(ahead)
}

/// The same functions, with what their replicas use.
async fn with_usage(api: &Api, namespace: &Namespace, views: Vec<FunctionView>) -> Vec<FunctionView> {
    let replicas: Vec<_> =
        views.iter().map(|view| (namespace.clone(), view.replica_ids().cloned().collect())).collect();
    let used = api.sampler.rates(&replicas).await;
    views.into_iter().zip(used).map(|(view, used)| view.with_usage(used)).collect()
}

pub(super) async fn describe(
    State(api): State<Api>,
    Path(segment): Path,
    Query(shown): Query<Shown>,
) -> Result<Response, ApiError> {
    let (name, namespace) = api.function(&segment, &shown.namespace)?;
    // A text that is no name names no function.
    let name = name.parse().ok();
    let view = name.and_then(|name| api.registry.view(&FunctionKey::new(namespace.clone(), name)));
    let mut view = view.map(|view| with_schedules(&api, view));
    if is_true(&shown.usage) {
        view = with_usage(&api, &namespace, view.into_iter().collect()).await.pop();
    }
    Ok(view.map_or_else(|| StatusCode::NOT_FOUND.into_response(), |view| Json(view).into_response()))
}

pub(super) async fn deploy(
    State(api): State<Api>,
    Query(how): Query<Deploying>,
    Body(body): Body,
) -> Result<StatusCode, ApiError> {
    let wait = how.wait()?;
    let spec = deployment(&body, how.namespace)?;
    let key = spec.key.clone();
    let revision = api.registry.create(spec).await?;
    settle(&api, &key, &revision, wait).await
}

pub(super) async fn update(
    State(api): State<Api>,
    Query(how): Query<Deploying>,
    Body(body): Body,
) -> Result<StatusCode, ApiError> {
    let wait = how.wait()?;
    let spec = deployment(&body, how.namespace)?;
    let key = spec.key.clone();
    let revision = api.registry.update(spec).await?;
    settle(&api, &key, &revision, wait).await
}

impl Deploying {
    fn wait(&self) -> Result<Option<Duration>, ApiError> {
        let Some(text) = &self.wait else { return Ok(None) };
        match units::duration(text) {
            Ok(wait) if !wait.is_zero() && wait <= MAX_WAIT => Ok(Some(wait)),
            Ok(_) => Err(ApiError::bad_request(format!(
                "wait: {text:?}: expected more than zero and at most an hour"
            ))),
            Err(why) => Err(ApiError::bad_request(format!("wait: {text:?}: {why}"))),
        }
    }
}

/// Answers for a revision that was accepted: at once, or when it is known how it turned out.
async fn settle(
    api: &Api,
    key: &FunctionKey,
    revision: &str,
    wait: Option<Duration>,
) -> Result<StatusCode, ApiError> {
    let Some(wait) = wait else { return Ok(StatusCode::ACCEPTED) };
    let settled = tokio::select! {
        settled = timeout(wait, api.registry.settled(key, revision)) => settled,
        () = api.ending.cancelled() => {
            let text = format!("{key}: accepted; roostd ends, and goes on with it when it is back");
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, text));
        }
    };
    match settled {
        Ok(Settled::Ready) => Ok(StatusCode::ACCEPTED),
        Ok(Settled::Failed(why)) => {
            Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, format!("{key}: {why}")))
        }
        Ok(Settled::Overtaken) => {
            let text = format!("{key}: it was updated or deleted before it was ready");
            Err(ApiError::new(StatusCode::CONFLICT, text))
        }
        Err(_) => {
            let text = format!("{key}: not ready after {} s: it is still tried", wait.as_secs_f64());
            Err(ApiError::new(StatusCode::GATEWAY_TIMEOUT, text))
        }
    }
}

pub(super) async fn remove(
    State(api): State<Api>,
    Query(scope): Query<Scope>,
    Body(body): Body,
) -> Result<StatusCode, ApiError> {
    let removal: Removal = json(&body)?;
    if removal.function_name.is_empty() {
        return Err(ApiError::bad_request("functionName: is required"));
    }
    let namespace =
        api.namespace(&removal.namespace.filter(|text| !text.is_empty()).unwrap_or(scope.namespace))?;
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
fn deployment(body: &[u8], namespace: String) -> Result<FunctionSpec, ApiError> {
    let mut deployment: Deployment = json(body)?;
    if deployment.namespace.is_empty() {
        deployment.namespace = namespace;
    }
    let mut spec = FunctionSpec::parse_sent(deployment)?;
    spec.ignored = unknown_fields(body);
    Ok(spec)
}

/// Reads a JSON body whatever its content type says: the contract's clients often send none.
pub(super) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let why = error.into_inner();
        // Of what is no JSON, the place is in the text already.
        let named = why.is_data() && path != ".";
        ApiError::bad_request(if named { format!("{path}: {why}") } else { format!("bad JSON: {why}") })
    })?;
    deserializer.end().map_err(|why| ApiError::bad_request(format!("bad JSON: {why}")))?;
    Ok(value)
}
