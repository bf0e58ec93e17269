//! Stack files of OpenFaaS: a text becomes deployments, and deployments become a text.
//!
//! ```text
//! text ─ substitute ${…} ─▶ YAML ─ environment files ─▶ Stack: a Deployment for each function ─▶ the API's JSON
//! functions that run ─▶ export ─▶ a text that deploys them again
//! ```
//!
//! Pure: where files and variables come from, the caller says. It knows no HTTP and no containers, and does not judge
//! what stands in a deployment: that is for the daemon.

mod deployment;
mod export;
mod read;
mod substitute;
mod websockets;

pub use deployment::{Deployment, Map};
pub use export::{Collision, export};
pub use read::{Error, Lookup, Mistake, ReadFile, Stack, Surroundings};
