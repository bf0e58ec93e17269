//! Numbers that no other test on this machine uses at the same time.

use std::net::TcpListener;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

/// Ports below this one belong to services.
const FIRST_PORT: u16 = 10_000;

/// How many ports a process has to itself, before it comes to those of others.
const OF_PROCESS: u32 = 128;

/// A port on loopback that nobody uses, and that the kernel gives to nobody who does not ask for it: so it can be used
/// again after a restart. Of processes at the same time each has its own.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let ports = unasked();
    let first = std::process::id().wrapping_mul(OF_PROCESS);
    for _ in ports.clone() {
        let slot =
            first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % u32::from(ports.end - ports.start);
        let port = ports.start + u16::try_from(slot).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("each of the ports {ports:?} is in use");
}

/// The ports that the kernel chooses for no connection: those below the ones it chooses from, or above.
fn unasked() -> Range<u16> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let mut ends = range.split_whitespace().map(|end| end.parse::<u16>().unwrap());
    let (low, high) = (ends.next().unwrap(), ends.next().unwrap());
    let (below, above) = (FIRST_PORT..low, high.saturating_add(1)..u16::MAX);
    let ports = if below.len() >= above.len() { below } else { above };
    assert!(ports.len() > 1000, "the kernel chooses from {low} to {high}: too few ports are left for tests");
    ports
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
