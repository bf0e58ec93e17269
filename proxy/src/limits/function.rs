//! What one function lets be asked of it: how much, how often, how many at once.
//!
//! Owns the counts of one function. A connection takes its place before it is asked for, so there are never more of them
//! than may be.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use http::Request;
use http_body::Body;
use tokio::time::Instant;

use super::clients::Place;
use super::counts::{Counts, Limit};
use super::nanoseconds;
use super::rate::{Bucket, Rate};
use crate::error::Error;
use crate::upstream::Upstream;

/// When a client may come again that found no place. Nobody knows when one of the others goes.
pub(super) const NO_PLACE: Duration = Duration::from_secs(5);

/// The limits of one function on what is sent to it. The default is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of a request's body.
    pub body: Option<u64>,
    /// From the head of a request to the last byte of its body.
    pub body_time: Option<Duration>,
    /// Upgraded connections open at once.
    pub connections: Option<NonZeroUsize>,
    /// Requests.
    pub requests: Option<Rate>,
    /// Requests for an upgrade, which count as requests, too.
    pub handshakes: Option<Rate>,
}

/// What is counted of a function to hold its [`Bounds`].
#[derive(Debug)]
pub(crate) struct FunctionGate {
    began: Instant,
    requests: Bucket,
    handshakes: Bucket,
    /// Upgraded connections, and requests that may become one.
    tunnels: AtomicUsize,
    pub(super) counts: Counts,
}

/// One of the upgraded connections that a function may have. Dropping it makes room for another.
pub(crate) struct TunnelPlace {
    upstream: Arc<Upstream>,
    /// And among those of its user, if these are counted.
    user: Option<Box<Place>>,
}

impl FunctionGate {
    pub(crate) fn new(bounds: &Bounds) -> Self {
        let gate = Self {
            began: Instant::now(),
            requests: Bucket::default(),
            handshakes: Bucket::default(),
            tunnels: AtomicUsize::new(0),
            counts: Counts::default(),
        };
        gate.set(bounds);
        gate
    }

    /// Holds these from now on.
    pub(crate) fn set(&self, bounds: &Bounds) {
        self.requests.set(bounds.requests);
        self.handshakes.set(bounds.handshakes);
    }

    /// How often each limit was reached.
    pub(crate) fn reached(&self) -> [(Limit, u64); Limit::OF_FUNCTION.len()] {
        self.counts.read(Limit::OF_FUNCTION)
    }

    fn refuse(&self, limit: Limit, wait: Duration) -> Error {
        self.counts.reached(limit);
        Error::Limited { limit, wait }
    }
}

impl Upstream {
    /// May this request go on? One that asks for an upgrade gets its place among those that there may be.
    ///
    /// # Errors
    /// When a limit of this function is reached.
    pub(crate) fn enter<B: Body>(
        self: &Arc<Self>,
        request: &Request<B>,
        tunnel: bool,
        bounds: &Bounds,
    ) -> Result<Option<TunnelPlace>, Error> {
        let gate = self.gate();
        let now = || nanoseconds(gate.began);
        gate.requests.take(now).map_err(|wait| gate.refuse(Limit::Requests, wait))?;
        if let Some(limit) = bounds.body
            && request.body().size_hint().lower() > limit
        {
            gate.counts.reached(Limit::Body);
            return Err(Error::BodyTooLarge { limit });
        }
        if !tunnel {
            return Ok(None);
        }
        gate.handshakes.take(now).map_err(|wait| gate.refuse(Limit::Handshakes, wait))?;
        let place = TunnelPlace { upstream: Arc::clone(self), user: None };
        let before = gate.tunnels.fetch_add(1, Relaxed);
        match bounds.connections {
            // Dropped here, and with it counted off again.
            Some(most) if before >= most.get() => Err(gate.refuse(Limit::Connections, NO_PLACE)),
            _ => Ok(Some(place)),
        }
    }
}

impl TunnelPlace {
    /// That of a tunnel which an earlier process has let in. It counts, and is not asked for again.
    pub(crate) fn again(upstream: &Arc<Upstream>) -> Self {
        upstream.gate().tunnels.fetch_add(1, Relaxed);
        Self { upstream: Arc::clone(upstream), user: None }
    }

    /// It is one of its user's, too.
    pub(crate) fn set_user(&mut self, place: Option<Place>) {
        self.user = place.map(Box::new);
    }
}

impl Drop for TunnelPlace {
    fn drop(&mut self) {
        self.upstream.gate().tunnels.fetch_sub(1, Relaxed);
    }
}

impl std::fmt::Debug for TunnelPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TunnelPlace")
    }
}
