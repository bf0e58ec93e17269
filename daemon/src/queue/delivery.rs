//! One turn of a call: an attempt, or what is left to do when there are no more.
//!
//! ```text
//!            ┌────────────── again, behind a pause ───────────────┐
//!            ▼                                                    │
//!  turn ─► one of the host's places ─► call ─┬─ nobody took it ───┤ its line is closed for a while
//!                                            ├─ sent back, or ────┘ for so many attempts
//!                                            │  failed as its function says
//!                                            ├─ answered ─► callback ─► result kept ─► done
//!                                            └─ failed ─► dead letter ─► callback ─► dead
//! ```
//!
//! Owns what is told of a call to its function, its callback and the dead letters. Whatever happens here, the
//! [keeper](super::keeper) hears how the turn ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, Response, StatusCode};
use roost_proxy::function::FunctionKey;
use roost_proxy::{Error, OwnBody, ResponseBody};
use tracing::{debug, info, warn};

use super::callback::{Passed, Tee, place};
use super::invocation::{Answer, Failure, Invocation};
use super::keeper::{Ended, Order, Resulted, now};
use super::lines::{Task, Turn};
use super::policy::{Policy, Verdict};
use super::spool::Kept;
use super::store::Loaded;
use super::{Place, Shared};

/// Tells the function which attempt this is.
const X_ROOST_ATTEMPT: HeaderName = HeaderName::from_static("x-roost-attempt");

/// The pauses between two attempts to send a callback, in milliseconds.
const CALLBACK_PAUSES: (i64, i64) = (1000, 60_000);

/// How long what the disk did not take waits, in milliseconds.
const DISK_PAUSE: i64 = 10_000;

/// The end of a turn that was not ended otherwise: the task that had it broke.
const BROKEN_PAUSE: i64 = 1000;

/// A turn that is going on. It ends when this is dropped, if it has not.
struct Lease<'a> {
    shared: &'a Arc<Shared>,
    of: Option<(FunctionKey, u64)>,
}

impl<'a> Lease<'a> {
    async fn end(mut self, ended: Ended) {
        if let Some((function, number)) = self.of.take() {
            self.shared.order(Order::End { function, number, ended }).await;
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some((function, number)) = self.of.take() {
            let shared = Arc::clone(self.shared);
            let ended = Ended::Again { due: now() + BROKEN_PAUSE };
            self.shared.runtime.spawn(async move {
                shared.order(Order::End { function, number, ended }).await;
            });
        }
    }
}

/// What a turn works with.
struct Way<'a> {
    shared: &'a Arc<Shared>,
    turn: &'a Turn,
    call: &'a Invocation,
    body: &'a Kept,
    policy: Arc<Policy>,
}

/// Has a call its turn.
pub(super) async fn deliver(shared: Arc<Shared>, turn: Turn, loaded: Loaded) {
    let lease = Lease { shared: &shared, of: Some((turn.function.clone(), turn.number)) };
    let Loaded { call, body, answer } = &loaded;
    let way = Way { shared: &shared, turn: &turn, call, body, policy: shared.policy(&turn.function) };
    let going = async {
        match &turn.task {
            Task::Make => way.make().await,
            Task::CallBack => match answer {
                Some((answer, body, times)) => way.call_back(answer, body, *times).await,
                None => Ended::Done { result: None },
            },
            Task::Expired => {
                let cause = "it was not made before it expired".to_owned();
                way.fail(Failure { status: StatusCode::GATEWAY_TIMEOUT.as_u16(), cause }, "expired").await
            }
            Task::GivenUp(failure) => way.fail(failure.clone(), "unavailable").await,
        }
    };
    let ended = tokio::select! {
        biased;
        () = turn.cancelled.cancelled() => {
            info!(function = %turn.function, call_id = call.id, "{}: a queued call was cancelled", turn.function);
            Ended::Cancelled
        }
        ended = going => ended,
    };
    lease.end(ended).await;
}

