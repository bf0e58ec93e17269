//! Taking calls over: their bodies are read to where they are kept, and their clients have an answer once they are on the
//! disk.
//!
//! Owns the limits on what comes in, and the answers to it and to questions about calls.

use std::time::Duration;

use http::header::{
    CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, TRANSFER_ENCODING, USER_AGENT, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use roost_proxy::ClientBody;
use roost_proxy::function::FunctionKey;
use roost_proxy::{Answering, Deferred, Error, Intake, OwnBody, PRODUCT, ResponseBody, Soon};
use tokio::sync::oneshot;

use super::invocation::{Accepted, Answer, Invocation};
use super::keeper::{self, Order};
use super::spool::Kept;
use super::wishes::Wishes;
use super::{Queue, X_CALL_ID};
use crate::api::ApiCall;

/// When a client that was turned away may come again.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("10");

const X_CALLBACK_URL: HeaderName = HeaderName::from_static("x-callback-url");
const X_FUNCTION_STATUS: HeaderName = HeaderName::from_static("x-function-status");

/// Says of a 202 that the call was taken over before, and of a result why it has no body.
const X_ROOST_DUPLICATE: HeaderName = HeaderName::from_static("x-roost-duplicate");
const X_ROOST_RESULT: HeaderName = HeaderName::from_static("x-roost-result");

/// When a client that asks for a result that is not there may ask again.
const ASK_AGAIN_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// Why a call is not taken over. The text is for the client.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Its callback is none.
    #[error("X-Callback-Url: {0}")]
    Callback(String),
    /// A wish of its client cannot be read.
    #[error("{0}")]
    Wish(String),
    /// Its body has more than so many bytes.
    #[error("the body of a queued call may have {0} bytes, and this one has more")]
    TooLarge(u64),
    /// There are too many calls.
    #[error("the queue has no room left for this call")]
    Full,
    /// There are too many of its function.
    #[error(
        "the calls of this function that are queued have all the room that those of one function may have"
    )]
    Share,
    /// The disk is full.
    #[error("the disk that the queue is on is full")]
    DiskFull,
    /// The disk does not take it.
    #[error("the queue cannot be written")]
    Disk,
    /// This host is about to stop.
    #[error("the host is about to stop and takes no calls to be made later")]
    Closed,
    /// There is no such function any more.
    #[error("{0}")]
    Gone(Error),
    /// Its body came too slowly.
    #[error("the request body stalled")]
    Stalled,
    /// Its body is not whole.
    #[error("the request body broke off")]
    Broken,
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Callback(_) | Self::Wish(_) | Self::Broken => StatusCode::BAD_REQUEST,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
            Self::Full | Self::Share | Self::Disk | Self::Closed => StatusCode::SERVICE_UNAVAILABLE,
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
        if self.status().is_server_error() {
            headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        response
    }
}

impl Intake for Queue {
    fn accept(&self, call: Deferred) -> Answering<'_> {
        Box::pin(async move {
            let mut response = Response::new(ResponseBody::empty());
            *response.status_mut() = StatusCode::ACCEPTED;
            match self.take(call).await {
                Ok(Accepted::New) => response,
                Ok(Accepted::Again(id)) => {
                    if let Ok(id) = HeaderValue::from_str(&id) {
                        response.headers_mut().insert(X_ROOST_DUPLICATE, id);
                    }
                    response
                }
                Err(refusal) => refusal.response(),
            }
        })
    }

    fn functions_of<'a>(&'a self, id: &'a str) -> Soon<'a, Result<Vec<FunctionKey>, Error>> {
        let id = kept_id(id);
        Box::pin(self.ask(|reply| Order::Known { id, reply }))
    }

    fn cancel<'a>(&'a self, id: &'a str, functions: Vec<FunctionKey>) -> Soon<'a, Result<bool, Error>> {
        let id = kept_id(id);
        Box::pin(async move {
            let cancelled = self.ask(|reply| Order::Cancel { id, functions, reply }).await?;
            Ok(cancelled > 0)
        })
    }

    fn result<'a>(
        &'a self,
        id: &'a str,
        functions: Vec<FunctionKey>,
    ) -> Soon<'a, Result<Option<Response<ResponseBody>>, Error>> {
        let id = kept_id(id);
        Box::pin(async move {
            Ok(match self.ask(|reply| Order::Result { id, functions, reply }).await? {
                Some(Some((answer, body))) => Some(self.result_response(&answer, body).await),
                Some(None) => {
                    let mut response = Response::new(ResponseBody::empty());
                    *response.status_mut() = StatusCode::ACCEPTED;
                    response.headers_mut().insert(RETRY_AFTER, ASK_AGAIN_SECONDS);
                    Some(response)
                }
                None => None,
            })
        })
    }

    fn answered(&self, method: &Method, status: StatusCode, took: Duration) {
        self.0.answered.observe(ApiCall::deferred(method, status), took);
    }
}

