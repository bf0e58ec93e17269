//! Callbacks: the answer of a queued call, on its way to where its caller wants it.
//!
//! Owns the HTTP client for this. A caller of a function chooses the URL, so it can make this host ask for anything that
//! this host reaches, but for replicas, which are called by their names alone; no credentials of the host are ever sent, no redirect is followed, and what comes back is looked at
//! for its status alone. An answer is read to its end even if nobody wants it: its function is not to be cut off by that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, HOST, TRAILER, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Url, redirect};
use roost_proxy::{BoxError, OwnBody, PRODUCT, ResponseBody};
use tokio::sync::mpsc;
use tracing::warn;

use super::invocation::{Answer, Invocation};
use super::spool::{Kept, Writer};
use crate::gateways::GATEWAY_PORT;
use crate::network::GATEWAY_NAMES;

const X_CALL_ID: HeaderName = HeaderName::from_static("x-call-id");
const X_DURATION_SECONDS: HeaderName = HeaderName::from_static("x-duration-seconds");
const X_FUNCTION_NAME: HeaderName = HeaderName::from_static("x-function-name");
const X_FUNCTION_STATUS: HeaderName = HeaderName::from_static("x-function-status");
const X_RETRY: HeaderName = HeaderName::from_static("x-retry");
const X_RETRY_MAX: HeaderName = HeaderName::from_static("x-retry-max");

/// How long the other side may take to accept the connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Headers of an answer that would say something else in a request.
const NOT_COPIED: [HeaderName; 4] = [HOST, CONTENT_LENGTH, EXPECT, TRAILER];

/// Is this the address of a replica? Calls get to it by the name of its function, or not at all: only there it is asked
/// who may.
pub(super) type IsReplica = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// Sends callbacks.
pub(super) struct Callbacks {
    /// Made for the first callback: it knows the authorities of the host, which takes memory.
    client: OnceLock<Client>,
    timeout: Duration,
    is_replica: IsReplica,
    /// Callbacks that nobody took, ever.
    failed: AtomicU64,
}

impl Callbacks {
    /// `timeout` is for a whole callback.
    pub(super) fn new(timeout: Duration, is_replica: IsReplica) -> Self {
        Self { client: OnceLock::new(), timeout, is_replica, failed: AtomicU64::new(0) }
    }

    /// Reads `X-Callback-Url` in a daemon that listens at `here`.
    pub(super) fn parse(&self, value: &HeaderValue, here: SocketAddr) -> Result<Url, String> {
        let url = parse(value, here)?;
        self.check(&url)?;
        Ok(url)
    }

    /// One was sent as often as may be, in vain.
    pub(super) fn count_failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    /// How many were.
    pub(super) fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// A name is looked at when its addresses are known: see [`Outside`].
    fn check(&self, url: &Url) -> Result<(), String> {
        // All spellings of an address are one by now.
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let Ok(address) = host.parse::<IpAddr>() else { return Ok(()) };
        let address = address.to_canonical();
        if !(self.is_replica)(address) {
            return Ok(());
        }
        let instead = format!("http://gateway:{GATEWAY_PORT}/function/NAME");
        Err(format!("{address} is the address of a function: expected its name, as in {instead}"))
    }

    /// Reads an answer to its end, sends it to the call's callback, if it has one, as it comes, and keeps it in `keep`.
    pub(super) async fn pass_on(
        &self,
        call: &Invocation,
        answer: &Answer,
        most: u32,
        body: ResponseBody,
        keep: Option<Tee>,
    ) -> Passed {
        let Some(callback) = &call.callback else {
            let (kept, whole) = relay(body, None, keep).await;
            return Passed { kept, whole, told: Ok(()) };
        };
        let (sender, pieces) = mpsc::channel(1);
        let relayed = Relayed { pieces, hint: body.size_hint() };
        let post = self.post(callback, headers(call, answer, most), reqwest::Body::wrap(relayed));
        let ((kept, whole), told) = tokio::join!(relay(body, Some(sender), keep), post);
        Passed { kept, whole, told }
    }

