//! What connections leave behind on this host: the journal of those whose end is to be told, and the events that found none.
//!
//! Owns nothing but the choice. Called by the tasks of connections: neither part has them wait for a disk's sync.

use std::sync::Arc;

use roost_proxy::websocket::event::{ConnectionId, Identity};
use roost_proxy::websocket::{DeadEvent, Keeper};

use crate::deadletters::DeadLetters;
use crate::journal::Journal;

/// Keeps what may not be lost.
#[derive(Debug)]
pub struct HostKeeper {
    /// Connections.
    pub journal: Arc<Journal>,
    /// Events.
    pub letters: DeadLetters,
}

impl Keeper for HostKeeper {
    fn opened(&self, identity: &Identity) {
        self.journal.opened(identity);
    }

    fn ended(&self, id: ConnectionId) {
        self.journal.ended(id);
    }

    fn dead(&self, event: DeadEvent) {
        self.letters.bury(event);
    }
}
