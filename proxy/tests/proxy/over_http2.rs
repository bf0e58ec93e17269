//! Functions that are asked over HTTP/2.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use http_body_util::channel::{Channel, Sender};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use roost_proxy::{Endpoint, Settings, Timeouts, Upstream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::support::*;

/// A replica that speaks HTTP/2, by hand.
pub(crate) struct Replica {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) listener: TcpListener,
}

/// A connection to it.
struct Line {
    requests: mpsc::Receiver<Asked>,
    driver: AbortHandle,
}

/// A request that it has.
struct Asked {
    request: Request<RecvStream>,
    answer: SendResponse<Bytes>,
}

impl Replica {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let id = format!("r-{}", address.port()).parse().unwrap();
        Self { endpoint: Endpoint::over_http2(id, address, None), listener }
    }

    async fn accept(&self) -> Line {
        self.accept_with(h2::server::Builder::new()).await
    }

    async fn accept_with(&self, http: h2::server::Builder) -> Line {
        let stream = within(self.listener.accept()).await.unwrap().0;
        let mut connection = within(http.handshake::<_, Bytes>(stream)).await.unwrap();
        let (sender, requests) = mpsc::channel(64);
        let driver = tokio::spawn(async move {
            while let Some(Ok((request, answer))) = connection.accept().await {
                if sender.send(Asked { request, answer }).await.is_err() {
                    break;
                }
            }
        });
        Line { requests, driver: driver.abort_handle() }
    }
}

impl Line {
    async fn asked(&mut self) -> Asked {
        within(self.requests.recv()).await.expect("the connection has ended")
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Asked {
    async fn message(&mut self) -> Option<Bytes> {
        loop {
            let data = within(self.request.body_mut().data()).await?.unwrap();
            self.request.body_mut().flow_control().release_capacity(data.len()).unwrap();
            // The last frame may be empty.
            if !data.is_empty() {
                return Some(data);
            }
        }
    }

    async fn trailers(&mut self) -> Option<HeaderMap> {
        within(self.request.body_mut().trailers()).await.unwrap()
    }

    fn head(&mut self, ends: bool) -> h2::SendStream<Bytes> {
        let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        self.answer.send_response(head, ends).unwrap()
    }

    /// Waits until the other end wants no more of it.
    async fn cancelled(&mut self) -> Reason {
        within(std::future::poll_fn(|cx| self.answer.poll_reset(cx))).await.unwrap()
    }
}

/// What a client sends with.
pub(crate) struct Client(http2::SendRequest<Channel<Bytes, io::Error>>);

impl Client {
    pub(crate) async fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    /// A call, and what its body is sent by.
    fn call(
        &mut self,
        path: &str,
    ) -> (Sender<Bytes, io::Error>, impl Future<Output = hyper::Result<Response<Incoming>>> + use<>) {
        let (sender, body) = Channel::new(8);
        let request = Request::post(format!("http://api.example{path}"))
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .body(body)
            .unwrap();
        (sender, self.0.send_request(request))
    }

    /// A call with one message, and its answer.
    async fn ask(&mut self, path: &str, message: &'static str) -> hyper::Result<Response<Incoming>> {
        let (mut body, answer) = self.call(path);
        body.send_data(message.into()).await.unwrap();
        drop(body);
        within(answer).await
    }
}

/// Waits until the other end wants no more of an answer.
async fn reset(stream: &mut h2::SendStream<Bytes>) -> Reason {
    within(std::future::poll_fn(|cx| stream.poll_reset(cx))).await.unwrap()
}

fn status(code: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), code.parse().unwrap())])
}

async fn one_replica(settings: Settings, timeouts: Timeouts) -> (Proxy, Arc<Upstream>, Replica, Client) {
    let (proxy, replica) = (Proxy::with(settings).await, Replica::start().await);
    let upstream = proxy.function_with("f", &[], timeouts);
    upstream.publish(vec![Arc::clone(&replica.endpoint)]);
    let client = Client::to(proxy.address).await;
    (proxy, upstream, replica, client)
}

