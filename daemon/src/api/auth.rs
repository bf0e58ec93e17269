//! HTTP Basic on the API: which requests go on, and what the others are told. Who is a user is for `users` to say.

use std::net::{IpAddr, Ipv6Addr};

use axum::extract::{Request, State};
use axum::http::{Extensions, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::{Api, ApiError};
use crate::users::{Refused, Role};

/// When a client that found too many others may come again, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Where a request comes from: the other end of its connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

impl Peer {
    /// Where the request comes from that has these extensions.
    pub(super) fn of(extensions: &Extensions) -> IpAddr {
        extensions.get().copied().unwrap_or(Self(Ipv6Addr::UNSPECIFIED.into())).0
    }
}

/// Lets a request through if it is of a user who may do this.
pub(super) async fn authorize(State(api): State<Api>, request: Request, next: Next) -> Response {
    let Some(users) = &api.users else { return next.run(request).await };
    match users.authenticate(request.headers(), Peer::of(request.extensions())).await {
        Ok(role) if may(role, request.method()) => next.run(request).await,
        Ok(_) => {
            ApiError::new(StatusCode::FORBIDDEN, "this user is read-only: it may GET and HEAD, and no more")
                .into_response()
        }
        Err(Refused::Wrong) => refusal(),
        Err(Refused::Busy) => busy(),
    }
}

/// What a user may do.
pub(super) fn may(role: Role, method: &Method) -> bool {
    match role {
        Role::Admin => true,
        Role::ReadOnly => matches!(*method, Method::GET | Method::HEAD),
    }
}

/// The answer to a request without the right credentials, as clients of the contract know it.
fn refusal() -> Response {
    let headers = [
        (header::WWW_AUTHENTICATE, "Basic realm=\"Restricted\""),
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
    ];
    (StatusCode::UNAUTHORIZED, headers, "invalid credentials").into_response()
}

fn busy() -> Response {
    let text = "too many passwords are being checked: try again in a moment";
    let mut response = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_only_user_may_only_look() {
        for (method, fine) in [
            (Method::GET, true),
            (Method::HEAD, true),
            (Method::POST, false),
            (Method::PUT, false),
            (Method::PATCH, false),
            (Method::DELETE, false),
            (Method::OPTIONS, false),
        ] {
            assert_eq!(may(Role::ReadOnly, &method), fine, "{method}");
            assert!(may(Role::Admin, &method), "{method}");
        }
    }
}
