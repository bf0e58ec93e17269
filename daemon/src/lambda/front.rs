//! What the proxy finds at the address of a replica that polls: a socket of this host's own.
//!
//! Owns what a request is as an event, and an answer as a response. The body of a request is the event, as it is; the method,
//! the path and the headers are not told.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

use super::MAX_PAYLOAD;
use super::desk::{Answer, Desk, Event};
use crate::pauses::Pauses;

/// Says that a handler has failed, as an invocation of Lambda does.
const FUNCTION_ERROR: HeaderName = HeaderName::from_static("x-amz-function-error");
const TRACE_ID: HeaderName = HeaderName::from_static("x-amzn-trace-id");
const CALL_ID: HeaderName = HeaderName::from_static("x-call-id");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// What a handler gets whose caller says nothing.
const NOTHING: Bytes = Bytes::from_static(b"{}");

/// The pauses when no connection can be accepted.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Answers for the replica of `desk`, until that has ended. Connections end with their last answer then.
pub(super) async fn serve(listener: TcpListener, desk: Arc<Desk>) {
    let mut pauses = Pauses::new(PAUSE);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("no connection to a Lambda function can be accepted: {error}");
                    pauses.wait().await;
                    continue;
                }
            },
            () = desk.closed() => return,
        };
        pauses = Pauses::new(PAUSE);
        tokio::spawn(serve_connection(stream, Arc::clone(&desk)));
    }
}

async fn serve_connection(stream: TcpStream, desk: Arc<Desk>) {
    let service = service_fn(|request| async { Ok::<_, Infallible>(answer(&desk, request).await) });
    let mut connection = pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = desk.closed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to a Lambda function");
    }
}

async fn answer(desk: &Desk, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    match Limited::new(body, MAX_PAYLOAD).collect().await {
        Ok(body) => response(desk.ask(event(&head.headers, body.to_bytes())).await),
        Err(error) if error.is::<LengthLimitError>() => {
            text(StatusCode::PAYLOAD_TOO_LARGE, "An event may have 6 MiB at most.\n")
        }
        // Nobody is there to read it.
        Err(_) => text(StatusCode::BAD_REQUEST, "The event broke off.\n"),
    }
}

/// A request as the event that it is. It keeps the id of its call, if that looks like those of Lambda.
fn event(headers: &HeaderMap, body: Bytes) -> Event {
    let call = headers.get(CALL_ID).and_then(|id| id.to_str().ok()).and_then(|id| id.parse::<Uuid>().ok());
    Event {
        id: call.unwrap_or_else(Uuid::new_v4).to_string(),
        payload: if body.is_empty() { NOTHING } else { body },
        trace: headers.get(TRACE_ID).cloned(),
    }
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    match answer {
        Answer::Returned { content_type, body } => {
            let mut response = Response::new(Full::new(body));
            response.headers_mut().insert(CONTENT_TYPE, content_type.unwrap_or(JSON));
            response
        }
        Answer::Failed(error) => {
            let mut response = Response::new(Full::new(error));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response.headers_mut().insert(CONTENT_TYPE, JSON);
            response.headers_mut().insert(FUNCTION_ERROR, HeaderValue::from_static("Unhandled"));
            response
        }
        Answer::TooLarge => text(StatusCode::BAD_GATEWAY, "The handler returned more than 6 MiB.\n"),
        Answer::Dropped => text(StatusCode::BAD_GATEWAY, "The runtime did not answer the event.\n"),
        Answer::Ended => text(StatusCode::BAD_GATEWAY, "The replica has ended.\n"),
    }
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_the_body_under_the_id_of_its_call() {
        let headers = |id: &'static str| HeaderMap::from_iter([(CALL_ID, HeaderValue::from_static(id))]);
        let id = "0199e7c2-5a0e-7000-8000-0123456789ab";
        let told = event(&headers(id), Bytes::from_static(b"[1]"));
        assert_eq!((told.id.as_str(), &told.payload[..]), (id, &b"[1]"[..]));
        let told = event(&headers("../x"), Bytes::new());
        assert!(told.id.parse::<Uuid>().is_ok(), "{}", told.id);
        assert_eq!(told.payload, NOTHING);
    }

    #[test]
    fn what_a_handler_returns_is_a_success_and_its_error_is_a_bad_gateway_that_says_so() {
        let returned =
            |content_type| response(Answer::Returned { content_type, body: Bytes::from_static(b"1") });
        assert_eq!(
            (returned(None).status(), &returned(None).headers()[CONTENT_TYPE]),
            (StatusCode::OK, &JSON)
        );
        assert_eq!(&returned(Some(TEXT)).headers()[CONTENT_TYPE], &TEXT);
        let failed = response(Answer::Failed(Bytes::from_static(b"{}")));
        assert_eq!(failed.status(), StatusCode::BAD_GATEWAY);
        assert_eq!(failed.headers()[FUNCTION_ERROR], "Unhandled");
        for other in [Answer::TooLarge, Answer::Dropped, Answer::Ended] {
            let response = response(other);
            assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
            assert!(!response.headers().contains_key(FUNCTION_ERROR));
        }
    }
}
