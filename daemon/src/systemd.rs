//! What systemd and the daemon tell each other: sockets, readiness, signs of life.
//!
//! Everything here does nothing where systemd does not run.

use std::net::TcpListener;
use std::os::fd::FromRawFd;
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::{debug, warn};

/// The sockets that systemd listens on for us, in the order of the unit.
///
/// # Errors
/// When a descriptor that systemd announces is not a listening TCP socket.
pub fn listeners() -> std::io::Result<Vec<TcpListener>> {
    let descriptors = sd_notify::listen_fds()?;
    descriptors
        .map(|fd| {
            // SAFETY: systemd passed this descriptor to this process alone, and this is the only place that takes it:
            // `main` calls this once.
            let listener = unsafe { TcpListener::from_raw_fd(fd) };
            listener.local_addr()?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })
        .collect()
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

/// Resolves when the daemon is asked to end, with the name of the signal.
pub async fn asked_to_end() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        },
        (Err(error), _) | (_, Err(error)) => {
            warn!("signals cannot be received, only SIGKILL ends this daemon: {error}");
            std::future::pending().await
        }
    }
}
