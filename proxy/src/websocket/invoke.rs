//! One event, from what happened to what the function wants done: the request, its tries, the answer.
//!
//! Owns which failures are tried again, and when. A request that may have reached the function is sent again only where it
//! has asked for that.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use tokio::time::sleep;
use tracing::{debug, warn};

use super::Shared;
use super::codec::{Call, Encoded, Terms};
use super::counters::{EVENTS, EventCounters};
use super::event::{Action, Decision, Event, Outcome, What};
use super::keeper::{DeadEvent, Failing, Reason};
use super::settings::{Delivery, EventMode};
use super::validation::{self, Unwelcome};
use crate::error::Error;
use crate::placement::ReplicaKey;

/// The pause behind the first try; each further one is four times as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How much longer than the longest message an answer may be.
pub(super) const ANSWER_ROOM: usize = 64 << 10;

/// What came of telling a function.
#[derive(Debug)]
pub(super) enum Told<T> {
    /// It answered, or nobody had to.
    Answered(T),
    /// It did not, for good.
    Unanswered {
        /// What this amounts to in the dialect.
        outcome: Outcome,
        /// The function could not be had at all: it may be another time.
        overload: bool,
        /// What this host would say to a plain request.
        status: StatusCode,
    },
}

/// A try that brought no answer.
struct Failure {
    why: String,
    status: StatusCode,
    /// Nothing can have reached the function.
    unsent: bool,
    /// It may be otherwise in a moment.
    passing: bool,
}

/// Whom to tell, and on which terms.
pub(super) struct Teller<'a> {
    pub(super) shared: &'a Shared,
    pub(super) settings: &'a EventMode,
    /// Of the function that the client has asked.
    pub(super) counters: &'a EventCounters,
    /// The key of the connection, for the function it has asked.
    pub(super) key: Option<&'a ReplicaKey>,
}

