//! Who may call a function: the question of one request, before anything is claimed for it.
//!
//! Owns what a function may ask of its callers, and what a refused caller is told. Never judges a caller itself: whoever
//! embeds the proxy does, by its [`Guard`]. Nothing that a client can write decides where it is: its address is the
//! other end of its connection, headers do not count.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use http::HeaderMap;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::token::{BadToken, Claims, Token};
use crate::upstream::Upstream;

/// What a function asks of its callers. The default is nothing: it is open to everyone who reaches the port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Access {
    /// Only replicas on this host may call it; for others it is not there.
    pub internal: bool,
    /// Callers have to say who they are.
    pub login: bool,
    /// Callers have to bear a token. As a request has one place for either, nobody passes where a login is asked for, too.
    pub token: bool,
}

impl Access {
    /// Everything is asked for: of a function of which it is not known what it asks.
    pub const STRICTEST: Self = Self { internal: true, login: true, token: true };

    /// Does it ask for nothing?
    #[must_use]
    pub fn is_open(self) -> bool {
        self == Self::default()
    }

    /// What is asked for by either of two.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self::from_bits(self.bits() | other.bits())
    }

    pub(crate) fn bits(self) -> u8 {
        u8::from(self.internal) | u8::from(self.login) << 1 | u8::from(self.token) << 2
    }

    pub(crate) fn from_bits(bits: u8) -> Self {
        Self { internal: bits & 1 != 0, login: bits & 2 != 0, token: bits & 4 != 0 }
    }
}

/// Why a caller that has to say who it is was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// It said nothing, or what it said is wrong.
    Credentials,
    /// Too many are being asked at this moment.
    Busy,
    /// This host knows nobody.
    Nobody,
}

/// A judgement that is still being made.
pub type Judgement<'a> = Pin<Box<dyn Future<Output = Result<(), Denied>> + Send + 'a>>;

/// Judges callers, for the functions that ask for it.
pub trait Guard: Send + Sync {
    /// Is this the address of a replica on this host?
    fn is_replica(&self, address: IpAddr) -> bool;

    /// Do these headers, which came from `peer`, say who the caller is, and is it so?
    fn authenticate<'a>(&'a self, headers: &'a HeaderMap, peer: IpAddr) -> Judgement<'a>;

    /// The name by which these headers say who the caller is, after [`authenticate`](Self::authenticate) has found it to
    /// be so. For the access log.
    fn user(&self, _headers: &HeaderMap) -> Option<String> {
        None
    }

    /// What the bearer token in these headers says, once it is verified. Asked only where a function asks for a token,
    /// or has keys that are in one.
    ///
    /// # Errors
    /// When there is no token that counts.
    fn claims(&self, _headers: &HeaderMap) -> Result<Claims, BadToken> {
        Err(BadToken::Nobody)
    }
}

