//! The life of a request, from its head to the head of its answer.
//!
//! Owns the order of things: identify, admit, route, access, ask, claim, forward, finish. Each step is one call into the
//! file that owns it. Never touches a socket.

use std::future::{Future, pending};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_TYPE, Entry, HeaderValue, LOCATION, SEC_WEBSOCKET_PROTOCOL,
    SET_COOKIE, TE, TRAILER, UPGRADE,
};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use tokio::time::{Instant, Sleep, sleep};

use crate::access::Guard;
use crate::access_log::{AccessLog, Note, Record};
use crate::affinity::Cookies;
use crate::ask::Ask;
use crate::bearer::TokenPlaces;
use crate::body::{FunctionBody, IdleTimer, Payload, ResponseBody, Source};
use crate::call::{Call, CallIds};
use crate::challenges::Challenges;
use crate::claim::Claim;
use crate::client_body::ClientBody;
use crate::compress::{Compressor, Offer};
use crate::error::Error;
use crate::extended::{Asked, Extended};
use crate::forward::{self, Answer};
use crate::function::FunctionKey;
use crate::handshakes::Why;
use crate::headers;
use crate::intake::{Deferred, Intake};
use crate::limits::{self, Bounds, Gate, TunnelPlace};
use crate::path::{self, FunctionPath, Target};
use crate::route::{Routes, split};
use crate::sent::Sent;
use crate::token::{Claims, Token};
use crate::trace;
use crate::tunnel::{Tunnel, Tunnels};
use crate::upstream::{Timeouts, Upstream};
use crate::websocket::{self, Arrival, Asking, EventMode, Refusal};

/// Answers everything that is neither under `/function/` nor under `/async-function/`.
pub type Fallback = Arc<
    dyn Fn(Request<ClientBody>, SocketAddr) -> Pin<Box<dyn Future<Output = Response<ResponseBody>> + Send>>
        + Send
        + Sync,
>;

/// Answers requests.
pub(crate) struct Handler {
    pub(crate) ids: CallIds,
    pub(crate) routes: Routes,
    pub(crate) fallback: Fallback,
    pub(crate) guard: Arc<dyn Guard>,
    pub(crate) token_places: TokenPlaces,
    pub(crate) intake: Arc<dyn Intake>,
    pub(crate) cookies: Cookies,
    pub(crate) tunnels: Tunnels,
    pub(crate) websockets: Arc<websocket::Shared>,
    pub(crate) log: AccessLog,
    /// Has each request to a function a span of ours?
    pub(crate) spans: bool,
    pub(crate) challenges: Challenges,
    pub(crate) compressor: Compressor,
    pub(crate) gate: Gate,
}

impl Handler {
    /// Answers one request of `peer`.
    pub(crate) async fn handle(
        &self,
        request: Request<ClientBody>,
        peer: SocketAddr,
    ) -> Response<ResponseBody> {
        if self.challenges.any()
            && let Some(response) = self.challenges.respond(&request)
        {
            return response;
        }
        let at_domain = self.routes.find_domain(&request);
        let deferred = at_domain.is_none() && path::is_deferred(request.uri().path());
        let deferred = deferred.then(|| (request.method().clone(), Instant::now()));
        let extended = Extended::of(&request);
        let mut note = self.log.begin(&request, Some(peer));
        if let Some(name) = &self.token_places.query {
            note.hide_parameter(name);
        }
        let response = match (self.gate.admit(&request, peer.ip()), at_domain) {
            (Err(error), _) => self.turn_back(&request, &error),
            (Ok(()), None) => self.respond(request, peer, &mut note).await,
            (Ok(()), Some(upstream)) => self.at_domain(upstream, request, peer, &mut note).await,
        };
        // Of a request to a function, its record has it.
        note.answered(&response);
        if let Some((method, began)) = deferred {
            self.intake.answered(&method, response.status(), began.elapsed());
        }
        match extended {
            Some(extended) => extended.answer(response),
            None => response,
        }
    }

