//! HTTP/1 as this proxy speaks it: to clients ([`server`]) and to functions ([`replica`]).
//!
//! Owns every byte of HTTP/1 on the way of a request. A proxy does little with a message but read its head, write another
//! one and move the body on; so nothing here has a task, a channel or a buffer that it does not need for that, and both
//! sides of a request are moved by the one task that serves its client. Never decides anything about a request: whose it
//! is, and which headers go through, is for `handler` and `headers`.
//!
//! ```text
//!   bytes ──► Input ──► head       one parse, no copy: names and values are slices of what came
//!               │
//!               └─────► decoder    where the body ends, and its bytes
//!   bytes ◄── Outbox ◄── encode    a head, a piece of a body and what stands around it, in one system call
//! ```
//!
//! # Strictness
//!
//! What could be read as two different messages is refused: a length beside another, a coding that is not `chunked` alone,
//! a chunk that does not end where it says, a line feed without a carriage return in a chunked body. Where a peer is
//! allowed to be sloppy (a head whose lines end in a line feed alone), what goes on is written anew and strictly.

mod alarm;
mod decoder;
mod encode;
mod head;
mod input;
mod outbox;
pub(crate) mod relay;
pub(crate) mod replica;
pub(crate) mod server;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod ways;

pub(crate) use decoder::Decoder;

/// Headers of a message, where nothing else is said.
pub(crate) const DEFAULT_HEADERS: usize = 100;

/// What is wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("the head is not HTTP")]
    Head,
    #[error("the head is too large")]
    HeadTooLarge,
    #[error("the URL is too long")]
    UrlTooLong,
    #[error("the length of the body is not clear")]
    Length,
    #[error("a chunk of the body is not one")]
    Chunk,
    #[error("the trailers are none")]
    Trailers,
}
