//! What is set on TCP sockets.
//!
//! Owns how soon the kernel finds out that the other end of a silent connection is gone.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// How many probes may stay unanswered, and how long after the one the next is sent.
const PROBES: u32 = 5;
const INTERVAL: Duration = Duration::from_secs(15);

/// How long a connection to a replica is silent until the kernel asks whether there still is another end.
pub(crate) const REPLICA_KEEPALIVE: Duration = Duration::from_secs(60);

/// Has the kernel ask the other end after so long a silence. What a listener is told holds for what it accepts.
///
/// It is a precaution: a socket on which this fails is used as it is.
pub(crate) fn keep_alive<'a>(socket: impl Into<SockRef<'a>>, after: Duration) {
    let probes = TcpKeepalive::new().with_time(after).with_interval(INTERVAL).with_retries(PROBES);
    if let Err(error) = socket.into().set_tcp_keepalive(&probes) {
        tracing::debug!(%error, "no keepalive");
    }
}
