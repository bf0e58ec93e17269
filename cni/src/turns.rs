//! One operation at a time for one attachment; any number for different ones.
//!
//! Owns a lock for each id that is being worked on. Never keeps one that nobody holds or waits for. Works inside this process
//! only: that two daemons do not share a cache directory is the daemon's business.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// The locks, by id.
#[derive(Default)]
pub(crate) struct Turns {
    by_id: Mutex<HashMap<String, Arc<AsyncMutex<()>>>>,
}

/// The right to work on one attachment, until it is dropped.
pub(crate) struct Turn {
    turns: Arc<Turns>,
    id: String,
    /// `None` while waiting, and while being dropped.
    held: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits until nobody else works on `id`. Who waits longest goes first.
    pub(crate) async fn take(self: &Arc<Self>, id: &str) -> Turn {
        let lock = Arc::clone(self.by_id().entry(id.to_owned()).or_default());
        // Made before the wait: if the wait is given up, dropping it removes the lock.
        let mut turn = Turn { turns: Arc::clone(self), id: id.to_owned(), held: None };
        turn.held = Some(lock.lock_owned().await);
        turn
    }

    /// The map holds no invariant that a panic could break halfway.
    fn by_id(&self) -> MutexGuard<'_, HashMap<String, Arc<AsyncMutex<()>>>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut by_id = self.turns.by_id();
        self.held = None;
        // Whoever waits holds a clone, and clones are only made under the lock of the map.
        if by_id.get(&self.id).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            by_id.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_same_id_waits_and_another_does_not() {
        let turns = Arc::new(Turns::default());
        let first = turns.take("a").await;
        let _other = turns.take("b").await;

        let second = tokio::spawn({
            let turns = Arc::clone(&turns);
            async move { turns.take("a").await }
        });
        // Give the task every chance to go wrong before the first turn ends.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!second.is_finished());

        drop(first);
        drop(second.await.unwrap());
    }

    #[tokio::test]
    async fn nothing_is_kept_of_an_id_nobody_works_on() {
        let turns = Arc::new(Turns::default());
        let turn = turns.take("a").await;
        // One that gives up waiting, after the lock was given back and before it notices.
        let mut waiting = Box::pin(turns.take("a"));
        tokio::select! {
            biased;
            _ = &mut waiting => unreachable!("the turn is taken"),
            () = std::future::ready(()) => {}
        }
        drop(turn);
        drop(waiting);
        assert!(turns.by_id().is_empty());
    }
}
