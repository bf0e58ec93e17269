//! The daemon of Roost: it keeps functions running through containerd and answers for them.
//!
//! `main` reads the command line, [`app`] puts the parts together, [`function`] is where functions live. The way of a
//! request is told in `roost-proxy`; it never comes through here.

pub mod access_log;
pub mod api;
pub mod app;
pub mod changes;
pub mod cli;
pub mod config;
pub mod cron;
pub mod deadletters;
pub mod disk;
pub mod doctor;
pub mod files;
pub mod function;
pub mod gateways;
pub mod guard;
pub mod handover;
pub mod host_end;
pub mod host_keys;
pub mod image;
pub mod inotify;
pub mod journal;
pub mod jwt;
pub mod keeper;
pub mod lambda;
pub mod logs;
pub mod memory;
pub mod metrics;
#[cfg(feature = "nats")]
pub mod nats;
pub mod network;
pub mod nodes;
pub mod otel;
pub mod passes;
pub mod pauses;
pub mod procfs;
pub mod queue;
pub mod resolvers;
pub mod runtime;
pub mod scaling;
pub mod secrets;
pub mod space;
pub mod stacks;
pub mod store;
pub mod supervise;
pub mod systemd;
pub mod telemetry;
pub mod tls;
pub mod triggers;
pub mod units;
pub mod usage;
pub mod users;
