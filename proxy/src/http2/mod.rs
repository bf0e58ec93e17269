//! Functions that are asked over HTTP/2, by prior knowledge: gRPC servers above all.
//!
//! Owns how one request goes over a connection that others use at the same time. Other than with HTTP/1, where a request
//! polls its connection itself, a connection here has a task of its own on the lane that opened it ([`lines`]); the
//! request has a stream of it. It moves its own body until the head of the answer is there ([`upload`]); what is left of
//! the body then is moved by a task, so that neither direction waits for the other, and ends with the answer
//! ([`download`]).
//!
//! ```text
//!   request ─► seat on a line ─► stream: body ─► head of the answer ─► body, trailers ─► seat free
//!                  │                │                                        ▲
//!                  └─ cannot be had └─ dropped anywhere: the stream is reset, the line goes on
//! ```
//!
//! A request comes back to be sent again only where it is certain that the function has not seen it: the stream was never
//! opened, the function has refused it, or has said goodbye (`GOAWAY`) without having looked at it; and where all that was
//! sent of its body is still at hand.

mod download;
mod lines;
mod upload;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use h2::{Reason, RecvStream};
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderValue, Request, Response, Version};
use http_body::Body;
use tracing::debug;

pub(crate) use self::download::Download;
pub(crate) use self::lines::Lines;
use self::lines::Seat;
pub(crate) use self::upload::Replayed;
use self::upload::Upload;
use crate::body::{Broken, Exchange, Payload, RequestBody, Source};
use crate::claim::Claim;
use crate::error::Error;
use crate::forward::{Answer, Sent, no_answer_for};
use crate::upstream::Timeouts;

/// Sends a request to the endpoint of `claim`, which has these `lines`.
///
/// Cancel safe: dropping the future resets the stream and releases the claim.
pub(crate) async fn send(
    lines: &Arc<Lines>,
    mut claim: Claim,
    mut request: Request<Payload>,
    timeouts: &Timeouts,
) -> Sent {
    let mut first = true;
    loop {
        let seat = match lines.seat(timeouts.connect).await {
            Ok(seat) => seat,
            Err(cause) => return Sent::Back(Box::new(request), claim, cause),
        };
        match send_on(seat, claim, request, timeouts.idle).await {
            // The connection was about to end: there is a new one, or none.
            Sent::Back(unsent, held, _) if first => (request, claim) = (*unsent, held),
            sent => return sent,
        }
        first = false;
    }
}

/// Why there is no answer.
enum Failure {
    Body(Broken),
    Stream(h2::Error),
}

async fn send_on(seat: Seat, claim: Claim, request: Request<Payload>, idle: Option<Duration>) -> Sent {
    let mut sender = seat.sender();
    if let Err(error) = poll_fn(|cx| sender.poll_ready(cx)).await {
        seat.is_bad();
        return Sent::Back(Box::new(request), claim, io::Error::other(error));
    }
    let head = head(&request, claim.endpoint().host());
    let (stream, sent) = match sender.send_request(head, request.body().is_end_stream()) {
        Ok((answer, stream)) => (stream, answer),
        Err(error) => {
            seat.is_bad();
            return Sent::Back(Box::new(request), claim, io::Error::other(error));
        }
    };
    let exchange = Arc::new(Exchange::new(claim));
    let (parts, payload) = request.into_parts();
    let mut upload = Upload::new(RequestBody::new(payload, &exchange, idle), stream);
    let mut answer = sent;
    let answered = poll_fn(|cx| {
        if let Poll::Ready(Err(broken)) = upload.poll(cx) {
            return Poll::Ready(Err(Failure::Body(broken)));
        }
        Pin::new(&mut answer).poll(cx).map_err(Failure::Stream)
    });
    match answered.await {
        Ok(response) => {
            let (response, source) = received(response, upload, seat);
            Sent::Answered(Answer { response, source, exchange })
        }
        Err(Failure::Body(broken)) => Sent::Failed(no_answer_for(exchange.claim(), Some(&broken), "")),
        Err(Failure::Stream(error)) => {
            let unseen = is_unseen(&error);
            if !error.is_reset() {
                seat.is_bad();
            }
            match upload.into_unsent() {
                Some(payload) if unseen => {
                    let exchange = Arc::into_inner(exchange).expect("only the body of the request shared it");
                    let cause = io::Error::new(io::ErrorKind::ConnectionRefused, error);
                    Sent::Back(Box::new(Request::from_parts(parts, payload)), exchange.into_claim(), cause)
                }
                _ => Sent::Failed(no_answer(exchange.claim(), &error)),
            }
        }
    }
}

/// Is it certain that the function has not looked at the request?
fn is_unseen(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM))
}

/// What to say of an answer that did not come.
fn no_answer(claim: &Claim, error: &h2::Error) -> Error {
    let what = match error {
        error if is_unseen(error) => "refused the request",
        error if error.is_reset() && error.is_remote() => "reset the request without an answer",
        error if error.is_io() => "closed the connection without an answer",
        _ => "sent something that is not HTTP/2",
    };
    debug!(function = %claim.upstream().key(), replica = %claim.endpoint().id(), %error, "no answer");
    no_answer_for(claim, None, what)
}

/// The head as it goes over the wire. A copy: the request may have to be sent again.
fn head<B>(request: &Request<B>, authority: &HeaderValue) -> Request<()> {
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.version_mut() = Version::HTTP_2;
    let mut uri = std::mem::take(head.uri_mut()).into_parts();
    uri.scheme = Some(http::uri::Scheme::HTTP);
    uri.authority = authority.to_str().ok().and_then(|authority| authority.parse().ok());
    uri.path_and_query = request.uri().path_and_query().cloned();
    // A path, a scheme and an address always make a URL; one that they did not make would be refused when it is sent.
    *head.uri_mut() = http::Uri::from_parts(uri).unwrap_or_default();
    let headers = head.headers_mut();
    headers.clone_from(request.headers());
    // The stream says where the body ends, and the URL whom it is for.
    for name in [TRANSFER_ENCODING, HOST] {
        headers.remove(name);
    }
    head
}

/// The answer, with all that its stream needs.
fn received(response: Response<RecvStream>, upload: Upload, seat: Seat) -> (Response<()>, Source) {
    let length = response.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let (head, stream) = response.into_parts();
    let download = Download::new(stream, length, upload.detach(), seat);
    (Response::from_parts(head, ()), Source::Http2(Box::new(download)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_names_the_replica_and_says_nothing_of_a_connection() {
        let request = Request::post("/p.S/M?q")
            .header("transfer-encoding", "chunked")
            .header("host", "elsewhere")
            .header("te", "trailers")
            .header("x-mine", "1")
            .body(())
            .unwrap();
        let head = head(&request, &HeaderValue::from_static("10.0.0.1:8080"));
        assert_eq!(head.uri(), "http://10.0.0.1:8080/p.S/M?q");
        assert_eq!((head.method(), head.version()), (&http::Method::POST, Version::HTTP_2));
        let mut names: Vec<_> = head.headers().keys().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["te", "x-mine"]);
    }

    #[test]
    fn a_stream_that_was_reset_by_either_side_may_have_been_seen() {
        for reason in [Reason::CANCEL, Reason::INTERNAL_ERROR, Reason::REFUSED_STREAM] {
            // Made here, it is not the function's word.
            assert!(!is_unseen(&h2::Error::from(reason)));
        }
    }
}
