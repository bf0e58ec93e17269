//! What this node has asked others, and who waits for the answers.
//!
//! Owns who waits, by the number of the question. Whoever waits no more is taken out.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::question::Answer;

/// How many questions are asked at once. More are asked here alone.
const MOST: usize = 1024;

type Answers = mpsc::Sender<(Box<str>, Answer)>;

/// Those who wait.
#[derive(Debug, Default)]
pub(super) struct Asked {
    waiting: Mutex<HashMap<u64, Answers>>,
    next: AtomicU64,
}

/// One who waits: for as long as this is there.
#[derive(Debug)]
pub(super) struct Waiting {
    asked: Arc<Asked>,
    pub(super) id: u64,
    pub(super) answers: mpsc::Receiver<(Box<str>, Answer)>,
}

impl Asked {
    /// Waits for so many answers. `None` if too many wait already.
    pub(super) fn wait(self: &Arc<Self>, answers: usize) -> Option<Waiting> {
        let id = self.next.fetch_add(1, Relaxed);
        let (sender, receiver) = mpsc::channel(answers.max(1));
        let mut waiting = self.lock();
        if waiting.len() >= MOST {
            return None;
        }
        waiting.insert(id, sender);
        Some(Waiting { asked: Arc::clone(self), id, answers: receiver })
    }

    /// Brings an answer to whoever waits for it. More than were waited for are of no use.
    pub(super) fn answered(&self, id: u64, from: Box<str>, answer: Answer) -> bool {
        self.lock().get(&id).is_some_and(|answers| answers.try_send((from, answer)).is_ok())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Answers>> {
        // Nothing happens under the lock that could leave it half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.asked.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_comes_to_whoever_waits_for_it_and_to_nobody_else() {
        let asked = Arc::<Asked>::default();
        let (mut one, other) = (asked.wait(1).unwrap(), asked.wait(1).unwrap());
        let other_id = other.id;
        assert!(asked.answered(one.id, "a".into(), Answer::Done));
        assert_eq!(one.answers.try_recv().unwrap(), ("a".into(), Answer::Done));
        drop(other);
        assert!(!asked.answered(other_id, "a".into(), Answer::Done));
        let all: Vec<_> = (0..MOST - 1).map(|_| asked.wait(1).unwrap()).collect();
        assert!(asked.wait(1).is_none());
        drop(all);
        assert!(asked.wait(1).is_some());
    }
}
