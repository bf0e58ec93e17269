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
use crate::upstream::Upstream;

/// What a function asks of its callers. The default is nothing: it is open to everyone who reaches the port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Only replicas on this host may call it; for others it is not there.
    pub internal: bool,
    /// Callers have to say who they are.
    pub login: bool,
}

impl Access {
    /// Everything is asked for: of a function of which it is not known what it asks.
    pub const STRICTEST: Self = Self { internal: true, login: true };

    /// Does it ask for nothing?
    #[must_use]
    pub fn is_open(self) -> bool {
        self == Self::default()
    }

    /// What is asked for by either of two.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { internal: self.internal || other.internal, login: self.login || other.login }
    }

    pub(crate) fn bits(self) -> u8 {
        u8::from(self.internal) | u8::from(self.login) << 1
    }

    pub(crate) fn from_bits(bits: u8) -> Self {
        Self { internal: bits & 1 != 0, login: bits & 2 != 0 }
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
}

impl Upstream {
    /// May `peer` call this function with these headers? For calls from outside; what the host itself calls is not
    /// asked. Says whether the headers had to name a user: then their password is the host's, and not the function's.
    ///
    /// # Errors
    /// [`Error::UnknownFunction`] when it is not even to know of the function, and then nothing else is looked at;
    /// another one when it is not let in.
    pub async fn admit(
        &self,
        guard: &Arc<dyn Guard>,
        headers: &HeaderMap,
        peer: SocketAddr,
    ) -> Result<bool, Error> {
        let access = self.access();
        if access.internal && !guard.is_replica(peer.ip().to_canonical()) {
            return Err(Error::UnknownFunction { name: self.key().to_string() });
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

    struct Answers(Result<(), Denied>);

    impl Guard for Answers {
        fn is_replica(&self, address: IpAddr) -> bool {
            address == IpAddr::from([10, 63, 0, 9])
        }

        fn authenticate<'a>(&'a self, _: &'a HeaderMap, _: IpAddr) -> Judgement<'a> {
            Box::pin(std::future::ready(self.0))
        }
    }

    #[test]
    fn what_is_asked_for_is_kept_in_bits() {
        for (internal, login) in [(false, false), (true, false), (false, true), (true, true)] {
            let access = Access { internal, login };
            assert_eq!(Access::from_bits(access.bits()), access);
            assert_eq!(access.is_open(), !internal && !login);
            assert_eq!(access.and(Access::STRICTEST), Access::STRICTEST);
            assert_eq!(access.and(Access::default()), access);
        }
    }

    #[tokio::test]
    async fn callers_are_admitted_by_where_they_are_and_who_they_are() {
        let (inside, outside) = ("10.63.0.9:1", "10.63.0.1:1");
        let (open, internal) = (Access::default(), Access { internal: true, login: false });
        let login = Access { internal: false, login: true };
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
        for (access, peer, answer, status) in table {
            let upstream = Upstream::new(FunctionKey::from_route("f").unwrap(), UpstreamLimits::default());
            upstream.set_access(access);
            let guard: Arc<dyn Guard> = Arc::new(Answers(answer));
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", "10.63.0.9".parse().unwrap());
            let admitted = upstream.admit(&guard, &headers, peer.parse().unwrap()).await;
            assert!(admitted.as_ref().is_ok_and(|judged| *judged == access.login) || status.is_some());
            let told = admitted.err().map(|error| error.status(false).as_u16());
            assert_eq!(told, status, "{access:?} {peer} {answer:?}");
        }
    }
}
