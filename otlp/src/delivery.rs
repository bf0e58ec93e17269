//! How a batch of spans gets to the collector, or does not.
//!
//! ```text
//!   batch ──▶ POST ──▶ 2xx: exported, but for those that were rejected
//!              ▲  └──▶ 429, 502, 503, 504, no answer: later ──▶ pause, the longer the more often; Retry-After if it is said
//!              └──────────────────────────────────────────────────┘    └─▶ tried for too long: dropped
//!                 └──▶ anything else: dropped, it would be the same again
//! ```
//!
//! Owns the client, and when it is tried again. While the collector is away this waits, and what the queue has no room for
//! is dropped. At the end of the daemon each batch is tried once, without a pause.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use prost::Message;
use reqwest::redirect::Policy;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::batch::Batches;
use crate::message::ExportTraceServiceResponse;
use crate::{Figures, Pace, Settings, span};

/// The most that is read of an answer, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// Sends batches.
pub(crate) struct Delivery {
    client: reqwest::Client,
    settings: Settings,
    figures: Arc<Figures>,
    /// Nothing is waited for from here on.
    ending: CancellationToken,
    /// The last try failed, which was told.
    failing: bool,
}

/// What came of a try.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The collector has it, but for so many spans.
    Taken { rejected: u64, why: String },
    /// It will not have it.
    Refused(String),
    /// It might have it later: after so long, if it says.
    Later { why: String, after: Option<Duration> },
}

impl Delivery {
    pub(crate) fn new(
        settings: Settings,
        figures: Arc<Figures>,
        ending: CancellationToken,
    ) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .user_agent(roost_proxy::PRODUCT)
            .redirect(Policy::none())
            .timeout(settings.pace.answer)
            .pool_max_idle_per_host(1)
            .build()?;
        Ok(Self { client, settings, figures, ending, failing: false })
    }

    /// Sends all that comes.
    pub(crate) async fn run(mut self, mut batches: Batches) {
        loop {
            let batch = batches.next().await;
            if batch.is_empty() {
                return;
            }
            let message = span::request(&batch, self.settings.host.as_deref());
            let spans = batch.len();
            // Before it is sent, which may take a while.
            drop(batch);
            let body = Bytes::from(message.encode_to_vec());
            drop(message);
            self.deliver(body, spans).await;
        }
    }

    /// Sends a batch, as often as it takes.
    async fn deliver(&mut self, body: Bytes, spans: usize) {
        let pace = self.settings.pace;
        let began = Instant::now();
        for failures in 0.. {
            let last = self.ending.is_cancelled();
            match self.post(body.clone()).await {
                Outcome::Taken { rejected, why } => {
                    let rejected = usize::try_from(rejected).map_or(spans, |rejected| rejected.min(spans));
                    Figures::add(&self.figures.exported, spans - rejected);
                    if rejected == 0 {
                        return self.works();
                    }
                    return self.drop_spans(rejected, &why);
                }
                Outcome::Refused(why) => {
                    Figures::add(&self.figures.failures, 1);
                    return self.drop_spans(spans, &why);
                }
                Outcome::Later { why, after } => {
                    Figures::add(&self.figures.failures, 1);
                    let pause = pause(&pace, failures, after);
                    if last || began.elapsed() + pause > pace.give_up {
                        return self.drop_spans(spans, &why);
                    }
                    self.fails(&why);
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = self.ending.cancelled() => {}
                    }
                }
            }
        }
    }

    /// One try.
    async fn post(&self, body: Bytes) -> Outcome {
        let request = self
            .client
            .post(self.settings.endpoint.url().clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"))
            .body(body);
        match request.send().await {
            Ok(response) => {
                let status = response.status();
                let after = retry_after(response.headers(), SystemTime::now());
                outcome(status, after, &read(response).await)
            }
            Err(error) => Outcome::Later { why: told(error), after: None },
        }
    }

    /// Says that spans are lost, once until it goes well again.
    fn drop_spans(&mut self, spans: usize, why: &str) {
        Figures::add(&self.figures.dropped, spans);
        self.fails(why);
    }

    fn fails(&mut self, why: &str) {
        if !std::mem::replace(&mut self.failing, true) {
            warn!("spans cannot be exported: {why}");
        }
    }

    fn works(&mut self) {
        if std::mem::take(&mut self.failing) {
            info!("spans are exported again");
        }
    }
}

