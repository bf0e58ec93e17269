//! Both directions of a tunnel, from its first byte to its end.
//!
//! Owns when a tunnel ends and why. A direction that ends is passed on as the end of writing; the other goes on for as
//! long as something moves. What is said to the two sides at the end is [`close`](super::close)'s.
//!
//! ```text
//!              client ends writing            function ends writing
//!   both open ────────────────────► half open ─────────────────────► done      (or the other way round)
//!       │ limit, its turn,             │ min(limit, HALF_OPEN), its turn
//!       │ or the function is gone      │
//!       ▼                              ▼
//!     closing ──────────────────────► done
//! ```
//!
//! A WebSocket whose function ends it without a Close frame is one whose function is gone; of another protocol nobody
//! knows what its end means.
//!
//! One timer serves idleness, age, keep-alive and the turn to end. It is set when it fires, not when something moves.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::close::{self, Ending, HANDSHAKE};
use super::ends::{Told, Word};
use super::frames::{Counts, Frames, Sender};
use super::keep::{Kept, Origin};
use super::ping::{KeepAlive, Step};
use super::screen::Screen;
use super::side::Side;
use super::tally::{By, Tally};
use super::traffic::Traffic;
use super::way::{Failed, Way};
use crate::upstream::{UpstreamLimits, WebSocketLimits};

/// How long one side may be silent after the other has said all it had to say.
const HALF_OPEN: Duration = Duration::from_secs(60);

/// How a tunnel ended.
pub(super) struct Ended {
    /// Bytes from the client.
    pub(super) of_client: u64,
    /// Bytes to the client.
    pub(super) to_client: u64,
    /// `None` if both sides ended as they should.
    pub(super) broken: Option<&'static str>,
    /// Messages from the client and to it, if that could be seen.
    pub(super) messages: Option<[u64; 2]>,
    /// The code with which a WebSocket was closed, and who closed it.
    pub(super) closed: Option<(u16, By)>,
    /// For how long it was open, with earlier processes as well.
    pub(super) age: Duration,
}

/// What a tunnel goes by.
pub(super) struct Terms<'a> {
    /// Both sides speak in WebSocket frames.
    pub(super) websocket: bool,
    /// When the client's token ends.
    pub(super) expires: Option<Instant>,
    /// Of the function, as they were when this opened. Shared by all that did since they were set.
    pub(super) limits: Arc<UpstreamLimits>,
    /// Of the function: when there last was something other than a sign of life.
    pub(super) traffic: &'a Traffic,
    /// Of the function: what its WebSockets carried.
    pub(super) tally: &'a Tally,
    /// Speaks for the replica.
    pub(super) replica: Told,
    /// Speaks for the server.
    pub(super) server: Told,
    /// Where it is written down, if it is to outlive this process.
    pub(super) kept: Option<&'a mut Kept>,
}

/// What the directions tell the timer, and the function's books.
#[derive(Debug)]
pub(super) struct Activity<'a> {
    /// The last byte that was passed on.
    last: Traffic,
    /// The last byte of the client, if it is asked for signs of life.
    heard: Option<Box<Traffic>>,
    half_open: AtomicBool,
    /// It was that with an earlier process already, and is about to be found so again.
    known_half_open: AtomicBool,
    /// Who was the first to send a Close.
    closed: OnceLock<Sender>,
    traffic: &'a Traffic,
    tally: &'a Tally,
}

/// Why bytes no longer move.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stop {
    /// Both directions have ended.
    Done,
    /// A socket failed.
    Reset,
    /// Somebody should be told.
    Ending(Ending),
}

/// What the time has come for.
#[derive(Debug)]
enum Due {
    Ending(Ending),
    /// A look at the client.
    KeepAlive,
}

