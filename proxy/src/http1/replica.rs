//! A connection to a function.
//!
//! Owns one exchange at a time: the request as far as it was sent, the answer as far as it was read. Both are moved by
//! whoever waits for the answer. Never opens a connection by itself, never sends anything twice.
//!
//! ```text
//!   idle ──send()──► request and head of the answer ──► body of the answer ──► idle
//!                       │                                  │                     ▲
//!                       ├─ not one byte written: given back │                     └─ when the request was sent, too
//!                       ├─ 101: into_socket()               └─ broke off: of no use
//!                       └─ failed: of no use
//! ```

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use tokio::net::TcpStream;

use super::decoder::{Decoded, Decoder};
use super::encode::{self, Encoder, Size};
use super::head::{self, Bounds, ResponseHead};
use super::input::Input;
use super::outbox::Outbox;
use super::{DEFAULT_HEADERS, Malformed};
use crate::body::{Broken, RequestBody};
use crate::client_body::ClientBodyError;

/// The largest head of an answer.
const BOUNDS: Bounds = Bounds { size: 256 << 10, headers: DEFAULT_HEADERS };

/// An open connection. Dropping it closes it, whatever is on its way. Goes from hand to hand in a box, as it is large.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: TcpStream,
    input: Input,
    outbox: Outbox,
    /// What is still to be sent.
    upload: Option<Upload>,
    /// Where the answer is.
    body: Decoder,
    /// May another request follow?
    keep_alive: bool,
}

