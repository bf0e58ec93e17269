//! When a request has been sent to its end.
//!
//! Owns the one bit that tells the wait for an answer's head that the function has all it needs. Only there for functions
//! that have a limit from then on.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;

use crate::body::{Broken, Payload};

/// Tells when a body was taken to its end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sent(Arc<Notify>);

/// A body that tells when it was taken to its end.
#[derive(Debug)]
pub(crate) struct Watched {
    inner: Payload,
    sent: Sent,
}

impl Sent {
    /// Resolves once the body was taken to its end; at most once.
    pub(crate) async fn wait(&self) {
        self.0.notified().await;
    }

    /// `inner`, which tells of its end here.
    pub(crate) fn watch(&self, inner: Payload) -> Payload {
        if inner.is_end_stream() {
            self.0.notify_one();
            return inner;
        }
        Payload::Watched(Box::new(Watched { inner, sent: self.clone() }))
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        // Nobody asks a body of known length again after its last byte.
        if matches!(polled, Poll::Ready(None)) || self.inner.is_end_stream() {
            self.sent.0.notify_one();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