impl Activity<'_> {
    /// A byte came from this side.
    pub(super) fn heard(&self, from: Sender) {
        if let Some(heard) = self.heard.as_ref().filter(|_| from == Sender::Client) {
            heard.touch(Instant::now());
        }
    }

    /// Bytes went on, something of a message among them if `data`.
    pub(super) fn moved(&self, data: bool) {
        let now = Instant::now();
        self.last.touch(now);
        if data {
            self.traffic.touch(now);
        }
    }

    /// Frames of these kinds began.
    pub(super) fn count(&self, from: Sender, frames: &Counts) {
        self.tally.frames(from, frames);
    }

    /// Bytes went on of which it is not known what they are.
    pub(super) fn count_opaque(&self, from: Sender, bytes: usize) {
        self.tally.opaque(from, bytes);
    }

    /// What passes is no framing.
    pub(super) fn lost_track(&self) {
        self.tally.lost_track();
    }

    /// A Close of this side went on.
    pub(super) fn closed(&self, from: Sender) {
        self.closed.get_or_init(|| from);
    }

    /// Has neither side said goodbye?
    pub(super) fn may_ping(&self) -> bool {
        self.closed.get().is_none()
    }

    fn halve(&self) {
        if !self.known_half_open.swap(false, Ordering::Relaxed) {
            self.last.touch(Instant::now());
        }
        self.half_open.store(true, Ordering::Release);
    }

    /// When this counts as idle, if nothing moves until then.
    fn due(&self, limit: Option<Duration>) -> Option<Instant> {
        let limit = if self.half_open.load(Ordering::Acquire) {
            limit.map_or(HALF_OPEN, |limit| limit.min(HALF_OPEN))
        } else {
            limit?
        };
        Some(self.last.last_or_began() + limit)
    }
}

/// A tunnel that is open. It is polled, and has no future of its own: an idle one is no more than these fields.
struct Pump<'a> {
    to_client: Way<'a>,
    to_function: Way<'a>,
    /// How far the direction to the client is, and the other one.
    courses: [Course; 2],
    activity: Activity<'a>,
    websocket: bool,
    /// When the client may stay no longer. Apart: most may stay for ever.
    expires: Option<Box<Instant>>,
    limits: Arc<UpstreamLimits>,
    replica: Told,
    server: Told,
    kept: Option<&'a mut Kept>,
    /// When it is to end.
    turn: Option<Instant>,
    keep_alive: Option<Box<KeepAlive>>,
    timer: Option<Pin<Box<Sleep>>>,
    /// The timer is set to what is due next, or to something before that.
    set: bool,
}

/// How far a direction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    Moving,
    /// Its end is being passed on.
    Ending,
    Over,
}

/// What came of waiting for two that are about to close a tunnel themselves.
enum Waited {
    Stopped(Stop),
    Left,
    /// The server has no more time, or they take too long.
    Cut,
    Late,
}

/// Moves bytes until both directions have ended, one has failed, nothing moved for the limit, or it is told to end.
/// `None`: it is left for the next process, wherever it is: where it stands is written down.
pub(super) fn run<'a>(
    client: Side<'a>,
    function: Side<'a>,
    origins: [Origin; 2],
    terms: Terms<'a>,
) -> impl Future<Output = Option<Box<Ended>>> + Send {
    let mut pump = Pump::new(client, function, origins, terms);
    async move {
        let stop = poll_fn(|cx| pump.poll(cx)).await?;
        // Boxed: a tunnel pays for its end when that comes.
        Box::pin(pump.end(stop)).await
    }
}

