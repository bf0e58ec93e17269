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

use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::close::{self, Ending, HANDSHAKE};
use super::ends::Told;
use super::keep::{Kept, Origin};
use super::traffic::Traffic;
use super::way::{Failed, Way};

/// How long one side may be silent after the other has said all it had to say.
const HALF_OPEN: Duration = Duration::from_secs(60);

/// How a tunnel ended.
pub(super) struct Ended {
    /// Bytes to the client.
    pub(super) to_client: u64,
    /// `None` if both sides ended as they should.
    pub(super) broken: Option<&'static str>,
    /// Messages from the client and to it, if that could be seen.
    pub(super) messages: Option<[u64; 2]>,
}

/// What a tunnel goes by.
pub(super) struct Terms<'a> {
    /// Both sides speak in WebSocket frames.
    pub(super) websocket: bool,
    /// How long no byte may move.
    pub(super) limit: Option<Duration>,
    /// Of the function: when there last was something other than a sign of life.
    pub(super) traffic: &'a Traffic,
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
    /// The last byte.
    last: Traffic,
    half_open: AtomicBool,
    /// Woken when `half_open` is set: the limit is another one then.
    halved: Notify,
    traffic: &'a Traffic,
}

/// Why bytes no longer move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Both directions have ended.
    Done,
    /// A socket failed.
    Reset,
    /// Somebody should be told.
    Ending(Ending),
}

impl Activity<'_> {
    /// A byte came.
    pub(super) fn touch(&self) {
        self.last.touch(Instant::now());
    }

    /// Bytes went on, something of a message among them if `data`.
    pub(super) fn moved(&self, data: bool) {
        let now = Instant::now();
        self.last.touch(now);
        if data {
            self.traffic.touch(now);
        }
    }

    fn halve(&self) {
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
pub(super) async fn run(
    client: &mut TcpStream,
    function: &mut TcpStream,
    [of_client, of_function]: [Origin; 2],
    mut terms: Terms<'_>,
) -> Ended {
    let (client_reads, client_writes) = client.split();
    let (function_reads, function_writes) = function.split();
    let mut to_function = Way::new(client_reads, function_writes, of_client);
    let mut to_client = Way::new(function_reads, client_writes, of_function);
    let activity = Activity {
        last: Traffic::default(),
        half_open: AtomicBool::new(false),
        halved: Notify::new(),
        traffic: terms.traffic,
    };
    let mut stop = tokio::select! {
        biased;
        ending = ending(&activity, &mut terms) => Stop::Ending(ending),
        stop = both(&mut to_client, &mut to_function, &activity) => stop,
    };
    if let Stop::Ending(ending) = stop {
        // Boxed: a tunnel pays for its end when that comes.
        let closing = Box::pin(async {
            if ending == Ending::Restart && (to_client.frames.closed() || to_function.frames.closed()) {
                // The two are about to close it themselves, and one of them has said why.
                tokio::select! {
                    biased;
                    stop = both(&mut to_client, &mut to_function, &activity) => return stop,
                    () = sleep(HANDSHAKE) => {}
                }
            }
            terms.kept.inspect(|kept| kept.ending());
            close::run(&mut to_client, &mut to_function, ending, &activity).await;
            stop
        });
        tokio::select! {
            biased;
            () = terms.server.cut() => {}
            after = closing => stop = after,
        }
    }
    let broken = match stop {
        Stop::Done => None,
        Stop::Reset => Some("reset"),
        Stop::Ending(ending) => Some(ending.name()),
    };
    let messages = terms.websocket.then(|| [to_function.frames.messages(), to_client.frames.messages()]);
    Ended { to_client: to_client.moved, broken, messages }
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
        Err(_) => Err(Stop::Reset),
    }
}

/// What the function sends.
async fn of_function(way: &mut Way<'_>, activity: &Activity<'_>) -> Result<(), Stop> {
    match way.pump(activity).await {
        Ok(()) | Err(Failed::From) if way.frames.are_known() && !way.frames.closed() => {
            Err(Stop::Ending(Ending::Exited))
        }
        Err(Failed::To) => Err(Stop::Reset),
        // Once it has said goodbye, how it closes its socket is all the same.
        Err(Failed::From) if !way.frames.closed() => Err(Stop::Reset),
        Ok(()) | Err(Failed::From) => {
            activity.halve();
            way.end().await.map_err(|_| Stop::Reset)
        }
    }
}

/// Resolves once nothing has moved for the limit, or the tunnel's turn to end has come. The timer is set when it fires,
/// not at each byte.
async fn ending(activity: &Activity<'_>, terms: &mut Terms<'_>) -> Ending {
    let late = terms.replica.already() || terms.server.already();
    let mut turn = late.then(Instant::now);
    loop {
        let idle = activity.due(terms.limit);
        let due = turn.into_iter().chain(idle).min();
        let fires = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => pending().await,
            }
        };
        let told = tokio::select! {
            biased;
            told = terms.replica.turn() => told,
            told = terms.server.turn() => told,
            () = activity.halved.notified() => continue,
            () = fires => {
                let now = Instant::now();
                if turn.is_some_and(|turn| turn <= now) {
                    return Ending::Restart;
                }
                if activity.due(terms.limit).is_some_and(|due| due <= now) {
                    return Ending::Idle;
                }
                continue;
            }
        };
        turn = turn.into_iter().chain([told]).min();
    }
}
