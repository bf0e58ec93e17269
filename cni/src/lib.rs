//! A CNI runtime: it gives each replica a network namespace with an address, and takes both back.
//!
//! Owns the network namespaces, the runs of the CNI plugins and the cache that tells what they made. Never knows what runs
//! in a namespace, never speaks HTTP, never makes a link or an address itself: what a network looks like is decided by the
//! conflist and done by the plugins. (Only `lo` inside a new namespace is set up here, and a bridge removed that is needed no more.)
//! What no plugin does is to keep several networks of one host apart: [`Isolation`] does. What they do for each attachment at a
//! price, and one rule does for all, is the way out: [`Masquerade`]. And rules that a plugin cannot find any more after a failed DEL
//! are removed here.
//!
//! The life of an attachment:
//!
//! ```text
//!          attach                                             detach, collect
//!   ∅ ──▶ attaching ── namespace, ADD 1 … ADD n ──▶ attached ─────▶ detaching ── DEL n … DEL 1, namespace ──▶ ∅
//!             │                                                         ▲   └─ a DEL fails: stays, can be tried again
//!             └── a step fails, or a crash is found by `collect` ───────┘
//! ```
//!
//! Each state is on disk before its first act, so whatever a crash leaves behind is known to the next process.
//!
//! [`Network`] reads top to bottom as that life. [`Conflist`] is the configuration; everything else is private.

mod accepts;
mod cache;
mod chain;
mod conflist;
mod error;
mod id;
mod ipam;
mod iptables;
mod isolation;
mod link;
mod masquerade;
mod mounts;
mod namespaces;
mod network;
mod plugin;
mod result;
mod rules;
mod ruleset;
mod sweep;
mod turns;

pub use accepts::Accepts;
pub use conflist::{Conflist, Overrides, Version};
pub use error::{Error, PluginError};
pub use isolation::{Isolation, Segments};
pub use masquerade::Masquerade;
pub use network::{Attachment, Network, Options, Settings};
pub use plugin::Command;
pub use rules::Held;