impl Queue {
    pub(super) async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.0.order(order(reply)).await;
        answer.await.map_err(|_| Error::QueueAway)
    }

    async fn take(&self, call: Deferred) -> Result<Accepted, Refusal> {
        let Deferred { function, name, call_id, idle, max_body, request } = call;
        let limit = max_body.map_or(self.0.settings.max_body, |own| own.min(self.0.settings.max_body));
        let callback = request.headers().get(X_CALLBACK_URL).filter(|value| !value.is_empty());
        let callback = callback.map(|value| self.0.callbacks.parse(value, self.0.here)).transpose();
        let callback = callback.map_err(Refusal::Callback)?;
        let (mut parts, body) = request.into_parts();
        let wishes = Wishes::take(&mut parts.headers).map_err(Refusal::Wish)?;
        let headers = &mut parts.headers;
        headers.insert(X_CALL_ID, call_id.clone());
        headers.insert(USER_AGENT, HeaderValue::from_static(PRODUCT));
        // How long it is, and how that is said, is known when it is made.
        headers.remove(CONTENT_LENGTH);
        headers.remove(TRANSFER_ENCODING);
        let callback = callback.map(String::from);
        let call = Invocation::new(function, name, &call_id, &parts, callback, wishes);
        self.has_room(&call, body.size_hint().lower())?;
        let body = self.read(&call, body, limit, idle).await?;
        self.append(call, body).await
    }

    /// Is there room for a call with so many bytes of body? The keeper asks again when it has all of it.
    fn has_room(&self, call: &Invocation, body: u64) -> Result<(), Refusal> {
        let size = self.0.board.lines().size(&call.function);
        keeper::check(&self.0.settings, size.calls, size.bytes, size.own, call.weight() + body)
    }

    /// Reads a body of at most `limit` bytes, none of which may take longer than `idle` to come.
    async fn read(
        &self,
        call: &Invocation,
        mut body: ClientBody,
        limit: u64,
        idle: Option<Duration>,
    ) -> Result<Kept, Refusal> {
        if body.size_hint().lower() > limit {
            return Err(Refusal::TooLarge(limit));
        }
        let mut writer = self.0.spool.writer();
        loop {
            let frame = match idle {
                Some(idle) => tokio::time::timeout(idle, body.frame()).await.map_err(|_| Refusal::Stalled)?,
                None => body.frame().await,
            };
            let Some(frame) = frame else { break };
            let Ok(data) = frame.map_err(|_| Refusal::Broken)?.into_data() else { continue };
            if writer.length() + data.len() as u64 > limit {
                return Err(Refusal::TooLarge(limit));
            }
            writer.write(&data).await.map_err(|error| keeper::disk_refusal(&error))?;
            self.has_room(call, writer.length())?;
        }
        writer.finish().await.map_err(|error| keeper::disk_refusal(&error))
    }

    /// The answer of a function, to whoever asks for it later.
    async fn result_response(&self, answer: &Answer, body: Option<Kept>) -> Response<ResponseBody> {
        let own = match &body {
            Some(kept) => match self.0.spool.read(kept).await {
                Ok(OwnBody::Whole(bytes)) => Ok(ResponseBody::full(bytes)),
                Ok(OwnBody::Stored(body)) => Ok(ResponseBody::boxed(body)),
                Err(error) => {
                    tracing::warn!("a result cannot be read: {error}");
                    Err("unreadable")
                }
            },
            None => Err("too-large"),
        };
        let (body, lack) = match own {
            Ok(body) => (body, None),
            Err(lack) => (ResponseBody::empty(), Some(HeaderValue::from_static(lack))),
        };
        let mut response = Response::new(body);
        *response.headers_mut() = answer.headers();
        let headers = response.headers_mut();
        headers.remove(CONTENT_LENGTH);
        headers.insert(X_FUNCTION_STATUS, answer.status.into());
        if let Some(lack) = lack {
            headers.insert(X_ROOST_RESULT, lack);
        }
        response
    }
}

/// An id of a URL as it is kept: a character for each byte.
fn kept_id(id: &str) -> String {
    id.bytes().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_a_url_is_that_of_the_header() {
        let value = HeaderValue::from_bytes("mine ä".as_bytes()).unwrap();
        assert_eq!(kept_id("mine ä"), super::super::invocation::text_of(&value));
    }

    #[test]
    fn a_refusal_says_whose_fault_it_is_and_when_to_come_again() {
        for (refusal, status, again) in [
            (Refusal::Callback("x".into()), 400, false),
            (Refusal::Wish("x".into()), 400, false),
            (Refusal::TooLarge(1), 413, false),
            (Refusal::Full, 503, true),
            (Refusal::Share, 503, true),
            (Refusal::DiskFull, 507, true),
            (Refusal::Disk, 503, true),
            (Refusal::Closed, 503, true),
            (Refusal::Stalled, 408, false),
        ] {
            let response = refusal.response();
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(response.headers().contains_key(RETRY_AFTER), again, "{refusal}");
        }
    }
}
