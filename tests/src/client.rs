//! HTTP, as a client of Roost speaks it.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{AUTHORIZATION, HeaderMap};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::sync::mpsc;

/// Any body that is sent.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A body that is all there.
pub fn body_of(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A response that has come in whole.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }

    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// A header as text; empty when it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A client of one host. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Api {
    base: String,
    credentials: Option<String>,
    client: Client<HttpConnector, Body>,
}

impl Api {
    /// A client of what listens on this port of loopback, that says who it is if `login` does.
    #[must_use]
    pub fn new(port: u16, login: Option<(&str, &str)>) -> Self {
        let credentials = login.map(|(user, password)| {
            format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
        });
        let base = format!("http://127.0.0.1:{port}");
        Self { base, credentials, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// A request to be filled in further.
    pub fn request(&self, method: &Method, path: &str) -> http::request::Builder {
        let builder = Request::builder().method(method).uri(format!("{}{path}", self.base));
        match &self.credentials {
            Some(credentials) if path.starts_with("/system/") || path.starts_with("/ui/") => {
                builder.header(AUTHORIZATION, credentials)
            }
            _ => builder,
        }
    }

    /// Sends a request; the response's body is still to come.
    ///
    /// # Errors
    /// When there is no response.
    pub async fn open(&self, request: Request<Body>) -> Result<Response<Incoming>, String> {
        let sent = tokio::time::timeout(super::PATIENCE, self.client.request(request)).await;
        sent.map_err(|_| "no response".to_owned())?.map_err(|error| format!("{error:?}"))
    }

    /// Sends a request and reads the whole response.
    ///
    /// # Errors
    /// When there is no response, or it breaks off.
    pub async fn try_send(&self, request: Request<Body>) -> Result<Answer, String> {
        let (head, body) = self.open(request).await?.into_parts();
        let body = tokio::time::timeout(super::PATIENCE, body.collect()).await;
        let body =
            body.map_err(|_| "the body has no end".to_owned())?.map_err(|error| format!("{error:?}"))?;
        Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
    }

    /// Sends a request and reads the whole response.
    ///
    /// # Panics
    /// When there is no response, or it breaks off.
    pub async fn send(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Answer {
        let request = self.request(&method, path).body(body_of(body)).unwrap();
        self.try_send(request).await.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// `GET`.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, "").await
    }

    /// `POST`.
    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.send(Method::POST, path, body).await
    }
}

/// A body that is sent piece by piece, and ends when the sender is dropped.
#[must_use]
pub fn body_in_pieces() -> (mpsc::Sender<Bytes>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    let pieces = stream::unfold(receiver, |mut receiver| async {
        let piece = receiver.recv().await?;
        Some((Ok(Frame::data(piece)), receiver))
    });
    (sender, StreamBody::new(pieces).boxed_unsync())
}

/// The next piece of a body, within [`PATIENCE`](crate::PATIENCE); nothing at its end.
///
/// # Errors
/// When the body breaks off.
///
/// # Panics
/// When nothing comes in time.
pub async fn next_piece(body: &mut Incoming) -> Result<Option<Bytes>, hyper::Error> {
    loop {
        let frame = tokio::time::timeout(crate::PATIENCE, body.frame()).await.expect("a piece of the body");
        match frame.transpose()? {
            None => return Ok(None),
            Some(frame) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}
