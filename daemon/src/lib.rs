//! The daemon of Roost.

pub mod image;
pub mod logs;
pub mod runtime;
