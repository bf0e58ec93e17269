//! When a replica may take requests.
//!
//! With a probe path in the annotations: when that path answers 2xx. Without: when port 8080 accepts a connection,
//! unless `/_/health` answers 503 there, which is how a watchdog says "not yet".
//!
//! A replica that is ready is asked on only where a path for that, `com.openfaas.ready.http.path`, is annotated: it can
//! say there that it takes no more for now. Whether it still lives is for [`super::liveness`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::function::protocol::{self, Protocol};
use crate::units;

/// The path at which a watchdog tells how it is.
const WATCHDOG_HEALTH: &str = "/_/health";

/// The shortest and the longest pause between two tries, unless a period is set. A cold start is a matter of
/// milliseconds, and a try that finds nobody costs microseconds.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// A pause is this part of the time that it has taken so far: so much later than it could a replica is found ready.
const LATE: u32 = 10;

/// The pause between two questions to a replica that was ready, where none is set.
const PERIOD: Duration = Duration::from_secs(2);

/// How many tries in a row have to fail before a replica that was ready is not, where nothing is set.
const FAILURES: u32 = 3;

/// An [`Answer`] that one task writes and another reads.
#[derive(Debug, Default)]
pub struct Watched(Mutex<Answer>);

impl Watched {
    /// The last answer.
    #[must_use]
    pub fn get(&self) -> Answer {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, answer: Answer) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }
}

/// How a replica shows that it is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The annotated path; `None` for the default behaviour.
    path: Option<String>,
    /// What is spoken there.
    protocol: Protocol,
    /// The pause before the first try.
    initial_delay: Duration,
    /// The pause between tries; `None` to begin fast and slow down.
    period: Option<Duration>,
    /// How long one try may take.
    timeout: Duration,
    /// How many answers in a row must be good.
    successes: u32,
    /// Whether it is asked on when it is ready.
    watched: bool,
    /// How many tries in a row have to fail then.
    failures: u32,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            path: None,
            protocol: Protocol::Http,
            initial_delay: Duration::ZERO,
            period: None,
            timeout: TRY_TIMEOUT,
            successes: 1,
            watched: false,
            failures: FAILURES,
        }
    }
}

/// How long one try may take, where nothing else is set.
pub(super) const TRY_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a connection may take to open, where no probe says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest pause before or between tries that can be asked for.
const LONGEST_SETTING: Duration = Duration::from_secs(3600);

/// What the last try found, for the text that says why a replica is not ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Answer {
    /// It is ready.
    Ready,
    /// Nothing accepted a connection.
    #[default]
    Silence,
    /// Something answered, but not in HTTP or not in time.
    NoAnswer,
    /// It answered with this status.
    Status(StatusCode),
}

impl Probe {
    /// Reads `com.openfaas.ready.http.*`, and where that is absent `com.openfaas.health.http.*`, in the spellings of
    /// old and new documentation.
    ///
    /// # Errors
    /// With the annotation's name when its value is not a path, a duration or a count.
    pub fn parse(settings: &BTreeMap<&str, &str>) -> Result<Self, String> {
        // One that is none is told of elsewhere.
        let protocol = protocol::of(settings).unwrap_or_default();
        let mut probe = Self { protocol, ..Self::default() };
        for kind in ["health", "ready"] {
            let setting = Setting::new(settings, kind);
            probe.path = setting.path()?.or(probe.path);
            probe.initial_delay = setting.initial_delay()?.unwrap_or(probe.initial_delay);
            probe.period = setting.period()?.or(probe.period);
            probe.timeout = setting.timeout()?.unwrap_or(probe.timeout);
            probe.successes = setting.count("successThreshold")?.unwrap_or(probe.successes);
        }
        let ready = Setting::new(settings, "ready");
        probe.watched = ready.path()?.is_some();
        probe.failures = ready.count("failureThreshold")?.unwrap_or(FAILURES);
        Ok(probe)
    }

    /// What is spoken to the replica, by this probe and by others.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// How long the first try is put off.
    #[must_use]
    pub fn initial_delay(&self) -> Duration {
        self.initial_delay
    }

    /// What is asked for, in words.
    #[must_use]
    pub fn path(&self) -> &str {
        self.path.as_deref().unwrap_or(WATCHDOG_HEALTH)
    }

