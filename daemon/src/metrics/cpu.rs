//! The processor time of functions, across the lives of their replicas.
//!
//! Owns the sums. The kernel's count ends with a replica; a counter that fell whenever one ended would look to Prometheus
//! as if it had begun anew, and a rate over it would leap.

use std::collections::HashMap;

use roost_proxy::function::{FunctionKey, ReplicaId};

/// Sums by function.
#[derive(Debug, Default)]
pub(super) struct CpuTotals(HashMap<FunctionKey, Sum>);

#[derive(Debug, Default)]
struct Sum {
    /// Of replicas that are no more, as it was when they were last seen. In microseconds, like all here.
    ended: u64,
    replicas: HashMap<ReplicaId, u64>,
}

impl CpuTotals {
    /// Takes note of what the replicas of a function have used: `None` where that cannot be read (any more). Returns the
    /// sum, in microseconds.
    pub(super) fn add(&mut self, key: &FunctionKey, replicas: &[(ReplicaId, Option<u64>)]) -> u64 {
        let sum = self.0.entry(key.clone()).or_default();
        for (id, used) in replicas {
            if let Some(used) = used {
                sum.replicas.insert(id.clone(), *used);
            }
        }
        sum.replicas.retain(|id, used| {
            let stays = replicas.iter().any(|(there, _)| there == id);
            sum.ended += if stays { 0 } else { *used };
            stays
        });
        sum.ended + sum.replicas.values().sum::<u64>()
    }

    /// Forgets all functions but these.
    pub(super) fn retain(&mut self, there: impl Fn(&FunctionKey) -> bool) {
        self.0.retain(|key, _| there(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_never_falls_while_the_function_is_there() {
        let mut totals = CpuTotals::default();
        let key = FunctionKey::from_route("echo").unwrap();
        let id = |text: &str| text.parse::<ReplicaId>().unwrap();
        for (replicas, expected) in [
            (vec![(id("a"), Some(10)), (id("b"), Some(5))], 15),
            // One cannot be read any more, then it is gone, then another one comes.
            (vec![(id("a"), Some(12)), (id("b"), None)], 17),
            (vec![(id("a"), Some(20))], 25),
            (vec![(id("a"), Some(20)), (id("c"), Some(1))], 26),
            (vec![], 26),
        ] {
            assert_eq!(totals.add(&key, &replicas), expected, "{replicas:?}");
        }
        totals.retain(|_| false);
        assert_eq!(totals.add(&key, &[(id("d"), Some(1))]), 1);
    }
}
