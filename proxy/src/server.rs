//! Listeners in, requests out: accept loops, one task a connection, the limits of a connection, the graceful end.
//!
//! Owns the tasks. A panic in one ends that connection and no more. Never looks into a request.
//!
//! ```text
//!   serving ──shutdown()──► draining: requests finish, tunnels are closed one by one ──► stopped
//!                              │                                                          ▲
//!                              └──deadline: cut everything────────────────────────────────┘
//! ```

use std::convert::Infallible;
use std::error::Error as StdError;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::access::Guard;
use crate::access_log::AccessLog;
use crate::affinity::{AffinityKey, Cookies};
use crate::bearer::TokenPlaces;
use crate::body::ResponseBody;
use crate::call::CallIds;
use crate::caller::Caller;
use crate::challenges::Challenges;
use crate::client::{ClientSocket, FILES_EACH, Limits, Requests};
use crate::client_body::{ClientBody, Upgrade};
use crate::compress::Compressor;
use crate::express::{Express, Origin};
use crate::extended;
use crate::handler::{Fallback, Handler};
use crate::http1::server::{Ended, Service as _};
use crate::http1::{self, DEFAULT_HEADERS};
use crate::intake::Intake;
use crate::lanes::{Lanes, Seat};
use crate::limits::{ClientLimits, Gate, Limit, turn_away};
use crate::route::Routes;
use crate::stream::Stream;
use crate::tcp;
use crate::tls::{Secure, Tls};
use crate::tunnel::Tunnels;
use crate::tunnel::keep::{DescriptorStore, Inherited, Keep, KeptFigures};
use crate::websocket::event::Identity;
use crate::websocket::{self, Bequest, Held};

/// How long to wait after `accept` failed for want of descriptors or memory. There is no event for "some are free".
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long tasks that were told to end at once may take to.
const CUT_GRACE: Duration = Duration::from_secs(5);

/// How long after the one tunnel the next is closed when the server ends, if the deadline leaves the time: so fast their
/// clients may come back.
const TUNNEL_PACE: Duration = Duration::from_millis(5);

/// Requests that one HTTP/2 connection may have open.
const MAX_HTTP2_STREAMS: u32 = 256;

/// How a server treats its clients.
#[derive(Debug, Clone)]
pub struct Settings {
    /// From the first byte of a request to the end of its head.
    pub header_timeout: Duration,
    /// How long a connection may be open without a request.
    pub keep_alive: Duration,
    /// How long a client may leave what we send unread.
    pub stall_timeout: Duration,
    /// How long a connection is silent until the kernel asks whether there still is a client. `None`: it never does.
    pub tcp_keepalive: Option<Duration>,
    /// The largest request head, in bytes.
    pub max_header_bytes: usize,
    /// How many headers a request of HTTP/1 may have.
    pub max_headers: usize,
    /// What each client may do.
    pub clients: ClientLimits,
    /// The secret of the cookies by which clients come back to their replicas: they do so for as long as it stays the same.
    pub affinity_key: AffinityKey,
    /// Connections and tunnels open at once; more wait in the backlog. One that is held for a function takes a half: it has
    /// no connection to a replica beside it.
    pub max_connections: usize,
    /// How many threads of their own connections are served on, each by one of them from its first byte to its last.
    /// With 0 they are served where [`Server::serve`] runs.
    pub lanes: usize,
    /// Where each request and each tunnel is told of.
    pub access_log: AccessLog,
    /// Is each request to a function a span in a trace, a new one if the client has none?
    pub spans: bool,
    /// What is answered to authorities for certificates.
    pub challenges: Challenges,
    /// Where the connections are that this host holds for functions.
    pub held: Held,
    /// Where requests may bear their tokens.
    pub token_places: TokenPlaces,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(75),
            stall_timeout: Duration::from_secs(300),
            tcp_keepalive: Some(Duration::from_secs(60)),
            max_header_bytes: 1 << 20,
            max_headers: DEFAULT_HEADERS,
            clients: ClientLimits::default(),
            affinity_key: AffinityKey::random(),
            max_connections: 65_536,
            lanes: 0,
            access_log: AccessLog::default(),
            spans: false,
            challenges: Challenges::default(),
            held: Held::default(),
            token_places: TokenPlaces::default(),
        }
    }
}

