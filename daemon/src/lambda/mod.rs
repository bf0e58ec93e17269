//! The Runtime API of AWS Lambda, served by this host: an image that polls for its events runs here as it is.
//!
//! Owns all that is special about such replicas. To the proxy each is one more address, so that claims, cold starts, time
//! limits and counts are those of any function.
//!
//! ```text
//!   proxy ──HTTP──► front ──event──► desk ──answer to `next`──► the runtime in the replica
//!     ▲       127.0.0.1, a port of      │  ▲                        │
//!     └──────── each replica ◄──answer──┘  └── response, or error ──┘  gateway:2018, by the address that calls
//! ```
//!
//! * [`setting`]: `roost.lambda`, and what it asks of the other settings.
//! * [`desk`]: one replica: the event that is waiting, the one that is being worked on, and whether it still answers.
//! * [`runtime_api`]: what replicas call, and [`runtimes`]: at which sockets, and which replica it is.
//! * [`front`]: what the proxy calls.
//! * [`environment`]: what the runtime finds in its environment.

pub mod desk;
pub mod environment;
pub mod front;
pub mod runtime_api;
pub mod runtimes;
pub mod setting;

pub use runtimes::{Runtimes, Seat};
pub use setting::Lambda;

/// The largest event, and the largest answer, in bytes: as at AWS.
pub const MAX_PAYLOAD: usize = 6 << 20;
