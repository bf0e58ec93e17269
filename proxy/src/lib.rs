//! The reverse proxy of Roost.

pub mod function;
