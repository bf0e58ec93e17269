//! Functions: what is wanted ([`spec`], [`record`]), who decides ([`rollout`]), who acts ([`controller`], [`known`],
//! [`replica`]), and what is told of it ([`status`]).
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

pub mod backoff;
pub mod controller;
pub mod known;
pub mod readiness;
pub mod record;
pub mod registry;
pub mod replica;
pub mod rollout;
pub mod spec;
pub mod status;