    /// Sends an answer that was kept, or one without a body, to the call's callback. Nothing to do if it has none.
    pub(super) async fn send(
        &self,
        call: &Invocation,
        answer: &Answer,
        most: u32,
        body: Option<OwnBody>,
    ) -> Result<(), String> {
        let Some(callback) = &call.callback else { return Ok(()) };
        let mut headers = headers(call, answer, most);
        let body = match body {
            Some(OwnBody::Whole(bytes)) => bytes.into(),
            Some(OwnBody::Stored(body)) => reqwest::Body::wrap(body),
            None => {
                // Said here because a body that is not there has no length otherwise, which some receivers refuse.
                headers.insert(CONTENT_LENGTH, 0.into());
                Bytes::new().into()
            }
        };
        self.post(callback, headers, body).await
    }

    async fn post(&self, callback: &str, headers: HeaderMap, body: reqwest::Body) -> Result<(), String> {
        let url: Url = callback.parse().map_err(|why| format!("{why}"))?;
        // Again: the network may be younger than the call.
        self.check(&url)?;
        let request = self.client()?.post(url).headers(headers).timeout(self.timeout).body(body);
        let answered = request.send().await.map_err(|error| told(&error.without_url()))?;
        if answered.status().is_success() {
            Ok(())
        } else {
            Err(format!("answered with {}", answered.status()))
        }
    }

    fn client(&self) -> Result<&Client, String> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let made = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .dns_resolver(Arc::new(Outside(Arc::clone(&self.is_replica))))
            .connect_timeout(CONNECT_LIMIT)
            .pool_max_idle_per_host(1)
            .build()
            .map_err(|error| told(&error))?;
        Ok(self.client.get_or_init(|| made))
    }
}

/// Finds what names stand for, but for replicas. It is asked for each connection, so a name that has become one is none.
struct Outside(IsReplica);

