//! `/groups`: connections that are spoken to together.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use roost_proxy::websocket::Filter;
use serde::Serialize;

use super::connections::{Page, page};
use super::words::Words;
use super::{Paging, Space, Told, cut};
use crate::api::connections::{Closed, Closing};
use crate::api::extract::{Path, Paths, Query};
use crate::api::{Api, ApiError};
use crate::nodes::{Act, Found};

/// Some of the groups that there are.
#[derive(Debug, Serialize)]
pub(super) struct Groups {
    groups: Vec<GroupView>,
    /// What to ask for as `after`, if there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// Nodes that have not answered in time: what they have is not counted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<String>,
}

#[derive(Debug, Serialize)]
struct GroupView {
    name: String,
    /// How many are in it.
    connections: usize,
}

pub(super) async fn list(
    State(api): State<Api>,
    space: Space,
    Query(paging): Query<Paging>,
) -> Result<Json<Groups>, ApiError> {
    let limit = paging.limit()?;
    let Found { found: mut counts, silent: missing } =
        api.nodes.groups(&space.0, paging.after(), limit + 1).await;
    let next = cut(&mut counts, limit, |(name, _)| name.clone());
    let groups = counts.into_iter().map(|(name, connections)| GroupView { name, connections }).collect();
    Ok(Json(Groups { groups, next, missing }))
}

pub(super) async fn members(
    State(api): State<Api>,
    space: Space,
    Path(group): Path,
    Query(paging): Query<Paging>,
) -> Result<Json<Page>, ApiError> {
    page(&api, &space, &all_of(group), &paging).await
}

pub(super) async fn add(
    State(api): State<Api>,
    space: Space,
    Paths(group, id): Paths,
) -> Result<StatusCode, ApiError> {
    space.with(&api, &id, Act::Join { group }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// One that is not in the group is not in it afterwards either.
pub(super) async fn remove(
    State(api): State<Api>,
    space: Space,
    Paths(group, id): Paths,
) -> Result<StatusCode, ApiError> {
    space.with(&api, &id, Act::Part { group }).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn tell(
    State(api): State<Api>,
    space: Space,
    Path(group): Path,
    words: Words,
) -> Json<Told> {
    let Words { message, except } = words;
    Json(api.hub.say_to_group(&space.0, &group, &message, &except).into())
}

pub(super) async fn close(
    State(api): State<Api>,
    space: Space,
    Path(group): Path,
    Query(closing): Query<Closing>,
) -> Result<Json<Closed>, ApiError> {
    Ok(Json(api.nodes.end_those(&space.0, &all_of(group), closing.close()?, false).await.into()))
}

fn all_of(group: String) -> Filter {
    Filter { group: Some(group), ..Filter::default() }
}
