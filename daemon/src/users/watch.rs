//! When the files of users may have changed.
//!
//! Owns when they are read again.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::Users;
use crate::changes::Changes;

/// Reads the files again whenever they change and whenever the daemon gets SIGHUP, until it ends. From the call on, not
/// from the first poll on, SIGHUP does not end the daemon.
pub fn follow(users: Option<Arc<Users>>) -> impl Future<Output = ()> + Send {
    let hangups = signal(SignalKind::hangup());
    async move {
        let mut hangups = match hangups {
            Ok(hangups) => hangups,
            Err(error) => {
                return warn!("the users of the API are not followed: no SIGHUP can be received: {error}");
            }
        };
        let Some(users) = users else {
            while hangups.recv().await.is_some() {
                info!("SIGHUP: there are no users to read again, [auth] is not enabled");
            }
            return;
        };
        let mut changes = Changes::new("the users of the API", &users.paths());
        // What changed between the start and the watch.
        users.reload();
        loop {
            tokio::select! {
                () = changes.next() => {}
                hangup = hangups.recv() => match hangup {
                    Some(()) => info!("SIGHUP: reading the users of the API again"),
                    None => return,
                },
            }
            users.reload();
        }
    }
}
