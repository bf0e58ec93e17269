//! The life of a request, from its head to the head of its answer.
//!
//! Owns the order of things: identify, admit, route, claim, forward, finish. Each step is one call into the file that
//! owns it. Never touches a socket.

use std::future::{Future, pending};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderValue, LOCATION, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::time::{Sleep, sleep};

use crate::access_log::Record;
use crate::body::{FunctionBody, IdleTimer, ResponseBody};
use crate::call::{Call, CallIds};
use crate::error::Error;
use crate::forward::{self, Answer};
use crate::headers;
use crate::path::{self, FunctionPath, Target};
use crate::route::{Routes, split};
use crate::tunnel::{Tunnel, Tunnels};
use crate::upstream::{Claim, Timeouts, Upstream};

/// Answers everything that is not under `/function/`.
pub type Fallback = Arc<
    dyn Fn(Request<Incoming>, SocketAddr) -> Pin<Box<dyn Future<Output = Response<ResponseBody>> + Send>>
        + Send
        + Sync,
>;

/// Answers requests.
pub(crate) struct Handler {
    pub(crate) ids: CallIds,
    pub(crate) routes: Routes,
    pub(crate) fallback: Fallback,
    pub(crate) tunnels: Tunnels,
}

impl Handler {
    /// Answers one request of `peer`.
    pub(crate) async fn handle(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> Response<ResponseBody> {
        match path::read(request.uri().path()) {
            _ if request.method() == Method::CONNECT => status(StatusCode::METHOD_NOT_ALLOWED),
            Target::Redirect(path) => redirect(&path, request.uri().query()),
            Target::Other => (self.fallback)(request, peer).await,
            Target::Function(_) if !is_admitted(request.method()) => status(StatusCode::METHOD_NOT_ALLOWED),
            Target::Function(path) => {
                let call = self.ids.identify(request.headers());
                let Some(upstream) = self.routes.find(path.segment()) else {
                    return refuse(&unknown(path.segment()), &call, false);
                };
                let record = Record::begin(&upstream, request.method(), request.uri().path(), peer, &call.id);
                let uri = function_uri(&path, request.uri().query());
                drop(path);
                self.invoke(upstream, request, uri, call, peer, record).await
            }
        }
    }

    /// Takes a request to a function, and its answer to the point where only bytes are left to move.
    async fn invoke(
        &self,
        upstream: Arc<Upstream>,
        request: Request<Incoming>,
        uri: Option<Uri>,
        call: Call,
        peer: SocketAddr,
        mut record: Record,
    ) -> Response<ResponseBody> {
        let Some(uri) = uri else {
            record.status = StatusCode::BAD_REQUEST.as_u16();
            return status(StatusCode::BAD_REQUEST);
        };
        let asked_with = request.headers().get(CONTENT_TYPE).cloned();
        let (outbound, upgrade) = prepare(request, uri, &call, peer);
        let timeouts = upstream.limits().timeouts;
        let answered = match upstream.acquire().await {
            Ok(claim) => answer(claim, outbound, &timeouts).await,
            Err(error) => Err(error),
        };
        match answered {
            Ok((answer, timer)) => self.finish(answer, timer, &call, asked_with, upgrade, &timeouts, record),
            Err(error) => {
                record.status = error.status(upgrade.is_some()).as_u16();
                refuse(&error, &call, upgrade.is_some())
            }
        }
    }

    /// Gives the answer to the client, and what hangs on its end to its body or its tunnel.
    #[expect(clippy::too_many_arguments, reason = "each is one end that is tied here")]
    fn finish(
        &self,
        Answer { mut response, connection, exchange }: Answer,
        timer: Option<Pin<Box<Sleep>>>,
        call: &Call,
        asked_with: Option<HeaderValue>,
        upgrade: Option<OnUpgrade>,
        timeouts: &Timeouts,
        mut record: Record,
    ) -> Response<ResponseBody> {
        let status = response.status();
        record.status = status.as_u16();
        record.answered_by(exchange.claim().endpoint().id());
        let has_body = !response.body().is_end_stream();
        headers::to_client(status, response.headers_mut(), call, asked_with, has_body);
        // Each side has its own version, which is for hyper to know.
        *response.version_mut() = Version::HTTP_11;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            let Some(client) = upgrade else {
                let claim = exchange.claim();
                let error = Error::NoAnswer {
                    function: claim.upstream().key().clone(),
                    replica: claim.endpoint().id().clone(),
                    what: "switched to another protocol unasked",
                };
                record.status = error.status(false).as_u16();
                return refuse(&error, call, false);
            };
            let function = hyper::upgrade::on(&mut response);
            let limit = timeouts.tunnel_idle;
            self.tunnels.open(Tunnel { client, function, connection, exchange, limit, record });
            return response.map(|_| ResponseBody::empty());
        }
        let idle = IdleTimer::new(timeouts.idle, timer);
        response
            .map(|body| ResponseBody::function(FunctionBody::new(body, connection, exchange, idle, record)))
    }
}

