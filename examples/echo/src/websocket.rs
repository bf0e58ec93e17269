//! The WebSocket side: the handshake, and the task that sends each message back.
//!
//! ```text
//! open ──a message──▶ open            (text and binary go back as they came, a Ping gets its Pong)
//! open ──Close from the client──▶ closed     (the same code goes back)
//! open ──stopping──▶ Close 1001 sent ──Close from the client──▶ closed
//! ```

use futures_util::{SinkExt, StreamExt};
use hyper::body::Incoming;
use hyper::header::SEC_WEBSOCKET_PROTOCOL;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::answer::{Body, empty, text};
use crate::{Stopping, log};

/// Bytes read at once. The library's 128 KiB for each connection is much for a small host.
const READ_BUFFER: usize = 8 * 1024;
/// The largest message that is sent back, in bytes.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// Answers the handshake; the conversation goes on in a task of its own.
pub(crate) fn accept(mut request: Request<Incoming>, stopping: Stopping) -> Response<Body> {
    let mut response = match create_response_with_body(&request, empty) {
        Ok(response) => response,
        Err(error) => return text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    };
    // A browser that offers sub-protocols gives up when none is chosen. Echo speaks them all.
    if let Some(first) = first_protocol(&request) {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, first);
    }
    drop(tokio::spawn(converse(hyper::upgrade::on(&mut request), stopping)));
    response
}

fn first_protocol(request: &Request<Incoming>) -> Option<hyper::header::HeaderValue> {
    let offered = request.headers().get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    offered.split(',').next()?.trim().parse().ok()
}

async fn converse(upgrade: OnUpgrade, stopping: Stopping) {
    let upgraded = match upgrade.await {
        Ok(upgraded) => TokioIo::new(upgraded),
        Err(error) => return log(format_args!("upgrade: {error}")),
    };
    let limits = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let socket = WebSocketStream::from_raw_socket(upgraded, Role::Server, Some(limits)).await;
    match echo(socket, stopping).await {
        Ok(messages) | Err((messages, Error::ConnectionClosed)) => {
            log(format_args!("websocket closed after {messages} messages"));
        }
        Err((messages, error)) => log(format_args!("websocket lost after {messages} messages: {error}")),
    }
}

/// Sends back what comes until the conversation is over; the number of messages either way.
async fn echo<S>(mut socket: WebSocketStream<S>, mut stopping: Stopping) -> Result<u64, (u64, Error)>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut messages = 0;
    let mut told = false;
    loop {
        let message = tokio::select! {
            message = socket.next() => message,
            () = stopping.asked(), if !told => {
                told = true;
                let frame = CloseFrame { code: CloseCode::Away, reason: "stopping".into() };
                socket.close(Some(frame)).await.map_err(|error| (messages, error))?;
                continue;
            }
        };
        match message {
            None => return Ok(messages),
            Some(Err(error)) => return Err((messages, error)),
            // After our Close nothing more may be sent; what still arrives is read to the peer's Close.
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) if !told => {
                messages += 1;
                socket.send(message).await.map_err(|error| (messages, error))?;
            }
            // Pongs and the answer to a Close are sent by the library itself.
            Some(Ok(_)) => {}
        }
    }
}
