//! How many replicas a function is to have: from what its labels ask for and what is going on, without I/O.
//!
//! Owns the rules of scaling and the labels that set them. Never starts or stops anything, and reads no clock: time
//! comes in as an argument.

pub mod decide;
pub mod events;
pub(crate) mod labels;
pub mod policy;
mod recall;
pub mod schedule;

pub use decide::{Decision, Observation, Reason, Scaler};
pub use policy::{Cap, IdleBy, LoadTarget, Measure, Policy, Rest, Rung, Zero};
