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

/// What a token has to say for its bearer to be let in: a claim, and a text that it is or has among others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequiredClaim {
    /// The name of the claim.
    pub name: String,
    /// What it says.
    pub text: String,
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

/// What a token says, once that is found out: keys may have to be fetched for it.
pub type Verification<'a> = Pin<Box<dyn Future<Output = Result<Claims, BadToken>> + Send + 'a>>;

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

    /// What this bearer token says, once it is verified; an error if it does not count. Asked only where a function asks
    /// for a token, or has keys that are in one.
    fn claims<'a>(&'a self, _token: &'a str) -> Verification<'a> {
        Box::pin(std::future::ready(Err(BadToken::Nobody)))
    }
}

impl Upstream {
    /// Does it ask for a token, be it for what is in it?
    pub(crate) fn asks_for_token(&self) -> bool {
        let keyed = || self.placement.load().as_ref().is_some_and(|placement| placement.is_keyed_by_token());
        self.access().token || keyed()
    }

    /// May who bears a token that says this be let in?
    ///
    /// # Errors
    /// With what it does not say and has to.
    pub(crate) fn permit(&self, claims: &Claims) -> Result<(), Error> {
        let required = self.required_claims();
        let lacks = |one: &&RequiredClaim| !claims.all(&one.name).contains(&one.text);
        match required.iter().find(lacks) {
            Some(RequiredClaim { name, text }) => Err(Error::InsufficientToken {
                function: self.key().clone(),
                lacks: format!("{name}={text}").into(),
            }),
            None => Ok(()),
        }
    }

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
        if self.asks_for_token() {
            let claims = token.verify().await.map_err(|why| why.of(self.key()))?;
            self.permit(claims)?;
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
    use crate::bearer::TokenPlaces;
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

        fn claims<'a>(&'a self, _: &'a str) -> Verification<'a> {
            Box::pin(std::future::ready(self.1.map(|()| Claims::default())))
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
            let request = http::Request::get("/").header("x-forwarded-for", "10.63.0.9");
            let mut request = request.header("authorization", "Bearer t").body(()).unwrap();
            let token = Token::take(&*guard, &TokenPlaces::default(), &mut request);
            let admitted = upstream.admit(&guard, request.headers(), &token, peer.parse().unwrap()).await;
            assert!(admitted.as_ref().is_ok_and(|judged| *judged == access.login) || status.is_some());
            let told = admitted.err().map(|error| error.status(false).as_u16());
            assert_eq!(told, status, "{access:?} {peer} {answer:?} {claims:?}");
        }
    }

    #[test]
    fn a_token_that_counts_may_still_not_say_enough() {
        let upstream = Upstream::new(FunctionKey::from_route("f").unwrap(), UpstreamLimits::default());
        let claims: Claims = [("role", "reader"), ("role", "editor"), ("tenant", "acme")]
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .into_iter()
            .collect();
        for (required, lacks) in [
            (&[][..], None),
            (&[("role", "editor")][..], None),
            (&[("role", "editor"), ("tenant", "acme")], None),
            (&[("role", "editor"), ("tenant", "other")], Some("tenant=other")),
            (&[("role", "admin")], Some("role=admin")),
            (&[("none", "x")], Some("none=x")),
        ] {
            let required = required
                .iter()
                .map(|(name, text)| RequiredClaim { name: (*name).into(), text: (*text).into() });
            upstream.set_required_claims(required.collect());
            match (upstream.permit(&claims), lacks) {
                (Ok(()), None) => {}
                (Err(Error::InsufficientToken { lacks: told, .. }), Some(lacks)) => assert_eq!(&*told, lacks),
                other => panic!("{other:?}"),
            }
        }
    }
}
