//! `/connections`: all of a namespace, and one by one.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use roost_proxy::websocket::Filter;
use serde::{Deserialize, Serialize};

use super::words::Words;
use super::{Paging, Space, Told, cut, gone};
use crate::api::connections::Closing;
use crate::api::extract::{Path, Query};
use crate::api::{Api, ApiError};
use crate::nodes::{Act, Answer, ConnectionView, Found};

/// Some of the connections that there are.
#[derive(Debug, Serialize)]
pub(super) struct Page {
    connections: Vec<ConnectionView>,
    /// What to ask for as `after`, if there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// Nodes that have not answered in time: theirs are not here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<String>,
}

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
    page(&api, &space, &filter, &paging).await
}

/// One page of those that fit.
pub(super) async fn page(
    api: &Api,
    space: &Space,
    filter: &Filter,
    paging: &Paging,
) -> Result<Json<Page>, ApiError> {
    let limit = paging.limit()?;
    let Found { found: mut connections, silent: missing } =
        api.nodes.list(&space.0, filter, paging.after_id()?, limit + 1).await;
    let next = cut(&mut connections, limit, |of| of.id.clone());
    Ok(Json(Page { connections, next, missing }))
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
    match space.with(&api, &id, Act::Show).await? {
        Answer::Shown { connection } => Ok(Json(*connection)),
        _ => Err(gone()),
    }
}

pub(super) async fn tell(
    State(api): State<Api>,
    space: Space,
    Path(id): Path,
    words: Words,
) -> Result<StatusCode, ApiError> {
    match space.with(&api, &id, Act::say(words.message)).await? {
        Answer::TooSlow => {
            let text = "the client does not read what it is told: its connection ends";
            Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, text))
        }
        _ => Ok(StatusCode::ACCEPTED),
    }
}

pub(super) async fn close(
    State(api): State<Api>,
    space: Space,
    Path(id): Path,
    Query(closing): Query<Closing>,
) -> Result<StatusCode, ApiError> {
    space.with(&api, &id, Act::End { close: closing.close()? }).await?;
    Ok(StatusCode::NO_CONTENT)
}
