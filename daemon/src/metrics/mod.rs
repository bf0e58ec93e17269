//! Metrics: what is counted all over the daemon, on one page for Prometheus.
//!
//! Owns the page, its metrics (`families`) and the listener that serves it ([`server`]). Never counts requests: the
//! proxy does, and whoever calls containerd or answers the API does so in [`Timings`].
//!
//! ```text
//! scrape ──▶ server ──▶ Collector: registry, control groups, /proc, timings ──Snapshot──▶ render ──▶ text
//! ```

pub mod server;

mod collect;
mod cpu;
mod families;
mod render;
mod text;
mod timings;
mod websockets;

pub use self::collect::{Collector, Sources};
pub use self::timings::Timings;
