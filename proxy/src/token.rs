//! The bearer token of one request: what it says once it has been verified.
//!
//! Owns that a token is verified before anything is made of it, and at most once for a request. Never verifies one
//! itself: whoever embeds the proxy does, by its [`Guard`]. Where in a request a token is, [`bearer`](crate::bearer) knows.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::SystemTime;

use http::{HeaderValue, Request};

use crate::access::Guard;
use crate::bearer::{self, Borne, TokenPlaces};
use crate::error::Error;
use crate::function::FunctionKey;
use crate::placement::ReplicaKey;

/// What a token that was verified says, as far as it is text: its claims by name, a list with all that is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    said: BTreeMap<String, Vec<String>>,
    until: Option<SystemTime>,
}

impl Claims {
    /// The text of a claim that says one thing.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        match self.all(name) {
            [one] => Some(one),
            _ => None,
        }
    }

    /// Everything that a claim says.
    #[must_use]
    pub fn all(&self, name: &str) -> &[String] {
        self.said.get(name).map_or(&[], Vec::as_slice)
    }

    /// Who the token is of: `sub`, unless it is empty.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.get("sub").filter(|subject| !subject.is_empty())
    }

    /// The same claims, of a token that counts until then.
    #[must_use]
    pub fn counting_until(self, until: SystemTime) -> Self {
        Self { until: Some(until), ..self }
    }

    /// Until when the token counts. `None`: nobody has said.
    #[must_use]
    pub fn until(&self) -> Option<SystemTime> {
        self.until
    }

    /// All that is said, in the order of the names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.said.iter().flat_map(|(name, all)| all.iter().map(|text| (name.as_str(), text.as_str())))
    }
}

impl FromIterator<(String, String)> for Claims {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(claims: I) -> Self {
        let mut said = BTreeMap::<String, Vec<String>>::new();
        for (name, text) in claims {
            said.entry(name).or_default().push(text);
        }
        Self { said, until: None }
    }
}

/// Why the token of a request does not count. The text is for the client, and says nothing of what it sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// There is none, or more than one.
    #[error("the request has to bear one token, as in a header Authorization: Bearer TOKEN")]
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
    /// The keys that would tell have never been there.
    #[error("the keys of its issuer could not be fetched yet")]
    NoKeys,
    /// It was not looked at: the function did not ask for one when the request came.
    #[error("the function has only just begun to ask for a token")]
    Unread,
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
            Self::NoKeys | Self::Unread => {
                Error::Unavailable { function, reason: format!("it asks for a token, and {self}").into() }
            }
            why => Error::InvalidToken { function, why },
        }
    }
}

/// The token of one request, which is looked at when something asks for it.
pub(crate) struct Token<'a> {
    guard: &'a dyn Guard,
    borne: Result<Borne, BadToken>,
    verified: OnceLock<Result<Claims, BadToken>>,
}

impl<'a> Token<'a> {
    /// None: nobody asks for one.
    pub(crate) fn unread(guard: &'a dyn Guard) -> Self {
        Self { guard, borne: Err(BadToken::Unread), verified: OnceLock::new() }
    }

    /// The one of this request, which is taken out of its query and its subprotocols: it is in its header from now on.
    pub(crate) fn take<B>(guard: &'a dyn Guard, places: &TokenPlaces, request: &mut Request<B>) -> Self {
        Self { guard, borne: bearer::take(places, request), verified: OnceLock::new() }
    }

    /// What it says, after it has been verified, if it is the first time that this is asked.
    pub(crate) async fn verify(&self) -> Result<&Claims, BadToken> {
        if self.verified.get().is_none() {
            let verified = match &self.borne {
                Ok(borne) => self.guard.claims(&borne.token).await,
                Err(why) => Err(*why),
            };
            self.verified.get_or_init(|| verified);
        }
        self.claims()
    }

    /// What it says, if it has been verified.
    pub(crate) fn claims(&self) -> Result<&Claims, BadToken> {
        match self.verified.get() {
            Some(verified) => verified.as_ref().map_err(|why| *why),
            None => Err(BadToken::Unread),
        }
    }

    /// The subprotocol that stood for it in the handshake, and has to be agreed upon if no other one is.
    pub(crate) fn marker(&self) -> Option<&HeaderValue> {
        self.borne.as_ref().ok()?.marker.as_ref()
    }
}

/// The key that the token of a call said, found when the call was taken over. It stays with the call, in the extensions of
/// its request: when the call is made, the token may have expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenKey {
    /// Which claim it is the text of.
    pub claim: Box<str>,
    /// What that says.
    pub key: ReplicaKey,
}
