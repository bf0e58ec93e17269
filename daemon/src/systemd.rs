//! What systemd and the daemon tell each other: sockets, readiness, signs of life.
//!
//! Everything here does nothing where systemd does not run, nor our own [supervisor](crate::supervise).

use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;

use roost_proxy::Named;
use sd_notify::NotifyState;
use tracing::{debug, warn};

use crate::handover;

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
