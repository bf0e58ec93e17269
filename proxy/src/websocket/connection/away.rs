//! A connection without its socket, or without its process: who waits for a client that is gone, and who is left to the next
//! process.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::{Connection, Ties};
use crate::websocket::ending::{Category, Ending};
use crate::websocket::frame::{Decoder, Limits};
use crate::websocket::handover::{self, Left};
use crate::websocket::passed::{Passed, Raw};
use crate::websocket::wire::Wire;

impl Connection {
    /// Its socket is lost. Does it wait for its client to come back?
    pub(super) fn stays(&mut self) -> bool {
        let member = &self.ties.member;
        let Some(returns) = member.returns.get() else { return false };
        if let Some(until) = self.away {
            return until > Instant::now() && !member.outbound.is_ending();
        }
        let Some(window) = self.ties.now().resume else { return false };
        if !self.is_lost() || member.outbound.end_waits() {
            return false;
        }
        returns.goes_away(&member.outbound);
        self.away = Some(Instant::now() + window);
        true
    }

    /// Has nobody wanted it to end?
    fn is_lost(&self) -> bool {
        let shared = &self.ties.shared;
        let restarts = shared.handing_over.load(Ordering::Acquire);
        match self.wire.closed().map(|closed| closed.category) {
            None | Some(Category::Network) => restarts || !shared.closing.load(Ordering::Acquire),
            Some(Category::Shutdown) => restarts,
            Some(_) => false,
        }
    }

    /// Goes on with the socket of a client that is back. `true` if there is one.
    pub(super) fn comes_back(&mut self) -> bool {
        let member = &self.ties.member;
        let Some(returns) = member.returns.get() else { return false };
        let Some(back) = returns.take_back() else { return false };
        // Whoever wants it to end has said so before.
        if member.outbound.end_waits() || (self.wire.closed().is_some() && !self.is_lost()) {
            return false;
        }
        let max_message = self.ties.settings.max_message;
        let decoder = Decoder::new(Limits { max_message, deflate: false, ..Limits::default() });
        // Nothing is said on the new socket before what the client has not had.
        returns.goes_away(&member.outbound);
        member.outbound.attach(back.socket, self.ties.shared.sweep());
        self.wire = Wire::new(back.ahead, decoder);
        self.away = None;
        let whole = returns.goes_on(&member.outbound, back.seen, back.greet);
        member.counters().returned(usize::from(!whole));
        if back.whole && !whole {
            // It was told otherwise: more was said meanwhile than is kept.
            member.end(Ending::too_slow());
        }
        if back.lease.is_some() {
            if let Some(groups) = &mut self.mailbox.groups {
                groups.rights.renew(&back.claims);
            }
            self.lets_go_with(back.lease);
        }
        true
    }

    /// Is what waits for the next process to tell?
    pub(super) fn is_held_back(&self) -> bool {
        self.ties.shared.leaving.load(Ordering::Acquire) && self.wire.closed().is_none()
    }

    /// Leaves the connection to the next process, if that is what is wanted, and nothing is under way.
    pub(super) fn leaves(&mut self) -> bool {
        let shared = &self.ties.shared;
        let outbound = &self.ties.member.outbound;
        let away = self.away;
        if shared.handing_over.load(Ordering::Acquire) && away.is_none() && !self.wire.can_leave(outbound) {
            self.ties.member.end(Ending::shutdown());
        }
        let is_busy = self.in_flight.is_some()
            || self.lease.as_ref().is_some_and(|lease| lease.is_busy())
            || self.mailbox.groups.as_ref().is_some_and(|groups| !groups.wishes.is_empty());
        if is_busy || !shared.leaving.load(Ordering::Acquire) {
            return false;
        }
        if let Some(until) = away {
            self.leave_without_socket(until);
            return true;
        }
        if !self.wire.can_leave(outbound) {
            return false;
        }
        let Some((socket, unsent)) = self.wire.leave(outbound) else { return false };
        let mut passed = self.write_down();
        passed.unsent = unsent.into_iter().map(Raw).collect();
        self.left = Some(Box::new(Left { socket: Some(socket), passed }));
        true
    }

    /// Where it stands, but for what was not written yet. Nothing is left in the mailbox.
    fn write_down(&mut self) -> Passed {
        let (decoder, rest) = self.wire.place();
        let mut passed =
            handover::write_down(&self.ties, self.state.as_deref(), self.sequence, decoder, rest);
        passed.lease = self.lease.as_ref().map(|lease| lease.pass_on());
        passed.rights = self.mailbox.groups.as_ref().map(|groups| groups.rights.clone());
        let messages = self.mailbox.take_all();
        passed.messages = messages.into_iter().map(|message| (message.text, Raw(message.data))).collect();
        passed
    }

    /// The next process is to wait for its client.
    fn leave_without_socket(&mut self, until: Instant) {
        // What is said from here on is not for this one.
        self.ties.member.outbound.take_all();
        let mut passed = self.write_down();
        passed.rest = Raw::default();
        let left = until.saturating_duration_since(Instant::now());
        passed.away = Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        self.left = Some(Box::new(Left { socket: None, passed }));
    }

    /// It is the next process' from here on.
    pub(super) fn pass_on(mut self: Box<Self>, left: Left) {
        let Ties { shared, member, .. } = &self.ties;
        shared.hub.pass_on(member);
        member.counters().passed_on();
        self.record.broken = Some("handed over");
        self.record.closed(None, None);
        shared.left.lock().unwrap_or_else(PoisonError::into_inner).push(left);
    }
}