impl Teller<'_> {
    /// Asks if a client may connect. An offer of actions is no answer to that.
    pub(super) async fn decide(&self, event: Event<'_>) -> Told<Decision> {
        let decode = |event: &Event<'_>, terms, answer| {
            let decoded = self.settings.codec.decision(event, terms, answer);
            (decoded.meant, decoded.complaints)
        };
        let nobody = |_| Decision::Accept(super::event::Acceptance::default());
        // It is asked once: the client waits, and can ask again.
        self.tell(event, 0, decode, |_| None, nobody).await
    }

    /// Tells what happened.
    pub(super) async fn happened(&self, event: Event<'_>) -> Told<Outcome> {
        let decode = |event: &Event<'_>, terms, answer| {
            let decoded = self.settings.codec.outcome(event, terms, answer);
            (decoded.meant, decoded.complaints)
        };
        let failed = |outcome: &Outcome| match outcome {
            Outcome::Failed { status, .. } => Some(*status),
            Outcome::Done(_) => None,
        };
        self.tell(event, self.settings.retries, decode, failed, Outcome::Done).await
    }

    async fn tell<T>(
        &self,
        mut event: Event<'_>,
        retries: u32,
        decode: impl Fn(&Event<'_>, Terms, Response<Bytes>) -> (T, Vec<String>),
        failed: impl FnOnce(&T) -> Option<u16>,
        instead: impl FnOnce(Vec<Action>) -> T,
    ) -> Told<T> {
        loop {
            let call = match self.settings.codec.call(&event) {
                Encoded::Call(call) => call,
                Encoded::Instead(actions) => return Told::Answered(instead(actions)),
            };
            let terms = call.terms;
            let last = event.attempt > retries;
            let failure = match self.ask(&call, &event).await {
                Ok(answer) if !last && self.is_to_be_repeated(answer.status()) => Failure {
                    why: format!("it answered {}", answer.status().as_u16()),
                    status: answer.status(),
                    unsent: false,
                    passing: true,
                },
                Ok(answer) => {
                    let (meant, complaints) = decode(&event, terms, answer);
                    for complaint in &complaints {
                        warn!(function = %call.function, "function {}: {complaint}", call.function);
                    }
                    if let Some(status) = failed(&meant) {
                        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
                        // What cannot be read says more than the status that it counts as.
                        let cause = match &*complaints {
                            [] => format!("it answered {}", status.as_u16()),
                            complaints => complaints.join("; "),
                        };
                        self.bury(&event, *call, Failing { reason: Reason::Failed, status, cause });
                    }
                    return Told::Answered(meant);
                }
                Err(failure) => failure,
            };
            debug!(function = %call.function, connection = %event.of.id, attempt = event.attempt, "{}", failure.why);
            let repeat =
                failure.passing && (failure.unsent || self.settings.delivery == Delivery::AtLeastOnce);
            if last || !repeat {
                return self.give_up(&event, *call, failure);
            }
            self.counters.retried();
            sleep(pause(event.attempt)).await;
            event.attempt += 1;
        }
    }

    fn is_to_be_repeated(&self, status: StatusCode) -> bool {
        self.settings.delivery == Delivery::AtLeastOnce
            && (status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS)
    }

    fn give_up<T>(&self, event: &Event<'_>, call: Call, failure: Failure) -> Told<T> {
        let Failure { why, status, unsent, .. } = failure;
        warn!(
            function = %call.function, connection = %event.of.id,
            "function {}: an event of connection {} is lost after {} attempts: {why}",
            call.function, event.of.id, event.attempt
        );
        let outcome = self.settings.codec.failed(event, status);
        let reason = if unsent { Reason::Unavailable } else { Reason::Unanswered };
        self.bury(event, call, Failing { reason, status, cause: why });
        Told::Unanswered { outcome, overload: unsent, status }
    }

    /// Has an event kept that found no end.
    fn bury(&self, event: &Event<'_>, call: Call, failing: Failing) {
        let kind = match event.what {
            // Its client has an answer, and may come again.
            What::Connect(_) => return,
            What::Connected => EVENTS[1],
            What::Messages(_) => EVENTS[2],
            What::Disconnected(_) => EVENTS[3],
            What::Joined(_) => EVENTS[4],
            What::Left(_) => EVENTS[5],
        };
        self.counters.died(failing.reason);
        let Call { function, request, terms } = call;
        let of = event.of.function.clone();
        self.shared.keeper.dead(DeadEvent {
            key: self.key.filter(|_| function == of).cloned(),
            function,
            of,
            connection: event.of.id,
            event: kind,
            two_way: terms.is_two_way(),
            request,
            attempts: event.attempt,
            failing,
        });
    }

    /// One try.
    async fn ask(&self, call: &Call, event: &Event<'_>) -> Result<Response<Bytes>, Failure> {
        let key = self.key.filter(|_| call.function == event.of.function).cloned();
        let welcome =
            validation::ask(&self.shared.caller, &call.function, &self.settings.codec, key.as_ref()).await;
        welcome.map_err(|Unwelcome { why, status }| Failure { why, status, unsent: true, passing: true })?;
        let request = copy(&call.request);
        let answer =
            self.shared.caller.ask(&call.function, request, key).await.map_err(|error| failure(&error))?;
        let (head, body) = answer.into_parts();
        let limit = self.settings.max_message.saturating_add(ANSWER_ROOM);
        let body = Limited::new(body, limit).collect().await.map_err(|error| Failure {
            why: format!("its answer broke off, or is longer than {limit} bytes: {error}"),
            status: StatusCode::BAD_GATEWAY,
            unsent: false,
            passing: true,
        })?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}

fn failure(error: &Error) -> Failure {
    let unsent = !error.may_have_been_sent();
    let passing = match error {
        Error::UnknownFunction { .. } | Error::WaitingTimeout { .. } | Error::Draining => false,
        _ => error.status(false).is_server_error() || error.status(false) == StatusCode::TOO_MANY_REQUESTS,
    };
    Failure { why: error.to_string(), status: error.status(false), unsent, passing }
}

pub(super) fn copy(request: &Request<Bytes>) -> Request<Bytes> {
    let mut copy = Request::new(request.body().clone());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    copy
}

/// How long to wait behind this attempt: four times as long each time, and a fifth more or less, so that those who failed
/// together do not come back together.
fn pause(attempt: u32) -> Duration {
    let pause =
        FIRST_PAUSE.saturating_mul(4_u32.saturating_pow(attempt.saturating_sub(1))).min(LONGEST_PAUSE);
    let chance = RandomState::new().hash_one(attempt) as f64 / u64::MAX as f64;
    pause.mul_f64(0.8 + 0.4 * chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pause_is_four_times_the_last_within_a_fifth_and_none_is_endless() {
        for (attempt, expected) in
            [(1, 100), (2, 400), (3, 1600), (4, 6400), (5, 25_600), (6, 30_000), (40, 30_000)]
        {
            let pause = pause(attempt).as_secs_f64() * 1000.0;
            let expected = f64::from(expected);
            assert!((expected * 0.79..=expected * 1.21).contains(&pause), "{attempt}: {pause}");
        }
    }
}