    /// Tells a client why its request goes no further. What may be two requests is the last of its connection.
    fn turn_back(&self, request: &Request<ClientBody>, error: &Error) -> Response<ResponseBody> {
        let mut response = refuse(error, &self.ids.identify(request.headers()), false);
        if matches!(error, Error::Malformed { .. }) && request.version() <= Version::HTTP_11 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Answers a request to a host that is all a function's.
    async fn at_domain(
        &self,
        upstream: Arc<Upstream>,
        mut request: Request<ClientBody>,
        peer: SocketAddr,
        note: &mut Note,
    ) -> Response<ResponseBody> {
        if !is_admitted(request.method()) {
            return status(StatusCode::METHOD_NOT_ALLOWED);
        }
        let uri = request.uri().clone();
        let name = upstream.key().to_string();
        let call = self.identify(&mut request, note);
        self.enter(upstream, request, &FunctionPath::at_root(&name, uri.path()), call, peer, note).await
    }

    async fn respond(
        &self,
        mut request: Request<ClientBody>,
        peer: SocketAddr,
        note: &mut Note,
    ) -> Response<ResponseBody> {
        // Apart from the request, whose headers are changed while its path is still read.
        let uri = request.uri().clone();
        match path::read(uri.path()) {
            _ if request.method() == Method::CONNECT => status(StatusCode::METHOD_NOT_ALLOWED),
            Target::Redirect(path) => redirect(&path, request.uri().query()),
            Target::Call(id) if asks_of_call(request.method()) => self.of_call(&id, request, peer).await,
            Target::Call(_) | Target::Other => (self.fallback)(request, peer).await,
            Target::Function(_) if !is_admitted(request.method()) => status(StatusCode::METHOD_NOT_ALLOWED),
            Target::Function(path)
                if path.names_call()
                    && (request.method() == Method::DELETE
                        || asks_of_call(request.method()) && self.routes.find(path.segment()).is_none()) =>
            {
                self.of_call(path.segment(), request, peer).await
            }
            Target::Function(path) => {
                let call = self.identify(&mut request, note);
                let Some(upstream) = self.routes.find(path.segment()) else {
                    return refuse(&unknown(path.segment()), &call, false);
                };
                self.enter(upstream, request, &path, call, peer, note).await
            }
        }
    }

    /// What the call is known by, and the trace that it is a part of.
    fn identify(&self, request: &mut Request<ClientBody>, note: &mut Note) -> Call {
        let call = self.ids.identify(request.headers());
        let trace = trace::pass_on(request.headers_mut(), self.spans.then_some(&self.ids));
        note.call(&call.id, trace);
        call
    }

    /// Asks who comes, and lets the request go to the function, now or later.
    async fn enter(
        &self,
        upstream: Arc<Upstream>,
        mut request: Request<ClientBody>,
        path: &FunctionPath<'_>,
        call: Call,
        peer: SocketAddr,
        note: &mut Note,
    ) -> Response<ResponseBody> {
        let token = match upstream.asks_for_token() {
            true => Token::take(&*self.guard, &self.token_places, &mut request),
            false => Token::unread(&*self.guard),
        };
        if !upstream.access().is_open() || upstream.asks_for_token() {
            let began = Instant::now();
            match upstream.admit(&self.guard, request.headers(), &token, peer).await {
                // The password of a user of this host is not for a function to know.
                Ok(true) => {
                    note.user(|| self.guard.user(request.headers()));
                    request.headers_mut().remove(AUTHORIZATION);
                }
                Ok(false) => note.user(|| token.claims().ok()?.subject().map(str::to_owned)),
                Err(error) => {
                    let handshake = headers::is_websocket(request.headers()).then(|| began.elapsed());
                    return turn_away(&upstream, &error, &call, note, handshake);
                }
            }
        }
        if path.is_deferred() {
            note.function(upstream.key());
            return self.defer(&upstream, path, request, token, &call, peer).await;
        }
        let record = Record::begin(&upstream, note.take());
        if let Some((settings, group)) = watched(&upstream, path) {
            let claims = token.claims().ok().filter(|_| upstream.access().token);
            let asked = Asking { group: &group, claims, request: &request };
            return self.websockets.stream(&upstream, &settings, &asked, &call, record);
        }
        self.invoke(upstream, request, path, token, call, peer, record).await
    }

    /// Takes a request to a function, and its answer to the point where only bytes are left to move.
    #[expect(clippy::too_many_arguments, reason = "each is a part of the request that is known by now")]
    async fn invoke(
        &self,
        upstream: Arc<Upstream>,
        request: Request<ClientBody>,
        path: &FunctionPath<'_>,
        token: Token<'_>,
        call: Call,
        peer: SocketAddr,
        mut record: Record,
    ) -> Response<ResponseBody> {
        let Some(uri) = function_uri(path, request.uri().query()) else {
            record.status = StatusCode::BAD_REQUEST.as_u16();
            return status(StatusCode::BAD_REQUEST);
        };
        let is_websocket = headers::is_websocket(request.headers());
        if !is_websocket && upstream.asks_for_upgrade(request.method()) {
            record.status = StatusCode::UPGRADE_REQUIRED.as_u16();
            return ask_for_upgrade(upstream.key(), request.version(), &call);
        }
        let held = upstream.event_mode().filter(|_| is_websocket);
        let host = held.as_ref().and_then(|_| headers::host_of(&request));
        let asked_with = request.headers().get(CONTENT_TYPE).cloned();
        let offer = match upstream.compresses() {
            true => Offer::of(request.method(), request.headers()),
            false => Offer::None,
        };
        let (outbound, upgrade) = prepare(request, uri, &call, peer);
        let (upgrade, asked) = if held.is_some() { (None, upgrade) } else { (upgrade, None) };
        if let Some(settings) = held {
            let Some(asked) = asked else {
                let error = Error::Malformed { what: "asks for a WebSocket without Connection: upgrade" };
                record.status = error.status(true).as_u16();
                let handshakes = upstream.counters().handshakes(true);
                handshakes.answered(record.status, Why::from(&error), Duration::ZERO);
                return refuse(&error, &call, true);
            };
            let came = Came { upstream, settings, request: outbound, asked, host, peer };
            return Box::pin(self.hold(came, token, call, record)).await;
        }
        let limits = upstream.limits();
        let timeouts = limits.timeouts;
        let shaking = (is_websocket && upgrade.is_some()).then(Instant::now);
        let shaken = |status: StatusCode, why| {
            if let Some(began) = shaking {
                upstream.counters().handshakes(false).answered(status.as_u16(), why, began.elapsed());
            }
        };
        let (mut marker, mut until) = (None, None);
        let reached = async {
            record.place = self.place(&upstream, &outbound, upgrade.is_some(), &limits.bounds, &token)?;
            let outbound = limits::bound(outbound, &upstream, &limits.bounds);
            let cookies = &self.cookies;
            let ask = Ask::of_client(&upstream, &outbound, &token, peer.ip(), cookies, upgrade.is_some())?;
            marker = token.marker().cloned();
            until = token.claims().ok().and_then(Claims::until);
            drop(token);
            let waits = record.waits();
            let claim = self.tunnels.admit(upgrade.is_some(), upstream.acquire_for(&ask)).await;
            record.waited(waits);
            let claim = claim?;
            record.sent_to(claim.endpoint().id());
            answer(claim, outbound, &timeouts).await
        };
        match reached.await {
            Ok((mut answer, timer)) => {
                if let Some(cookie) = self.cookies.issue(answer.exchange.claim(), path) {
                    answer.response.headers_mut().append(SET_COOKIE, cookie);
                }
                let upgrade = upgrade.map(|asked| Handshake { asked, marker, until });
                let response = self.finish(answer, timer, &call, asked_with, upgrade, &timeouts, record);
                let agreed = response.status() == StatusCode::SWITCHING_PROTOCOLS;
                shaken(response.status(), if agreed { Why::Agreed } else { Why::Function });
                self.compressor.apply(offer, response)
            }
            Err(error) => {
                record.status = error.status(upgrade.is_some()).as_u16();
                shaken(error.status(upgrade.is_some()), Why::from(&error));
                refuse(&error, &call, upgrade.is_some())
            }
        }
    }

    /// Lets a request in as far as limits go. One that asks for an upgrade gets its place, among those of its user as well.
    fn place(
        &self,
        upstream: &Arc<Upstream>,
        request: &Request<Payload>,
        tunnel: bool,
        bounds: &Bounds,
        token: &Token<'_>,
    ) -> Result<Option<TunnelPlace>, Error> {
        let mut place = upstream.enter(request, tunnel, bounds)?;
        if let Some(place) = &mut place
            && let Some(subject) = token.claims().ok().and_then(Claims::subject)
        {
            self.gate.enter_user(place, subject)?;
        }
        Ok(place)
    }

    /// Takes a connection that stays here: the function is told what happens on it.
    async fn hold(
        &self,
        came: Came,
        token: Token<'_>,
        call: Call,
        mut record: Record,
    ) -> Response<ResponseBody> {
        let Came { upstream, settings, request, asked, host, peer } = came;
        let (function, began) = (Arc::clone(&upstream), Instant::now());
        let handshake = |status: StatusCode, why| {
            function.counters().events.handshakes.answered(status.as_u16(), why, began.elapsed());
        };
        let entered = async {
            record.place = self.place(&upstream, &request, true, &upstream.limits_now().bounds, &token)?;
            let ask = Ask::of_client(&upstream, &request, &token, peer.ip(), &self.cookies, false)?;
            Ok((ask.key, token.claims().ok().cloned()))
        };
        let entered = entered.await;
        let marker = token.marker().cloned();
        drop(token);
        let mut record = Some(record);
        let answered = match entered {
            Ok((key, claims)) => {
                let arrival = Arrival { upstream, settings, request, asked, host, peer, key, claims };
                self.websockets.accept(arrival, &call, &mut record).await
            }
            Err(error) => Err(Refusal::Host(Box::new(error))),
        };
        let (response, why) = match answered {
            Ok(mut response) => {
                handshake(response.status(), Why::Agreed);
                offer_marker(&mut response, marker);
                return response;
            }
            Err(Refusal::Host(error)) => (refuse(&error, &call, true), Why::from(&*error)),
            Err(Refusal::Answer(why, response)) => {
                let mut response = response.map(ResponseBody::full);
                headers::to_client(response.status(), response.headers_mut(), &call, None, true);
                (response, why)
            }
        };
        handshake(response.status(), why);
        if let Some(mut record) = record {
            record.status = response.status().as_u16();
        }
        response
    }

    /// Gives the answer to the client, and what hangs on its end to its body or its tunnel.
    #[expect(clippy::too_many_arguments, reason = "each is one end that is tied here")]
    fn finish(
        &self,
        answer: Answer,
        timer: Option<Pin<Box<Sleep>>>,
        call: &Call,
        asked_with: Option<HeaderValue>,
        upgrade: Option<Handshake>,
        timeouts: &Timeouts,
        mut record: Record,
    ) -> Response<ResponseBody> {
        if answer.response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return pass_on(answer, timer, call, asked_with, timeouts, record);
        }
        let Some(Handshake { asked: client, marker, until }) = upgrade else {
            let error = unasked_switch(&answer);
            record.status = error.status(false).as_u16();
            return refuse(&error, call, false);
        };
        if client.extended.as_ref().is_some_and(|asked| !asked.is_answered_by(&answer.response)) {
            let error = no_answer(&answer, "switched to something else than the WebSocket it was asked for");
            record.status = error.status(true).as_u16();
            return refuse(&error, call, true);
        }
        let Answer { mut response, source: Source::Http1(connection), exchange } = answer else {
            let error = no_answer(&answer, "switched to another protocol where there is none to switch to");
            record.status = error.status(true).as_u16();
            return refuse(&error, call, true);
        };
        record.status = response.status().as_u16();
        record.answered_by(exchange.claim().endpoint().id());
        headers::to_client(response.status(), response.headers_mut(), call, asked_with, false);
        *response.version_mut() = Version::HTTP_11;
        let websocket = headers::is_websocket(response.headers());
        if websocket {
            offer_marker(&mut response, marker);
        }
        record.upgraded(response.headers());
        self.tunnels.open(Tunnel { client, connection, exchange, websocket, until, record });
        response.map(|()| ResponseBody::empty())
    }