    /// Resolves when the replica at `address` is ready; `last` tells meanwhile what the last try found. Has no
    /// deadline: whoever awaits it sets one.
    pub async fn ready(&self, address: SocketAddr, last: &Watched) {
        sleep(self.initial_delay).await;
        let began = Instant::now();
        let mut successes = 0;
        loop {
            last.set(self.try_once(address).await);
            successes = if last.get() == Answer::Ready { successes + 1 } else { 0 };
            if successes >= self.successes {
                return;
            }
            // Nothing tells from outside when a process begins to listen: asking again is all there is.
            sleep(self.period.unwrap_or_else(|| pause(began))).await;
        }
    }

    /// Resolves when the replica at `address`, which was ready, takes no more: it has said so, or failed too often in a
    /// row. Never, where it is not to be asked.
    pub async fn overloaded(&self, address: SocketAddr) {
        if !self.watched {
            return std::future::pending().await;
        }
        let mut failures = 0;
        while failures < self.failures {
            sleep(self.period.unwrap_or(PERIOD)).await;
            match self.try_once(address).await {
                Answer::Ready => failures = 0,
                Answer::Status(StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => return,
                Answer::Silence | Answer::NoAnswer | Answer::Status(_) => failures += 1,
            }
        }
    }

    /// Resolves when the replica at `address`, which took no more, is ready again.
    pub async fn recovered(&self, address: SocketAddr) {
        let mut successes = 0;
        while successes < self.successes {
            sleep(self.period.unwrap_or(PERIOD)).await;
            successes = if self.try_once(address).await == Answer::Ready { successes + 1 } else { 0 };
        }
    }

    async fn try_once(&self, address: SocketAddr) -> Answer {
        let Ok(Ok(stream)) = timeout(self.timeout, TcpStream::connect(address)).await else {
            return Answer::Silence;
        };
        let status =
            timeout(self.timeout, get(stream, address, self.protocol, self.path())).await.ok().flatten();
        match status {
            Some(status) if status.is_success() => Answer::Ready,
            Some(status @ StatusCode::SERVICE_UNAVAILABLE) => Answer::Status(status),
            // It listens and is no watchdog: whatever it said to a path that it does not know, it can be reached.
            _ if self.path.is_none() => Answer::Ready,
            Some(status) => Answer::Status(status),
            None => Answer::NoAnswer,
        }
    }
}

/// The annotations of one kind of probe: `com.openfaas.KIND.http.*`.
pub(super) struct Setting<'a> {
    settings: &'a BTreeMap<&'a str, &'a str>,
    kind: &'static str,
}

impl<'a> Setting<'a> {
    pub(super) fn new(settings: &'a BTreeMap<&'a str, &'a str>, kind: &'static str) -> Self {
        Self { settings, kind }
    }

    fn get(&self, key: &str) -> Option<(String, &'a str)> {
        let name = format!("com.openfaas.{}.http.{key}", self.kind);
        let value = self.settings.get(name.as_str())?.trim();
        Some((name, value))
    }

    pub(super) fn path(&self) -> Result<Option<String>, String> {
        let Some((name, path)) = self.get("path") else { return Ok(None) };
        if !path.starts_with('/') || path.parse::<http::uri::PathAndQuery>().is_err() {
            return Err(format!("{name}: {path:?}: expected a path that begins with '/'"));
        }
        Ok(Some(path.to_owned()))
    }

    pub(super) fn initial_delay(&self) -> Result<Option<Duration>, String> {
        self.duration(["initialDelaySeconds", "initialDelay"], true)
    }

    pub(super) fn period(&self) -> Result<Option<Duration>, String> {
        self.duration(["periodSeconds", "period"], false)
    }

    pub(super) fn timeout(&self) -> Result<Option<Duration>, String> {
        self.duration(["timeoutSeconds", "timeout"], false)
    }

    pub(super) fn count(&self, key: &str) -> Result<Option<u32>, String> {
        let Some((name, count)) = self.get(key) else { return Ok(None) };
        match count.parse() {
            Ok(count @ 1..=100) => Ok(Some(count)),
            _ => Err(format!("{name}: {count:?}: expected a count from 1 to 100")),
        }
    }

    fn duration(&self, keys: [&str; 2], zero: bool) -> Result<Option<Duration>, String> {
        let Some((name, value)) = keys.into_iter().find_map(|key| self.get(key)) else { return Ok(None) };
        let duration = units::duration(value).map_err(|why| format!("{name}: {value:?}: {why}"))?;
        if duration > LONGEST_SETTING || (duration.is_zero() && !zero) {
            return Err(format!("{name}: {value:?}: expected more than zero and at most an hour"));
        }
        Ok(Some(duration))
    }
}

