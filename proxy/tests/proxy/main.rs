//! The proxy between real clients and real functions, over loopback sockets.
//!
//! Most tests hold both ends in one hand: they write as the client, read as the function, and the other way round, so
//! what is asserted is what was on the wire, in the order in which it was there.

#![allow(clippy::unwrap_used, reason = "the support of tests is a test")]

mod access;
mod access_log;
mod affinity;
mod bounds;
mod capacity;
mod client_groups;
mod closing;
mod compression;
mod connections;
mod counted;
mod dead;
mod deferred;
mod domains;
mod endings;
mod events;
mod events_left;
mod events_many;
mod exactness;
mod express;
mod extended;
mod groups;
mod grpc;
mod handover;
mod headers;
mod keys;
mod leases;
mod limits;
mod multiplexed;
mod over_http2;
mod returns;
mod routing;
mod secure;
mod shutdown;
mod streaming;
mod support;
mod timeouts;
mod tokens;
mod traces;
mod tunnels;
mod validation;
mod waiting;
mod websocket;