impl Upstream {
    /// May `peer` call this function with these headers, of which `token` is? For calls from outside; what the host itself
    /// calls is not asked. Says whether the headers had to name a user: then their password is the host's, and not the function's.
    ///
    /// # Errors
    /// [`Error::UnknownFunction`] when it is not even to know of the function, and then nothing else is looked at;
    /// another one when it is not let in.
    pub(crate) async fn admit(
        &self,
        guard: &Arc<dyn Guard>,
        headers: &HeaderMap,
        token: &Token<'_>,
        peer: SocketAddr,
    ) -> Result<bool, Error> {
        let access = self.access();
        if access.internal && !guard.is_replica(peer.ip().to_canonical()) {
            return Err(Error::UnknownFunction { name: self.key().to_string() });
        }
        if access.token {
            token.claims(headers).map_err(|why| why.of(self.key()))?;
        }
        if !access.login {
            return Ok(false);
        }
        let function = || self.key().clone();
        guard.authenticate(headers, peer.ip()).await.map(|()| true).map_err(|denied| match denied {
            Denied::Credentials => Error::Unauthorized { function: function() },
            Denied::Busy => {
                Error::Unavailable { function: function(), reason: "too many logins at once".into() }
            }
            Denied::Nobody => {
                let reason = "it asks for a login, and this host has no users";
                Error::Unavailable { function: function(), reason: reason.into() }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::function::FunctionKey;
    use crate::upstream::UpstreamLimits;

    struct Answers(Result<(), Denied>, Result<(), BadToken>);

    impl Guard for Answers {
        fn is_replica(&self, address: IpAddr) -> bool {
            address == IpAddr::from([10, 63, 0, 9])
        }

        fn authenticate<'a>(&'a self, _: &'a HeaderMap, _: IpAddr) -> Judgement<'a> {
            Box::pin(std::future::ready(self.0))
        }

        fn claims(&self, _: &HeaderMap) -> Result<Claims, BadToken> {
            self.1.map(|()| Claims::default())
        }
    }

    #[test]
    fn what_is_asked_for_is_kept_in_bits() {
        for bits in 0..8 {
            let access = Access::from_bits(bits);
            assert_eq!(access.bits(), bits);
            assert_eq!(access.is_open(), !access.internal && !access.login && !access.token);
            assert_eq!(access.and(Access::STRICTEST), Access::STRICTEST);
            assert_eq!(access.and(Access::default()), access);
        }
    }

    #[tokio::test]
    async fn callers_are_admitted_by_where_they_are_and_who_they_are() {
        let (inside, outside) = ("10.63.0.9:1", "10.63.0.1:1");
        let open = Access::default();
        let (internal, login) = (Access { internal: true, ..open }, Access { login: true, ..open });
        let token = Access { token: true, ..open };
        let table = [
            (open, outside, Err(Denied::Credentials), None),
            (internal, inside, Err(Denied::Credentials), None),
            (internal, "[::ffff:10.63.0.9]:1", Err(Denied::Credentials), None),
            (internal, outside, Ok(()), Some(404)),
            (login, outside, Ok(()), None),
            (login, outside, Err(Denied::Credentials), Some(401)),
            (login, inside, Err(Denied::Credentials), Some(401)),
            (login, outside, Err(Denied::Busy), Some(503)),
            (login, outside, Err(Denied::Nobody), Some(503)),
            (Access::STRICTEST, outside, Ok(()), Some(404)),
            (Access::STRICTEST, inside, Err(Denied::Credentials), Some(401)),
            (Access::STRICTEST, inside, Ok(()), None),
        ];
        let without_token = table.map(|(access, peer, login, status)| (access, peer, login, Ok(()), status));
        let (none, wrong) = (Err(BadToken::Nobody), Err(BadToken::Untrusted));
        let with_token = [
            (open, outside, Ok(()), wrong, None),
            (token, outside, Err(Denied::Credentials), Ok(()), None),
            (token, outside, Ok(()), wrong, Some(401)),
            (token, outside, Ok(()), none, Some(503)),
            (Access { internal: true, ..token }, outside, Ok(()), wrong, Some(404)),
            (Access { login: true, ..token }, outside, Err(Denied::Credentials), Ok(()), Some(401)),
            (Access { login: true, ..token }, outside, Ok(()), wrong, Some(401)),
        ];
        for (access, peer, answer, claims, status) in without_token.into_iter().chain(with_token) {
            let upstream = Upstream::new(FunctionKey::from_route("f").unwrap(), UpstreamLimits::default());
            upstream.set_access(access);
            let guard: Arc<dyn Guard> = Arc::new(Answers(answer, claims));
            let token = Token::new(&*guard);
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", "10.63.0.9".parse().unwrap());
            let admitted = upstream.admit(&guard, &headers, &token, peer.parse().unwrap()).await;
            assert!(admitted.as_ref().is_ok_and(|judged| *judged == access.login) || status.is_some());
            let told = admitted.err().map(|error| error.status(false).as_u16());
            assert_eq!(told, status, "{access:?} {peer} {answer:?} {claims:?}");
        }
    }
}
