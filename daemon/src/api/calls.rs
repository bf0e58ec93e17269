//! What is counted of the API's calls: method, route, status, and how long until the head of the answer.
//!
//! Owns what the calls are told apart by. Never by anything that a caller chooses: a route has no names in it, a method
//! that is not known is one of `OTHER`.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

use crate::metrics::Timings;

/// Below this, calls are counted here.
const COUNTED: &str = "/system";

/// Calls below this never come to the API's routes: the proxy answers them, and the queue has them counted.
const DEFERRED: &str = "/async-function";

/// A kind of call.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiCall {
    /// Such as `GET`.
    pub method: &'static str,
    /// The route without names: `/system/function`; `/system` for what is no route there.
    pub path: String,
    /// The status that was answered.
    pub status: u16,
}

impl ApiCall {
    /// One below `/async-function`.
    #[must_use]
    pub fn deferred(of: &Method, status: StatusCode) -> Self {
        Self { method: method(of), path: DEFERRED.to_owned(), status: status.as_u16() }
    }
}

/// Counts a call. For all routes of the API.
pub(super) async fn count(State(calls): State<Timings<ApiCall>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let matched = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let path = route(matched, request.uri().path());
    let method = method(request.method());
    let response = next.run(request).await;
    if let Some(path) = path {
        calls.observe(ApiCall { method, path, status: response.status().as_u16() }, began.elapsed());
    }
    response
}

/// The route that a call is counted under, if it is. `matched` is the router's pattern, if one of its routes fits.
fn route(matched: Option<&str>, asked: &str) -> Option<String> {
    let below = |path: &str, root: &str| {
        path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if !below(asked, COUNTED) {
        return None;
    }
    // Where nothing fits, some routers name what they fell back to: a pattern of all paths, `{*…}`.
    let path = matched.map_or(COUNTED, |pattern| pattern.split("/{").next().unwrap_or(COUNTED));
    Some(if below(path, COUNTED) { path.trim_end_matches('/').to_owned() } else { COUNTED.to_owned() })
}

fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "OTHER",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_counted_by_its_route_and_never_by_a_name() {
        for (matched, asked, path) in [
            (Some("/system/functions"), "/system/functions", Some("/system/functions")),
            (Some("/system/function/{name}"), "/system/function/secret", Some("/system/function")),
            (Some("/system/namespace/"), "/system/namespace/", Some("/system/namespace")),
            (Some("/system/a/{b}/c"), "/system/a/x/c", Some("/system/a")),
            (None, "/async-function/", None),
            (Some("/{*any}"), "/system/unheard-of", Some("/system")),
            (None, "/system/unheard-of/name", Some("/system")),
            (None, "/system", Some("/system")),
            (None, "/systematic", None),
            (Some("/healthz"), "/healthz", None),
            (None, "/", None),
        ] {
            assert_eq!(route(matched, asked).as_deref(), path, "{matched:?} {asked}");
        }
    }

    #[test]
    fn methods_of_a_callers_own_are_one() {
        assert_eq!(method(&Method::DELETE), "DELETE");
        let call = ApiCall::deferred(&Method::POST, StatusCode::ACCEPTED);
        assert_eq!((call.method, call.path.as_str(), call.status), ("POST", "/async-function", 202));
        assert_eq!(method(&Method::from_bytes(b"BREW").unwrap()), "OTHER");
    }
}