    /// Has a call taken over, to be made when nobody waits for it.
    async fn defer(
        &self,
        upstream: &Arc<Upstream>,
        path: &FunctionPath<'_>,
        request: Request<ClientBody>,
        token: Token<'_>,
        call: &Call,
        peer: SocketAddr,
    ) -> Response<ResponseBody> {
        let Some(uri) = function_uri(path, request.uri().query()) else {
            return status(StatusCode::BAD_REQUEST);
        };
        let (mut parts, body) = request.into_parts();
        headers::from_client(&mut parts, peer, false);
        parts.uri = uri;
        parts.extensions.clear();
        // Trailers are not kept with the bytes, nor those of an answer that nobody reads.
        parts.headers.remove(TE);
        parts.headers.remove(TRAILER);
        let mut request = Request::from_parts(parts, body);
        let limits = upstream.limits();
        // Now there is somebody to tell that it could never be made.
        let entered = upstream.enter(&request, false, &limits.bounds);
        if let Err(error) = entered.and_then(|_| Ask::prove(upstream, &mut request, &token)) {
            return refuse(&error, call, false);
        }
        drop(token);
        let answered = self.intake.accept(Deferred {
            function: upstream.key().clone(),
            name: path.segment().to_owned(),
            call_id: call.id.clone(),
            idle: limits.timeouts.idle,
            max_body: limits.bounds.body,
            request,
        });
        let mut response = answered.await;
        headers::to_client(response.status(), response.headers_mut(), call, None, false);
        response
    }

