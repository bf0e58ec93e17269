//! containerd, by its services.

pub mod client;
