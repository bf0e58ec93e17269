//! The only mapping of what went wrong to a status and a text of the API.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use tracing::error;

use crate::deadletters::CannotRedrive;
use crate::function::registry::{NamespaceError, RegistryError};
use crate::function::spec::Invalid;
use crate::image::ImageError;
use crate::secrets::SecretError;

/// An answer that is not the one that was asked for.
#[derive(Debug)]
pub struct ApiError {
    pub(super) status: StatusCode,
    pub(super) text: String,
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

    /// There is no such function, in the words that clients of the contract know.
    pub fn unknown_function(name: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("function: {name} not found"))
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
            RegistryError::Unknown(key) => Self::unknown_function(key),
            RegistryError::Exists(_) | RegistryError::Refused(_) => Self::bad_request(error.to_string()),
            RegistryError::SecretInUse { .. } => Self::new(StatusCode::CONFLICT, error.to_string()),
            RegistryError::Secret(error) => error.into(),
            RegistryError::Store(error) => Self::internal(&error),
        }
    }
}

impl From<NamespaceError> for ApiError {
    fn from(error: NamespaceError) -> Self {
        match error {
            NamespaceError::Unknown(_) => Self::new(StatusCode::NOT_FOUND, error.to_string()),
            NamespaceError::Exists(_) | NamespaceError::Conflict(_) => {
                Self::new(StatusCode::CONFLICT, error.to_string())
            }
            _ => Self::internal(&error),
        }
    }
}

impl From<SecretError> for ApiError {
    fn from(error: SecretError) -> Self {
        match error {
            SecretError::Absent(_) => Self::new(StatusCode::NOT_FOUND, error.to_string()),
            SecretError::Exists(_) => Self::new(StatusCode::CONFLICT, error.to_string()),
            SecretError::File { .. } => Self::internal(&error),
        }
    }
}

impl From<CannotRedrive> for ApiError {
    fn from(error: CannotRedrive) -> Self {
        match error {
            CannotRedrive::Unknown => Self::new(StatusCode::NOT_FOUND, error.to_string()),
            CannotRedrive::InHand => Self::new(StatusCode::CONFLICT, error.to_string()),
            CannotRedrive::Failed { .. } => Self::new(StatusCode::BAD_GATEWAY, error.to_string()),
            CannotRedrive::NotTaken(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
            CannotRedrive::Unreadable => Self::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
            CannotRedrive::Disk(_) => Self::internal(&error),
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
