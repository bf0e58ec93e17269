//! Calls of our own, that no client waits for.
//!
//! Owns nothing but the way in: from the claim on, such a call goes the way of a client's request, and is counted,
//! limited and logged as one. Never upgrades a connection.

use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Uri, Version};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::access_log::{AccessLog, Record};
use crate::ask::Ask;
use crate::body::{OwnBody, Payload, ResponseBody};
use crate::call::CallIds;
use crate::claim::Claim;
use crate::error::Error;
use crate::function::FunctionKey;
use crate::handler::{answer, pass_on, unasked_switch};
use crate::headers;
use crate::meter::Kind;
use crate::placement::ReplicaKey;
use crate::route::Routes;
use crate::trace;
use crate::upstream::Upstream;
use crate::websocket::EventMode;

/// Calls functions. Clones share what they need.
#[derive(Debug, Clone)]
pub struct Caller {
    ids: Arc<CallIds>,
    routes: Routes,
    log: AccessLog,
    spans: bool,
}

impl Caller {
    /// A caller of the functions of `routes`.
    #[must_use]
    pub fn new(routes: Routes) -> Self {
        Self { ids: Arc::default(), routes, log: AccessLog::default(), spans: false }
    }

    /// Tells of its calls in `log`, and with `spans` has each be a span in a trace.
    #[must_use]
    pub fn watched(self, log: AccessLog, spans: bool) -> Self {
        Self { log, spans, ..self }
    }

    /// Is there such a function now?
    #[must_use]
    pub fn knows(&self, function: &FunctionKey) -> bool {
        self.routes.get(function).is_some()
    }

    /// How many replicas of a function take work now, and how many requests each of them takes at a time, if there is a
    /// limit to that. `None` if there is no such function.
    #[must_use]
    pub fn capacity(&self, function: &FunctionKey) -> Option<(usize, Option<NonZeroUsize>)> {
        let upstream = self.routes.get(function)?;
        Some((upstream.endpoints.load().iter().count(), upstream.limits().cap))
    }

    /// How the connections of such a function are held, if they are.
    pub(crate) fn event_mode(&self, function: &FunctionKey) -> Option<Arc<EventMode>> {
        self.routes.get(function)?.event_mode()
    }

    /// Calls a function, and returns once the head of its answer is there. The function sees the path and the query of
    /// the request's URI, and its headers, with `X-Call-Id`, `X-Start-Time` and `User-Agent` where they are missing.
    ///
    /// `place` is one of those that the caller has for calls at work. It comes back with the answer; while the call waits
    /// for a replica, others may have it.
    ///
    /// Cancel safe: dropping the future, or the body of the answer before its end, ends the call.
    ///
    /// # Errors
    /// When there is no answer of the function.
    pub async fn call(
        &self,
        function: &FunctionKey,
        request: Request<OwnBody>,
        place: OwnedSemaphorePermit,
    ) -> Result<(Response<ResponseBody>, OwnedSemaphorePermit), Error> {
        let (response, place) = self.make(function, request, None, Some(place)).await?;
        Ok((response, place.expect("it comes back")))
    }

    /// The same for a call that needs no place: of those that may be at work there is one for each connection. `key` is the
    /// one of its connection, if that has one.
    pub(crate) async fn ask(
        &self,
        function: &FunctionKey,
        request: Request<Bytes>,
        key: Option<ReplicaKey>,
    ) -> Result<Response<ResponseBody>, Error> {
        Ok(self.make(function, request.map(OwnBody::Whole), key, None).await?.0)
    }

    async fn make(
        &self,
        function: &FunctionKey,
        mut request: Request<OwnBody>,
        key: Option<ReplicaKey>,
        place: Option<OwnedSemaphorePermit>,
    ) -> Result<(Response<ResponseBody>, Option<OwnedSemaphorePermit>), Error> {
        // Whoever needs no place tells of an event.
        let of_event = place.is_none();
        let call = self.ids.identify(request.headers());
        let upstream =
            self.routes.get(function).ok_or_else(|| Error::UnknownFunction { name: function.to_string() })?;
        let mut note = self.log.begin(&request, None);
        note.call(&call.id, trace::pass_on(request.headers_mut(), self.spans.then_some(&*self.ids)));
        let mut record = Record::begin(&upstream, note);
        let asked_with = request.headers().get(CONTENT_TYPE).cloned();
        let (mut parts, body) = request.into_parts();
        headers::of_own(&mut parts.headers, &call);
        parts.uri = path_of(&parts.uri);
        parts.version = Version::HTTP_11;
        let outbound = Request::from_parts(parts, Payload::from(body));
        let timeouts = upstream.limits().timeouts;
        let reached = async {
            let ask = match key {
                Some(key) => Ask::default().of_key(key),
                None => Ask::of_own(&upstream, &outbound)?,
            };
            let waits = record.waits();
            let claimed = claim(&upstream, &ask, place).await;
            record.waited(waits);
            let (claim, place) = claimed?;
            if of_event {
                claim.meter_as(Kind::Invocation);
            }
            record.sent_to(claim.endpoint().id());
            let (answer, timer) = answer(claim, outbound, &timeouts).await?;
            if answer.response.status() == StatusCode::SWITCHING_PROTOCOLS {
                return Err(unasked_switch(&answer));
            }
            Ok((answer, timer, place))
        };
        match reached.await {
            Ok((answer, timer, place)) => {
                Ok((pass_on(answer, timer, &call, asked_with, &timeouts, record), place))
            }
            Err(error) => {
                record.status = error.status(false).as_u16();
                Err(error)
            }
        }
    }
}

/// A claim and a place. Whoever waits for one of them does not hold the other: neither a function without replicas nor
/// one whose calls take long stands in the way of others.
async fn claim(
    upstream: &Arc<Upstream>,
    ask: &Ask,
    place: Option<OwnedSemaphorePermit>,
) -> Result<(Claim, Option<OwnedSemaphorePermit>), Error> {
    let Some(mut place) = place else {
        return Ok((upstream.acquire_for(ask).await?, None));
    };
    let places = Arc::clone(place.semaphore());
    loop {
        if let Some(claim) = upstream.claim_for(ask) {
            return Ok((claim, Some(place)));
        }
        drop(place);
        let claim = upstream.acquire_for(ask).await?;
        place = match Arc::clone(&places).try_acquire_owned() {
            Ok(place) => return Ok((claim, Some(place))),
            Err(_) => {
                drop(claim);
                acquire(&places).await
            }
        };
    }
}

async fn acquire(places: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(places).acquire_owned().await.expect("places are never closed")
}

/// A URI that is a path and a query only, as a function is asked.
fn path_of(uri: &Uri) -> Uri {
    uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")).into()
}
