//! Reading certificates and keys.
//!
//! Owns what is asked of the files. Nothing of what a key file says goes into an error.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use roost_acme::Validity;
use roost_proxy::tls::{Certificate, CertificateError};
use sha2::{Digest as _, Sha256};

use crate::config::CertificateFiles;

/// The largest file that is read, in bytes. A long chain has some ten thousand.
const MAX_FILE: u64 = 1 << 20;

/// Tells whether files have changed.
pub(super) type Digest = [u8; 32];

/// Why the files are not shown.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key is no secret.
    #[error("{path} may be read by others than its owner (mode {mode:04o}): chmod 600 {path}")]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The two are no certificate and its key.
    #[error("{cert} and {key}: {why}")]
    Pair {
        /// The file of the certificate.
        cert: PathBuf,
        /// That of the key.
        key: PathBuf,
        /// What is wrong.
        why: CertificateError,
    },
    /// There is nothing to show.
    #[error("there is no certificate")]
    None,
    /// TLS cannot be set up.
    #[error(transparent)]
    Setup(#[from] CertificateError),
    /// There is nothing to show meanwhile.
    #[error(transparent)]
    Placeholder(#[from] roost_acme::Error),
}

/// What one pair of files is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The names in the certificate.
    pub names: Vec<String>,
    /// From when to when; `None` if it does not say.
    pub validity: Option<Validity>,
}

/// Looks at one pair of files as whoever shows it would.
///
/// # Errors
/// When it cannot be shown.
pub fn look(files: &CertificateFiles) -> Result<Shown, TlsError> {
    let CertificateFiles { cert, key } = files;
    let (chain, secret) = (read_file(cert, false)?, read_file(key, true)?);
    let pair = Certificate::from_pem(&chain, &secret);
    let pair = pair.map_err(|why| TlsError::Pair { cert: cert.clone(), key: key.clone(), why })?;
    Ok(Shown { names: pair.names().to_vec(), validity: Validity::of_pem(&chain) })
}

/// What the files hold.
pub(super) struct Held {
    pub(super) certificates: Vec<Certificate>,
    pub(super) digest: Digest,
}

/// Reads all pairs of files.
pub(super) fn read(files: &[CertificateFiles]) -> Result<Held, TlsError> {
    let mut certificates = Vec::new();
    let mut digest = Sha256::new();
    for CertificateFiles { cert, key } in files {
        let (chain, secret) = (read_file(cert, false)?, read_file(key, true)?);
        for bytes in [&chain, &secret] {
            digest.update((bytes.len() as u64).to_be_bytes());
            digest.update(bytes);
        }
        let pair = Certificate::from_pem(&chain, &secret);
        certificates.push(pair.map_err(|why| TlsError::Pair {
            cert: cert.clone(),
            key: key.clone(),
            why,
        })?);
    }
    Ok(Held { certificates, digest: digest.finalize().into() })
}

/// The bytes of a file; if it is `secret`, only of one that nobody but its owner may read. Judged by the open file, not by
/// its name.
fn read_file(path: &Path, secret: bool) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    if secret && mode & 0o077 != 0 {
        return Err(TlsError::Exposed { path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    let read = file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if read as u64 > MAX_FILE {
        return Err(failed(io::Error::other(format!("it has more than {MAX_FILE} bytes"))));
    }
    Ok(bytes)
}
