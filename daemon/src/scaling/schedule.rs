//! At what times a function has more replicas at least.

/// Times with the fewest replicas from then on; the last that passed holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Schedule {}
