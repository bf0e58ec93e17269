//! What can go wrong between us and containerd.
//!
//! Owns the one mapping from gRPC codes to kinds. Never looks into a message: messages are for people.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use tonic::{Code, Status};

/// Why containerd, or what we prepare for it, failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing is where containerd's socket should be.
    #[error("containerd's socket {} is not there: is containerd installed and started (`systemctl start containerd`)?", socket.display())]
    NoSocket {
        /// The path looked at.
        socket: PathBuf,
    },
    /// The socket is there, but nobody answers.
    #[error("containerd does not answer on {}: {reason}", socket.display())]
    Silent {
        /// The path called.
        socket: PathBuf,
        /// What the connection said.
        reason: String,
    },
    /// The snapshotter of the settings is not in this containerd.
    #[error("containerd has no snapshotter {wanted:?}; it has {}", one_of(present))]
    NoSnapshotter {
        /// The one in the settings.
        wanted: String,
        /// The ones that work.
        present: Vec<String>,
    },
    /// The image says nothing about what to run.
    #[error("image {image} names neither an entrypoint nor a command")]
    NoCommand {
        /// The image, by its full name.
        image: String,
    },
    /// The image's user is not one of its own.
    #[error("image {image} wants to run as {user:?}: {reason}")]
    User {
        /// The image, by its full name.
        image: String,
        /// The user as the image writes it.
        user: String,
        /// What is wrong with it.
        reason: super::user::InvalidUser,
    },
    /// The image's files could not be looked at.
    #[error("cannot read the files of image {image}: {source}")]
    Rootfs {
        /// The image, by its full name.
        image: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The plan makes no valid OCI spec.
    #[error("replica {replica}: no valid OCI spec: {source}")]
    Spec {
        /// The replica.
        replica: String,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file or directory of the host.
    #[error("{doing} {}: {source}", path.display())]
    Host {
        /// What was tried, such as `cannot create`.
        doing: &'static str,
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A call to containerd failed.
    #[error("cannot {doing} {subject}: {kind}: {message}")]
    Call {
        /// What was asked for, such as `create task`.
        doing: &'static str,
        /// Of what: a replica, a namespace, a lease.
        subject: String,
        /// The kind of failure.
        kind: Kind,
        /// containerd's own words.
        message: String,
    },
}

/// What a failed call means for whoever made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It is not there.
    NotFound,
    /// It is there already.
    AlreadyExists,
    /// Its state does not allow it now.
    FailedPrecondition,
    /// What we sent is wrong.
    Invalid,
    /// Not known in this version.
    Unimplemented,
    /// It took longer than we wait.
    Timeout,
    /// containerd is away, or the connection broke: worth another try.
    Unavailable,
    /// Anything else: only the message tells.
    Other,
}

impl Kind {
    /// The kind of a failed call.
    #[must_use]
    pub fn of(status: &Status) -> Self {
        match status.code() {
            Code::NotFound => Self::NotFound,
            Code::AlreadyExists => Self::AlreadyExists,
            Code::FailedPrecondition => Self::FailedPrecondition,
            Code::InvalidArgument | Code::OutOfRange => Self::Invalid,
            Code::Unimplemented => Self::Unimplemented,
            Code::DeadlineExceeded => Self::Timeout,
            Code::Unavailable => Self::Unavailable,
            // A status with a source was made on our side, from what broke the connection (containerd killed in
            // the middle of a call); one that came over the wire has none.
            _ if std::error::Error::source(status).is_some() => Self::Unavailable,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "not found",
            Self::AlreadyExists => "exists already",
            Self::FailedPrecondition => "not possible in this state",
            Self::Invalid => "invalid",
            Self::Unimplemented => "not known to this containerd",
            Self::Timeout => "no answer in time",
            Self::Unavailable => "containerd is not available",
            Self::Other => "failed",
        })
    }
}

impl Error {
    /// Makes an error of a failed call: `map_err(Error::call("create task", &id))`.
    pub fn call(doing: &'static str, subject: impl fmt::Display) -> impl FnOnce(Status) -> Self {
        move |status| Self::Call {
            doing,
            subject: subject.to_string(),
            kind: Kind::of(&status),
            message: status.message().to_owned(),
        }
    }

    /// Makes an error about a path of the host.
    pub(super) fn host(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Host { doing, path, source }
    }

    /// The kind, if a call failed.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::Call { kind, .. } => Some(*kind),
            _ => None,
        }
    }

    /// Whether the thing asked for is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind() == Some(Kind::NotFound)
    }

    /// Whether containerd is away, so that the same call may work later.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::NoSocket { .. } | Self::Silent { .. })
            || matches!(self.kind(), Some(Kind::Unavailable | Kind::Timeout))
    }
}

/// What was removed is gone, whoever removed it.
pub(super) fn gone_is_fine(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

fn one_of(names: &[String]) -> String {
    if names.is_empty() { "none that works".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_mapped_and_texts_are_not() {
        for (code, kind) in [
            (Code::NotFound, Kind::NotFound),
            (Code::AlreadyExists, Kind::AlreadyExists),
            (Code::FailedPrecondition, Kind::FailedPrecondition),
            (Code::InvalidArgument, Kind::Invalid),
            (Code::Unimplemented, Kind::Unimplemented),
            (Code::DeadlineExceeded, Kind::Timeout),
            (Code::Unavailable, Kind::Unavailable),
            (Code::Unknown, Kind::Other),
            (Code::Internal, Kind::Other),
        ] {
            assert_eq!(Kind::of(&Status::new(code, "not found: already exists")), kind);
        }
    }

    #[test]
    fn a_status_made_of_a_broken_connection_is_unavailable() {
        let broken = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(Kind::of(&Status::from_error(Box::new(broken))), Kind::Unavailable);
    }

    #[test]
    fn a_failed_call_says_what_it_concerns() {
        let error = Error::call("create task", "echo-1a2b3c4d")(Status::unknown("exec failed"));
        assert_eq!(error.to_string(), "cannot create task echo-1a2b3c4d: failed: exec failed");
    }
}