    /// Ends the deferred calls of an id, or says what has become of one, as far as `peer` might have made them. Of others
    /// it does not hear.
    async fn of_call(
        &self,
        id: &str,
        mut request: Request<ClientBody>,
        peer: SocketAddr,
    ) -> Response<ResponseBody> {
        let token = Token::take(&*self.guard, &self.token_places, &mut request);
        let headers = request.headers();
        let call = self.ids.identify(headers);
        let found = async {
            let mut admitted = Vec::new();
            for function in self.intake.functions_of(id).await? {
                let Some(upstream) = self.routes.get(&function) else { continue };
                if upstream.admit(&self.guard, headers, &token, peer).await.is_ok() {
                    admitted.push(function);
                }
            }
            if request.method() == Method::DELETE {
                let found = self.intake.cancel(id, admitted).await?;
                return Ok(found.then(|| status(StatusCode::ACCEPTED)));
            }
            self.intake.result(id, admitted).await
        };
        let unknown = || Error::UnknownCall { id: id.to_owned() };
        match found.await.and_then(|found| found.ok_or_else(unknown)) {
            Ok(mut response) if request.method() != Method::DELETE => {
                // It is known by its own id, and not by that of this question.
                let call =
                    Call { id: HeaderValue::from_bytes(id.as_bytes()).unwrap_or(call.id.clone()), ..call };
                headers::to_client(response.status(), response.headers_mut(), &call, None, false);
                response
            }
            Ok(response) => response,
            Err(error) => refuse(&error, &call, false),
        }
    }
}

