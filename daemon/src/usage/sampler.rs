//! Processor rates and memory of replicas, read from their control groups.
//!
//! Owns the samples. A rate is over the time since an earlier sample that is at least [`SHORTEST`] old: the time since
//! the replica's start where there is none.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use roost_proxy::function::{Namespace, ReplicaId};
use serde::Serialize;
use tracing::debug;

use crate::runtime::Usage;
use crate::runtime::containerd::Containerd;

/// The shortest time that a rate is worth something over.
const SHORTEST: Duration = Duration::from_secs(1);

/// How many replicas are looked at at the same time. Each is a few small files that the kernel makes up.
const AT_ONCE: usize = 4;

/// What replicas use, together: the `usage` of the contract.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Use {
    /// Thousandths of one processor.
    pub cpu: f64,
    /// Memory, in bytes.
    pub total_memory_bytes: f64,
}

/// Reads what replicas use. Clones share their samples.
#[derive(Debug, Clone)]
pub struct Sampler {
    runtime: Containerd,
    samples: Arc<Mutex<HashMap<ReplicaId, Samples>>>,
}

/// Processor time at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    at: Instant,
    cpu_usec: u64,
}

/// The last samples of a replica: `later` is the last one that was kept, `earlier` is at least [`SHORTEST`] older.
#[derive(Debug, Clone, Copy)]
struct Samples {
    earlier: Sample,
    later: Sample,
}

impl Sampler {
    /// Reads from what `runtime` runs.
    #[must_use]
    pub fn new(runtime: Containerd) -> Self {
        Self { runtime, samples: Arc::default() }
    }

    /// What each of some replicas uses by itself. One that is gone, or not there yet, is left out.
    pub async fn read(&self, replicas: &[(Namespace, ReplicaId)]) -> Vec<(usize, Usage)> {
        let read = |(index, (namespace, id)): (usize, &(Namespace, ReplicaId))| {
            let (runtime, namespace, id) = (self.runtime.clone(), namespace.clone(), id.clone());
            async move {
                match runtime.usage(&namespace, &id).await {
                    Ok(usage) => Some((index, usage)),
                    Err(error) => {
                        debug!(replica = %id, %error, "no word on what it uses");
                        None
                    }
                }
            }
        };
        let all: Vec<_> = replicas.iter().enumerate().map(read).collect();
        stream::iter(all).buffer_unordered(AT_ONCE).filter_map(async |usage| usage).collect().await
    }

    /// What the replicas of each of some functions use together, since the last time that somebody asked.
    pub async fn rates(&self, functions: &[(Namespace, Vec<ReplicaId>)]) -> Vec<Use> {
        let (mut owners, mut replicas) = (Vec::new(), Vec::new());
        for (owner, (namespace, ids)) in functions.iter().enumerate() {
            owners.extend(ids.iter().map(|_| owner));
            replicas.extend(ids.iter().map(|id| (namespace.clone(), id.clone())));
        }
        let mut sums = vec![Use::default(); functions.len()];
        for (index, usage) in self.read(&replicas).await {
            let (namespace, id) = &replicas[index];
            let sum = &mut sums[owners[index]];
            sum.cpu += self.rate(namespace, id, usage.cpu_usec).await;
            sum.total_memory_bytes += usage.memory_bytes as f64;
        }
        sums
    }

    async fn rate(&self, namespace: &Namespace, id: &ReplicaId, cpu_usec: u64) -> f64 {
        let now = Sample { at: Instant::now(), cpu_usec };
        if let Some(samples) = self.lock().get_mut(id) {
            return millicores(samples.take(now), now);
        }
        let age = match self.runtime.age(namespace, id).await {
            Ok(age) => age.unwrap_or(SHORTEST),
            Err(error) => {
                debug!(replica = %id, %error, "no word on when it began");
                return 0.0;
            }
        };
        // A host that began a moment ago has no earlier moment to name: then the rate is over what there is.
        let at = now.at.checked_sub(age).unwrap_or(now.at);
        let began = Sample { at, cpu_usec: 0 };
        self.lock().insert(id.clone(), Samples { earlier: began, later: now });
        millicores(began, now)
    }

    /// Forgets all replicas but these.
    pub fn retain(&self, replicas: &HashSet<ReplicaId>) {
        self.lock().retain(|id, _| replicas.contains(id));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ReplicaId, Samples>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Samples {
    /// The sample to compare `now` with. `now` is kept for the next time if the last one is old enough to go.
    fn take(&mut self, now: Sample) -> Sample {
        if now.at.saturating_duration_since(self.later.at) >= SHORTEST {
            *self = Self { earlier: self.later, later: now };
        }
        self.earlier
    }
}

fn millicores(from: Sample, to: Sample) -> f64 {
    let time = to.at.saturating_duration_since(from.at).as_secs_f64();
    let used = to.cpu_usec.saturating_sub(from.cpu_usec) as f64 / 1e6;
    if time > 0.0 { used / time * 1000.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_over_the_time_since_a_sample_that_is_old_enough() {
        let began = Instant::now();
        let sample = |millis: u64, cpu_usec| Sample { at: began + Duration::from_millis(millis), cpu_usec };
        let mut samples = Samples { earlier: sample(0, 0), later: sample(10_000, 1_000_000) };
        for (millis, cpu_usec, expected) in [
            // Half a second later: still over the whole time, as the last sample is too young.
            (10_500, 1_050_000, 100.0),
            // Two seconds later: over these two seconds.
            (12_000, 2_000_000, 500.0),
            // At once again: over the same and the moment since.
            (12_500, 2_000_000, 400.0),
            (14_000, 2_000_000, 0.0),
            // A count that falls is no rate.
            (16_000, 1_000_000, 0.0),
        ] {
            let now = sample(millis, cpu_usec);
            assert_eq!(millicores(samples.take(now), now), expected, "at {millis} ms");
        }
    }

    #[test]
    fn no_time_is_no_rate() {
        let now = Sample { at: Instant::now(), cpu_usec: 5 };
        assert_eq!(millicores(now, now), 0.0);
    }
}