/// The body of a request, on its way.
#[derive(Debug)]
struct Upload {
    body: RequestBody,
    encoder: Encoder,
    /// Something of the body was taken.
    begun: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("not a byte of the request could be written")]
    Unsent(Box<Request<RequestBody>>),
    #[error("the request broke off")]
    Request(#[source] Broken),
    #[error("the answer is none")]
    Malformed(#[source] Malformed),
    #[error("the connection ended")]
    Closed(#[source] io::Error),
}

/// Why an answer broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyFailure {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the connection ended")]
    Closed(#[source] io::Error),
    #[error("the request broke off")]
    Request(#[source] Broken),
}

impl Connection {
    pub(crate) fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            input: Input::default(),
            outbox: Outbox::default(),
            upload: None,
            body: Decoder::Done,
            keep_alive: true,
        }
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// Not cancel safe: a connection that was given up in the middle can only be dropped.
    pub(crate) async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<()>, Failure> {
        debug_assert!(self.is_idle(), "one exchange at a time");
        let (parts, body) = request.into_parts();
        let request = Request::from_parts(parts, ());
        let encoder = encode::request(self.outbox.front(), &request, Size::of(&body));
        self.upload = Some(Upload { body, encoder, begun: false });
        let sent = poll_fn(|cx| Poll::Ready(self.poll_upload(cx))).await;
        if let Poll::Ready(Err(failure)) = sent {
            let untouched = matches!(failure, Failure::Closed(_)) && self.is_untouched();
            return match self.upload.take() {
                Some(Upload { body, .. }) if untouched => {
                    Err(Failure::Unsent(Box::new(request.map(|()| body))))
                }
                _ => Err(failure),
            };
        }
        let method = request.method().clone();
        drop(request);
        poll_fn(|cx| self.poll_head(cx, &method)).await
    }

    /// Moves the request on; `Ready` once it was sent.
    pub(crate) fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        while let Some(upload) = &mut self.upload {
            if self.outbox.has_room() && !upload.encoder.is_done() {
                let put = match Pin::new(&mut upload.body).poll_frame(cx) {
                    Poll::Ready(frame) => {
                        upload.begun = true;
                        upload.put(frame, &mut self.outbox)
                    }
                    Poll::Pending => {
                        ready!(self.outbox.poll_flush(cx, &mut self.socket)).map_err(Failure::Closed)?;
                        return Poll::Pending;
                    }
                };
                put.map_err(Failure::Request)?;
            }
            ready!(self.outbox.poll_flush(cx, &mut self.socket)).map_err(Failure::Closed)?;
            if upload.encoder.is_done() {
                self.upload = None;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The same while an answer is read. A function that takes no more of a request may have answered it.
    fn poll_upload_beside(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        match self.poll_upload(cx) {
            Poll::Ready(Err(Failure::Request(broken))) => Err(broken),
            Poll::Ready(Err(_)) => {
                self.upload = None;
                self.outbox.clear();
                self.keep_alive = false;
                Ok(())
            }
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, method: &Method) -> Poll<Result<Response<()>, Failure>> {
        loop {
            let head = ready!(self.poll_raw_head(cx))?;
            if let Some(response) = self.read_head(&head, method)? {
                return Poll::Ready(Ok(response));
            }
        }
    }

    /// A head, as it came: that of the answer, or of a word in between.
    pub(crate) fn poll_raw_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Failure>> {
        self.poll_upload_beside(cx).map_err(Failure::Request)?;
        loop {
            let Input { bytes, seen, .. } = &mut self.input;
            if let Some(head) = head::take_response(bytes, seen, BOUNDS).map_err(Failure::Malformed)? {
                return Poll::Ready(Ok(head));
            }
            match ready!(self.input.poll_read(cx, &mut self.socket)) {
                Ok(0) => return Poll::Ready(Err(Failure::Closed(io::ErrorKind::UnexpectedEof.into()))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(Failure::Closed(error))),
            }
        }
    }

    /// Reads a head; `None` if it is only a word in between.
    pub(crate) fn read_head(
        &mut self,
        head: &Bytes,
        method: &Method,
    ) -> Result<Option<Response<()>>, Failure> {
        let ResponseHead { response, body, keep_alive } =
            head::read_response(head, BOUNDS, method).map_err(Failure::Malformed)?;
        if is_provisional(response.status()) {
            return Ok(None);
        }
        self.body_follows(body, keep_alive);
        Ok(Some(response))
    }

    /// The head of the answer was read: this body is behind it, and another exchange may follow.
    pub(super) fn body_follows(&mut self, body: Decoder, keep_alive: bool) {
        self.body = body;
        self.keep_alive &= keep_alive;
    }

    /// Has `write` write the head of a request. [`put_body`](Self::put_body) comes next.
    pub(crate) fn put_head(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        debug_assert!(self.is_idle(), "one exchange at a time");
        write(self.outbox.front());
    }

    /// Puts in what is behind the head. It is sent when [`poll_upload`](Self::poll_upload) is asked to, or for an answer.
    pub(crate) fn put_body(&mut self, body: RequestBody, length: u64) {
        self.upload = Some(Upload { body, encoder: Encoder::of_length(length), begun: false });
    }

    /// Can all that was put in still be sent elsewhere?
    pub(crate) fn is_untouched(&self) -> bool {
        self.outbox.is_untouched() && self.upload.as_ref().is_some_and(|upload| !upload.begun)
    }

    /// Is there nothing (more) of the answer?
    pub(crate) fn is_read(&self) -> bool {
        self.body.is_done()
    }

    /// How many bytes of the answer are left, if that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        self.body.left()
    }

    /// The next piece of the answer's body.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        if let Err(broken) = self.poll_upload_beside(cx) {
            return Poll::Ready(Some(Err(BodyFailure::Request(broken))));
        }
        if self.input.is_short_of(&self.body) {
            // What came is passed on in any case. If this is the end, it is found once more behind that.
            let _more = self.input.poll_read_body(cx, &mut self.socket, &self.body);
        }
        loop {
            match self.body.decode(&mut self.input.bytes)? {
                Decoded::Data(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Decoded::Trailers(trailers) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Decoded::End => return Poll::Ready(None),
                Decoded::More => {}
            }
            match ready!(self.input.poll_read_body(cx, &mut self.socket, &self.body)) {
                Ok(0) if self.body.finish() => return Poll::Ready(None),
                Ok(0) => {
                    let cut = BodyFailure::Closed(io::ErrorKind::UnexpectedEof.into());
                    return Poll::Ready(Some(Err(cut)));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(BodyFailure::Closed(error)))),
            }
        }
    }

    /// Is nothing going on, so that another request may be sent?
    pub(crate) fn is_idle(&self) -> bool {
        self.keep_alive && self.upload.is_none() && self.body.is_done() && self.input.bytes.is_empty()
    }

    /// It is idle, and may be for a while: lets go of what only an exchange needs.
    pub(crate) fn settle(&mut self) {
        self.input.settle();
    }

    /// Has the function neither closed it nor sent anything? Looks at the socket only if something came.
    pub(crate) fn is_quiet(&self) -> bool {
        match self.socket.poll_read_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => true,
            Poll::Ready(_) => {
                let read = self.socket.try_read(&mut [0]);
                read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            }
        }
    }

    /// The answer was read, and the request is not sent yet: `true` once it is and another may follow.
    pub(crate) fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let sent = ready!(self.poll_upload(cx));
        Poll::Ready(sent.is_ok() && self.is_idle())
    }

    /// Is something of the request still to be sent?
    pub(crate) fn is_sending(&self) -> bool {
        self.keep_alive && self.upload.is_some()
    }

    /// The socket of a connection that is no longer HTTP, and what was read of it behind the answer's head.
    pub(crate) fn into_socket(self) -> (TcpStream, Bytes) {
        (self.socket, self.input.bytes.freeze())
    }
}

impl Upload {
    /// Puts a piece of the body, or its end, where it is sent from.
    fn put(
        &mut self,
        frame: Option<Result<Frame<Bytes>, Broken>>,
        outbox: &mut Outbox,
    ) -> Result<(), Broken> {
        let put = match frame.transpose()?.map(Frame::into_data) {
            Some(Ok(data)) => {
                let last = self.body.is_end_stream();
                self.encoder.put(outbox, data, last)
            }
            Some(Err(frame)) => self.encoder.finish(outbox, frame.trailers_ref()),
            None => self.encoder.finish(outbox, None),
        };
        put.map_err(|_| Broken::Client(ClientBodyError::Length))
    }
}

fn is_provisional(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}
