//! How much the host takes when it does nothing.

#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]
#![allow(clippy::print_stderr, reason = "the figures are for people")]

use roost_tests::{Host, Image, Registry};
use serde_json::json;

/// The most that the daemon may have resident with ten idle functions, in KiB. It is judged of a release build only.
const DAEMON_LIMIT: u64 = 15 * 1000 * 1000 / 1024;

/// The largest release binary, in bytes.
const BINARY_LIMIT: u64 = 15 * 1000 * 1000;

#[tokio::test]
async fn ten_idle_functions_are_cheap() {
    let registry = Registry::open().await;
    let image = registry.push(&Image::echo(), "echo", "1").await;
    let host = Host::start().await;
    let names: Vec<_> = (0..10).map(|n| format!("idle-{n}")).collect();
    for name in &names {
        host.post_function(&json!({ "service": name, "image": image })).await;
    }
    for name in &names {
        host.ready(name).await;
        host.assert_echoes(name).await;
    }
    // Idle is when the threads and connections of the pulls have gone, too.
    let daemon = match roost_tests::release() {
        Some(_) => {
            roost_tests::eventually("the daemon to be small", async || {
                Some(host.daemon_memory()).filter(|memory| *memory <= DAEMON_LIMIT)
            })
            .await
        }
        None => host.daemon_memory(),
    };
    let attendants = host.attendants_memory();
    let sum = |kind: &str| {
        attendants.iter().filter(|(_, line)| line.contains(kind)).map(|(memory, _)| memory).sum::<u64>()
    };
    let count = |kind: &str| attendants.iter().filter(|(_, line)| line.contains(kind)).count();
    eprintln!("roostd with ten idle functions: {daemon} KiB resident");
    eprintln!(
        "{} shims: {} KiB, {} log drivers: {} KiB",
        count("shim"),
        sum("shim"),
        count("log-driver"),
        sum("log-driver")
    );
    assert_eq!(count("shim"), 1, "replicas of one namespace share a shim");
    assert_eq!(count("log-driver"), 10);
    if let Some(release) = roost_tests::release() {
        let bytes = std::fs::metadata(release.join("roostd")).unwrap().len();
        eprintln!("the binary: {bytes} bytes");
        assert!(bytes <= BINARY_LIMIT, "{bytes} bytes");
    }
}
