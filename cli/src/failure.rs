//! The failures that `main` must tell apart: they decide the exit code.

use std::io;

use thiserror::Error;

/// What was typed cannot be meant: exit code 2.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// Our own stdout failed. Kept apart from network errors, because a reader that has seen enough is no failure.
#[derive(Debug, Error)]
#[error("cannot write the output: {0}")]
pub(crate) struct Stdout(#[from] pub(crate) io::Error);

/// The reasons were printed already, item by item; this is the sum: exit code 1.
#[derive(Debug, Error)]
#[error("{0} of {1} failed")]
pub(crate) struct Partly(pub(crate) usize, pub(crate) usize);

/// Shorthand for a usage failure.
pub(crate) fn usage(text: impl Into<String>) -> anyhow::Error {
    Usage(text.into()).into()
}
