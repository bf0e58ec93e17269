//! The frames of connections that end here (RFC 6455), in and out.
//!
//! Owns what bytes on the wire mean: [`decode`] makes a client's messages of what its socket gave, [`encode`] makes
//! frames of what it is told. Pure. Whoever owns the socket owns the buffers, too: for a client that is silent between
//! two frames nothing is held here but a few words.

mod decode;
mod encode;
mod head;
mod mask;
#[cfg(test)]
mod oracle;
mod state;

pub(crate) use decode::{Decoder, Incoming, Limits};
#[cfg(test)]
use encode::header;
pub(crate) use encode::{close, encode, message};
pub(crate) use head::Opcode;
pub(crate) use state::State;

use crate::tunnel::CloseFrame;

/// What a client must not do, or more than it may. The connection ends with a Close that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Violation {
    /// The code of that Close: 1002, 1007 or 1009.
    pub(crate) code: u16,
    /// Its reason.
    pub(crate) reason: &'static str,
}

impl Violation {
    /// Of the protocol.
    pub(crate) const fn protocol(reason: &'static str) -> Self {
        Self { code: 1002, reason }
    }

    /// What a message consists of is not what it is said to be.
    pub(crate) const fn data(reason: &'static str) -> Self {
        Self { code: 1007, reason }
    }

    /// Of a limit.
    pub(crate) const fn too_big(reason: &'static str) -> Self {
        Self { code: 1009, reason }
    }

    /// What the client is told.
    pub(crate) fn to_close(self) -> CloseFrame {
        CloseFrame::new(self.code, self.reason)
    }
}
