//! The only mapping of what went wrong to a status and a text of the API.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use tracing::error;

use crate::function::registry::RegistryError;
use crate::function::spec::Invalid;
use crate::image::ImageError;

/// An answer that is not the one that was asked for.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    text: String,
}

impl ApiError {
    /// An answer with a status and one line of text.
    pub fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    /// The caller's mistake.
    pub fn bad_request(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// The host's trouble: the caller is told that there is some, the log what it is.
    pub fn internal(cause: &dyn std::fmt::Display) -> Self {
        error!("an API call failed: {cause}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the host could not do this: see the log of roostd")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let headers = [
            (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ];
        (self.status, headers, format!("{}\n", self.text)).into_response()
    }
}

impl From<Invalid> for ApiError {
    fn from(invalid: Invalid) -> Self {
        Self::bad_request(invalid.to_string())
    }
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Unknown(key) => {
                Self::new(StatusCode::NOT_FOUND, format!("function: {key} not found"))
            }
            RegistryError::Exists(_) => Self::bad_request(error.to_string()),
            RegistryError::Store(error) => Self::internal(&error),
        }
    }
}

impl From<ImageError> for ApiError {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Absent { .. } => Self::new(StatusCode::NOT_FOUND, error.to_string()),
            ImageError::Containerd { .. } | ImageError::Host { .. } => Self::internal(&error),
            _ => Self::bad_request(error.to_string()),
        }
    }
}
