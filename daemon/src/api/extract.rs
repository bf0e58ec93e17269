//! What is read of a request: query, path and body, each with the API's own words for what is wrong with it.

use std::collections::BTreeMap;

use axum::body::{self, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use http_body_util::LengthLimitError;
use serde::de::DeserializeOwned;

use super::ApiError;

/// The largest body of most calls, in bytes.
const MAX_BODY: usize = 4 << 20;

/// The parameters of the query. One that is given twice counts the last time.
pub(super) struct Query<T>(pub(super) T);

/// The one name in the path.
pub(super) struct Path(pub(super) String);

/// The two names in the path.
pub(super) struct Paths(pub(super) String, pub(super) String);

/// The body whole, of at most `MAX` bytes.
pub(super) struct Body<const MAX: usize = MAX_BODY>(pub(super) Bytes);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        query(&parts.uri).map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Path {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let name = axum::extract::Path::from_request_parts(parts, state).await;
        name.map(|axum::extract::Path(name)| Self(name))
            .map_err(|_| ApiError::bad_request("name: expected UTF-8 in the path"))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Paths {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let names = axum::extract::Path::from_request_parts(parts, state).await;
        names
            .map(|axum::extract::Path((first, second))| Self(first, second))
            .map_err(|_| ApiError::bad_request("name: expected UTF-8 in the path"))
    }
}

impl<S: Sync, const MAX: usize> FromRequest<S> for Body<MAX> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        body::to_bytes(request.into_body(), MAX).await.map(Self).map_err(|error| {
            if std::error::Error::source(&error).is_some_and(<dyn std::error::Error>::is::<LengthLimitError>)
            {
                let text = format!("the body is over the limit of {MAX} bytes");
                ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, text)
            } else {
                ApiError::bad_request(format!("the body did not arrive whole: {error}"))
            }
        })
    }
}

/// Reads a query whose parameters are texts.
fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, ApiError> {
    let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
    let pairs = pairs.map_err(|_| ApiError::bad_request("the query cannot be read"))?.0;
    let last: BTreeMap<String, String> = pairs.into_iter().collect();
    let last = last.into_iter().map(|(name, value)| (name, value.into())).collect();
    serde_json::from_value(serde_json::Value::Object(last))
        .map_err(|why| ApiError::bad_request(format!("the query: {why}")))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Asked {
        #[serde(default)]
        namespace: String,
        wait: Option<String>,
    }

    #[test]
    fn of_what_is_given_twice_the_last_counts() {
        for (text, namespace, wait) in [
            ("/", "", None),
            ("/?", "", None),
            ("/?namespace=a&namespace=b&other=c", "b", None),
            ("/?wait=1&namespace=&wait=5%20s&namespace=%ff", "\u{fffd}", Some("5 s")),
        ] {
            let asked: Asked = query(&text.parse().unwrap()).unwrap();
            assert_eq!(asked, Asked { namespace: namespace.into(), wait: wait.map(str::to_owned) }, "{text}");
        }
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_limit_and_the_limit_is_named() {
        let read = async |text: &'static str| {
            let request = Request::new(body::Body::from(text));
            Body::<4>::from_request(request, &()).await.map(|Body(bytes)| bytes)
        };
        assert_eq!(read("four").await.unwrap(), "four");
        let large = read("fives").await.unwrap_err();
        assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(large.text, "the body is over the limit of 4 bytes");
    }
}
