//! `/system/deadletters`: what functions could not be brought to deal with, shown, sent again and removed.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::{Timestamp, Unit};
use roost_proxy::function::{FunctionKey, Namespace};
use serde::{Deserialize, Serialize};

use super::extract::{Path, Query};
use super::functions::Scope;
use super::{Api, ApiError};
use crate::deadletters::letter::{Head, Kind, Letter, LetterId};
use crate::deadletters::{CannotRedrive, Found, Redriven, Wanted};

/// How many letters a list shows when nobody says it, and at most. So many are sent again, too.
const LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/deadletters", get(list).delete(remove_all))
        .route("/deadletters/redrive", post(redrive_all))
        .route("/deadletters/{id}", get(describe).delete(remove))
        .route("/deadletters/{id}/redrive", post(redrive))
}

/// Which letters are meant.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Asked {
    namespace: String,
    function: String,
    limit: Option<String>,
    after: String,
}

impl Asked {
    fn wanted(&self, api: &Api) -> Result<Wanted, ApiError> {
        let function = if self.function.is_empty() { None } else { Some(self.function(api)?) };
        let namespace = match &function {
            Some(function) => function.namespace.clone(),
            None => api.namespace(&self.namespace)?,
        };
        let expected = || ApiError::bad_request("after: expected the id of a dead letter");
        let after = match self.after.as_str() {
            "" => None,
            id => Some(LetterId::parse(id).ok_or_else(expected)?),
        };
        Ok(Wanted { namespace, function, after })
    }

    /// The function that is named. One that is gone has letters, too.
    fn function(&self, api: &Api) -> Result<FunctionKey, ApiError> {
        if self.function.is_empty() {
            return Err(ApiError::bad_request("function: is required"));
        }
        let (name, namespace) = api.function(&self.function, &self.namespace)?;
        let name = name.parse().map_err(|why| ApiError::bad_request(format!("function: {why}")))?;
        Ok(FunctionKey::new(namespace, name))
    }

    fn limit(&self) -> Result<usize, ApiError> {
        let Some(text) = &self.limit else { return Ok(LIMIT) };
        let limit = text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
        limit.ok_or_else(|| ApiError::bad_request(format!("limit: expected a number from 1 to {MAX_LIMIT}")))
    }
}

/// A letter, as it is shown. What stands behind `?` in its path is not: clients put tokens there.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LetterView {
    id: String,
    function: String,
    namespace: String,
    kind: &'static str,
    /// What happened, and on which connection, if it is an event.
    #[serde(skip_serializing_if = "String::is_empty")]
    event: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    connection: String,
    /// What its client knows it by, if it is a call.
    #[serde(skip_serializing_if = "String::is_empty")]
    call: String,
    at: Option<Timestamp>,
    attempts: u32,
    last_attempt: Option<Timestamp>,
    reason: String,
    status: u16,
    cause: String,
    method: String,
    path: String,
    /// Bytes of the body.
    size: u64,
}

#[derive(Debug, Serialize)]
struct Page {
    letters: Vec<LetterView>,
    /// What to ask for as `after`, if there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// All of a letter.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Whole {
    #[serde(flatten)]
    letter: LetterView,
    /// Names and values.
    headers: Vec<(String, String)>,
    body: String,
    /// The body is no text, and in base64.
    is_base64_encoded: bool,
}

/// A letter that was dealt with.
#[derive(Debug, Serialize)]
struct Done {
    id: String,
    /// Its connection is there, and got what was answered.
    delivered: bool,
}

/// What came of several.
#[derive(Debug, Serialize)]
struct AllDone {
    redriven: usize,
    failed: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<String>,
}

#[derive(Debug, Serialize)]
struct Removed {
    removed: usize,
}

async fn list(State(api): State<Api>, Query(asked): Query<Asked>) -> Result<Json<Page>, ApiError> {
    let (wanted, limit) = (asked.wanted(&api)?, asked.limit()?);
    let mut found = api.letters.list(wanted, limit + 1).await.map_err(|error| unreadable(&error))?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|one| one.id.to_string());
    Ok(Json(Page { letters: found.into_iter().map(LetterView::from).collect(), next }))
}