impl Resolve for Outside {
    fn resolve(&self, name: Name) -> Resolving {
        let is_replica = Arc::clone(&self.0);
        Box::pin(async move {
            // The port is the URL's in any case.
            let mut addresses: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            addresses.retain(|address| !is_replica(address.ip().to_canonical()));
            if addresses.is_empty() {
                return Err("the name has no address, or a function's".into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// An error with its causes.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

/// Where a callback goes, for the log: not the URL itself, as there may be a secret in it.
pub(super) fn place(callback: &str) -> String {
    callback.parse().ok().and_then(|url: Url| url.host_str().map(str::to_owned)).unwrap_or_default()
}

/// What the receiver is told: the headers of the function, and ours. A call is made `most` times at most.
fn headers(call: &Invocation, answer: &Answer, most: u32) -> HeaderMap {
    let mut headers = answer.headers();
    for name in &NOT_COPIED {
        headers.remove(name);
    }
    let value = |text: String| HeaderValue::from_str(&text).expect("digits and names are visible ASCII");
    headers.insert(X_CALL_ID, call.id_value());
    headers.insert(X_DURATION_SECONDS, value(format!("{:.6}", answer.seconds)));
    headers.insert(X_FUNCTION_STATUS, answer.status.into());
    headers.insert(X_FUNCTION_NAME, value(call.name.clone()));
    headers.insert(X_RETRY, answer.attempts.saturating_sub(1).into());
    headers.insert(X_RETRY_MAX, most.saturating_sub(1).into());
    headers.insert(USER_AGENT, HeaderValue::from_static(PRODUCT));
    headers
}

/// A piece of an answer. The last one is `None`: an answer that just stops was cut off.
type Piece = Result<Option<Bytes>, BoxError>;

/// Moves the bytes of an answer to whoever sends them on, and keeps them too. When nobody sends them (any more), it reads
/// on. Says what was kept, and whether the answer was whole.
async fn relay(
    mut body: ResponseBody,
    mut to: Option<mpsc::Sender<Piece>>,
    mut keep: Option<Tee>,
) -> (Option<Tee>, Result<(), BoxError>) {
    loop {
        let piece = match body.frame().await {
            None => Ok(None),
            Some(Err(error)) => Err(error),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => Ok(Some(data)),
                Err(_trailers) => continue,
            },
        };
        if let Ok(Some(data)) = &piece
            && let Some(tee) = keep.take()
        {
            keep = Some(tee.add(data).await);
        }
        let ended = match &piece {
            Ok(Some(_)) => None,
            Ok(None) => Some(Ok(())),
            Err(error) => Some(Err(error.to_string().into())),
        };
        if let Some(sender) = &to
            && sender.send(piece).await.is_err()
        {
            to = None;
        }
        if let Some(ended) = ended {
            return (keep, ended);
        }
    }
}

/// Where an answer is kept while it goes on.
pub(super) enum Tee {
    /// So far, up to so many bytes.
    Writing(Writer, u64),
    /// It is too large, or the disk does not take it.
    Lost,
}

impl Tee {
    async fn add(self, data: &[u8]) -> Self {
        let Self::Writing(mut writer, most) = self else { return Self::Lost };
        if writer.length() + data.len() as u64 > most {
            return Self::Lost;
        }
        match writer.write(data).await {
            Ok(()) => Self::Writing(writer, most),
            Err(error) => {
                warn!("an answer cannot be kept: {error}");
                Self::Lost
            }
        }
    }

    /// What is kept, if it is all there is.
    pub(super) async fn finish(self) -> Option<Kept> {
        let Self::Writing(writer, _) = self else { return None };
        match writer.finish().await {
            Ok(kept) => Some(kept),
            Err(error) => {
                warn!("an answer cannot be kept: {error}");
                None
            }
        }
    }
}

/// What came of an answer on its way.
pub(super) struct Passed {
    pub(super) kept: Option<Tee>,
    /// Was it whole?
    pub(super) whole: Result<(), BoxError>,
    /// Did the callback take it?
    pub(super) told: Result<(), String>,
}

/// The other end of [`relay`].
struct Relayed {
    pieces: mpsc::Receiver<Piece>,
    /// As long as the answer: many receivers want to know the length of a body.
    hint: SizeHint,
}

impl Body for Relayed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        // Without a last piece the call was cancelled: its callback must not look whole.
        let piece = ready!(self.pieces.poll_recv(cx)).unwrap_or_else(|| Err("the call was cut off".into()));
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)).transpose())
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

/// The names of the gateway are those of this daemon, which listens at `here`.
fn parse(value: &HeaderValue, here: SocketAddr) -> Result<Url, String> {
    let text = value.to_str().map_err(|_| "has characters that no URL has".to_owned())?;
    let mut url: Url = text.trim().parse().map_err(|why| format!("{why}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("expected http:// or https://, not {}:", url.scheme()));
    }
    let gateway = url.host_str().is_some_and(|host| GATEWAY_NAMES.split(' ').any(|name| name == host));
    if gateway && url.scheme() == "http" && url.port() == Some(GATEWAY_PORT) {
        let set = url.set_ip_host(reachable(here.ip())).and_then(|()| url.set_port(Some(here.port())));
        set.map_err(|()| "cannot be read".to_owned())?;
    }
    Ok(url)
}

/// The address at which this host reaches what listens on `ip`.
fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_called_back_is_whole_or_visibly_broken() {
        let relayed = |pieces: Vec<Piece>| async {
            let (sender, receiver) = mpsc::channel(8);
            for piece in pieces {
                sender.send(piece).await.unwrap();
            }
            drop(sender);
            Relayed { pieces: receiver, hint: SizeHint::new() }
                .collect()
                .await
                .map(http_body_util::Collected::to_bytes)
        };
        let piece = || Ok(Some(Bytes::from_static(b"piece")));
        assert_eq!(relayed(vec![piece(), piece(), Ok(None)]).await.unwrap(), "piecepiece");
        assert!(relayed(vec![piece(), Err("function".into())]).await.is_err());
        assert!(relayed(vec![piece()]).await.is_err(), "cancelled");

        let (sender, pieces) = mpsc::channel(8);
        let (kept, whole) = relay(ResponseBody::full("all"), Some(sender), None).await;
        assert!(kept.is_none() && whole.is_ok());
        let whole = Relayed { pieces, hint: SizeHint::new() }.collect().await.unwrap();
        assert_eq!(whole.to_bytes(), "all");
    }

    #[tokio::test]
    async fn no_callback_goes_to_the_address_of_a_replica() {
        // As `main` does. Another test may have been faster.
        rustls::crypto::ring::default_provider().install_default().ok();
        let is_replica: IsReplica = Arc::new(|address| match address {
            IpAddr::V4(address) => address.octets().starts_with(&[10, 63]) || address.is_loopback(),
            IpAddr::V6(address) => address.is_loopback(),
        });
        let callbacks = Callbacks::new(Duration::from_secs(1), Arc::clone(&is_replica));
        let here = "192.0.2.7:81".parse().unwrap();
        let parsed = |host: &str| callbacks.parse(&format!("http://{host}/x").parse().unwrap(), here);
        for host in [
            "10.63.0.9",
            "10.63.0.9:8080",
            "user@10.63.0.9",
            "10.63.9",
            "0x0a.077.0.9",
            "171900937",
            "10.63.0.9.",
            "%31%30.63.0.9",
            "[::ffff:10.63.0.9]",
            "[::ffff:a3f:9]:8080",
            "[::1]",
        ] {
            let why = parsed(host).unwrap_err();
            assert!(why.contains("is the address of a function"), "{host}: {why}");
        }
        for host in ["10.64.0.9", "[::ffff:10.64.0.9]", "[2001:db8::1]", "localhost", "gateway:8080"] {
            assert!(parsed(host).is_ok(), "{host}");
        }

        let resolve = |is_replica: IsReplica| Outside(is_replica).resolve("localhost".parse().unwrap());
        assert!(resolve(Arc::new(|_| false)).await.unwrap().count() > 0);
        assert!(resolve(is_replica).await.is_err(), "a name of replicas alone is none");
        let sent = callbacks.post("http://localhost:1/x", HeaderMap::new(), Bytes::new().into()).await;
        assert!(sent.unwrap_err().contains("or a function's"), "the client asks for no other addresses");
    }

    #[test]
    fn a_callback_goes_to_http_and_https_and_the_gateway_is_this_daemon() {
        let parsed = |text: &str, here: &str| {
            parse(&text.parse().unwrap(), here.parse().unwrap()).map(|url| url.to_string())
        };
        for (text, here, url) in [
            ("https://example.com/x?y=1", "127.0.0.1:80", "https://example.com/x?y=1"),
            (" http://192.0.2.1:9/a ", "127.0.0.1:80", "http://192.0.2.1:9/a"),
            ("http://gateway:8080/function/f?a", "192.0.2.7:81", "http://192.0.2.7:81/function/f?a"),
            ("http://gateway.openfaas:8080/f", "0.0.0.0:8080", "http://127.0.0.1:8080/f"),
            ("http://gateway.openfaas.svc.cluster.local:8080/f", "[::]:8081", "http://[::1]:8081/f"),
            ("http://gateway:9000/f", "127.0.0.1:80", "http://gateway:9000/f"),
            ("http://gateway.lan:8080/f", "127.0.0.1:80", "http://gateway.lan:8080/f"),
        ] {
            assert_eq!(parsed(text, here).as_deref(), Ok(url), "{text}");
        }
        for text in ["", "x", "/function/f", "ftp://host/x", "http://", "file:///etc/passwd", "http://a b/"] {
            assert!(parsed(text, "127.0.0.1:80").is_err(), "{text}");
        }
        assert!(
            parse(&HeaderValue::from_bytes(b"http://\xff/").unwrap(), "127.0.0.1:80".parse().unwrap())
                .is_err()
        );
    }
}
