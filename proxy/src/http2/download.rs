//! The body of an answer of a function that speaks HTTP/2.
//!
//! Owns the receiving end of the stream, and with it all that the stream needs: its seat, and the task that still sends the
//! body of the request. Dropping it before its end resets the stream. Gives room for more as it is read.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http_body::{Body, Frame, SizeHint};

use super::lines::Seat;
use super::upload::Rest;
use crate::body::Broken;

/// A body that is being received.
#[derive(Debug)]
pub(crate) struct Download {
    stream: RecvStream,
    /// Bytes that are still to come, where the head says so.
    left: Option<u64>,
    /// There are only trailers to come.
    read: bool,
    rest: Option<Rest>,
    _seat: Seat,
}

impl Download {
    pub(super) fn new(stream: RecvStream, length: Option<u64>, rest: Option<Rest>, seat: Seat) -> Self {
        Self { stream, left: length, read: false, rest, _seat: seat }
    }

    /// What the end of the stream is: mostly that of the body, broken off.
    fn end<T>(&mut self, error: h2::Error) -> Option<Result<T, Broken>> {
        // So do servers that have answered and do not want the rest of the request (RFC 9113, 8.1).
        let whole =
            error.is_remote() && error.reason() == Some(Reason::NO_ERROR) && self.left.unwrap_or(0) == 0;
        if whole {
            return None;
        }
        // The request may have been cut because of its own body.
        Some(Err(self.rest.as_mut().and_then(Rest::broken).unwrap_or(Broken::Stream(error))))
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        if !this.read {
            match ready!(this.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    this.left = this.left.map(|left| left.saturating_sub(data.len() as u64));
                    // Fails only for more than was received.
                    let (Ok(()) | Err(_)) = this.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(this.end(error)),
                None => this.read = true,
            }
        }
        Poll::Ready(match ready!(this.stream.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => this.end(error),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            _ if self.is_end_stream() => SizeHint::with_exact(0),
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}
