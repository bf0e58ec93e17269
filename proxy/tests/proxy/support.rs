//! A proxy to talk to, and both ends of its wires.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use roost_proxy::function::FunctionKey;
use roost_proxy::{
    Answering, BadToken, Claims, Deferred, Denied, Endpoint, Error, Fallback, Guard, Intake, Judgement,
    ResponseBody, Routes, Server, Settings, Soon, Timeouts, Upstream, UpstreamLimits, Verification,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long anything may take before a test gives up. Never waited for when all is well.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Fails the test if `future` takes for ever.
#[track_caller]
pub(crate) fn within<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let place = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(DEADLINE, future).await {
            Ok(output) => output,
            Err(_) => panic!("nothing happened, waited for at {place}"),
        }
    }
}

/// Lets in who says the word, or bears a token of the form `CLAIM=TEXT~CLAIM=TEXT`, which counts for so many milliseconds as
/// its claim `for` says. Nobody is a replica.
struct Word {
    /// How many tokens were looked at.
    verified: Arc<AtomicUsize>,
}

impl Guard for Word {
    fn is_replica(&self, _: IpAddr) -> bool {
        false
    }

    fn authenticate<'a>(&'a self, headers: &'a http::HeaderMap, _: IpAddr) -> Judgement<'a> {
        let said = headers.get("authorization").is_some_and(|word| word == WORD);
        Box::pin(std::future::ready(if said { Ok(()) } else { Err(Denied::Credentials) }))
    }

    fn user(&self, _: &http::HeaderMap) -> Option<String> {
        Some(WHO.to_owned())
    }

    fn claims<'a>(&'a self, token: &'a str) -> Verification<'a> {
        self.verified.fetch_add(1, Ordering::SeqCst);
        let pairs = token.split('~').map(|pair| pair.split_once('='));
        let claims = pairs.map(|pair| pair.map(|(claim, text)| (claim.to_owned(), text.to_owned())));
        let claims = claims.collect::<Option<Claims>>().ok_or(BadToken::Untrusted).map(|claims| {
            let counts_for = claims.get("for").map(|text| Duration::from_millis(text.parse().unwrap()));
            match counts_for {
                Some(time) => claims.counting_until(SystemTime::now() + time),
                None => claims,
            }
        });
        Box::pin(std::future::ready(claims))
    }
}

/// What the guard of a proxy lets in.
pub(crate) const WORD: &str = "Basic sesame";

/// Who says it.
pub(crate) const WHO: &str = "ali baba";

/// Takes calls and tells their clients what it took. Knows one call that can be cancelled.
struct Teller;

impl Intake for Teller {
    fn accept(&self, call: Deferred) -> Answering<'_> {
        let Deferred { function, name, call_id, request, .. } = call;
        let header =
            |header: &str| request.headers().get(header).map(|value| value.to_str().unwrap().to_owned());
        let forwarded = header("x-forwarded-for").unwrap_or_default();
        assert!(header("authorization").is_none_or(|value| value.starts_with("Bearer ")));
        assert!(header("connection").is_none() && header("x-hop").is_none() && header("te").is_none());
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let text = format!(
            "{function} as {name}: {method} {uri} from {forwarded}, call {}",
            call_id.to_str().unwrap()
        );
        let mut response = http::Response::new(ResponseBody::full(text));
        *response.status_mut() = http::StatusCode::ACCEPTED;
        Box::pin(std::future::ready(response))
    }

    fn functions_of<'a>(&'a self, id: &'a str) -> Soon<'a, Result<Vec<FunctionKey>, Error>> {
        let known = if id == "known" {
            ["f", "g"].map(|name| FunctionKey::from_route(name).unwrap()).into()
        } else {
            Vec::new()
        };
        Box::pin(std::future::ready(Ok(known)))
    }

    fn cancel<'a>(&'a self, id: &'a str, functions: Vec<FunctionKey>) -> Soon<'a, Result<bool, Error>> {
        let found = id == "known" && functions.iter().any(|function| function.name.as_str() == "f");
        Box::pin(std::future::ready(Ok(found)))
    }

    fn result<'a>(
        &'a self,
        id: &'a str,
        functions: Vec<FunctionKey>,
    ) -> Soon<'a, Result<Option<http::Response<ResponseBody>>, Error>> {
        let found = id == "known" && functions.iter().any(|function| function.name.as_str() == "f");
        let response = found.then(|| http::Response::new(ResponseBody::full("the result")));
        Box::pin(std::future::ready(Ok(response)))
    }

    fn answered(&self, _: &http::Method, _: http::StatusCode, _: Duration) {}
}

