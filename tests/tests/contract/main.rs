//! The contract, row by row: every endpoint, every error, every field, over real sockets on real containerd. Whole
//! answers are compared: status, all headers but the date, body.
//!
//! A module holds one resource. What Roost does differently on purpose is asserted as it is here, and told in
//! `docs/coming-from-openfaas.md`.

#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

mod connector;
mod deferred;
mod documents;
mod functions;
mod invoke;
mod logs;
mod namespaces;
mod openapi;
mod recorded;
mod routing;
mod scale;
mod secrets;
mod support;
