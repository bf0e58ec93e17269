//! `/@connections/{id}` behind any path: the calls of AWS' clients, for what has no route of its own.
//!
//! A caller is known by a signature with the keys of its namespace, by the token of it, or as a user of this host.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::{self, Body, Bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use roost_proxy::function::Namespace;
use roost_proxy::websocket::codec::aws::management::{self, Verb};
use roost_proxy::websocket::codec::aws::sigv4;
use roost_proxy::websocket::event::ConnectionId;

use super::inside::of_token;
use super::words::MAX_MESSAGE;
use crate::api::auth::{self, Peer};
use crate::api::{Api, not_found};
use crate::nodes::{Act, Answer as Found, Close};
use crate::passes::Passes;

type Answer = http::Response<Bytes>;

/// Answers such a call; any other path is not found.
pub(in crate::api) async fn answer(State(api): State<Api>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let Some(asked) = management::read(&head.method, head.uri.path()) else {
        return not_found().await.into_response();
    };
    let (connection, verb) = (asked.connection, asked.verb);
    let answer = match body::to_bytes(body, MAX_MESSAGE).await {
        Ok(data) => settle(&api, &head, connection, verb, data).await.unwrap_or_else(|refused| *refused),
        Err(_) => management::too_large(MAX_MESSAGE as u64),
    };
    answer.map(Body::from)
}

async fn settle(
    api: &Api,
    head: &Parts,
    connection: Option<ConnectionId>,
    verb: Option<Verb>,
    data: Bytes,
) -> Result<Answer, Box<Answer>> {
    let authority = authenticate(api, head, &data).await?;
    let verb = verb.ok_or_else(management::not_allowed)?;
    let id = connection.ok_or_else(management::gone)?;
    let act = match verb {
        Verb::Get => Act::Show,
        Verb::Delete => Act::End { close: Close::new(1000, "") },
        Verb::Post => Act::say(management::message(head.uri.query(), &head.headers, data)?),
    };
    match (api.nodes.one(authority.namespace(), id, act).await, verb) {
        (Found::Shown { connection: of }, Verb::Get) => {
            let at = |stamp: Option<Timestamp>| stamp.map_or(UNIX_EPOCH, SystemTime::from);
            Ok(management::found(of.peer, of.user_agent.as_deref(), at(of.since), at(of.last_active)))
        }
        (Found::Done, Verb::Delete) => Ok(management::deleted()),
        (Found::Done, Verb::Post) => Ok(management::sent()),
        (Found::TooSlow, _) => {
            Err(Box::new(management::too_many("the client does not read what it is told")))
        }
        _ => Err(Box::new(management::gone())),
    }
}

/// Whose connections a caller may speak to.
enum Authority {
    Everybody,
    Of(Namespace),
}

impl Authority {
    fn namespace(&self) -> Option<&Namespace> {
        match self {
            Self::Everybody => None,
            Self::Of(namespace) => Some(namespace),
        }
    }
}

async fn authenticate(api: &Api, head: &Parts, data: &[u8]) -> Result<Authority, Box<Answer>> {
    let Some(users) = &api.users else { return Ok(Authority::Everybody) };
    if let Some(namespace) = of_token(api, &head.headers) {
        return Ok(Authority::Of(namespace));
    }
    if is_basic(head) {
        let peer = Peer::of(&head.extensions);
        return match users.authenticate(&head.headers, peer).await {
            Ok(role) if auth::may(role, &head.method) => Ok(Authority::Everybody),
            Ok(_) => Err(Box::new(management::forbidden("this user is read-only: it may GET, and no more"))),
            Err(crate::users::Refused::Wrong) => Err(Box::new(management::forbidden("invalid credentials"))),
            Err(crate::users::Refused::Busy) => {
                Err(Box::new(management::too_many("too many passwords are being checked")))
            }
        };
    }
    let keys = api.passes.aws_keys(&api.registry.namespaces());
    let id = sigv4::verify(head, data, &keys, SystemTime::now());
    let id = id.map_err(|why| Box::new(management::forbidden(&why.to_string())))?;
    let namespace = Passes::of_key_id(id);
    namespace.map(Authority::Of).ok_or_else(|| Box::new(management::forbidden("an unknown key")))
}

fn is_basic(head: &Parts) -> bool {
    let scheme = |value: &HeaderValue| {
        value
            .to_str()
            .ok()
            .and_then(|text| text.split(' ').next().map(|scheme| scheme.eq_ignore_ascii_case("Basic")))
    };
    head.headers.get(header::AUTHORIZATION).and_then(scheme).unwrap_or_default()
}