async fn start() -> (Proxy, Arc<Upstream>, Replica, Client) {
    one_replica(Settings::default(), Timeouts::default()).await
}

#[tokio::test]
async fn a_call_keeps_its_form_and_its_trailers_and_calls_share_a_connection() {
    let (_proxy, upstream, replica, mut client) = start().await;
    let (mut body, answer) = client.call("/function/f/p.S/M?q");
    body.send_data("one".into()).await.unwrap();
    body.send_trailers(status("7")).await.unwrap();
    let answer = tokio::spawn(answer);
    let mut line = replica.accept().await;
    let mut first = line.asked().await;
    let address = replica.endpoint.address();
    assert_eq!(first.request.uri(), format!("http://{address}/p.S/M?q").as_str());
    assert_eq!(first.request.version(), Version::HTTP_2);
    let headers = first.request.headers();
    assert_eq!(
        (&headers["te"], &headers["x-forwarded-host"]),
        (&"trailers".parse().unwrap(), &"api.example".parse().unwrap())
    );
    assert!(headers.contains_key("x-call-id") && !headers.contains_key("transfer-encoding"));
    assert_eq!(first.message().await.unwrap(), "one");
    assert_eq!(first.message().await, None);
    assert_eq!(first.trailers().await.unwrap()["grpc-status"], "7");
    // While it is open, others come by the same way.
    let second = client.0.clone();
    let second = tokio::spawn(async move { Client(second).ask("/function/f/other", "two").await });
    let mut other = line.asked().await;
    assert_eq!(other.request.uri().path(), "/other");
    assert_eq!((upstream.load().in_flight, replica.endpoint.in_flight()), (2, 2));
    for asked in [&mut other, &mut first] {
        let mut stream = asked.head(false);
        stream.send_data("hi".into(), false).unwrap();
        stream.send_trailers(status("0")).unwrap();
    }
    for answer in [within(answer).await.unwrap(), within(second).await.unwrap()] {
        let answer = answer.unwrap();
        assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_2));
        assert_eq!(answer.headers()["content-type"], "application/grpc");
        let body = within(answer.into_body().collect()).await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(body.to_bytes(), "hi");
    }
    until(|| upstream.load().in_flight == 0).await;
}

#[tokio::test]
async fn an_answer_of_trailers_alone_is_passed_on_as_it_is() {
    let (_proxy, upstream, replica, mut client) = start().await;
    let (_body, answer) = client.call("/function/f/p.S/M");
    let answer = tokio::spawn(answer);
    let mut line = replica.accept().await;
    let mut asked = line.asked().await;
    let head = Response::builder().header("grpc-status", "5").header("grpc-message", "not%20here");
    asked.answer.send_response(head.body(()).unwrap(), true).unwrap();
    let answer = within(answer).await.unwrap().unwrap();
    assert_eq!((answer.status(), &answer.headers()["grpc-status"]), (StatusCode::OK, &"5".parse().unwrap()));
    assert_eq!(answer.headers()["grpc-message"], "not%20here");
    assert!(!answer.headers().contains_key("content-type"));
    assert!(hyper::body::Body::is_end_stream(answer.body()));
    // The client was still sending: nobody waits for that.
    until(|| upstream.load().in_flight == 0).await;
}

