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

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::{debug, warn};

use super::Shared;
use super::counters::EventCounters;
use super::ending::{Category, Ending};
use super::event::{Action, Departure, Event, Message, Outcome, What};
use super::frame::{Decoder, Limits};
use super::handover::{self, Left};
use super::invoke::{Teller, Told};
use super::lease::{self, Lease};
use super::member::Member;
use super::outbound::Said;
use super::passed::{Passed, Raw};
use super::settings::{Batching, EventMode, OnError};
use super::socket::Socket;
use super::spoken::Spoken;
use super::wire::{self, Closed, Due, Taken, Wire};
use crate::access_log::Record;
use crate::placement::{KeySource, ReplicaKey};
use crate::token::Claims;
use crate::tunnel::By;

/// How many bytes of messages wait for the function before no more is read, whatever the mailbox holds by number.
const MAILBOX_BYTES: usize = 1 << 20;

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

struct Dealt {
    told: Told<Outcome>,
    state: Option<Box<str>>,
}

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

/// What waits for the function.
struct Inbox {
    messages: VecDeque<Message>,
    bytes: usize,
    most: usize,
    /// When the first of them came.
    since: Instant,
    rules: Rules,
    /// Its client may give a new token, and this is one that it gave.
    renews: bool,
    token: Option<String>,
}

/// What becomes of a message before it is let into the mailbox.
struct Rules {
    settings: Arc<EventMode>,
    member: Arc<Member>,
}

impl wire::Mailbox for Inbox {
    fn has_room(&self) -> bool {
        self.messages.len() < self.most && self.bytes < MAILBOX_BYTES
    }

    fn take(&mut self, message: Message) -> Taken {
        let Rules { settings, member } = &self.rules;
        if self.renews
            && let Some(token) = lease::token_in(&message)
        {
            member.counters().answered_here();
            self.token = Some(token);
            return Taken::Kept;
        }
        if let Some((_, answer)) = settings.auto_response.iter().find(|(asked, _)| *asked == message.data) {
            member.counters().answered_here();
            let answer = Message { text: message.text, data: answer.clone() };
            return Taken::Answered(Spoken::new(&answer).to(member.deflate.get().copied()));
        }
        member.carried_in(message.data.len());
        if settings.text_only && !message.text {
            return Taken::Refused(Ending::of_host(1003, "text only", Category::Unsupported));
        }
        if settings.events.no_messages {
            return Taken::Kept;
        }
        if self.messages.is_empty() {
            self.since = Instant::now();
        }
        self.bytes += message.data.len();
        self.messages.push_back(message);
        Taken::Kept
    }

    fn probed(&mut self) {}
}

impl Inbox {
    /// What the next event is of, if it is to be made now.
    fn next(&mut self, batching: Option<Batching>, at_once: bool) -> Option<Vec<Message>> {
        let count = match batching {
            None => 1,
            Some(batching) => {
                let due = at_once || self.messages.len() >= batching.count.min(self.most);
                if !due && self.since + batching.window > Instant::now() {
                    return None;
                }
                batching.count
            }
        };
        let count = count.min(self.messages.len());
        if count == 0 {
            return None;
        }
        let next: Vec<Message> = self.messages.drain(..count).collect();
        self.bytes -= next.iter().map(|message| message.data.len()).sum::<usize>();
        if self.messages.is_empty() {
            self.messages = VecDeque::new();
        }
        self.since = Instant::now();
        Some(next)
    }
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
        let rules = Rules { settings: Arc::clone(&ties.settings), member: Arc::clone(&ties.member) };
        let now = Instant::now();
        let most = ties.settings.mailbox.max(1);
        ties.member.outbound.attach(socket, ties.shared.sweep());
        Self {
            wire: Wire::new(ahead, decoder),
            mailbox: Inbox {
                messages: VecDeque::new(),
                bytes: 0,
                most,
                since: now,
                rules,
                renews: false,
                token: None,
            },
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
        self.mailbox.bytes = messages.iter().map(|message| message.data.len()).sum();
        self.mailbox.messages = messages;
    }

