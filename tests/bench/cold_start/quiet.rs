//! Waits until the machine has little else to do.

use std::time::Duration;

/// How long is looked at a time.
const LOOK: Duration = Duration::from_millis(100);
/// How often it is looked, at most.
const LOOKS: usize = 30;
/// The part of all processors' time that others may have.
const BUSY: f64 = 0.10;

/// Waits for a quiet moment: was there one?
pub(crate) async fn wait() -> bool {
    let mut before = times();
    for _ in 0..LOOKS {
        // Nothing tells that a machine has become quiet.
        tokio::time::sleep(LOOK).await;
        let now = times();
        let all = now.0.saturating_sub(before.0).max(1);
        let idle = now.1.saturating_sub(before.1);
        if 1.0 - idle as f64 / all as f64 <= BUSY {
            return true;
        }
        before = now;
    }
    false
}

/// The ticks of all processors since the machine's start, and those that they were idle.
fn times() -> (u64, u64) {
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    let fields = stat.lines().next().unwrap().split_whitespace().skip(1).take(8);
    let ticks: Vec<u64> = fields.map(|field| field.parse().unwrap()).collect();
    // Waiting for a disk is idle, too.
    (ticks.iter().sum(), ticks[3] + ticks[4])
}
