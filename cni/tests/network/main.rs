//! The crate against the real plugins. Needs root; each test has a host of its own, see `support`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why it is skipped"
)]

mod apart;
mod attach;
mod churn;
mod crash;
mod masquerade;
mod support;
mod sweep;