/// How a shutdown went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections and tunnels that had not ended by the deadline.
    pub cut: usize,
}

/// The proxy's listeners and connections. Clones share them.
#[derive(Clone)]
pub struct Server(Arc<Shared>);

struct Shared {
    settings: Settings,
    handler: Arc<Handler>,
    http2: http2::Builder<Tracked>,
    lanes: Option<Lanes>,
    permits: Arc<Semaphore>,
    tracker: TaskTracker,
    /// One of the two below was said: connections look at this first, which costs nothing.
    ending: AtomicBool,
    /// Accept no more, finish what is open.
    stop: CancellationToken,
    /// End now.
    cut: CancellationToken,
}

impl Server {
    /// A server for the functions of `routes`: `fallback` answers every other path, `guard` judges the callers of
    /// functions that are not open, and `intake` takes calls that are to be made later.
    #[must_use]
    pub fn new(
        settings: Settings,
        routes: Routes,
        fallback: Fallback,
        guard: Arc<dyn Guard>,
        intake: Arc<dyn Intake>,
    ) -> Self {
        let (tracker, stop, cut) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let (ids, tunnels) = (CallIds::default(), Tunnels::default());
        let (log, spans, compressor) = (settings.access_log.clone(), settings.spans, Compressor::default());
        let gate = Gate::new(&settings.clients);
        let cookies = Cookies::new(settings.affinity_key.clone());
        let challenges = settings.challenges.clone();
        let caller = Caller::new(routes.clone()).watched(log.clone(), spans);
        let websockets =
            websocket::Shared::new(&settings.held, caller, Arc::clone(&guard), Arc::clone(gate.users()));
        let token_places = settings.token_places.clone();
        Self(Arc::new(Shared {
            handler: Arc::new(Handler {
                ids,
                routes,
                fallback,
                guard,
                token_places,
                intake,
                cookies,
                tunnels,
                websockets,
                log,
                spans,
                challenges,
                compressor,
                gate,
            }),
            http2: http2(&settings, &tracker),
            lanes: NonZeroUsize::new(settings.lanes).and_then(lanes),
            permits: Arc::new(Semaphore::new(places(settings.max_connections))),
            settings,
            tracker,
            ending: AtomicBool::new(false),
            stop,
            cut,
        }))
    }

    /// Accepts connections until [`shutdown`](Self::shutdown). May run for several listeners at once.
    pub async fn serve(&self, listener: TcpListener) {
        self.accept_from(listener, None).await;
    }

    /// Does the same for clients that speak TLS.
    pub async fn serve_tls(&self, listener: TcpListener, tls: Tls) {
        self.accept_from(listener, Some(tls)).await;
    }

    async fn accept_from(&self, listener: TcpListener, tls: Option<Tls>) {
        let shared = &self.0;
        if let Some(after) = shared.settings.tcp_keepalive {
            tcp::keep_alive(&listener, after);
        }
        loop {
            // The permit first: a connection that cannot be served stays in the backlog.
            let accepted = tokio::select! {
                biased;
                () = shared.stop.cancelled() => return,
                accepted = accept(&listener, &shared.permits) => accepted,
            };
            match accepted {
                Ok((stream, peer, permit)) => {
                    self.take(stream, peer, permit, tls.clone());
                }
                Err(error) if is_of_one_connection(&error) => {
                    debug!(%error, "a connection ended before it began");
                }
                Err(error) => {
                    warn!(%error, "cannot accept connections");
                    tokio::select! {
                        () = shared.stop.cancelled() => return,
                        () = sleep(ACCEPT_PAUSE) => {}
                    }
                }
            }
        }
    }

    /// Serves a connection where it belongs.
    fn take(&self, stream: TcpStream, peer: SocketAddr, permit: OwnedSemaphorePermit, tls: Option<Tls>) {
        let shared = Arc::clone(&self.0);
        match tls {
            None => self.spawn(stream, peer, move |stream, seat| {
                plain_connection(shared, stream, peer, permit, seat)
            }),
            Some(tls) => self.spawn(stream, peer, move |stream, seat| {
                secure_connection(shared, stream, tls, peer, permit, seat)
            }),
        }
    }

