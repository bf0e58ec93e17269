//! Which other nodes are there, as far as one can know: those that were heard of a moment ago.
//!
//! Owns who was heard when, and what each has begun to say. Pure: it is told the time.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::wire::{Head, Heard, Joining};

/// How often a node says that it is here.
pub(super) const EVERY: Duration = Duration::from_secs(2);

/// Who says nothing for so long is forgotten: three times nothing came.
const FORGOTTEN: Duration = Duration::from_secs(6);

/// How many others a node knows. More are not heard.
pub(super) const MOST: usize = 128;

/// Where a node says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To all.
    All,
    /// To one.
    One,
}

/// Other nodes.
#[derive(Debug, Default)]
pub(super) struct Peers(BTreeMap<Box<str>, Peer>);

#[derive(Debug)]
struct Peer {
    heard: Instant,
    to_all: Joining,
    to_this: Joining,
}

impl Peers {
    /// Takes what a node says; with whether it is a new one. `None` if there are too many to hear another.
    pub(super) fn hear(&mut self, way: Way, head: Head, data: Bytes, now: Instant) -> Option<(bool, Heard)> {
        let full = self.0.len() >= MOST;
        let (is_new, peer) = match self.0.entry(head.from.clone()) {
            Entry::Occupied(entry) => (false, entry.into_mut()),
            Entry::Vacant(_) if full => return None,
            Entry::Vacant(entry) => {
                let new = Peer { heard: now, to_all: Joining::default(), to_this: Joining::default() };
                (true, entry.insert(new))
            }
        };
        peer.heard = now;
        let heard = match way {
            Way::All => peer.to_all.take(head, data),
            // Numbers between are of what was said to others.
            Way::One => Heard { lost: 0, ..peer.to_this.take(head, data) },
        };
        Some((is_new, heard))
    }

    /// One that ends.
    pub(super) fn leave(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Forgets those that were not heard of for long, and tells which.
    pub(super) fn forget(&mut self, now: Instant) -> Vec<Box<str>> {
        let gone = |peer: &Peer| now.saturating_duration_since(peer.heard) > FORGOTTEN;
        let names: Vec<_> =
            self.0.iter().filter(|(_, peer)| gone(peer)).map(|(name, _)| name.clone()).collect();
        self.0.retain(|_, peer| !gone(peer));
        names
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn names(&self) -> Vec<Box<str>> {
        self.0.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::{What, frames, read};
    use super::*;

    fn hears(peers: &mut Peers, name: &str, number: u64, now: Instant) -> Option<bool> {
        let frames = frames(name, number, What::Here { new: false }, &Bytes::new(), 1024).unwrap();
        let (head, data) = read(frames[0].clone()).unwrap();
        peers.hear(Way::All, head, data, now).map(|(is_new, _)| is_new)
    }

    #[test]
    fn a_node_is_known_as_long_as_it_is_heard_of() {
        let (mut peers, began) = (Peers::default(), Instant::now());
        let after = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(hears(&mut peers, "a", 0, began), Some(true));
        assert_eq!(hears(&mut peers, "b", 0, began), Some(true));
        assert_eq!(hears(&mut peers, "a", 1, after(5)), Some(false));
        assert!(peers.forget(after(6)).is_empty());
        assert_eq!(peers.forget(after(7)), [Box::from("b")]);
        assert_eq!(peers.names(), [Box::from("a")]);
        assert_eq!(hears(&mut peers, "b", 9, after(8)), Some(true));
        peers.leave("b");
        assert_eq!(peers.len(), 1);
    }

    #[test]
    fn of_too_many_nodes_those_are_heard_that_are_known() {
        let (mut peers, now) = (Peers::default(), Instant::now());
        for number in 0..MOST {
            assert_eq!(hears(&mut peers, &format!("n{number}"), 0, now), Some(true));
        }
        assert_eq!(hears(&mut peers, "one-more", 0, now), None);
        assert_eq!(hears(&mut peers, "n0", 1, now), Some(false));
    }
}
