//! The daemon of Roost.

pub mod image;
pub mod runtime;
