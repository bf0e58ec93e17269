//! The life of a connection, from its 101 to the last word about it. One task owns it all the way.
//!
//! ```text
//!   101 ─► connected (if asked for) ─► open ─────────────► closed ─► what waits is dealt with ─► disconnected ─► gone
//!                                       │ ▲                                                     (if asked for)
//!             a message, nothing in flight │
//!                                       ▼ │
//!                                     in flight ─► actions
//! ```
//!
//! One event is in flight at a time. What comes meanwhile waits in the mailbox; when that is full, the socket is not read,
//! and the client's own sending stops. A connection in which nothing happens is this struct, its socket and one timer.
//! Where the client may [come back](super::returns), the connection outlives its socket for a while.

mod away;
mod by_client;
mod clock;
mod deal;
mod inbox;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::time::{Instant, Sleep};
use tracing::{debug, warn};

use super::Shared;
use super::client_groups::{ClientGroups, Rights};
use super::ending::{Category, Ending};
use super::event::{Action, Departure, Message, Outcome};
use super::frame::Decoder;
use super::handover::Left;
use super::invoke::Told;
use super::lease::{self, Lease};
use super::member::Member;
use super::outbound::Said;
use super::settings::{EventMode, OnError};
use super::socket::Socket;
use super::wire::{Closed, Wire};
use crate::access_log::Record;
use crate::placement::{KeySource, ReplicaKey};
use crate::token::Claims;
use crate::tunnel::By;
pub(super) use deal::tell_loss;
use deal::{Dealt, Happened, deal};
use inbox::Inbox;

/// What goes with a connection from its handshake to its end.
pub(super) struct Ties {
    pub(super) shared: Arc<Shared>,
    pub(super) member: Arc<Member>,
    /// As they were when it was opened: for what is agreed upon with the client.
    pub(super) settings: Arc<EventMode>,
    pub(super) key: Option<ReplicaKey>,
}

/// An event in flight; resolves with what came of it, and the state that it took along.
type InFlight = Pin<Box<dyn Future<Output = Dealt> + Send>>;

pub(super) struct Connection {
    ties: Ties,
    wire: Wire,
    mailbox: Inbox,
    in_flight: Option<InFlight>,
    /// What the function wants to be told again. With the event that is in flight, if one is.
    state: Option<Box<str>>,
    sequence: u64,
    timer: Option<Pin<Box<Sleep>>>,
    record: Record,
    /// For how long its client may stay.
    lease: Option<Box<Lease>>,
    /// It was there before this process.
    goes_on: bool,
    /// Its socket is lost, and until then it waits for its client to come back.
    away: Option<Instant>,
    left: Option<Box<Left>>,
}

impl Connection {
    pub(super) fn new(
        ties: Ties,
        socket: Socket,
        ahead: Bytes,
        decoder: Decoder,
        state: Option<Box<str>>,
        record: Record,
    ) -> Self {
        ties.member.outbound.attach(socket, ties.shared.sweep());
        Self {
            wire: Wire::new(ahead, decoder),
            mailbox: Inbox::new(&ties.settings, &ties.member),
            in_flight: None,
            state,
            // The number of `connected`, whether anybody is told of that or not.
            sequence: 1,
            timer: None,
            record,
            lease: None,
            goes_on: false,
            away: None,
            left: None,
            ties,
        }
    }

    /// Goes on where an earlier process has left it: with this event behind it, and these messages to be dealt with.
    pub(super) fn goes_on(&mut self, sequence: u64, messages: VecDeque<Message>) {
        self.goes_on = true;
        self.sequence = sequence;
        self.mailbox.fill(messages);
    }

    /// Its client may stay for as long as this.
    pub(super) fn lets_go_with(&mut self, lease: Option<Box<Lease>>) {
        self.mailbox.renews = lease.is_some() && self.ties.settings.renewal;
        self.lease = lease;
    }

    /// Its client may do this by itself, if anything.
    pub(super) fn allows(&mut self, rights: Option<Rights>) {
        let groups = rights.map(|rights| ClientGroups { rights, ..ClientGroups::default() });
        self.mailbox.groups = groups.map(Box::new);
    }

    /// It has no socket, and waits until then for its client.
    pub(super) fn waits(&mut self, until: Instant) {
        self.away = Some(until);
    }

    /// What is done when its life begins.
    fn start(&mut self) {
        if self.ties.settings.events.connected && !self.goes_on {
            self.begin(Happened::Connected);
        }
    }