    fn spawn<F>(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        serve: impl FnOnce(TcpStream, Option<Seat>) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let Some(lanes) = &self.0.lanes else {
            self.0.tracker.spawn(serve(stream, None));
            return;
        };
        let (lane, seat) = lanes.seat();
        let served = async move {
            // What its socket has to tell is for that thread from now on.
            match stream.into_std().and_then(TcpStream::from_std) {
                Ok(stream) => serve(stream, Some(seat)).await,
                Err(error) => warn!(%peer, %error, "a connection cannot be served"),
            }
        };
        self.0.tracker.spawn_on(served, lane);
    }

    /// Accepts no more connections, lets requests finish for up to `deadline`, then cuts the rest.
    ///
    /// Tunnels have no end of their own to wait for: they are closed meanwhile as
    /// [`Endpoint::end_tunnels`](crate::Endpoint::end_tunnels) does it, the last of them early enough to be heard out.
    pub async fn shutdown(&self, deadline: Duration) -> Drained {
        self.end(deadline, true).await
    }

    /// The same, but for tunnels that are [kept](Self::keep): they go on until [`leave`](Self::leave).
    pub async fn hand_over(&self, deadline: Duration) -> Drained {
        self.end(deadline, false).await
    }

    async fn end(&self, deadline: Duration, all: bool) -> Drained {
        let shared = &self.0;
        let (tunnels, websockets) = (&shared.handler.tunnels, &shared.handler.websockets);
        shared.ending.store(true, Ordering::Release);
        websockets.close();
        shared.stop.cancel();
        shared.tracker.close();
        let pace = TUNNEL_PACE.saturating_mul(u32::try_from(tunnels.len()).unwrap_or(u32::MAX));
        let pace_held = TUNNEL_PACE.saturating_mul(u32::try_from(websockets.len()).unwrap_or(u32::MAX));
        // Where they are left to the next process, that is the last thing that happens.
        let all_held = all || !websockets.keeps();
        if !all_held {
            websockets.hand_over();
        }
        tunnels.end(pace.min(deadline / 2), all);
        // In this order: a request that is finishing may yet become a tunnel.
        let ended = async {
            let held = async {
                if all_held {
                    websockets.end(pace_held.min(deadline / 2)).await;
                }
            };
            tokio::join!(shared.tracker.wait(), held);
            tunnels.ended(all).await;
        };
        if timeout(deadline, ended).await.is_ok() {
            return Drained { cut: 0 };
        }
        let held = if all_held { websockets.len() } else { 0 };
        let cut = if all { self.open() } else { shared.tracker.len() + tunnels.ending() + held };
        shared.cut.cancel();
        tunnels.cut(all);
        if all_held {
            websockets.cut();
        }
        let held = async {
            if all_held {
                websockets.ended().await;
            }
        };
        let ended = async { tokio::join!(shared.tracker.wait(), tunnels.ended(all), held) };
        if timeout(CUT_GRACE, ended).await.is_err() {
            warn!(left = self.open(), "connections do not end");
        }
        Drained { cut }
    }

    /// How many connections and tunnels may be open at once.
    #[must_use]
    pub fn max_connections(&self) -> usize {
        self.0.settings.max_connections
    }

    /// How often each limit of this server turned something away.
    #[must_use]
    pub fn limited(&self) -> [(Limit, u64); Limit::OF_SERVER.len()] {
        self.0.handler.gate.reached()
    }

    /// What became of tunnels that outlive a process; nothing where none do.
    #[must_use]
    pub fn kept(&self) -> KeptFigures {
        self.0.handler.tunnels.kept()
    }

    /// Keeps tunnels in `keep` from now on, for a process that comes after this one. For once, before it serves.
    pub fn keep(&self, keep: Arc<Keep>) {
        self.0.handler.tunnels.keep(keep);
    }

    /// Goes on with the tunnels of an earlier process, each as soon as its function has the replica again.
    pub fn resume(&self, inherited: Inherited) {
        let handler = &self.0.handler;
        handler.tunnels.resume(inherited, &handler.routes);
    }

    /// Keeps the connections that are held here beyond the end of this process, in `store`. For once, before it serves.
    pub fn keep_held(&self, store: Arc<dyn DescriptorStore>) {
        self.0.handler.websockets.keep(store);
    }

