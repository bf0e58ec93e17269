//! What runs replicas.

pub mod containerd;
