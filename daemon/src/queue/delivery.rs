//! The way of one call: until its function has answered it, or will not.
//!
//! ```text
//!            ┌─────────────── pause, longer each time ──────────────────┐
//!            ▼                                                          │
//!  turn ─► (gate) ─► one of the host's places ─► call ─┬─ not taken ────┤ until `retry_for` is over
//!                                                      ├─ sent back ────┘ for a few times
//!                                                      └─ answered, or nobody knows ─► callback ─► end
//! ```
//!
//! Owns when a call is made again. What may have been done is not done again, unless the function's side says that it is
//! the platform's fault. When a function takes no calls, one of them at a time knocks, behind the gate; the others wait
//! without a place, so that they are in nobody's way. An attempt that fails there is one for all calls that came too long
//! ago.

use std::time::{Duration, Instant};

use http::header::RETRY_AFTER;
use http::{HeaderMap, Response, StatusCode};
use roost_proxy::{Error, ResponseBody};
use tokio::sync::{Mutex, OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::callback::Outcome;
use super::lines::Turn;
use super::{Invocation, Shared};

/// Marks an answer that is the platform's, or the watchdog's, and not the function's own.
const X_OPENFAAS_INTERNAL: &str = "x-openfaas-internal";

/// How often a call is made that the function's side sends back.
const MAX_SENT_BACK: u32 = 10;

/// The pauses between two attempts.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What the calls of one function know of each other.
#[derive(Debug, Default)]
pub(super) struct Manners {
    /// When and why the last attempt found nobody to take the call, if so.
    closed: watch::Sender<Option<(Instant, Error)>>,
    gate: Mutex<()>,
    /// The function is no more.
    over: CancellationToken,
}

impl Manners {
    fn is_closed(&self) -> bool {
        self.closed.borrow().is_some()
    }

    /// An attempt was made.
    fn learn(&self, verdict: &Verdict, result: &Result<Response<ResponseBody>, Error>) {
        let error = result.as_ref().err().filter(|_| *verdict == Verdict::NotTaken);
        self.closed.send_replace(error.map(|error| (Instant::now(), error.clone())));
    }

    /// Waits for an attempt that fails when a call has had its time, which it has at a moment for which `late` holds.
    async fn fails(&self, late: impl Fn(Instant) -> bool) -> Error {
        let mut closed = self.closed.subscribe();
        let failed = closed.wait_for(|closed| closed.as_ref().is_some_and(|(at, _)| late(*at))).await;
        let failed = failed.expect("the sender is here").clone();
        failed.expect("waited for").1
    }

    pub(super) fn say_goodbye(&self) {
        self.over.cancel();
    }

    #[cfg(test)]
    pub(super) fn are_over(&self) -> bool {
        self.over.is_cancelled()
    }
}

/// What to do after an attempt.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The call has had its chance.
    Final,
    /// Nobody has seen it.
    NotTaken,
    /// The function's side does not want it now. How long it asks to wait, if it says so.
    SentBack(Option<Duration>),
}

/// Makes a call until it is answered, and sends the answer where it is wanted.
pub(super) async fn deliver(shared: &Shared, turn: &Turn<Invocation>) {
    let Turn { call, manners, cancelled, .. } = turn;
    let (function, call_id) = (&call.function, &call.id);
    let way = async {
        let Some((answered, place)) = reach(shared, call, manners).await else {
            return info!(%function, ?call_id, "{function}: deleted, and a queued call dropped with it");
        };
        if let Err(error) = &answered.result {
            warn!(%function, ?call_id, "{function}: a queued call has failed: {error}");
        }
        let place = match place {
            None if call.callback.is_some() => Some(shared.place().await),
            place => place,
        };
        shared.callbacks.finish(call, answered).await;
        drop(place);
    };
    tokio::select! {
        biased;
        () = cancelled.cancelled() => info!(%function, ?call_id, "{function}: a queued call was cancelled"),
        () = way => {}
    }
}

/// The last word on a call, with its place among the host's calls if it has one; `None` when the function is no more.
async fn reach(
    shared: &Shared,
    call: &Invocation,
    manners: &Manners,
) -> Option<(Outcome, Option<OwnedSemaphorePermit>)> {
    let (mut gate, mut attempts, mut sent_back) = (None, 0, 0);
    let late = |at: Instant| at.saturating_duration_since(call.accepted) >= shared.settings.retry_for;
    loop {
        if gate.is_none() && manners.is_closed() {
            let waited = async {
                tokio::select! {
                    biased;
                    error = manners.fails(late) => Err(error),
                    held = manners.gate.lock() => Ok(held),
                }
            };
            match unless_over(manners, waited).await? {
                // Whoever held it before may have found that calls are taken again: then nobody has to queue for it.
                Ok(held) => gate = manners.is_closed().then_some(held),
                Err(error) => return Some((Outcome { result: Err(error), duration: Duration::ZERO }, None)),
            }
        }
        let place = unless_over(manners, shared.place()).await?;
        let began = Instant::now();
        let (result, place) = match shared.caller.call(&call.function, call.request(), place).await {
            Ok((response, place)) => (Ok(response), Some(place)),
            Err(error) => (Err(error), None),
        };
        attempts += 1;
        let verdict = judge(&result);
        manners.learn(&verdict, &result);
        let late = late(Instant::now());
        let pause = match verdict {
            Verdict::NotTaken if !late => pause(attempts),
            Verdict::SentBack(wish) if !late && sent_back + 1 < MAX_SENT_BACK => {
                sent_back += 1;
                wish.map_or_else(|| pause(attempts), |wish| wish.clamp(PAUSE.0, PAUSE.1))
            }
            _ => return Some((Outcome { result, duration: began.elapsed() }, place)),
        };
        if verdict != Verdict::NotTaken {
            gate = None;
        }
        debug!(function = %call.function, call_id = ?call.id, "{}: a queued call was not taken: again in {pause:?}", call.function);
        // Neither the answer nor the place is kept while nothing happens.
        drop((result, place));
        unless_over(manners, tokio::time::sleep(pause)).await?;
    }
}

