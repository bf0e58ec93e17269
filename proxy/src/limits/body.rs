//! A client's body that may not be too long nor take too long.
//!
//! Owns both limits while the body comes. Made only for functions that have one: all other bodies pass without it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::counts::Limit;
use super::function::Bounds;
use crate::body::{Broken, Payload};
use crate::client_body::ClientBody;
use crate::upstream::Upstream;

/// Holds the body of `request` to the limits of its function.
pub(crate) fn bound(
    request: Request<Payload>,
    upstream: &Arc<Upstream>,
    bounds: &Bounds,
) -> Request<Payload> {
    request.map(|body| match body {
        Payload::Client(inner) if Bounded::is_needed(&inner, bounds) => {
            let late = bounds.body_time.map(|limit| (limit, Box::pin(sleep(limit))));
            let upstream = Arc::clone(upstream);
            let limit = bounds.body.unwrap_or(u64::MAX);
            Payload::Bounded(Box::new(Bounded { inner, left: limit, limit, late, upstream }))
        }
        body => body,
    })
}

/// The body of a client, and what is left of its limits.
#[derive(Debug)]
pub(crate) struct Bounded {
    inner: ClientBody,
    /// Bytes that may still come.
    left: u64,
    limit: u64,
    /// How long it may take, and the end of that.
    late: Option<(Duration, Pin<Box<Sleep>>)>,
    upstream: Arc<Upstream>,
}

impl Bounded {
    /// One whose length is known was measured before.
    fn is_needed(body: &ClientBody, bounds: &Bounds) -> bool {
        let unknown_length = body.size_hint().exact().is_none();
        !body.is_end_stream() && (bounds.body_time.is_some() || (unknown_length && bounds.body.is_some()))
    }

    fn broken(&self, limit: Limit, broken: Broken) -> Broken {
        self.upstream.gate().counts.reached(limit);
        broken
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        // Also while bytes come: slowly is how they come when this is needed.
        if let Some((limit, late)) = &mut self.late
            && late.as_mut().poll(cx).is_ready()
        {
            let broken = Broken::Late(*limit);
            return Poll::Ready(Some(Err(self.broken(Limit::BodyTime, broken))));
        }
        let frame = match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(Broken::Client(error)))),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => return Poll::Pending,
        };
        let length = frame.data_ref().map_or(0, Bytes::len) as u64;
        match self.left.checked_sub(length) {
            Some(left) => self.left = left,
            None => return Poll::Ready(Some(Err(self.broken(Limit::Body, Broken::TooLarge(self.limit))))),
        }
        Poll::Ready(Some(Ok(frame)))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
