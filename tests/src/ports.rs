//! Numbers that no other test on this machine uses at the same time.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// A port on loopback that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A short name and a subnet that only one host has.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Fits into an interface's name, behind a short prefix.
    pub(crate) tag: String,
    /// What all its addresses begin with: `10.x.y.`, with x from 100 to 189.
    pub(crate) prefix: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        // Hosts of one process differ by the counter; processes that run at the same time by their ids, which are near.
        let slot = (pid.wrapping_mul(16) + n) % (90 * 256);
        Self { tag: format!("{pid:x}-{n}"), prefix: format!("10.{}.{}.", 100 + slot / 256, slot % 256) }
    }

    /// The subnet of the default namespace.
    pub(crate) fn subnet(&self) -> String {
        format!("{}0/25", self.prefix)
    }

    /// What the subnets of further namespaces are cut from.
    pub(crate) fn namespaces(&self) -> String {
        format!("{}128/25", self.prefix)
    }
}

/// A bridge and a subnet that no host has, for what a test puts beside one.
#[derive(Debug)]
pub struct Subnet(Place);

impl Subnet {
    /// A name and a range that nothing else has.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Self {
        Self(Place::new())
    }

    /// The name for its bridge.
    #[must_use]
    pub fn bridge(&self) -> String {
        format!("rp{}", self.0.tag)
    }

    /// Its range, as `10.x.y.0/25`.
    #[must_use]
    pub fn range(&self) -> String {
        self.0.subnet()
    }
}
