//! How many calls wait, on all nodes together.
//!
//! Owns the task that asks for it now and then. What is told in between is what was so then.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::ConsumerInfoErrorKind;
use roost_proxy::function::FunctionKey;

use super::super::keeper::Depth;
use super::names::{Lane, consumer};
use super::server::{Failed, Server, failed};

/// How often it is asked.
pub(super) const EVERY: Duration = Duration::from_secs(2);

/// What waits in these lanes.
pub(super) async fn depths(
    server: Arc<Server>,
    lanes: Vec<(FunctionKey, Lane)>,
) -> Result<HashMap<FunctionKey, Depth>, Failed> {
    let mut depths: HashMap<FunctionKey, Depth> = HashMap::new();
    for (function, lane) in lanes {
        let info = match server.calls.consumer_info(consumer(&function, lane)).await {
            Ok(info) => info,
            // Nobody has called there yet.
            Err(error) if matches!(error.kind(), ConsumerInfoErrorKind::NotFound) => continue,
            Err(error) => return Err(failed(error)),
        };
        let calls = info.num_pending + info.num_ack_pending as u64;
        let oldest = if calls == 0 {
            None
        } else {
            // What is acknowledged is no more: the first one there is the oldest that is not.
            let first =
                server.calls.get_first_raw_message_by_subject(server.names.lane(&function, lane), 1).await;
            first.ok().map(|message| (message.time.unix_timestamp_nanos() / 1_000_000) as i64)
        };
        let depth = depths.entry(function).or_default();
        depth.calls += calls;
        depth.oldest = [depth.oldest, oldest].into_iter().flatten().min();
    }
    Ok(depths)
}
