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

use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

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
}

/// What a tunnel goes by.
pub(super) struct Terms<'a> {
    /// Both sides speak in WebSocket frames.
    pub(super) websocket: bool,
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
    pub(super) kept: Option<&'a Kept>,
}

/// What the directions tell the timer, and the function's books.
#[derive(Debug)]
pub(super) struct Activity<'a> {
    /// The last byte that was passed on.
    last: Traffic,
    /// The last byte of the client, if it is asked for signs of life.
    heard: Option<Box<Traffic>>,
    half_open: AtomicBool,
    /// Woken when `half_open` is set: the limit is another one then.
    halved: Notify,
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
        self.last.touch(Instant::now());
        self.half_open.store(true, Ordering::Release);
        self.halved.notify_one();
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

/// Moves bytes until both directions have ended, one has failed, nothing moved for the limit, or it is told to end.
pub(super) async fn run<'a>(
    client: Side<'a>,
    function: Side<'a>,
    [of_client, of_function]: [Origin; 2],
    terms: &mut Terms<'_>,
) -> Ended {
    let (client_reads, client_writes) = client.split();
    let (function_reads, function_writes) = function.split();
    let mut to_function = Way::new(client_reads, function_writes, of_client);
    let mut to_client = Way::new(function_reads, client_writes, of_function);
    let websocket = match terms.kept {
        None if terms.websocket => terms.limits.websocket,
        // The limits may have come since it was opened, by an earlier process.
        _ => WebSocketLimits::default(),
    };
    let activity = Activity {
        last: Traffic::default(),
        heard: websocket.keepalive.map(|_| Box::default()),
        half_open: AtomicBool::new(false),
        halved: Notify::new(),
        closed: OnceLock::new(),
        traffic: terms.traffic,
        tally: terms.tally,
    };
    let mut keep_alive = websocket.keepalive.map(|every| Box::new(KeepAlive::new(every)));
    if websocket != WebSocketLimits::default() {
        to_function.screen = Some(Box::new(Screen::new(websocket.max_message)));
    }
    let late = terms.replica.already() || terms.server.already();
    let mut turn = late.then(Instant::now);
    let mut stop = loop {
        let due = tokio::select! {
            biased;
            due = due(&activity, terms, &mut turn, keep_alive.as_deref()) => due,
            stop = both(&mut to_client, &mut to_function, &activity) => break stop,
        };
        match due {
            Due::Ending(ending) => break Stop::Ending(ending),
            Due::KeepAlive => {
                if let Some(ending) =
                    look_at_client(&mut keep_alive, &mut to_client, &mut to_function, &activity)
                {
                    break Stop::Ending(ending);
                }
            }
        }
    };
    if stop == Stop::Ending(Ending::Exited) && to_function.ended {
        // It only does as its client has done, which is gone.
        stop = Stop::Done;
    }
    if let Stop::Ending(ending) = &stop {
        // Boxed: a tunnel pays for its end when that comes.
        let closing = Box::pin(async {
            if ending.can_wait() && (to_client.frames.closed() || to_function.frames.closed()) {
                // The two are about to close it themselves, and one of them has said why.
                tokio::select! {
                    biased;
                    stop = both(&mut to_client, &mut to_function, &activity) => return stop,
                    () = sleep(HANDSHAKE) => {}
                }
            }
            terms.kept.inspect(|kept| kept.ending());
            close::run(&mut to_client, &mut to_function, ending, &activity).await;
            stop.clone()
        });
        let after = tokio::select! {
            biased;
            () = terms.server.cut() => None,
            after = closing => Some(after),
        };
        stop = after.unwrap_or(stop);
    }
    let closed = terms.websocket.then(|| closed(&activity, &to_client.frames, &to_function.frames, &stop));
    let broken = match &stop {
        Stop::Done => None,
        Stop::Reset => Some("reset"),
        Stop::Ending(ending) => Some(ending.name()),
    };
    let messages = terms.websocket.then(|| [to_function.frames.messages(), to_client.frames.messages()]);
    Ended { of_client: to_function.moved, to_client: to_client.moved, broken, messages, closed }
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

/// Asks the client whether it lives, if it is time for that; once it does not answer, the tunnel ends.
fn look_at_client(
    keep_alive: &mut Option<Box<KeepAlive>>,
    to_client: &mut Way<'_>,
    to_function: &mut Way<'_>,
    activity: &Activity<'_>,
) -> Option<Ending> {
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
async fn both(to_client: &mut Way<'_>, to_function: &mut Way<'_>, activity: &Activity<'_>) -> Stop {
    match tokio::try_join!(of_client(to_function, activity), of_function(to_client, activity)) {
        Ok(_) => Stop::Done,
        Err(stop) => stop,
    }
}

/// What the client sends.
async fn of_client(way: &mut Way<'_>, activity: &Activity<'_>) -> Result<(), Stop> {
    match way.pump(activity).await {
        Ok(()) => {
            activity.halve();
            way.end().await.map_err(|_| Stop::Reset)
        }
        // The function is gone. What it said before, and that it is gone, the other direction will find.
        Err(Failed::To) if way.frames.are_known() => {
            activity.halve();
            Ok(())
        }
        Err(Failed::TooLong) => Err(Stop::Ending(Ending::TooLong)),
        Err(_) => Err(Stop::Reset),
    }
}

/// What the function sends.
async fn of_function(way: &mut Way<'_>, activity: &Activity<'_>) -> Result<(), Stop> {
    match way.pump(activity).await {
        Ok(()) | Err(Failed::From) if way.frames.are_known() && !way.frames.closed() => {
            Err(Stop::Ending(Ending::Exited))
        }
        Err(Failed::To | Failed::TooLong) => Err(Stop::Reset),
        // Once it has said goodbye, how it closes its socket is all the same.
        Err(Failed::From) if !way.frames.closed() => Err(Stop::Reset),
        Ok(()) | Err(Failed::From) => {
            activity.halve();
            way.end().await.map_err(|_| Stop::Reset)
        }
    }
}

/// Resolves once there is something to do: nothing has moved for the limit, the tunnel is too old, its turn to end has
/// come, or it is time to look at the client.
async fn due(
    activity: &Activity<'_>,
    terms: &mut Terms<'_>,
    turn: &mut Option<Instant>,
    keep_alive: Option<&KeepAlive>,
) -> Due {
    let expires = terms.limits.timeouts.lifetime.and_then(|lifetime| {
        // It may have lived with an earlier process.
        let age = terms.kept.map_or_else(|| activity.last.began().elapsed(), Kept::age);
        Instant::now().checked_add(lifetime.saturating_sub(age))
    });
    let look = |now| match (keep_alive, &activity.heard) {
        (Some(asks), Some(heard)) => Some(match asks.step(heard.last_or_began(), now) {
            Step::Wait(until) => until,
            Step::Ping | Step::Lost => now,
        }),
        _ => None,
    };
    loop {
        let idle = activity.due(terms.limits.timeouts.tunnel_idle);
        let next = [*turn, expires, idle, look(Instant::now())].into_iter().flatten().min();
        let fires = async {
            match next {
                Some(next) => sleep_until(next).await,
                None => pending().await,
            }
        };
        let told = tokio::select! {
            biased;
            told = terms.replica.word() => told,
            told = terms.server.word() => told,
            () = activity.halved.notified() => continue,
            () = fires => {
                let now = Instant::now();
                let passed = |due: Option<Instant>| due.is_some_and(|due| due <= now);
                if passed(*turn) {
                    return Due::Ending(Ending::Restart);
                }
                if passed(expires) {
                    return Due::Ending(Ending::Lifetime);
                }
                if passed(activity.due(terms.limits.timeouts.tunnel_idle)) {
                    return Due::Ending(Ending::Idle);
                }
                if passed(look(now)) {
                    return Due::KeepAlive;
                }
                continue;
            }
        };
        match told {
            Word::Turn(at) => *turn = turn.iter().copied().chain([at]).min(),
            Word::Close(frame) => return Due::Ending(Ending::Asked(frame)),
        }
    }
}
