//! The exporter against a collector: one that is well, away, slow, busy, or picky.

use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prost::Message;
use roost_proxy::{EntryKind, Trace};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Notify;

use super::*;
use crate::message::{ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse};

/// How long anything may take before a test gives up. Never waited for when all is well.
const DEADLINE: Duration = Duration::from_secs(60);

async fn within<F: Future>(future: F) -> F::Output {
    timeout(DEADLINE, future).await.expect("nothing happened")
}

/// That of a request to no function, in a trace that is to be recorded.
pub(crate) fn entry(path: &str) -> Box<AccessEntry> {
    Box::new(AccessEntry {
        kind: EntryKind::Request,
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_042),
        duration: Duration::from_nanos(1_500_999),
        function: None,
        method: Method::GET,
        path: path.into(),
        query: None,
        version: Version::HTTP_11,
        secure: false,
        status: 200,
        received: None,
        sent: None,
        first_byte: None,
        waited: None,
        peer: None,
        user: None,
        call_id: None,
        replica: None,
        user_agent: None,
        referer: None,
        trace: Some(Trace { trace_id: 0xab, parent_id: Some(1), span_id: Some(2), sampled: true }),
        broken: None,
        tunnel: None,
    })
}

/// What the collector does with a request.
enum Reply {
    Status(StatusCode, Option<&'static str>),
    Rejects(i64),
    /// Answers when it is told to.
    Waits(Arc<Notify>),
}

/// A collector. It replies as it is told, and well when nothing more is said.
struct Collector {
    endpoint: String,
    /// The paths of the spans of each request.
    batches: mpsc::Receiver<Vec<String>>,
}

impl Collector {
    fn listen(listener: TcpListener, replies: Vec<Reply>) -> Self {
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (sender, batches) = mpsc::channel(64);
        let replies = Arc::new(Mutex::new(replies.into_iter()));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (sender, replies) = (sender.clone(), Arc::clone(&replies));
                let service = service_fn(move |request| {
                    let reply = replies.lock().unwrap().next();
                    answer(request, reply, sender.clone())
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { endpoint, batches }
    }

    async fn start(replies: Vec<Reply>) -> Self {
        Self::listen(TcpListener::bind("127.0.0.1:0").await.unwrap(), replies)
    }

    async fn batch(&mut self) -> Vec<String> {
        within(self.batches.recv()).await.unwrap()
    }
}

async fn answer(
    request: Request<Incoming>,
    reply: Option<Reply>,
    batches: mpsc::Sender<Vec<String>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!((request.method(), request.uri().path()), (&Method::POST, "/v1/traces"));
    assert_eq!(request.headers()[CONTENT_TYPE], "application/x-protobuf");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    batches.try_send(paths(&body)).unwrap();
    let mut response = Response::new(Full::default());
    match reply {
        None => {}
        Some(Reply::Status(status, after)) => {
            *response.status_mut() = status;
            if let Some(after) = after {
                response.headers_mut().insert(RETRY_AFTER, after.parse().unwrap());
            }
        }
        Some(Reply::Rejects(rejected_spans)) => {
            let partial = ExportTracePartialSuccess { rejected_spans, error_message: "too old".to_owned() };
            let answer = ExportTraceServiceResponse { partial_success: Some(partial) };
            *response.body_mut() = Full::from(answer.encode_to_vec());
        }
        Some(Reply::Waits(until)) => until.notified().await,
    }
    Ok(response)
}

/// The paths of the spans that a request brings.
fn paths(body: &[u8]) -> Vec<String> {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let [of_host] = &request.resource_spans[..] else { panic!("{request:?}") };
    let [of_scope] = &of_host.scope_spans[..] else { panic!("{request:?}") };
    let path = |span: &message::Span| {
        let attribute = span.attributes.iter().find(|attribute| attribute.key == "url.path").unwrap();
        match attribute.value.as_ref().and_then(|value| value.value.clone()) {
            Some(message::Value::String(path)) => path,
            other => panic!("{other:?}"),
        }
    };
    of_scope.spans.iter().map(path).collect()
}

/// Without pauses that a test would feel, and with limits that none reaches.
const QUICK: Pace = Pace {
    gather: Duration::from_millis(1),
    answer: DEADLINE,
    first_pause: Duration::from_millis(1),
    longest_pause: Duration::from_millis(5),
    give_up: DEADLINE,
};

fn exporter(endpoint: &str, pace: Pace) -> Exporter {
    rustls::crypto::ring::default_provider().install_default().ok();
    let endpoint = endpoint.parse().unwrap();
    Exporter::start(Settings { endpoint, host: None, pace }).unwrap()
}

/// Ends it, and tells how many spans were exported, dropped, and left.
async fn ended(exporter: Exporter) -> (u64, u64, u64) {
    let figures = exporter.figures();
    let left = within(exporter.end(DEADLINE)).await;
    (figures.exported(), figures.dropped(), left)
}

async fn until(what: impl Fn() -> bool) {
    within(async {
        while !what() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn spans_that_come_together_are_sent_together_and_a_full_batch_at_once() {
    let mut collector = Collector::start(Vec::new()).await;
    let exporter = exporter(&collector.endpoint, Pace { gather: DEADLINE, ..QUICK });
    let sink = exporter.sink();
    for n in 0..BATCH + 3 {
        sink.take(entry(&format!("/{n}")));
    }
    let full = collector.batch().await;
    assert_eq!(full, (0..BATCH).map(|n| format!("/{n}")).collect::<Vec<_>>());
    // The others would wait for more to come.
    assert_eq!(ended(exporter).await, (BATCH as u64 + 3, 0, 0));
    assert_eq!(collector.batch().await.len(), 3);
}

#[tokio::test]
async fn spans_that_no_others_follow_are_sent_after_a_while() {
    let mut collector = Collector::start(Vec::new()).await;
    let exporter = exporter(&collector.endpoint, QUICK);
    for path in ["/a", "/b"] {
        exporter.sink().take(entry(path));
        assert_eq!(collector.batch().await, [path]);
    }
}

#[tokio::test]
async fn a_collector_that_is_away_gets_the_spans_when_it_is_back() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let exporter = exporter(&format!("http://{}", socket.local_addr().unwrap()), QUICK);
    exporter.sink().take(entry("/early"));
    let figures = exporter.figures();
    until(|| figures.failures() >= 2).await;
    assert_eq!((figures.exported(), figures.dropped(), figures.waiting()), (0, 0, 1));
    let mut collector = Collector::listen(socket.listen(16).unwrap(), Vec::new());
    assert_eq!(collector.batch().await, ["/early"]);
    assert_eq!(ended(exporter).await, (1, 0, 0));
}

#[tokio::test]
async fn what_cannot_be_sent_for_too_long_is_dropped_and_what_comes_later_is_not() {
    let busy = || Reply::Status(StatusCode::SERVICE_UNAVAILABLE, None);
    let mut collector = Collector::start(vec![busy()]).await;
    let exporter = exporter(&collector.endpoint, Pace { give_up: Duration::ZERO, ..QUICK });
    let figures = exporter.figures();
    exporter.sink().take(entry("/lost"));
    assert_eq!(collector.batch().await, ["/lost"]);
    until(|| figures.dropped() == 1).await;
    exporter.sink().take(entry("/kept"));
    assert_eq!(collector.batch().await, ["/kept"]);
    assert_eq!(ended(exporter).await, (1, 1, 0));
}

#[tokio::test]
async fn a_collector_that_does_not_answer_in_time_is_asked_again() {
    let never = Arc::new(Notify::new());
    let mut collector = Collector::start(vec![Reply::Waits(never)]).await;
    let exporter = exporter(&collector.endpoint, Pace { answer: Duration::from_millis(300), ..QUICK });
    exporter.sink().take(entry("/slow"));
    for _ in 0..2 {
        assert_eq!(collector.batch().await, ["/slow"]);
    }
}

#[tokio::test]
async fn a_busy_collector_is_asked_again_when_it_wants_to_be() {
    let busy = |status| Reply::Status(status, Some("3600"));
    let replies = vec![busy(StatusCode::SERVICE_UNAVAILABLE), busy(StatusCode::TOO_MANY_REQUESTS)];
    let mut collector = Collector::start(replies).await;
    // However long it wants, there is a limit; without its word, it would be the first pause.
    let pace = Pace { longest_pause: Duration::from_millis(200), ..QUICK };
    let exporter = exporter(&collector.endpoint, pace);
    let began = std::time::Instant::now();
    exporter.sink().take(entry("/busy"));
    for _ in 0..3 {
        assert_eq!(collector.batch().await, ["/busy"]);
    }
    assert!(began.elapsed() >= 2 * pace.longest_pause);
    assert_eq!(exporter.figures().failures(), 2);
    assert_eq!(ended(exporter).await, (1, 0, 0));
}

#[tokio::test]
async fn what_the_collector_refuses_is_dropped_and_not_sent_again() {
    let replies = vec![Reply::Status(StatusCode::BAD_REQUEST, None), Reply::Rejects(1)];
    let mut collector = Collector::start(replies).await;
    let exporter = exporter(&collector.endpoint, QUICK);
    let (sink, figures) = (exporter.sink(), exporter.figures());
    sink.take(entry("/bad"));
    assert_eq!(collector.batch().await, ["/bad"]);
    until(|| figures.dropped() == 1).await;
    sink.take(entry("/old"));
    assert_eq!(collector.batch().await, ["/old"]);
    until(|| figures.dropped() == 2).await;
    assert_eq!(ended(exporter).await, (0, 2, 0));
    assert!(collector.batches.try_recv().is_err());
}

#[tokio::test]
async fn what_the_queue_has_no_room_for_is_dropped_and_nobody_waits() {
    let answer = Arc::new(Notify::new());
    let mut collector = Collector::start(vec![Reply::Waits(Arc::clone(&answer))]).await;
    let exporter = exporter(&collector.endpoint, QUICK);
    let (sink, figures) = (exporter.sink(), exporter.figures());
    sink.take(entry("/first"));
    collector.batch().await;
    // From here on nobody takes anything out of the queue.
    for _ in 0..QUEUE + 7 {
        sink.take(entry("/"));
    }
    assert_eq!((figures.exported(), figures.dropped()), (0, 7));
    assert_eq!(figures.waiting(), QUEUE as u64 + 1);
    answer.notify_one();
    assert_eq!(ended(exporter).await, (QUEUE as u64 + 1, 7, 0));
}

#[tokio::test]
async fn at_the_end_each_batch_is_tried_once_and_nothing_is_waited_for() {
    let busy = || Reply::Status(StatusCode::SERVICE_UNAVAILABLE, None);
    let mut collector = Collector::start(vec![busy(), busy()]).await;
    let pause = Pace { first_pause: DEADLINE, longest_pause: DEADLINE, give_up: 3 * DEADLINE, ..QUICK };
    let exporter = exporter(&collector.endpoint, pause);
    let (sink, figures) = (exporter.sink(), exporter.figures());
    sink.take(entry("/a"));
    assert_eq!(collector.batch().await, ["/a"]);
    until(|| figures.failures() == 1).await;
    sink.take(entry("/b"));
    assert_eq!(ended(exporter).await, (1, 1, 0));
    assert_eq!((collector.batch().await, collector.batch().await), (vec!["/a".into()], vec!["/b".into()]));
    sink.take(entry("/late"));
    assert_eq!(figures.dropped(), 2, "nobody takes it any more");
}

#[tokio::test]
async fn a_collector_that_hangs_does_not_hold_up_the_end() {
    let never = Arc::new(Notify::new());
    let mut collector = Collector::start(vec![Reply::Waits(never)]).await;
    let exporter = exporter(&collector.endpoint, QUICK);
    exporter.sink().take(entry("/a"));
    collector.batch().await;
    exporter.sink().take(entry("/b"));
    assert_eq!(within(exporter.end(Duration::from_millis(50))).await, 2);
}
