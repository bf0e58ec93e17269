//! The socket of a connection: all of one, or a stream of an HTTP/2 connection.
//!
//! Owns the choice, and what HTTP had to say about it until now.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::client::BareSocket;
use crate::client_body::{ClientBodyError, UpgradedClient};
use crate::extended::{Asked, Extended};
use crate::lanes::Seat;
use crate::stream::Stream;

/// A client's end of a WebSocket.
#[derive(Debug)]
pub(super) enum Socket {
    Connection(BareSocket),
    Http2(Box<TokioIo<Upgraded>>, #[expect(dead_code, reason = "held")] Option<Arc<Extended>>),
    /// A connection that an earlier process has opened.
    Resumed(TcpStream, #[expect(dead_code, reason = "held")] Option<Seat>),
    /// There is none: its client may come back.
    Lost,
}

impl Socket {
    /// The socket, and what was read behind the handshake. It is there once the 101 was written.
    pub(super) async fn upgraded(asked: Asked) -> Result<(Self, Bytes), ClientBodyError> {
        let Asked { upgrade, extended } = asked;
        Ok(match upgrade.upgraded().await? {
            UpgradedClient::Http1(socket, ahead) => {
                let socket = socket.into_bare();
                socket.hold();
                (Self::Connection(socket), ahead)
            }
            UpgradedClient::Http2(stream) => {
                (Self::Http2(Box::new(TokioIo::new(stream)), extended), Bytes::new())
            }
        })
    }

    /// Is it a socket and nothing else, so that another process can have it?
    pub(super) fn is_plain(&mut self) -> bool {
        match self {
            Self::Connection(socket) => matches!(socket.stream(), Stream::Plain(_)),
            Self::Http2(..) | Self::Lost => false,
            Self::Resumed(..) => true,
        }
    }

    /// A copy of the socket, if it is that and nothing else.
    pub(super) fn copy(&mut self) -> Option<io::Result<OwnedFd>> {
        let socket: &TcpStream = match self {
            Self::Connection(socket) => match socket.stream() {
                Stream::Plain(socket) => socket,
                Stream::Tls(_) => return None,
            },
            Self::Http2(..) | Self::Lost => return None,
            Self::Resumed(socket, _) => socket,
        };
        Some(socket.as_fd().try_clone_to_owned())
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Connection(socket) => Pin::new(socket.stream()).poll_read(cx, into),
            Self::Http2(stream, _) => Pin::new(stream).poll_read(cx, into),
            Self::Resumed(socket, _) => Pin::new(socket).poll_read(cx, into),
            Self::Lost => Poll::Ready(Ok(())),
        }
    }

    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Connection(socket) => Pin::new(socket.stream()).poll_write_vectored(cx, slices),
            Self::Http2(stream, _) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Resumed(socket, _) => Pin::new(socket).poll_write_vectored(cx, slices),
            Self::Lost => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Writes what can be written at once, for somebody who is not to be woken when more can: only to a plain socket.
    pub(super) fn try_write(&mut self, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let socket: &TcpStream = match self {
            Self::Connection(socket) => match socket.stream() {
                Stream::Plain(socket) => socket,
                Stream::Tls(_) => return Poll::Pending,
            },
            Self::Http2(..) | Self::Lost => return Poll::Pending,
            Self::Resumed(socket, _) => socket,
        };
        match socket.try_write_vectored(slices) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            written => Poll::Ready(written),
        }
    }

    /// Has what was written on its way. A plain socket needs nothing for it.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Connection(socket) => Pin::new(socket.stream()).poll_flush(cx),
            Self::Http2(stream, _) => Pin::new(stream).poll_flush(cx),
            Self::Resumed(socket, _) => Pin::new(socket).poll_flush(cx),
            Self::Lost => Poll::Ready(Ok(())),
        }
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Connection(socket) => Pin::new(socket.stream()).poll_shutdown(cx),
            Self::Http2(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Self::Resumed(socket, _) => Pin::new(socket).poll_shutdown(cx),
            Self::Lost => Poll::Ready(Ok(())),
        }
    }
}
