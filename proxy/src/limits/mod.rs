//! Limits on what clients send and how fast: of a server, and of each function.
//!
//! Owns what is turned away before it takes a place anywhere, and the counting of it. Each limit that is off costs one
//! load. How long a head may be and take is watched where it is read (`server`, `client`); only the counting is here.
//!
//! ```text
//!   accept ──► connections of this address ──► the whole head ──► strictness ──► rates of this address
//!                 └─ 429, closed                  └─ 431              └─ 400        └─ 429
//!   route, access ──► rates of this function ──► its connections, those of the user ──► length of the body ──► claim … body as it comes
//!                        └─ 429                    └─ 429               └─ 413               └─ 413 or reset, 408
//! ```

mod body;
mod clients;
mod counts;
mod function;
mod rate;
mod refusal;
mod users;

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use http::Request;
use http_body::Body;
use tokio::time::Instant;

pub(crate) use body::{Bounded, bound};
pub(crate) use clients::Place;
use clients::{Connections, Paces};
use counts::Counts;
pub use counts::Limit;
pub use function::Bounds;
use function::NO_PLACE;
pub(crate) use function::{FunctionGate, TunnelPlace};
pub use rate::{InvalidRate, Rate};
pub(crate) use refusal::turn_away;
pub(crate) use users::Users;

use crate::client::SLOW_HEAD;
use crate::error::Error;
use crate::http1::Malformed;
use crate::http1::server::Failure;
use crate::{headers, strict};

/// What each client of a server may do, whichever function it asks for. A client is an address, or the /64 of one of
/// IPv6. The default is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLimits {
    /// Connections open at once.
    pub connections: Option<NonZeroUsize>,
    /// Requests.
    pub requests: Option<Rate>,
    /// Requests for an upgrade, which count as requests, too.
    pub handshakes: Option<Rate>,
    /// Of how many clients it is remembered how fast they ask.
    pub remembered: usize,
    /// Upgraded connections open at once of each user, where a function asks who that is by a token.
    pub user_connections: Option<NonZeroUsize>,
    /// Requests of each user for an upgrade.
    pub user_handshakes: Option<Rate>,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            connections: None,
            requests: None,
            handshakes: None,
            remembered: 10_000,
            user_connections: None,
            user_handshakes: None,
        }
    }
}

/// What a server asks of connections and requests, whichever function they are for.
#[derive(Debug)]
pub(crate) struct Gate {
    began: Instant,
    connections: Connections,
    requests: Paces,
    handshakes: Paces,
    users: Arc<Users>,
    counts: Counts,
}

impl Gate {
    pub(crate) fn new(limits: &ClientLimits) -> Self {
        Self {
            began: Instant::now(),
            connections: Connections::new(limits.connections),
            requests: Paces::new(limits.requests, limits.remembered),
            handshakes: Paces::new(limits.handshakes, limits.remembered),
            users: Arc::new(Users::new(limits.user_connections, limits.user_handshakes, limits.remembered)),
            counts: Counts::default(),
        }
    }

    /// What is known of users.
    pub(crate) fn users(&self) -> &Arc<Users> {
        &self.users
    }

    /// Gives a connection its place among those of its user, if there is a limit.
    ///
    /// # Errors
    /// When the user may have no more of them, or is too fast.
    pub(crate) fn enter_user(&self, place: &mut TunnelPlace, subject: &str) -> Result<(), Error> {
        let entered = self.users.enter(subject, || nanoseconds(self.began));
        let entered = entered.map_err(|(limit, wait)| {
            self.counts.reached(limit);
            Error::Limited { limit, wait: wait.unwrap_or(NO_PLACE) }
        })?;
        place.set_user(entered);
        Ok(())
    }

    /// A place for a connection of `peer`: `Err` if it may have no more of them.
    pub(crate) fn enter(&self, peer: IpAddr) -> Result<Option<Place>, ()> {
        self.connections.enter(peer).inspect_err(|()| self.counts.reached(Limit::ClientConnections))
    }

    /// Are requests counted by their clients?
    pub(crate) fn has_limits(&self) -> bool {
        !(self.requests.is_open() && self.handshakes.is_open())
    }

    /// May this request of `peer` go on?
    ///
    /// # Errors
    /// When it can be taken for two, or its client is too fast.
    pub(crate) fn admit<B: Body>(&self, request: &Request<B>, peer: IpAddr) -> Result<(), Error> {
        if let Err(what) = strict::check(request) {
            self.counts.reached(Limit::Malformed);
            return Err(Error::Malformed { what });
        }
        let now = || nanoseconds(self.began);
        let limited = |limit| {
            move |wait| {
                self.counts.reached(limit);
                Error::Limited { limit, wait }
            }
        };
        self.requests.take(peer, now).map_err(limited(Limit::ClientRequests))?;
        if headers::offers_upgrade(request.version(), request.headers()) {
            self.handshakes.take(peer, now).map_err(limited(Limit::ClientHandshakes))?;
        }
        Ok(())
    }

    /// Counts what ended a connection, if that was a limit.
    pub(crate) fn note(&self, failure: &Failure) {
        match failure {
            Failure::Malformed(Malformed::HeadTooLarge | Malformed::UrlTooLong) => {
                self.counts.reached(Limit::Head);
            }
            Failure::Malformed(_) => self.counts.reached(Limit::Malformed),
            Failure::Socket(error) if error.get_ref().is_some_and(|why| why.to_string() == SLOW_HEAD) => {
                self.counts.reached(Limit::HeadTime);
            }
            Failure::Socket(_) | Failure::Answer(_) => {}
        }
    }

    /// How often each limit was reached.
    pub(crate) fn reached(&self) -> [(Limit, u64); Limit::OF_SERVER.len()] {
        self.counts.read(Limit::OF_SERVER)
    }
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
