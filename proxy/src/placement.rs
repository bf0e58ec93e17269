//! What a function says of where its requests go: to any replica, back to the same one, or to the one of a key.
//!
//! Owns the spelling of these settings. Never looks at a request or at a replica.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use http::HeaderName;

/// The longest key of a replica, in bytes: it becomes a label of its container.
pub const MAX_KEY: usize = 256;

/// Where a function's requests go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// By what a client comes back to the replica that it had, where it is not by a key.
    pub affinity: Option<Affinity>,
    /// Each key has a replica of its own, and this is where requests say theirs.
    pub key: Option<KeySource>,
    /// At most so many keys have a replica at a time.
    pub max_keys: usize,
}

impl Placement {
    /// Is the key in a token?
    pub(crate) fn is_keyed_by_token(&self) -> bool {
        matches!(self.key, Some(KeySource::Jwt(_)))
    }
}

/// How a client is known again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Affinity {
    /// By a cookie that names the replica.
    Cookie,
    /// By its address.
    Ip,
    /// By the value of a header.
    Header(HeaderName),
    /// By the value of a parameter of the query.
    Query(Box<str>),
}

/// Where in a request its key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// In a segment of the path behind the function's name, counted from 1.
    Path(usize),
    /// In a parameter of the query.
    Query(Box<str>),
    /// In a header.
    Header(HeaderName),
    /// In a claim of the bearer token, which is verified before.
    Jwt(Box<str>),
}

/// What a replica of its own is for: a customer, a room. Not empty, at most [`MAX_KEY`] bytes, none of them a control
/// character.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplicaKey(Arc<str>);

/// A text is none of what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub struct InvalidPlacement(&'static str);

const INVALID_KEY: InvalidPlacement =
    InvalidPlacement("a key of 1 to 256 bytes of text without control characters");

impl FromStr for Affinity {
    type Err = InvalidPlacement;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: InvalidPlacement = InvalidPlacement("cookie, ip, header:NAME or query:NAME");
        match (text, text.split_once(':')) {
            ("cookie", _) => Ok(Self::Cookie),
            ("ip", _) => Ok(Self::Ip),
            (_, Some(("header", name))) => name.parse().map(Self::Header).map_err(|_| EXPECTED),
            (_, Some(("query", name))) if !name.is_empty() => Ok(Self::Query(name.into())),
            _ => Err(EXPECTED),
        }
    }
}

impl FromStr for KeySource {
    type Err = InvalidPlacement;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: InvalidPlacement =
            InvalidPlacement("path[N] with N from 1 to 16, query:NAME, header:NAME or jwt:CLAIM");
        if let Some(index) = text.strip_prefix("path[").and_then(|rest| rest.strip_suffix(']')) {
            return match index.parse() {
                Ok(index @ 1..=16) => Ok(Self::Path(index)),
                _ => Err(EXPECTED),
            };
        }
        match text.split_once(':') {
            Some(("header", name)) => name.parse().map(Self::Header).map_err(|_| EXPECTED),
            Some(("query", name)) if !name.is_empty() => Ok(Self::Query(name.into())),
            Some(("jwt", claim)) if !claim.is_empty() => Ok(Self::Jwt(claim.into())),
            _ => Err(EXPECTED),
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(index) => write!(f, "path[{index}]"),
            Self::Query(name) => write!(f, "query:{name}"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Jwt(claim) => write!(f, "jwt:{claim}"),
        }
    }
}

impl ReplicaKey {
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidPlacement> {
        str::from_utf8(bytes).map_err(|_| INVALID_KEY)?.parse()
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ReplicaKey {
    type Err = InvalidPlacement;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.len() > MAX_KEY || text.chars().any(char::is_control) {
            return Err(INVALID_KEY);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for ReplicaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_in_their_spellings_and_no_other() {
        for (text, expected) in [
            ("cookie", Some(Affinity::Cookie)),
            ("ip", Some(Affinity::Ip)),
            ("header:X-Room", Some(Affinity::Header(HeaderName::from_static("x-room")))),
            ("query:room", Some(Affinity::Query("room".into()))),
            ("query:", None),
            ("header:", None),
            ("header:a b", None),
            ("Cookie", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<Affinity>().ok(), expected, "{text:?}");
        }
        for (text, expected) in [
            ("path[1]", Some(KeySource::Path(1))),
            ("query:room", Some(KeySource::Query("room".into()))),
            ("header:X-Room", Some(KeySource::Header(HeaderName::from_static("x-room")))),
            ("jwt:sub", Some(KeySource::Jwt("sub".into()))),
            ("jwt:https://example.org/room", Some(KeySource::Jwt("https://example.org/room".into()))),
            ("jwt:", None),
            ("jwt", None),
            ("path[0]", None),
            ("path[17]", None),
            ("path", None),
            ("cookie", None),
        ] {
            let parsed = text.parse::<KeySource>().ok();
            assert_eq!(parsed, expected, "{text:?}");
            let spelt = parsed.map(|source| source.to_string().to_lowercase());
            assert_eq!(spelt, expected.map(|_| text.to_lowercase()));
        }
    }

    #[test]
    fn a_key_is_short_and_can_be_shown() {
        for (text, valid) in [
            ("a", true),
            ("", false),
            (&"x".repeat(256), true),
            (&"x".repeat(257), false),
            ("a\nb", false),
            ("ä b/c", true),
        ] {
            assert_eq!(text.parse::<ReplicaKey>().is_ok(), valid, "{text:?}");
        }
    }
}
