//! The way in: from a request for a WebSocket to its 101, and the connection's task.
//!
//! Owns the order: is it a handshake, may a page from there connect, is there room, which key, and what the function says
//! to it if it wants to be asked. Whoever was seen here and is not let in leaves nothing behind.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{
    CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_PROTOCOL, USER_AGENT,
};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use tokio::time::Instant;
use tracing::debug;

use super::Shared;
use super::client_groups::Rights;
use super::connection::{self, Connection, Ties, tell_loss};
use super::event::{Acceptance, ConnectionId, Decision, Event, Handshake, Identity, What};
use super::frame::{Decoder, Limits};
use super::handshake::Opening;
use super::invoke::{Teller, Told};
use super::lease::Lease;
use super::member::Member;
use super::returns::{self, Back, Owner, Return, Token, Wish};
use super::settings::EventMode;
use super::socket::Socket;
use super::validation::{self, Unwelcome};
use crate::access_log::Record;
use crate::body::{Payload, ResponseBody};
use crate::call::Call;
use crate::error::Error;
use crate::extended::Asked;
use crate::handshakes::{FOREIGN_PAGE, Why};
use crate::headers;
use crate::placement::ReplicaKey;
use crate::roles::GROUPS;
use crate::token::Claims;
use crate::upstream::Upstream;

/// A client that came back to a connection that is not known, among [`RETURNS`](super::RETURNS).
const UNKNOWN: usize = 2;

/// A client that comes back to its connection.
struct Returning {
    member: Arc<Member>,
    wish: Wish,
    lease: Option<Box<Lease>>,
    claims: Claims,
}

/// A request for a WebSocket that was let through to here.
pub(crate) struct Arrival {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) settings: Arc<EventMode>,
    /// As a function would see it, if it were for one.
    pub(crate) request: Request<Payload>,
    pub(crate) asked: Asked,
    pub(crate) host: Option<HeaderValue>,
    pub(crate) peer: SocketAddr,
    pub(crate) key: Option<ReplicaKey>,
    /// What its token says, if the function asks for one.
    pub(crate) claims: Option<Claims>,
}

/// Why there will be no connection.
pub(crate) enum Refusal {
    /// This host says so.
    Host(Box<Error>),
    /// The function does, or the handshake is none: in these words.
    Answer(Why, Box<Response<Bytes>>),
}

impl Refusal {
    fn answer(why: Why, response: Response<Bytes>) -> Self {
        Self::Answer(why, Box::new(response))
    }

    fn unwelcome(Unwelcome { why, status }: Unwelcome) -> Self {
        let reason =
            if status == StatusCode::BAD_GATEWAY { Why::Function } else { Why::of_unanswered(status) };
        let mut response = Response::new(Bytes::from(why + "\n"));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        Self::answer(reason, response)
    }
}

/// A connection that is known and not open yet. Dropped, it was never there.
struct Candidate<'a> {
    shared: &'a Shared,
    member: Arc<Member>,
    accepted: bool,
}

impl Drop for Candidate<'_> {
    fn drop(&mut self) {
        if !self.accepted {
            self.shared.hub.leave(&self.member);
            // An update may have had it noted meanwhile.
            self.shared.keeper.ended(self.member.identity().id);
        }
    }
}

/// May a page from where this request comes connect?
pub(crate) fn is_welcome(settings: &EventMode, headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let known = |one: &String| one == "*" || origin.as_bytes().eq_ignore_ascii_case(one.as_bytes());
    settings.origins.is_empty() || settings.origins.iter().any(known)
}

