//! What is known of clients by their addresses: how many connections each has open, and how fast it asks.
//!
//! Owns two tables, both bounded. Connections are counted for as long as they are open, so there are no more entries than
//! connections. Of rates so many addresses are remembered; one that has kept still until its bucket is full again is no
//! different from one that never came, and is forgotten first. Never reads a header: the address is the other end of the
//! connection.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::rate::Rate;

/// Parts of a table that are locked apart.
const SHARDS: usize = 16;

/// A client: an IPv4 address, or the 64 bits in front of an IPv6 address: behind them one machine has whatever it likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Client(u64);

impl Client {
    /// One that is known by something else than its address.
    pub(super) fn of_hash(hash: u64) -> Self {
        Self(hash)
    }
}

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            // Behind a prefix of groups, which nobody connects from.
            IpAddr::V4(address) => Self(0xffff_ffff_0000_0000 | u64::from(address.to_bits())),
            IpAddr::V6(address) => Self((address.to_bits() >> 64) as u64),
        }
    }
}

#[derive(Debug)]
struct Table<T>([Mutex<HashMap<Client, T>>; SHARDS]);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl<T> Table<T> {
    fn lock(&self, client: Client) -> MutexGuard<'_, HashMap<Client, T>> {
        // Addresses differ most in their last bits.
        let shard = (client.0 ^ (client.0 >> 8) ^ (client.0 >> 32)) as usize % SHARDS;
        // Nothing under the lock can leave it half done.
        self.0[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many connections each client has open.
#[derive(Debug, Default)]
pub(crate) struct Connections(Option<(NonZeroUsize, Arc<Table<usize>>)>);

/// One connection of a client. Dropping it makes room for another.
#[derive(Debug)]
pub(crate) struct Place {
    open: Arc<Table<usize>>,
    client: Client,
}

impl Connections {
    /// At most so many of each.
    pub(crate) fn new(most: Option<NonZeroUsize>) -> Self {
        Self(most.map(|most| (most, Arc::default())))
    }

    /// Counts a connection of `address` if there may be one more: `Err` if not, `None` if there is no limit.
    pub(crate) fn enter(&self, address: IpAddr) -> Result<Option<Place>, ()> {
        if self.0.is_none() {
            return Ok(None);
        }
        self.enter_as(Client::from(address))
    }

    /// The same for one that is known.
    pub(super) fn enter_as(&self, client: Client) -> Result<Option<Place>, ()> {
        let Some((most, open)) = &self.0 else { return Ok(None) };
        let mut counts = open.lock(client);
        let count = counts.entry(client).or_default();
        if *count >= most.get() {
            return Err(());
        }
        *count += 1;
        drop(counts);
        Ok(Some(Place { open: Arc::clone(open), client }))
    }

    /// Counts one that was let in before, however many there may be. `None` if there is no limit.
    pub(super) fn enter_again(&self, client: Client) -> Option<Place> {
        let (_, open) = self.0.as_ref()?;
        *open.lock(client).entry(client).or_default() += 1;
        Some(Place { open: Arc::clone(open), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.open.lock(self.client);
        if let Some(count) = counts.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.client);
            }
        }
    }
}

/// How fast each client does one thing.
#[derive(Debug, Default)]
pub(crate) struct Paces(Option<Box<Limited>>);

#[derive(Debug)]
struct Limited {
    rate: Rate,
    /// How many clients are remembered in each part of the table.
    most: usize,
    full_at: Table<u64>,
}

impl Paces {
    /// This fast, each of them; `clients` of them are remembered.
    pub(crate) fn new(rate: Option<Rate>, clients: usize) -> Self {
        let most = clients.div_ceil(SHARDS).max(1);
        Self(rate.map(|rate| Box::new(Limited { rate, most, full_at: Table::default() })))
    }

    /// Is there no limit?
    pub(crate) fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// Lets `address` go on, or says for how long it has to wait. `now` is in nanoseconds.
    pub(crate) fn take(&self, address: IpAddr, now: impl FnOnce() -> u64) -> Result<(), Duration> {
        if self.0.is_none() {
            return Ok(());
        }
        self.take_as(Client::from(address), now)
    }

    /// The same for one that is known.
    pub(super) fn take_as(&self, client: Client, now: impl FnOnce() -> u64) -> Result<(), Duration> {
        let Some(limited) = &self.0 else { return Ok(()) };
        let now = now();
        let mut known = limited.full_at.lock(client);
        if let Some(full_at) = known.get_mut(&client) {
            *full_at = limited.rate.take(*full_at, now)?;
            return Ok(());
        }
        if known.len() >= limited.most {
            known.retain(|_, full_at| *full_at > now);
        }
        if known.len() >= limited.most
            && let Some(any) = known.keys().next().copied()
        {
            known.remove(&any);
        }
        known.insert(client, limited.rate.take(0, now)?);
        Ok(())
    }

    #[cfg(test)]
    fn known(&self) -> usize {
        self.0
            .as_ref()
            .map_or(0, |limited| limited.full_at.0.iter().map(|part| part.lock().unwrap().len()).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_client_has_its_own_connections_and_those_that_end_make_room() {
        let connections = Connections::new(NonZeroUsize::new(2));
        let enter =
            |text: &str| connections.enter(address(text)).map(|place| place.expect("there is a limit"));
        let first = enter("192.0.2.1").unwrap();
        let _second = enter("::ffff:192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_err(), "the same client, however its address is spelt");
        let _other = enter("192.0.2.2").unwrap();
        let _six = enter("2001:db8::1").unwrap();
        let _six_again = enter("2001:db8::2").unwrap();
        assert!(enter("2001:db8::3").is_err(), "one network of IPv6 is one client");
        enter("2001:db8:0:1::3").unwrap();
        drop(first);
        enter("192.0.2.1").unwrap();
        assert!(Connections::default().enter(address("192.0.2.1")).unwrap().is_none());
        drop((_second, _other, _six, _six_again));
        let left: usize = connections.0.unwrap().1.0.iter().map(|part| part.lock().unwrap().len()).sum();
        assert_eq!(left, 0, "nothing is kept of who has gone");
    }

    #[test]
    fn each_client_has_its_own_rate() {
        let paces = Paces::new(Some("2/s".parse().unwrap()), 100);
        let take = |text: &str, now| paces.take(address(text), || now);
        for text in ["192.0.2.1", "192.0.2.2"] {
            take(text, 0).unwrap();
            take(text, 0).unwrap();
            assert_eq!(take(text, 0), Err(Duration::from_millis(500)));
        }
        take("192.0.2.1", 500_000_000).unwrap();
        assert_eq!(Paces::default().take(address("192.0.2.1"), || panic!("no look at the clock")), Ok(()));
    }

    #[test]
    fn however_many_clients_come_so_many_are_remembered_and_those_that_kept_still_are_forgotten_first() {
        let paces = Paces::new(Some("1/s".parse().unwrap()), 160);
        for client in 0..10_000_u32 {
            paces.take(IpAddr::from(client.to_be_bytes()), || 0).unwrap();
        }
        assert!(paces.known() <= 160, "{}", paces.known());
        let busy = address("203.0.113.9");
        for second in 1..200_u32 {
            let now = || u64::from(second) * 1_000_000_000;
            paces.take(busy, now).unwrap();
            // All that came before are at rest by now.
            paces.take(IpAddr::from((second << 16).to_be_bytes()), now).unwrap();
            assert!(paces.take(busy, now).is_err(), "it was not forgotten");
        }
    }
}
