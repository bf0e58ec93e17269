//! A server that callbacks are sent to.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::PATIENCE;

/// How many callbacks, or pieces of one, are kept until the test looks at them.
const KEPT: usize = 256;

/// A server on loopback that takes every request and answers 200 when it has read it. Ends with the test.
#[derive(Debug)]
pub struct Receiver {
    port: u16,
    callbacks: mpsc::Receiver<Callback>,
}

/// A request that has begun to come in.
#[derive(Debug)]
pub struct Callback {
    /// The method.
    pub method: Method,
    /// The path and the query.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    body: mpsc::Receiver<Result<Bytes, hyper::Error>>,
}

impl Receiver {
    /// Listens on a free port.
    pub async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, callbacks) = mpsc::channel(KEPT);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let sender = sender.clone();
                let service = service_fn(move |request| take(request, sender.clone()));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { port, callbacks }
    }

    /// Where it takes callbacks.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The next callback, when its head is there.
    pub async fn next(&mut self) -> Callback {
        timeout(PATIENCE, self.callbacks.recv()).await.expect("a callback").unwrap()
    }

    /// Is there none that nobody has looked at?
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.callbacks.is_empty()
    }
}

impl Callback {
    /// The next piece of the body; nothing at its end.
    ///
    /// # Errors
    /// When the body breaks off.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        timeout(PATIENCE, self.body.recv()).await.expect("a piece of a callback").transpose()
    }

    /// The whole body.
    pub async fn bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.piece().await.unwrap() {
            bytes.extend_from_slice(&piece);
        }
        bytes
    }

    /// The whole body, as text.
    pub async fn text(mut self) -> String {
        String::from_utf8(self.bytes().await).unwrap()
    }

    /// A header as text; empty when it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn take(
    request: Request<Incoming>,
    to: mpsc::Sender<Callback>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (head, mut body) = request.into_parts();
    let (pieces, receiver) = mpsc::channel(KEPT);
    let callback =
        Callback { method: head.method, path: head.uri.to_string(), headers: head.headers, body: receiver };
    // The test may have ended, or seen enough.
    to.send(callback).await.ok();
    while let Some(frame) = body.frame().await {
        if let Some(piece) = frame.map(|frame| frame.into_data().ok()).transpose() {
            pieces.send(piece).await.ok();
        }
    }
    Ok(Response::new(Empty::new()))
}
