//! Functions: what is wanted ([`spec`], [`record`], [`namespace`]), who decides ([`rollout`], [`shard`]), who acts ([`controller`],
//! [`kept`], [`known`], [`replica`]), and what is told of it ([`status`]).
//!
//! ```text
//! API ──spec──▶ registry ──store──▶ disk
//!                  │ watch<Option<FunctionRecord>>
//!                  ▼
//!              controller ──plan()──▶ replica ──▶ network, runtime
//!                  │  ▲ events ◀──────────┘
//!                  ▼
//!              upstream (endpoints of the proxy), watch<Status>
//! ```

pub mod access;
pub mod backoff;
pub mod binds;
pub mod bounds;
pub mod compression;
pub mod controller;
pub mod domains;
pub mod event_mode;
pub mod grants;
pub mod kept;
pub mod known;
pub mod liveness;
pub mod namespace;
pub mod protocol;
pub mod readiness;
pub mod record;
pub mod registry;
pub mod replica;
pub mod rollout;
pub mod settled;
pub mod shard;
pub mod spec;
pub mod status;
pub mod steps;
pub mod timeouts;
pub mod warnings;