/// A running proxy.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    pub(crate) routes: Routes,
    pub(crate) server: Server,
    /// How many tokens were looked at.
    pub(crate) verified: Arc<AtomicUsize>,
}

impl Proxy {
    pub(crate) async fn start() -> Self {
        Self::with(Settings::default()).await
    }

    /// On the test's own thread, with its clock.
    pub(crate) async fn on_this_thread() -> Self {
        Self::on_this_thread_with(Settings::default()).await
    }

    pub(crate) async fn on_this_thread_with(settings: Settings) -> Self {
        Self::with_all(Settings { lanes: 0, ..settings }).await
    }

    /// On two lanes, whatever the settings say.
    pub(crate) async fn with(settings: Settings) -> Self {
        Self::with_all(Settings { lanes: 2, ..settings }).await
    }

    async fn with_all(settings: Settings) -> Self {
        let routes = Routes::new();
        // Says what it saw, so that tests can see what reached it.
        let fallback: Fallback = Arc::new(|request, peer| {
            Box::pin(async move {
                assert!(request.uri().path() != "/panic", "asked to");
                http::Response::new(ResponseBody::full(format!("fallback {} {}", request.uri(), peer.ip())))
            })
        });
        let verified = Arc::new(AtomicUsize::new(0));
        let guard = Arc::new(Word { verified: Arc::clone(&verified) });
        let server = Server::new(settings, routes.clone(), fallback, guard, Arc::new(Teller));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = server.clone();
        tokio::spawn(async move { accepting.serve(listener).await });
        Self { address, routes, server, verified }
    }

    /// A function `name` at `functions`.
    pub(crate) fn function(&self, name: &str, functions: &[&Function]) -> Arc<Upstream> {
        self.function_with(name, functions, Timeouts::default())
    }

    pub(crate) fn function_with(
        &self,
        name: &str,
        functions: &[&Function],
        timeouts: Timeouts,
    ) -> Arc<Upstream> {
        let limits = UpstreamLimits { timeouts, ..UpstreamLimits::default() };
        let upstream = Upstream::new(FunctionKey::from_route(name).unwrap(), limits);
        self.routes.insert(Arc::clone(&upstream));
        if !functions.is_empty() {
            upstream.publish(functions.iter().map(|function| Arc::clone(&function.endpoint)).collect());
        }
        upstream
    }

    pub(crate) async fn connect(&self) -> Wire {
        Wire::new(TcpStream::connect(self.address).await.unwrap())
    }

    /// One request on a connection of its own.
    pub(crate) async fn ask(&self, request: &str) -> Wire {
        let mut wire = self.connect().await;
        wire.send(request).await;
        wire
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: roost\r\n\r\n")).await.answer().await
    }
}

/// One replica, by hand.
pub(crate) struct Function {
    pub(crate) endpoint: Arc<Endpoint>,
    listener: TcpListener,
}

impl Function {
    pub(crate) async fn start() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let id = format!("f-{}", NEXT.fetch_add(1, Ordering::Relaxed)).parse().unwrap();
        Self { endpoint: Endpoint::new(id, listener.local_addr().unwrap()), listener }
    }

    /// The next connection of the proxy.
    pub(crate) async fn accept(&self) -> Wire {
        Wire::new(within(self.listener.accept()).await.unwrap().0)
    }

    /// The same, whenever it comes.
    pub(crate) async fn accept_later(&self) -> Wire {
        Wire::new(self.listener.accept().await.unwrap().0)
    }

    /// Refuses connections from now on.
    pub(crate) fn die(self) -> Arc<Endpoint> {
        self.endpoint
    }

    /// Answers requests until the test ends, keeping connections open. Counts connections and requests.
    pub(crate) fn serve(self, answer: &'static str) -> (Arc<Endpoint>, Arc<[AtomicUsize; 2]>) {
        let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let (endpoint, counted) = (Arc::clone(&self.endpoint), Arc::clone(&counts));
        tokio::spawn(async move {
            loop {
                let mut wire = Wire::new(self.listener.accept().await.unwrap().0);
                counted[0].fetch_add(1, Ordering::SeqCst);
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    while let Some(head) = wire.try_head().await {
                        counted[1].fetch_add(1, Ordering::SeqCst);
                        if let Some(length) = head.value("content-length") {
                            wire.bytes(length.parse().unwrap()).await;
                        }
                        wire.send(answer).await;
                    }
                });
            }
        });
        (endpoint, counts)
    }
}

/// One end of a connection.
pub(crate) struct Wire<S = TcpStream> {
    pub(crate) stream: S,
    read: Vec<u8>,
}

