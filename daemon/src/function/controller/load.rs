//! What is going on with a function, and how many replicas that asks for.
//!
//! Owns the looking: what is decided by it is pure, in [`crate::scaling`]. Starts and ends nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use jiff::{Timestamp, Zoned};
use roost_proxy::ReplicaKey;
use roost_proxy::function::ReplicaId;
use tracing::info;

use super::Controller;
use crate::function::record::FunctionRecord;
use crate::function::rollout::Phase;
use crate::function::shard::Shard;
use crate::scaling::events::Scaled;
use crate::scaling::{Measure, Observation};

impl Controller {
    /// As many replicas as there were, where that is for this host to decide.
    pub(super) fn resume(&mut self, record: &FunctionRecord) {
        let (now, policy) = (Instant::now(), &self.policy.1);
        let up = |key: Option<&ReplicaKey>| {
            let of_key = self.replicas.iter().filter(|r| r.key.as_ref() == key && r.phase == Phase::Starting);
            u32::try_from(of_key.count()).unwrap_or(u32::MAX)
        };
        if policy.placement.key.is_some() {
            let keys: Vec<_> = self.replicas.iter().filter_map(|r| r.key.clone()).collect();
            for key in keys {
                let desired = up(Some(&key)).min(1);
                self.shards.insert(Some(key), Shard::new(desired, now));
            }
            return;
        }
        let desired = match up(None) {
            _ if record.replicas == Some(0) => {
                // Whoever runs the host said so, after the schedule's last time.
                if let Some(shard) = self.shards.get_mut(&None) {
                    shard.heed(policy, &Zoned::now());
                }
                return;
            }
            _ if !record.complete => return,
            0 if policy.zero.is_some() => 0,
            count if policy.load.is_some() => count.clamp(policy.min.max(1), policy.max),
            _ => return,
        };
        self.shards.insert(None, Shard::new(desired, now));
    }

    /// Looks at the load of each shard and decides how many replicas it is to have.
    pub(super) async fn scale(&mut self, record: &FunctionRecord) {
        let (now, clock) = (Instant::now(), Zoned::now());
        let waiting: HashMap<ReplicaKey, usize> = self.upstream.waiting_keys().into_iter().collect();
        if self.policy.1.placement.key.is_some() {
            self.take_up(record, &waiting, now);
        }
        let cpu_millis = self.cpu().await;
        let keys: Vec<Option<ReplicaKey>> = self.shards.keys().cloned().collect();
        for key in keys {
            let seen = self.observe(key.as_ref(), &waiting, cpu_millis);
            let Some(shard) = self.shards.get_mut(&key) else { continue };
            let from = shard.desired();
            let Some(decision) = shard.look(&self.policy.1, &seen, now, &clock) else { continue };
            if from == 0 && record.replicas == Some(0) {
                let (registry, key) = (Arc::clone(&self.registry), self.key.clone());
                let scalings = record.scalings;
                tokio::spawn(async move { registry.wake(&key, scalings).await });
            }
            self.tell_scaled(key, from, decision.replicas, decision.reason.to_string());
        }
        // A key that nobody asks for and that has nothing left is forgotten.
        let replicas = &self.replicas;
        self.shards.retain(|key, shard| {
            key.as_ref().is_none_or(|of| {
                shard.desired() > 0
                    || waiting.contains_key(of)
                    || replicas.iter().any(|replica| replica.key == *key)
            })
        });
    }

    fn tell_scaled(&mut self, key: Option<ReplicaKey>, from: u32, to: u32, reason: String) {
        let of_key = key.as_ref().map(|key| format!(" for key {key}")).unwrap_or_default();
        info!(function = %self.key, "{}: scaled from {from} to {to}{of_key}: {reason}", self.key);
        let scaled = Scaled { at: Timestamp::now(), function: self.key.clone(), key, from, to, reason };
        self.last_scaled = Some(scaled.clone());
        self.tools.events.tell(scaled);
    }

    /// What the replicas use, in thousandths of a core, if that matters.
    async fn cpu(&self) -> Option<f64> {
        self.policy.1.load.as_ref().filter(|load| load.measure == Measure::Cpu)?;
        let ids: Vec<ReplicaId> = self.ready(|_| true).map(|replica| replica.id.clone()).collect();
        self.sampler.retain(&ids.iter().cloned().collect());
        let rates = self.sampler.rates(&[(self.key.namespace.clone(), ids)]).await;
        rates.first().map(|used| used.cpu)
    }

    fn observe(
        &self,
        key: Option<&ReplicaKey>,
        waiting: &HashMap<ReplicaKey, usize>,
        cpu_millis: Option<f64>,
    ) -> Observation {
        let desired = self.shards.get(&key.cloned()).map_or(0, Shard::desired);
        let of_key = || self.replicas.iter().filter(|replica| replica.key.as_ref() == key);
        let ready = of_key().filter(|replica| replica.phase == Phase::Ready).count();
        let ready = u32::try_from(ready).unwrap_or(u32::MAX);
        match key {
            None => {
                let load = self.upstream.load();
                Observation {
                    desired,
                    ready,
                    in_flight: load.in_flight as u64,
                    connections: load.tunnels as u64,
                    waiting: load.waiting as u64,
                    queued: self.tools.queue.waiting(&self.key),
                    started: load.started_total,
                    finished: load.finished_total,
                    cpu_millis,
                    quiet: self.upstream.last_traffic(),
                }
            }
            Some(key) => {
                let endpoints = || of_key().filter_map(|replica| replica.endpoint.as_ref());
                let claims = endpoints().map(|endpoint| endpoint.claims_total()).sum();
                Observation {
                    desired,
                    ready,
                    in_flight: endpoints().map(|endpoint| endpoint.in_flight() as u64).sum(),
                    connections: endpoints().map(|endpoint| endpoint.tunnels() as u64).sum(),
                    waiting: waiting.get(key).copied().unwrap_or(0) as u64,
                    queued: 0,
                    started: claims,
                    finished: claims,
                    cpu_millis: None,
                    quiet: endpoints().filter_map(|endpoint| endpoint.last_traffic()).min(),
                }
            }
        }
    }
}