/// What an answer means.
fn outcome(status: StatusCode, after: Option<Duration>, body: &[u8]) -> Outcome {
    match status.as_u16() {
        200..=299 => {
            // An answer that cannot be read does not unsay that it has them.
            let answer = ExportTraceServiceResponse::decode(body).unwrap_or_default();
            let partial = answer.partial_success.unwrap_or_default();
            let why = format!("the collector rejected some of them: {:?}", partial.error_message);
            Outcome::Taken { rejected: u64::try_from(partial.rejected_spans).unwrap_or(0), why }
        }
        429 | 502..=504 => Outcome::Later { why: format!("the collector answers {status}"), after },
        _ => Outcome::Refused(format!("the collector answers {status}")),
    }
}

/// How long to wait after so many failures.
fn pause(pace: &Pace, failures: u32, after: Option<Duration>) -> Duration {
    let usual = || pace.first_pause.saturating_mul(2_u32.saturating_pow(failures));
    after.unwrap_or_else(usual).max(pace.first_pause).min(pace.longest_pause)
}

/// How long the collector wants to be left alone.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).ok(),
    }
}

/// The body of an answer, as much of it as matters and as there is.
async fn read(mut response: reqwest::Response) -> Bytes {
    let mut read = BytesMut::new();
    while let Ok(Some(piece)) = response.chunk().await {
        if read.len() + piece.len() > MAX_ANSWER {
            break;
        }
        read.extend_from_slice(&piece);
    }
    read.freeze()
}

/// An error with its causes: what reqwest says itself is only that there was one.
fn told(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_go_well_later_is_tried_again_and_nothing_else_is() {
        let told = |status: u16| outcome(StatusCode::from_u16(status).unwrap(), None, b"");
        for status in [200, 202] {
            assert!(matches!(told(status), Outcome::Taken { rejected: 0, .. }), "{status}");
        }
        for status in [429, 502, 503, 504] {
            assert!(matches!(told(status), Outcome::Later { after: None, .. }), "{status}");
        }
        for status in [301, 400, 401, 404, 413, 500, 501] {
            assert!(matches!(told(status), Outcome::Refused(_)), "{status}");
        }
    }

    #[test]
    fn what_the_collector_rejects_of_a_batch_is_known() {
        let rejected = |body: &[u8]| match outcome(StatusCode::OK, None, body) {
            Outcome::Taken { rejected, why } => (rejected, why.contains("too old")),
            other => panic!("{other:?}"),
        };
        // partial_success { rejected_spans: 3, error_message: "too old" }
        assert_eq!(rejected(b"\x0a\x0b\x08\x03\x12\x07too old"), (3, true));
        assert_eq!(rejected(b"nonsense"), (0, false));
    }

    #[test]
    fn pauses_grow_to_a_limit_unless_the_collector_says_how_long() {
        let pace = Pace::default();
        let seconds =
            |failures, after: Option<u64>| pause(&pace, failures, after.map(Duration::from_secs)).as_secs();
        assert_eq!([0, 1, 2, 3, 4, 5, 99].map(|failures| seconds(failures, None)), [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!([0, 7, 9999].map(|after| seconds(5, Some(after))), [1, 7, 30]);
    }

    #[test]
    fn how_long_to_wait_is_said_in_seconds_or_by_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        for (text, seconds) in [
            ("120", Some(120)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(7)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", None),
            ("-1", None),
            ("soon", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
            assert_eq!(retry_after(&headers, now), seconds.map(Duration::from_secs), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