    /// What is done when it is gone.
    async fn finish(mut self: Box<Self>) {
        if let Some(left) = self.left.take() {
            return self.pass_on(*left);
        }
        let closed = self.wire.closed().cloned().unwrap_or_else(lost);
        self.does_wishes();
        self.leave(&closed);
        // What the client said before it went is said to the function all the same.
        poll_fn(|cx| self.poll_rest(cx)).await;
        if self.ties.now().events.disconnected {
            self.tell_end(&closed).await;
        } else {
            self.ties.shared.keeper.ended(self.ties.member.identity().id);
        }
    }

    /// Until the connection is gone.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.ties.member.outbound.listen(cx.waker());
        loop {
            let mut moved = self.poll_event(cx) | self.poll_renewal(cx) | self.does_wishes();
            moved |= self.comes_back();
            if self.away.is_none() {
                let outbound = &self.ties.member.outbound;
                moved |= self.wire.poll_read(cx, outbound, &mut self.mailbox).is_ready();
                moved |= self.wire.poll_write(cx, outbound, &self.mailbox).is_ready();
            }
            let lost = self.away.is_some() || self.wire.is_gone();
            if (lost && !self.stays()) || self.leaves() {
                return Poll::Ready(());
            }
            if !moved && !self.poll_time(cx) {
                return Poll::Pending;
            }
        }
    }

    /// Until nothing waits for the function any more.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.poll_event(cx) {}
        if self.in_flight.is_some() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Sees to the event in flight, and to the next one. `true` if something has changed.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(in_flight) = &mut self.in_flight {
            let Poll::Ready(dealt) = in_flight.as_mut().poll(cx) else { return false };
            self.in_flight = None;
            self.state = dealt.state;
            self.settle(dealt.told);
            return true;
        }
        if self.is_held_back() {
            return false;
        }
        let at_once = self.wire.closed().is_some();
        let Some(messages) = self.mailbox.next(self.ties.settings.batching, at_once) else { return false };
        self.begin(Happened::Said(messages));
        true
    }

    /// Sees to a token that the client gave. `true` if something has changed.
    fn poll_renewal(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(lease) = &mut self.lease else { return false };
        if let Some(token) = self.mailbox.token.take() {
            let guard = Arc::clone(&self.ties.shared.guard);
            lease.verify(Box::pin(async move { guard.claims(&token).await }));
        }
        let Poll::Ready(verified) = lease.poll_verified(cx) else { return false };
        let renewed = verified.map_err(|why| why.to_string()).and_then(|claims| {
            self.ties.admits(&claims)?;
            let until = lease.renew(&claims).map_err(str::to_owned)?;
            if let Some(groups) = &mut self.mailbox.groups {
                groups.rights.renew(&claims);
            }
            Ok(until)
        });
        drop_word(
            self.ties
                .member
                .speak_of_task(&lease::answer(renewed.as_ref().map(|until| *until).map_err(|why| &**why))),
        );
        true
    }

    fn begin(&mut self, happened: Happened) {
        if matches!(happened, Happened::Said(_)) {
            self.sequence += 1;
        }
        let (state, sequence) = (self.state.take(), self.sequence);
        let ties = self.ties.clone();
        self.in_flight = Some(Box::pin(deal(ties, happened, Some(sequence), state)));
    }

    /// Does what the function wants done.
    fn settle(&mut self, told: Told<Outcome>) {
        match told {
            Told::Answered(Outcome::Done(actions)) => {
                for action in actions {
                    self.act(action);
                }
            }
            Told::Answered(Outcome::Failed { tell, .. }) => self.failed(tell, false),
            Told::Unanswered { outcome: Outcome::Failed { tell, .. }, overload, .. } => {
                self.failed(tell, overload);
            }
            Told::Unanswered { outcome: Outcome::Done(_), overload, .. } => self.failed(None, overload),
        }
    }

    fn failed(&self, tell: Option<Message>, overload: bool) {
        let member = &self.ties.member;
        let on_error = match (self.ties.now().on_error, &tell) {
            (OnError::Dialect, Some(_)) => OnError::Reply,
            (OnError::Dialect, None) => OnError::Close,
            (said, _) => said,
        };
        match (on_error, tell) {
            (OnError::Reply, Some(message)) => drop_word(member.speak_of_task(&message)),
            (OnError::Reply | OnError::Ignore, _) => {}
            (OnError::Close | OnError::Dialect, _) if overload => {
                member.end(Ending::of_host(1013, "try again later", Category::Overload));
            }
            (OnError::Close | OnError::Dialect, _) => {
                member.end(Ending::of_host(1011, "function error", Category::FunctionError));
            }
        }
    }

    fn act(&mut self, action: Action) {
        let Ties { shared, member, settings, .. } = &self.ties;
        let namespace = &member.identity().function.namespace;
        match action {
            Action::Send(message) => drop_word(member.speak_of_task(&message)),
            Action::Publish { group, message, exclude_self } => {
                let me = [member.identity().id];
                let except = if exclude_self { &me[..] } else { &[] };
                shared.hub.say_to_group(namespace, &group, &message, except);
            }
            Action::Join(group) => {
                if let Err(error) = shared.hub.join(member, &group, settings.max_groups) {
                    let function = &member.identity().function;
                    warn!(%function, "function {function}: a connection cannot join {group:?}: {error}");
                }
            }
            Action::Leave(group) => {
                shared.hub.part(member, &group);
            }
            Action::SetState(state) => self.state = state.map(String::into_boxed_str),
            Action::Close(frame) => {
                member.end(Ending::new(frame, By::Function, Category::Normal));
            }
        }
    }

    /// It is gone: for everybody but the function, which may still have to hear what was said.
    fn leave(&mut self, closed: &Closed) {
        let Ties { shared, member, .. } = &self.ties;
        shared.hub.leave(member);
        let carried = member.has_carried();
        member.counters().ended(closed, member.age());
        (self.record.received, self.record.sent) = (carried.bytes[0], carried.bytes[1]);
        self.record.broken = (closed.category != Category::Normal).then(|| closed.category.name());
        self.record.closed(Some(carried.messages), Some((closed.code, closed.by.name())));
        debug!(
            connection = %member.identity().id, code = closed.code, by = closed.by.name(),
            category = closed.category.name(), "a connection ended"
        );
    }

    async fn tell_end(mut self: Box<Self>, closed: &Closed) {
        let departure = Departure {
            code: closed.code,
            reason: closed.reason.clone(),
            by: closed.by,
            lasted: self.ties.member.age(),
        };
        self.sequence += 1;
        let (state, sequence) = (self.state.take(), self.sequence);
        let (keeper, id) = (Arc::clone(&self.ties.shared.keeper), self.ties.member.identity().id);
        let ties = self.ties.clone();
        drop(self);
        deal(ties, Happened::Left(departure), Some(sequence), state).await;
        keeper.ended(id);
    }
}

