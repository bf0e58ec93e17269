//! Of a group: who is there, what was said, and what is being said.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::{Timestamp, Unit};
use roost_proxy::websocket::{CannotWatch, Kept, Place, Watching};
use serde::{Deserialize, Serialize};

use super::{Paging, Space, cut};
use crate::api::extract::{Path, Query};
use crate::api::{Api, ApiError};
use crate::nodes::Found;

/// By which a client says which event it saw last.
const LAST_EVENT_ID: &str = "last-event-id";

/// Some of the users in a group.
#[derive(Debug, Serialize)]
pub(super) struct Users {
    users: Vec<UserView>,
    /// What to ask for as `after`, if there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// Nodes that have not answered in time: what they have is not counted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<String>,
}

#[derive(Debug, Serialize)]
struct UserView {
    id: String,
    /// How many of its connections are in the group.
    connections: usize,
}

/// Some of what is kept of a group.
#[derive(Debug, Serialize)]
pub(super) struct History {
    messages: Vec<MessageView>,
    /// Nothing is missing between what was asked for as `after` and the first of them.
    whole: bool,
    /// The id of the last of them, where anything was ever kept: what to ask for as `after` to get what comes.
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<String>,
    /// There are more, behind that.
    more: bool,
}

#[derive(Debug, Serialize)]
struct MessageView {
    id: String,
    at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// Of a binary one.
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

/// What somebody wants to watch.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Watched {
    #[serde(rename = "last-event-id")]
    last_event_id: Option<String>,
    history: Option<String>,
    presence: Option<String>,
}

impl From<Kept> for MessageView {
    fn from(Kept { place, at, message }: Kept) -> Self {
        let text = str::from_utf8(&message.data).ok().filter(|_| message.text).map(str::to_owned);
        let base64 = text.is_none().then(|| BASE64_STANDARD.encode(&message.data));
        let at = Timestamp::try_from(at).ok().and_then(|at| at.round(Unit::Millisecond).ok());
        Self { id: place.to_string(), at, text, base64 }
    }
}

pub(super) async fn users(
    State(api): State<Api>,
    space: Space,
    Path(group): Path,
    Query(paging): Query<Paging>,
) -> Result<Json<Users>, ApiError> {
    let limit = paging.limit()?;
    let Found { found: mut counts, silent: missing } =
        api.nodes.users_of(&space.0, group, paging.after(), limit + 1).await;
    let next = cut(&mut counts, limit, |(user, _)| user.clone());
    let users = counts.into_iter().map(|(id, connections)| UserView { id, connections }).collect();
    Ok(Json(Users { users, next, missing }))
}

pub(super) async fn history(
    State(api): State<Api>,
    space: Space,
    Path(group): Path,
    Query(paging): Query<Paging>,
) -> Result<Json<History>, ApiError> {
    let limit = paging.limit()?;
    let after: Option<Place> = paging
        .after()
        .map(str::parse)
        .transpose()
        .map_err(|why| ApiError::bad_request(format!("after: {why}")))?;
    let past = api.hub.past(&space.0, &group, after, limit);
    Ok(Json(History {
        messages: past.messages.into_iter().map(MessageView::from).collect(),
        whole: past.whole,
        last: past.place.map(|place| place.to_string()),
        more: past.more,
    }))
}

pub(super) async fn events(
    State(api): State<Api>,
    space: Space,
    Path(group): Path,
    Query(watched): Query<Watched>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let watch = api.hub.watch(&space.0, &group, &watched.read(&headers)?).map_err(|why| match why {
        CannotWatch::Name => ApiError::bad_request(format!("group: {why}")),
        CannotWatch::TooMany | CannotWatch::Ending => {
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, why.to_string())
        }
    })?;
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::new(watch)).into_response())
}

impl Watched {
    fn read(self, headers: &HeaderMap) -> Result<Watching, ApiError> {
        let header = headers.get(LAST_EVENT_ID).map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned());
        let history = match self.history.as_deref() {
            None => 0,
            Some(text) => {
                text.parse().map_err(|_| ApiError::bad_request("history: expected a number of messages"))?
            }
        };
        let presence = match self.presence.as_deref() {
            None | Some("false" | "0") => false,
            Some("true" | "1") => true,
            Some(_) => return Err(ApiError::bad_request("presence: expected true or false")),
        };
        Ok(Watching { last_seen: header.or(self.last_event_id), history, presence, ..Watching::default() })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use roost_proxy::websocket::event::Message;

    use super::*;

    #[test]
    fn a_message_is_shown_as_text_or_in_base64() {
        let shown = |text, data: &'static [u8]| {
            let at = SystemTime::UNIX_EPOCH + Duration::from_micros(1500);
            let message = Message { text, data: data.into() };
            let kept = Kept { place: Place { epoch: 1, number: 2 }, at, message };
            serde_json::to_string(&MessageView::from(kept)).unwrap()
        };
        let common = r#"{"id":"0000000000000001-2","at":"1970-01-01T00:00:00.002Z","#;
        assert_eq!(shown(true, b"hi"), format!(r#"{common}"text":"hi"}}"#));
        assert_eq!(shown(false, b"hi"), format!(r#"{common}"base64":"aGk="}}"#));
    }

    #[test]
    fn what_is_wrong_with_a_query_is_named() {
        let read = |history: &str, presence: &str| {
            let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
            let watched = Watched {
                history: given(history),
                presence: given(presence),
                last_event_id: Some("from the query".to_owned()),
            };
            let headers =
                [(header::HeaderName::from_static(LAST_EVENT_ID), "from the header".parse().unwrap())];
            watched.read(&headers.into_iter().collect()).map_err(|error| error.text)
        };
        let asked = read("3", "true").unwrap();
        assert_eq!((asked.history, asked.presence), (3, true));
        assert_eq!(asked.last_seen.as_deref(), Some("from the header"));
        assert_eq!(read("x", "").unwrap_err(), "history: expected a number of messages");
        assert_eq!(read("", "maybe").unwrap_err(), "presence: expected true or false");
    }
}
