//! The certificates of this host: files that are read at the start and again whenever they change.
//!
//! Owns when what is shown to clients changes: only whole, and only to something that is right.
//!
//! ```text
//! files ──follow──▶ read ──all is well──▶ shown to whoever connects from now on
//!                     └──anything wrong──▶ those that were shown go on being shown, the log says why
//! ```

mod files;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use roost_proxy::tls::Tls;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

pub use files::TlsError;

use crate::changes::Changes;
use crate::config::CertificateFiles;
use files::Digest;

/// What the files held, and who shows it.
pub struct Certificates {
    files: Vec<CertificateFiles>,
    tls: Tls,
    /// Of the files that are shown.
    digest: Mutex<Digest>,
}

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// When there is none, or anything is wrong with one of them.
    pub fn load(files: &[CertificateFiles]) -> Result<Self, TlsError> {
        let read = files::read(files)?;
        let (first, others) = read.certificates.split_first().ok_or(TlsError::None)?;
        let tls = Tls::new(first, others)?;
        Ok(Self { files: files.to_vec(), tls, digest: Mutex::new(read.digest) })
    }

    /// What shows them.
    #[must_use]
    pub fn tls(&self) -> Tls {
        self.tls.clone()
    }

    /// Reads the files again. When anything is wrong, what is shown stays as it was. Says whether it has changed.
    ///
    /// # Errors
    /// As at [`load`](Self::load).
    pub fn reload(&self) -> Result<bool, TlsError> {
        let read = files::read(&self.files)?;
        let mut digest = self.digest.lock().unwrap_or_else(PoisonError::into_inner);
        if *digest == read.digest {
            return Ok(false);
        }
        let (first, others) = read.certificates.split_first().ok_or(TlsError::None)?;
        self.tls.set(first, others)?;
        *digest = read.digest;
        Ok(true)
    }

    fn reload_and_tell(&self) {
        match self.reload() {
            Ok(true) => info!("the certificates have changed"),
            Ok(false) => {}
            Err(why) => error!("the certificates stay as they were: {why}"),
        }
    }

    /// Reads the files again whenever they change and whenever the daemon gets SIGHUP, until it ends.
    pub async fn follow(self) {
        let mut hangups = match signal(SignalKind::hangup()) {
            Ok(hangups) => hangups,
            Err(error) => return warn!("certificates are not followed: no SIGHUP can be received: {error}"),
        };
        let paths: Vec<&Path> =
            self.files.iter().flat_map(|files| [files.cert.as_path(), files.key.as_path()]).collect();
        let mut changes = Changes::new("certificates", &paths);
        // What changed between the start and the watch.
        self.reload_and_tell();
        loop {
            tokio::select! {
                () = changes.next() => {}
                hangup = hangups.recv() => if hangup.is_none() { return },
            }
            self.reload_and_tell();
        }
    }
}
