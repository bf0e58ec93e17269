//! What others hear of a function: its endpoints, whether it is worth waiting for, its status.

use super::Controller;
use crate::function::kept::Kept;
use crate::function::known::ImageState;
use crate::function::record::FunctionRecord;
use crate::function::rollout::Phase;
use crate::function::shard::Shard;
use crate::function::status::{FunctionPhase, ReplicaStatus, Status};

impl Controller {
    /// Tells the proxy and whoever asks how things are.
    pub(super) fn publish(&mut self, wanted: Option<&FunctionRecord>) {
        let endpoints = self.endpoints(|_| true);
        let nobody = endpoints.is_empty();
        self.upstream.publish(endpoints);
        if !nobody {
            self.tools.queue.look(&self.key);
        }
        self.hold_keys(wanted);
        let phase = wanted.map_or(FunctionPhase::Removing, |record| self.phase(record));
        let newest = wanted.and_then(|record| self.revisions.get(record.newest.of_replicas()));
        let hopeless = self.is_hopeless(&None);
        let reason = match newest {
            None => Some("the function was deleted".to_owned()),
            // A request for an idle function is what wakes it: it has to wait.
            Some(_) if self.is_idle() => None,
            Some(known) => known.failure.as_ref().filter(|_| hopeless).map(|failure| failure.outside.clone()),
        };
        self.upstream.set_unavailable(reason.filter(|_| nobody));

        let revision = wanted.map(|record| record.newest.id.clone()).unwrap_or_default();
        let of_newest = wanted.map_or("", |record| record.newest.of_replicas());
        let replica = |r: &Kept| ReplicaStatus {
            id: r.id.clone(),
            phase: r.shown(),
            revision: if r.revision == of_newest { revision.clone() } else { r.revision.clone() },
            key: r.key.clone(),
            endpoint: r.endpoint.clone(),
            started_at: r.started_at,
        };
        let last_exit = self.last_exit.as_ref().filter(|(of, _)| of == of_newest).map(|(_, how)| how.clone());
        self.status.send_replace(Status {
            phase,
            message: newest.and_then(|known| known.failure.as_ref()).map(|failure| failure.inside.clone()),
            image: newest.and_then(|known| match &known.image {
                ImageState::Fetching(progress, _) => Some(progress.clone()),
                _ => None,
            }),
            replicas: self.replicas.iter().map(replica).collect(),
            desired: self.shards.values().map(Shard::desired).sum(),
            scalings: self.scalings,
            last_decision: self.last_scaled.clone(),
            restarts: self.restarts,
            oom_kills: self.oom_kills,
            last_exit,
            revision,
        });
    }

    /// What the function is doing. What went wrong is forgotten when all is well.
    fn phase(&mut self, record: &FunctionRecord) -> FunctionPhase {
        let newest = record.newest.of_replicas();
        let up = |r: &&Kept| matches!(r.phase, Phase::Ready | Phase::Busy) && r.revision == newest;
        let ready = self.replicas.iter().filter(up).count();
        let desired: u32 = self.shards.values().map(Shard::desired).sum();
        let Some(known) = self.revisions.get_mut(newest) else { return FunctionPhase::Starting };
        let all = ready >= desired as usize;
        if all && desired > 0 {
            known.failure = None;
        }
        match &known.image {
            // With keys there may never have been a replica: then its image says whether it is any good.
            _ if all && (record.complete || desired > 0) => {
                if desired == 0 {
                    FunctionPhase::Idle
                } else {
                    FunctionPhase::Ready
                }
            }
            _ if desired == 0 && self.policy.1.placement.key.is_none() => FunctionPhase::Idle,
            _ if known.failure.is_some() => FunctionPhase::Failed,
            ImageState::Fetching(..) => FunctionPhase::Pulling,
            _ if record.serving.is_some() => FunctionPhase::Updating,
            _ => FunctionPhase::Starting,
        }
    }
}
