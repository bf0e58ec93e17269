//! How an authority is spoken to over HTTPS.
//!
//! Owns the limits of a request: 30 seconds, and 1 MiB of answer.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Request;
use http_body_util::BodyExt;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use reqwest::redirect::Policy;

use crate::Error;

/// How long a request may take, to the end of its answer.
const LIMIT: Duration = Duration::from_secs(30);

/// The longest answer. A chain of certificates has some ten thousand bytes.
const MAX_ANSWER: usize = 1 << 20;

/// Asks an authority.
#[derive(Clone)]
pub(crate) struct Client(reqwest::Client);

impl Client {
    /// One that trusts whom the system trusts, or `ca` alone.
    pub(crate) fn new(ca: Option<&Path>) -> Result<Self, Error> {
        let mut builder = reqwest::Client::builder()
            .user_agent(roost_proxy::PRODUCT)
            .https_only(true)
            .redirect(Policy::none())
            .timeout(LIMIT)
            .pool_max_idle_per_host(1);
        if let Some(path) = ca {
            let pem = std::fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
            let roots = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|error| Error::Content { path: path.to_owned(), why: error.to_string() })?;
            builder = builder.tls_certs_only(roots);
        }
        let client = builder.build().map_err(|error| instant_acme::Error::Other(told(&error)))?;
        Ok(Self(client))
    }

    async fn ask(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, instant_acme::Error> {
        let failed = |error: &reqwest::Error| instant_acme::Error::Other(told(error));
        let (parts, body) = request.into_parts();
        let Ok(body) = body.collect().await;
        let request = reqwest::Request::try_from(Request::from_parts(parts, body.to_bytes()));
        let mut response =
            self.0.execute(request.map_err(|error| failed(&error))?).await.map_err(|error| failed(&error))?;
        let mut read = BytesMut::new();
        while let Some(piece) = response.chunk().await.map_err(|error| failed(&error))? {
            if read.len() + piece.len() > MAX_ANSWER {
                return Err(instant_acme::Error::Other(Box::new(io::Error::other("the answer is too long"))));
            }
            read.extend_from_slice(&piece);
        }
        let (parts, _) = http::Response::<reqwest::Body>::from(response).into_parts();
        Ok(BytesResponse { parts, body: Box::new(read.freeze()) })
    }
}

/// An error with its causes: what reqwest says itself is only that there was one.
fn told(error: &reqwest::Error) -> Box<io::Error> {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    Box::new(io::Error::other(text))
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        Box::pin(self.clone().ask(request))
    }
}
