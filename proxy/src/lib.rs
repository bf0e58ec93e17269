//! The reverse proxy of Roost: sockets in, replicas out.
//!
//! Owns every byte between a client and a function. Knows no containerd, no disk and no configuration file: whoever
//! embeds it publishes endpoints ([`Upstream::publish`]) and hands over listeners ([`Server::serve`]).
//!
//! # The life of a request
//!
//! ```text
//!  client ──► server          accept; a task per connection; TLS; header, idle and stall limits
//!               │
//!               ▼
//!             handler         limits     is it one request, and may its client ask so fast   ──► 400, 429
//!               │             identify   whose host and path is this, is it canonical        ──► 301, fallback
//!               │             admit      is the method one of ours                          ──► 405
//!               │             route  ⟲   the upstream, from an immutable table              ──► 404
//!               │             access     what the function asks of its callers, if anything     ──► 401, 404
//!               │             ask    ⟲   which key, which replica it had, if that matters      ──► 400
//!               │             limits     how much, how often, how many at once            ──► 413, 429
//!               │             claim  ⟲   an endpoint and its in-flight count, in one step   ──► 429, 503
//!               │               └─ none ready or all full: the waiting room, first come first served
//!               │             forward    headers, a pooled connection, the response head    ──► 500, 502
//!               │             finish
//!               ▼
//!             ┌─────────────────────────┬─────────────────────────────────┐
//!             │ 2xx–5xx                 │ 101                             │
//!             │ body: streams, holds    │ tunnel: both sockets, byte for  │
//!             │ the claim to its end    │ byte, holds the claim to its end│
//!             └─────────────────────────┴─────────────────────────────────┘
//!               last byte, error or cancel: in-flight −1, counters, one line in the access log
//! ```
//!
//! `⟲` is a snapshot read: no lock is held, nothing is asked of anybody. `──►` is how the request ends early.
//!
//! Most requests ask for nothing but to be passed on. They go a short way through the same stations, with their heads in
//! one piece: `express` says which.
//!
//! A request below `/async-function/` leaves this way after `route`: an [`Intake`] takes it over and the client has its
//! answer. Whoever holds a call makes it through a [`Caller`], which enters at `claim` with bytes of its own.
//!
//! # What holds
//!
//! * A claim is released once the last byte has moved, or by dropping it: cancelling a request is dropping its future.
//! * An endpoint that was withdrawn takes no new claim, whichever snapshot the caller holds ([`Endpoint`]).
//! * A request that may have reached a function is never sent again ([`forward`](self)).
//! * A body that broke off never looks whole to the client ([`body`](self)).

mod access;
mod access_log;
mod affinity;
mod ask;
mod balance;
mod bearer;
mod body;
mod call;
mod caller;
mod challenges;
mod claim;
mod client;
mod client_body;
mod compress;
mod endpoint;
mod endpoints;
mod error;
mod express;
mod extended;
mod forward;
pub mod function;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod handler;
mod handshakes;
mod headers;
mod http1;
mod http2;
mod intake;
mod keys;
mod lanes;
mod limits;
mod meter;
mod metrics;
mod path;
mod placement;
mod pool;
mod roles;
mod route;
mod scale;
mod sent;
mod server;
mod stream;
mod strict;
mod tcp;
pub mod tls;
mod token;
mod trace;
mod tunnel;
mod upstream;
mod waiting;
pub mod websocket;

pub use access::{Access, Denied, Guard, Judgement, RequiredClaim, Verification};
pub use access_log::{
    AccessEntry, AccessLog, AccessLogOptions, AccessSink, EntryKind, TunnelClose, TunnelEntry,
};
pub use affinity::AffinityKey;
pub use ask::Ask;
pub use bearer::{Borne, TokenPlaces, take as take_token};
pub use body::{BoxError, OwnBody, ResponseBody, StoredBody};
pub use caller::Caller;
pub use challenges::{Challenges, Pending};
pub use claim::Claim;
pub use client_body::{ClientBody, ClientBodyError};
pub use endpoint::Endpoint;
pub use error::{Error, Side};
pub use handler::Fallback;
pub use handshakes::Handshaken;
pub use intake::{Answering, Deferred, Intake, Soon};
pub use keys::HeldKeys;
pub use limits::{Bounds, ClientLimits, InvalidRate, Limit, Rate};
pub use meter::Metered;
pub use metrics::{BOUNDS, CLIENT_LEFT, Distribution, Histogram, Load, Totals};
pub use placement::{Affinity, InvalidPlacement, KeySource, MAX_KEY, Placement, ReplicaKey};
pub use roles::{may_read, may_send};
pub use route::{RouteTable, Routes};
pub use scale::{FANOUTS, LIVES, SIZES, Scale, Spread};
pub use server::{Drained, Server, Settings};
pub use token::{BadToken, Claims, ProvenKey};
pub use trace::Trace;
pub use tunnel::keep::{
    DescriptorStore, Inherited, Keep, KeptFigures, MAX_KEPT, MEMORY_NAME, Named, Storing,
};
pub use tunnel::{By, CloseFrame, FRAME_TYPES, WebSockets};
pub use upstream::{Timeouts, Upstream, UpstreamLimits, WebSocketLimits};

/// How we name ourselves to functions and other servers (`User-Agent`) and to clients (`X-Served-By`).
pub const PRODUCT: &str = concat!("roost/", env!("CARGO_PKG_VERSION"));
