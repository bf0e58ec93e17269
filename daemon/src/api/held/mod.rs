//! `/connections`, `/groups` and `/users`: the connections that are held, looked at, spoken to and ended.
//!
//! The same calls twice: below `/system` for the users of this host, at the root for functions, each within its own
//! namespace. Owns no state: the hub has it, and those of other nodes. What AWS' clients call is answered beside them.

mod aws;
mod connections;
mod groups;
mod inside;
mod past;
mod users;
mod words;

use axum::Router;
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::routing::{get, post, put};
use roost_proxy::function::{FunctionKey, Namespace};
use roost_proxy::websocket::event::ConnectionId;
use roost_proxy::websocket::{CannotJoin, Reach};
use serde::{Deserialize, Serialize};

pub(super) use aws::answer as at_no_route;
pub(super) use inside::authorize;

use self::inside::Inside;
use super::extract::Query;
use super::functions::Scope;
use super::{Api, ApiError};
use crate::nodes::{Act, Answer};

/// How many things a list shows when nobody says it, and at most.
const LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

/// All routes, to be put below `/system` or nowhere.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/connections", get(connections::list).post(connections::tell_all))
        .route(
            "/connections/{id}",
            get(connections::describe).post(connections::tell).delete(connections::close),
        )
        .route("/groups", get(groups::list))
        .route("/groups/{group}", post(groups::tell).delete(groups::close))
        .route("/groups/{group}/connections", get(groups::members))
        .route("/groups/{group}/users", get(past::users))
        .route("/groups/{group}/history", get(past::history))
        .route("/groups/{group}/events", get(past::events))
        .route("/groups/{group}/connections/{id}", put(groups::add).delete(groups::remove))
        .route("/users/{user}", post(users::tell).delete(users::close))
        .route("/users/{user}/connections", get(users::connections))
        .route("/users/{user}/groups/{group}", put(users::add).delete(users::remove))
}

/// The namespace that a call is about: the one of the function that makes it, or the one that a user names.
struct Space(Namespace);

impl FromRequestParts<Api> for Space {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let Query(Scope { namespace }) = Query::from_request_parts(parts, api).await?;
        match parts.extensions.get::<Inside>() {
            Some(Inside(own)) if namespace.is_empty() || namespace == own.as_str() => Ok(Self(own.clone())),
            Some(Inside(own)) => {
                let text = format!("namespace: expected {own}, which this token is for");
                Err(ApiError::new(StatusCode::FORBIDDEN, text))
            }
            None => api.namespace(&namespace).map(Self),
        }
    }
}

impl Space {
    /// A function of it, which has to be there.
    fn function(&self, api: &Api, segment: &str) -> Result<FunctionKey, ApiError> {
        let (name, namespace) = api.function(segment, self.0.as_str())?;
        let unknown = || ApiError::unknown_function(format!("{name}.{namespace}"));
        let key = FunctionKey::new(namespace.clone(), name.parse().map_err(|_| unknown())?);
        if api.registry.contains(&key) { Ok(key) } else { Err(unknown()) }
    }

    /// Does something with a connection of it, wherever that is. A text that is no id is the id of none.
    async fn with(&self, api: &Api, id: &str, act: Act) -> Result<Answer, ApiError> {
        let id = ConnectionId::parse(id).ok_or_else(gone)?;
        match api.nodes.one(Some(&self.0), id, act).await {
            Answer::Nobody => Err(gone()),
            Answer::Refused { why } => Err(why.into()),
            answer => Ok(answer),
        }
    }
}

fn gone() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "connection not found: it is gone, or never was")
}

/// Which part of a list is asked for.
#[derive(Debug, Default, Deserialize)]
struct Paging {
    limit: Option<String>,
    after: Option<String>,
}

impl Paging {
    fn limit(&self) -> Result<usize, ApiError> {
        let Some(text) = &self.limit else { return Ok(LIMIT) };
        let limit = text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
        limit.ok_or_else(|| ApiError::bad_request(format!("limit: expected a number from 1 to {MAX_LIMIT}")))
    }

    /// What is not empty.
    fn after(&self) -> Option<&str> {
        self.after.as_deref().filter(|after| !after.is_empty())
    }

    fn after_id(&self) -> Result<Option<ConnectionId>, ApiError> {
        let expected = || ApiError::bad_request("after: expected the id of a connection");
        self.after().map(|after| ConnectionId::parse(after).ok_or_else(expected)).transpose()
    }
}

/// Cuts a list that was asked for with one more than `limit`; what to go on behind, if there is more.
fn cut<T>(found: &mut Vec<T>, limit: usize, name: impl Fn(&T) -> String) -> Option<String> {
    if found.len() <= limit {
        return None;
    }
    found.truncate(limit);
    found.last().map(name)
}

/// To how many something was said.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    queued: usize,
    too_slow: usize,
}

impl From<Reach> for Told {
    fn from(Reach { queued, too_slow }: Reach) -> Self {
        Self { queued, too_slow }
    }
}

impl From<CannotJoin> for ApiError {
    fn from(why: CannotJoin) -> Self {
        match why {
            CannotJoin::Name => Self::bad_request(format!("group: {why}")),
            CannotJoin::TooMany(_) => Self::new(StatusCode::CONFLICT, why.to_string()),
            CannotJoin::Gone => gone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_limit_and_tells_what_to_go_on_behind() {
        let limit = |text: &str| Paging { limit: Some(text.to_owned()), after: None }.limit();
        assert_eq!(Paging::default().limit().unwrap(), 100);
        assert_eq!((limit("1").unwrap(), limit("1000").unwrap()), (1, 1000));
        for text in ["", "0", "1001", "-1", "a"] {
            assert_eq!(limit(text).unwrap_err().text, "limit: expected a number from 1 to 1000", "{text}");
        }
        let mut found = vec![1, 2, 3];
        assert_eq!((cut(&mut found, 3, ToString::to_string), found.len()), (None, 3));
        assert_eq!((cut(&mut found, 2, ToString::to_string), found), (Some("2".to_owned()), vec![1, 2]));
    }

    #[test]
    fn what_is_no_id_cannot_be_gone_on_behind() {
        let after = |text: &str| Paging { limit: None, after: Some(text.to_owned()) }.after_id();
        assert!(after("").unwrap().is_none());
        let id = ConnectionId::random();
        assert_eq!(after(&id.to_string()).unwrap(), Some(id));
        assert_eq!(after("x").unwrap_err().text, "after: expected the id of a connection");
    }
}
