//! A connection of a client.
//!
//! Owns the order of what happens on it: a head is read, the request is answered, the answer is written, and only then the
//! next head is looked at. All of it is done by one task. Dropping it ends the request that is going on; so does the client
//! that closes its side while it waits. Never looks at what is asked.
//!
//! ```text
//!   head ──► answering ──► writing ──► head …
//!    │  │        │            │  │
//!    │  │        │            │  ├─ 101: the socket is given away
//!    │  │        │            │  └─ the last one: shut down
//!    │  │        └────────────┴─ the client left, or the answer broke off: dropped
//!    │  └─ malformed: 400, 414 or 431, and shut down
//!    └─ the preface of HTTP/2: the socket is given back
//! ```

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;
use tokio::sync::oneshot;

use super::Malformed;
use super::alarm::Alarm;
use super::decoder::{Decoded, Decoder};
use super::encode::{self, Encoder, Size, Told};
use super::head::{self, Bounds, RequestHead};
use super::input::Input;
use super::outbox::Outbox;
use crate::body::{BoxError, ResponseBody};
use crate::client::ClientSocket;
use crate::client_body::{ClientBody, ClientBodyError, Upgrade};
use crate::express::{Arrived, Express};
use crate::headers;

/// How a connection begins that speaks HTTP/2 without having asked.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is said to a client that waits before it sends a body.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Shared with the body of a request, which reads of it.
    wire: Arc<Mutex<Wire>>,
    bounds: Bounds,
}

/// Answers the requests of a connection.
pub(crate) trait Service {
    /// Sends the request of this head the short way, if it may go that. `body` makes its body, of so many bytes.
    fn express(&self, head: &Bytes, body: impl FnOnce(u64) -> ClientBody) -> Option<Express>;

    /// Answers a request.
    fn answer(&self, request: Request<ClientBody>) -> impl Future<Output = Response<ResponseBody>> + Send;
}

/// Who is waiting for the socket, and for what was read of it and not taken.
type Upgraded = oneshot::Sender<(ClientSocket, Bytes)>;

/// How a connection ended that ended well.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once")]
pub(crate) enum Ended {
    /// There are no more requests.
    Closed,
    /// It speaks HTTP/2, and nothing was taken from it.
    Http2(ClientSocket),
    /// It is no longer HTTP, and somebody else's.
    Upgraded,
}

