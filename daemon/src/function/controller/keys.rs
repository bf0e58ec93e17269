//! Which keys a function holds, and what of that the proxy is told.
//!
//! Owns the limit: there are never more keys with a replica in whatever phase, or the wish for one, than there may be, but
//! for those that were there before the limit was lowered. How many replicas a key has is decided elsewhere.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use roost_proxy::ReplicaKey;

use super::Controller;
use crate::function::known::Known;
use crate::function::record::FunctionRecord;
use crate::function::rollout::Target;
use crate::function::shard::Shard;

impl Controller {
    /// Takes up the keys that somebody waits for, as far as there is room.
    pub(super) fn take_up(
        &mut self,
        record: &FunctionRecord,
        waiting: &HashMap<ReplicaKey, usize>,
        now: Instant,
    ) {
        let max = self.policy.1.placement.max_keys;
        let mut held = self.held();
        for key in waiting.keys() {
            // Those that find none wait on: the proxy let them in when there was some.
            if held.contains(key) || held.len() < max {
                held.insert(key.clone());
                self.shards.entry(Some(key.clone())).or_insert_with(|| Shard::new(0, now));
            }
        }
        // At once: whoever waits may leave, and would not be counted any more.
        self.hold_keys(Some(record));
    }

    /// Tells the proxy which keys are held, and of which it is not worth waiting for a replica.
    pub(super) fn hold_keys(&self, wanted: Option<&FunctionRecord>) {
        let newest = wanted.and_then(|record| self.revisions.get(record.newest.of_replicas()));
        let reason: Option<Arc<str>> =
            newest.and_then(|known| known.failure.as_ref()).map(|failure| failure.outside.as_str().into());
        let told = |key: ReplicaKey| {
            let of_key = Some(key.clone());
            // A request for one that is idle is what wakes it: it has to wait.
            let is_idle = self.shards.get(&of_key).is_none_or(|shard| shard.desired() == 0);
            let answers = self.ready(|replica| replica.key == of_key).next().is_some();
            let refused = !is_idle && !answers && self.is_hopeless(&of_key);
            (key, reason.clone().filter(|_| refused))
        };
        self.upstream.hold_keys(self.held().into_iter().map(told).collect());
    }

    /// Is a request for this key better refused than held, whichever revision it would get?
    pub(super) fn is_hopeless(&self, key: &Option<ReplicaKey>) -> bool {
        self.revisions.values().all(|known: &Known| known.refuses(key))
    }

    /// With keys there may be nothing to start: the newest revision is good when a replica of it is ready, or none is
    /// wanted and one could be started.
    pub(super) fn is_good_for_keys(&self, newest: &Target) -> bool {
        let ready = || self.ready(|replica| replica.revision == newest.revision).next().is_some();
        self.policy.1.placement.key.is_some() && (ready() || newest.startable && self.is_idle())
    }

    /// The keys for which there is a replica, or is to be one.
    fn held(&self) -> BTreeSet<ReplicaKey> {
        let of_replicas = self.replicas.iter().filter_map(|replica| replica.key.as_ref());
        self.shards.keys().flatten().chain(of_replicas).cloned().collect()
    }
}
