//! Which replicas are being started: their programs may run already, and containerd does not know all of it yet.
//!
//! Owns the list. Whoever needs containerd's word, or changes what a start stands on, waits here until it is over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use roost_proxy::function::{Namespace, ReplicaId};
use tokio::sync::watch;

type Key = (Namespace, ReplicaId);

/// All that are under way. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Starts {
    // Never held over an await.
    under_way: Arc<Mutex<HashMap<Key, watch::Receiver<()>>>>,
}

/// One that is under way, until it is dropped.
#[derive(Debug)]
pub(super) struct UnderWay {
    starts: Starts,
    key: Key,
    /// Its end is what is waited for.
    _over: watch::Sender<()>,
}

impl Starts {
    /// A start of the replica `id` begins. There is only one at a time: whoever starts it knows.
    pub(super) fn begin(&self, namespace: &Namespace, id: &ReplicaId) -> UnderWay {
        let key = (namespace.clone(), id.clone());
        let (over, waiting) = watch::channel(());
        self.with(|under_way| under_way.insert(key.clone(), waiting));
        UnderWay { starts: self.clone(), key, _over: over }
    }

    /// Resolves when no start of the replica `id` is under way.
    pub(super) async fn over(&self, namespace: &Namespace, id: &ReplicaId) {
        let key = (namespace.clone(), id.clone());
        let waiting = self.with(|under_way| under_way.get(&key).cloned());
        if let Some(mut waiting) = waiting {
            // Nothing is ever sent: the only news is the end.
            while waiting.changed().await.is_ok() {}
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<Key, watch::Receiver<()>>) -> T) -> T {
        // A panic elsewhere cannot leave this map half-changed.
        act(&mut self.under_way.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.starts.with(|under_way| under_way.remove(&self.key));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_start_is_over_when_it_is_dropped_and_others_do_not_matter() {
        let starts = Starts::default();
        let namespace = Namespace::default();
        let (one, two): (ReplicaId, ReplicaId) = ("a-1".parse().unwrap(), "a-2".parse().unwrap());
        let under_way = starts.begin(&namespace, &one);
        assert!(starts.over(&namespace, &one).now_or_never().is_none());
        assert!(starts.over(&namespace, &two).now_or_never().is_some());
        assert!(starts.over(&"other".parse().unwrap(), &one).now_or_never().is_some());

        let waiting = tokio::spawn({
            let (starts, namespace, one) = (starts.clone(), namespace.clone(), one.clone());
            async move { starts.over(&namespace, &one).await }
        });
        tokio::task::yield_now().await;
        drop(under_way);
        waiting.await.unwrap();
        assert!(starts.over(&namespace, &one).now_or_never().is_some());
        assert_eq!(starts.with(|under_way| under_way.len()), 0);
    }
}
