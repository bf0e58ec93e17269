//! A group as a stream of events, at the address of its function: `GET …/@groups/NAME/events`, for clients that cannot open a
//! WebSocket.
//!
//! Owns which request is one for a stream, and its answer. Whoever comes here has passed what the function asks of its
//! callers; no replica is asked, and none is started. A path of this form is the function's own unless it lets groups be
//! watched.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    ORIGIN, VARY,
};
use http::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;

use super::Shared;
use super::accept::is_welcome;
use super::history::{CannotWatch, Watching};
use super::settings::EventMode;
use crate::access_log::Record;
use crate::body::ResponseBody;
use crate::call::Call;
use crate::error::Error;
use crate::handshakes::FOREIGN_PAGE;
use crate::headers;
use crate::roles::may_read;
use crate::token::Claims;
use crate::upstream::Upstream;

const BEGINNING: &str = "/@groups/";
const END: &str = "/events";

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Proxies that gather what they pass on are asked not to.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The most of the past that is shown to whoever begins to watch.
const MOST_HISTORY: usize = 10_000;

/// Can this path be one of a group? Asked for each request.
pub(crate) fn may_be_group(path: &str) -> bool {
    path.starts_with(BEGINNING)
}

/// The group whose stream is at this path of a function, as the function sees it.
pub(crate) fn group_of(path: &str) -> Option<String> {
    let name = path.strip_prefix(BEGINNING)?.strip_suffix(END)?;
    let name = percent_decode_str(name).decode_utf8().ok()?;
    (!name.is_empty()).then(|| name.into_owned())
}

/// What is asked for, and by whom.
pub(crate) struct Asking<'a, B> {
    pub(crate) group: &'a str,
    /// What the client's token says, where the function asks for one.
    pub(crate) claims: Option<&'a Claims>,
    pub(crate) request: &'a Request<B>,
}

impl Shared {
    /// Answers with the stream, or says why there is none. The record ends with it.
    pub(crate) fn stream<B>(
        &self,
        upstream: &Arc<Upstream>,
        settings: &EventMode,
        asking: &Asking<'_, B>,
        call: &Call,
        mut record: Record,
    ) -> Response<ResponseBody>
    where
        B: http_body::Body,
    {
        let mut response = match self.watch(upstream, settings, asking, &mut record) {
            Ok(watch) => {
                record.streams(StatusCode::OK);
                let mut response = Response::new(ResponseBody::boxed(watch.of(record)));
                *response.headers_mut() = of_stream(settings, asking.request.headers());
                response
            }
            Err(refusal) => {
                let response = refusal.response();
                record.status = response.status().as_u16();
                response
            }
        };
        let is_stream = response.status() == StatusCode::OK;
        headers::to_client(response.status(), response.headers_mut(), call, None, !is_stream);
        response
    }

    fn watch<B>(
        &self,
        upstream: &Arc<Upstream>,
        settings: &EventMode,
        asking: &Asking<'_, B>,
        record: &mut Record,
    ) -> Result<super::Watch, Refused>
    where
        B: http_body::Body,
    {
        let Asking { group, claims, request } = *asking;
        let function = upstream.key();
        let forbidden = |what| Error::Forbidden { function: function.clone(), what };
        if request.method() != Method::GET {
            return Err(Refused::Method);
        }
        if self.closing.load(Ordering::Acquire) {
            return Err(Error::Draining.into());
        }
        if !is_welcome(settings, request.headers()) {
            return Err(forbidden(FOREIGN_PAGE).into());
        }
        if !settings.group_events.contains(group) {
            return Err(forbidden("anybody who wants to watch this group").into());
        }
        if claims.is_some_and(|claims| !may_read(claims, group)) {
            return Err(forbidden("a token that has no role for this group").into());
        }
        let limits = upstream.limits_now();
        record.place = upstream.enter(request, true, &limits.bounds).map_err(Refused::from)?;
        let lease = claims.and_then(|claims| lasts(claims, limits.timeouts.token_grace));
        let asked = Watching {
            function: Some(function.clone()),
            lifetime: limits.timeouts.lifetime.into_iter().chain(lease).min(),
            ..read(request.uri().query(), request.headers()).map_err(Refused::Said)?
        };
        self.hub.watch(&function.namespace, group, &asked).map_err(|why| match why {
            CannotWatch::Ending => Error::Draining.into(),
            CannotWatch::Name => Refused::Said("group: expected the name of one"),
            CannotWatch::TooMany => {
                Error::Unavailable { function: function.clone(), reason: why.to_string().into() }.into()
            }
        })
    }
}

