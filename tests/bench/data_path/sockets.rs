//! WebSockets as bytes: clients that cost little, and the same for each proxy.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::peers::Peer;

/// Opens a WebSocket through `peer`.
pub(crate) async fn open(peer: &Peer) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", peer.port)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let handshake = format!(
        "GET {}ws HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        Peer::PATH
    );
    stream.write_all(handshake.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut head).await.unwrap(), 0, "{}: {head:?}", peer.name);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{}: {head}", peer.name);
    stream
}

/// A binary message of so many bytes, as a client sends it, and how long its echo is.
pub(crate) fn message(length: u8) -> (Vec<u8>, usize) {
    assert!(length < 126, "a longer one has another header");
    let mut frame = vec![0x82, 0x80 | length, 1, 2, 3, 4];
    frame.extend((0..length).map(|n| n ^ (n % 4 + 1)));
    (frame, usize::from(length) + 2)
}
