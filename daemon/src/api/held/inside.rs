//! Functions that speak to connections: which of them may, and to which.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use roost_proxy::function::Namespace;

use crate::api::{Api, ApiError};

/// What is told to whoever has no token, or none of this host.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"connections\"");

/// A call is one of a function in this namespace.
#[derive(Debug, Clone)]
pub(super) struct Inside(pub(super) Namespace);

/// Lets a call through if it has the token of a namespace that there is.
pub(in crate::api) async fn authorize(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    match of_token(&api, request.headers()) {
        Some(namespace) => {
            request.extensions_mut().insert(Inside(namespace));
            next.run(request).await
        }
        None => {
            let text = "expected the token in ROOST_CONNECTIONS_TOKEN, as Authorization: Bearer";
            let mut response = ApiError::new(StatusCode::UNAUTHORIZED, text).into_response();
            response.headers_mut().insert(header::WWW_AUTHENTICATE, CHALLENGE);
            response
        }
    }
}

/// The namespace whose token a call has.
pub(super) fn of_token(api: &Api, headers: &HeaderMap) -> Option<Namespace> {
    let namespace = api.passes.namespace(bearer(headers)?)?;
    api.registry.require_namespace(&namespace).is_ok().then_some(namespace)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_whatever_the_case_of_its_scheme() {
        for (value, token) in [
            ("Bearer a.b", Some("a.b")),
            ("bearer  a.b ", Some("a.b")),
            ("Basic a.b", None),
            ("Bearer", None),
            ("", None),
        ] {
            let headers = [(header::AUTHORIZATION, HeaderValue::from_static(value))].into_iter().collect();
            assert_eq!(bearer(&headers), token, "{value}");
        }
    }
}