/// For how long a token counts, with so much time behind its end. `None`: for ever.
fn lasts(claims: &Claims, grace: Option<Duration>) -> Option<Duration> {
    let left = claims.until()?.duration_since(SystemTime::now()).unwrap_or_default();
    left.checked_add(grace?)
}

/// Why there is no stream.
enum Refused {
    Host(Box<Error>),
    Method,
    /// The request cannot be read.
    Said(&'static str),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Host(Box::new(error))
    }
}

impl Refused {
    fn response(self) -> Response<ResponseBody> {
        let said = |status, text: String| {
            let mut response = Response::new(ResponseBody::full(text));
            *response.status_mut() = status;
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, text);
            response
        };
        match self {
            Self::Host(error) => error.response(false),
            Self::Said(text) => said(StatusCode::BAD_REQUEST, format!("{text}\n")),
            Self::Method => {
                let text = "a group is watched by a GET\n".to_owned();
                let mut response = said(StatusCode::METHOD_NOT_ALLOWED, text);
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
                response
            }
        }
    }
}

/// What is asked for by a query, and the header by which a browser says what it saw last.
///
/// # Errors
/// With what was expected.
pub(super) fn read(query: Option<&str>, headers: &HeaderMap) -> Result<Watching, &'static str> {
    let mut watching = Watching::default();
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*name {
            "last-event-id" => watching.last_seen = Some(value.into_owned()),
            "history" => {
                let number = value.parse().ok().filter(|number| *number <= MOST_HISTORY);
                watching.history = number.ok_or("history: expected a number up to 10000")?;
            }
            "presence" => {
                watching.presence = match &*value {
                    "true" | "1" => true,
                    "false" | "0" => false,
                    _ => return Err("presence: expected true or false"),
                }
            }
            // Tokens may be there, and what is the page's own.
            _ => {}
        }
    }
    // A browser that comes back says it here, and the query as it was at first.
    if let Some(value) = headers.get(LAST_EVENT_ID) {
        watching.last_seen = Some(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    Ok(watching)
}

/// The headers of the answer. A page of an origin that the function names may read it.
fn of_stream(settings: &EventMode, request: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(6);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    if !settings.origins.is_empty() {
        let any = settings.origins.iter().any(|origin| origin == "*");
        let named = request.get(ORIGIN).cloned();
        let origin = if any { Some(HeaderValue::from_static("*")) } else { named };
        headers.extend(origin.map(|origin| (ACCESS_CONTROL_ALLOW_ORIGIN, origin)));
        headers.insert(VARY, HeaderValue::from_static("Origin"));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_path_of_this_form_is_one_of_a_group() {
        for (path, group) in [
            ("/@groups/lobby/events", Some("lobby")),
            ("/@groups/a%2Fb%20c/events", Some("a/b c")),
            ("/@groups/a/b/events", Some("a/b")),
            ("/@groups//events", None),
            ("/@groups/lobby/events/", None),
            ("/@groups/lobby", None),
            ("/x/@groups/lobby/events", None),
            ("/@groups/%ff/events", None),
            ("/@groups/events", None),
        ] {
            assert_eq!(group_of(path).as_deref(), group, "{path}");
        }
    }

    #[test]
    fn what_a_client_saw_last_is_in_a_header_or_in_the_query() {
        let headers = |id: Option<&'static str>| {
            id.map(|id| (LAST_EVENT_ID, HeaderValue::from_static(id))).into_iter().collect::<HeaderMap>()
        };
        for (query, header, expected) in [
            (None, None, Ok((None, 0, false))),
            (Some("history=5&presence=true&x=1"), None, Ok((None, 5, true))),
            (Some("last-event-id=a-1"), None, Ok((Some("a-1"), 0, false))),
            (Some("last-event-id=a-1"), Some("a-2"), Ok((Some("a-2"), 0, false))),
            (Some("history=10001"), None, Err("history: expected a number up to 10000")),
            (Some("presence=yes"), None, Err("presence: expected true or false")),
        ] {
            let read = read(query, &headers(header));
            let read = read.map(|asked| (asked.last_seen, asked.history, asked.presence));
            let expected = expected.map(|(id, history, presence)| (id.map(str::to_owned), history, presence));
            assert_eq!(read, expected, "{query:?} {header:?}");
        }
    }
}
