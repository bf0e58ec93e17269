//! Taking calls over: their bodies are read, their memory is counted, and their clients have an answer.
//!
//! Owns the limits on what comes in and the answers to it. Memory is counted as bytes arrive, so that a client holds
//! none that it has not filled.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use roost_proxy::ClientBody;
use roost_proxy::function::FunctionKey;
use roost_proxy::{Answering, Deferred, Error, Intake, PRODUCT, ResponseBody};

use super::memory::Taking;
use super::{Invocation, Queue};
use crate::api::ApiCall;

/// What a call takes besides its headers and its body, in bytes, and a header besides its text. Rough, and not too little.
const CALL_BYTES: u64 = 1024;
const HEADER_BYTES: u64 = 128;

/// When a client that was turned away may come again.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("10");

pub(super) const X_CALL_ID: HeaderName = HeaderName::from_static("x-call-id");
const X_CALLBACK_URL: HeaderName = HeaderName::from_static("x-callback-url");

/// Why a call is not taken over. The text is for the client.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("X-Callback-Url: {0}")]
    Callback(String),
    #[error("the body of a queued call may have {0} bytes, and this one has more")]
    TooLarge(u64),
    #[error("the queue has no memory left for this call")]
    Full,
    #[error(
        "the calls of this function that are queued have all the memory that those of one function may have"
    )]
    Share,
    #[error("{0}")]
    Gone(Error),
    #[error("the host is about to stop and takes no calls to be made later")]
    Closed,
    #[error("the request body stalled")]
    Stalled,
    #[error("the request body broke off")]
    Broken,
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Callback(_) | Self::Broken => StatusCode::BAD_REQUEST,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Full | Self::Share | Self::Closed => StatusCode::SERVICE_UNAVAILABLE,
            Self::Stalled => StatusCode::REQUEST_TIMEOUT,
            Self::Gone(error) => error.status(false),
        }
    }

    fn response(&self) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::full(format!("{self}\n")));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        response
    }
}

impl Intake for Queue {
    fn accept(&self, call: Deferred) -> Answering<'_> {
        Box::pin(async move {
            match self.take(call).await {
                Ok(()) => {
                    let mut response = Response::new(ResponseBody::empty());
                    *response.status_mut() = StatusCode::ACCEPTED;
                    response
                }
                Err(refusal) => refusal.response(),
            }
        })
    }

    fn functions_of(&self, id: &str) -> Vec<FunctionKey> {
        self.0.lines().functions_of(id)
    }

    fn cancel(&self, id: &str, functions: &[FunctionKey]) -> bool {
        let cancelled = self.0.lines().cancel(id, functions);
        self.0.notice_idle();
        cancelled > 0
    }

    fn answered(&self, method: &Method, status: StatusCode, took: Duration) {
        self.0.answered.observe(ApiCall::deferred(method, status), took);
    }
}

impl Queue {
    async fn take(&self, call: Deferred) -> Result<(), Refusal> {
        let Deferred { function, name, call_id, idle, max_body, request } = call;
        let limit = max_body.map_or(self.0.settings.max_body, |own| own.min(self.0.settings.max_body));
        let callback = request.headers().get(X_CALLBACK_URL).filter(|value| !value.is_empty());
        let callback = callback.map(|value| self.0.callbacks.parse(value, self.0.here)).transpose();
        let callback = callback.map_err(Refusal::Callback)?;
        let (mut parts, body) = request.into_parts();
        parts.headers = owned(&parts.headers, &call_id);
        let mut memory = self.0.memory.take(&function);
        memory.add(weight(&parts.headers))?;
        let body = read(body, limit, idle, &mut memory).await?;
        let call = Invocation {
            function,
            name,
            id: parts.headers[&X_CALL_ID].clone(),
            request: Request::from_parts(parts, body),
            callback,
            accepted: Instant::now(),
            _memory: memory.held()?,
        };
        self.submit(call)
    }
}

/// The headers for the function, in memory of their own: those that came share a buffer with all that the client sent,
/// which is not to be kept with them.
pub(super) fn owned(headers: &HeaderMap, call_id: &HeaderValue) -> HeaderMap {
    let copy = |value: &HeaderValue| {
        let copied = HeaderValue::from_bytes(value.as_bytes());
        copied.expect("the bytes of a header make a header")
    };
    let mut copied = HeaderMap::with_capacity(headers.keys_len() + 2);
    for (name, value) in headers {
        copied.append(name.clone(), copy(value));
    }
    copied.insert(X_CALL_ID, copy(call_id));
    copied.insert(USER_AGENT, HeaderValue::from_static(PRODUCT));
    copied
}

/// The memory that a call without a body takes, about, in bytes.
pub(super) fn weight(headers: &HeaderMap) -> u64 {
    let text = |(name, value): (&HeaderName, &HeaderValue)| (name.as_str().len() + value.len()) as u64;
    CALL_BYTES + headers.iter().map(|header| HEADER_BYTES + text(header)).sum::<u64>()
}

/// Reads a body of at most `limit` bytes, none of which may take longer than `idle` to come.
async fn read(
    mut body: ClientBody,
    limit: u64,
    idle: Option<Duration>,
    memory: &mut Taking<'_>,
) -> Result<Bytes, Refusal> {
    if body.size_hint().lower() > limit {
        return Err(Refusal::TooLarge(limit));
    }
    let mut bytes = Vec::new();
    loop {
        let frame = match idle {
            Some(idle) => tokio::time::timeout(idle, body.frame()).await.map_err(|_| Refusal::Stalled)?,
            None => body.frame().await,
        };
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(|_| Refusal::Broken)?.into_data() else { continue };
        if (bytes.len() + data.len()) as u64 > limit {
            return Err(Refusal::TooLarge(limit));
        }
        memory.add(data.len() as u64)?;
        bytes.extend_from_slice(&data);
    }
    bytes.shrink_to_fit();
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_request_is_what_the_function_is_to_see() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-own", "1"),
            ("x-own", "2"),
            ("user-agent", "curl"),
            ("x-call-id", "client's"),
            ("x-callback-url", "http://h/"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let kept = owned(&headers, &HeaderValue::from_static("id"));
        let mut lines: Vec<String> =
            kept.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        let agent = format!("user-agent: {PRODUCT}");
        assert_eq!(lines, [&agent, "x-call-id: id", "x-callback-url: http://h/", "x-own: 1", "x-own: 2"]);
        assert!(weight(&kept) > CALL_BYTES + 5 * HEADER_BYTES);
    }
}