/// How one ended that did not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the request is malformed: {0}")]
    Malformed(Malformed),
    #[error(transparent)]
    Socket(#[from] io::Error),
    #[error("an answer broke off")]
    Answer(#[source] BoxError),
}

/// A connection's bytes, both ways.
#[derive(Debug)]
struct Wire {
    socket: ClientSocket,
    input: Input,
    outbox: Outbox,
    /// Where the body of the request is that is going on.
    body: Decoder,
    /// Its client waits for a word before it sends it.
    continues: bool,
    /// Whose body that is: counts up with each request, and again when its answer was written.
    turn: u64,
    /// Whoever waits for it.
    reader: Option<Waker>,
}

/// The body of one request. Once that was answered, it is nobody's: what comes then is another request's.
#[derive(Debug)]
pub(crate) struct Reader {
    wire: Arc<Mutex<Wire>>,
    turn: u64,
}

/// What comes first on a connection, or next.
enum Next {
    Head(Bytes),
    Http2,
    Malformed(Malformed),
    Closed,
}

fn lock(wire: &Mutex<Wire>) -> MutexGuard<'_, Wire> {
    // Whoever panicked in the middle was of this connection, which has ended with it.
    wire.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    /// A connection whose requests have heads of at most `size` bytes and `headers` headers.
    pub(crate) fn new(socket: ClientSocket, size: usize, headers: usize) -> Self {
        let wire = Wire {
            socket,
            input: Input::default(),
            outbox: Outbox::default(),
            body: Decoder::Done,
            continues: false,
            turn: 0,
            reader: None,
        };
        Self { wire: Arc::new(Mutex::new(wire)), bounds: Bounds { size, headers } }
    }

    /// Has `service` answer each request. Once `stopping` says so, the next answer is the last; whoever makes it say so
    /// wakes this.
    pub(crate) async fn serve(
        self,
        stopping: impl Fn() -> bool,
        service: &impl Service,
    ) -> Result<Ended, Failure> {
        let (mut first, mut alarm) = (true, Alarm::default());
        loop {
            let next = poll_fn(|cx| lock(&self.wire).poll_next(cx, self.bounds, first, &stopping)).await;
            let head = match next {
                Ok(Next::Head(head)) => head,
                Ok(Next::Closed) => return self.shut_down().await,
                Ok(Next::Malformed(malformed)) => return self.refuse(malformed).await,
                Ok(Next::Http2) => return Ok(Ended::Http2(self.into_socket()?.0)),
                Err(error) => {
                    if error.kind() == io::ErrorKind::TimedOut {
                        self.shut_down().await?;
                    }
                    return Err(error.into());
                }
            };
            first = false;
            let last = if let Some(express) = service.express(&head, |length| self.body_of(length)) {
                drop(head);
                self.relay(express, &mut alarm, &stopping).await?
            } else {
                let head = match head::read_request(&head, self.bounds) {
                    Ok(head) => head,
                    Err(malformed) => return self.refuse(malformed).await,
                };
                match self.exchange(head, service, &stopping).await? {
                    (last, None) => last,
                    (_, Some(upgrade)) => {
                        // Whoever asked for it may have left.
                        drop(upgrade.send(self.into_socket()?));
                        return Ok(Ended::Upgraded);
                    }
                }
            };
            if !lock(&self.wire).end() || last {
                return self.shut_down().await;
            }
        }
    }

    /// Has a request answered. Is the connection over then, or somebody else's?
    async fn exchange(
        &self,
        head: RequestHead,
        service: &impl Service,
        stopping: impl Fn() -> bool,
    ) -> Result<(bool, Option<Upgraded>), Failure> {
        let RequestHead { request, body, keep_alive, expects_continue } = head;
        let turn = lock(&self.wire).begin(body, expects_continue);
        let (method, version) = (request.method().clone(), request.version());
        let trailers = headers::takes_trailers(request.headers());
        let (body, upgrade) = self.body(&request, body, turn);
        let response = {
            let mut answering = pin!(service.answer(request.map(|()| body)));
            poll_fn(|cx| match answering.as_mut().poll(cx) {
                Poll::Ready(response) => Poll::Ready(Ok(response)),
                Poll::Pending => lock(&self.wire).poll_gone(cx).map(Err),
            })
            .await?
        };
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        // Nobody reads on behind an answer that is whole. If the request is not here by now, the client is not to take the
        // connection for one that can be used again.
        let ended = !response.body().is_whole() || switched || lock(&self.wire).end();
        let told =
            Told { method: &method, version, keep_alive: keep_alive && ended && !stopping(), trailers };
        let last = self.answer(response, told).await?;
        Ok((last, upgrade.filter(|_| switched)))
    }

    /// Waits for the answer to a request that was sent, and passes it on. `true`: the connection ends with it.
    async fn relay(
        &self,
        mut express: Express,
        alarm: &mut Alarm,
        stopping: impl Fn() -> bool,
    ) -> Result<bool, Failure> {
        loop {
            let arrived = poll_fn(|cx| {
                if let Poll::Ready(arrived) = express.poll_head(cx) {
                    return Poll::Ready(Ok(arrived));
                }
                if express.due().is_some_and(|due| alarm.poll(cx, due).is_ready()) {
                    return Poll::Ready(Ok(Arrived::Failed(express.late())));
                }
                lock(&self.wire).poll_gone(cx).map(Err)
            });
            let arrived = arrived.await?;
            let keep_alive = express.keeps_alive() && !stopping();
            let failed = match arrived {
                Arrived::Head(head) => {
                    let relayed = express.relay(&head, lock(&self.wire).outbox.front(), keep_alive);
                    if let Some(relayed) = relayed {
                        drop(head);
                        let (body, _busy) = express.into_body(&relayed);
                        return self.write_body(relayed.encoder, body).await;
                    }
                    match express.read_head(&head) {
                        Ok(Some(response)) => Ok(response),
                        Ok(None) => continue,
                        Err(error) => Err(error),
                    }
                }
                Arrived::Failed(error) => Err(error),
            };
            let method = express.method().clone();
            let response = match failed {
                Ok(response) => express.into_response(response),
                Err(error) => express.refuse(&error),
            };
            return self.answer(response, Told::plainly(&method, keep_alive)).await;
        }
    }

    /// The body of a request, or the way to have the connection if that is asked for.
    fn body(&self, request: &Request<()>, body: Decoder, turn: u64) -> (ClientBody, Option<Upgraded>) {
        if !body.is_done() {
            return (ClientBody::http1(Reader { wire: Arc::clone(&self.wire), turn }), None);
        }
        if headers::offers_upgrade(request.version(), request.headers()) {
            let (sender, receiver) = oneshot::channel();
            return (ClientBody::upgrade(Upgrade::Http1(receiver)), Some(sender));
        }
        (ClientBody::empty(), None)
    }

    /// That of a request that goes the short way.
    fn body_of(&self, length: u64) -> ClientBody {
        let turn = lock(&self.wire).begin(Decoder::of_length(length), false);
        ClientBody::http1(Reader { wire: Arc::clone(&self.wire), turn })
    }

    /// Writes an answer, to its end. `true`: the connection ends with it.
    async fn answer(&self, response: Response<ResponseBody>, told: Told<'_>) -> Result<bool, Failure> {
        let (parts, body) = response.into_parts();
        let encoder = {
            let head = Response::from_parts(parts, ());
            let mut wire = lock(&self.wire);
            wire.continues = false;
            encode::response(wire.outbox.front(), &head, Size::of(&body), told)
        };
        self.write_body(encoder, body).await
    }

    /// Writes what is behind the head of an answer, and the head if it was not written yet.
    async fn write_body<B>(&self, mut encoder: Encoder, body: B) -> Result<bool, Failure>
    where
        B: Body<Data = Bytes, Error: Into<BoxError>>,
    {
        let mut body = pin!(body);
        let last = encoder.is_last();
        let mut ended = encoder.is_done();
        poll_fn(|cx| {
            loop {
                let mut waits = false;
                if !ended && lock(&self.wire).outbox.has_room() {
                    // The lock is not held: the body of an answer may hang on that of the request.
                    match body.as_mut().poll_frame(cx) {
                        Poll::Ready(frame) => {
                            let frame = frame.transpose().map_err(|error| Failure::Answer(error.into()))?;
                            let whole = body.is_end_stream();
                            let outbox = &mut lock(&self.wire).outbox;
                            put(&mut encoder, outbox, frame, whole)?;
                            ended = encoder.is_done();
                        }
                        Poll::Pending => waits = true,
                    }
                }
                let mut wire = lock(&self.wire);
                let Wire { outbox, socket, .. } = &mut *wire;
                ready!(outbox.poll_flush(cx, socket))?;
                if ended {
                    return Poll::Ready(Ok(last));
                }
                if waits {
                    return wire.poll_gone(cx).map(|error| Err(error.into()));
                }
            }
        })
        .await
    }

    /// Tells a client that it was not understood.
    async fn refuse(self, malformed: Malformed) -> Result<Ended, Failure> {
        let status = match malformed {
            Malformed::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Malformed::UrlTooLong => StatusCode::URI_TOO_LONG,
            _ => StatusCode::BAD_REQUEST,
        };
        encode::refusal(lock(&self.wire).outbox.front(), status);
        poll_fn(|cx| {
            let mut wire = lock(&self.wire);
            let Wire { outbox, socket, .. } = &mut *wire;
            outbox.poll_flush(cx, socket)
        })
        .await?;
        self.shut_down().await?;
        Err(Failure::Malformed(malformed))
    }

    async fn shut_down(self) -> Result<Ended, Failure> {
        lock(&self.wire).next_turn();
        poll_fn(|cx| Pin::new(&mut lock(&self.wire).socket).poll_shutdown(cx)).await?;
        Ok(Ended::Closed)
    }

    /// The socket, and what was read of it and not taken.
    fn into_socket(self) -> Result<(ClientSocket, Bytes), Failure> {
        // A body would have a share of it; here there was none.
        let wire = Arc::into_inner(self.wire).ok_or(io::ErrorKind::ResourceBusy);
        let wire = wire.map_err(io::Error::from)?.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok((wire.socket, wire.input.bytes.freeze()))
    }
}

