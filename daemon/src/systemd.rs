//! What systemd and the daemon tell each other: sockets, readiness, signs of life.
//!
//! Everything here does nothing where systemd does not run, nor our own [supervisor](crate::supervise).

use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use roost_proxy::{Named, Server};
use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::function::registry::Registry;
use crate::function::status::Observed;
use crate::handover;

/// How often systemd is told what is served, if that has changed.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// How many functions are named that are not ready.
const NAMED: usize = 3;

/// What systemd has for us.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The sockets that it listens on, in the order of the unit.
    pub listeners: Vec<TcpListener>,
    /// What an earlier daemon has left, by its names in the descriptor store.
    pub kept: Vec<Named>,
}

/// Takes what systemd has for us.
///
/// # Errors
/// When a descriptor that systemd announces is neither a listening TCP socket nor one that we name so.
pub fn inherited() -> std::io::Result<Inherited> {
    let mut inherited = Inherited::default();
    for (fd, name) in sd_notify::listen_fds_with_names()? {
        // SAFETY: systemd passed this descriptor to this process alone, and this is the only place that takes it:
        // `main` calls this once.
        let descriptor = unsafe { OwnedFd::from_raw_fd(fd) };
        if handover::is_name(&name) {
            inherited.kept.push((name, descriptor));
            continue;
        }
        let listener = TcpListener::from(descriptor);
        listener.local_addr()?;
        listener.set_nonblocking(true)?;
        inherited.listeners.push(listener);
    }
    Ok(inherited)
}

/// Tells systemd.
pub fn notify(states: &[NotifyState<'_>]) {
    match sd_notify::notify(states) {
        Ok(()) => {}
        Err(error) => debug!(%error, "systemd was not told"),
    }
}

/// Gives systemd a sign of life for as long as the async workers get round to it.
pub async fn watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let mut ticks = tokio::time::interval((limit / 3).max(Duration::from_millis(100)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

/// Tells systemd what is served, for who asks by `systemctl status`, until the daemon ends.
pub async fn tell(registry: Arc<Registry>, server: Server, ending: CancellationToken) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let mut told = String::new();
    let mut ticks = tokio::time::interval(TELL_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while ending.run_until_cancelled(ticks.tick()).await.is_some() {
        let functions: Vec<_> = registry.observe().iter().map(Served::of).collect();
        let text = status(&functions, server.open());
        if text != told {
            notify(&[NotifyState::Status(&text)]);
            told = text;
        }
    }
}

/// What a line about a function needs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Served {
    name: String,
    wanted: u32,
    ready: usize,
}

impl Served {
    fn of(observed: &Observed) -> Self {
        Self { name: observed.key.to_string(), wanted: observed.desired, ready: observed.available }
    }
}

/// One line about all that is served.
fn status(functions: &[Served], connections: usize) -> String {
    let ready: usize = functions.iter().map(|function| function.ready).sum();
    let mut text =
        format!("serving; functions: {}, replicas: {ready}, connections: {connections}", functions.len());
    let mut missing: Vec<&str> = functions
        .iter()
        .filter(|one| one.wanted > 0 && one.ready == 0)
        .map(|one| one.name.as_str())
        .collect();
    missing.sort_unstable();
    for (at, name) in missing.iter().take(NAMED).enumerate() {
        text.push_str(if at == 0 { "; not ready: " } else { ", " });
        text.push_str(name);
    }
    if let Some(more @ 1..) = missing.len().checked_sub(NAMED) {
        text += &format!(" and {more} more");
    }
    text
}

/// How the daemon is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// For good: connections are closed.
    ToEnd(&'static str),
    /// For another daemon, which goes on with its connections.
    ToHandOver,
}

/// Resolves when the daemon is asked to end, and says how.
pub async fn asked_to_end() -> Asked {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::user_defined2()].map(signal);
    match signals {
        [Ok(mut terminate), Ok(mut interrupt), Ok(mut hand_over)] => tokio::select! {
            _ = terminate.recv() => Asked::ToEnd("SIGTERM"),
            _ = interrupt.recv() => Asked::ToEnd("SIGINT"),
            _ = hand_over.recv() => Asked::ToHandOver,
        },
        [Err(error), ..] | [_, Err(error), _] | [.., Err(error)] => {
            warn!("signals cannot be received, only SIGKILL ends this daemon: {error}");
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_names_what_is_not_ready_and_no_more_than_a_few() {
        let function = |name: &str, wanted, ready| Served { name: name.to_owned(), wanted, ready };
        let mut functions = vec![function("b", 2, 1), function("asleep", 0, 0)];
        assert_eq!(status(&functions, 7), "serving; functions: 2, replicas: 1, connections: 7");
        functions.push(function("z", 1, 0));
        functions.push(function("a", 1, 0));
        assert!(status(&functions, 0).ends_with("connections: 0; not ready: a, z"));
        functions.extend([function("c", 1, 0), function("d", 1, 0), function("e", 1, 0)]);
        assert!(status(&functions, 0).ends_with("; not ready: a, c, d and 2 more"));
    }
}