impl Way<'_> {
    /// Makes the call.
    async fn make(&self) -> Ended {
        let Self { shared, turn, call, .. } = self;
        let Some(mut request) = call.request() else {
            return self.fail(host_failure("what was kept of it makes no request".to_owned()), "host").await;
        };
        request.headers_mut().insert(X_ROOST_ATTEMPT, turn.attempts.into());
        let body = match shared.spool.read(self.body).await {
            Ok(body) => body,
            Err(error) => {
                return self.fail(host_failure(format!("its body cannot be read: {error}")), "host").await;
            }
        };
        let place = shared.place().await;
        let began = Instant::now();
        let result = shared.caller.call(&turn.function, request.map(|()| body), place).await;
        let (result, place) = match result {
            Ok((answer, place)) => (Ok(answer), Some(place)),
            Err(error) => (Err(error), None),
        };
        let verdict = self.policy.judge(&result, turn.attempts, chance());
        let ended = self.heed(verdict, result, began.elapsed()).await;
        drop(place);
        ended
    }

    async fn heed(
        &self,
        verdict: Verdict,
        result: Result<Response<ResponseBody>, Error>,
        took: Duration,
    ) -> Ended {
        let (function, call_id) = (&self.turn.function, &self.call.id);
        match (verdict, result) {
            (Verdict::Again(pause), result) => {
                debug!(%function, call_id, "{function}: a queued call is made again in {pause:?}: {}", said(&result));
                Ended::Again { due: behind(pause) }
            }
            (Verdict::NotTaken, Err(error)) => {
                debug!(%function, call_id, "{function}: a queued call was not taken: {error}");
                Ended::NotTaken { failure: failure_of(&error) }
            }
            (_, Err(error)) => {
                warn!(%function, call_id, "{function}: a queued call has failed: {error}");
                self.fail_with(failure_of(&error), "unanswered", took).await
            }
            (verdict, Ok(answer)) => self.answered(answer, verdict == Verdict::Failed, took).await,
        }
    }

    /// The function has answered, which may be the last word.
    async fn answered(&self, answer: Response<ResponseBody>, failed: bool, took: Duration) -> Ended {
        let (parts, body) = answer.into_parts();
        let head = Answer::new(parts.status, &parts.headers, took.as_secs_f64(), self.turn.attempts);
        let wanted = self.call.callback.is_some() || self.keep().is_some();
        let tee = wanted.then(|| Tee::Writing(self.shared.spool.writer(), self.shared.settings.max_body));
        let Passed { kept, whole, told } =
            self.shared.callbacks.pass_on(self.call, &head, self.policy.attempts(), body, tee).await;
        if let Err(why) = whole {
            let failure = Failure {
                status: StatusCode::BAD_GATEWAY.as_u16(),
                cause: format!("the answer broke off: {why}"),
            };
            return match self.policy.judge_failure(StatusCode::BAD_GATEWAY, self.turn.attempts, chance()) {
                Verdict::Again(pause) => Ended::Again { due: behind(pause) },
                _ => self.fail_with(failure, "unanswered", took).await,
            };
        }
        let kept = match kept {
            Some(tee) => tee.finish().await,
            None => None,
        };
        if failed {
            let cause = format!("it was answered with {}", parts.status);
            let failure = Failure { status: parts.status.as_u16(), cause };
            if !self.bury(&failure, "status").await {
                return Ended::Again { due: now() + DISK_PAUSE };
            }
        }
        self.conclude(head, kept.as_ref(), told, 0, failed)
    }

    /// The call has come to nothing, and nobody answered it.
    async fn fail(&self, failure: Failure, reason: &'static str) -> Ended {
        self.fail_with(failure, reason, Duration::ZERO).await
    }

    async fn fail_with(&self, failure: Failure, reason: &'static str, took: Duration) -> Ended {
        if !self.bury(&failure, reason).await {
            return Ended::Again { due: now() + DISK_PAUSE };
        }
        let status = StatusCode::from_u16(failure.status).unwrap_or(StatusCode::BAD_GATEWAY);
        let head = Answer::new(status, &HeaderMap::new(), took.as_secs_f64(), self.turn.attempts);
        let told = self.shared.callbacks.send(self.call, &head, self.policy.attempts(), None).await;
        self.conclude(head, Some(&Kept::Inline(bytes::Bytes::new())), told, 0, true)
    }

    /// Sends an answer again.
    async fn call_back(&self, answer: &Answer, body: &Kept, times: u32) -> Ended {
        let told = match self.shared.spool.read(body).await {
            Ok(whole) => {
                self.shared.callbacks.send(self.call, answer, self.policy.attempts(), not_empty(whole)).await
            }
            Err(error) => Err(format!("what is to be sent cannot be read: {error}")),
        };
        // Whether it was a failure was told when it became one.
        let ended = self.conclude(answer.clone(), Some(body), told, times, false);
        match ended {
            Ended::Answered { answer, due, times, dead, .. } => {
                Ended::Answered { answer, body: None, due, times, dead }
            }
            ended => ended,
        }
    }

    /// What is left when the function has had its last word, and its callback was sent for the so manieth time.
    fn conclude(
        &self,
        answer: Answer,
        kept: Option<&Kept>,
        told: Result<(), String>,
        times: u32,
        dead: bool,
    ) -> Ended {
        let (function, call_id) = (&self.turn.function, &self.call.id);
        if let Err(why) = told {
            let place = self.call.callback.as_deref().map(place).unwrap_or_default();
            let sent = times + 1;
            if sent < self.shared.settings.callback_attempts
                && let Some(body) = kept
            {
                let pause = (CALLBACK_PAUSES.0 << times.min(16)).min(CALLBACK_PAUSES.1);
                let due = now() + pause;
                debug!(%function, call_id, "{function}: callback to {place} is sent again: {why}");
                return Ended::Answered { answer, body: Some(body.clone()), due, times: sent, dead };
            }
            warn!(%function, call_id, "{function}: callback to {place} has failed: {why}");
            self.shared.callbacks.count_failed();
        }
        let keep = self.keep().map(|keep| u64::try_from(keep.as_millis()).unwrap_or(u64::MAX));
        let result = keep.map(|keep| Resulted { answer, body: kept.cloned(), keep });
        // One that was kept for its callback goes with the call.
        if result.is_none()
            && times == 0
            && let Some(file) = kept.and_then(Kept::file)
        {
            self.shared.spool.remove(file);
        }
        if dead { Ended::Dead { result } } else { Ended::Done { result } }
    }

    /// For how long the result is kept, if it is.
    fn keep(&self) -> Option<Duration> {
        self.call.wishes.keep_result.map(Duration::from_millis).or(self.policy.results)
    }

    /// Makes a dead letter of the call. `false` when that is not on the disk, and it is to be made again. Where nodes share
    /// calls it is held until it is: somewhere else it would be made once more, and again, as often as that goes wrong.
    async fn bury(&self, failure: &Failure, reason: &'static str) -> bool {
        while !self.try_to_bury(failure, reason).await {
            if self.shared.settings.engine == Place::Local {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(DISK_PAUSE.unsigned_abs())).await;
        }
        true
    }

    async fn try_to_bury(&self, failure: &Failure, reason: &'static str) -> bool {
        let _turn = self.shared.burials.acquire().await;
        let body = match self.shared.spool.read_all(self.body).await {
            Ok(body) => body,
            Err(error) => {
                warn!(function = %self.turn.function, "the body of a dead letter cannot be read: {error}");
                bytes::Bytes::new()
            }
        };
        self.shared.letters.keep_call(self.call, body, self.turn.attempts, failure, reason).await
    }
}

/// A body of nothing is none: then its length is said.
fn not_empty(body: OwnBody) -> Option<OwnBody> {
    match body {
        OwnBody::Whole(bytes) if bytes.is_empty() => None,
        body => Some(body),
    }
}

fn failure_of(error: &Error) -> Failure {
    Failure { status: error.status(false).as_u16(), cause: error.to_string() }
}

fn host_failure(cause: String) -> Failure {
    Failure { status: StatusCode::INTERNAL_SERVER_ERROR.as_u16(), cause }
}

fn said(result: &Result<Response<ResponseBody>, Error>) -> String {
    match result {
        Ok(answer) => answer.status().to_string(),
        Err(error) => error.to_string(),
    }
}

/// The moment behind a pause that begins now, in milliseconds of Unix time.
fn behind(pause: Duration) -> i64 {
    now().saturating_add_unsigned(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)).max(1)
}

/// Anything from 0 to 1.
fn chance() -> f64 {
    f64::from(uuid::Uuid::new_v4().as_u128() as u32) / f64::from(u32::MAX)
}
