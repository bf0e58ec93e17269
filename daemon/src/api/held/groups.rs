//! `/groups`: connections that are spoken to together.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use roost_proxy::websocket::Filter;
use serde::Serialize;

use super::connections::page;
use super::view::Page;
use super::words::Words;
use super::{Paging, Space, Told, cut};
use crate::api::connections::{Closed, Closing};
use crate::api::extract::{Path, Paths, Query};
use crate::api::{Api, ApiError};

/// Some of the groups that there are.
#[derive(Debug, Serialize)]
pub(super) struct Groups {
    groups: Vec<GroupView>,
    /// What to ask for as `after`, if there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
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
    let mut found = api.hub.groups(&space.0, paging.after(), limit + 1);
    let next = cut(&mut found, limit, |(name, _)| name.to_string());
    let view =
        |(name, connections): (std::sync::Arc<str>, usize)| GroupView { name: name.to_string(), connections };
    Ok(Json(Groups { groups: found.into_iter().map(view).collect(), next }))
}

pub(super) async fn members(
    State(api): State<Api>,
    space: Space,
    Path(group): Path,
    Query(paging): Query<Paging>,
) -> Result<Json<Page>, ApiError> {
    page(&api, &space, &all_of(group), &paging)
}

pub(super) async fn add(
    State(api): State<Api>,
    space: Space,
    Paths(group, id): Paths,
) -> Result<StatusCode, ApiError> {
    let member = space.connection(&api, &id)?;
    api.hub.join(&member, &group, member.most_groups())?;
    Ok(StatusCode::NO_CONTENT)
}

/// One that is not in the group is not in it afterwards either.
pub(super) async fn remove(
    State(api): State<Api>,
    space: Space,
    Paths(group, id): Paths,
) -> Result<StatusCode, ApiError> {
    api.hub.part(&space.connection(&api, &id)?, &group);
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
    Ok(Json(Closed { closed: api.hub.end(&space.0, &all_of(group), &closing.ending()?) }))
}

fn all_of(group: String) -> Filter {
    Filter { group: Some(group), ..Filter::default() }
}