impl<'a> Pump<'a> {
    fn new(
        client: Side<'a>,
        function: Side<'a>,
        [of_client, of_function]: [Origin; 2],
        terms: Terms<'a>,
    ) -> Self {
        let (client_reads, client_writes) = client.split();
        let (function_reads, function_writes) = function.split();
        let mut to_function = Way::new(client_reads, function_writes, of_client);
        let websocket = match terms.kept {
            None if terms.websocket => terms.limits.websocket,
            // The limits may have come since it was opened, by an earlier process.
            _ => WebSocketLimits::default(),
        };
        if websocket != WebSocketLimits::default() {
            to_function.screen = Some(Box::new(Screen::new(websocket.max_message)));
        }
        let late = terms.replica.already() || terms.server.already();
        // It may have lived with an earlier process.
        let (last, half_open) =
            terms.kept.as_ref().map(|kept| (kept.traffic(), kept.is_half_open())).unwrap_or_default();
        Self {
            to_client: Way::new(function_reads, client_writes, of_function),
            to_function,
            courses: [Course::Moving; 2],
            activity: Activity {
                last,
                heard: websocket.keepalive.map(|_| Box::default()),
                half_open: half_open.into(),
                known_half_open: half_open.into(),
                closed: OnceLock::new(),
                traffic: terms.traffic,
                tally: terms.tally,
            },
            websocket: terms.websocket,
            expires: terms
                .expires
                .zip(terms.limits.timeouts.token_grace)
                .and_then(|(at, grace)| at.checked_add(grace).map(Box::new)),
            limits: terms.limits,
            replica: terms.replica,
            server: terms.server,
            kept: terms.kept,
            turn: late.then(Instant::now),
            keep_alive: websocket.keepalive.map(|every| Box::new(KeepAlive::new(every))),
            timer: None,
            set: false,
        }
    }