fn is_admitted(method: &Method) -> bool {
    matches!(
        *method,
        Method::POST
            | Method::PUT
            | Method::PATCH
            | Method::DELETE
            | Method::GET
            | Method::OPTIONS
            | Method::HEAD
    )
}

/// The path and query as the function sees them. `None` if they make no URL, which those of a URL always do.
fn function_uri(path: &FunctionPath<'_>, query: Option<&str>) -> Option<Uri> {
    let rest = path.rest();
    let text = match query {
        Some(query) => {
            let mut text = String::with_capacity(rest.len() + 1 + query.len());
            text.push_str(rest);
            text.push('?');
            text.push_str(query);
            text
        }
        None => rest.to_owned(),
    };
    PathAndQuery::from_maybe_shared(bytes::Bytes::from(text)).ok().map(Uri::from)
}

/// Makes the client's request the one for the function; with the client's side of the tunnel if it asks for one.
fn prepare(
    mut request: Request<Incoming>,
    uri: Uri,
    call: &Call,
    peer: SocketAddr,
) -> (Request<Incoming>, Option<OnUpgrade>) {
    let on_upgrade = hyper::upgrade::on(&mut request);
    let (mut parts, body) = request.into_parts();
    let upgrade = headers::wants_upgrade(&parts);
    headers::to_function(&mut parts, call, peer, upgrade);
    if !body.is_end_stream() && body.size_hint().exact().is_none() {
        // Said here because for some methods hyper would rather drop a body of unknown length.
        parts.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    parts.uri = uri;
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    (Request::from_parts(parts, body), upgrade.then_some(on_upgrade))
}

/// Waits for the head of the answer, within the request limit. The timer is given on: the body needs one too.
async fn answer(
    claim: Claim,
    request: Request<Incoming>,
    timeouts: &Timeouts,
) -> Result<(Answer, Option<Pin<Box<Sleep>>>), Error> {
    let upstream = Arc::clone(claim.upstream());
    let mut timer = timeouts.request.map(|limit| Box::pin(sleep(limit)));
    let expired = async {
        match &mut timer {
            Some(timer) => timer.as_mut().await,
            None => pending().await,
        }
    };
    tokio::select! {
        biased;
        answer = forward::send(claim, request, timeouts) => Ok((answer?, timer)),
        () = expired => {
            let limit = timeouts.request.unwrap_or(Duration::ZERO);
            Err(Error::RequestTimeout { function: upstream.key().clone(), limit })
        }
    }
}

fn unknown(segment: &str) -> Error {
    let (name, namespace) = split(segment);
    Error::UnknownFunction { name: format!("{name}.{namespace}") }
}

fn refuse(error: &Error, call: &Call, tunnel: bool) -> Response<ResponseBody> {
    let mut response = error.response(tunnel);
    let status = response.status();
    headers::to_client(status, response.headers_mut(), call, None, true);
    response
}

fn status(status: StatusCode) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = status;
    response
}

fn redirect(path: &str, query: Option<&str>) -> Response<ResponseBody> {
    let location = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    match HeaderValue::from_str(&location) {
        Ok(location) => {
            let mut response = status(StatusCode::MOVED_PERMANENTLY);
            response.headers_mut().insert(LOCATION, location);
            response
        }
        // A URL may hold bytes that a header may not.
        Err(_) => status(StatusCode::BAD_REQUEST),
    }
}