    /// Goes on with what an earlier process has kept of groups. Before it serves.
    pub fn resume_groups(&self, bequest: &mut Bequest) {
        self.0.handler.websockets.resume_groups(bequest);
    }

    /// Goes on with the connections that an earlier process held, each as soon as its function is known again.
    pub async fn resume_held(&self, bequest: Bequest) {
        let handler = &self.0.handler;
        let seat = || {
            let lanes = self.0.lanes.as_ref()?;
            let (lane, seat) = lanes.seat();
            Some((lane.clone(), seat))
        };
        handler.websockets.resume(bequest, &handler.routes, seat).await;
    }

    /// How many connections of earlier processes went on here, and how many did not.
    #[must_use]
    pub fn resumed(&self) -> [u64; 2] {
        self.0.handler.websockets.resumed()
    }

    /// Tells functions of the end of connections that ended with an earlier process, and have not
    /// [gone on](Self::resume_held).
    pub fn lost(&self, connections: Vec<Identity>) {
        let handler = &self.0.handler;
        handler.websockets.lost(connections, &handler.routes);
    }

    /// Leaves the tunnels that are kept where they are: not a byte moves any more. After
    /// [`hand_over`](Self::hand_over), when nothing is left to be waited for.
    pub async fn leave(&self) {
        let tunnels = &self.0.handler.tunnels;
        self.0.handler.websockets.leave().await;
        tunnels.leave();
        if timeout(CUT_GRACE, tunnels.ended(true)).await.is_err() {
            warn!(left = tunnels.len(), "tunnels that were being closed do not end");
        }
    }

    /// Tasks that serve connections and tunnels now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.0.tracker.len() + self.0.handler.tunnels.len() + self.0.handler.websockets.len()
    }
}

/// Lanes of their own for connections, if threads can be had.
fn lanes(count: NonZeroUsize) -> Option<Lanes> {
    Lanes::start(count).inspect_err(|error| warn!(%error, "connections are served among all other work")).ok()
}

/// HTTP/2 (agreed upon in TLS, or known beforehand), with our limits.
fn http2(settings: &Settings, tracker: &TaskTracker) -> http2::Builder<Tracked> {
    let mut http2 = http2::Builder::new(Tracked(tracker.clone()));
    http2
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_HTTP2_STREAMS)
        .enable_connect_protocol()
        .max_header_list_size(u32::try_from(settings.max_header_bytes).unwrap_or(u32::MAX));
    http2
}

/// For the files that so many connections take.
fn places(connections: usize) -> usize {
    connections.saturating_mul(FILES_EACH as usize).min(Semaphore::MAX_PERMITS)
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_many_owned(FILES_EACH).await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, peer, permit))
}

/// Did one client fail, as opposed to this host?
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::NotConnected
    )
}

/// Shakes hands, and serves the connection then.
async fn secure_connection(
    shared: Arc<Shared>,
    stream: TcpStream,
    tls: Tls,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
    seat: Option<Seat>,
) {
    // Nothing can be said to one that is turned away: that would be for a handshake to begin with.
    let Ok(place) = shared.handler.gate.enter(peer.ip()) else { return };
    let requests = Requests::new(permit, seat, place);
    // Boxed: it is large, and over soon.
    let handshake = Box::pin(timeout(shared.settings.header_timeout, tls.accept(stream)));
    let shaken = tokio::select! {
        biased;
        () = shared.stop.cancelled() => return,
        shaken = handshake => shaken,
    };
    match shaken {
        Ok(Ok(Some(stream))) => connection(shared, stream, peer, requests).await,
        Ok(Ok(None)) => debug!(%peer, "an authority was shown that a name is this host's"),
        Ok(Err(error)) => debug!(%peer, %error, "a TLS handshake failed"),
        Err(_) => debug!(%peer, "a TLS handshake took too long"),
    }
}

/// Serves one connection to its end.
async fn plain_connection(
    shared: Arc<Shared>,
    stream: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
    seat: Option<Seat>,
) {
    match shared.handler.gate.enter(peer.ip()) {
        Ok(place) => {
            connection(shared, Stream::Plain(stream), peer, Requests::new(permit, seat, place)).await;
        }
        Err(_) => turn_away(stream).await,
    }
}

