//! A channel that counts what goes over it: which call, how long until the head of the answer, how it ended.
//!
//! Owns nothing but the counting. A call that is given up by whoever made it is not counted; a stream counts as what its
//! head says, whatever becomes of it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::transport;
use tower::Service;

use crate::metrics::Timings;

/// A kind of call: how its answer begins tells how it ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// `package.Service/Method`.
    pub method: String,
    /// The word that gRPC has for its end, or [`NO_ANSWER`].
    pub code: &'static str,
}

/// The end of a call that got no answer: no connection, or not in time.
const NO_ANSWER: &str = "NoAnswer";

/// A connection to containerd on which calls are counted. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Channel {
    inner: transport::Channel,
    calls: Timings<Call>,
}

impl Channel {
    pub(super) fn new(inner: transport::Channel) -> Self {
        Self { inner, calls: Timings::default() }
    }

    /// What was called so far, on this and all its clones.
    #[must_use]
    pub fn calls(&self) -> &Timings<Call> {
        &self.calls
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = transport::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = request.uri().path().trim_start_matches('/').to_owned();
        let (began, calls) = (Instant::now(), self.calls.clone());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let code = answer.as_ref().map_or(NO_ANSWER, |answer| code(answer));
            calls.observe(Call { method, code }, began.elapsed());
            answer
        })
    }
}

/// A failure is told in the head; what has no code there has begun to answer.
fn code<T>(answer: &Response<T>) -> &'static str {
    use tonic::Code;
    let code = answer.headers().get(tonic::Status::GRPC_STATUS);
    match code.map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes())) {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_an_answer_tells_how_the_call_ended() {
        let answer = |status: Option<&str>| {
            let mut answer = Response::new(());
            if let Some(status) = status {
                answer.headers_mut().insert("grpc-status", status.parse().unwrap());
            }
            code(&answer)
        };
        for (status, expected) in [
            (None, "OK"),
            (Some("0"), "OK"),
            (Some("5"), "NotFound"),
            (Some("14"), "Unavailable"),
            (Some("x"), "Unknown"),
        ] {
            assert_eq!(answer(status), expected, "{status:?}");
        }
    }

    #[tokio::test]
    async fn a_call_without_an_answer_is_counted_as_such() {
        let directory = tempfile::tempdir().unwrap();
        let client = super::super::client::Client::new(&directory.path().join("nobody"));
        let scope = client.scope(&roost_proxy::function::Namespace::default());
        let mut version =
            containerd_client::services::v1::version_client::VersionClient::new(scope.channel());
        version.version(scope.call(())).await.unwrap_err();
        let calls = client.channel().calls().read();
        let call =
            Call { method: "containerd.services.version.v1.Version/Version".to_owned(), code: NO_ANSWER };
        assert_eq!(calls.len(), 1, "{calls:?}");
        assert_eq!((&calls[0].0, calls[0].1.count()), (&call, 1));
    }
}
