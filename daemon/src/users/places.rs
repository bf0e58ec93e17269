//! Who may wait for a password to be checked.
//!
//! Owns the places. One peer has a share of them, so that whoever sends wrong passwords keeps others from none but its own.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

/// How many requests may be at a hash or wait for their turn.
pub(super) const PLACES: usize = 32;

/// How many of them those of one peer may have.
pub(super) const SHARE: usize = 8;

/// The places that are taken, by peer.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<HashMap<IpAddr, usize>>);

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    places: &'a Places,
    peer: IpAddr,
}

impl Places {
    /// A place for a request of `peer`; none when it has its share, or all are taken.
    pub(super) fn take(&self, peer: IpAddr) -> Option<Place<'_>> {
        let peer = network(peer);
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.values().sum::<usize>() >= PLACES || taken.get(&peer).is_some_and(|taken| *taken >= SHARE) {
            return None;
        }
        *taken.entry(peer).or_default() += 1;
        Some(Place { places: self, peer })
    }

    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.0.lock().unwrap().values().sum()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.peer);
            }
        }
    }
}

/// What counts as one peer: an address, of IPv6 the network of 64 bits that one customer has at least.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(peer) => peer.into(),
        IpAddr::V6(peer) => Ipv6Addr::from_bits(peer.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_has_a_share_and_all_together_have_no_more_than_there_is() {
        let places = Places::default();
        let peer = |text: &str| text.parse::<IpAddr>().unwrap();
        let take = |from: &str, count: usize| -> Vec<_> {
            (0..count).map(|_| places.take(peer(from)).unwrap()).collect()
        };
        let first = take("192.0.2.1", SHARE);
        assert!(places.take(peer("192.0.2.1")).is_none());
        assert!(places.take(peer("::ffff:192.0.2.1")).is_none(), "the same peer");
        let second = take("2001:db8::1", SHARE);
        assert!(places.take(peer("2001:db8::ffff:2")).is_none(), "the same network");
        let rest = [take("2001:db8:0:1::1", SHARE), take("192.0.2.2", PLACES - 3 * SHARE)];
        assert!(places.take(peer("192.0.2.3")).is_none(), "all are taken");
        drop(second);
        let third = take("192.0.2.3", SHARE);
        drop((first, third, rest));
        assert!(places.0.lock().unwrap().is_empty(), "nothing is kept of those who are gone");
    }
}
