//! When a call is made again: what a function says of that, and what it means for an answer.
//!
//! Owns the annotations `com.openfaas.retry.…` and `roost.queue.…`. Pure.
//!
//! What a function does not say is as in OpenFaaS' queue worker once it says anything; without a word of it, what may have been
//! done is not done again: only what nobody took, and what the function's side sends back, has another turn.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, Response, StatusCode};
use jiff::Timestamp;
use roost_proxy::{Error, ResponseBody};

use crate::function::spec::Deployment;
use crate::units;

const ATTEMPTS: &str = "com.openfaas.retry.attempts";
const CODES: &str = "com.openfaas.retry.codes";
const MIN_WAIT: &str = "com.openfaas.retry.min_wait";
const MAX_WAIT: &str = "com.openfaas.retry.max_wait";
const BACKOFF: &str = "com.openfaas.retry.backoff";
const CONCURRENCY: &str = "roost.queue.concurrency";
const RESULTS: &str = "roost.queue.results";

/// What OpenFaaS' queue worker does where it is not told.
const DEFAULT_CODES: [u16; 6] = [408, 429, 500, 502, 503, 504];
const DEFAULT_WAITS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(120));

/// Without a word: how often a call is made that the function's side sends back, and the pauses in between.
const SENT_BACK: u32 = 10;
const SENT_BACK_WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

const MAX_ATTEMPTS: u32 = 10_000;
const LONGEST_WAIT: Duration = Duration::from_hours(24);
const LONGEST_RESULT: Duration = Duration::from_hours(24 * 7);

/// Marks an answer that is the platform's, or the watchdog's, and not the function's own.
const X_OPENFAAS_INTERNAL: &str = "x-openfaas-internal";

/// How the calls of a function are made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// `None`: the function does not say when it wants calls again.
    retry: Option<Retry>,
    /// How many calls are made at once; `None`: as many as its replicas take.
    pub(super) concurrency: Option<NonZeroUsize>,
    /// For how long results are kept, if nobody says it for a call.
    pub(super) results: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Retry {
    attempts: u32,
    codes: Vec<u16>,
    waits: (Duration, Duration),
    backoff: Backoff,
}

/// How pauses grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Backoff {
    /// Each twice as long as the last one.
    #[default]
    Exponential,
    /// Anything up to that.
    Full,
    /// Half of that, and anything up to the other half.
    Equal,
}

/// What to do after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is over, and well.
    Done,
    /// It is over, and not well.
    Failed,
    /// Nobody has seen it.
    NotTaken,
    /// It is to be made again, behind a pause.
    Again(Duration),
}

impl Policy {
    /// Is this the name of a setting of ours that is read here?
    #[must_use]
    pub fn is_setting_name(name: &str) -> bool {
        [CONCURRENCY, RESULTS].contains(&name)
    }

    /// What a deployment says.
    ///
    /// # Errors
    /// With every mistake in it, each named by its annotation.
    pub fn parse(deployment: &Deployment) -> Result<Self, Vec<String>> {
        let (mut mistakes, settings) = (Vec::new(), deployment.settings());
        let settings = &settings;
        let attempts = read(settings, ATTEMPTS, "a number from 1 to 10000", &mut mistakes, |text| {
            text.parse().ok().filter(|attempts| (1..=MAX_ATTEMPTS).contains(attempts))
        });
        let codes =
            read(settings, CODES, "statuses from 400 to 599, separated by commas", &mut mistakes, codes);
        let wait = |text: &str| units::duration(text).ok().filter(|wait| *wait <= LONGEST_WAIT);
        let min = read(settings, MIN_WAIT, "a duration of up to 24h", &mut mistakes, wait);
        let max = read(settings, MAX_WAIT, "a duration of up to 24h", &mut mistakes, wait);
        let backoff =
            read(settings, BACKOFF, "exponential, full or equal", &mut mistakes, |text| match text {
                "exponential" => Some(Backoff::Exponential),
                "full" => Some(Backoff::Full),
                "equal" => Some(Backoff::Equal),
                _ => None,
            });
        let concurrency =
            read(settings, CONCURRENCY, "a number from 1", &mut mistakes, |text| text.parse().ok());
        let results = read(settings, RESULTS, "a duration of up to 168h", &mut mistakes, |text| {
            units::duration(text).ok().filter(|kept| *kept <= LONGEST_RESULT)
        });
        let said =
            attempts.is_some() || codes.is_some() || min.is_some() || max.is_some() || backoff.is_some();
        let min = min.unwrap_or_else(|| max.map_or(DEFAULT_WAITS.0, |max| max.min(DEFAULT_WAITS.0)));
        let max = max.unwrap_or(DEFAULT_WAITS.1).max(min);
        let retry = said.then(|| Retry {
            attempts: attempts.unwrap_or(SENT_BACK),
            codes: codes.unwrap_or_else(|| DEFAULT_CODES.into()),
            waits: (min, max),
            backoff: backoff.unwrap_or_default(),
        });
        let results = results.filter(|kept| !kept.is_zero());
        if mistakes.is_empty() { Ok(Self { retry, concurrency, results }) } else { Err(mistakes) }
    }

