//! Other hosts that this one shares calls and connections with, over NATS.
//!
//! Owns how they are found: all that connect to the same servers with the same name are nodes of one. No node needs another
//! one; what one cannot reach is what it does not share.

use crate::triggers::settings::Nats;

/// The section `[nats]`, complete and valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The server, or one of a cluster of them.
    pub server: Nats,
    /// What the names of streams, buckets and subjects begin with: hosts with the same one are nodes of one.
    pub name: String,
    /// How many servers keep a copy of what is kept.
    pub replicas: usize,
}
