//! Letters that are sent again.
//!
//! Owns which are, so that none is sent twice at the same time. One that is dealt with is gone; of any other it is noted what
//! came of it. Of several, one is sent behind the other, the oldest first, and none any more once the function cannot be had.

use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

use jiff::Timestamp;
use roost_proxy::function::{FunctionKey, Namespace};
use roost_proxy::websocket::{Failing, Reason, Redrive};

use super::letter::{Last, LetterId};
use super::{DeadLetters, Shared, Wanted};
use crate::queue::{Queue, Refusal};

/// Why a letter was not dealt with.
#[derive(Debug, thiserror::Error)]
pub enum CannotRedrive {
    /// There is none of that id, or it is damaged.
    #[error("dead letter not found: it was sent again, removed, or never was")]
    Unknown,
    /// It is being sent already.
    #[error("this dead letter is being sent again already")]
    InHand,
    /// It was sent, and came to nothing again.
    #[error("{function}: {}", .failing.cause)]
    Failed {
        /// Which function.
        function: FunctionKey,
        /// What came of it.
        failing: Failing,
    },
    /// The queue does not take it now.
    #[error("{0}")]
    NotTaken(Refusal),
    /// It tells of nothing that can be sent.
    #[error("this dead letter cannot be read")]
    Unreadable,
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] io::Error),
}

/// What came of several.
#[derive(Debug, Default)]
pub struct Redriven {
    /// So many were dealt with.
    pub done: usize,
    /// So many were not.
    pub failed: usize,
    /// The last one that was tried, if there are more behind it.
    pub next: Option<LetterId>,
    /// Why the others were not tried.
    pub stopped: Option<String>,
}

/// A letter that is being sent.
struct InHand<'a> {
    shared: &'a Shared,
    id: LetterId,
}

impl<'a> InHand<'a> {
    fn take(shared: &'a Shared, id: LetterId) -> Option<Self> {
        let mut in_hand = shared.in_hand.lock().unwrap_or_else(PoisonError::into_inner);
        // Not made before it is known that it is ours: dropping it would take the lock, and the letter from who has it.
        in_hand.insert(id).then(|| Self { shared, id })
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.shared.in_hand.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl DeadLetters {
    /// Sends a letter again: an event to its function, a call to the end of its line. `true` if that took it over, or the connection of
    /// the event is there and got what was answered.
    ///
    /// # Errors
    /// When it was not dealt with: it stays.
    pub async fn redrive(
        &self,
        by: &Redrive,
        queue: &Queue,
        namespace: Namespace,
        id: LetterId,
    ) -> Result<bool, CannotRedrive> {
        let _in_hand = InHand::take(&self.0, id).ok_or(CannotRedrive::InHand)?;
        let (function, letter) = self.get(namespace.clone(), id).await?.ok_or(CannotRedrive::Unknown)?;
        if let Some(call) = letter.call(function.clone()) {
            // Taken over again, it is on the disk there before it is gone from here.
            queue.make_again(call, letter.body).await.map_err(CannotRedrive::NotTaken)?;
            self.0.redriven[0].fetch_add(1, Relaxed);
            self.remove(namespace, id).await?;
            return Ok(true);
        }
        let event = letter.event(function.clone()).ok_or(CannotRedrive::Unreadable)?;
        match by.tell(&event).await {
            Ok(heard) => {
                self.0.redriven[0].fetch_add(1, Relaxed);
                self.remove(namespace, id).await?;
                Ok(heard)
            }
            Err(failing) => {
                self.0.redriven[1].fetch_add(1, Relaxed);
                let attempts = event.attempts.saturating_add(1);
                let last = Last::new(Timestamp::now(), &failing);
                #[cfg(feature = "nats")]
                if self.0.shared.tried(&function, (id, attempts, last.clone())).await? {
                    return Err(CannotRedrive::Failed { function, failing });
                }
                let of = function.clone();
                self.with(move |store| store.tried(&of, id, attempts, last)).await?;
                Err(CannotRedrive::Failed { function, failing })
            }
        }
    }

    /// Sends up to `limit` letters again, the oldest first.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn redrive_all(
        &self,
        by: &Redrive,
        queue: &Queue,
        wanted: Wanted,
        limit: usize,
    ) -> io::Result<Redriven> {
        let namespace = wanted.namespace.clone();
        let mut ids = self.with(move |store| Ok(store.ids(&wanted, limit + 1))).await?;
        let more = ids.len() > limit;
        ids.truncate(limit);
        let mut redriven = Redriven::default();
        for (id, _) in &ids {
            match self.redrive(by, queue, namespace.clone(), *id).await {
                Ok(_) => redriven.done += 1,
                Err(CannotRedrive::Failed { failing, .. }) => {
                    redriven.failed += 1;
                    if failing.reason == Reason::Unavailable {
                        redriven.stopped = Some(failing.cause);
                        return Ok(redriven);
                    }
                }
                // Somebody else has it, or had it.
                Err(CannotRedrive::Unknown | CannotRedrive::InHand) => {}
                Err(CannotRedrive::Unreadable) => redriven.failed += 1,
                Err(CannotRedrive::NotTaken(why)) => {
                    redriven.failed += 1;
                    redriven.stopped = Some(why.to_string());
                    return Ok(redriven);
                }
                Err(CannotRedrive::Disk(error)) => return Err(error),
            }
        }
        redriven.next = ids.last().filter(|_| more).map(|(id, _)| *id);
        Ok(redriven)
    }
}
