//! What a connection is told that may not be.
//!
//! Owns its last moments. Reads no request: it takes no more of this host than the answer.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;

use super::counts::Limit;

/// How long, and for how many bytes, the client's request is read and forgotten. Closing a socket with unread bytes in it
/// resets the connection, and the reset may overtake the answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 64 << 10;

/// Tells a client that it has too many connections, and ends this one.
pub(crate) async fn turn_away(stream: TcpStream) {
    match timeout(LINGER, tell(stream)).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => debug!(%error, "a client that was turned away did not hear why"),
    }
}

async fn tell(mut stream: TcpStream) -> std::io::Result<()> {
    let text = Limit::ClientConnections.says();
    let answer = format!(
        "HTTP/1.1 429 Too Many Requests\r\ncontent-type: text/plain; charset=utf-8\r\nx-content-type-options: nosniff\r\n\
         x-openfaas-internal: proxy\r\nretry-after: 5\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{text}\n",
        text.len() + 1
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(LINGER_BYTES), &mut tokio::io::sink()).await?;
    Ok(())
}
