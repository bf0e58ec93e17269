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

use crate::body::{Broken, Exchange, Payload, RequestBody};
use crate::claim::Claim;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::http1::replica::{Connection, Failure};
use crate::upstream::Timeouts;

/// Endpoints tried for one request before its client is told.
const MAX_ENDPOINTS: usize = 3;

/// An answer whose head was read: the body is still on the connection.
pub(crate) struct Answer {
    pub(crate) response: Response<()>,
    pub(crate) connection: Box<Connection>,
    pub(crate) exchange: Arc<Exchange>,
}

/// What became of a request that was given to a connection.
enum Sent {
    Answered(Answer),
    /// It was not sent.
    Back(Request<Payload>, Claim),
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
                Sent::Back(unsent, held) => (request, claim) = (unsent, held),
            }
        }
        let cause = match claim.endpoint().connect(timeouts.connect).await {
            Ok(connection) => match send_on(connection, claim, request, timeouts.idle).await {
                Sent::Answered(answer) => return Ok(answer),
                Sent::Failed(error) => return Err(error),
                Sent::Back(unsent, held) => {
                    (request, claim) = (unsent, held);
                    io::Error::from(io::ErrorKind::ConnectionAborted)
                }
            },
            Err(cause) => cause,
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
        Ok(response) => Sent::Answered(Answer { response, connection, exchange }),
        Err(Failure::Unsent(unsent)) => {
            let request = unsent.map(RequestBody::into_inner);
            let exchange = Arc::into_inner(exchange).expect("only the body of the request shared it");
            Sent::Back(request, exchange.into_claim())
        }
        Err(failure) => Sent::Failed(no_answer(exchange.claim(), &failure)),
    }
}

/// What to say of an answer that did not come.
pub(crate) fn no_answer(claim: &Claim, failure: &Failure) -> Error {
    let what = match failure {
        Failure::Request(Broken::Idle(limit)) => return Error::ClientStalled { limit: *limit },
        Failure::Request(Broken::TooLarge(limit)) => return Error::BodyTooLarge { limit: *limit },
        Failure::Request(Broken::Late(limit)) => return Error::BodyTooSlow { limit: *limit },
        Failure::Request(_) => return Error::ClientGone,
        Failure::Malformed(_) => "sent something that is not HTTP",
        Failure::Unsent(_) | Failure::Closed(_) => "closed the connection without an answer",
    };
    let (function, replica) = (claim.upstream().key(), claim.endpoint().id());
    tracing::debug!(%function, %replica, error = failure as &dyn StdError, "no answer");
    Error::NoAnswer { function: function.clone(), replica: replica.clone(), what }
}
