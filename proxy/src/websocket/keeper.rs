//! What has to outlive this process: the seam to whoever can write to a disk.
//!
//! Owns no state. Called by the tasks of connections, which wait for nothing that is done here.

use http::Request;

use bytes::Bytes;

use super::event::{ConnectionId, Identity};
use crate::function::FunctionKey;

/// An event that a function could not be brought to deal with.
#[derive(Debug)]
pub struct DeadEvent {
    /// The function that was asked.
    pub function: FunctionKey,
    /// Of which connection it was.
    pub connection: ConnectionId,
    /// What it was asked, the last time.
    pub request: Request<Bytes>,
    /// How often it was asked.
    pub attempts: u32,
    /// What became of the last attempt.
    pub cause: String,
}

/// Keeps what may not be lost.
pub trait Keeper: Send + Sync {
    /// A connection is open whose function wants to be told of its end, even if this host does not live to see it.
    fn opened(&self, _identity: &Identity) {}

    /// The function was told of the end of a connection, or nobody will tell it any more.
    fn ended(&self, _id: ConnectionId) {}

    /// An event has found no end.
    fn dead(&self, _event: DeadEvent) {}
}

/// Keeps nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Forgetful;

impl Keeper for Forgetful {}
