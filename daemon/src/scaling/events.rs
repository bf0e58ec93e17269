//! What was decided, for whoever watches, and how often.
//!
//! Owns the stream of events: bounded, and a watcher that is too slow is told how many it missed. Never decides anything.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use roost_proxy::ReplicaKey;
use roost_proxy::function::FunctionKey;
use serde::Serialize;
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

/// A decision as it is shown, beside the name of its function.
#[derive(Debug, Clone, Serialize)]
pub struct DecisionView {
    at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    from: u32,
    to: u32,
    reason: String,
}

impl From<&Scaled> for DecisionView {
    fn from(scaled: &Scaled) -> Self {
        Self {
            at: scaled.at,
            key: scaled.key.as_ref().map(ToString::to_string),
            from: scaled.from,
            to: scaled.to,
            reason: scaled.reason.clone(),
        }
    }
}

/// A decision, as watchers get it.
#[derive(Debug)]
pub struct Event {
    /// Counts up by one with each event of this daemon, from 1.
    pub id: u64,
    /// What was decided.
    pub scaled: Scaled,
}

/// How often it was decided that a function is to have another number of replicas.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Decisions {
    /// More of them.
    pub up: u64,
    /// Fewer.
    pub down: u64,
}

/// The stream. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Events(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Of pointers, as there is room for all that are kept from the start.
    watchers: broadcast::Sender<Arc<Event>>,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    last_id: u64,
    decisions: HashMap<FunctionKey, Decisions>,
}

impl Default for Events {
    fn default() -> Self {
        Self(Arc::new(Shared { watchers: broadcast::Sender::new(KEPT), told: Mutex::default() }))
    }
}

impl Events {
    /// Tells those who watch now, and counts it.
    pub fn tell(&self, scaled: Scaled) {
        let mut told = self.lock();
        told.last_id += 1;
        let decisions = told.decisions.entry(scaled.function.clone()).or_default();
        *(if scaled.to > scaled.from { &mut decisions.up } else { &mut decisions.down }) += 1;
        let event = Event { id: told.last_id, scaled };
        // Under the lock, so that they come in their order. Nobody need be watching.
        self.0.watchers.send(Arc::new(event)).ok();
    }

    /// What is told from now on.
    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<Arc<Event>> {
        self.0.watchers.subscribe()
    }

    /// How often it was decided since the daemon began, or since the function was last forgotten.
    #[must_use]
    pub fn decisions(&self, function: &FunctionKey) -> Decisions {
        self.lock().decisions.get(function).copied().unwrap_or_default()
    }

    /// There is no such function any more.
    pub fn forget(&self, function: &FunctionKey) {
        self.lock().decisions.remove(function);
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use tokio::sync::broadcast::error::RecvError;

    use super::*;

    pub(crate) fn scaled(function: &str, from: u32, to: u32) -> Scaled {
        Scaled {
            at: Timestamp::UNIX_EPOCH,
            function: FunctionKey::from_route(function).unwrap(),
            key: None,
            from,
            to,
            reason: "test".to_owned(),
        }
    }

    #[tokio::test]
    async fn who_watches_gets_all_in_order_and_who_is_too_slow_hears_how_many_it_missed() {
        let events = Events::default();
        events.tell(scaled("echo", 0, 1));
        let (mut quick, mut slow) = (events.watch(), events.watch());
        for from in 1..=300 {
            events.tell(scaled("echo", from, from + 1));
            let event = quick.recv().await.unwrap();
            assert_eq!((event.id, event.scaled.from), (u64::from(from) + 1, from), "not what was before");
        }
        assert!(matches!(slow.recv().await, Err(RecvError::Lagged(44))));
        assert_eq!(slow.recv().await.unwrap().scaled.from, 45);
    }

    #[test]
    fn decisions_are_counted_by_function_and_direction_until_it_is_forgotten() {
        let events = Events::default();
        let key = |name: &str| FunctionKey::from_route(name).unwrap();
        for (name, from, to) in [("echo", 0, 1), ("echo", 1, 5), ("echo", 5, 0), ("other", 1, 0)] {
            events.clone().tell(scaled(name, from, to));
        }
        assert_eq!(events.decisions(&key("echo")), Decisions { up: 2, down: 1 });
        assert_eq!(events.decisions(&key("other")), Decisions { up: 0, down: 1 });
        events.forget(&key("echo"));
        assert_eq!(events.decisions(&key("echo")), Decisions::default());
    }
}
