//! What happens on a connection because time has passed: pings, batches, the limits of its function, the end of a token.

use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Connection;
use crate::websocket::ending::{Category, Ending};
use crate::websocket::wire::Due;

impl Connection {
    /// Does what is due, and waits for what is due next. `true` if something has changed.
    pub(super) fn poll_time(&mut self, cx: &mut Context<'_>) -> bool {
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
        let may_begin = self.in_flight.is_none() && !self.is_held_back();
        let batching = settings.batching.filter(|_| may_begin);
        let batch = batching.zip(self.mailbox.since()).map(|(batching, since)| since + batching.window);
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
        match self.wire.on_time(ping, pong, &member.outbound, &self.mailbox) {
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
}