#[tokio::test]
async fn both_directions_flow_at_once_and_neither_waits_for_the_other() {
    let (_proxy, _, replica, mut client) = start().await;
    let (mut body, answer) = client.call("/function/f/p.S/Chat");
    let answer = tokio::spawn(answer);
    let mut line = replica.accept().await;
    let mut asked = line.asked().await;
    let mut stream = asked.head(false);
    let mut answer = within(answer).await.unwrap().unwrap().into_body();
    for round in ["a", "b", "c"] {
        body.send_data(round.into()).await.unwrap();
        assert_eq!(asked.message().await.unwrap(), round);
        stream.send_data(round.into(), false).unwrap();
        assert_eq!(within(answer.frame()).await.unwrap().unwrap().into_data().unwrap(), round);
    }
    // More of an answer than all windows on the way hold, unread: the request goes on.
    let large = Bytes::from(vec![b'x'; 16 << 20]);
    stream.send_data(large.clone(), false).unwrap();
    let upload = async {
        for _ in 0..64 {
            body.send_data(vec![b'y'; 64 << 10].into()).await.unwrap();
        }
        drop(body);
    };
    let received = async {
        let mut received = 0;
        while let Some(data) = asked.message().await {
            received += data.len();
        }
        received
    };
    let ((), received) = within(async { tokio::join!(upload, received) }).await;
    assert_eq!(received, 4 << 20);
    stream.send_trailers(status("0")).unwrap();
    let rest = within(answer.collect()).await.unwrap();
    assert_eq!(rest.trailers().unwrap()["grpc-status"], "0");
    assert!(rest.to_bytes() == large);
}

#[tokio::test]
async fn a_client_that_reads_slowly_does_not_stop_the_answers_to_others() {
    let (_proxy, _, replica, mut client) = start().await;
    let mut slow = Vec::new();
    let mut line = None;
    for _ in 0..20 {
        let (_, answer) = client.call("/function/f");
        let answer = tokio::spawn(answer);
        if line.is_none() {
            line = Some(replica.accept().await);
        }
        let mut asked = line.as_mut().unwrap().asked().await;
        asked.head(false).send_data(vec![0; 4 << 20].into(), true).unwrap();
        slow.push((asked, within(answer).await.unwrap().unwrap()));
    }
    let (_, answer) = client.call("/function/f");
    let answer = tokio::spawn(answer);
    let mut line = line.unwrap();
    line.asked().await.head(false).send_data("quick".into(), true).unwrap();
    let answer = within(answer).await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    drop(slow);
    assert_eq!(within(answer.into_body().collect()).await.unwrap().to_bytes(), "quick");
}

#[tokio::test]
async fn a_stream_that_the_client_resets_is_reset_at_the_function_and_its_neighbours_go_on() {
    let (_proxy, upstream, replica, mut client) = start().await;
    // One before its answer, one in the middle of it, both with a body that has not ended.
    let (_body, waiting) = client.call("/function/f/waiting");
    let waiting = tokio::spawn(waiting);
    let mut line = replica.accept().await;
    let mut first = line.asked().await;
    let (sending, streaming) = client.call("/function/f/streaming");
    let streaming = tokio::spawn(streaming);
    let mut second = line.asked().await;
    let mut stream = second.head(false);
    stream.send_data("so far".into(), false).unwrap();
    let streaming = within(streaming).await.unwrap().unwrap();
    let (_body, neighbour) = client.call("/function/f/neighbour");
    let neighbour = tokio::spawn(neighbour);
    let mut third = line.asked().await;
    waiting.abort();
    assert_eq!(first.cancelled().await, Reason::CANCEL);
    // hyper resets it once both halves are gone.
    drop(streaming);
    sending.abort(io::ErrorKind::Other.into());
    assert_eq!(reset(&mut stream).await, Reason::CANCEL);
    until(|| upstream.load().in_flight == 1).await;
    third.head(true);
    assert_eq!(within(neighbour).await.unwrap().unwrap().status(), StatusCode::OK);
    until(|| upstream.load().in_flight == 0).await;
}

