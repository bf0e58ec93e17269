//! Calls that were taken over when this host had a queue of its own: they become the nodes'.
//!
//! A call is on this host until the server has it. One whose callback is being sent again stays, for a daemon with a queue of
//! its own: its function would be called once more.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::super::keeper::{BODIES, DATABASE};
use super::super::spool::Spool;
use super::super::store::{Store, StoreError};
use super::server::Server;
use crate::pauses::Pauses;

/// The pauses between tries.
const PAUSES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// What came of a try.
#[derive(Default)]
struct Brought {
    brought: usize,
    stay: usize,
    /// The server did not take one: the others were not tried.
    refused: usize,
}

/// Brings them over, and says how many.
pub(super) async fn bring_over(server: Arc<Server>, directory: PathBuf) {
    if !directory.join(DATABASE).exists() {
        return;
    }
    let mut pauses = Pauses::new(PAUSES);
    loop {
        let (runtime, server, directory) = (Handle::current(), Arc::clone(&server), directory.clone());
        match spawn_blocking(move || bring(&runtime, &server, &directory)).await {
            Ok(Ok(Brought { brought, stay, refused })) => {
                if brought + stay > 0 {
                    info!(
                        "{brought} calls of this host's own queue are the nodes' now; {stay} stay until it has one again"
                    );
                }
                if refused == 0 {
                    return;
                }
            }
            Ok(Err(why)) => return warn!("calls of this host's own queue stay where they are: {why}"),
            Err(why) => return warn!("calls of this host's own queue stay where they are: {why}"),
        }
        pauses.wait().await;
    }
}

fn bring(runtime: &Handle, server: &Server, directory: &Path) -> Result<Brought, StoreError> {
    let mut store = Store::open(&directory.join(DATABASE))?;
    let spool = Spool::open(&directory.join(BODIES)).map_err(redb::StorageError::Io)?;
    let mut numbers = Vec::new();
    store.found(|found| numbers.extend(found.ok().map(|found| found.number)))?;
    let mut done = Brought::default();
    for number in numbers {
        let Some(loaded) = store.load(number)? else { continue };
        if loaded.answer.is_some() {
            done.stay += 1;
            continue;
        }
        if runtime.block_on(server.append(&spool, &loaded.call, &loaded.body)).is_err() {
            done.refused += 1;
            return Ok(done);
        }
        store.batch(|tables| tables.remove(number))?;
        if let Some(file) = loaded.body.file() {
            spool.remove(file);
        }
        done.brought += 1;
    }
    Ok(done)
}
