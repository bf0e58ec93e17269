//! What the end-to-end tests of Roost share: a host of a test's own, and the clients that talk to it.
//!
//! [`Host`] is a private world: containerd, `roostd`, a bridge, a subnet and a control group that nothing else uses, below
//! one temporary directory. It is driven as a user drives it: by processes, files, signals and HTTP. When it is dropped, it ends
//! everything, and fails the test when anything is left on the machine.
//!
//! Nothing here is used outside of tests, and nothing here replaces a part of Roost.

#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]
#![allow(clippy::print_stderr, reason = "what a failed test shows")]

mod brokers;
mod client;
mod clients;
mod command_line;
mod containerd;
mod events;
mod examples;
mod grpc;
mod host;
mod image;
mod leftovers;
mod load;
mod netns;
mod nodes;
mod ports;
mod process;
mod receiver;
mod registry;
mod sockets;

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

pub use brokers::{Mosquitto, NatsServer};
pub use client::{Answer, Api, Body, body_in_pieces, body_of, next_piece};
pub use clients::{Clients, Runner, Sample, clients};
pub use command_line::Output;
pub use events::{Events, Seen};
pub use examples::{Example, NodeApp, copy_of, image_of};
pub use grpc::Plain;
pub use host::{Config, ECHO, Host, Memory};
pub use image::{Image, echo_binary, libraries};
pub use load::{Load, Report};
pub use netns::Netns;
pub use nodes::Nodes;
pub use ports::{Subnet, free_port};
pub use process::{Pages, Started, frozen, started};
pub use receiver::{Callback, Receiver};
pub use registry::Registry;
pub use sockets::Socket;
pub use tokio_tungstenite::tungstenite::Message;

/// How long anything may take before a test gives up on it. Far more than it takes: other work shares the machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often something is looked at that cannot be waited for otherwise.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Looks again and again until there is what is looked for.
///
/// # Panics
/// When there is nothing after [`PATIENCE`].
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited {PATIENCE:?} for {what}, in vain");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The directory of the programs under test, if they are not those that were built beside the tests: a release.
#[must_use]
pub fn release() -> Option<PathBuf> {
    std::env::var_os("ROOST_TEST_RELEASE").map(PathBuf::from)
}

/// A program of ours: of the release, or as built beside this test, by `tests/run` with all that it can have.
///
/// # Panics
/// When it is not built: cargo builds the tests of this package without the programs of the others.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let beside = || std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned();
    let path = release().unwrap_or_else(beside).join(name);
    assert!(
        path.exists(),
        "{} is not built: run tests/run, or cargo build --workspace --features roostd/nats,roostd/otel",
        path.display()
    );
    path
}