/// The first line and the headers of a message, in the order of the wire, names in lower case.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: Head,
    pub(crate) body: String,
}

impl Head {
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let value = values.next();
        assert!(values.next().is_none(), "{name} twice in {self:?}");
        value
    }

    pub(crate) fn status(&self) -> u16 {
        self.line.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// The headers as sorted lines, without those named.
    pub(crate) fn lines_but(&self, names: &[&str]) -> Vec<String> {
        let mut lines: Vec<_> = self
            .headers
            .iter()
            .filter(|(name, _)| !names.contains(&name.as_str()))
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        lines.sort();
        lines
    }
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self { stream, read: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within(self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    async fn more(&mut self) -> io::Result<bool> {
        Ok(within(self.stream.read_buf(&mut self.read)).await? > 0)
    }

    /// The next head; `None` if the other end has closed instead.
    pub(crate) async fn try_head(&mut self) -> Option<Head> {
        loop {
            if let Some(end) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                let text = String::from_utf8(self.read.drain(..end + 4).collect()).unwrap();
                let mut lines = text.trim_end().split("\r\n").map(str::to_owned);
                let line = lines.next().unwrap();
                let headers = lines
                    .map(|line| {
                        let (name, value) = line.split_once(':').unwrap();
                        (name.to_ascii_lowercase(), value.trim().to_owned())
                    })
                    .collect();
                return Some(Head { line, headers });
            }
            if !self.more().await.unwrap_or(false) {
                return None;
            }
        }
    }

    pub(crate) async fn head(&mut self) -> Head {
        self.try_head().await.expect("closed before a head")
    }

    pub(crate) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count {
            assert!(self.more().await.unwrap(), "closed after {:?}", String::from_utf8_lossy(&self.read));
        }
        self.read.drain(..count).collect()
    }

    pub(crate) async fn text(&mut self, count: usize) -> String {
        String::from_utf8(self.bytes(count).await).unwrap()
    }

    pub(crate) async fn expect(&mut self, text: &str) {
        assert_eq!(self.text(text.len()).await, text);
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.windows(2).position(|window| window == b"\r\n") {
                let line = self.read.drain(..end + 2).take(end).collect();
                return Some(String::from_utf8(line).unwrap());
            }
            if !self.more().await.unwrap_or(false) {
                return None;
            }
        }
    }

    /// The next chunk of a chunked body, empty for the last; `None` if the body broke off.
    pub(crate) async fn chunk(&mut self) -> Option<String> {
        let size = usize::from_str_radix(&self.line().await?, 16).unwrap();
        if size == 0 {
            return Some(String::new());
        }
        let text = self.text(size).await;
        self.expect("\r\n").await;
        Some(text)
    }

    /// The next answer with its body, of known length, chunked or none.
    pub(crate) async fn answer(&mut self) -> Answer {
        let head = self.head().await;
        let mut body = String::new();
        if head.value("transfer-encoding") == Some("chunked") {
            loop {
                let chunk = self.chunk().await.expect("the body broke off");
                if chunk.is_empty() {
                    break;
                }
                body += &chunk;
            }
            self.expect("\r\n").await;
        } else if let Some(length) = head.value("content-length") {
            body = self.text(length.parse().unwrap()).await;
        }
        Answer { head, body }
    }

    /// Waits for the other end to close, and gives what came before.
    pub(crate) async fn closed(&mut self) -> Vec<u8> {
        while matches!(self.more().await, Ok(true)) {}
        std::mem::take(&mut self.read)
    }

    /// Reads until what was read ends so: how much that was.
    pub(crate) async fn ended_with(&mut self, end: &[u8]) -> usize {
        while !self.read.ends_with(end) {
            assert!(self.more().await.unwrap(), "closed");
        }
        std::mem::take(&mut self.read).len()
    }

    /// Waits for the end of the other end's writing, which must not be a reset.
    pub(crate) async fn ended(&mut self) -> Vec<u8> {
        while self.more().await.expect("reset") {}
        std::mem::take(&mut self.read)
    }
}

/// Waits until `holds` says so. For what happens just behind the last byte of an answer.
#[track_caller]
pub(crate) fn until(holds: impl Fn() -> bool) -> impl Future<Output = ()> {
    within(async move {
        while !holds() {
            tokio::task::yield_now().await;
        }
    })
}

/// A complete answer with `body`.
pub(crate) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

pub(crate) const GET: &str = "GET /function/f HTTP/1.1\r\nhost: roost\r\n\r\n";

pub(crate) const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/x\r\ntransfer-encoding: chunked\r\n\r\n";
