//! Bearer tokens (JSON Web Tokens): whose tokens count on this host, and what they say.
//!
//! Owns the file of keys and what is known from it, as a snapshot that is swapped whole when the file changes. Never
//! issues a token, asks nobody for keys, and never logs what a token or a secret key says.
//!
//! ```text
//! file ──follow──▶ read ──all is well──▶ new keys
//!                    └──anything wrong──▶ those of before stay, the log says why
//!
//! request ──▶ header Authorization ──▶ signed by one of the keys? ──▶ time, issuer, audience ──▶ claims
//! ```

mod keys;
mod verify;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use axum::http::{HeaderMap, HeaderValue, header};
use roost_proxy::{BadToken, Claims};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::changes::Changes;
use crate::config::Jwt;
use keys::{InvalidKeys, KeySet};

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Why a file of keys does not count. Nothing of what it says is in the text.
#[derive(Debug, thiserror::Error)]
pub enum JwtError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key in it is no secret, and ought to be.
    #[error(
        "{path} holds a secret key, and may be read by others than its owner (mode {mode:04o}): chmod 600 {path}"
    )]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is no set of keys.
    #[error("{path}: {why}")]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: InvalidKeys,
    },
}

/// Verifies tokens.
pub struct Tokens {
    settings: Jwt,
    keys: ArcSwap<KeySet>,
}

impl Tokens {
    /// Reads the file of keys.
    ///
    /// # Errors
    /// When anything is wrong with it.
    pub fn load(settings: &Jwt) -> Result<Arc<Self>, JwtError> {
        let keys = ArcSwap::from_pointee(read(&settings.keys)?);
        Ok(Arc::new(Self { settings: settings.clone(), keys }))
    }

    /// What the token in these headers says, if it counts now.
    ///
    /// # Errors
    /// When there is none that does.
    pub fn verify(&self, headers: &HeaderMap) -> Result<Claims, BadToken> {
        let token = bearer(headers).ok_or(BadToken::Missing)?;
        let claims = verify::signed(token.as_bytes(), &self.keys.load())?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        verify::judge(&claims, &self.settings, now)?;
        Ok(verify::texts(claims))
    }

    /// Reads the file again. When anything is wrong, the keys stay what they were. Says whether they have changed.
    ///
    /// # Errors
    /// As at [`load`](Self::load).
    pub fn reload(&self) -> Result<bool, JwtError> {
        let keys = read(&self.settings.keys)?;
        let changed = keys.digest != self.keys.load().digest;
        if changed {
            self.keys.store(Arc::new(keys));
        }
        Ok(changed)
    }

    fn reload_and_tell(&self) {
        match self.reload() {
            Ok(true) => info!("the keys of tokens have changed: {} from now on", self.keys.load().len()),
            Ok(false) => {}
            Err(why) => error!("the keys of tokens stay as they were, until this is put right: {why}"),
        }
    }

    /// Reads the file again whenever it changes and whenever the daemon gets SIGHUP, until it ends.
    pub async fn follow(self: Arc<Self>) {
        let mut hangups = match signal(SignalKind::hangup()) {
            Ok(hangups) => hangups,
            Err(error) => {
                return warn!("the keys of tokens are not followed: no SIGHUP can be received: {error}");
            }
        };
        let mut changes = Changes::new("the keys of tokens", &[&self.settings.keys]);
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

/// The keys in a file. One with a secret among them is for its owner alone; judged by the open file, not by its name.
fn read(path: &Path) -> Result<KeySet, JwtError> {
    let failed = |source| JwtError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    let mut bytes = Vec::new();
    let read = file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if read as u64 > MAX_FILE {
        return Err(failed(io::Error::other(format!("it has more than {MAX_FILE} bytes"))));
    }
    let invalid = |why| JwtError::Invalid { path: path.to_owned(), why };
    let keys = KeySet::parse(&bytes).map_err(invalid)?;
    if keys.is_secret && mode & 0o077 != 0 {
        return Err(JwtError::Exposed { path: path.to_owned(), mode });
    }
    for why in &keys.passed_over {
        warn!("{}: {why}", path.display());
    }
    Ok(keys)
}

/// The token in the one header that there has to be: a function that gets two could heed the other one.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = HeaderValue::to_str(value).ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests;
