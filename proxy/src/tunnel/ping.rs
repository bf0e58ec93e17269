//! Asking a client whether it still lives, for functions that want that.
//!
//! Owns the ping itself and when it is time for one. A ping is a sign of life to the routers between, and what comes back
//! one of the client's: not traffic to anybody else. Never goes to a client that has said goodbye.
//!
//! ```text
//!   quiet ──nothing heard for `every`──► asked ──anything heard──► quiet
//!                                          └──PONG──► lost
//! ```

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use super::screen::Cookie;

/// How long a client that was asked may be silent.
const PONG: Duration = Duration::from_secs(20);

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing until then.
    Wait(Instant),
    Ping,
    /// The client is gone.
    Lost,
}

/// When a client is asked.
#[derive(Debug)]
pub(super) struct KeepAlive {
    every: Duration,
    cookie: Cookie,
    asked: Option<Instant>,
}

impl KeepAlive {
    /// After so long a silence, more or less by up to a tenth: tunnels that opened at one moment do not all ask at one.
    pub(super) fn new(every: Duration) -> Self {
        let random = RandomState::new();
        let spread = u32::try_from(random.hash_one("spread") % 201).unwrap_or(100);
        Self {
            every: every / 1000 * (900 + spread),
            cookie: random.hash_one("cookie").to_be_bytes(),
            asked: None,
        }
    }

    /// What our pings say: hard to guess, so that no pong of somebody else's ping is taken for an answer.
    pub(super) fn cookie(&self) -> Cookie {
        self.cookie
    }

    /// What to do at `now`, when the client was last heard at `heard`.
    pub(super) fn step(&self, heard: Instant, now: Instant) -> Step {
        match self.asked {
            // Moments are kept to the millisecond.
            Some(asked) if heard + Duration::from_millis(1) <= asked => {
                // If it answers meanwhile, the next ping may be due before this one is lost.
                let due = [asked + self.every, asked + PONG].into_iter().filter(|due| now < *due).min();
                if now < asked + PONG { due.map_or(Step::Lost, Step::Wait) } else { Step::Lost }
            }
            _ if now < heard + self.every => Step::Wait(heard + self.every),
            _ => Step::Ping,
        }
    }

    /// The client is asked at `now`.
    pub(super) fn ask(&mut self, now: Instant) -> Ping {
        self.asked = Some(now);
        let mut bytes = [0; 10];
        bytes[..2].copy_from_slice(&[0x89, 8]);
        bytes[2..].copy_from_slice(&self.cookie);
        Ping { bytes, sent: 0 }
    }

    /// What was asked was not sent until `now`: the client has its time from here on.
    pub(super) fn asked_late(&mut self, now: Instant) {
        self.asked = Some(now);
    }
}

/// A ping that is to be put in.
#[derive(Debug)]
pub(super) struct Ping {
    bytes: [u8; 10],
    sent: usize,
}

impl Ping {
    /// What of it is still to be sent.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// So many bytes were sent.
    pub(super) fn advance(&mut self, length: usize) {
        self.sent += length;
    }

    /// Is it on its way, and has to be ended?
    pub(super) fn has_begun(&self) -> bool {
        self.sent > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_silent_client_is_asked_and_one_that_stays_silent_is_lost() {
        let mut keep_alive = KeepAlive::new(Duration::from_secs(25));
        let (heard, every) = (Instant::now(), keep_alive.every);
        assert_eq!(keep_alive.step(heard, heard), Step::Wait(heard + every));
        assert_eq!(keep_alive.step(heard, heard + every - MS), Step::Wait(heard + every));
        assert_eq!(keep_alive.step(heard, heard + every), Step::Ping);
        let asked = heard + every;
        assert_eq!(keep_alive.ask(asked).rest(), [&[0x89, 8][..], &keep_alive.cookie()].concat());
        assert_eq!(keep_alive.step(heard, asked), Step::Wait(asked + PONG));
        assert_eq!(keep_alive.step(heard, asked + PONG), Step::Lost);
        let mut often = KeepAlive::new(Duration::from_secs(5));
        often.ask(asked);
        assert_eq!(often.step(heard, asked), Step::Wait(asked + often.every), "it may have answered");
        assert_eq!(often.step(heard, asked + often.every), Step::Wait(asked + PONG));
        assert_eq!(often.step(heard, asked + PONG), Step::Lost);
        for again in [asked, asked + PONG - MS, asked + PONG + MS] {
            assert_eq!(keep_alive.step(again, again), Step::Wait(again + every), "heard again");
            assert_eq!(keep_alive.step(again, again + every), Step::Ping);
        }
        keep_alive.asked_late(asked + PONG);
        assert_eq!(keep_alive.step(heard, asked + PONG), Step::Wait(asked + PONG + PONG));
    }

    #[test]
    fn tunnels_ask_a_tenth_sooner_or_later_than_they_are_told_and_each_with_words_of_its_own() {
        let every = Duration::from_secs(100);
        let all: Vec<_> = (0..200).map(|_| KeepAlive::new(every)).collect();
        let sooner = all.iter().filter(|one| one.every < every).count();
        assert!(all.iter().all(|one| (90..=110).contains(&one.every.as_secs())));
        assert!((40..160).contains(&sooner), "{sooner} of 200");
        let cookies: std::collections::HashSet<_> = all.iter().map(KeepAlive::cookie).collect();
        assert_eq!(cookies.len(), 200);
    }
}
