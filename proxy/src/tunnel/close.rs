//! The end of a WebSocket that neither side has asked for.
//!
//! Owns the frames that are put in: at most one Close in each direction, at a boundary, and none behind another Close.
//! Control frames may stand between the fragments of a message and are never compressed, so each boundary will do.
//!
//! ```text
//!   settle ──at a boundary──► Close said ──peer's Close──► FIN ──peer's FIN, or LINGER──► closed
//!      │ BOUNDARY                  │ HANDSHAKE, from the start ▲
//!      └── nothing can be said ────┴───────────────────────────┘
//! ```

use std::borrow::Cow;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::trace;

use super::frames::{Frames, Sender};
use super::pump::Activity;
use super::side::{ReadHalf, WriteHalf};
use super::way::{self, Way};
use super::words::CloseFrame;

/// How long a frame that is under way may take to end.
const BOUNDARY: Duration = Duration::from_secs(1);

/// How long a side has to take a Close and to answer it.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(5);

/// How long a side may take to close its socket once we have ended ours.
const LINGER: Duration = Duration::from_secs(1);

/// How long a client has that has not answered a ping either.
const LAST_CALL: Duration = Duration::from_secs(1);

/// Why a tunnel ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// Its replica is replaced or no longer needed, or the host goes down.
    Restart,
    /// Nothing moved for too long.
    Idle,
    /// It is as old as it may become.
    Lifetime,
    /// The client's token counts no longer.
    TokenExpired,
    /// The function is gone.
    Exited,
    /// The client does not answer.
    PingTimeout,
    /// A message of the client is too long.
    TooLong,
    /// Somebody has asked for it, and for these words.
    Asked(Arc<CloseFrame>),
}

const RESTART: CloseFrame = CloseFrame::of_ours(1012, "service restart");
const GOING_AWAY: CloseFrame = CloseFrame::of_ours(1001, "going away");
const IDLE: CloseFrame = CloseFrame::of_ours(1001, "idle");
const LIFETIME: CloseFrame = CloseFrame::of_ours(1001, "lifetime");
const TOKEN_EXPIRED: CloseFrame = CloseFrame::of_ours(1008, "token expired");
const EXITED: CloseFrame = CloseFrame::of_ours(1011, "function exited");
const PING_TIMEOUT: CloseFrame = CloseFrame::of_ours(1001, "ping timeout");
const TOO_LONG: CloseFrame = CloseFrame::of_ours(1009, "message too big");

impl Ending {
    /// For the log.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Idle => "idle",
            Self::Lifetime => "lifetime",
            Self::TokenExpired => "token expired",
            Self::Exited => "exited",
            Self::PingTimeout => "ping timeout",
            Self::TooLong => "message too big",
            Self::Asked(_) => "asked",
        }
    }

    /// May two that are closing it themselves be left to that?
    pub(super) fn can_wait(&self) -> bool {
        matches!(self, Self::Restart | Self::Lifetime | Self::TokenExpired | Self::Asked(_))
    }

    pub(super) fn to_client(&self) -> Cow<'_, CloseFrame> {
        match self {
            Self::Restart => Cow::Owned(RESTART),
            Self::Idle => Cow::Owned(IDLE),
            Self::Lifetime => Cow::Owned(LIFETIME),
            Self::TokenExpired => Cow::Owned(TOKEN_EXPIRED),
            Self::Exited => Cow::Owned(EXITED),
            Self::PingTimeout => Cow::Owned(PING_TIMEOUT),
            Self::TooLong => Cow::Owned(TOO_LONG),
            Self::Asked(words) => Cow::Borrowed(words),
        }
    }

    /// `None` if there is nobody to hear it, or nobody in whose name it could be said.
    fn to_function(&self) -> Option<Cow<'_, CloseFrame>> {
        match self {
            Self::Restart | Self::TooLong => Some(Cow::Owned(GOING_AWAY)),
            Self::Idle | Self::Lifetime | Self::TokenExpired | Self::Asked(_) => Some(self.to_client()),
            Self::Exited | Self::PingTimeout => None,
        }
    }

    /// How long a side has to take a Close and to answer it.
    fn handshake(&self) -> Duration {
        if *self == Self::PingTimeout { LAST_CALL } else { HANDSHAKE }
    }
}

