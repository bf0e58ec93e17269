//! What has to outlive this process: the seam to whoever can write to a disk.
//!
//! Owns no state. Called by the tasks of connections, which wait for nothing that is done here.

use bytes::Bytes;
use http::{Request, StatusCode};

use super::event::{ConnectionId, Identity};
use crate::function::FunctionKey;
use crate::placement::ReplicaKey;

/// Why a function was not brought to deal with something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It said that it has failed with it.
    Failed,
    /// It may have had it, and did not answer.
    Unanswered,
    /// It could not be had: it never saw it.
    Unavailable,
}

impl Reason {
    /// All of them, in the order in which they are counted.
    pub const ALL: [Self; 3] = [Self::Failed, Self::Unanswered, Self::Unavailable];

    /// Its name in records and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Unanswered => "unanswered",
            Self::Unavailable => "unavailable",
        }
    }
}

/// What became of an attempt that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// In one word.
    pub reason: Reason,
    /// The status of the function's answer; where there was none, what this host would say to a plain request.
    pub status: StatusCode,
    /// In words for people.
    pub cause: String,
}

/// An event that a function could not be brought to deal with. Who wants to connect may ask again, and is none.
#[derive(Debug, Clone)]
pub struct DeadEvent {
    /// The function that was asked.
    pub function: FunctionKey,
    /// The one whose connection it is: events may be routed to others.
    pub of: FunctionKey,
    /// Of which connection it was.
    pub connection: ConnectionId,
    /// What happened: one of [`EVENTS`](super::EVENTS).
    pub event: &'static str,
    /// The key of its replica, where the function has one for each.
    pub key: Option<ReplicaKey>,
    /// The body of an answer is for the client.
    pub two_way: bool,
    /// What it was asked, the last time.
    pub request: Request<Bytes>,
    /// How often it was asked.
    pub attempts: u32,
    /// What became of the last attempt.
    pub failing: Failing,
}

/// Keeps what may not be lost.
pub trait Keeper: Send + Sync {
    /// A connection is open whose function wants to be told of its end, even if this host does not live to see it. Said of
    /// one again, it changes nothing.
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
