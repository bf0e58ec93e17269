//! `/users`: all connections of one user, as a token or its function has named it. Not the users of this host.

use axum::Json;
use axum::extract::State;
use roost_proxy::websocket::Filter;
use serde::Serialize;

use super::connections::{Page, page};
use super::words::Words;
use super::{Paging, Space, Told};
use crate::api::connections::{Closed, Closing};
use crate::api::extract::{Path, Paths, Query};
use crate::api::{Api, ApiError};
use crate::nodes::Found;

#[derive(Debug, Serialize)]
pub(super) struct Joined {
    /// How many are in the group now.
    joined: usize,
    /// Nodes that have not answered in time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Left {
    /// How many were in the group.
    left: usize,
    /// Nodes that have not answered in time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<String>,
}

pub(super) async fn connections(
    State(api): State<Api>,
    space: Space,
    Path(user): Path,
    Query(paging): Query<Paging>,
) -> Result<Json<Page>, ApiError> {
    page(&api, &space, &all_of(user), &paging).await
}

pub(super) async fn tell(State(api): State<Api>, space: Space, Path(user): Path, words: Words) -> Json<Told> {
    Json(api.hub.say_to_user(&space.0, &user, &words.message).into())
}

pub(super) async fn close(
    State(api): State<Api>,
    space: Space,
    Path(user): Path,
    Query(closing): Query<Closing>,
) -> Result<Json<Closed>, ApiError> {
    Ok(Json(api.nodes.end_those(&space.0, &all_of(user), closing.close()?, false).await.into()))
}

/// All that can join do, also if one cannot; the answer is then why.
pub(super) async fn add(
    State(api): State<Api>,
    space: Space,
    Paths(user, group): Paths,
) -> Result<Json<Joined>, ApiError> {
    let Found { found: (joined, refused), silent: missing } =
        api.nodes.move_user(&space.0, user, group, true).await;
    refused.map_or(Ok(Json(Joined { joined, missing })), |why| Err(why.into()))
}

pub(super) async fn remove(State(api): State<Api>, space: Space, Paths(user, group): Paths) -> Json<Left> {
    let Found { found: (left, _), silent: missing } = api.nodes.move_user(&space.0, user, group, false).await;
    Json(Left { left, missing })
}

fn all_of(user: String) -> Filter {
    Filter { user: Some(user), ..Filter::default() }
}
