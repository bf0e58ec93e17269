//! What functions use: processor and memory of their replicas now, how many requests they answered in their lives, and by
//! day what their connections took ([`ledger`]).
//!
//! Owns the one task that writes counts down, and the samples that rates are made of. Never counts itself: the proxy
//! counts requests, the kernel counts the rest. A daemon that is killed loses the counts of at most [`WRITE_EVERY`].

mod book;
pub mod figures;
pub mod ledger;
mod sampler;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

pub use self::ledger::Ledger;
pub use self::sampler::{Sampler, Use};
use crate::function::registry::Registry;

/// How often counts are written down, if there are new ones. Each time is one write to what may be an SD card.
const WRITE_EVERY: Duration = Duration::from_secs(60);

/// What the store keeps of a function's use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRecord {
    /// Requests that were answered since the function was created.
    #[serde(rename = "invocations")]
    pub requests: u64,
}

/// Writes counts down and forgets samples of replicas that are gone, until it is dropped.
pub async fn keep(registry: Arc<Registry>, sampler: Sampler) {
    let mut ticks = interval(WRITE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is at once, and there is nothing yet.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        write(&registry).await;
        let replicas = registry.observe().into_iter().flat_map(|function| function.replicas);
        sampler.retain(&replicas.collect());
    }
}

/// Writes down what was counted since the last time. What cannot be written now may be at the next time.
pub async fn write(registry: &Arc<Registry>) {
    if let Err(error) = registry.write_usage().await {
        warn!("the counts of requests cannot be written: {error}");
    }
}