/// Waits for something for as long as there is the function.
async fn unless_over<T>(manners: &Manners, wait: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = manners.over.cancelled() => None,
        done = wait => Some(done),
    }
}

fn judge(result: &Result<Response<ResponseBody>, Error>) -> Verdict {
    match result {
        Ok(response) => judge_answer(response.status(), response.headers()),
        Err(
            Error::Connect { .. }
            | Error::WaitingRoomFull { .. }
            | Error::WaitingTimeout { .. }
            | Error::AtCapacity { .. }
            | Error::TooManyKeys { .. }
            | Error::Unavailable { .. },
        ) => Verdict::NotTaken,
        // There is no such function, the call has no key, or nobody knows what the function saw.
        Err(_) => Verdict::Final,
    }
}

fn judge_answer(status: StatusCode, headers: &HeaderMap) -> Verdict {
    let internal = headers.contains_key(X_OPENFAAS_INTERNAL);
    let failed = status.is_client_error() || status.is_server_error();
    if status != StatusCode::TOO_MANY_REQUESTS && !(internal && failed) {
        return Verdict::Final;
    }
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    Verdict::SentBack(seconds.map(Duration::from_secs))
}

/// How long to wait after so many attempts.
fn pause(attempts: u32) -> Duration {
    PAUSE.0.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(PAUSE.1)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use roost_proxy::function::FunctionKey;

    use super::*;

    #[test]
    fn only_what_the_platform_refuses_is_attempted_again() {
        let again = |seconds: Option<u64>| Verdict::SentBack(seconds.map(Duration::from_secs));
        for (status, headers, verdict) in [
            (200, &[][..], Verdict::Final),
            (200, &[(X_OPENFAAS_INTERNAL, "x")][..], Verdict::Final),
            (404, &[][..], Verdict::Final),
            (500, &[][..], Verdict::Final),
            (503, &[("retry-after", "3")][..], Verdict::Final),
            (429, &[][..], again(None)),
            (429, &[("retry-after", "3")][..], again(Some(3))),
            (429, &[("retry-after", "soon")][..], again(None)),
            (503, &[(X_OPENFAAS_INTERNAL, "of-watchdog"), ("retry-after", " 7 ")][..], again(Some(7))),
            (504, &[(X_OPENFAAS_INTERNAL, "of-watchdog")][..], again(None)),
        ] {
            let headers: HeaderMap =
                headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(judge_answer(status, &headers), verdict, "{status} {headers:?}");
        }
    }

    #[test]
    fn what_may_have_been_done_is_not_done_again() {
        let function = FunctionKey::from_route("f").unwrap();
        let replica: roost_proxy::function::ReplicaId = "f-1".parse().unwrap();
        let limit = Duration::ZERO;
        let cause = Arc::new(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        for (error, verdict) in [
            (Error::UnknownFunction { name: "f".into() }, Verdict::Final),
            (
                Error::NoAnswer { function: function.clone(), replica: replica.clone(), what: "left" },
                Verdict::Final,
            ),
            (Error::RequestTimeout { function: function.clone(), limit }, Verdict::Final),
            (Error::HeaderTimeout { function: function.clone(), limit }, Verdict::Final),
            (Error::Connect { function: function.clone(), replica, cause }, Verdict::NotTaken),
            (Error::WaitingTimeout { function: function.clone(), limit }, Verdict::NotTaken),
            (Error::WaitingRoomFull { function: function.clone(), capacity: 1 }, Verdict::NotTaken),
            (Error::AtCapacity { function: function.clone(), cap: 1 }, Verdict::NotTaken),
            (Error::TooManyKeys { function: function.clone(), max: 1 }, Verdict::NotTaken),
            (Error::MissingKey { at: roost_proxy::KeySource::Path(1) }, Verdict::Final),
            (Error::Unavailable { function, reason: "x".into() }, Verdict::NotTaken),
        ] {
            assert_eq!(judge(&Err(error.clone())), verdict, "{error}");
        }
    }

    #[tokio::test]
    async fn a_failed_attempt_is_one_for_all_calls_that_came_too_long_ago() {
        let manners = Manners::default();
        let failed =
            || Err(Error::WaitingRoomFull { function: FunctionKey::from_route("f").unwrap(), capacity: 1 });
        assert!(!manners.is_closed());
        manners.learn(&Verdict::NotTaken, &failed());
        let before = Instant::now();
        let (old, young) = (manners.fails(|_| true), manners.fails(|at| at > before));
        let mut young = std::pin::pin!(young);
        assert!(matches!(old.await, Error::WaitingRoomFull { .. }));
        tokio::select! {
            biased;
            _ = &mut young => panic!("it has time left"),
            () = std::future::ready(()) => {}
        }
        manners.learn(&Verdict::NotTaken, &failed());
        young.await;
        manners.learn(&Verdict::Final, &failed());
        assert!(!manners.is_closed());
    }

    #[test]
    fn pauses_grow_up_to_a_limit() {
        let seconds: Vec<u64> =
            [1, 2, 3, 5, 6, 100, u32::MAX].map(|attempts| pause(attempts).as_secs()).into();
        assert_eq!(seconds, [1, 2, 4, 16, 30, 30, 30]);
    }
}
