//! Claiming: an endpoint is chosen and counted in flight in one step, and its guard is the [`Claim`].
//!
//! Owns the choice among the endpoints of one [`Ask`], and the hand-over of a claim that is released to whoever waits for
//! room. Never waits itself.

use std::fmt;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use crate::ask::{Ask, Lack, Wish, weight};
use crate::balance::{heaviest, least_loaded, less_loaded_of_two};
use crate::endpoint::{Endpoint, Occupancy, Vacancy};
use crate::function::ReplicaId;
use crate::meter::Kind;
use crate::tunnel::Traffic;
use crate::upstream::Upstream;

/// An endpoint, and one in its count of claims. Dropping it releases the claim.
pub struct Claim {
    upstream: Arc<Upstream>,
    endpoint: Arc<Endpoint>,
    ask: Ask,
    /// As what its time is metered, once it is.
    metered: OnceLock<Kind>,
}

impl Upstream {
    /// An endpoint for `ask` that is none of `tried`, whoever else waits for one.
    pub(crate) fn take(self: &Arc<Self>, ask: &Ask, tried: &[Arc<Endpoint>]) -> Result<Claim, Lack> {
        self.take_by(ask, tried, || self.turn.fetch_add(1, Ordering::Relaxed))
    }

    /// Any endpoint for a request, if nobody waits for one. The turn is not over before [`next_turn`](Self::next_turn): the
    /// claim may be given back for another one at the same endpoint.
    pub(crate) fn take_at_once(self: &Arc<Self>) -> Option<Claim> {
        if self.anybody_waits() {
            return None;
        }
        self.take_by(&Ask::default(), &[], || self.turn.load(Ordering::Relaxed)).ok()
    }

    pub(crate) fn next_turn(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
    }

    fn take_by(
        self: &Arc<Self>,
        ask: &Ask,
        tried: &[Arc<Endpoint>],
        turn: impl Fn() -> usize,
    ) -> Result<Claim, Lack> {
        let cap = self.cap.load(Ordering::Relaxed);
        loop {
            let all = self.endpoints.load();
            let endpoints = all.of(ask.key.as_ref());
            let vacancy = |index: usize| {
                let endpoint: &Arc<Endpoint> = &endpoints[index];
                let tried = tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint));
                if tried { Vacancy::Closed } else { endpoint.vacancy(cap) }
            };
            // One endpoint is the common case, and needs no turn.
            let turn = if endpoints.len() > 1 { turn() } else { 0 };
            match choose(ask, endpoints, turn, vacancy) {
                Some((index, seen)) => {
                    let endpoint = &endpoints[index];
                    // Fails when it was closed or filled since: look again, the set or its loads are others now.
                    if endpoint.claimed(ask, cap, seen) {
                        self.counters().claimed();
                        let (upstream, endpoint) = (Arc::clone(self), Arc::clone(endpoint));
                        let metered = OnceLock::new();
                        return Ok(Claim { upstream, endpoint, ask: ask.clone(), metered });
                    }
                }
                None => {
                    if let Some(lack) = lack(endpoints.len(), vacancy) {
                        return Err(lack);
                    }
                }
            }
        }
    }
}

impl Upstream {
    /// A claim for a tunnel that was opened by an earlier process, on the endpoint that it leads to and however full that
    /// is. Waits until there is that endpoint.
    ///
    /// Cancel safe.
    pub(crate) async fn claim_again(self: &Arc<Self>, replica: &ReplicaId) -> Claim {
        loop {
            let mut published = pin!(self.published());
            // Registered before the look, so that what is published in between is not missed.
            published.as_mut().enable();
            let endpoint = self.endpoints.load().iter().find(|endpoint| endpoint.id() == replica).cloned();
            if let Some(endpoint) = endpoint
                && endpoint.try_claim_tunnel_again()
            {
                self.counters().claimed();
                let ask = Ask { key: endpoint.key().cloned(), ..Ask::default() }.for_tunnel();
                return Claim { upstream: Arc::clone(self), endpoint, ask, metered: OnceLock::new() };
            }
            published.await;
        }
    }
}

impl Endpoint {
    fn claimed(&self, ask: &Ask, cap: usize, seen: Occupancy) -> bool {
        if ask.tunnel { self.try_claim_tunnel(cap, seen.tunnels) } else { self.try_claim(cap) }
    }
}

/// Which of `endpoints` suits `ask` best, and what was going on there.
fn choose(
    ask: &Ask,
    endpoints: &[Arc<Endpoint>],
    turn: usize,
    vacancy: impl Fn(usize) -> Vacancy,
) -> Option<(usize, Occupancy)> {
    let free = |index| match vacancy(index) {
        Vacancy::Free(held) => Some(held),
        Vacancy::Full | Vacancy::Closed => None,
    };
    let count = endpoints.len();
    let wished = match &ask.wish {
        Wish::None | Wish::Again(None) => None,
        Wish::Again(Some(replica)) => endpoints.iter().position(|endpoint| endpoint.id() == replica),
        Wish::Hash(hash) => {
            heaviest(count, |index| free(index).map(|_| weight(*hash, endpoints[index].id())))
        }
    };
    if let Some(wished) = wished
        && let Some(held) = free(wished)
    {
        return Some((wished, held));
    }
    if ask.tunnel {
        // A tunnel stays for hours: worth a look at all of them.
        return least_loaded(count, turn, free);
    }
    let by_claims = |index| free(index).map(|held| (held.in_flight, held.tunnels));
    less_loaded_of_two(count, turn, by_claims)
        .map(|(index, (in_flight, tunnels))| (index, Occupancy { tunnels, in_flight }))
}

/// What kept all of `0..count` from taking a claim; `None` if one would take it now.
fn lack(count: usize, vacancy: impl Fn(usize) -> Vacancy) -> Option<Lack> {
    let mut lack = Lack::Endpoint;
    for index in 0..count {
        match vacancy(index) {
            Vacancy::Free(_) => return None,
            Vacancy::Full => lack = Lack::Room,
            Vacancy::Closed => {}
        }
    }
    Some(lack)
}

impl Claim {
    /// The function.
    #[must_use]
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// The replica.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Where it is noted that something moves on a tunnel: each key is idle by itself.
    pub(crate) fn traffic(&self) -> &Traffic {
        if self.endpoint.key().is_some() { self.endpoint.traffic() } else { self.upstream.traffic() }
    }

    pub(crate) fn ask(&self) -> &Ask {
        &self.ask
    }

    /// A claim for the same on an endpoint that is none of `tried`, if one can be had at once.
    pub(crate) fn elsewhere(&self, tried: &[Arc<Endpoint>]) -> Option<Self> {
        let claim = self.upstream.take(&self.ask, tried).ok()?;
        if let Some(kind) = self.metered.get() {
            claim.meter_as(*kind);
        }
        Some(claim)
    }

    /// Its time is metered from now on, until it is released.
    pub(crate) fn meter_as(&self, kind: Kind) {
        if self.metered.set(kind).is_ok() {
            self.upstream.meters().of(kind).begin(self.endpoint.places().of(kind));
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(kind) = self.metered.get() {
            self.upstream.meters().of(*kind).end(self.endpoint.places().of(*kind));
        }
        self.upstream.counters().released();
        self.endpoint.release(self.ask.tunnel);
        self.upstream.made_room(self.endpoint.key());
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("function", self.upstream.key())
            .field("replica", self.endpoint.id())
            .finish()
    }
}