    /// How often a call is made at most.
    pub(super) fn attempts(&self) -> u32 {
        self.retry.as_ref().map_or(SENT_BACK, |retry| retry.attempts)
    }

    /// What to do behind attempt `attempts`, which came to this. `chance` is anything from 0 to 1.
    pub(super) fn judge(
        &self,
        result: &Result<Response<ResponseBody>, Error>,
        attempts: u32,
        chance: f64,
    ) -> Verdict {
        match result {
            Ok(answer) => self.judge_answer(answer.status(), answer.headers(), attempts, chance),
            Err(
                Error::Connect { .. }
                | Error::WaitingRoomFull { .. }
                | Error::WaitingTimeout { .. }
                | Error::AtCapacity { .. }
                | Error::TooManyKeys { .. }
                | Error::Unavailable { .. },
            ) => Verdict::NotTaken,
            // There is no such function, or the call has no key.
            Err(Error::UnknownFunction { .. } | Error::MissingKey { .. }) => Verdict::Failed,
            // Nobody knows what the function saw.
            Err(error) => self.judge_failure(error.status(false), attempts, chance),
        }
    }

    fn judge_answer(&self, status: StatusCode, headers: &HeaderMap, attempts: u32, chance: f64) -> Verdict {
        let failed = status.is_client_error() || status.is_server_error();
        let internal = failed && headers.contains_key(X_OPENFAAS_INTERNAL);
        let again = match &self.retry {
            Some(retry) => internal || retry.codes.contains(&status.as_u16()),
            None => internal || status == StatusCode::TOO_MANY_REQUESTS,
        };
        if again && attempts < self.attempts() {
            let heeded = internal
                || [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&status);
            let wish = if heeded { retry_after(headers, Timestamp::now()) } else { None };
            return Verdict::Again(self.pause(attempts, wish, chance));
        }
        if again || status.is_server_error() { Verdict::Failed } else { Verdict::Done }
    }

    /// The same where there is no whole answer, for which this status stands.
    pub(super) fn judge_failure(&self, status: StatusCode, attempts: u32, chance: f64) -> Verdict {
        match &self.retry {
            Some(retry) if retry.codes.contains(&status.as_u16()) && attempts < retry.attempts => {
                Verdict::Again(self.pause(attempts, None, chance))
            }
            _ => Verdict::Failed,
        }
    }

    /// How long to wait behind so many attempts.
    fn pause(&self, attempts: u32, wish: Option<Duration>, chance: f64) -> Duration {
        let ((min, max), backoff) = match &self.retry {
            Some(retry) => (retry.waits, retry.backoff),
            None => (SENT_BACK_WAITS, Backoff::Exponential),
        };
        if let Some(wish) = wish {
            return wish.clamp(min, LONGEST_WAIT);
        }
        let full = min.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(max);
        match backoff {
            Backoff::Exponential => full,
            Backoff::Full => full.mul_f64(chance),
            Backoff::Equal => full / 2 + (full / 2).mul_f64(chance),
        }
    }
}

/// How long `Retry-After` says to wait: seconds, or until a date.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
}

fn codes(text: &str) -> Option<Vec<u16>> {
    let codes = text.split(',').map(str::trim).filter(|code| !code.is_empty());
    codes.map(|code| code.parse().ok().filter(|code| (400..600).contains(code))).collect()
}

fn read<T>(
    settings: &BTreeMap<&str, &str>,
    name: &str,
    expected: &str,
    mistakes: &mut Vec<String>,
    parse: impl Fn(&str) -> Option<T>,
) -> Option<T> {
    let text = settings.get(name)?.trim();
    let value = parse(text);
    if value.is_none() {
        mistakes.push(format!("annotations.{name}: expected {expected}"));
    }
    value
}

#[cfg(test)]
mod tests;
