//! The listener for Prometheus: `/metrics` and `/healthz`, for whoever reaches it.
//!
//! Owns the answers. Connections, their limits and their end are those of the proxy's server, without any function: a
//! client that hangs holds one of many connections for a while, and nothing else.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use roost_proxy::function::FunctionKey;
use roost_proxy::{
    Answering, Deferred, Denied, Error, Fallback, Guard, Intake, Judgement, ResponseBody, Routes, Server,
    Settings, Soon,
};

use super::Collector;

/// Clients at once; more wait in the backlog.
const MAX_CONNECTIONS: usize = 256;

/// How long a client may be connected without asking, and how long it may take to ask. Short, so that clients which hang
/// make room soon; one that scrapes now and then connects anew.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a client may leave its page unread.
const STALL: Duration = Duration::from_secs(10);

/// The largest request head, in bytes.
const MAX_HEAD: usize = 16 << 10;

/// What the page is, to Prometheus.
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// A server of what `collector` gathers.
#[must_use]
pub fn server(collector: Collector) -> Server {
    let settings = Settings {
        max_connections: MAX_CONNECTIONS,
        header_timeout: PATIENCE,
        keep_alive: PATIENCE,
        stall_timeout: STALL,
        max_header_bytes: MAX_HEAD,
        ..Settings::default()
    };
    Server::new(settings, Routes::new(), answers(collector), Arc::new(Nobody), Arc::new(Nobody))
}

fn answers(collector: Collector) -> Fallback {
    Arc::new(move |request, _peer| {
        let collector = collector.clone();
        Box::pin(async move { answer(&request, &collector).await })
    })
}

async fn answer<B>(request: &Request<B>, collector: &Collector) -> Response<ResponseBody> {
    let readable = matches!(*request.method(), Method::GET | Method::HEAD);
    match request.uri().path() {
        "/metrics" | "/healthz" if !readable => text(StatusCode::METHOD_NOT_ALLOWED, String::new()),
        "/metrics" => {
            let mut response = text(StatusCode::OK, collector.page().await);
            response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
            response
        }
        "/healthz" => text(StatusCode::OK, "OK".to_owned()),
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n".to_owned()),
    }
}

fn text(status: StatusCode, text: String) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::full(text));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// There is no function here to be guarded, or to be called later.
struct Nobody;

impl Intake for Nobody {
    fn accept(&self, _call: Deferred) -> Answering<'_> {
        Box::pin(std::future::ready(text(StatusCode::NOT_FOUND, "404 page not found\n".to_owned())))
    }

    fn functions_of<'a>(&'a self, _id: &'a str) -> Soon<'a, Result<Vec<FunctionKey>, Error>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn cancel<'a>(&'a self, _id: &'a str, _functions: Vec<FunctionKey>) -> Soon<'a, Result<bool, Error>> {
        Box::pin(std::future::ready(Ok(false)))
    }

    fn result<'a>(
        &'a self,
        _id: &'a str,
        _functions: Vec<FunctionKey>,
    ) -> Soon<'a, Result<Option<Response<ResponseBody>>, Error>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn answered(&self, _method: &Method, _status: StatusCode, _took: Duration) {}
}

impl Guard for Nobody {
    fn is_replica(&self, _address: IpAddr) -> bool {
        false
    }

    fn authenticate<'a>(&'a self, _headers: &'a HeaderMap, _peer: IpAddr) -> Judgement<'a> {
        Box::pin(std::future::ready(Err(Denied::Nobody)))
    }
}