#[tokio::test]
async fn a_limit_that_fires_resets_the_stream_whatever_the_client_still_sends() {
    let limit = Duration::from_millis(50);
    let timeouts = Timeouts { request: Some(limit), ..Timeouts::default() };
    let (_proxy, upstream, replica, mut client) = one_replica(Settings::default(), timeouts).await;
    let (mut body, answer) = client.call("/function/f");
    body.send_data("and more".into()).await.unwrap();
    let answer = tokio::spawn(answer);
    let mut line = replica.accept().await;
    let mut asked = line.asked().await;
    let answer = within(answer).await.unwrap().unwrap();
    assert_eq!(answer.headers()["x-roost-timeout"], "request");
    assert_eq!(asked.cancelled().await, Reason::CANCEL);
    until(|| upstream.load().in_flight == 0).await;
    // In the middle of an answer, by silence.
    let timeouts = Timeouts { idle: Some(limit), ..Timeouts::default() };
    upstream.set_limits(roost_proxy::UpstreamLimits { timeouts, ..Default::default() });
    let (_body, answer) = client.call("/function/f");
    let answer = tokio::spawn(answer);
    let mut asked = line.asked().await;
    let mut stream = asked.head(false);
    let mut answer = within(answer).await.unwrap().unwrap().into_body();
    assert!(within(answer.frame()).await.unwrap().is_err());
    assert_eq!(reset(&mut stream).await, Reason::CANCEL);
    until(|| upstream.load().in_flight == 0).await;
}

