//! What is counted of the connections of a function in event mode.
//!
//! Owns plain counters, added to as things happen.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::ending::Category;
use super::event::Message;
use super::frame::Opcode;
use super::keeper::Reason;
use super::outbound::Said;
use super::wire::Closed;
use crate::handshakes::{Handshaken, Handshakes};
use crate::meter::{Carried, Lengths, Meter, Place, units};
use crate::metrics::{Distribution, Histogram};
use crate::scale::{LIVES, SIZES, Sizes, Spread};
use crate::tunnel::{By, FRAME_TYPES};

/// The kinds of events, in the order in which they are counted.
pub const EVENTS: [&str; 6] = ["connect", "connected", "message", "disconnected", "joined", "left"];

/// The places of the last two.
pub(super) const JOINED: usize = 4;
pub(super) const LEFT: usize = 5;

/// What can come of an event: the function dealt with it, failed with it, or could not be had.
pub const OUTCOMES: [&str; 3] = ["done", "failed", "unanswered"];

/// What can come of a client that comes back: it has all that was said, or some of that is gone, or it is a new one.
pub const RETURNS: [&str; 3] = ["whole", "partial", "unknown"];

/// Whoever ends a connection chooses the code: of one function so many ends are counted apart, and all others together.
const MAX_ENDS: usize = 64;

/// Why a client did not get what was said to it: it did not keep up, or its connection was ending.
pub const DROPS: [&str; 2] = ["slow_consumer", "closed"];

/// How connections ended: with which code (none stands for all that are not counted apart), by whom and why.
pub type End = (Option<u16>, By, Category);

#[derive(Debug, Default)]
pub(crate) struct EventCounters {
    open: AtomicUsize,
    /// For how long they are. They are all at one place: here.
    held: Meter,
    here: Place,
    /// Of messages: their number and their bytes as well.
    sizes: [Sizes; 2],
    units: [AtomicU64; 2],
    frames: [[AtomicU64; FRAME_TYPES.len()]; 2],
    /// For how long those were open that have ended.
    lives: Sizes,
    events: [[AtomicU64; 3]; EVENTS.len()],
    seconds: [Histogram; EVENTS.len()],
    pub(crate) handshakes: Handshakes,
    /// What was said to clients that did not get it.
    dropped: [AtomicU64; 2],
    /// Messages in mailboxes now.
    waiting: AtomicUsize,
    waits: Histogram,
    round_trips: Histogram,
    retries: AtomicU64,
    answered_here: AtomicU64,
    pings: AtomicU64,
    unanswered_pings: AtomicU64,
    dead: [AtomicU64; 3],
    returns: [AtomicU64; RETURNS.len()],
    ends: Mutex<Vec<(End, u64)>>,
}

/// What was counted since this process began.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EventTotals {
    /// Connections that are open now.
    pub open: usize,
    /// Messages from clients, and to them.
    pub messages: [u64; 2],
    /// The bytes of those.
    pub bytes: [u64; 2],
    /// How long they are, on the scale of [`SIZES`].
    pub sizes: [Spread; 2],
    /// Frames from clients and frames to them, each by [`FRAME_TYPES`]. Those of a message count once it is whole.
    pub frames: [[u64; FRAME_TYPES.len()]; 2],
    /// For how long connections were open that have ended, on the scale of [`LIVES`].
    pub lives: Spread,
    /// Events by [`EVENTS`], and what came of them by [`OUTCOMES`].
    pub events: [[u64; 3]; EVENTS.len()],
    /// How long they took, by [`EVENTS`], all tries together.
    pub seconds: [Distribution; EVENTS.len()],
    /// Handshakes by how they were answered.
    pub handshakes: Vec<Handshaken>,
    /// Messages to clients that did not get them, by [`DROPS`].
    pub dropped: [u64; 2],
    /// Messages of clients that wait for the function now.
    pub waiting: usize,
    /// How long those waited that it was told of.
    pub waits: Distribution,
    /// How long clients took to answer a ping.
    pub round_trips: Distribution,
    /// Tries behind the first one.
    pub retries: u64,
    /// Messages that were answered here.
    pub answered_here: u64,
    /// Pings to clients.
    pub pings: u64,
    /// Clients that did not answer one.
    pub unanswered_pings: u64,
    /// Events that found no end, by [`Reason::ALL`].
    pub dead: [u64; 3],
    /// Clients that came back, by [`RETURNS`].
    pub returns: [u64; RETURNS.len()],
    /// How connections ended.
    pub ends: Vec<(End, u64)>,
}

impl EventCounters {
    pub(super) fn opened(&self) {
        self.open.fetch_add(1, Relaxed);
        self.held.begin(&self.here);
    }

    /// Another process has one from here on.
    pub(super) fn passed_on(&self) {
        self.closed();
    }

    /// One that was let in has gone before it had its answer.
    pub(super) fn never_began(&self) {
        self.closed();
    }

    fn closed(&self) {
        self.open.fetch_sub(1, Relaxed);
        self.held.end(&self.here);
    }

