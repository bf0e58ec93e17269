//! The body of a request on its way to a function that speaks HTTP/2.
//!
//! Owns the sending end of the stream, and what was sent of the body for as long as that may have to be sent again. Takes
//! the next frame only when the function has room for it: nothing piles up here.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

use crate::body::{Broken, Payload, RequestBody};

/// So many bytes that were sent are kept, until the function answers: it may refuse the request, and another one gets it.
const MAX_KEPT: usize = 64 << 10;

/// A body that is being sent. Dropping it gives up the stream, if nobody else has it.
pub(super) struct Upload {
    body: RequestBody,
    stream: SendStream<Bytes>,
    /// All that was sent, unless that was too much.
    kept: Option<VecDeque<Bytes>>,
    kept_bytes: usize,
    done: bool,
}

/// The task that sends the rest of a body. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Rest {
    broken: oneshot::Receiver<Broken>,
}

impl Upload {
    pub(super) fn new(body: RequestBody, stream: SendStream<Bytes>) -> Self {
        let done = body.is_end_stream();
        Self { body, stream, kept: Some(VecDeque::new()), kept_bytes: 0, done }
    }

    /// Sends what can be sent now. `Ready` when there is no more to do: all is sent, or the function wants no more.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while !self.done {
            self.stream.reserve_capacity(1);
            if self.stream.capacity() == 0 {
                match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(_)) => continue,
                    // The function has ended the stream: what it answered, if anything, tells more.
                    Some(Err(_)) | None => return self.end(),
                }
            }
            if let Poll::Ready(Ok(_) | Err(_)) = self.stream.poll_reset(cx) {
                return self.end();
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if self.send(frame) {
                        return self.end();
                    }
                }
                Some(Err(broken)) => {
                    self.done = true;
                    self.stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(Err(broken));
                }
                None => {
                    // Fails if the stream has ended: see above.
                    let (Ok(()) | Err(_)) = self.stream.send_data(Bytes::new(), true);
                    return self.end();
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends a frame; `true` if it was the last.
    fn send(&mut self, frame: Frame<Bytes>) -> bool {
        match frame.into_data() {
            Ok(data) => {
                self.keep(&data);
                let last = self.body.is_end_stream();
                self.stream.send_data(data, last).is_err() || last
            }
            Err(frame) => {
                let Ok(trailers) = frame.into_trailers() else { return false };
                self.kept = None;
                self.stream.reserve_capacity(0);
                let (Ok(()) | Err(_)) = self.stream.send_trailers(trailers);
                true
            }
        }
    }

    fn keep(&mut self, data: &Bytes) {
        self.kept_bytes += data.len();
        if self.kept_bytes > MAX_KEPT {
            self.kept = None;
        }
        if let Some(kept) = &mut self.kept {
            kept.push_back(data.clone());
        }
    }

    fn end(&mut self) -> Poll<Result<(), Broken>> {
        self.done = true;
        Poll::Ready(Ok(()))
    }

    /// The body as it was before anything of it was sent, if that can be had.
    pub(super) fn into_unsent(self) -> Option<Payload> {
        let kept = self.kept?;
        let rest = self.body.into_inner();
        Some(if kept.is_empty() { rest } else { Payload::Replayed(Box::new(Replayed { kept, rest })) })
    }

    /// Has a task send the rest. `None` if there is none.
    pub(super) fn detach(mut self) -> Option<Rest> {
        if self.done {
            return None;
        }
        self.kept = None;
        let (mut tell, broken) = oneshot::channel();
        tokio::spawn(async move {
            let sent = poll_fn(|cx| match tell.poll_closed(cx) {
                Poll::Ready(()) => Poll::Ready(Ok(())),
                Poll::Pending => self.poll(cx),
            });
            if let Err(broken) = sent.await {
                // Nobody listens: the answer has ended.
                let (Ok(()) | Err(_)) = tell.send(broken);
            }
        });
        Some(Rest { broken })
    }
}

impl Rest {
    /// Why the body broke off, if it did.
    pub(super) fn broken(&mut self) -> Option<Broken> {
        self.broken.try_recv().ok()
    }
}

/// A body of which the beginning was sent before.
#[derive(Debug)]
pub(crate) struct Replayed {
    kept: VecDeque<Bytes>,
    rest: Payload,
}

impl Replayed {
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.kept.pop_front() {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None if self.rest.is_end_stream() => Poll::Ready(None),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.kept.is_empty() && self.rest.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let kept = self.kept.iter().map(|data| data.len() as u64).sum::<u64>();
        let mut hint = self.rest.size_hint();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + kept);
        }
        hint.set_lower(hint.lower() + kept);
        hint
    }
}