impl Shared {
    /// Lets a client in, or says why not. The record is ended here in the first case.
    ///
    /// # Errors
    /// When it is not let in.
    pub(crate) async fn accept(
        self: &Arc<Self>,
        arrival: Arrival,
        call: &Call,
        record: &mut Option<Record>,
    ) -> Result<Response<ResponseBody>, Refusal> {
        if self.closing.load(Ordering::Acquire) {
            return Err(Refusal::Host(Box::new(Error::Draining)));
        }
        let Arrival { upstream, settings, request, asked, host, peer, key, claims } = arrival;
        let (head, _) = request.into_parts();
        let offer =
            Opening::read(&head).map_err(|refusal| Refusal::answer(Why::Malformed, refusal.to_response()))?;
        let compression = settings.compression && settings.resume.is_none();
        let offer = if compression { offer } else { offer.without_deflate() };
        if !is_welcome(&settings, &head.headers) {
            return Err(Refusal::Host(Box::new(Error::Forbidden {
                function: upstream.key().clone(),
                what: FOREIGN_PAGE,
            })));
        }
        let lease = claims.as_ref().and_then(Lease::of);
        let claims = claims.unwrap_or_default();
        let wish = settings.resume.and_then(|_| returns::read(head.uri.query()));
        let owner = Owner { subject: claims.subject().map(Box::from), key: key.clone() };
        if let Some(wish @ Wish { token: Some(token), .. }) = wish {
            if let Some(member) = self.returning(&upstream, token, &owner, &offer) {
                let returning = Returning { member, wish, lease, claims };
                return Ok(self.let_back_in(returning, &offer, asked, call, record));
            }
            upstream.counters().events.returned(UNKNOWN);
        }
        let welcome = validation::ask(&self.caller, upstream.key(), &settings.codec, key.as_ref()).await;
        welcome.map_err(Refusal::unwelcome)?;
        let identity = identify(&upstream, &head, host.as_ref(), peer, claims.subject());
        let member = Member::new(identity, upstream, settings.outbound);
        let returns = settings.resume.map(|_| self.let_return(&member, owner, wish.is_some()));
        self.hub.enter(&member);
        let mut candidate = Candidate { shared: self, member: Arc::clone(&member), accepted: false };
        let ties = Ties { shared: Arc::clone(self), member, settings, key };
        let acceptance = if ties.settings.events.connect {
            let handshake = Handshake {
                headers: of_client(&head.headers),
                subprotocols: offer.subprotocols.clone(),
                claims: claims.iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect(),
            };
            self.ask(&ties, &handshake).await?
        } else {
            Acceptance { subprotocol: offer.subprotocols.first().cloned(), ..Acceptance::default() }
        };
        let rights =
            ties.settings.client_groups.then(|| Rights::new(&claims, &acceptance.roles, &acceptance.groups));
        let state = self.admit(&ties, acceptance, claims.all(GROUPS));
        if let Some(deflate) = offer.deflate() {
            ties.member.deflate.get_or_init(|| deflate);
        }
        let mut response = Response::new(ResponseBody::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = offer.answer(ties.member.identity().subprotocol());
        headers::to_client(StatusCode::SWITCHING_PROTOCOLS, response.headers_mut(), call, None, false);
        if let Some(token) = returns {
            returns::tell(response.headers_mut(), token, None);
        }
        if let Some(mut record) = record.take() {
            record.status = StatusCode::SWITCHING_PROTOCOLS.as_u16();
            record.held(response.headers());
            let cut = self.cut.clone();
            let life = connection::live(Box::pin(open(ties, asked, (state, rights), lease, record)));
            self.tracker.spawn(async move { cut.run_until_cancelled_owned(life).await });
            candidate.accepted = true;
        }
        Ok(response)
    }

    /// Keeps what is said to a new connection, so that its client may come back: with which token.
    fn let_return(&self, member: &Arc<Member>, owner: Owner, greet: bool) -> Token {
        let returns = Return::new(owner);
        let token = returns.token();
        self.hub.returns.enter(member, returns);
        if greet {
            // Before all else, and none of what is said to it by others.
            member.outbound.say(returns::greeting(token, None));
        }
        token
    }

    /// The connection that a client comes back to, if this is its token, and it is who it was. The token counts no more.
    fn returning(
        &self,
        upstream: &Upstream,
        token: Token,
        owner: &Owner,
        offer: &Opening,
    ) -> Option<Arc<Member>> {
        let fits = |identity: &Identity| identity.subprotocol().is_none_or(|name| offer.offers(name));
        self.hub.returns.take(token, upstream.key(), owner, fits)
    }

    /// Gives a connection the socket of its client that is back.
    fn let_back_in(
        &self,
        Returning { member, wish, lease, claims }: Returning,
        offer: &Opening,
        asked: Asked,
        call: &Call,
        record: &mut Option<Record>,
    ) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = offer.answer(member.identity().subprotocol());
        headers::to_client(StatusCode::SWITCHING_PROTOCOLS, response.headers_mut(), call, None, false);
        let Some(returns) = member.returns.get() else { return response };
        let whole = returns.is_whole(wish.seen);
        returns::tell(response.headers_mut(), returns.token(), Some(whole));
        if let Some(mut record) = record.take() {
            // The connection has one of its own, since it was opened.
            record.status = StatusCode::SWITCHING_PROTOCOLS.as_u16();
        }
        let cut = self.cut.clone();
        let coming = async move {
            match Socket::upgraded(asked).await {
                Ok((socket, ahead)) => {
                    let back = Back { socket, ahead, lease, claims, seen: wish.seen, whole, greet: true };
                    if let Some(returns) = member.returns.get() {
                        returns.comes(back);
                    }
                    member.outbound.wake();
                }
                Err(error) => debug!(%error, "a client that came back is gone again"),
            }
        };
        self.tracker.spawn(async move { cut.run_until_cancelled_owned(coming).await });
        response
    }

