//! Calls that were taken over when this host had a queue of its own: they become the nodes'.
//!
//! A call is on this host until the server has it. One whose callback is being sent again stays, for a daemon with a queue of
//! its own: its function would be called once more.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::super::keeper::{BODIES, DATABASE};
use super::super::spool::Spool;
use super::super::store::{Store, StoreError};
use super::server::Server;

/// Brings them over, and says how many.
pub(super) async fn bring_over(server: Arc<Server>, directory: PathBuf) {
    if !directory.join(DATABASE).exists() {
        return;
    }
    let runtime = Handle::current();
    match spawn_blocking(move || bring(&runtime, &server, &directory)).await {
        Ok(Ok((0, 0))) => {}
        Ok(Ok((brought, left))) => {
            info!(
                "{brought} calls of this host's own queue are the nodes' now; {left} stay until it has one again"
            );
        }
        Ok(Err(why)) => warn!("calls of this host's own queue stay where they are: {why}"),
        Err(why) => warn!("calls of this host's own queue stay where they are: {why}"),
    }
}

fn bring(runtime: &Handle, server: &Server, directory: &Path) -> Result<(usize, usize), StoreError> {
    let mut store = Store::open(&directory.join(DATABASE))?;
    let spool = Spool::open(&directory.join(BODIES)).map_err(redb::StorageError::Io)?;
    let mut numbers = Vec::new();
    store.found(|found| numbers.extend(found.ok().map(|found| found.number)))?;
    let (mut brought, mut left) = (0, 0);
    for number in numbers {
        let Some(loaded) = store.load(number)? else { continue };
        if loaded.answer.is_some()
            || runtime.block_on(server.append(&spool, &loaded.call, &loaded.body)).is_err()
        {
            left += 1;
            continue;
        }
        store.batch(|tables| tables.remove(number))?;
        if let Some(file) = loaded.body.file() {
            spool.remove(file);
        }
        brought += 1;
    }
    Ok((brought, left))
}