/// Is this a question about a call, where no function is named?
fn asks_of_call(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::DELETE].contains(method)
}

/// A request for a connection that goes through to the function.
struct Handshake {
    asked: Asked,
    /// The subprotocol that stood for the client's token.
    marker: Option<HeaderValue>,
    /// Until when that token counts.
    until: Option<SystemTime>,
}

/// A request for a connection that stays here.
struct Came {
    upstream: Arc<Upstream>,
    settings: Arc<EventMode>,
    request: Request<Payload>,
    asked: Asked,
    host: Option<HeaderValue>,
    peer: SocketAddr,
}

/// Agrees upon the subprotocol that stood for the client's token, where no other is agreed upon: browsers close what
/// answers none of those that they offered.
fn offer_marker<B>(response: &mut Response<B>, marker: Option<HeaderValue>) {
    if let Some(marker) = marker
        && let Entry::Vacant(entry) = response.headers_mut().entry(SEC_WEBSOCKET_PROTOCOL)
    {
        entry.insert(marker);
    }
}

/// The answer as it goes on, its body with all that ends when it ends.
pub(crate) fn pass_on(
    Answer { mut response, source, exchange }: Answer,
    timer: Option<Pin<Box<Sleep>>>,
    call: &Call,
    asked_with: Option<HeaderValue>,
    timeouts: &Timeouts,
    mut record: Record,
) -> Response<ResponseBody> {
    let status = response.status();
    record.status = status.as_u16();
    record.answered_by(exchange.claim().endpoint().id());
    let has_body = !source.is_read();
    headers::to_client(status, response.headers_mut(), call, asked_with, has_body);
    // Each side has its own version, which is for whoever writes it to know.
    *response.version_mut() = Version::HTTP_11;
    let end = timer.as_ref().map(|timer| timer.deadline()).filter(|_| timeouts.request_body);
    let idle = IdleTimer::new(timeouts.idle, timer).until(end);
    response.map(|()| ResponseBody::function(FunctionBody::new(source, exchange, idle, record)))
}