/// Ends a tunnel: says why to those who can hear it, hears them out, and ends our side of both sockets.
pub(super) async fn run(
    to_client: &mut Way<'_>,
    to_function: &mut Way<'_>,
    ending: &Ending,
    activity: &Activity<'_>,
) {
    if to_client.ended || to_function.ended {
        // One side has said all it had to say and is gone, or waits for no more than the end.
        return;
    }
    // A client that has said goodbye itself needs no reason why nobody answers.
    let reason = (*ending != Ending::Exited || !to_function.frames.closed()).then(|| ending.to_client());
    let until = Instant::now() + ending.handshake();
    let (client, function) = tokio::join!(
        say(to_client, reason, Sender::Function, activity, until),
        say(to_function, ending.to_function(), Sender::Client, activity, until),
    );
    tokio::join!(
        hear_out(&mut to_function.from, &mut to_function.frames, &mut to_client.to, client.then_some(until)),
        hear_out(&mut to_client.from, &mut to_client.frames, &mut to_function.to, function.then_some(until)),
    );
}

/// Puts a Close into `way`. Has its receiver one now, this or another?
async fn say(
    way: &mut Way<'_>,
    words: Option<Cow<'_, CloseFrame>>,
    sender: Sender,
    activity: &Activity<'_>,
    until: Instant,
) -> bool {
    let settled = match &words {
        Some(_) => matches!(timeout(BOUNDARY, way.settle(activity)).await, Ok(Ok(()))),
        None => false,
    };
    let said = match words {
        _ if way.frames.closed() => true,
        Some(words) if settled && way.frames.at_boundary() => {
            let frame = words.encode(sender);
            let told = async {
                way.to.write_all(&frame).await?;
                way.to.flush().await
            };
            matches!(timeout_at(until, told).await, Ok(Ok(())))
        }
        _ => false,
    };
    way.forget();
    said
}

/// Waits for a side's own Close, for up to `until` if it was told, then ends the writing to it.
async fn hear_out(
    from: &mut ReadHalf<'_>,
    frames: &mut Frames,
    to: &mut WriteHalf<'_>,
    until: Option<Instant>,
) {
    if let Some(until) = until {
        let answer = timeout_at(until, way::discard(from, frames, Frames::closed)).await;
        trace!(?answer, closed = frames.closed(), "told of the end");
    }
    // Of a socket it is one call; TLS and HTTP/2 have something to say, and may not get it out.
    match timeout(LINGER, poll_fn(|cx| way::poll_end(to, cx))).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => trace!(%error, "gone before the end"),
        Err(_) => trace!("the end cannot be said"),
    }
    if until.is_some() {
        // Closing a socket with unread bytes in it resets the connection, and the reset may overtake our Close.
        let gone = timeout(LINGER, way::discard(from, frames, |_| false)).await;
        trace!(?gone, "ended");
        if gone.is_err()
            && let Some(socket) = from.socket()
            && let Err(error) = SockRef::from(socket).set_linger(Some(Duration::ZERO))
        {
            trace!(%error, "cannot be reset");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ending_has_its_code_for_either_side() {
        let asked = Ending::Asked(Arc::new(CloseFrame::new(4001, "own")));
        for (ending, client, function) in [
            (Ending::Restart, (1012, "service restart"), Some((1001, "going away"))),
            (Ending::Idle, (1001, "idle"), Some((1001, "idle"))),
            (Ending::Lifetime, (1001, "lifetime"), Some((1001, "lifetime"))),
            (Ending::TokenExpired, (1008, "token expired"), Some((1008, "token expired"))),
            (Ending::Exited, (1011, "function exited"), None),
            (Ending::PingTimeout, (1001, "ping timeout"), None),
            (Ending::TooLong, (1009, "message too big"), Some((1001, "going away"))),
            (asked, (4001, "own"), Some((4001, "own"))),
        ] {
            let says = |(code, reason)| CloseFrame::new(code, reason);
            assert_eq!(*ending.to_client(), says(client), "{ending:?}");
            assert_eq!(ending.to_function().map(Cow::into_owned), function.map(says), "{ending:?}");
        }
    }
}
