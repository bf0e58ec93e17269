//! The certificates of this host: files that are read at the start and again whenever they change, and what an authority
//! has given.
//!
//! Owns when what is shown to clients changes: only whole, and only to something that is right. Files go before what was
//! given; where there is neither, a certificate is shown that nobody trusts.
//!
//! ```text
//! files ──follow──▶ read ──all is well──▶ shown to whoever connects from now on
//!                     └──anything wrong──▶ those that were shown go on being shown, the log says why
//! authority ──given──▶ shown as well
//! ```

mod files;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use roost_acme::Held;
use roost_proxy::Challenges;
use roost_proxy::tls::{Certificate, Tls};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};

pub use files::{Shown, TlsError, look};

use crate::changes::Changes;
use crate::config::CertificateFiles;
use files::Digest;

/// What the files held and the authority has given, and who shows it.
pub struct Certificates {
    files: Vec<CertificateFiles>,
    tls: Tls,
    read: Arc<Mutex<Read>>,
    /// What an authority gives, if one is asked.
    given: Option<watch::Receiver<Held>>,
    /// For the time in which there is nothing else.
    placeholder: Option<Certificate>,
}

/// What is shown of the files.
struct Read {
    certificates: Vec<Certificate>,
    digest: Digest,
}

impl Certificates {
    /// Reads the files. What is `given` is shown beside them, and `challenges` are answered.
    ///
    /// # Errors
    /// When there is none and none is given, or anything is wrong with one of them.
    pub fn load(
        files: &[CertificateFiles],
        given: Option<watch::Receiver<Held>>,
        challenges: Challenges,
    ) -> Result<Self, TlsError> {
        let files::Held { certificates, digest } = files::read(files)?;
        let placeholder = match given.is_some() && files.is_empty() {
            true => Some(roost_acme::placeholder()?),
            false => None,
        };
        let held = given.as_ref().map(|given| Held::clone(&given.borrow()));
        let shown = shown(&certificates, held.as_ref(), placeholder.as_ref());
        let (first, others) = shown.split_first().ok_or(TlsError::None)?;
        let tls = Tls::answering(challenges, first, others)?;
        let read = Arc::new(Mutex::new(Read { certificates, digest }));
        Ok(Self { files: files.to_vec(), tls, read, given, placeholder })
    }

    /// Tells whether the files have a certificate for a name.
    pub fn has(&self) -> impl Fn(&str) -> bool + Send + use<> {
        let read = Arc::clone(&self.read);
        move |name| {
            let wildcard = name.split_once('.').map(|(_, rest)| format!("*.{rest}"));
            let is_for = |one: &String| one == name || Some(one) == wildcard.as_ref();
            lock(&read).certificates.iter().any(|certificate| certificate.names().iter().any(is_for))
        }
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
        let files::Held { certificates, digest } = files::read(&self.files)?;
        let mut read = lock(&self.read);
        if read.digest == digest {
            return Ok(false);
        }
        self.show(&certificates)?;
        *read = Read { certificates, digest };
        Ok(true)
    }

    /// Shows these of the files, and what else there is.
    fn show(&self, certificates: &[Certificate]) -> Result<(), TlsError> {
        let held = self.given.as_ref().map(|given| Held::clone(&given.borrow()));
        let shown = shown(certificates, held.as_ref(), self.placeholder.as_ref());
        let (first, others) = shown.split_first().ok_or(TlsError::None)?;
        Ok(self.tls.set(first, others)?)
    }

    /// Shows what was given since.
    fn show_given(&self) {
        if let Err(why) = self.show(&lock(&self.read).certificates) {
            error!("what the authority has given is not shown: {why}");
        }
    }

    fn reload_and_tell(&self) {
        match self.reload() {
            Ok(true) => info!("the certificates have changed"),
            Ok(false) => {}
            Err(why) => error!("the certificates stay as they were: {why}"),
        }
    }

    /// Reads the files again whenever they change and whenever the daemon gets SIGHUP, until it ends.
    pub async fn follow(mut self) {
        let mut hangups = match signal(SignalKind::hangup()) {
            Ok(hangups) => hangups,
            Err(error) => return warn!("certificates are not followed: no SIGHUP can be received: {error}"),
        };
        let paths: Vec<&Path> =
            self.files.iter().flat_map(|files| [files.cert.as_path(), files.key.as_path()]).collect();
        let mut changes = Changes::new("certificates", &paths);
        // What changed between the start and the watch.
        self.reload_and_tell();
        self.show_given();
        loop {
            let given = async {
                let Some(given) = &mut self.given else { return std::future::pending().await };
                if given.changed().await.is_err() {
                    // Who gives has ended, and the daemon with it.
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = given => {
                    self.show_given();
                    continue;
                }
                () = changes.next() => {}
                hangup = hangups.recv() => if hangup.is_none() { return },
            }
            self.reload_and_tell();
        }
    }
}

/// All that is shown, the best first.
fn shown(files: &[Certificate], given: Option<&Held>, placeholder: Option<&Certificate>) -> Vec<Certificate> {
    let mut shown = files.to_vec();
    shown.extend(given.into_iter().flat_map(|given| given.values().cloned()));
    if shown.is_empty() {
        shown.extend(placeholder.cloned());
    }
    shown
}

fn lock(read: &Mutex<Read>) -> MutexGuard<'_, Read> {
    // It is replaced whole.
    read.lock().unwrap_or_else(PoisonError::into_inner)
}