/// Puts a piece of an answer, or its end, where it is written from.
fn put(
    encoder: &mut Encoder,
    outbox: &mut Outbox,
    frame: Option<Frame<Bytes>>,
    whole: bool,
) -> Result<(), Failure> {
    let put = match frame.map(Frame::into_data) {
        Some(Ok(data)) => encoder.put(outbox, data, whole),
        Some(Err(frame)) => encoder.finish(outbox, frame.trailers_ref()),
        None => encoder.finish(outbox, None),
    };
    put.map_err(|error| Failure::Answer(error.into()))
}

impl Wire {
    /// The next head, or whatever else there is in its place. `first`: nothing came before it.
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        bounds: Bounds,
        first: bool,
        stopping: impl Fn() -> bool,
    ) -> Poll<io::Result<Next>> {
        loop {
            let Input { bytes, seen, .. } = &mut self.input;
            let preface = first
                && !bytes.is_empty()
                && HTTP2_PREFACE.starts_with(&bytes[..bytes.len().min(HTTP2_PREFACE.len())]);
            if preface && bytes.len() >= HTTP2_PREFACE.len() {
                self.socket.unread(bytes.split().freeze());
                return Poll::Ready(Ok(Next::Http2));
            }
            if !preface && !bytes.is_empty() {
                match head::take_request(bytes, seen, bounds) {
                    Ok(Some(head)) => return Poll::Ready(Ok(Next::Head(head))),
                    Ok(None) => {}
                    Err(malformed) => return Poll::Ready(Ok(Next::Malformed(malformed))),
                }
            }
            // Whoever has just come is heard out, and so is a request that is here and was not read yet.
            if self.input.bytes.is_empty() && !first && stopping() && !self.socket.has_unread() {
                return Poll::Ready(Ok(Next::Closed));
            }
            if ready!(self.input.poll_read(cx, &mut self.socket))? == 0 {
                return match self.input.bytes.is_empty() {
                    true => Poll::Ready(Ok(Next::Closed)),
                    false => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                };
            }
        }
    }

    /// A request begins, of which this is to come. Tells whose turn it is.
    fn begin(&mut self, body: Decoder, continues: bool) -> u64 {
        self.next_turn();
        (self.body, self.continues) = (body, continues);
        self.turn
    }

    /// Whoever still has the body of a request has it no longer.
    fn next_turn(&mut self) {
        self.turn += 1;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// The request was answered. `false` if no other can follow: something of its body is still to come.
    fn end(&mut self) -> bool {
        if !self.body.is_done() {
            self.next_turn();
        }
        while !self.body.is_done() {
            match self.body.decode(&mut self.input.bytes) {
                Ok(Decoded::Data(_) | Decoded::Trailers(_) | Decoded::End) => {}
                Ok(Decoded::More) | Err(_) => return false,
            }
        }
        self.input.settle();
        true
    }

    /// `Ready` if the client has left while it should wait.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        // Whoever reads the body hears of it; behind the body, one request at a time is read ahead.
        if !self.body.is_done() || !self.input.bytes.is_empty() {
            return Poll::Pending;
        }
        match ready!(self.input.poll_read(cx, &mut self.socket)) {
            Ok(0) => Poll::Ready(io::ErrorKind::ConnectionAborted.into()),
            Ok(_) => Poll::Pending,
            Err(error) => Poll::Ready(error),
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ClientBodyError>>> {
        let closed = |error: io::Error| Poll::Ready(Some(Err(ClientBodyError::Closed(error))));
        if self.input.is_short_of(&self.body) {
            // What came is passed on in any case. If this is the end, it is found once more behind that.
            let _more = self.input.poll_read_body(cx, &mut self.socket, &self.body);
        }
        loop {
            match self.body.decode(&mut self.input.bytes) {
                Ok(Decoded::Data(data)) => {
                    self.continues = false;
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Decoded::Trailers(trailers)) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Ok(Decoded::End) => return Poll::Ready(None),
                Ok(Decoded::More) => {}
                Err(malformed) => {
                    return Poll::Ready(Some(Err(ClientBodyError::Malformed(malformed.into()))));
                }
            }
            if self.continues {
                if self.outbox.is_empty() {
                    self.outbox.front().extend_from_slice(CONTINUE);
                }
                match self.outbox.poll_flush(cx, &mut self.socket) {
                    Poll::Ready(Ok(())) => self.continues = false,
                    Poll::Ready(Err(error)) => return closed(error),
                    Poll::Pending => return Poll::Pending,
                }
            }
            match self.input.poll_read_body(cx, &mut self.socket, &self.body) {
                Poll::Ready(Ok(0)) => return closed(io::ErrorKind::UnexpectedEof.into()),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return closed(error),
                Poll::Pending => {
                    self.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
    }
}

impl Reader {
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientBodyError>>> {
        let mut wire = lock(&self.wire);
        if wire.turn != self.turn {
            let answered = io::ErrorKind::ConnectionAborted.into();
            return Poll::Ready(Some(Err(ClientBodyError::Closed(answered))));
        }
        wire.poll_body(cx)
    }

    /// How many bytes are left, if that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        let wire = lock(&self.wire);
        if wire.turn == self.turn { wire.body.left() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Mutex as Shelf;
    use std::time::Duration;

    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Semaphore;
    use tokio::time::timeout;

    use super::*;
    use crate::client::{Limits, Requests};
    use crate::stream::Stream;

    /// Answers with the first piece of a body, and leaves the rest of it where it can be found.
    #[derive(Default)]
    struct Hasty(Shelf<Vec<ClientBody>>);

    impl Service for Hasty {
        fn express(&self, _: &Bytes, _: impl FnOnce(u64) -> ClientBody) -> Option<Express> {
            None
        }

        async fn answer(&self, request: Request<ClientBody>) -> Response<ResponseBody> {
            let mut body = request.into_body();
            let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
            self.0.lock().unwrap().push(body);
            Response::new(ResponseBody::full(piece))
        }
    }

    async fn connected() -> (TcpStream, Connection) {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let long = Duration::from_secs(60);
        let limits = Limits { header: long, keep_alive: long, stall: long };
        let socket = ClientSocket::new(Stream::Plain(server), Requests::new(permit, None, None), limits);
        (client, Connection::new(socket, 8192, 100))
    }

    #[tokio::test]
    async fn what_was_not_read_of_a_body_is_not_read_of_the_next_one() {
        let (mut client, connection) = connected().await;
        let head = "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n";
        let all = format!(
            "{head}\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n{head}connection: close\r\n\r\n1\r\nc\r\n1\r\nd\r\n0\r\n\r\n"
        );
        client.write_all(all.as_bytes()).await.unwrap();
        let service = Hasty::default();
        let ended = connection.serve(|| false, &service);
        let talk = async {
            let mut answers = String::new();
            client.read_to_string(&mut answers).await.unwrap();
            drop(client);
            answers
        };
        let both = timeout(Duration::from_secs(20), async { tokio::join!(ended, talk) }).await.unwrap();
        assert!(matches!(both.0, Ok(Ended::Closed)));
        let bodies: Vec<_> = both.1.split("HTTP/1.1 200 OK").map(|answer| answer.chars().last()).collect();
        assert_eq!(bodies, [None, Some('a'), Some('c')]);
        // Each was told that its body broke off, not that it ended.
        for mut body in service.0.into_inner().unwrap() {
            assert!(!body.is_end_stream());
            assert!(body.frame().await.unwrap().is_err());
        }
    }
}
