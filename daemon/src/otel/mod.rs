//! Spans of requests, sent to a collector: in a build with the feature `otel`, and otherwise not.
//!
//! Owns the difference: with the feature this is [`roost_otlp`], without it there is no endpoint that a setting could
//! name, so nothing is ever started. No other module asks for the feature.

#[cfg(feature = "otel")]
mod export;
#[cfg(not(feature = "otel"))]
mod none;

#[cfg(feature = "otel")]
pub use export::{Endpoint, Figures, Running};
#[cfg(not(feature = "otel"))]
pub use none::{Endpoint, Figures, Running};

/// What became of the spans so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// The collector has them.
    pub exported: u64,
    /// Nobody has them.
    pub dropped: u64,
    /// Tries to send some that failed.
    pub failures: u64,
}
