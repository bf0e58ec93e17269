//! How a connection ends, and why: for the client, for the function, for the log and the counters.
//!
//! Owns the words. A code is for the client; a category is for whoever runs this host.

use crate::tunnel::{By, CloseFrame};

/// Why a connection ended, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Category {
    /// One side had enough.
    Normal,
    /// Nothing was said for too long.
    Idle,
    /// It was as old as it may become.
    Lifetime,
    /// The client's token is no longer valid.
    TokenExpired,
    /// A message was too long.
    TooBig,
    /// What came was no WebSocket.
    ProtocolError,
    /// A text was no text.
    BadText,
    /// A kind of message that the function does not take.
    Unsupported,
    /// The client did not read what it was told.
    SlowConsumer,
    /// The client said too much too fast.
    RateLimited,
    /// The function failed.
    FunctionError,
    /// The function could not be had.
    Overload,
    /// The function was changed so that its connections are of another kind, or was deleted.
    Deploy,
    /// This host goes down.
    Shutdown,
    /// Somebody asked for it through the API.
    Api,
    /// It broke, or the other side was not heard of any more.
    Network,
}

impl Category {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Normal,
        Self::Idle,
        Self::Lifetime,
        Self::TokenExpired,
        Self::TooBig,
        Self::ProtocolError,
        Self::BadText,
        Self::Unsupported,
        Self::SlowConsumer,
        Self::RateLimited,
        Self::FunctionError,
        Self::Overload,
        Self::Deploy,
        Self::Shutdown,
        Self::Api,
        Self::Network,
    ];

    /// Its name in logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Idle => "idle",
            Self::Lifetime => "lifetime",
            Self::TokenExpired => "token_expired",
            Self::TooBig => "too_big",
            Self::ProtocolError => "protocol_error",
            Self::BadText => "bad_utf8",
            Self::Unsupported => "unsupported",
            Self::SlowConsumer => "slow_consumer",
            Self::RateLimited => "rate_limited",
            Self::FunctionError => "function_error",
            Self::Overload => "overload",
            Self::Deploy => "deploy",
            Self::Shutdown => "shutdown",
            Self::Api => "api",
            Self::Network => "network",
        }
    }
}

/// The end of a connection, as whoever ends it wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    pub(crate) frame: CloseFrame,
    pub(crate) by: By,
    pub(crate) category: Category,
}

impl Ending {
    /// With this Close, by this side, for this reason.
    #[must_use]
    pub fn new(frame: CloseFrame, by: By, category: Category) -> Self {
        Self { frame, by, category }
    }

    /// By this host.
    pub(crate) fn of_host(code: u16, reason: &str, category: Category) -> Self {
        Self::new(CloseFrame::new(code, reason), By::Host, category)
    }

    pub(crate) fn too_slow() -> Self {
        Self::of_host(1013, "too slow", Category::SlowConsumer)
    }

    pub(crate) fn shutdown() -> Self {
        Self::of_host(1012, "service restart", Category::Shutdown)
    }
}
