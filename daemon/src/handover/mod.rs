//! What this daemon leaves to the next one, and what it got from the last: descriptors that somebody else keeps.
//!
//! Owns the way there and back: the [store] of whoever started this daemon, and the [queues](queue) in it that hold the
//! sockets of tunnels. Never looks into a tunnel: the proxy does.

mod queue;
mod store;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use roost_proxy::websocket::Bequest;
use roost_proxy::{DescriptorStore, Inherited, Keep, MEMORY_NAME, Named};
use tracing::{info, warn};

pub use store::DESCRIPTORS;
use store::{Store, is_queue};

/// Is this the name of something that an earlier daemon has left?
pub fn is_name(name: &str) -> bool {
    Keep::is_name(name) || Bequest::is_name(name) || is_queue(name)
}

/// What outlives this daemon, and what has outlived the last one.
pub struct Kept {
    /// Keeps tunnels.
    pub keep: Arc<Keep>,
    /// Keeps all else.
    pub store: Arc<dyn DescriptorStore>,
    /// Tunnels of an earlier daemon.
    pub tunnels: Option<Inherited>,
    /// Connections that an earlier daemon held.
    pub connections: Option<Bequest>,
}

/// Keeps tunnels in whatever started this daemon, up to `capacity` of them, and takes over those of an earlier daemon.
/// `None` where nothing is kept: their connections end with the daemon, with a word.
pub async fn keep(capacity: usize, kept: Vec<Named>) -> Option<Kept> {
    let path = std::env::var_os("NOTIFY_SOCKET")?;
    if capacity == 0 && kept.is_empty() {
        return None;
    }
    match begin(Path::new(&path), capacity, kept).await {
        Ok(begun) => Some(begun),
        Err(error) => {
            warn!("connections do not outlive this daemon: {error}");
            None
        }
    }
}

async fn begin(path: &Path, capacity: usize, kept: Vec<Named>) -> io::Result<Kept> {
    let (queues, mut others): (Vec<Named>, Vec<Named>) =
        kept.into_iter().partition(|(name, _)| is_queue(name));
    let (store, mut sockets) = Store::open(path, queues).await?;
    let store = Arc::new(store);
    let held = |sockets: &mut Vec<Named>| {
        let (held, others) =
            std::mem::take(sockets).into_iter().partition(|(name, _)| Bequest::is_name(name));
        *sockets = others;
        held
    };
    let found: [Vec<Named>; 2] = [held(&mut others), held(&mut sockets)];
    let connections = Bequest::new(found.into_iter().flatten().collect());
    let memory = others.iter().position(|(name, _)| name == MEMORY_NAME);
    let memory = memory.map(|index| others.swap_remove(index).1);
    sockets.extend(in_queues(&store, others).await?);
    if let Some(memory) = memory {
        let names: Vec<String> = sockets.iter().map(|(name, _)| name.clone()).collect();
        match Keep::inherit(memory, sockets, capacity, Arc::<Store>::clone(&store)) {
            Ok((keep, inherited)) => {
                info!("{} connections of an earlier daemon go on", inherited.len());
                return Ok(Kept { keep, store, tunnels: Some(inherited), connections });
            }
            Err(why) => {
                warn!("{} descriptors of an earlier daemon's connections are dropped: {why}", names.len());
                for name in names {
                    store.remove(&name).await?;
                }
                store.remove(MEMORY_NAME).await?;
            }
        }
    }
    let keep = Keep::new(capacity, Arc::<Store>::clone(&store))?;
    store.put(MEMORY_NAME, &[keep.memory()]).await?;
    Ok(Kept { keep, store, tunnels: None, connections })
}

/// Sockets that an earlier daemon has put into the store one by one.
async fn in_queues(store: &Store, sockets: Vec<Named>) -> io::Result<Vec<Named>> {
    let mut by_name: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for (name, socket) in &sockets {
        by_name.entry(name).or_default().push(socket.as_fd());
    }
    for (name, sockets) in by_name {
        store.put(name, &sockets).await?;
        store.starter().remove(name).await?;
    }
    Ok(sockets)
}
