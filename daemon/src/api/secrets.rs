//! `/system/secrets`: names are shown, values only come in.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::error::Category;

use super::extract::{Body, Query};
use super::functions::Scope;
use super::{Api, ApiError};
use crate::secrets::{MAX_VALUE, SecretName, SecretValue};

/// The largest body, in bytes: the largest value as base64 and, beside it, as a text of which each byte is escaped, as
/// clients send files.
const MAX_BODY: usize = MAX_VALUE * 8;

/// A secret, as it is sent. No `Debug`: it holds the value.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Sent {
    name: Option<String>,
    namespace: Option<String>,
    value: Option<String>,
    raw_value: Option<String>,
}

/// A secret, as it is shown.
#[derive(Debug, Serialize)]
struct SecretView {
    name: String,
    namespace: String,
}

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/secrets", get(list).post(create).put(update).delete(remove))
}

async fn list(State(api): State<Api>, Query(scope): Query<Scope>) -> Result<Json<Vec<SecretView>>, ApiError> {
    let namespace = api.namespace(&scope.namespace)?;
    let names = api.secrets.list(namespace.clone()).await?;
    let view = |name: SecretName| SecretView { name: name.to_string(), namespace: namespace.to_string() };
    Ok(Json(names.into_iter().map(view).collect()))
}

async fn create(
    State(api): State<Api>,
    Query(scope): Query<Scope>,
    Body(body): Body<MAX_BODY>,
) -> Result<StatusCode, ApiError> {
    let sent = Sent::read(&body)?;
    let (namespace, name) = (api.namespace(sent.namespace(&scope))?, sent.name()?);
    api.registry.create_secret(namespace, name, sent.value()?).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn update(
    State(api): State<Api>,
    Query(scope): Query<Scope>,
    Body(body): Body<MAX_BODY>,
) -> Result<StatusCode, ApiError> {
    let sent = Sent::read(&body)?;
    let (namespace, name) = (api.namespace(sent.namespace(&scope))?, sent.name()?);
    api.secrets.update(namespace, name, sent.value()?).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn remove(
    State(api): State<Api>,
    Query(scope): Query<Scope>,
    Body(body): Body<MAX_BODY>,
) -> Result<StatusCode, ApiError> {
    let sent = Sent::read(&body)?;
    let (namespace, name) = (api.namespace(sent.namespace(&scope))?, sent.name()?);
    api.registry.remove_secret(namespace, name).await?;
    Ok(StatusCode::ACCEPTED)
}

impl Sent {
    /// Reads a body. What it says of a mistake is where it is, and nothing of what stands there.
    fn read(body: &[u8]) -> Result<Self, ApiError> {
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        let read = serde_path_to_error::deserialize(&mut deserializer);
        let (path, error) = match read {
            Ok(sent) => match deserializer.end() {
                Ok(()) => return Ok(sent),
                Err(error) => (String::new(), error),
            },
            Err(error) => (error.path().to_string(), error.into_inner()),
        };
        Err(ApiError::bad_request(match error.classify() {
            Category::Data if path == "." => "bad JSON: expected an object".to_owned(),
            Category::Data => format!("{path}: expected a text"),
            _ => format!("bad JSON at line {} column {}", error.line(), error.column()),
        }))
    }

    /// The namespace that is meant: the one in the body goes before the one in the query.
    fn namespace<'a>(&'a self, scope: &'a Scope) -> &'a str {
        self.namespace.as_deref().filter(|text| !text.is_empty()).unwrap_or(&scope.namespace)
    }

    /// Which secret is meant.
    fn name(&self) -> Result<SecretName, ApiError> {
        let name = self.name.as_deref().unwrap_or_default();
        if name.is_empty() {
            return Err(ApiError::bad_request("name: is required"));
        }
        name.parse().map_err(|why| ApiError::bad_request(format!("name: {why}")))
    }

    /// The value: `rawValue`, unless that is empty.
    fn value(self) -> Result<SecretValue, ApiError> {
        let (field, bytes) = match self.raw_value {
            Some(raw) if !raw.is_empty() => {
                let bytes = BASE64_STANDARD.decode(raw);
                ("rawValue", bytes.map_err(|_| ApiError::bad_request("rawValue: expected base64"))?)
            }
            _ => ("value", self.value.unwrap_or_default().into_bytes()),
        };
        let large = |why| ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, format!("{field}: {why}"));
        SecretValue::try_from(bytes).map_err(large)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse;
    use http_body_util::BodyExt;

    /// Status and text of a refusal.
    async fn told(error: ApiError) -> (u16, String) {
        let response = error.into_response();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn the_raw_value_wins_unless_it_is_empty() {
        for (body, value) in [
            (r#"{"name":"a","value":"text"}"#, b"text".as_slice()),
            (r#"{"name":"a","value":"text","rawValue":""}"#, b"text"),
            (r#"{"name":"a","value":"text","rawValue":null}"#, b"text"),
            (r#"{"name":"a","value":"text","rawValue":"AP8K"}"#, b"\x00\xff\n"),
            (r#"{"name":"a","value":null,"rawValue":"AA=="}"#, b"\0"),
            (r#"{"name":"a"}"#, b""),
        ] {
            assert_eq!(Sent::read(body.as_bytes()).ok().unwrap().value().unwrap().bytes(), value, "{body}");
        }
    }

    #[tokio::test]
    async fn what_is_wrong_is_said_without_the_value() {
        let large = format!(r#"{{"name":"a","value":"{}"}}"#, "x".repeat(MAX_VALUE + 1));
        for (body, status, text) in [
            ("", 400, "bad JSON at line 1 column 0\n"),
            (r#"{"name":"a","value":"hunter2"#, 400, "bad JSON at line 1 column 28\n"),
            (r#"{"name":"a","value":"x"}hunter2"#, 400, "bad JSON at line 1 column 25\n"),
            (r#""hunter2""#, 400, "bad JSON: expected an object\n"),
            (r#"{"name":"a","value":77}"#, 400, "value: expected a text\n"),
            (r#"{"name":"a","rawValue":["hunter2"]}"#, 400, "rawValue: expected a text\n"),
            (r#"{"name":"a","rawValue":"hunter2!"}"#, 400, "rawValue: expected base64\n"),
            (r#"{"value":"hunter2"}"#, 400, "name: is required\n"),
            (r#"{"name":"","value":"hunter2"}"#, 400, "name: is required\n"),
            (&large, 413, "value: 1048577 bytes, expected at most 1048576\n"),
        ] {
            let read = Sent::read(body.as_bytes()).and_then(|sent| {
                sent.name()?;
                sent.value()
            });
            assert_eq!(told(read.unwrap_err()).await, (status, text.to_owned()), "{body:.60}");
        }
        for name in ["../a", "a/b", "..", "A"] {
            let body = serde_json::json!({ "name": name, "value": "hunter2" }).to_string();
            let refused = Sent::read(body.as_bytes()).and_then(|sent| sent.name());
            let (status, text) = told(refused.unwrap_err()).await;
            assert!(status == 400 && text.starts_with("name: ") && !text.contains("hunter2"), "{text}");
        }
    }
}