/// Resolves when something at `address` accepts a connection.
pub async fn accepts(address: SocketAddr) {
    let began = Instant::now();
    while !matches!(timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await, Ok(Ok(_))) {
        sleep(pause(began)).await;
    }
}

/// The pause before the next try of a row that began then.
fn pause(began: Instant) -> Duration {
    (began.elapsed() / LATE).clamp(PAUSE.0, PAUSE.1)
}

/// The status that `path` answers with at `address`; `None` when nothing does.
pub(super) async fn ask(address: SocketAddr, protocol: Protocol, path: &str) -> Option<StatusCode> {
    get(TcpStream::connect(address).await.ok()?, address, protocol, path).await
}

/// The status that `path` answers with; `None` when what listens there does not speak HTTP.
async fn get(stream: TcpStream, address: SocketAddr, protocol: Protocol, path: &str) -> Option<StatusCode> {
    // Watchdogs leave requests of this agent out of their logs.
    let request =
        Request::get("/").header(header::USER_AGENT, concat!("kube-probe/roost-", env!("CARGO_PKG_VERSION")));
    let stream = TokioIo::new(stream);
    match protocol {
        Protocol::Http => {
            let (mut sender, connection) = http1::handshake(stream).await.ok()?;
            let request = request
                .uri(path)
                .header(header::HOST, address.to_string())
                .header(header::CONNECTION, "close")
                .body(Empty::<Bytes>::new())
                .ok()?;
            answered(sender.send_request(request), connection).await
        }
        Protocol::H2c => {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.ok()?;
            let request = request.uri(format!("http://{address}{path}")).body(Empty::<Bytes>::new()).ok()?;
            answered(sender.send_request(request), connection).await
        }
    }
}

