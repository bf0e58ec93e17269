//! What a client sends behind the head of a request: a body, or after an upgrade whatever it likes.
//!
//! Owns the difference between the versions of HTTP here, so that nobody else has to know it.

use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use tokio::sync::oneshot;

use crate::client::ClientSocket;
use crate::http1::server::Reader;

/// The body of a client's request.
#[derive(Debug)]
pub struct ClientBody(Kind);

#[derive(Debug)]
enum Kind {
    Empty,
    /// There is none, and the connection may be had when it is no longer HTTP.
    Upgrade(Upgrade),
    Http1(Reader),
    Http2(Incoming),
}

/// Why a body of a client broke off.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientBodyError {
    /// It is not what HTTP/1 lets a body be.
    #[error("the body is malformed")]
    Malformed(#[source] Box<dyn StdError + Send + Sync>),
    /// The connection ended before it.
    #[error("the connection ended within the body")]
    Closed(#[source] io::Error),
    /// It ended before its length, or went on behind it.
    #[error("the body is not as long as its head says")]
    Length,
    /// The stream ended before it.
    #[error("the stream ended within the body")]
    Http2(#[source] hyper::Error),
}

/// A connection of a client that is going to be no longer HTTP.
#[derive(Debug)]
pub(crate) enum Upgrade {
    /// All of it, and what was read of it behind the head.
    Http1(oneshot::Receiver<(ClientSocket, Bytes)>),
    /// One stream of it.
    Http2(OnUpgrade),
}

/// One that no longer is.
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once")]
pub(crate) enum UpgradedClient {
    Http1(ClientSocket, Bytes),
    Http2(Upgraded),
}

impl ClientBody {
    pub(crate) fn empty() -> Self {
        Self(Kind::Empty)
    }

    pub(crate) fn http1(reader: Reader) -> Self {
        Self(Kind::Http1(reader))
    }

    pub(crate) fn http2(body: Incoming) -> Self {
        Self(Kind::Http2(body))
    }

    pub(crate) fn upgrade(upgrade: Upgrade) -> Self {
        Self(Kind::Upgrade(upgrade))
    }

    /// The connection, if it was said that it may be had.
    pub(crate) fn into_upgrade(self) -> Result<Upgrade, Self> {
        match self.0 {
            Kind::Upgrade(upgrade) => Ok(upgrade),
            other => Err(Self(other)),
        }
    }
}

impl Upgrade {
    /// Resolves once the answer to the request for it was written.
    pub(crate) async fn upgraded(self) -> Result<UpgradedClient, ClientBodyError> {
        match self {
            Self::Http1(connection) => match connection.await {
                Ok((socket, ahead)) => Ok(UpgradedClient::Http1(socket, ahead)),
                Err(_) => Err(ClientBodyError::Closed(io::ErrorKind::ConnectionAborted.into())),
            },
            Self::Http2(stream) => stream.await.map(UpgradedClient::Http2).map_err(ClientBodyError::Http2),
        }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = ClientBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientBodyError>>> {
        match &mut self.get_mut().0 {
            Kind::Empty | Kind::Upgrade(_) => Poll::Ready(None),
            Kind::Http1(reader) => reader.poll_frame(cx),
            Kind::Http2(body) => Pin::new(body).poll_frame(cx).map_err(ClientBodyError::Http2),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty | Kind::Upgrade(_) => true,
            Kind::Http1(reader) => reader.left() == Some(0),
            Kind::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty | Kind::Upgrade(_) => SizeHint::with_exact(0),
            Kind::Http1(reader) => reader.left().map_or_else(SizeHint::default, SizeHint::with_exact),
            Kind::Http2(body) => body.size_hint(),
        }
    }
}