    /// Moves bytes until there is a reason not to. `None`: it is left.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Stop>> {
        loop {
            if self.poll_left(cx).is_ready() {
                return Poll::Ready(None);
            }
            while let Poll::Ready(due) = self.poll_due(cx) {
                let ending = match due {
                    Due::Ending(ending) => Some(ending),
                    Due::KeepAlive => self.look_at_client(),
                };
                if let Some(ending) = ending {
                    return Poll::Ready(Some(Stop::Ending(ending)));
                }
            }
            if let Poll::Ready(stop) = self.poll_both(cx) {
                return Poll::Ready(Some(stop));
            }
            if self.set {
                return Poll::Pending;
            }
        }
    }

    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.kept {
            Some(kept) => kept.poll_left(cx),
            None => Poll::Pending,
        }
    }

    /// Ends it, if nothing has ended it yet.
    async fn end(&mut self, mut stop: Stop) -> Option<Box<Ended>> {
        if stop == Stop::Ending(Ending::Exited) && self.to_function.ended {
            // It only does as its client has done, which is gone.
            stop = Stop::Done;
        }
        if let Stop::Ending(ending) = &stop {
            match self.closes_itself(ending).await {
                Waited::Late => self.close(ending).await,
                Waited::Cut => {}
                Waited::Left => return None,
                Waited::Stopped(by_itself) => stop = by_itself,
            }
        }
        let Self { to_client, to_function, activity, websocket, .. } = self;
        let closed = websocket.then(|| closed(activity, &to_client.frames, &to_function.frames, &stop));
        let broken = match &stop {
            Stop::Done => None,
            Stop::Reset => Some("reset"),
            Stop::Ending(ending) => Some(ending.name()),
        };
        let messages = websocket.then(|| [to_function.frames.messages(), to_client.frames.messages()]);
        let age = activity.last.began().elapsed();
        Some(Box::new(Ended {
            of_client: to_function.moved,
            to_client: to_client.moved,
            broken,
            messages,
            closed,
            age,
        }))
    }

    /// If the two are about to close it themselves, one of them has said why: they are left to it for a while.
    async fn closes_itself(&mut self, ending: &Ending) -> Waited {
        if !(ending.can_wait() && (self.to_client.frames.closed() || self.to_function.frames.closed())) {
            return Waited::Late;
        }
        let mut handshake = pin!(sleep(HANDSHAKE));
        poll_fn(|cx| {
            if self.poll_left(cx).is_ready() {
                return Poll::Ready(Waited::Left);
            }
            if self.server.poll_cut(cx).is_ready() {
                return Poll::Ready(Waited::Cut);
            }
            if let Poll::Ready(stop) = self.poll_both(cx) {
                return Poll::Ready(Waited::Stopped(stop));
            }
            handshake.as_mut().poll(cx).map(|()| Waited::Late)
        })
        .await
    }

    /// Says to both sides why it ends, as long as the server gives it time for that.
    async fn close(&mut self, ending: &Ending) {
        if let Some(kept) = &self.kept {
            kept.ending();
        }
        let Self { to_client, to_function, activity, server, .. } = self;
        let mut closing = pin!(close::run(to_client, to_function, ending, activity));
        poll_fn(|cx| match server.poll_cut(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => closing.as_mut().poll(cx),
        })
        .await;
    }

    /// Asks the client whether it lives, if it is time for that; once it does not answer, the tunnel ends.
    fn look_at_client(&mut self) -> Option<Ending> {
        let Self { to_client, to_function, activity, keep_alive, .. } = self;
        self.set = false;
        let asks = keep_alive.as_mut()?;
        let known = to_client.frames.are_known() && to_function.frames.are_known();
        if !activity.may_ping() || !known || to_function.ended {
            // Nothing may be put in here any more, or nobody could tell the answer, or none can come.
            *keep_alive = None;
            return None;
        }
        let (heard, now) = (activity.heard.as_ref()?.last_or_began(), Instant::now());
        match asks.step(heard, now) {
            Step::Wait(_) => None,
            // Between two frames, or as soon as the client takes what is in front of it.
            _ if to_client.ping.is_some() => {
                asks.asked_late(now);
                None
            }
            Step::Ping => {
                to_client.ping = Some(Box::new(asks.ask(now)));
                if let Some(screen) = &mut to_function.screen {
                    screen.expect(asks.cookie());
                }
                activity.tally.pinged();
                None
            }
            Step::Lost => {
                activity.tally.unanswered();
                Some(Ending::PingTimeout)
            }
        }
    }

    /// Moves bytes both ways until they end.
    fn poll_both(&mut self, cx: &mut Context<'_>) -> Poll<Stop> {
        let halved = self.activity.half_open.load(Ordering::Relaxed);
        let of_client = self.poll_of_client(cx);
        if let Poll::Ready(Err(stop)) = of_client {
            return Poll::Ready(stop);
        }
        let of_function = self.poll_of_function(cx);
        if let Poll::Ready(Err(stop)) = of_function {
            return Poll::Ready(stop);
        }
        if of_client.is_ready() && of_function.is_ready() {
            return Poll::Ready(Stop::Done);
        }
        // If it is half open now, the limit is another one.
        let half_open = self.activity.half_open.load(Ordering::Relaxed);
        self.set &= halved == half_open;
        if let Some(kept) = &self.kept {
            kept.note(&self.activity.last, half_open);
        }
        Poll::Pending
    }

    /// What the client sends.
    fn poll_of_client(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        let Self { to_function: way, activity, courses: [_, course], .. } = self;
        if *course == Course::Moving {
            *course = match ready!(way.poll_pump(cx, activity)) {
                Ok(()) => Course::Ending,
                // The function is gone. What it said before, and that it is gone, the other direction will find.
                Err(Failed::To) if way.frames.are_known() => Course::Over,
                Err(Failed::TooLong) => return Poll::Ready(Err(Stop::Ending(Ending::TooLong))),
                Err(_) => return Poll::Ready(Err(Stop::Reset)),
            };
            activity.halve();
        }
        course.poll(way, cx)
    }

    /// What the function sends.
    fn poll_of_function(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        let Self { to_client: way, activity, courses: [course, _], .. } = self;
        if *course == Course::Moving {
            match ready!(way.poll_pump(cx, activity)) {
                Ok(()) | Err(Failed::From) if way.frames.are_known() && !way.frames.closed() => {
                    return Poll::Ready(Err(Stop::Ending(Ending::Exited)));
                }
                Err(Failed::To | Failed::TooLong) => return Poll::Ready(Err(Stop::Reset)),
                // Once it has said goodbye, how it closes its socket is all the same.
                Err(Failed::From) if !way.frames.closed() => return Poll::Ready(Err(Stop::Reset)),
                Ok(()) | Err(Failed::From) => *course = Course::Ending,
            }
            activity.halve();
        }
        course.poll(way, cx)
    }

    /// Ready once there is something to do: nothing has moved for the limit, the tunnel is too old, its turn to end has
    /// come, or it is time to look at the client.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<Due> {
        // Whom the one wakes, the other does, too.
        let known = self.replica.wakes(cx.waker());
        loop {
            for told in [&mut self.replica, &mut self.server] {
                while let Poll::Ready(word) = told.poll_word(cx) {
                    match word {
                        Word::Turn(at) => self.turn = self.turn.into_iter().chain([at]).min(),
                        Word::Close(frame) => return Poll::Ready(Due::Ending(Ending::Asked(frame))),
                    }
                    self.set = false;
                }
            }
            let waits = self.set && known;
            if !self.set {
                self.set_timer();
            }
            let Some(timer) = &mut self.timer else { return Poll::Pending };
            // A timer that was polled and has not fired needs no more than a look.
            if waits && !timer.is_elapsed() {
                return Poll::Pending;
            }
            ready!(timer.as_mut().poll(cx));
            self.set = false;
            if let Some(due) = self.due(Instant::now()) {
                return Poll::Ready(due);
            }
        }
    }

    /// Sets the timer to what is due next.
    fn set_timer(&mut self) {
        let idle = self.activity.due(self.limits.timeouts.tunnel_idle);
        let ends = [self.turn, self.too_old(), self.token_ends(), idle, self.look(Instant::now())];
        let next = ends.into_iter().flatten().min();
        match (next, &mut self.timer) {
            (None, timer) => *timer = None,
            (Some(next), Some(timer)) => timer.as_mut().reset(next),
            (Some(next), timer) => *timer = Some(Box::pin(sleep_until(next))),
        }
        self.set = true;
    }

    /// What the time has come for.
    fn due(&self, now: Instant) -> Option<Due> {
        let passed = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        if passed(self.turn) {
            Some(Due::Ending(Ending::Restart))
        } else if passed(self.token_ends()) {
            Some(Due::Ending(Ending::TokenExpired))
        } else if passed(self.too_old()) {
            Some(Due::Ending(Ending::Lifetime))
        } else if passed(self.activity.due(self.limits.timeouts.tunnel_idle)) {
            Some(Due::Ending(Ending::Idle))
        } else {
            passed(self.look(now)).then_some(Due::KeepAlive)
        }
    }

    /// When its client may stay no longer.
    fn token_ends(&self) -> Option<Instant> {
        self.expires.as_deref().copied()
    }

    /// When it is too old.
    fn too_old(&self) -> Option<Instant> {
        self.activity.last.began().checked_add(self.limits.timeouts.lifetime?)
    }

    /// When it is time to look at the client.
    fn look(&self, now: Instant) -> Option<Instant> {
        let (asks, heard) = (self.keep_alive.as_ref()?, self.activity.heard.as_ref()?);
        Some(match asks.step(heard.last_or_began(), now) {
            Step::Wait(until) => until,
            Step::Ping | Step::Lost => now,
        })
    }
}

impl Course {
    /// Passes the end of `way` on, if that is what is to be done.
    fn poll(&mut self, way: &mut Way<'_>, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        if *self == Self::Ending {
            ready!(way.poll_end(cx)).map_err(|_| Stop::Reset)?;
            *self = Self::Over;
        }
        Poll::Ready(Ok(()))
    }
}

/// With which code a WebSocket was closed, and by whom. Without a word, that is 1006, and of nobody's doing that is known
/// here.
fn closed(activity: &Activity<'_>, to_client: &Frames, to_function: &Frames, stop: &Stop) -> (u16, By) {
    const NO_CODE: u16 = 1005;
    const NO_CLOSE: u16 = 1006;
    match (activity.closed.get(), stop) {
        (Some(Sender::Client), _) => (to_function.code().unwrap_or(NO_CODE), By::Client),
        (Some(Sender::Function), _) => (to_client.code().unwrap_or(NO_CODE), By::Function),
        (None, Stop::Ending(ending)) => (ending.to_client().code().unwrap_or(NO_CODE), By::Host),
        (None, Stop::Done | Stop::Reset) => (NO_CLOSE, By::Network),
    }
}
