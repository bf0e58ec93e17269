//! What is answered to one request. It owns the paths and the bodies; it knows no socket.

use std::convert::Infallible;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{Stream, stream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::{MissedTickBehavior, interval};

use crate::{Stopping, log, websocket};

/// Any body of ours: the caller's own bytes on their way back, a text, or the clock.
pub(crate) type Body = BoxBody<Bytes, hyper::Error>;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
const REPLICA: HeaderName = HeaderName::from_static("x-replica");
const REPLICA_KEY: HeaderName = HeaderName::from_static("x-replica-key");
const TICK: Duration = Duration::from_secs(1);
const HELP: &str = "\
This is echo, a function on Roost.

  curl -d hi URL          answers hi: any method, any path, any size, streamed
  curl URL/headers        what arrived here
  curl -N URL/sse         a clock of Server-Sent Events
  websocat ws://HOST/...  each message comes back
";

/// Who answers: of the replicas of a function, each says another address.
#[derive(Clone)]
pub(crate) struct Who {
    address: HeaderValue,
    /// What this replica is for, where each key has a replica of its own.
    key: Option<HeaderValue>,
}

impl Who {
    /// This process, as it is reached at `address`.
    pub(crate) fn at(address: SocketAddr) -> Self {
        let value = |text: String| HeaderValue::try_from(text).ok();
        let unknown = HeaderValue::from_static("unknown");
        let key = std::env::var("ROOST_KEY").ok().and_then(value);
        Self { address: value(address.to_string()).unwrap_or(unknown), key }
    }

    fn sign(self, response: &mut Response<Body>) {
        response.headers_mut().insert(REPLICA, self.address);
        if let Some(key) = self.key {
            response.headers_mut().insert(REPLICA_KEY, key);
        }
    }
}

/// Answers one request and logs its line.
pub(crate) async fn answer(
    request: Request<Incoming>,
    who: Who,
    stopping: Stopping,
) -> Result<Response<Body>, Infallible> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = route(request, stopping);
    who.sign(&mut response);
    if !is_quiet() {
        log(format_args!("{method} {path} {}", response.status().as_u16()));
    }
    Ok(response)
}

/// `QUIET` in the environment: no line for each request.
fn is_quiet() -> bool {
    static QUIET: LazyLock<bool> = LazyLock::new(|| std::env::var_os("QUIET").is_some());
    *QUIET
}

fn route(request: Request<Incoming>, stopping: Stopping) -> Response<Body> {
    if asks_for_websocket(&request) {
        return websocket::accept(request, stopping);
    }
    match request.uri().path() {
        "/_/health" | "/_/ready" => text(StatusCode::OK, "OK\n"),
        "/sse" => clock(stopping),
        "/headers" => text(StatusCode::OK, describe(&request)),
        "/" if request.method() == Method::GET && request.body().is_end_stream() => {
            text(StatusCode::OK, HELP)
        }
        _ => echo(request),
    }
}

fn asks_for_websocket(request: &Request<Incoming>) -> bool {
    request.headers().get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// The request's body, sent back while it arrives.
fn echo(request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(body.boxed());
    if let Some(kind) = head.headers.get(CONTENT_TYPE) {
        response.headers_mut().insert(CONTENT_TYPE, kind.clone());
    }
    response
}

/// One event at once, then one a second, until the client leaves or the process stops.
fn clock(stopping: Stopping) -> Response<Body> {
    let mut response = Response::new(StreamBody::new(ticks(stopping)).boxed());
    response.headers_mut().insert(CONTENT_TYPE, EVENT_STREAM);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

fn ticks(stopping: Stopping) -> impl Stream<Item = Result<Frame<Bytes>, hyper::Error>> {
    let mut timer = interval(TICK);
    timer.set_missed_tick_behavior(MissedTickBehavior::Skip);
    stream::unfold((timer, stopping, 1_u64), |(mut timer, mut stopping, id)| async move {
        tokio::select! {
            biased;
            () = stopping.asked() => return None,
            _ = timer.tick() => {}
        }
        let now = httpdate::fmt_http_date(SystemTime::now());
        let event = format!("id: {id}\nevent: tick\ndata: {now}\n\n");
        Some((Ok(Frame::data(Bytes::from(event))), (timer, stopping, id + 1)))
    })
}

/// The head of the request as it came in, a line each.
fn describe(request: &Request<Incoming>) -> String {
    let mut text = format!("{} {} {:?}\n", request.method(), request.uri(), request.version());
    for (name, value) in request.headers() {
        // Writing to a String cannot fail.
        writeln!(text, "{name}: {}", value.as_bytes().escape_ascii()).ok();
    }
    text
}

/// A short answer in plain text.
pub(crate) fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(text.into()).map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
}

/// No body at all.
pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}
