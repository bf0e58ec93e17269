//! Certificates from an authority that speaks ACME (RFC 8555): ordered, kept on disk, renewed in time.
//!
//! Owns the account, the orders, the files and when the next order is due. Knows no functions and no sockets: names come
//! from the proxy's [`Routes`] and the settings, answers to the authority's questions go into the proxy's [`Challenges`],
//! and who shows the certificates watches [`Keeper::certificates`]. A failure is told, and tried again later; it never
//! takes away a certificate that is still good.
//!
//! ```text
//!   name ──► wanted ──► order: account, authorization, challenge, finalize ──► certificate ──► file, shown
//!              ▲               │ fails                                             │ two thirds of its life are over
//!              └── later ◄─────┘                                                   └──► order again; it is shown meanwhile
//! ```
//!
//! Each name has a certificate of its own, so that one that is not (yet) this host's stands in the way of no other.

mod client;
mod keeper;
mod made;
mod order;
mod plan;
mod store;
mod validity;

use std::path::PathBuf;
use std::time::Duration;

pub use keeper::{Figures, Held, Keeper, Keeping};
pub use made::placeholder;
pub use validity::Validity;

#[cfg(doc)]
use roost_proxy::{Challenges, Routes};

/// How an authority looks whether a name is this host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Challenge {
    /// By a request, without TLS, at port 80.
    Http01,
    /// By a handshake at port 443.
    TlsAlpn01,
}

/// From whom certificates are ordered, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The URL of the authority's directory.
    pub directory: String,
    /// Whom the authority tells of problems: URLs of the form `mailto:…`.
    pub contact: Vec<String>,
    /// Names that are this host's, in lower case.
    pub domains: Vec<String>,
    /// Are the hosts of functions to have certificates too?
    pub function_domains: bool,
    /// The best first; at least one. What fails is tried again by the next one.
    pub challenges: Vec<Challenge>,
    /// Who has signed the certificate of the authority's own server, in PEM, where that is not known to the system.
    pub ca: Option<PathBuf>,
    /// The directory for the account and the certificates.
    pub directory_path: PathBuf,
    /// When what failed is tried again.
    pub pace: Pace,
}

/// The pauses between orders that fail: the first one, which grows threefold each time, and the longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// After the first failure.
    pub first: Duration,
    /// However many there were.
    pub most: Duration,
}

impl Default for Pace {
    /// Authorities allow a handful of failures an hour.
    fn default() -> Self {
        Self { first: Duration::from_secs(120), most: Duration::from_secs(12 * 3600) }
    }
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("{path}: {why}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The authority cannot be reached, or has refused.
    #[error("{0}")]
    Acme(#[from] instant_acme::Error),
    /// The authority asks in no way that is answered.
    #[error("the authority asks in none of the ways that are allowed here (tls.acme.challenges)")]
    NoChallenge,
    /// The authority was not convinced.
    #[error("the authority was not shown that the name is this host's: {0}")]
    Refused(String),
    /// What the authority gave is not what was ordered.
    #[error("the certificate of the authority cannot be used: {0}")]
    Useless(String),
    /// It took too long.
    #[error("not done within {0:?}")]
    Late(Duration),
    /// A key or a certificate of our own could not be made.
    #[error("cannot make a certificate: {0}")]
    Make(String),
}
