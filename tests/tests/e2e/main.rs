//! What users do, on a host of its own for each test: a real containerd, a real daemon, real sockets. One program, so that
//! what it is made of is built once and its tests run side by side to the end.

#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

mod access_log;
mod async_calls;
mod auth;
mod aws;
mod azure;
mod bad_input;
mod clients;
mod command_line;
mod connections;
mod dead_letters;
mod deploy;
mod doctor;
mod events;
mod examples;
mod groups;
mod grpc;
mod handover;
mod housekeeping;
mod inside;
mod invoke;
mod lambda;
mod limits;
mod logs;
mod metrics;
mod namespaces;
mod nodes;
mod peers;
mod queue;
mod queue_nats;
mod scale;
mod scaling;
mod scaling_affinity;
mod scaling_cap;
mod scaling_drain;
mod scaling_keys;
mod scaling_singleton;
mod scaling_zero;
mod secrets;
mod secure_events;
mod serverless;
mod signing;
mod stack;
mod survival;
mod timeouts;
mod tls;
mod tokens;
mod triggers;
mod triggers_mqtt;
mod triggers_nats;
mod update;
mod usage;
mod websocket;
