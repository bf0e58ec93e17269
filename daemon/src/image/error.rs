//! What can go wrong with an image, said so that a person knows what to do about it.
//!
//! Owns the words. Never holds a credential, nor an address with a signature in it.

use std::path::PathBuf;

use tonic::Code;

use super::progress::megabytes;

/// Why an image cannot be had. Cheap to clone: callers that share one pull share its failure.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImageError {
    /// The text is not an image reference.
    #[error("{text:?} is not an image reference: {reason}")]
    InvalidReference {
        /// What was written, shortened.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The registry answered that it has no such image.
    #[error("{reference} was not found in its registry: check its name and its tag")]
    NotFound {
        /// The image, or the image and one of its parts.
        reference: String,
    },
    /// There is no image of this name on this host.
    #[error("there is no image {name} on this host")]
    Absent {
        /// The name that was asked for.
        name: String,
    },
    /// The registry wants other credentials than it got.
    #[error(
        "registry {host} refused access to {reference} {}: if the image exists, put credentials for {host} that may read it into {}",
        if *.with_credentials { "with the credentials given" } else { "without credentials" },
        .credentials.display()
    )]
    Unauthorized {
        /// The registry.
        host: String,
        /// The image.
        reference: String,
        /// Were credentials for it found?
        with_credentials: bool,
        /// The file to put them into.
        credentials: PathBuf,
    },
    /// The file with credentials cannot be used.
    #[error("the credentials in {} cannot be used: {reason}", .path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, naming the key and never a value.
        reason: String,
    },
    /// The registry could not be reached, or the connection broke.
    #[error("registry {host} could not be reached: {cause}")]
    Network {
        /// The registry.
        host: String,
        /// What failed.
        cause: String,
    },
    /// No TLS connection that can be trusted.
    #[error(
        "no trusted connection to registry {host}: {cause}; for a private CA set `ca_file`, for a registry without TLS `plain_http = true`, under [images.registries.{host:?}]"
    )]
    Tls {
        /// The registry.
        host: String,
        /// What failed.
        cause: String,
    },
    /// The registry answered with an error of its own.
    #[error("registry {host} failed: {cause}")]
    Registry {
        /// The registry.
        host: String,
        /// What it said, shortened.
        cause: String,
        /// Is it worth asking again?
        retryable: bool,
    },
    /// What came is not what its digest promised, or not an image that can be run.
    #[error("{what} is not valid: {reason}")]
    Invalid {
        /// The image, or a part of it.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// More bytes than the settings allow.
    #[error("{what} is too large: {} MB, and the limit is {} MB", megabytes(*.size), megabytes(*.limit))]
    TooLarge {
        /// The image, or a part of it.
        what: String,
        /// Its size in bytes, as far as it is known.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The image exists, but not for this machine.
    #[error("{reference} is not there for {wanted}, only for {}", .available.join(", "))]
    Platform {
        /// The image.
        reference: String,
        /// The platform of this host.
        wanted: String,
        /// The platforms that it is there for.
        available: Vec<String>,
    },
    /// The file is not an archive of images that can be read.
    #[error("the image archive cannot be used: {reason}")]
    Archive {
        /// What is wrong with it.
        reason: String,
    },
    /// containerd refused or failed.
    #[error("containerd failed to {doing}: {} ({:?})", .status.message(), .status.code())]
    Containerd {
        /// What it was asked to do.
        doing: String,
        /// What it answered.
        status: tonic::Status,
    },
    /// This host failed: a disk, a setting.
    #[error("{doing}: {cause}")]
    Host {
        /// What was tried.
        doing: String,
        /// Why it failed.
        cause: String,
    },
}

impl ImageError {
    /// Is the same request worth another try later, with nothing changed by a person?
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Network { .. } => true,
            Self::Registry { retryable, .. } => *retryable,
            Self::Containerd { status, .. } => {
                matches!(
                    status.code(),
                    Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled
                )
            }
            _ => false,
        }
    }

    /// containerd's answer to being asked to do `doing`.
    pub(super) fn containerd(doing: impl Into<String>) -> impl FnOnce(tonic::Status) -> Self {
        let doing = doing.into();
        move |status| Self::Containerd { doing, status }
    }

    /// A failure of this host while `doing`.
    pub(super) fn host(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |error| Self::Host { doing, cause: error.to_string() }
    }

    /// Something came that cannot be what it should be.
    pub(super) fn invalid(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), reason: reason.into() }
    }

    /// An archive that cannot be used.
    pub(super) fn archive(reason: impl Into<String>) -> Self {
        Self::Archive { reason: reason.into() }
    }
}

/// The first `limit` characters of `text` in one line: what others sent us goes into logs and answers.
pub(super) fn shortened(text: &str, limit: usize) -> String {
    let line = |c: char| if c.is_control() { ' ' } else { c };
    let mut short: String = text.trim().chars().take(limit).map(line).collect();
    if text.trim().chars().count() > limit {
        short.push('…');
    }
    short
}