    /// Asks the function if this client may connect.
    async fn ask(&self, ties: &Ties, handshake: &Handshake) -> Result<Acceptance, Refusal> {
        let counters = ties.member.counters();
        let event = Event {
            of: ties.member.identity(),
            sequence: Some(0),
            attempt: 1,
            at: SystemTime::now(),
            state: None,
            what: What::Connect(handshake),
        };
        let began = Instant::now();
        let teller = Teller { shared: self, settings: &ties.settings, counters, key: ties.key.as_ref() };
        let told = teller.decide(event).await;
        let (outcome, decided) = match told {
            Told::Answered(Decision::Accept(acceptance)) => (0, Ok(acceptance)),
            Told::Answered(Decision::Refuse(response)) => (1, Err(Refusal::answer(Why::Function, response))),
            Told::Unanswered { status, .. } => {
                let why = Why::of_unanswered(status);
                let mut response =
                    Response::new(Bytes::from_static(b"the function did not say if you may connect\n"));
                *response.status_mut() = status;
                (2, Err(Refusal::answer(why, response)))
            }
        };
        counters.event(0, outcome, began.elapsed());
        decided
    }

    /// Notes on which terms it connects: what the function wants to be told again.
    fn admit(&self, ties: &Ties, acceptance: Acceptance, groups_of_token: &[String]) -> Option<Box<str>> {
        let Acceptance { user, groups, subprotocol, state, roles: _ } = acceptance;
        let (member, identity) = (&ties.member, ties.member.identity());
        if let Some(user) = user {
            // Who the token says it is, the function knows and may repeat.
            if identity.user.set(user.into()).is_err() {
                debug!(connection = %identity.id, "its user was known before");
            }
        }
        if let Some(subprotocol) = subprotocol {
            identity.subprotocol.get_or_init(|| subprotocol.into());
        }
        self.hub.is_of(member);
        for group in groups_of_token.iter().chain(&groups) {
            if let Err(error) = self.hub.join(member, group, ties.settings.max_groups) {
                let function = &identity.function;
                tracing::warn!(%function, "function {function}: a connection cannot join {group:?}: {error}");
            }
        }
        member.opened();
        member.counters().opened();
        // As it is now: an update that did not find it in the hub has come before this look.
        if ties.now().events.disconnected {
            // Before the client has its answer: from here on its end is something to be told of.
            self.keeper.opened(identity);
        }
        state.map(String::into_boxed_str)
    }
}

/// Waits for the socket.
async fn open(
    ties: Ties,
    asked: Asked,
    (state, rights): (Option<Box<str>>, Option<Rights>),
    lease: Option<Box<Lease>>,
    mut record: Record,
) -> Option<Box<Connection>> {
    let (max_message, deflate) = (ties.settings.max_message, ties.member.deflate.get().is_some());
    let limits = Limits { max_message, deflate, ..Limits::default() };
    match Socket::upgraded(asked).await {
        Ok((socket, ahead)) => {
            let decoder = Decoder::new(limits);
            let mut connection = Box::new(Connection::new(ties, socket, ahead, decoder, state, record));
            connection.lets_go_with(lease);
            connection.allows(rights);
            Some(connection)
        }
        Err(error) => {
            debug!(%error, "a connection ended before it began");
            record.broken = Some("upgrade");
            record.closed(None, None);
            ties.shared.hub.leave(&ties.member);
            ties.member.counters().never_began();
            tell_loss(ties, "never connected").await;
            None
        }
    }
}

fn identify(
    upstream: &Upstream,
    head: &Parts,
    host: Option<&HeaderValue>,
    peer: SocketAddr,
    user: Option<&str>,
) -> Identity {
    let text = |value: &HeaderValue| value.to_str().ok().map(Box::<str>::from);
    Identity {
        id: ConnectionId::random(),
        function: upstream.key().clone(),
        path: head.uri.path_and_query().map_or("/", |path| path.as_str()).into(),
        user: user.map(Box::<str>::from).map_or_else(OnceLock::new, OnceLock::from),
        subprotocol: OnceLock::new(),
        peer: peer.ip().to_canonical(),
        host: host.and_then(text),
        user_agent: head.headers.get(USER_AGENT).and_then(text),
        since: SystemTime::now(),
    }
}

/// A client's headers, without those that speak of the connection.
fn of_client(all: &HeaderMap) -> HeaderMap {
    let of_handshake = |name: &HeaderName| {
        *name == HOST
            || *name == SEC_WEBSOCKET_PROTOCOL
            || name.as_str().starts_with("sec-websocket-")
            || [http::header::CONNECTION, http::header::UPGRADE].contains(name)
    };
    let mut headers = HeaderMap::new();
    for (name, value) in all.iter().filter(|(name, _)| !of_handshake(name)) {
        headers.append(name, value.clone());
    }
    headers
}