async fn describe(
    State(api): State<Api>,
    Path(id): Path,
    Query(scope): Query<Scope>,
) -> Result<Json<Whole>, ApiError> {
    let (namespace, id) = one(&api, &scope, &id)?;
    let found = api.letters.get(namespace, id).await.map_err(|error| unreadable(&error))?;
    let (function, Letter { id, head, body }) = found.ok_or_else(unknown)?;
    let headers = head.request.headers.clone();
    let size = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let letter = LetterView::from(Found { id, function, head, size });
    let (body, is_base64_encoded) = match String::from_utf8(body.into()) {
        Ok(text) => (text, false),
        Err(binary) => (BASE64_STANDARD.encode(binary.as_bytes()), true),
    };
    Ok(Json(Whole { letter, headers, body, is_base64_encoded }))
}

async fn remove(
    State(api): State<Api>,
    Path(id): Path,
    Query(scope): Query<Scope>,
) -> Result<StatusCode, ApiError> {
    let (namespace, id) = one(&api, &scope, &id)?;
    match api.letters.remove(namespace, id).await {
        Ok(true) => Ok(StatusCode::NO_CONTENT),
        Ok(false) => Err(unknown()),
        Err(error) => Err(ApiError::internal(&format!("a dead letter cannot be removed: {error}"))),
    }
}

async fn remove_all(State(api): State<Api>, Query(asked): Query<Asked>) -> Result<Json<Removed>, ApiError> {
    let removed = api.letters.remove_all(asked.function(&api)?).await;
    let removed =
        removed.map_err(|error| ApiError::internal(&format!("dead letters cannot be removed: {error}")))?;
    Ok(Json(Removed { removed }))
}

async fn redrive(
    State(api): State<Api>,
    Path(id): Path,
    Query(scope): Query<Scope>,
) -> Result<Json<Done>, ApiError> {
    let (namespace, id) = one(&api, &scope, &id)?;
    let delivered = api.letters.redrive(&api.redrive, &api.queue, namespace, id).await?;
    Ok(Json(Done { id: id.to_string(), delivered }))
}

async fn redrive_all(State(api): State<Api>, Query(asked): Query<Asked>) -> Result<Json<AllDone>, ApiError> {
    let (mut wanted, limit) = (asked.wanted(&api)?, asked.limit()?);
    let function = asked.function(&api)?;
    if !api.registry.contains(&function) {
        return Err(ApiError::unknown_function(function));
    }
    wanted.function = Some(function);
    let all = api.letters.redrive_all(&api.redrive, &api.queue, wanted, limit);
    let Redriven { done, failed, next, stopped } = tokio::select! {
        all = all => all.map_err(|error| unreadable(&error))?,
        () = api.ending.cancelled() => {
            let text = "roostd ends: what was not sent again by now is still there";
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, text));
        }
    };
    Ok(Json(AllDone { redriven: done, failed, next: next.map(|id| id.to_string()), stopped }))
}

/// The namespace and the id of one letter. A text that is no id is the id of none.
fn one(api: &Api, scope: &Scope, id: &str) -> Result<(Namespace, LetterId), ApiError> {
    let namespace = api.namespace(&scope.namespace)?;
    Ok((namespace, LetterId::parse(id).ok_or_else(unknown)?))
}

fn unknown() -> ApiError {
    CannotRedrive::Unknown.into()
}

fn unreadable(error: &std::io::Error) -> ApiError {
    ApiError::internal(&format!("dead letters cannot be read: {error}"))
}

impl From<Found> for LetterView {
    fn from(Found { id, function, head, size }: Found) -> Self {
        let Head { at, attempts, last, request, kind } = head;
        let (kind, event, connection, call) = match kind {
            Kind::Event(of) => ("event", of.event, of.connection, String::new()),
            Kind::Call(of) => ("call", String::new(), String::new(), of.id),
        };
        let path = request.path.split('?').next().unwrap_or_default().to_owned();
        Self {
            id: id.to_string(),
            function: function.name.to_string(),
            namespace: function.namespace.to_string(),
            kind,
            event,
            connection,
            call,
            at: stamp(at),
            attempts,
            last_attempt: stamp(last.at),
            reason: last.reason,
            status: last.status,
            cause: last.cause,
            method: request.method,
            path,
            size: size.into(),
        }
    }
}

/// To the millisecond.
fn stamp(at: Timestamp) -> Option<Timestamp> {
    at.round(Unit::Millisecond).ok()
}
