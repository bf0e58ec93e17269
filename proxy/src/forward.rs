//! Sending a request to an endpoint, until the head of its answer is there.
//!
//! Owns the only retries there are. The rule: what may have been sent is never sent again. A request comes back from
//! hyper only if not one byte of it was written; then, and when no connection could be made, another try is safe.
//!
//! ```text
//!   claim ─► pooled connection ─► sent ─► head of the answer
//!     ▲           │ none             │
//!     │           ▼                  ├─ came back unsent: a new connection to the same endpoint, once
//!     │       new connection ──────► │
//!     │           │ failed           └─ anything else: NoAnswer; nobody knows what the function saw
//!     └───────────┘ another endpoint, if there is one
//! ```

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;
use std::{io, mem};

use crate::body::{Broken, Exchange, Payload, Received, RequestBody};
use crate::claim::Claim;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::http2;
use crate::pool::Connection;
use crate::upstream::Timeouts;
use http::header::HOST;
use http::{Request, Response};

/// Endpoints tried for one request before its client is told.
const MAX_ENDPOINTS: usize = 3;

/// An answer whose head was read: the body is still on the connection.
pub(crate) struct Answer {
    pub(crate) response: Response<Received>,
    /// `None` where the answer has a stream of one that is shared.
    pub(crate) connection: Option<Connection>,
    pub(crate) exchange: Arc<Exchange>,
}

/// What became of a request that was given to a connection.
pub(crate) enum Sent {
    Answered(Answer),
    /// It was not sent, for this cause.
    Back(Request<Payload>, Claim, io::Error),
    Failed(Error),
}

/// Sends `request` to the endpoint of `claim`, or to another one if that cannot be reached.
///
/// Cancel safe: dropping the future closes the connection and releases the claim.
pub(crate) async fn send(
    mut claim: Claim,
    mut request: Request<Payload>,
    timeouts: &Timeouts,
) -> Result<Answer, Error> {
    let mut tried: Vec<Arc<Endpoint>> = Vec::new();
    loop {
        if let Some(connection) = claim.endpoint().reuse() {
            match send_on(connection, claim, request, timeouts.idle).await {
                Sent::Answered(answer) => return Ok(answer),
                Sent::Failed(error) => return Err(error),
                Sent::Back(unsent, held, _) => (request, claim) = (unsent, held),
            }
        }
        let sent = match claim.endpoint().lines() {
            // What asks to become something else than HTTP can do so over HTTP/1.1 only.
            Some(lines) if !claim.ask().tunnel => {
                let lines = Arc::clone(lines);
                Box::pin(async move { http2::send(&lines, claim, request, timeouts).await }).await
            }
            _ => match claim.endpoint().connect(timeouts.connect).await {
                Ok(connection) => send_on(connection, claim, request, timeouts.idle).await,
                Err(cause) => Sent::Back(request, claim, cause),
            },
        };
        let cause = match sent {
            Sent::Answered(answer) => return Ok(answer),
            Sent::Failed(error) => return Err(error),
            Sent::Back(unsent, held, cause) => {
                (request, claim) = (unsent, held);
                cause
            }
        };
        // The replica may just have died; nothing was sent, so another one may have the request.
        tried.push(Arc::clone(claim.endpoint()));
        let next = if tried.len() < MAX_ENDPOINTS { claim.elsewhere(&tried) } else { None };
        match next {
            // The claim on the dead endpoint is released only now that there is another.
            Some(next) => drop(mem::replace(&mut claim, next)),
            None => {
                return Err(Error::Connect {
                    function: claim.upstream().key().clone(),
                    replica: claim.endpoint().id().clone(),
                    cause: Arc::new(cause),
                });
            }
        }
    }
}

async fn send_on(
    mut connection: Connection,
    claim: Claim,
    mut request: Request<Payload>,
    idle: Option<Duration>,
) -> Sent {
    request.headers_mut().insert(HOST, claim.endpoint().host().clone());
    let exchange = Arc::new(Exchange::new(claim));
    let request = request.map(|body| RequestBody::new(body, &exchange, idle));
    let mut failure = match connection.send(request).await {
        Ok(response) => {
            let response = response.map(Received::Http1);
            return Sent::Answered(Answer { response, connection: Some(connection), exchange });
        }
        Err(failure) => failure,
    };
    match failure.take_message() {
        Some(unsent) => {
            let request = unsent.map(RequestBody::into_inner);
            let exchange = Arc::into_inner(exchange).expect("only the body of the request shared it");
            Sent::Back(request, exchange.into_claim(), io::ErrorKind::ConnectionAborted.into())
        }
        None => Sent::Failed(no_answer(exchange.claim(), &failure.into_error())),
    }
}

/// What to say of an answer that did not come.
fn no_answer(claim: &Claim, error: &hyper::Error) -> Error {
    let what = match error.is_parse() {
        true => "sent something that is not HTTP",
        false => "closed the connection without an answer",
    };
    let broken = broken(error);
    if broken.is_none() {
        let (function, replica) = (claim.upstream().key(), claim.endpoint().id());
        tracing::debug!(%function, %replica, error = error as &dyn StdError, "no answer");
    }
    no_answer_for(claim, broken, what)
}

/// What to say of an answer that did not come: because the request's own body is `broken`, or of what the function did.
pub(crate) fn no_answer_for(claim: &Claim, broken: Option<&Broken>, what: &'static str) -> Error {
    match broken {
        Some(Broken::Idle(limit)) => Error::ClientStalled { limit: *limit },
        Some(Broken::TooLarge(limit)) => Error::BodyTooLarge { limit: *limit },
        Some(Broken::Late(limit)) => Error::BodyTooSlow { limit: *limit },
        Some(_) => Error::ClientGone,
        None => Error::NoAnswer {
            function: claim.upstream().key().clone(),
            replica: claim.endpoint().id().clone(),
            what,
        },
    }
}

/// The end of the request's own body, if that is the cause.
fn broken(error: &hyper::Error) -> Option<&Broken> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(broken) = error.downcast_ref() {
            return Some(broken);
        }
        source = error.source();
    }
    None
}
