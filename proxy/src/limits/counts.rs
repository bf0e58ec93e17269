//! The limits there are, by name, and how often each turned something away.
//!
//! Owns the names. Counting is one addition, and only for what was turned away.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A limit, or a rule that works like one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// What a request may not be: see the rules of strictness.
    Malformed,
    /// How many headers a request has, and how long its head is.
    Head,
    /// How long a head may take.
    HeadTime,
    /// Connections of one client.
    ClientConnections,
    /// Requests of one client in a while.
    ClientRequests,
    /// Upgrades of one client in a while.
    ClientHandshakes,
    /// Upgraded connections of one user.
    UserConnections,
    /// Upgrades of one user in a while.
    UserHandshakes,
    /// How long a body is.
    Body,
    /// How long a body may take.
    BodyTime,
    /// Upgraded connections of a function.
    Connections,
    /// Requests to a function in a while.
    Requests,
    /// Upgrades to a function in a while.
    Handshakes,
}

impl Limit {
    /// Those of a server, whichever function is asked for.
    pub const OF_SERVER: [Self; 8] = [
        Self::Malformed,
        Self::Head,
        Self::HeadTime,
        Self::ClientConnections,
        Self::ClientRequests,
        Self::ClientHandshakes,
        Self::UserConnections,
        Self::UserHandshakes,
    ];

    /// Those of a function.
    pub const OF_FUNCTION: [Self; 5] =
        [Self::Body, Self::BodyTime, Self::Connections, Self::Requests, Self::Handshakes];

    /// What it is called where it is counted.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Head => "header_size",
            Self::HeadTime => "header_time",
            Self::ClientConnections => "connections_per_client",
            Self::ClientRequests => "requests_per_client",
            Self::ClientHandshakes => "handshakes_per_client",
            Self::UserConnections => "connections_per_user",
            Self::UserHandshakes => "handshakes_per_user",
            Self::Body => "body",
            Self::BodyTime => "body_time",
            Self::Connections => "connections",
            Self::Requests => "requests",
            Self::Handshakes => "handshakes",
        }
    }

    /// What to tell a client that may come again.
    pub(crate) fn says(self) -> &'static str {
        match self {
            Self::ClientConnections => "your address has as many connections open as it may have",
            Self::ClientRequests => "your address sends requests faster than it may",
            Self::ClientHandshakes => "your address opens WebSockets faster than it may",
            Self::UserConnections => "you have as many connections open as you may have",
            Self::UserHandshakes => "you open connections faster than you may",
            Self::Connections => "this function has as many connections open as it may have",
            Self::Requests => "this function is asked more often than it may be",
            Self::Handshakes => "connections to this function are opened faster than they may be",
            Self::Malformed | Self::Head | Self::HeadTime | Self::Body | Self::BodyTime => {
                "a limit is reached"
            }
        }
    }

    /// Is it one of what a client does, whatever others do?
    pub(crate) fn is_of_client(self) -> bool {
        !matches!(self, Self::Connections | Self::Requests | Self::Handshakes)
    }
}

/// How often each limit of one place was reached.
#[derive(Debug, Default)]
pub(crate) struct Counts([AtomicU64; Limit::OF_SERVER.len()]);

impl Counts {
    fn at(&self, limit: Limit) -> &AtomicU64 {
        let position = |all: &[Limit]| all.iter().position(|of| *of == limit);
        let index = position(&Limit::OF_SERVER).or_else(|| position(&Limit::OF_FUNCTION));
        &self.0[index.unwrap_or_default()]
    }

    pub(crate) fn reached(&self, limit: Limit) {
        self.at(limit).fetch_add(1, Relaxed);
    }

    pub(crate) fn read<const N: usize>(&self, limits: [Limit; N]) -> [(Limit, u64); N] {
        limits.map(|limit| (limit, self.at(limit).load(Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_limit_is_counted_by_itself_and_has_a_name_of_its_own() {
        let (server, function) = (Counts::default(), Counts::default());
        Limit::OF_SERVER.iter().for_each(|limit| server.reached(*limit));
        Limit::OF_FUNCTION.iter().for_each(|limit| function.reached(*limit));
        assert!(server.read(Limit::OF_SERVER).iter().all(|(_, count)| *count == 1));
        assert!(function.read(Limit::OF_FUNCTION).iter().all(|(_, count)| *count == 1));
        let names: BTreeSet<_> =
            Limit::OF_SERVER.iter().chain(&Limit::OF_FUNCTION).map(|of| of.name()).collect();
        assert_eq!(names.len(), Limit::OF_SERVER.len() + Limit::OF_FUNCTION.len());
    }
}
