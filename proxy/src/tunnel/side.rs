//! One side of a tunnel as the pump sees it: two halves that can be waited for without a buffer.
//!
//! Owns the difference between a socket, whose readiness the kernel tells, and a stream inside of something (TLS, or an
//! HTTP/2 connection), where only reading tells: of such a stream a few bytes are read ahead. Never looks at the bytes.

use std::fmt::{self, Debug};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, tcp};
use tokio_util::io::poll_read_buf;

/// How much is read ahead to learn whether there is something to read. A control frame fits.
const AHEAD: usize = 32;

/// Both directions of a byte stream.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Debug + Send + Unpin> Duplex for T {}

/// One side.
pub(super) enum Side<'a> {
    Socket(&'a mut TcpStream),
    /// Boxed, both halves: few tunnels have such a side, and the others do not pay for it.
    Inner(&'a mut dyn Duplex),
}

#[derive(Debug)]
pub(super) enum ReadHalf<'a> {
    Socket(tcp::ReadHalf<'a>),
    Inner(Box<ReadAhead<'a>>),
}

#[derive(Debug)]
pub(super) enum WriteHalf<'a> {
    Socket(tcp::WriteHalf<'a>),
    Inner(Box<InnerWrite<'a>>),
}

type InnerRead<'a> = tokio::io::ReadHalf<&'a mut (dyn Duplex + 'a)>;
type InnerWrite<'a> = tokio::io::WriteHalf<&'a mut (dyn Duplex + 'a)>;

pub(super) struct ReadAhead<'a> {
    inner: InnerRead<'a>,
    ahead: io::Cursor<[u8; AHEAD]>,
    /// How many bytes of `ahead` were read.
    length: usize,
    /// Found behind bytes that came before it.
    failed: Option<io::Error>,
}

impl<'a> Side<'a> {
    pub(super) fn split(self) -> (ReadHalf<'a>, WriteHalf<'a>) {
        match self {
            Self::Socket(socket) => {
                let (read, write) = socket.split();
                (ReadHalf::Socket(read), WriteHalf::Socket(write))
            }
            Self::Inner(stream) => {
                let (inner, write) = tokio::io::split(stream);
                let ahead = io::Cursor::new([0; AHEAD]);
                let read = ReadAhead { inner, ahead, length: 0, failed: None };
                (ReadHalf::Inner(Box::new(read)), WriteHalf::Inner(Box::new(write)))
            }
        }
    }
}

impl ReadHalf<'_> {
    /// Ready when there is something to read: bytes, the end or an error.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Socket(half) => half.as_ref().poll_read_ready(cx),
            Self::Inner(half) => half.poll_ahead(cx),
        }
    }

    /// The socket, if it is one and nothing else.
    pub(super) fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Socket(half) => Some(half.as_ref()),
            Self::Inner(_) => None,
        }
    }

    /// Reads what is there, without waiting.
    pub(super) fn try_read_buf<B: bytes::BufMut>(&mut self, buffer: &mut B) -> io::Result<usize> {
        match self {
            Self::Socket(half) => half.try_read_buf(buffer),
            Self::Inner(half) => {
                // Whoever waits next leaves a waker of its own.
                match poll_read_buf(Pin::new(&mut **half), &mut Context::from_waker(Waker::noop()), buffer) {
                    Poll::Ready(read) => read,
                    Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
                }
            }
        }
    }
}

impl AsyncRead for ReadHalf<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(half) => Pin::new(half).poll_read(cx, buffer),
            Self::Inner(half) => Pin::new(half).poll_read(cx, buffer),
        }
    }
}

impl ReadAhead<'_> {
    /// What was read ahead and not given away yet.
    fn held(&self) -> usize {
        self.length - usize::try_from(self.ahead.position()).unwrap_or(self.length)
    }

    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held() > 0 || self.failed.is_some() {
            return Poll::Ready(Ok(()));
        }
        self.ahead.set_position(0);
        self.length = 0;
        let mut window = ReadBuf::new(self.ahead.get_mut());
        let read = Pin::new(&mut self.inner).poll_read(cx, &mut window);
        self.length = window.filled().len();
        read
    }
}

impl AsyncRead for ReadAhead<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let given = this.held().min(buffer.remaining());
        if given == 0 {
            return match this.failed.take() {
                Some(error) => Poll::Ready(Err(error)),
                None => Pin::new(&mut this.inner).poll_read(cx, buffer),
            };
        }
        let from = this.length - this.held();
        buffer.put_slice(&this.ahead.get_ref()[from..from + given]);
        this.ahead.advance(given);
        // The rest of what has come with it.
        if this.held() == 0
            && buffer.remaining() > 0
            && let Poll::Ready(Err(error)) = Pin::new(&mut this.inner).poll_read(cx, buffer)
        {
            this.failed = Some(error);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WriteHalf<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Socket(half) => Pin::new(half).poll_write(cx, bytes),
            Self::Inner(half) => Pin::new(half).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(half) => Pin::new(half).poll_flush(cx),
            Self::Inner(half) => Pin::new(half).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(half) => Pin::new(half).poll_shutdown(cx),
            Self::Inner(half) => Pin::new(half).poll_shutdown(cx),
        }
    }
}

impl Debug for ReadAhead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadAhead").field("held", &self.held()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, BufStream, duplex};
    use tokio::time::timeout;

    use super::super::ends::Ends;
    use super::super::frames::{Frames, Sender};
    use super::super::keep::Origin;
    use super::super::pump::{self, Terms};
    use super::super::{Tally, Traffic};
    use super::*;

    #[tokio::test]
    async fn what_a_side_holds_back_is_sent_on_before_the_pump_waits() {
        let (mut client, of_client) = duplex(64);
        let (mut function, of_function) = duplex(64);
        // These write nothing before they are told to, or have kilobytes.
        let (mut of_client, mut of_function) = (BufStream::new(of_client), BufStream::new(of_function));
        let (replica, server) = (Ends::default(), Ends::default());
        let (traffic, tally) = (Traffic::default(), Tally::default());
        let terms = Terms {
            websocket: true,
            expires: None,
            limits: Arc::default(),
            traffic: &traffic,
            tally: &tally,
            replica: replica.listen(),
            server: server.listen(),
            kept: None,
        };
        let origins = [Sender::Client, Sender::Function].map(|sender| Origin::own(&[], Frames::of(sender)));
        let tunnel = pump::run(Side::Inner(&mut of_client), Side::Inner(&mut of_function), origins, terms);
        let talk = async {
            let mut heard = vec![0; 8];
            client.write_all(b"\x81\x82\0\0\0\0hi").await.unwrap();
            function.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, b"\x81\x82\0\0\0\0hi");
            // More than is read ahead, and more than there is room for on the way.
            let long = [&[0x82, 100][..], &[7; 100]].concat();
            let mut heard = vec![0; long.len()];
            tokio::try_join!(function.write_all(&long), client.read_exact(&mut heard)).unwrap();
            assert_eq!(heard, long);
            replica.pace(Duration::ZERO);
            let mut close = [0; 19];
            client.read_exact(&mut close).await.unwrap();
            assert_eq!(&close[4..], b"service restart");
            drop((client, function));
        };
        let both = timeout(Duration::from_secs(20), async { tokio::join!(tunnel, talk) }).await;
        let (ended, ()) = both.expect("the pump moves on");
        let ended = ended.expect("nobody leaves it");
        assert_eq!((ended.to_client, ended.messages), (102, Some([1, 1])));
    }
}
