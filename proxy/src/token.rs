//! The bearer token of one request: what it says once it has been verified.
//!
//! Owns that a token is verified before anything is made of it, and at most once for a request. Never verifies one
//! itself: whoever embeds the proxy does, by its [`Guard`].

use std::collections::BTreeMap;
use std::sync::OnceLock;

use http::HeaderMap;

use crate::access::Guard;
use crate::error::Error;
use crate::function::FunctionKey;
use crate::placement::ReplicaKey;

/// What a token that was verified says, as far as it is text: its claims by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims(BTreeMap<String, String>);

impl Claims {
    /// The text of a claim.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl Claims {
    /// All of them, in the order of their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }
}

impl FromIterator<(String, String)> for Claims {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(claims: I) -> Self {
        Self(claims.into_iter().collect())
    }
}

/// Why the token of a request does not count. The text is for the client, and says nothing of what it sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// There is none, or more than one.
    #[error("the request has to have one header Authorization: Bearer TOKEN")]
    Missing,
    /// It is none.
    #[error("it is not a signed JSON Web Token of at most 16 KiB")]
    Malformed,
    /// It is signed with nothing that this host trusts.
    #[error("no key of this host verifies it")]
    Untrusted,
    /// It says not until when it holds.
    #[error("it does not say when it expires")]
    Endless,
    /// It held once.
    #[error("it has expired")]
    Expired,
    /// It will hold.
    #[error("it is not valid yet")]
    Early,
    /// It was made by somebody else.
    #[error("its issuer is not the one of this host")]
    Issuer,
    /// It was made for somebody else.
    #[error("it is not meant for this host")]
    Audience,
    /// This host has no keys, and so trusts nobody.
    #[error("this host verifies no tokens")]
    Nobody,
}

impl BadToken {
    /// What the client of `function` is told.
    pub(crate) fn of(self, function: &FunctionKey) -> Error {
        let function = function.clone();
        match self {
            Self::Nobody => {
                let reason = "it asks for a token, and this host verifies none";
                Error::Unavailable { function, reason: reason.into() }
            }
            why => Error::InvalidToken { function, why },
        }
    }
}

/// The token of one request, which is looked at when something asks for it.
pub(crate) struct Token<'a> {
    guard: &'a dyn Guard,
    verified: OnceLock<Result<Claims, BadToken>>,
}

impl<'a> Token<'a> {
    pub(crate) fn new(guard: &'a dyn Guard) -> Self {
        Self { guard, verified: OnceLock::new() }
    }

    /// What it says. `headers` are those of its request, whenever that is asked.
    pub(crate) fn claims(&self, headers: &HeaderMap) -> Result<&Claims, BadToken> {
        self.verified.get_or_init(|| self.guard.claims(headers)).as_ref().map_err(|why| *why)
    }
}

/// The key that the token of a call said, found when the call was taken over. It stays with the call, in the extensions of
/// its request: when the call is made, the token may have expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProvenKey {
    /// Which claim it is the text of.
    pub(crate) claim: Box<str>,
    pub(crate) key: ReplicaKey,
}