#[tokio::test]
async fn what_the_function_breaks_off_never_looks_whole() {
    let (_proxy, upstream, replica, mut client) = start().await;
    let reset = tokio::spawn(client.call("/function/f").1);
    let mut line = replica.accept().await;
    line.asked().await.answer.send_reset(Reason::INTERNAL_ERROR);
    let answer = within(reset).await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let text = within(answer.into_body().collect()).await.unwrap().to_bytes();
    assert!(text.ends_with(b"reset the request without an answer\n"), "{text:?}");
    // Behind the head: by a reset, by the end of the connection.
    for whole_line in [false, true] {
        let answer = tokio::spawn(client.call("/function/f").1);
        let mut asked = line.asked().await;
        let mut stream = asked.head(false);
        stream.send_data("so far".into(), false).unwrap();
        let mut answer = within(answer).await.unwrap().unwrap().into_body();
        assert_eq!(within(answer.frame()).await.unwrap().unwrap().into_data().unwrap(), "so far");
        if whole_line {
            line.driver.abort();
        } else {
            stream.send_reset(Reason::CANCEL);
        }
        assert!(within(answer.frame()).await.unwrap().is_err());
    }
    until(|| upstream.load().in_flight == 0).await;
    // The next one has a connection of its own, and nothing was closed for it.
    let answer = tokio::spawn(client.call("/function/f").1);
    let mut line = replica.accept().await;
    line.asked().await.head(true);
    assert_eq!(within(answer).await.unwrap().unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_request_that_was_refused_unseen_is_sent_again_with_its_body() {
    let (_proxy, upstream, replica, mut client) = start().await;
    let (mut body, answer) = client.call("/function/f");
    body.send_data("hello, ".into()).await.unwrap();
    let answer = tokio::spawn(answer);
    let mut line = replica.accept().await;
    let mut asked = line.asked().await;
    assert_eq!(asked.message().await.unwrap(), "hello, ");
    asked.answer.send_reset(Reason::REFUSED_STREAM);
    let mut again = line.asked().await;
    body.send_data("world".into()).await.unwrap();
    drop(body);
    assert_eq!(again.message().await.unwrap(), "hello, ");
    assert_eq!(again.message().await.unwrap(), "world");
    assert_eq!(again.message().await, None);
    again.head(true);
    assert_eq!(within(answer).await.unwrap().unwrap().status(), StatusCode::OK);
    // A second replica has what the first one does not take, in whatever it speaks.
    let second = Function::start().await;
    let full = Replica::start().await;
    upstream.publish(vec![Arc::clone(&full.endpoint)]);
    let asked = tokio::spawn(async move { client.ask("/function/f", "hello").await });
    let mut line = full.accept().await;
    let mut first = line.asked().await;
    upstream.publish(vec![Arc::clone(&full.endpoint), Arc::clone(&second.endpoint)]);
    first.answer.send_reset(Reason::REFUSED_STREAM);
    line.asked().await.answer.send_reset(Reason::REFUSED_STREAM);
    let mut wire = second.accept().await;
    assert_eq!(wire.head().await.line, "POST / HTTP/1.1");
    assert_eq!(wire.chunk().await.unwrap(), "hello");
    wire.send(ok("taken")).await;
    assert_eq!(within(asked).await.unwrap().unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_body_too_long_to_be_kept_is_not_sent_twice() {
    let (_proxy, _, replica, mut client) = start().await;
    let (mut body, answer) = client.call("/function/f");
    let answer = tokio::spawn(answer);
    let sending =
        tokio::spawn(async move { while body.send_data(vec![0; 16 << 10].into()).await.is_ok() {} });
    let mut line = replica.accept().await;
    let mut asked = line.asked().await;
    let mut received = 0;
    while received <= 64 << 10 {
        received += asked.message().await.unwrap().len();
    }
    asked.answer.send_reset(Reason::REFUSED_STREAM);
    let answer = within(answer).await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let text = within(answer.into_body().collect()).await.unwrap().to_bytes();
    assert!(text.ends_with(b"refused the request\n"), "{text:?}");
    assert!(line.requests.try_recv().is_err());
    sending.abort();
}

#[tokio::test]
async fn a_goodbye_that_overtakes_a_request_sends_it_elsewhere_and_others_finish_where_they_are() {
    /// Nothing but the frame's head, and what is in it.
    fn frame(kind: u8, content: &[u8]) -> Vec<u8> {
        [&[0, 0, content.len() as u8, kind, 0, 0, 0, 0, 0], content].concat()
    }
    let (_proxy, _, replica, mut client) = start().await;
    let first = tokio::spawn(async move { (client.ask("/function/f", "one").await, client) });
    let mut wire = Wire::new(within(replica.listener.accept()).await.unwrap().0);
    wire.send(frame(4, &[])).await;
    wire.expect("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    // Until the head of the request has come.
    loop {
        let head = wire.bytes(9).await;
        wire.bytes(usize::from(head[1]) << 8 | usize::from(head[2])).await;
        if head[3] == 1 {
            break;
        }
    }
    // No error, and no stream that was looked at.
    wire.send(frame(7, &[0; 8])).await;
    let mut line = replica.accept().await;
    let mut asked = line.asked().await;
    assert_eq!(asked.message().await.unwrap(), "one");
    asked.head(true);
    let (answer, mut client) = within(first).await.unwrap();
    assert_eq!(answer.unwrap().status(), StatusCode::OK);
    wire.closed().await;
    // One that was looked at is finished where it is; the next one goes elsewhere.
    let slow = tokio::spawn(client.call("/function/f/slow").1);
    let mut asked = line.asked().await;
    let old = line;
    let mut stream = asked.head(false);
    let slow = within(slow).await.unwrap().unwrap();
    replica.endpoint.close();
    stream.send_data("done".into(), true).unwrap();
    assert_eq!(within(slow.into_body().collect()).await.unwrap().to_bytes(), "done");
    // The connection of a replica that was withdrawn ends with its last stream.
    let mut old = old;
    assert!(within(old.requests.recv()).await.is_none());
}

#[tokio::test]
async fn as_many_connections_as_the_replicas_streams_ask_for_but_few() {
    let proxy = Proxy::on_this_thread().await;
    let replica = Replica::start().await;
    let upstream = proxy.function("f", &[]);
    upstream.publish(vec![Arc::clone(&replica.endpoint)]);
    let client = Client::to(proxy.address).await.0;
    let mut calls = Vec::new();
    let mut lines = Vec::new();
    let one_at_a_time = || {
        let mut http = h2::server::Builder::new();
        http.max_concurrent_streams(1);
        http
    };
    let mut open = Vec::new();
    for _ in 0..4 {
        calls.push(tokio::spawn(Client(client.clone()).call("/function/f").1));
        let mut line = replica.accept_with(one_at_a_time()).await;
        let mut asked = line.asked().await;
        // Behind a head, the proxy has the settings.
        open.push(asked.head(false));
        lines.push((line, asked));
    }
    for _ in 0..4 {
        calls.push(tokio::spawn(Client(client.clone()).call("/function/f").1));
    }
    until(|| upstream.load().in_flight == 8).await;
    for (mut stream, (mut line, _asked)) in open.into_iter().zip(lines) {
        stream.send_data("one".into(), true).unwrap();
        tokio::spawn(async move {
            while let Some(mut asked) = line.requests.recv().await {
                asked.head(false).send_data("two".into(), true).unwrap();
            }
        });
    }
    for call in calls {
        let answer = within(call).await.unwrap().unwrap();
        within(answer.into_body().collect()).await.unwrap();
    }
    until(|| upstream.load().in_flight == 0).await;
}

#[tokio::test]
async fn those_who_come_together_share_one_connection_and_one_failure() {
    let (proxy, upstream, replica, _) = start().await;
    let client = Client::to(proxy.address).await.0;
    let calls: Vec<_> = (0..50).map(|_| tokio::spawn(Client(client.clone()).call("/function/f").1)).collect();
    let mut line = replica.accept().await;
    for _ in 0..50 {
        line.asked().await.head(true);
    }
    for call in calls {
        assert_eq!(within(call).await.unwrap().unwrap().status(), StatusCode::OK);
    }
    let dead = replica.endpoint;
    drop((line, replica.listener));
    upstream.publish(vec![Endpoint::over_http2("gone".parse().unwrap(), dead.address(), None)]);
    let calls: Vec<_> = (0..50).map(|_| tokio::spawn(Client(client.clone()).call("/function/f").1)).collect();
    for call in calls {
        let answer = within(call).await.unwrap().unwrap();
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let text = within(answer.into_body().collect()).await.unwrap().to_bytes();
        assert!(
            text.starts_with(b"Can't reach service for: f. Connecting to replica gone failed"),
            "{text:?}"
        );
    }
    until(|| upstream.load().in_flight == 0).await;
}

#[tokio::test]
async fn a_client_of_http1_is_answered_too_and_an_upgrade_is_asked_for_in_http1() {
    let (proxy, _, replica, _) = start().await;
    let mut client = proxy.ask("POST /function/f/x HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nhi").await;
    let mut line = replica.accept().await;
    let mut asked = line.asked().await;
    assert_eq!(asked.request.headers()["content-length"], "2");
    assert_eq!(asked.message().await.unwrap(), "hi");
    let head = Response::builder().header("content-length", "4").body(()).unwrap();
    asked.answer.send_response(head, false).unwrap().send_data("four".into(), true).unwrap();
    let answer = client.answer().await;
    assert_eq!((answer.head.status(), answer.body.as_str()), (200, "four"));
    let mut client = proxy
        .ask("GET /function/f HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        .await;
    let mut wire = Wire::new(within(replica.listener.accept()).await.unwrap().0);
    let head = wire.head().await;
    assert_eq!((head.line.as_str(), head.value("upgrade")), ("GET / HTTP/1.1", Some("websocket")));
    wire.send("HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 101);
}

#[tokio::test]
async fn one_that_does_not_speak_http2_is_told_of() {
    let (_proxy, upstream, replica, mut client) = start().await;
    let answer = tokio::spawn(async move { client.ask("/function/f", "hi").await });
    let mut wire = Wire::new(within(replica.listener.accept()).await.unwrap().0);
    wire.send("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
    let answer = within(answer).await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let text = within(answer.into_body().collect()).await.unwrap().to_bytes();
    assert!(text.ends_with(b"sent something that is not HTTP/2\n"), "{text:?}");
    until(|| upstream.load().in_flight == 0).await;
}
