//! The end of the host: functions are stopped by us.
//!
//! When the daemon ends, functions run on. When the host ends they would hold it up: a first process of a container
//! that does not handle TERM ignores it, and systemd waits for it for 90 seconds before it kills. So when the host
//! goes down, they get what they get at each stop: TERM, the grace, KILL.
//!
//! Owns that last step alone. It runs after the daemon proper, when no controller is left to start again what ends
//! here; functions stay in the store, and start with the host.

use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::app;
use crate::config::Config;
use crate::runtime::Found;
use crate::runtime::containerd::Containerd;
use crate::systemd;

/// What all of it may take beyond the grace of functions: containerd's part, on a slow and busy host.
const MARGIN: Duration = Duration::from_secs(20);

/// Whether systemd, which started this daemon, is taking the host down: to power off, reboot, halt or kexec.
#[must_use]
pub fn has_come() -> bool {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return false;
    }
    // By its own socket, without D-Bus, which may have ended before us. Its exit status is 0 for "running" alone.
    match Command::new("systemctl").arg("is-system-running").output() {
        Ok(output) => says_stopping(&output.stdout),
        Err(error) => {
            warn!("cannot ask systemd whether the host goes down, functions run on: {error}");
            false
        }
    }
}

fn says_stopping(output: &[u8]) -> bool {
    output.trim_ascii() == b"stopping"
}

/// Stops all replicas at once, each with the grace of the settings.
///
/// # Errors
/// When containerd does not tell which there are. A replica that cannot be stopped is logged: systemd will kill it.
pub async fn stop_functions(config: &Config) -> anyhow::Result<()> {
    let grace = config.functions.stop_grace;
    let limit = grace + MARGIN;
    systemd::notify(&[
        NotifyState::Status("stopping functions"),
        NotifyState::ExtendTimeoutUsec(u32::try_from(limit.as_micros()).unwrap_or(u32::MAX)),
    ]);
    let containerd = Containerd::new(app::runtime_settings(config)?);
    let stopped = timeout(limit, stop_all(&containerd, grace)).await;
    stopped.with_context(|| format!("not all functions ended within {limit:?}"))?
}

async fn stop_all(containerd: &Containerd, grace: Duration) -> anyhow::Result<()> {
    let found = containerd.list().await.context("cannot list the containers that are there")?;
    let standing: Vec<Found> = found.into_iter().filter(|replica| replica.standing.is_some()).collect();
    info!("the host goes down: stopping {} replicas", standing.len());
    // As many tasks as there are replicas: one after the other, the graces of those that ignore TERM would add up.
    let mut stops = JoinSet::new();
    for replica in standing {
        let containerd = containerd.clone();
        stops.spawn(async move {
            let stopped = containerd.stop(&replica.function.namespace, &replica.id, grace).await;
            if let Err(error) = stopped {
                warn!(function = %replica.function, replica = %replica.id, "replica {}: not stopped: {error}", replica.id);
            }
        });
    }
    stops.join_all().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_host_that_goes_down_is_going_down() {
        for (said, stopping) in [
            ("stopping\n", true),
            ("running\n", false),
            ("degraded\n", false),
            ("starting\n", false),
            ("maintenance\n", false),
            ("offline\n", false),
            ("", false),
        ] {
            assert_eq!(says_stopping(said.as_bytes()), stopping, "{said}");
        }
    }

    #[test]
    fn without_systemd_the_host_is_not_asked() {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            assert!(!has_come());
        }
    }
}
