//! What a broker knows of this host, noted so that it is still known after a restart.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// A session with a broker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// What this host is known by.
    pub client_id: String,
    /// What it has asked for, and the broker has granted.
    pub filters: BTreeSet<String>,
}
