//! What the WebSockets of a function carried and how they ended.
//!
//! Owns plain counters. They are added to while frames pass, not when a tunnel ends: some are open for days.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::frames::{Counts, KINDS, Sender};
use crate::handshakes::{Handshaken, Handshakes};
use crate::meter::Carried;
use crate::scale::{LIVES, Sizes, Spread};

/// The kinds of frames, in the order in which they are counted.
pub const FRAME_TYPES: [&str; KINDS] = ["continuation", "text", "binary", "close", "ping", "pong"];

/// Whoever ends a connection chooses the code. Of one function so many codes are counted apart, and all others together.
const MAX_CODES: usize = 64;

/// Who closed a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum By {
    /// The client.
    Client,
    /// The function.
    Function,
    /// This host.
    Host,
    /// Nobody has said why.
    Network,
}

impl By {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Function => "function",
            Self::Host => "host",
            Self::Network => "network",
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// From clients, and to them.
    frames: [[AtomicU64; KINDS]; 2],
    /// Of messages, whose bytes are counted as they begin to come.
    sizes: [Sizes; 2],
    /// Bytes of what is no WebSocket.
    opaque: [AtomicU64; 2],
    units: [AtomicU64; 2],
    pub(crate) handshakes: Handshakes,
    lives: Sizes,
    closes: Mutex<Vec<(Option<u16>, By, u64)>>,
    pings: AtomicU64,
    unanswered: AtomicU64,
    untracked: AtomicU64,
}

/// What the WebSockets of a function carried since this process began, and how they ended.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WebSockets {
    /// Frames from clients and frames to them, each by [`FRAME_TYPES`]. A message has one frame of text or binary, and
    /// none or some continuations.
    pub frames: [[u64; KINDS]; 2],
    /// How long messages are, on the scale of [`SIZES`](crate::SIZES). Each counts once its last frame has begun, its bytes
    /// before.
    pub sizes: [Spread; 2],
    /// For how long those were open that have ended, on the scale of [`LIVES`].
    pub lives: Spread,
    /// Handshakes by how they were answered.
    pub handshakes: Vec<Handshaken>,
    /// How many were closed with which code, and by whom. No code stands for all that are not counted apart.
    pub closes: Vec<(Option<u16>, By, u64)>,
    /// Pings to clients that came from here.
    pub pings: u64,
    /// Clients that did not answer one.
    pub unanswered: u64,
    /// Directions of WebSockets in which something else than frames was found: they went on as they were.
    pub untracked: u64,
}

impl Tally {
    /// Frames of these kinds began.
    pub(super) fn frames(&self, from: Sender, counts: &Counts) {
        let way = way(from);
        let frames = self.frames[way].iter().zip(counts.frames);
        let units = [(&self.units[way], counts.units)];
        for (total, count) in frames.chain(units).filter(|(_, count)| *count > 0) {
            total.fetch_add(count, Relaxed);
        }
        self.sizes[way].add_all(&counts.sizes, counts.bytes);
    }

    /// Bytes passed that are no frames.
    pub(super) fn opaque(&self, from: Sender, bytes: usize) {
        self.opaque[way(from)].fetch_add(bytes as u64, Relaxed);
    }

    /// What passed in all.
    pub(crate) fn carried(&self) -> Carried {
        let pair = |pair: &[AtomicU64; 2]| pair.each_ref().map(|count| count.load(Relaxed));
        // A message has one frame of text or binary.
        let messages = |way: &[AtomicU64; KINDS]| way[1].load(Relaxed) + way[2].load(Relaxed);
        Carried {
            messages: self.frames.each_ref().map(messages),
            units: pair(&self.units),
            bytes: std::array::from_fn(|way| self.sizes[way].sum() + self.opaque[way].load(Relaxed)),
        }
    }

    pub(super) fn pinged(&self) {
        self.pings.fetch_add(1, Relaxed);
    }

    pub(super) fn unanswered(&self) {
        self.unanswered.fetch_add(1, Relaxed);
    }

    pub(super) fn lost_track(&self) {
        self.untracked.fetch_add(1, Relaxed);
    }

    /// One is over that was open for so long.
    pub(super) fn closed(&self, code: u16, by: By, age: Duration) {
        self.lives.add(&LIVES, u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        let mut closes = self.lock();
        let place = |closes: &[(Option<u16>, By, u64)], code| {
            closes.iter().position(|(of, who, _)| (*of, *who) == (code, by))
        };
        let code =
            Some(code).filter(|code| place(&closes, Some(*code)).is_some() || closes.len() < MAX_CODES);
        match place(&closes, code) {
            Some(place) => closes[place].2 += 1,
            None => closes.push((code, by, 1)),
        }
    }

    pub(crate) fn read(&self) -> WebSockets {
        let frames = self.frames.each_ref().map(|way| way.each_ref().map(|count| count.load(Relaxed)));
        let [pings, unanswered, untracked] =
            [&self.pings, &self.unanswered, &self.untracked].map(|count| count.load(Relaxed));
        WebSockets {
            frames,
            sizes: self.sizes.each_ref().map(Sizes::read),
            lives: self.lives.read(),
            handshakes: self.handshakes.read(),
            closes: self.lock().clone(),
            pings,
            unanswered,
            untracked,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Option<u16>, By, u64)>> {
        // Nothing happens under the lock that could leave it half done.
        self.closes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn way(from: Sender) -> usize {
    usize::from(from == Sender::Function)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_by_direction_and_kind() {
        let tally = Tally::default();
        let counts = |frames, bytes, units| Counts { frames, bytes, units, ..Counts::default() };
        tally.frames(Sender::Client, &counts([0, 1, 0, 0, 2, 0], 40_000, 2));
        tally.frames(Sender::Client, &counts([0, 0, 1, 0, 0, 0], 1, 1));
        tally.frames(Sender::Function, &counts([3, 0, 0, 1, 0, 0], 7, 0));
        tally.opaque(Sender::Function, 5);
        assert_eq!(tally.read().frames, [[0, 1, 1, 0, 2, 0], [3, 0, 0, 1, 0, 0]]);
        let carried = Carried { messages: [2, 0], units: [3, 0], bytes: [40_001, 12] };
        assert_eq!(tally.carried(), carried);
    }

    #[test]
    fn whatever_codes_clients_choose_so_many_are_counted_apart_and_the_others_together() {
        let tally = Tally::default();
        for code in 4000..4100 {
            tally.closed(code, By::Client, Duration::ZERO);
        }
        tally.closed(4000, By::Client, Duration::ZERO);
        tally.closed(1012, By::Host, Duration::from_secs(100));
        assert_eq!((tally.read().lives.cumulative[0], tally.read().lives.count()), (101, 102));
        let closes = tally.read().closes;
        assert_eq!(closes.len(), MAX_CODES + 2);
        assert!(closes.contains(&(Some(4000), By::Client, 2)));
        assert!(closes.contains(&(None, By::Client, 36)) && closes.contains(&(None, By::Host, 1)));
    }
}
