//! An event that found no end, told once more.
//!
//! Owns the way of one such event: to the function as any other goes, and what is answered back to the connection, if that is
//! still there. It is told beside what the connection's own task tells: of order nothing is said. What the function
//! wants to be told again (`ce-connectionState`) belongs to that task, and is left as it is.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use tracing::warn;

use super::codec::Terms;
use super::ending::{Category, Ending};
use super::event::{Action, Event, Identity, Outcome, What};
use super::hub::Hub;
use super::invoke::{ANSWER_ROOM, copy};
use super::keeper::{DeadEvent, Failing, Reason};
use super::member::Member;
use super::outbound::Said;
use super::settings::{EventMode, MAX_MESSAGE};
use super::validation::{self, Unwelcome};
use crate::caller::Caller;
use crate::error::Error;
use crate::tunnel::By;

/// Which try it is, for functions that are told so.
const CE_ATTEMPT: HeaderName = HeaderName::from_static("ce-attempt");

/// Tells functions once more. Clones share what they need.
#[derive(Debug, Clone)]
pub struct Redrive {
    caller: Caller,
    hub: Arc<Hub>,
}

impl Redrive {
    /// Tells by this caller, and answers to the connections of this hub.
    #[must_use]
    pub fn new(caller: Caller, hub: Arc<Hub>) -> Self {
        Self { caller, hub }
    }

    /// Tells it, once. `true` if its connection is there and got what was answered.
    ///
    /// Cancel safe: dropping the future ends the call, which the function may have had.
    ///
    /// # Errors
    /// When the function has not dealt with it.
    pub async fn tell(&self, dead: &DeadEvent) -> Result<bool, Failing> {
        let member = self.hub.find_in(&dead.of.namespace, dead.connection).filter(|one| one.is_open());
        let settings = self.caller.event_mode(&dead.of);
        let answer = self.ask(dead, settings.as_deref()).await?;
        let gone;
        let identity = match &member {
            Some(member) => member.identity(),
            None => {
                gone = bare(dead);
                &gone
            }
        };
        let actions = read(dead, identity, settings.as_deref(), answer)?;
        let Some(member) = member else { return Ok(false) };
        for action in actions {
            self.act(&member, action);
        }
        Ok(true)
    }

    async fn ask(&self, dead: &DeadEvent, settings: Option<&EventMode>) -> Result<Response<Bytes>, Failing> {
        let mut request = copy(&dead.request);
        if let Some(attempt) = request.headers_mut().get_mut(CE_ATTEMPT) {
            *attempt = HeaderValue::from(dead.attempts.saturating_add(1));
        }
        let key = dead.key.clone().filter(|_| dead.function == dead.of);
        if let Some(mode) = settings {
            let welcome = validation::ask(&self.caller, &dead.function, &mode.codec, key.as_ref()).await;
            welcome.map_err(|Unwelcome { why, status }| Failing {
                reason: Reason::Unavailable,
                status,
                cause: why,
            })?;
        }
        let answer = self.caller.ask(&dead.function, request, key).await.map_err(|error| failing(&error))?;
        let (head, body) = answer.into_parts();
        let limit = settings.map_or(MAX_MESSAGE, |mode| mode.max_message).saturating_add(ANSWER_ROOM);
        let body = Limited::new(body, limit).collect().await.map_err(|error| Failing {
            reason: Reason::Unanswered,
            status: StatusCode::BAD_GATEWAY,
            cause: format!("its answer broke off, or is longer than {limit} bytes: {error}"),
        })?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }

    fn act(&self, member: &Arc<Member>, action: Action) {
        let identity = member.identity();
        let namespace = &identity.function.namespace;
        match action {
            Action::Send(message) => {
                // What cannot be said has ended the connection, or found it ended.
                let _: Said = member.say(&message);
            }
            Action::Publish { group, message, exclude_self } => {
                let me = [identity.id];
                let except = if exclude_self { &me[..] } else { &[] };
                self.hub.say_to_group(namespace, &group, &message, except);
            }
            Action::Join(group) => {
                if let Err(error) = self.hub.join(member, &group, member.most_groups()) {
                    let function = &identity.function;
                    warn!(%function, "function {function}: a connection cannot join {group:?}: {error}");
                }
            }
            Action::Leave(group) => {
                self.hub.part(member, &group);
            }
            Action::Close(frame) => {
                member.end(Ending::new(frame, By::Function, Category::Normal));
            }
            Action::SetState(_) => {}
        }
    }
}

/// What the answer wants done.
fn read(
    dead: &DeadEvent,
    identity: &Identity,
    settings: Option<&EventMode>,
    answer: Response<Bytes>,
) -> Result<Vec<Action>, Failing> {
    let failed = |status: StatusCode| {
        Err(Failing { reason: Reason::Failed, status, cause: format!("it answered {}", status.as_u16()) })
    };
    let status = answer.status();
    let Some(settings) = settings else {
        return if status.is_success() { Ok(Vec::new()) } else { failed(status) };
    };
    // Of the event nothing is asked here but whose it is.
    let event = Event {
        of: identity,
        sequence: None,
        attempt: dead.attempts.saturating_add(1),
        at: SystemTime::now(),
        state: None,
        what: What::Connected,
    };
    let decoded = settings.codec.outcome(&event, Terms::of(dead.two_way), answer);
    for complaint in decoded.complaints {
        warn!(function = %dead.function, "function {}: {complaint}", dead.function);
    }
    match decoded.meant {
        Outcome::Done(actions) => Ok(actions),
        Outcome::Failed { status, .. } => {
            failed(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY))
        }
    }
}

/// A connection of which no more is known.
fn bare(dead: &DeadEvent) -> Identity {
    Identity {
        id: dead.connection,
        function: dead.of.clone(),
        path: "".into(),
        user: OnceLock::new(),
        subprotocol: OnceLock::new(),
        peer: std::net::Ipv4Addr::UNSPECIFIED.into(),
        host: None,
        user_agent: None,
        since: SystemTime::now(),
    }
}

fn failing(error: &Error) -> Failing {
    let reason = if error.may_have_been_sent() { Reason::Unanswered } else { Reason::Unavailable };
    Failing { reason, status: error.status(false), cause: error.to_string() }
}