/// The way to a connection that is open, or to none.
pub(super) type Opening = Pin<Box<dyn Future<Output = Option<Box<Connection>>> + Send>>;

/// Lives. What is in this function is what a connection takes for as long as it is open: all that comes before and behind
/// is in boxes of its own, and there only then.
pub(super) async fn live(opening: Opening) {
    let Some(mut connection) = opening.await else { return };
    connection.start();
    poll_fn(|cx| connection.poll(cx)).await;
    Box::pin(connection.finish()).await;
}

impl Ties {
    /// May a client that gives a token which says this stay on the connection that it has?
    fn admits(&self, claims: &Claims) -> Result<(), String> {
        let upstream = self.member.upstream();
        upstream.permit(claims).map_err(|why| why.to_string())?;
        let placement = upstream.placement.load();
        let Some(KeySource::Jwt(claim)) = placement.as_ref().and_then(|placement| placement.key.as_ref())
        else {
            return Ok(());
        };
        if claims.get(claim) == self.key.as_ref().map(ReplicaKey::as_str) {
            Ok(())
        } else {
            Err("it is of another key".to_owned())
        }
    }

    /// What the function asks of events now: it may have been changed since the connection was opened.
    pub(super) fn now(&self) -> Arc<EventMode> {
        self.member.upstream().event_mode().unwrap_or_else(|| Arc::clone(&self.settings))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Others may have the member for a while, and the socket is this connection's.
        self.ties.member.outbound.detach();
    }
}

impl Clone for Ties {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            member: Arc::clone(&self.member),
            settings: Arc::clone(&self.settings),
            key: self.key.clone(),
        }
    }
}

/// A word that could not be said has its consequence already: the connection ends, or has ended.
fn drop_word(_said: Said) {}

fn lost() -> Closed {
    Closed { code: 1006, reason: "".into(), by: By::Network, category: Category::Network }
}

#[cfg(test)]
mod tests {
    use std::mem::size_of;

    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        // Beside these two there are its socket's place with the runtime, a few texts and the lists that it is in.
        let opening: Opening = Box::pin(std::future::ready(None));
        let sizes = [size_of::<Connection>(), size_of::<Member>(), size_of_val(&live(opening))];
        assert!(sizes[0] <= 640 && sizes[1] <= 528 && sizes[2] <= 64, "{sizes:?}");
    }
}
