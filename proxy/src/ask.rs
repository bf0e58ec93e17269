//! What one request asks of its function: an endpoint of which key, which of them if it can be had, and for how long.
//!
//! Owns the reading of it, from a request as the function will see it. Never claims anything.

use crate::placement::ReplicaKey;

/// What is asked for. The default is any endpoint without a key, for a request.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    pub(crate) key: Option<ReplicaKey>,
    pub(crate) tunnel: bool,
}

/// Why nothing could be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lack {
    /// There is no endpoint.
    Endpoint,
    /// There are endpoints, and each is at its cap.
    Room,
}

impl Ask {
    /// An endpoint of `key`, and no other.
    #[must_use]
    pub fn of_key(self, key: ReplicaKey) -> Self {
        Self { key: Some(key), ..self }
    }

    /// An endpoint for a tunnel: it may be held for hours.
    #[must_use]
    pub fn for_tunnel(self) -> Self {
        Self { tunnel: true, ..self }
    }
}
