//! What is known of users by their tokens: how many connections each has open, and how fast it opens them.
//!
//! Owns that a user is the `sub` of a token, whoever issued it and whichever function it is for. Of each a number is kept
//! that nobody else can compute, never its name.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::time::Duration;

use super::clients::{Client, Connections, Paces, Place};
use super::counts::Limit;
use super::rate::Rate;

/// The connections of users.
#[derive(Debug, Default)]
pub(crate) struct Users {
    connections: Connections,
    handshakes: Paces,
    hasher: RandomState,
}

impl Users {
    /// So many connections at once and so many handshakes, each of them; `remembered` of them are remembered.
    pub(crate) fn new(
        connections: Option<NonZeroUsize>,
        handshakes: Option<Rate>,
        remembered: usize,
    ) -> Self {
        let (connections, handshakes) = (Connections::new(connections), Paces::new(handshakes, remembered));
        Self { connections, handshakes, hasher: RandomState::new() }
    }

    fn known(&self, subject: &str) -> Client {
        Client::of_hash(self.hasher.hash_one(subject))
    }

    /// A place for one more connection of a user; none where there is no limit.
    ///
    /// # Errors
    /// With the limit that is reached, and how long to wait if that is known.
    pub(super) fn enter(
        &self,
        subject: &str,
        now: impl FnOnce() -> u64,
    ) -> Result<Option<Place>, (Limit, Option<Duration>)> {
        let user = self.known(subject);
        self.handshakes.take_as(user, now).map_err(|wait| (Limit::UserHandshakes, Some(wait)))?;
        self.connections.enter_as(user).map_err(|()| (Limit::UserConnections, None))
    }

    /// The place of a connection that an earlier process has let in.
    pub(crate) fn enter_again(&self, subject: &str) -> Option<Place> {
        self.connections.enter_again(self.known(subject))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_its_own_connections_and_its_own_rate() {
        let users = Users::new(NonZeroUsize::new(2), Some("3/s".parse().unwrap()), 100);
        let enter = |subject, now| users.enter(subject, || now);
        let first = enter("ada", 0).unwrap().unwrap();
        let _second = enter("ada", 0).unwrap().unwrap();
        assert_eq!(enter("ada", 0).unwrap_err(), (Limit::UserConnections, None));
        let (limit, wait) = enter("ada", 0).unwrap_err();
        assert_eq!(limit, Limit::UserHandshakes, "those that were turned away count as well");
        assert!(wait.is_some_and(|wait| wait <= Duration::from_secs(1)));
        let _other = enter("grace", 0).unwrap().unwrap();
        drop(first);
        let _third = enter("ada", 1_000_000_000).unwrap().unwrap();
        let again = users.enter_again("ada").unwrap();
        assert!(enter("ada", 2_000_000_000).is_err(), "one of an earlier process counts, and is not asked");
        drop(again);
        assert!(Users::default().enter("ada", || panic!("no look at the clock")).unwrap().is_none());
        assert!(Users::default().enter_again("ada").is_none());
    }
}
