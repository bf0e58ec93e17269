//! WebSockets of an echoing function: opened, spoken on, and watched for their end.

use futures_util::{SinkExt, StreamExt};
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::{Host, PATIENCE};

/// An open WebSocket.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    headers: HeaderMap,
}

impl Socket {
    /// Opens one.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn open(host: &Host, path: &str) -> Self {
        Self::try_open(host, path, &[]).await.unwrap_or_else(|status| panic!("{path}: refused with {status}"))
    }

    /// Opens one with these headers in its handshake.
    ///
    /// # Errors
    /// With the status it is refused with.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn try_open(host: &Host, path: &str, headers: &[(&str, &str)]) -> Result<Self, StatusCode> {
        let mut request = format!("ws://127.0.0.1:{}{path}", host.port()).into_client_request().unwrap();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.headers_mut().append(name, HeaderValue::from_str(value).unwrap());
        }
        let opened = tokio::time::timeout(PATIENCE, connect_async(request)).await;
        match opened.unwrap_or_else(|_| panic!("{path}: no answer to the handshake")) {
            Ok((stream, response)) => Ok(Self { stream, headers: response.headers().clone() }),
            Err(Error::Http(response)) => Err(response.status()),
            Err(error) => panic!("{path}: {error}"),
        }
    }

    /// A header of the answer to its handshake; empty when it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The replica of the echo example that it leads to.
    #[must_use]
    pub fn replica(&self) -> &str {
        self.header("x-replica")
    }

    /// Sends a text.
    ///
    /// # Panics
    /// When the connection has ended.
    pub async fn says(&mut self, text: &str) {
        self.stream.send(Message::text(text)).await.unwrap();
    }

    /// Sends a text, which has to come back before anything else does.
    ///
    /// # Panics
    /// When it does not.
    pub async fn echoes(&mut self, text: &str) {
        self.says(text).await;
        assert_eq!(self.next().await.unwrap().unwrap(), Message::text(text));
    }

    /// What comes next; nothing when it has ended.
    ///
    /// # Panics
    /// When nothing comes in time.
    pub async fn next(&mut self) -> Option<Result<Message, Error>> {
        tokio::time::timeout(PATIENCE, self.stream.next()).await.expect("a message, or the end")
    }

    /// Waits for the Close of the other side, and returns its code and reason.
    ///
    /// # Panics
    /// When anything else comes.
    pub async fn closed(&mut self) -> (u16, String) {
        match self.next().await {
            Some(Ok(Message::Close(Some(frame)))) => (frame.code.into(), frame.reason.to_string()),
            other => panic!("no Close came, but {other:?}"),
        }
    }

    /// Sends a text as often as it comes back whole, until the other side sends a Close, and returns its code.
    ///
    /// # Panics
    /// When anything else comes.
    pub async fn echoes_until_closed(&mut self, text: &str) -> u16 {
        loop {
            // Behind a Close nothing can be sent, and it is yet to be read.
            self.stream.send(Message::text(text)).await.ok();
            match self.next().await {
                Some(Ok(Message::Text(back))) => assert!(back.as_str() == text, "{} bytes", back.len()),
                Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
                other => panic!("no Close came, but {other:?}"),
            }
        }
    }

    /// Closes it and waits until the other side has answered.
    ///
    /// # Panics
    /// When it was closed already, or has no end.
    pub async fn leave(mut self) {
        self.stream.close(None).await.unwrap();
        while let Some(message) = self.next().await {
            assert!(matches!(message, Ok(Message::Close(_))), "{message:?}");
        }
    }
}