    /// One is over, of that age.
    pub(super) fn ended(&self, closed: &Closed, age: Duration) {
        self.closed();
        self.lives.add(&LIVES, u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        let mut ends = self.lock();
        let place = |ends: &[(End, u64)], end: End| ends.iter().position(|(one, _)| *one == end);
        let end = (Some(closed.code), closed.by, closed.category);
        let apart = place(&ends, end).is_some() || ends.len() < MAX_ENDS;
        let end = if apart { end } else { (None, closed.by, closed.category) };
        match place(&ends, end) {
            Some(at) => ends[at].1 += 1,
            None => ends.push((end, 1)),
        }
    }

    pub(super) fn received(&self, bytes: usize) {
        self.passed(0, bytes as u64);
    }

    pub(super) fn sent(&self, message: &Message) {
        self.frame_out(Opcode::of_message(message.text));
        self.passed(1, message.data.len() as u64);
    }

    fn passed(&self, way: usize, bytes: u64) {
        self.sizes[way].add(&SIZES, bytes);
        self.units[way].fetch_add(units(0, bytes).0, Relaxed);
    }

    /// So many frames of this kind have come. Pings of ours are [counted](Self::pinged) as such.
    pub(super) fn frames_in(&self, kind: Opcode, count: u32) {
        self.frames[0][kind.place()].fetch_add(u64::from(count), Relaxed);
    }

    /// A frame of this kind is to be written.
    pub(super) fn frame_out(&self, kind: Opcode) {
        self.frames[1][kind.place()].fetch_add(1, Relaxed);
    }

    /// What messages carried.
    pub(crate) fn carried(&self) -> Carried {
        let sizes = self.sizes.each_ref().map(Sizes::read);
        Carried {
            messages: sizes.map(|of| of.count()),
            units: self.units.each_ref().map(|count| count.load(Relaxed)),
            bytes: sizes.map(|of| of.sum),
        }
    }

    /// For how long connections were held: all together, and at least one.
    pub(crate) fn held(&self) -> Lengths {
        self.held.read()
    }

    pub(super) fn event(&self, kind: usize, outcome: usize, took: Duration) {
        self.events[kind][outcome].fetch_add(1, Relaxed);
        self.seconds[kind].observe(took);
    }

    /// So many messages wait for the function.
    pub(super) fn waits(&self, count: usize) {
        self.waiting.fetch_add(count, Relaxed);
    }

    /// So many do no more.
    pub(super) fn waits_no_more(&self, count: usize) {
        self.waiting.fetch_sub(count, Relaxed);
    }

    /// The function is told of a message that has waited so long.
    pub(super) fn waited(&self, time: Duration) {
        self.waits.observe(time);
    }

    /// A client has answered a ping.
    pub(super) fn answered_ping(&self, round_trip: Duration) {
        self.round_trips.observe(round_trip);
    }

    /// A client did not get what was said to it.
    pub(super) fn dropped(&self, said: Said) {
        match said {
            Said::Queued => {}
            Said::TooSlow => drop(self.dropped[0].fetch_add(1, Relaxed)),
            Said::Gone => drop(self.dropped[1].fetch_add(1, Relaxed)),
        }
    }

    pub(super) fn retried(&self) {
        self.retries.fetch_add(1, Relaxed);
    }

    pub(super) fn died(&self, reason: Reason) {
        self.dead[reason as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn answered_here(&self) {
        self.answered_here.fetch_add(1, Relaxed);
    }

    pub(super) fn pinged(&self) {
        self.pings.fetch_add(1, Relaxed);
    }

    pub(super) fn unanswered(&self) {
        self.unanswered_pings.fetch_add(1, Relaxed);
    }

    pub(super) fn returned(&self, outcome: usize) {
        self.returns[outcome].fetch_add(1, Relaxed);
    }

    pub(crate) fn read(&self) -> EventTotals {
        let sizes = self.sizes.each_ref().map(Sizes::read);
        let mut frames = self.frames.each_ref().map(|way| way.each_ref().map(|count| count.load(Relaxed)));
        frames[1][Opcode::Ping.place()] += self.pings.load(Relaxed);
        EventTotals {
            open: self.open.load(Relaxed),
            messages: sizes.map(|of| of.count()),
            bytes: sizes.map(|of| of.sum),
            sizes,
            frames,
            lives: self.lives.read(),
            events: self.events.each_ref().map(|kind| kind.each_ref().map(|count| count.load(Relaxed))),
            seconds: self.seconds.each_ref().map(Histogram::read),
            handshakes: self.handshakes.read(),
            dropped: self.dropped.each_ref().map(|count| count.load(Relaxed)),
            waiting: self.waiting.load(Relaxed),
            waits: self.waits.read(),
            round_trips: self.round_trips.read(),
            retries: self.retries.load(Relaxed),
            answered_here: self.answered_here.load(Relaxed),
            pings: self.pings.load(Relaxed),
            unanswered_pings: self.unanswered_pings.load(Relaxed),
            dead: self.dead.each_ref().map(|count| count.load(Relaxed)),
            returns: self.returns.each_ref().map(|count| count.load(Relaxed)),
            ends: self.lock().clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(End, u64)>> {
        // Nothing happens under the lock that could leave it half done.
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_codes_clients_choose_so_many_ends_are_counted_apart_and_the_others_together() {
        let counters = EventCounters::default();
        let closed = |code| Closed { code, reason: "".into(), by: By::Client, category: Category::Normal };
        for code in (4000..4100).chain([4000]) {
            counters.opened();
            counters.ended(&closed(code), Duration::from_secs(90));
        }
        let totals = counters.read();
        assert_eq!((totals.open, totals.ends.len()), (0, MAX_ENDS + 1));
        assert_eq!((totals.lives.cumulative[2], totals.lives.cumulative[3]), (0, 101));
        assert!(totals.ends.contains(&((Some(4000), By::Client, Category::Normal), 2)));
        assert!(totals.ends.contains(&((None, By::Client, Category::Normal), 36)));
    }
}
