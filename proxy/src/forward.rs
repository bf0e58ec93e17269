//! Sending a request to an endpoint, until the head of its answer is there.
//!
//! Owns the only retries there are. The rule: what may have been sent is never sent again. A request comes back from a
//! connection only if not one byte of it was written; then, and when no connection could be made, another try is safe.
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

use http::header::HOST;
use http::{Request, Response};

use crate::body::{Broken, Exchange, Payload, RequestBody, Source};
use crate::claim::Claim;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::http1::replica::{Connection, Failure};
use crate::http2;
use crate::upstream::Timeouts;

/// Endpoints tried for one request before its client is told.
const MAX_ENDPOINTS: usize = 3;

/// An answer whose head was read: the body is still on the connection.
pub(crate) struct Answer {
    pub(crate) response: Response<()>,
    pub(crate) source: Source,
    pub(crate) exchange: Arc<Exchange>,
}

/// What became of a request that was given to a connection.
pub(crate) enum Sent {
    Answered(Answer),
    /// It was not sent, for this cause.
    Back(Box<Request<Payload>>, Claim, io::Error),
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
                Sent::Back(unsent, held, _) => (request, claim) = (*unsent, held),
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
                Err(cause) => Sent::Back(Box::new(request), claim, cause),
            },
        };
        let cause = match sent {
            Sent::Answered(answer) => return Ok(answer),
            Sent::Failed(error) => return Err(error),
            Sent::Back(unsent, held, cause) => {
                (request, claim) = (*unsent, held);
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
    mut connection: Box<Connection>,
    claim: Claim,
    mut request: Request<Payload>,
    idle: Option<Duration>,
) -> Sent {
    request.headers_mut().insert(HOST, claim.endpoint().host().clone());
    let exchange = Arc::new(Exchange::new(claim));
    let request = request.map(|body| RequestBody::new(body, &exchange, idle));
    match connection.send(request).await {
        Ok(response) => Sent::Answered(Answer { response, source: Source::Http1(connection), exchange }),
        Err(Failure::Unsent(unsent)) => {
            let request = unsent.map(RequestBody::into_inner);
            let exchange = Arc::into_inner(exchange).expect("only the body of the request shared it");
            Sent::Back(Box::new(request), exchange.into_claim(), io::ErrorKind::ConnectionAborted.into())
        }
        Err(failure) => Sent::Failed(no_answer(exchange.claim(), &failure)),
    }
}

/// What to say of an answer that did not come.
pub(crate) fn no_answer(claim: &Claim, failure: &Failure) -> Error {
    let what = match failure {
        Failure::Request(broken) => return no_answer_for(claim, Some(broken), ""),
        Failure::Malformed(_) => "sent something that is not HTTP",
        Failure::Unsent(_) | Failure::Closed(_) => "closed the connection without an answer",
    };
    let (function, replica) = (claim.upstream().key(), claim.endpoint().id());
    tracing::debug!(%function, %replica, error = failure as &dyn StdError, "no answer");
    no_answer_for(claim, None, what)
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
