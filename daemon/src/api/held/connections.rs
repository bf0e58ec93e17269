//! `/connections`: all of a namespace, and one by one.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use roost_proxy::websocket::{Filter, Said};
use serde::Deserialize;

use super::view::{ConnectionView, Page};
use super::words::Words;
use super::{Paging, Space, Told, cut, gone};
use crate::api::connections::Closing;
use crate::api::extract::{Path, Query};
use crate::api::{Api, ApiError};

/// Which connections are meant.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Wanted {
    function: Option<String>,
    group: Option<String>,
    user: Option<String>,
}

impl Wanted {
    fn filter(self, api: &Api, space: &Space) -> Result<Filter, ApiError> {
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let function = given(self.function).map(|segment| space.function(api, &segment)).transpose()?;
        Ok(Filter { function, group: given(self.group), user: given(self.user) })
    }
}

pub(super) async fn list(
    State(api): State<Api>,
    space: Space,
    Query(wanted): Query<Wanted>,
    Query(paging): Query<Paging>,
) -> Result<Json<Page>, ApiError> {
    let filter = wanted.filter(&api, &space)?;
    page(&api, &space, &filter, &paging)
}

/// One page of those that fit.
pub(super) fn page(
    api: &Api,
    space: &Space,
    filter: &Filter,
    paging: &Paging,
) -> Result<Json<Page>, ApiError> {
    let limit = paging.limit()?;
    let mut found = api.hub.list(&space.0, filter, paging.after_id()?, limit + 1);
    let next = cut(&mut found, limit, |member| member.identity().id.to_string());
    Ok(Json(Page { connections: found.iter().map(|member| (&**member).into()).collect(), next }))
}

pub(super) async fn tell_all(
    State(api): State<Api>,
    space: Space,
    Query(wanted): Query<Wanted>,
    words: Words,
) -> Result<Json<Told>, ApiError> {
    let Filter { function, group, user } = wanted.filter(&api, &space)?;
    if group.is_some() || user.is_some() {
        let text = "group, user: expected in the path, as in /groups/NAME and /users/NAME";
        return Err(ApiError::bad_request(text));
    }
    let Words { message, except } = words;
    Ok(Json(api.hub.say_to_each(&space.0, function.as_ref(), &message, &except).into()))
}

pub(super) async fn describe(
    State(api): State<Api>,
    space: Space,
    Path(id): Path,
) -> Result<Json<ConnectionView>, ApiError> {
    Ok(Json((&*space.connection(&api, &id)?).into()))
}

pub(super) async fn tell(
    State(api): State<Api>,
    space: Space,
    Path(id): Path,
    words: Words,
) -> Result<StatusCode, ApiError> {
    match space.connection(&api, &id)?.say(&words.message) {
        Said::Queued => Ok(StatusCode::ACCEPTED),
        Said::TooSlow => {
            let text = "the client does not read what it is told: its connection ends";
            Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, text))
        }
        Said::Gone => Err(gone()),
    }
}

pub(super) async fn close(
    State(api): State<Api>,
    space: Space,
    Path(id): Path,
    Query(closing): Query<Closing>,
) -> Result<StatusCode, ApiError> {
    let ending = closing.ending()?;
    // One that ends already ends with what was said first.
    space.connection(&api, &id)?.end(ending);
    Ok(StatusCode::NO_CONTENT)
}
