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

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::trace;

use super::frames::{Frames, Sender};
use super::pump::Activity;
use super::side::{ReadHalf, WriteHalf};
use super::way::{self, Way};

/// How long a frame that is under way may take to end.
const BOUNDARY: Duration = Duration::from_secs(1);

/// How long a side has to take a Close and to answer it.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(5);

/// How long a side may take to close its socket once we have ended ours.
const LINGER: Duration = Duration::from_secs(1);

/// The longest reason: with the code before it, it fills the payload of a control frame.
const MAX_REASON: usize = 123;

/// Why a tunnel ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Its replica is replaced or no longer needed, or the host goes down.
    Restart,
    /// Nothing moved for too long.
    Idle,
    /// The function is gone.
    Exited,
}

/// What a Close says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Words {
    code: u16,
    reason: &'static str,
}

impl Ending {
    /// For the log.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Idle => "idle",
            Self::Exited => "exited",
        }
    }

    fn to_client(self) -> Words {
        match self {
            Self::Restart => Words::new(1012, "service restart"),
            Self::Idle => Words::new(1001, "idle"),
            Self::Exited => Words::new(1011, "function exited"),
        }
    }

    /// `None` if there is nobody to hear it.
    fn to_function(self) -> Option<Words> {
        match self {
            Self::Restart => Some(Words::new(1001, "going away")),
            Self::Idle => Some(Words::new(1001, "idle")),
            Self::Exited => None,
        }
    }
}

impl Words {
    const fn new(code: u16, reason: &'static str) -> Self {
        assert!(reason.len() <= MAX_REASON, "longer than a control frame");
        Self { code, reason }
    }

    /// The frame, as `sender` sends it.
    fn frame(self, sender: Sender) -> Vec<u8> {
        let mut payload = self.code.to_be_bytes().to_vec();
        payload.extend(self.reason.bytes());
        let length = u8::try_from(payload.len()).unwrap_or(u8::MAX);
        match sender {
            Sender::Function => [vec![0x88, length], payload].concat(),
            Sender::Client => {
                // There must be a key. It need not be secret: these bytes are nobody's choice.
                let key = RandomState::new().hash_one(self.code).to_be_bytes();
                let masked = payload.iter().zip(key[..4].iter().cycle()).map(|(byte, key)| byte ^ key);
                [0x88, 0x80 | length].into_iter().chain(key[..4].iter().copied()).chain(masked).collect()
            }
        }
    }
}

/// Ends a tunnel: says why to those who can hear it, hears them out, and ends our side of both sockets.
pub(super) async fn run(
    to_client: &mut Way<'_>,
    to_function: &mut Way<'_>,
    ending: Ending,
    activity: &Activity<'_>,
) {
    if to_client.ended || to_function.ended {
        // One side has said all it had to say and is gone, or waits for no more than the end.
        return;
    }
    // A client that has said goodbye itself needs no reason why nobody answers.
    let reason = (ending != Ending::Exited || !to_function.frames.closed()).then(|| ending.to_client());
    let until = Instant::now() + HANDSHAKE;
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
    words: Option<Words>,
    sender: Sender,
    activity: &Activity<'_>,
    until: Instant,
) -> bool {
    let settled = match words {
        Some(_) => matches!(timeout(BOUNDARY, way.settle(activity)).await, Ok(Ok(()))),
        None => false,
    };
    let said = match words {
        _ if way.frames.closed() => true,
        Some(words) if settled && way.frames.at_boundary() => {
            let frame = words.frame(sender);
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
    match timeout(LINGER, way::end(to)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => trace!(%error, "gone before the end"),
        Err(_) => trace!("the end cannot be said"),
    }
    if until.is_some() {
        // Closing a socket with unread bytes in it resets the connection, and the reset may overtake our Close.
        let gone = timeout(LINGER, way::discard(from, frames, |_| false)).await;
        trace!(?gone, "ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_says_its_code_and_reason_and_is_masked_only_to_the_function() {
        for ending in [Ending::Restart, Ending::Idle, Ending::Exited] {
            let frame = ending.to_client().frame(Sender::Function);
            let mut frames = Frames::of(Sender::Function);
            frames.feed(&frame);
            assert!(frames.closed() && frames.at_boundary());
            assert_eq!(frame[2..4], ending.to_client().code.to_be_bytes());
            assert_eq!(frame[4..], *ending.to_client().reason.as_bytes());
        }
        let words = Words::new(1001, "going away");
        let frame = words.frame(Sender::Client);
        let mut frames = Frames::of(Sender::Client);
        frames.feed(&frame);
        assert!(frames.closed() && frames.at_boundary());
        let plain: Vec<u8> =
            frame[6..].iter().zip(frame[2..6].iter().cycle()).map(|(b, key)| b ^ key).collect();
        assert_eq!(plain, [&1001_u16.to_be_bytes()[..], b"going away"].concat());
    }
}