/// What to say of a replica that answers 101 to a request that was none for an upgrade.
pub(crate) fn unasked_switch(answer: &Answer) -> Error {
    no_answer(answer, "switched to another protocol unasked")
}

/// An answer that is none.
fn no_answer(answer: &Answer, what: &'static str) -> Error {
    let claim = answer.exchange.claim();
    Error::NoAnswer { function: claim.upstream().key().clone(), replica: claim.endpoint().id().clone(), what }
}

/// The group that a request asks to watch, where the function lets groups be watched.
fn watched(upstream: &Upstream, path: &FunctionPath<'_>) -> Option<(Arc<EventMode>, String)> {
    let group = websocket::group_of(path.rest())?;
    upstream
        .event_mode()
        .filter(|settings| !settings.group_events.is_empty())
        .map(|settings| (settings, group))
}

fn is_admitted(method: &Method) -> bool {
    matches!(
        *method,
        Method::POST
            | Method::PUT
            | Method::PATCH
            | Method::DELETE
            | Method::GET
            | Method::OPTIONS
            | Method::HEAD
    )
}

/// The path and query as the function sees them. `None` if they make no URL, which those of a URL always do.
fn function_uri(path: &FunctionPath<'_>, query: Option<&str>) -> Option<Uri> {
    let rest = path.rest();
    let text = match query {
        Some(query) => {
            let mut text = String::with_capacity(rest.len() + 1 + query.len());
            text.push_str(rest);
            text.push('?');
            text.push_str(query);
            text
        }
        None => rest.to_owned(),
    };
    PathAndQuery::from_maybe_shared(bytes::Bytes::from(text)).ok().map(Uri::from)
}

/// Makes the client's request the one for the function; with the client's side of the tunnel if it asks for one.
fn prepare(
    request: Request<ClientBody>,
    uri: Uri,
    call: &Call,
    peer: SocketAddr,
) -> (Request<Payload>, Option<Asked>) {
    let extended = Extended::of(&request);
    let (mut parts, body) = request.into_parts();
    let (asked, body) = match body.into_upgrade() {
        Ok(upgrade) => (Some(Asked { upgrade, extended }), ClientBody::empty()),
        Err(body) => (None, body),
    };
    headers::to_function(&mut parts, call, peer, asked.is_some());
    parts.uri = uri;
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    (Request::from_parts(parts, Payload::Client(body)), asked)
}

