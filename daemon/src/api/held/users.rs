//! `/users`: all connections of one user, as a token or its function has named it. Not the users of this host.

use axum::Json;
use axum::extract::State;
use roost_proxy::websocket::Filter;
use serde::Serialize;

use super::connections::page;
use super::view::Page;
use super::words::Words;
use super::{Paging, Space, Told};
use crate::api::connections::{Closed, Closing};
use crate::api::extract::{Path, Paths, Query};
use crate::api::{Api, ApiError};

#[derive(Debug, Serialize)]
pub(super) struct Joined {
    /// How many are in the group now.
    joined: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct Left {
    /// How many were in the group.
    left: usize,
}

pub(super) async fn connections(
    State(api): State<Api>,
    space: Space,
    Path(user): Path,
    Query(paging): Query<Paging>,
) -> Result<Json<Page>, ApiError> {
    page(&api, &space, &all_of(user), &paging)
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
    Ok(Json(Closed { closed: api.hub.end(&space.0, &all_of(user), &closing.ending()?) }))
}

/// All that can join do, also if one cannot; the answer is then why.
pub(super) async fn add(
    State(api): State<Api>,
    space: Space,
    Paths(user, group): Paths,
) -> Result<Json<Joined>, ApiError> {
    let mut refused = None;
    let mut joined = 0;
    for member in api.hub.of_user(&space.0, &user) {
        match api.hub.join(&member, &group, member.most_groups()) {
            Ok(()) => joined += 1,
            // It went in this moment: it is none of the user's any more.
            Err(roost_proxy::websocket::CannotJoin::Gone) => {}
            Err(why) => refused = Some(why),
        }
    }
    refused.map_or(Ok(Json(Joined { joined })), |why| Err(why.into()))
}

pub(super) async fn remove(State(api): State<Api>, space: Space, Paths(user, group): Paths) -> Json<Left> {
    let members = api.hub.of_user(&space.0, &user);
    Json(Left { left: members.iter().filter(|member| api.hub.part(member, &group)).count() })
}

fn all_of(user: String) -> Filter {
    Filter { user: Some(user), ..Filter::default() }
}