    /// Its client may stay for as long as this.
    pub(super) fn lets_go_with(&mut self, lease: Option<Box<Lease>>) {
        self.mailbox.renews = lease.is_some() && self.ties.settings.renewal;
        self.lease = lease;
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
            let mut moved = self.poll_event(cx) | self.poll_renewal(cx);
            moved |= self.comes_back();
            if self.away.is_none() {
                let outbound = &self.ties.member.outbound;
                moved |= self.wire.poll_read(cx, outbound, &mut self.mailbox).is_ready();
                moved |= self.wire.poll_write(cx, outbound).is_ready();
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

    /// Its socket is lost. Does it wait for its client to come back?
    fn stays(&mut self) -> bool {
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
    fn comes_back(&mut self) -> bool {
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
            self.lets_go_with(back.lease);
        }
        true
    }

    /// Is what waits for the next process to tell?
    fn is_held_back(&self) -> bool {
        self.ties.shared.leaving.load(Ordering::Acquire) && self.wire.closed().is_none()
    }

    /// Leaves the connection to the next process, if that is what is wanted, and nothing is under way.
    fn leaves(&mut self) -> bool {
        let shared = &self.ties.shared;
        let outbound = &self.ties.member.outbound;
        let away = self.away;
        if shared.handing_over.load(Ordering::Acquire) && away.is_none() && !self.wire.can_leave(outbound) {
            self.ties.member.end(Ending::shutdown());
        }
        let is_busy = self.in_flight.is_some() || self.lease.as_ref().is_some_and(|lease| lease.is_busy());
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
        let messages = std::mem::take(&mut self.mailbox.messages);
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
    fn pass_on(mut self: Box<Self>, left: Left) {
        let Ties { shared, member, .. } = &self.ties;
        shared.hub.pass_on(member);
        member.counters().passed_on();
        self.record.broken = Some("handed over");
        self.record.closed(None, None);
        shared.left.lock().unwrap_or_else(PoisonError::into_inner).push(left);
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
            lease.renew(&claims).map_err(str::to_owned)
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
        self.in_flight = Some(Box::pin(deal(ties, happened, sequence, state)));
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

    /// Does what is due, and waits for what is due next. `true` if something has changed.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            let Some(due) = self.due() else { return false };
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if timer.deadline() > due || timer.is_elapsed() {
                timer.as_mut().reset(due);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return false;
            }
            if self.due().is_none_or(|due| due > Instant::now()) {
                continue;
            }
            self.on_time();
            return true;
        }
    }

    /// When the next thing is due that no byte brings.
    fn due(&self) -> Option<Instant> {
        let (ping, pong) = self.ping();
        let settings = &self.ties.settings;
        let waits = !self.mailbox.messages.is_empty() && self.in_flight.is_none() && !self.is_held_back();
        let batch = settings.batching.filter(|_| waits);
        let batch = batch.map(|batching| self.mailbox.since + batching.window);
        let open = self.wire.closed().is_none() && self.away.is_none();
        let limits = self.ties.member.upstream().limits_now();
        let idle = limits.timeouts.tunnel_idle.map(|limit| self.ties.member.idle_since() + limit);
        let lifetime = limits.timeouts.lifetime.map(|limit| self.ties.member.began() + limit);
        let of_wire = match self.away {
            Some(until) => Some(until),
            None => self.wire.deadline(ping, pong),
        };
        let expiry = self.lease.as_ref().and_then(|lease| lease.ends(limits.timeouts.token_grace));
        let of_limits = idle.into_iter().chain(lifetime).chain(expiry).filter(|_| open);
        of_wire.into_iter().chain(batch).chain(of_limits).min()
    }

    fn on_time(&mut self) {
        // Whether that is over, is seen to where its socket is.
        if self.away.is_some() {
            return;
        }
        let (ping, pong) = self.ping();
        let member = &self.ties.member;
        match self.wire.on_time(ping, pong, &member.outbound) {
            Due::Pinged => member.counters().pinged(),
            Due::Unanswered => member.counters().unanswered(),
            Due::Nothing => {}
        }
        let (limits, now) = (member.upstream().limits_now(), Instant::now());
        let over = |since: Instant, limit: Option<Duration>| limit.is_some_and(|limit| since + limit <= now);
        if over(member.idle_since(), limits.timeouts.tunnel_idle) {
            member.end(Ending::of_host(1001, "idle timeout", Category::Idle));
        } else if over(member.began(), limits.timeouts.lifetime) {
            member.end(Ending::of_host(1001, "lifetime", Category::Lifetime));
        }
        let expiry = self.lease.as_ref().and_then(|lease| lease.ends(limits.timeouts.token_grace));
        if expiry.is_some_and(|expiry| expiry <= now) {
            member.end(Ending::of_host(1008, "token expired", Category::TokenExpired));
        }
    }

    /// How long a silence may be, and the one behind a ping. Clients that came together are not asked together.
    fn ping(&self) -> (Option<Duration>, Duration) {
        let settings = &self.ties.settings;
        let spread = 0.9 + 0.2 * f64::from(self.ties.member.identity().id.spread()) / 255.0;
        (settings.ping_interval.map(|interval| interval.mul_f64(spread)), settings.ping_timeout)
    }

    /// It is gone: for everybody but the function, which may still have to hear what was said.
    fn leave(&mut self, closed: &Closed) {
        let Ties { shared, member, .. } = &self.ties;
        shared.hub.leave(member);
        let carried = member.has_carried();
        member.counters().ended(closed);
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
        deal(ties, Happened::Left(departure), sequence, state).await;
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

/// Tells the function of the end of a connection that nobody saw.
pub(super) async fn tell_loss(ties: Ties, why: &'static str) {
    let (keeper, id) = (Arc::clone(&ties.shared.keeper), ties.member.identity().id);
    if ties.settings.events.disconnected {
        let lasted = ties.member.identity().since.elapsed().unwrap_or_default();
        let departure = Departure { code: 1006, reason: why.into(), by: By::Host, lasted };
        deal(ties, Happened::Left(departure), u64::from(u32::MAX), None).await;
    }
    keeper.ended(id);
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

/// What a function is told, and owned by the telling.
enum Happened {
    Connected,
    Said(Vec<Message>),
    Left(Departure),
}

async fn deal(ties: Ties, happened: Happened, sequence: u64, state: Option<Box<str>>) -> Dealt {
    let began = Instant::now();
    let (what, kind) = match &happened {
        Happened::Connected => (What::Connected, 1),
        Happened::Said(messages) => (What::Messages(messages), 2),
        Happened::Left(departure) => (What::Disconnected(departure), 3),
    };
    let counters = ties.member.counters();
    let event = Event {
        of: ties.member.identity(),
        sequence,
        attempt: 1,
        at: SystemTime::now(),
        state: state.as_deref(),
        what,
    };
    let (settings, key) = (ties.now(), ties.key.as_ref());
    let told = Teller { shared: &ties.shared, settings: &settings, counters, key }.happened(event).await;
    count(counters, kind, &told, began);
    Dealt { told, state }
}

/// Counts what came of an event.
fn count(counters: &EventCounters, kind: usize, told: &Told<Outcome>, began: Instant) {
    let outcome = match told {
        Told::Answered(Outcome::Done(_)) => 0,
        Told::Answered(Outcome::Failed { .. }) => 1,
        Told::Unanswered { .. } => 2,
    };
    counters.event(kind, outcome, began.elapsed());
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
        assert!(sizes[0] <= 640 && sizes[1] <= 512 && sizes[2] <= 64, "{sizes:?}");
    }
}
