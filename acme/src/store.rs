//! What is kept on disk: the account, and each certificate with its key.
//!
//! Owns the files below `HOST-HASH/`, one such directory for each authority, so that what a test authority gave is never
//! taken for the real one's. A certificate and its key are one file: there is no moment in which they do not belong
//! together. All are `0600`, written beside and moved into place.
//!
//! ```text
//!   acme/acme-v02.api.letsencrypt.org-1a2b3c4d/account.json
//!                                              certificates/NAME.pem
//! ```

use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use http::Uri;
use roost_proxy::tls::Certificate;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};

use crate::Error;
use crate::validity::Validity;

/// A certificate as it was read or written.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) certificate: Certificate,
    pub(crate) validity: Validity,
}

/// The files of one authority.
#[derive(Debug)]
pub(crate) struct Store {
    account: PathBuf,
    certificates: PathBuf,
}

impl Store {
    /// Those of the authority with this directory. Makes the directories that are missing.
    pub(crate) fn open(path: &Path, directory: &str) -> Result<Self, Error> {
        let host =
            directory.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
        let host: String =
            host.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
        let hash = Sha256::digest(directory);
        let hash: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let path = path.join(format!("{host}-{hash}"));
        let certificates = path.join("certificates");
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&certificates);
        made.map_err(|source| Error::File { path: certificates.clone(), source })?;
        Ok(Self { account: path.join("account.json"), certificates })
    }

    /// The account, if there is one.
    pub(crate) fn account(&self) -> Result<Option<Vec<u8>>, Error> {
        match fs::read(&self.account) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::File { path: self.account.clone(), source }),
        }
    }

    pub(crate) fn account_path(&self) -> &Path {
        &self.account
    }

    pub(crate) fn write_account(&self, bytes: &[u8]) -> Result<(), Error> {
        write(&self.account, bytes)
    }

    pub(crate) fn forget_account(&self) -> Result<(), Error> {
        remove(&self.account)
    }

    /// All certificates by their names. One that cannot be read is told of, and is as good as none.
    pub(crate) fn certificates(&self) -> Result<Vec<(String, Kept)>, Error> {
        let failed = |source| Error::File { path: self.certificates.clone(), source };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.certificates).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".pem")) else {
                continue;
            };
            let read = fs::read(&path).map_err(|source| Error::File { path: path.clone(), source });
            match read.and_then(|pem| kept(name, &pem)) {
                Ok(kept) => found.push((name.to_owned(), kept)),
                Err(error) => tracing::warn!("{}: left aside: {error}", path.display()),
            }
        }
        Ok(found)
    }

    pub(crate) fn write_certificate(&self, name: &str, pem: &str) -> Result<(), Error> {
        write(&self.path_of(name), pem.as_bytes())
    }

    pub(crate) fn forget_certificate(&self, name: &str) -> Result<(), Error> {
        remove(&self.path_of(name))
    }

    fn path_of(&self, name: &str) -> PathBuf {
        // Names are those of hosts: without a slash.
        self.certificates.join(format!("{name}.pem"))
    }
}

/// A key and a chain as a certificate for `name`.
///
/// # Errors
/// When it is none, or for something else.
pub(crate) fn kept(name: &str, pem: &[u8]) -> Result<Kept, Error> {
    let certificate = Certificate::from_pem(pem, pem).map_err(|error| Error::Useless(error.to_string()))?;
    if !certificate.names().iter().any(|one| one == name) {
        return Err(Error::Useless(format!("it is for {:?}, not for {name}", certificate.names())));
    }
    let own = CertificateDer::from_pem_slice(pem).map_err(|error| Error::Useless(error.to_string()))?;
    let validity =
        Validity::of(&own).ok_or_else(|| Error::Useless("it does not say how long it is good".to_owned()))?;
    Ok(Kept { certificate, validity })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let written = || {
        let directory = path.parent().unwrap_or(Path::new("/"));
        // Nobody but its owner may read it from the first byte on.
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        fs::File::open(directory)?.sync_all()
    };
    written().map_err(|source| Error::File { path: path.to_owned(), source })
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::File { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
