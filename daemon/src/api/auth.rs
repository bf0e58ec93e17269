//! HTTP Basic on the API. Owns the one user's name and password; never logs them.

use std::path::Path;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

/// The one user of the API.
pub struct Credentials {
    user: String,
    password: String,
}

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("cannot read the password in {path}: {source}")]
    Read {
        /// Which file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is empty: an empty password would let everybody in who knows the user's name.
    #[error("the password in {0} is empty")]
    Empty(std::path::PathBuf),
}

impl Credentials {
    /// The user `user` with the password in a file, without the white space around it.
    ///
    /// # Errors
    /// When the file cannot be read or is empty.
    pub fn load(user: &str, path: &Path) -> Result<Self, CredentialsError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| CredentialsError::Read { path: path.to_owned(), source })?;
        match text.trim() {
            "" => Err(CredentialsError::Empty(path.to_owned())),
            password => Ok(Self { user: user.to_owned(), password: password.to_owned() }),
        }
    }

    /// Does an `Authorization` header name this user with this password? Takes as long for a wrong one.
    #[must_use]
    pub fn admit(&self, header: Option<&HeaderValue>) -> bool {
        let Some((user, password)) = header.and_then(basic) else { return false };
        let user = user.as_bytes().ct_eq(self.user.as_bytes());
        let password = password.as_bytes().ct_eq(self.password.as_bytes());
        (user & password).into()
    }
}

/// User and password of a Basic header.
fn basic(header: &HeaderValue) -> Option<(String, String)> {
    let (scheme, encoded) = header.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// The answer to a request without the right credentials.
pub(super) fn refusal() -> Response {
    let headers = [
        (header::WWW_AUTHENTICATE, "Basic realm=\"Restricted\""),
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
    ];
    (StatusCode::UNAUTHORIZED, headers, "invalid credentials").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_user_with_the_right_password_is_admitted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), " s3:cret\n").unwrap();
        let credentials = Credentials::load("admin", file.path()).unwrap();
        let header = |text: &str| HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(text))).unwrap();
        assert!(credentials.admit(Some(&header("admin:s3:cret"))));
        for wrong in ["admin:", "admin:s3:cre", "root:s3:cret", "admin", ":"] {
            assert!(!credentials.admit(Some(&header(wrong))), "{wrong}");
        }
        for wrong in ["Bearer ", "Basic", "Basic !!!", "Basic YWRtaW4="] {
            assert!(!credentials.admit(Some(&HeaderValue::from_static(wrong))), "{wrong}");
        }
        assert!(!credentials.admit(None));
    }

    #[test]
    fn an_empty_password_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(Credentials::load("admin", file.path()), Err(CredentialsError::Empty(_))));
    }
}