async fn connection(shared: Arc<Shared>, stream: Stream, peer: SocketAddr, requests: Arc<Requests>) {
    let settings = &shared.settings;
    let limits = Limits {
        header: settings.header_timeout,
        keep_alive: settings.keep_alive,
        stall: settings.stall_timeout,
    };
    let service = Service {
        shared: Arc::clone(&shared),
        peer,
        origin: Arc::new(Origin {
            peer: peer.ip().to_canonical().to_string().into(),
            secure: stream.is_tls(),
            max_headers: settings.max_headers,
        }),
        requests: Arc::clone(&requests),
    };
    let socket = ClientSocket::new(stream, requests, limits);
    let http1 =
        http1::server::Connection::new(socket, settings.max_header_bytes.max(8192), settings.max_headers);
    let stopping = || shared.ending.load(Ordering::Acquire) && shared.stop.is_cancelled();
    match until_cut(&shared, http1.serve(stopping, &service)).await {
        Some(Ok(Ended::Http2(socket))) => Box::pin(http2_connection(service, socket)).await,
        Some(Err(failure)) => {
            shared.handler.gate.note(&failure);
            debug!(%peer, error = &failure as &dyn StdError, "a connection ended early");
        }
        Some(Ok(Ended::Closed | Ended::Upgraded)) | None => {}
    }
}

/// Answers the requests of one connection.
#[derive(Clone)]
struct Service {
    shared: Arc<Shared>,
    peer: SocketAddr,
    origin: Arc<Origin>,
    requests: Arc<Requests>,
}

impl http1::server::Service for Service {
    fn express(&self, head: &Bytes, body: impl FnOnce(u64) -> ClientBody) -> Option<Express> {
        let express = self.shared.handler.express(head, &self.origin, body)?;
        Some(express.while_busy(self.requests.begin(Version::HTTP_11)))
    }

    async fn answer(&self, mut request: Request<ClientBody>) -> Response<ResponseBody> {
        let busy = self.requests.begin(request.version());
        if self.origin.secure {
            request.extensions_mut().insert(Secure);
        }
        let response = self.shared.handler.handle(request, self.peer).await;
        response.map(|body| body.while_busy(busy))
    }
}

impl Service {
    /// The same for a stream of HTTP/2, which may become a tunnel.
    async fn answer_stream(&self, mut request: Request<Incoming>) -> Response<ResponseBody> {
        let upgrade =
            extended::translate(&mut request, &self.requests).then(|| hyper::upgrade::on(&mut request));
        self.answer(request.map(|body| match upgrade {
            Some(stream) => ClientBody::upgrade(Upgrade::Http2(stream)),
            None => ClientBody::http2(body),
        }))
        .await
    }
}

/// Polls `connection` until it ends, or all are cut. It hears of the stop by being polled.
async fn until_cut<F: Future>(shared: &Shared, connection: F) -> Option<F::Output> {
    let (mut connection, mut stop, mut cut) =
        (pin!(connection), pin!(shared.stop.cancelled()), pin!(shared.cut.cancelled()));
    // Asked once, they wake this task; that it was they is told by a flag, which costs less than to ask them each time.
    let (mut asked, mut stopped) = (false, false);
    poll_fn(|cx| {
        if !asked || shared.ending.load(Ordering::Acquire) {
            asked = true;
            if cut.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            stopped = stopped || stop.as_mut().poll(cx).is_ready();
        }
        connection.as_mut().poll(cx).map(Some)
    })
    .await
}

async fn http2_connection(service: Service, socket: ClientSocket) {
    let (shared, peer) = (Arc::clone(&service.shared), service.peer);
    let service = service_fn(move |request| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(service.answer_stream(request).await) }
    });
    let mut served = pin!(shared.http2.serve_connection(TokioIo::new(socket), service));
    let mut stop = pin!(shared.stop.cancelled());
    let mut cut = pin!(shared.cut.cancelled());
    let mut stopping = false;
    loop {
        tokio::select! {
            biased;
            ended = served.as_mut() => {
                if let Err(error) = ended {
                    debug!(%peer, error = &error as &dyn StdError, "a connection ended early");
                }
                return;
            }
            () = cut.as_mut() => return,
            () = stop.as_mut(), if !stopping => {
                stopping = true;
                served.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Starts the tasks of HTTP/2 streams where a shutdown can wait for them.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}