/// Waits for the head of the answer, within the limits for that.
pub(crate) async fn answer(
    claim: Claim,
    request: Request<Payload>,
    timeouts: &Timeouts,
) -> Result<(Answer, Option<Pin<Box<Sleep>>>), Error> {
    let upstream = Arc::clone(claim.upstream());
    let mut timer = timeouts.request.map(|limit| Box::pin(sleep(limit)));
    let expired = async {
        match &mut timer {
            Some(timer) => timer.as_mut().await,
            None => pending().await,
        }
    };
    let answer = async {
        match timeouts.header {
            Some(limit) => Box::pin(answer_to_sent(claim, request, timeouts, limit)).await,
            None => forward::send(claim, request, timeouts).await,
        }
    };
    tokio::select! {
        biased;
        answer = answer => Ok((answer?, timer)),
        () = expired => {
            let limit = timeouts.request.unwrap_or(Duration::ZERO);
            Err(Error::RequestTimeout { function: upstream.key().clone(), limit })
        }
    }
}

/// Waits for the head of the answer, for so long after the request was sent to its end.
async fn answer_to_sent(
    claim: Claim,
    request: Request<Payload>,
    timeouts: &Timeouts,
    limit: Duration,
) -> Result<Answer, Error> {
    let (function, sent) = (claim.upstream().key().clone(), Sent::default());
    let request = request.map(|body| sent.watch(body));
    let expired = async {
        sent.wait().await;
        sleep(limit).await;
    };
    tokio::select! {
        biased;
        answer = forward::send(claim, request, timeouts) => answer,
        () = expired => Err(Error::HeaderTimeout { function, limit }),
    }
}

/// Tells a caller that it is not let in. One that is not to know of the function leaves no trace in its counters either:
/// everything is as if there were none.
fn turn_away(
    upstream: &Arc<Upstream>,
    error: &Error,
    call: &Call,
    note: &mut Note,
    handshake: Option<Duration>,
) -> Response<ResponseBody> {
    if !matches!(error, Error::UnknownFunction { .. }) {
        let mut record = Record::begin(upstream, note.take());
        record.status = error.status(false).as_u16();
        if let Some(took) = handshake {
            let handshakes = upstream.counters().handshakes(upstream.event_mode().is_some());
            handshakes.answered(record.status, Why::from(error), took);
        }
    }
    refuse(error, call, false)
}

fn unknown(segment: &str) -> Error {
    let (name, namespace) = split(segment);
    Error::UnknownFunction { name: format!("{name}.{namespace}") }
}

pub(crate) fn refuse(error: &Error, call: &Call, tunnel: bool) -> Response<ResponseBody> {
    let mut response = error.response(tunnel);
    let status = response.status();
    headers::to_client(status, response.headers_mut(), call, None, true);
    response
}

/// Tells a client that there is a WebSocket where it asks for something else. Other versions of HTTP have no such header.
fn ask_for_upgrade(function: &FunctionKey, version: Version, call: &Call) -> Response<ResponseBody> {
    let mut response = refuse(&Error::UpgradeRequired { function: function.clone() }, call, false);
    if version == Version::HTTP_11 {
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    response
}

fn status(status: StatusCode) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = status;
    response
}

fn redirect(path: &str, query: Option<&str>) -> Response<ResponseBody> {
    let location = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    match HeaderValue::from_str(&location) {
        Ok(location) => {
            let mut response = status(StatusCode::MOVED_PERMANENTLY);
            response.headers_mut().insert(LOCATION, location);
            response
        }
        // A URL may hold bytes that a header may not.
        Err(_) => status(StatusCode::BAD_REQUEST),
    }
}