/// The status of an answer.
async fn answered(
    answer: impl Future<Output = hyper::Result<Response<Incoming>>>,
    connection: impl Future<Output = hyper::Result<()>>,
) -> Option<StatusCode> {
    // The connection may end in the same moment as the answer arrives: only the answer counts, and it is an error
    // if the connection ended without one.
    let drive = async {
        if let Err(error) = connection.await {
            tracing::trace!(%error, "probe");
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        response = answer => response.ok().map(|r| r.status()),
        () = drive => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn probe(pairs: &[(&str, &str)]) -> Result<Probe, String> {
        Probe::parse(&pairs.iter().copied().collect())
    }

    /// Answers one connection after the other with the given statuses, and tells which paths were asked for.
    async fn server(statuses: &'static [u16]) -> (SocketAddr, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut paths = Vec::new();
            for status in statuses {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = vec![0; 4096];
                let n = stream.read(&mut head).await.unwrap();
                let text = String::from_utf8_lossy(&head[..n]).into_owned();
                paths.push(text.split(' ').nth(1).unwrap().to_owned());
                let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            paths
        });
        (address, task)
    }

    #[test]
    fn both_spellings_are_read_and_bad_values_are_named() {
        let new = probe(&[
            ("com.openfaas.ready.http.path", "/up"),
            ("com.openfaas.ready.http.periodSeconds", "1s"),
        ]);
        let old = probe(&[("com.openfaas.ready.http.path", "/up"), ("com.openfaas.ready.http.period", "1")]);
        assert_eq!(new, old);
        let health =
            probe(&[("com.openfaas.health.http.path", "/up"), ("com.openfaas.health.http.period", "1")]);
        assert_eq!(health, new.map(|new| Probe { watched: false, ..new }), "and is not asked on");
        for (key, value) in [
            ("path", "up"),
            ("path", "/a b"),
            ("timeoutSeconds", "soon"),
            ("timeoutSeconds", "0"),
            ("periodSeconds", "0"),
            ("initialDelaySeconds", "2h"),
            ("successThreshold", "0"),
            ("failureThreshold", "0"),
        ] {
            let name = format!("com.openfaas.ready.http.{key}");
            assert!(probe(&[(&name, value)]).unwrap_err().starts_with(&name), "{key}={value}");
        }
    }

    #[tokio::test]
    async fn an_annotated_path_must_answer_2xx() {
        let last = Watched::default();
        let (address, server) = server(&[503, 404, 204]).await;
        let probe = probe(&[("com.openfaas.ready.http.path", "/up")]).unwrap();
        timeout(DEADLINE, probe.ready(address, &last)).await.unwrap();
        assert_eq!(server.await.unwrap(), ["/up", "/up", "/up"]);
    }

    #[tokio::test]
    async fn a_replica_that_speaks_http2_alone_is_asked_in_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut statuses = [503, 204].into_iter();
            while let (Ok((stream, _)), Some(status)) = (listener.accept().await, statuses.next()) {
                let service = hyper::service::service_fn(move |request: Request<Incoming>| async move {
                    assert_eq!((request.uri().path(), request.version()), ("/up", http::Version::HTTP_2));
                    Response::builder().status(status).body(Empty::<Bytes>::new())
                });
                let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                // It is closed as soon as there is an answer.
                let (Ok(()) | Err(_)) = http.serve_connection(TokioIo::new(stream), service).await;
            }
        });
        let probe = probe(&[("com.openfaas.ready.http.path", "/up"), ("roost.protocol", "h2c")]).unwrap();
        timeout(DEADLINE, probe.ready(address, &Watched::default())).await.unwrap();
    }

    #[tokio::test]
    async fn a_watchdog_that_says_503_is_waited_for_and_a_plain_server_that_says_404_is_ready() {
        let last = Watched::default();
        let (address, watchdog) = server(&[503, 200]).await;
        timeout(DEADLINE, Probe::default().ready(address, &last)).await.unwrap();
        assert_eq!(watchdog.await.unwrap(), ["/_/health", "/_/health"]);
        let (address, plain) = server(&[404]).await;
        timeout(DEADLINE, Probe::default().ready(address, &last)).await.unwrap();
        assert_eq!(plain.await.unwrap(), ["/_/health"]);
    }

    #[tokio::test]
    async fn one_that_says_it_is_full_is_so_at_once_and_one_that_fails_when_it_goes_on_failing() {
        let probe = probe(&[
            ("com.openfaas.ready.http.path", "/up"),
            ("com.openfaas.ready.http.period", "1ms"),
            ("com.openfaas.ready.http.successThreshold", "2"),
        ])
        .unwrap();
        for statuses in [&[200, 429][..], &[500, 503], &[500, 404, 200, 500, 302, 500]] {
            let (address, asked) = server(statuses).await;
            timeout(DEADLINE, probe.overloaded(address)).await.unwrap();
            assert_eq!(asked.await.unwrap(), vec!["/up"; statuses.len()]);
        }
        let (address, asked) = server(&[429, 200, 503, 200, 204]).await;
        timeout(DEADLINE, probe.recovered(address)).await.unwrap();
        assert_eq!(asked.await.unwrap().len(), 5);
    }

    #[tokio::test]
    async fn one_without_a_path_for_it_is_not_asked_on() {
        let (address, asked) = server(&[429]).await;
        let health =
            probe(&[("com.openfaas.health.http.path", "/up"), ("com.openfaas.health.http.period", "1ms")]);
        for probe in [Probe::default(), health.unwrap()] {
            assert!(timeout(Duration::from_millis(20), probe.overloaded(address)).await.is_err());
        }
        assert!(!asked.is_finished());
        asked.abort();
    }

    #[test]
    fn pauses_are_a_part_of_the_time_that_it_takes() {
        for (passed, expected) in [(0, 1), (5, 1), (200, 20), (900, 90), (5_000, 100)] {
            let began = Instant::now().checked_sub(Duration::from_millis(passed)).unwrap();
            let pause = pause(began);
            let expected = Duration::from_millis(expected);
            assert!(pause >= expected && pause < expected + Duration::from_secs(1), "{passed}: {pause:?}");
        }
    }

    #[tokio::test]
    async fn nothing_is_ready_before_it_listens() {
        let reserved = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = reserved.local_addr().unwrap();
        drop(reserved);
        let (last, probe) = (Watched::default(), Probe::default());
        let ready = probe.ready(address, &last);
        tokio::pin!(ready);
        tokio::select! {
            () = &mut ready => panic!("ready before it listens"),
            () = sleep(Duration::from_millis(20)) => {}
        }
        assert_eq!(last.get(), Answer::Silence);
        let listener = TcpListener::bind(address).await.unwrap();
        let accept = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        timeout(DEADLINE, ready).await.unwrap();
        accept.abort();
    }
}
