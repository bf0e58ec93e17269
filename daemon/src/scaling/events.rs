//! What was decided, for whoever watches.
//!
//! Owns the stream of events: bounded, and a watcher that is too slow is told how many it missed.

use jiff::Timestamp;
use roost_proxy::ReplicaKey;
use roost_proxy::function::FunctionKey;
use tokio::sync::broadcast;

/// How many events are kept for slow watchers.
const KEPT: usize = 256;

/// A change of how many replicas there are to be.
#[derive(Debug, Clone)]
pub struct Scaled {
    /// When.
    pub at: Timestamp,
    /// Of which function.
    pub function: FunctionKey,
    /// Of which key of it.
    pub key: Option<ReplicaKey>,
    /// How many there were to be.
    pub from: u32,
    /// How many there are to be.
    pub to: u32,
    /// Why, for people.
    pub reason: String,
}

/// The stream. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Events(broadcast::Sender<Scaled>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::Sender::new(KEPT))
    }
}

impl Events {
    /// Tells those who watch now.
    pub fn tell(&self, event: Scaled) {
        // Nobody need be watching.
        self.0.send(event).ok();
    }

    /// What is told from now on.
    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<Scaled> {
        self.0.subscribe()
    }
}
