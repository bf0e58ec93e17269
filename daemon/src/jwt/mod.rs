//! Bearer tokens (JSON Web Tokens): whose tokens count on this host, and what they say.
//!
//! Owns the issuers and what is known of their keys, as snapshots that are swapped whole. Never issues a token, and never
//! logs what a token or a secret key says. How keys are fetched is in [`remote`].
//!
//! ```text
//! file ──follow──▶ read ──all is well──▶ new keys
//!                    └──anything wrong──▶ those of before stay, the log says why
//! URL ──run──▶ fetched by age, or for a key that is not known ──▶ the same, and kept on disk
//!
//! token ──▶ signed by a key of an issuer? ──▶ time, issuer, audience ──▶ claims
//!              └── it names a key that nobody has: fetched, and once more
//! ```

mod keys;
mod remote;
mod verify;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use roost_proxy::{BadToken, Claims};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::changes::Changes;
use crate::config::{Issuer, Jwt, KeysAt};
use keys::{InvalidKeys, KeySet};
use remote::Remote;
pub use remote::RemoteFigures;

/// The largest file that is read, and the largest answer of an issuer, in bytes.
const MAX_KEYS_TEXT: u64 = 1 << 20;

/// Why keys do not count. Nothing of what they say is in the text.
#[derive(Debug, thiserror::Error)]
pub enum JwtError {
    /// The file cannot be read.
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
    /// Nothing can be fetched on these terms.
    #[error("{url}: {why}")]
    Client {
        /// From where.
        url: String,
        /// Why.
        why: String,
    },
}

/// Verifies tokens.
pub struct Tokens {
    trusted: Vec<Trusted>,
    leeway: Duration,
}

/// An issuer, and its keys.
struct Trusted {
    issuer: Issuer,
    keys: Keys,
}

enum Keys {
    Here(PathBuf, ArcSwap<KeySet>),
    There(Arc<Remote>),
}

impl Tokens {
    /// Reads the files of keys, and what was kept in `state` of those that are fetched. Asks nobody yet.
    ///
    /// # Errors
    /// When anything is wrong with a file.
    pub fn load(settings: &Jwt, state: &Path) -> Result<Arc<Self>, JwtError> {
        let trusted = settings.issuers.iter().map(|issuer| {
            let keys = match &issuer.keys {
                KeysAt::File(path) => Keys::Here(path.clone(), ArcSwap::from_pointee(read(path)?)),
                KeysAt::Url { url, refresh, ca } => {
                    Keys::There(Remote::open(url.clone(), *refresh, ca.as_deref(), state)?)
                }
            };
            Ok(Trusted { issuer: issuer.clone(), keys })
        });
        Ok(Arc::new(Self { trusted: trusted.collect::<Result<_, JwtError>>()?, leeway: settings.leeway }))
    }

    /// What a token says, if it counts now. Where it names a key that no issuer is known to have, they are asked first.
    ///
    /// # Errors
    /// When it does not.
    pub async fn verify(&self, token: &str) -> Result<Claims, BadToken> {
        let verified = self.verify_by_known(token);
        if !matches!(verified, Err(BadToken::Untrusted | BadToken::NoKeys)) {
            return verified;
        }
        let key = verify::key_id(token.as_bytes())?;
        let may_have_it = self.remotes().filter(|remote| remote.lacks(key.as_deref()));
        let asked = join_all(may_have_it.map(|remote| remote.refreshed())).await;
        if asked.contains(&true) { self.verify_by_known(token) } else { verified }
    }

    fn verify_by_known(&self, token: &str) -> Result<Claims, BadToken> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut why = BadToken::Untrusted;
        for trusted in &self.trusted {
            let signed = trusted.keys.with(|keys| match keys {
                Some(keys) => verify::signed(token.as_bytes(), keys),
                None => Err(BadToken::NoKeys),
            });
            match signed {
                Ok(claims) => match verify::judge(&claims, &trusted.issuer, self.leeway, now) {
                    Ok(until) => return Ok(verify::said(claims, until)),
                    // Another issuer may have the same key, and other terms.
                    Err(judged) => why = judged,
                },
                // Worse reasons than this one are certain.
                Err(BadToken::NoKeys) if why == BadToken::Untrusted => why = BadToken::NoKeys,
                Err(BadToken::NoKeys | BadToken::Untrusted) => {}
                Err(malformed) => return Err(malformed),
            }
        }
        Err(why)
    }

    fn remotes(&self) -> impl Iterator<Item = &Arc<Remote>> {
        self.trusted.iter().filter_map(|trusted| match &trusted.keys {
            Keys::There(remote) => Some(remote),
            Keys::Here(..) => None,
        })
    }

    /// How it is with the keys that are fetched.
    #[must_use]
    pub fn figures(&self) -> Vec<RemoteFigures> {
        self.remotes().map(|remote| remote.figures()).collect()
    }

    fn files(&self) -> impl Iterator<Item = (&Path, &ArcSwap<KeySet>)> {
        self.trusted.iter().filter_map(|trusted| match &trusted.keys {
            Keys::Here(path, keys) => Some((&**path, keys)),
            Keys::There(_) => None,
        })
    }

    /// Reads the files again. When anything is wrong with one, its keys stay what they were. Says whether any have changed.
    ///
    /// # Errors
    /// As at [`load`](Self::load): the first one.
    pub fn reload(&self) -> Result<bool, JwtError> {
        let (mut changed, mut failed) = (false, Ok(()));
        for (path, known) in self.files() {
            match read(path) {
                Ok(keys) if keys.digest != known.load().digest => {
                    known.store(Arc::new(keys));
                    changed = true;
                }
                Ok(_) => {}
                Err(why) => failed = failed.and(Err(why)),
            }
        }
        failed.map(|()| changed)
    }

    fn reload_and_tell(&self) {
        match self.reload() {
            Ok(true) => {
                let count: usize = self.files().map(|(_, keys)| keys.load().len()).sum();
                info!("the keys of tokens have changed: {count} from now on");
            }
            Ok(false) => {}
            Err(why) => error!("the keys of tokens stay as they were, until this is put right: {why}"),
        }
    }

    /// Reads files again whenever they change and whenever the daemon gets SIGHUP, and fetches keys, until the daemon ends.
    pub async fn follow(self: Arc<Self>) {
        for remote in self.remotes() {
            tokio::spawn(Arc::clone(remote).run());
        }
        let paths: Vec<&Path> = self.files().map(|(path, _)| path).collect();
        if paths.is_empty() {
            return;
        }
        let mut hangups = match signal(SignalKind::hangup()) {
            Ok(hangups) => hangups,
            Err(error) => {
                return warn!("the keys of tokens are not followed: no SIGHUP can be received: {error}");
            }
        };
        let mut changes = Changes::new("the keys of tokens", &paths);
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

impl Keys {
    /// Gives the keys as they are now; none where they have never been fetched.
    fn with<T>(&self, look: impl FnOnce(Option<&KeySet>) -> T) -> T {
        match self {
            Self::Here(_, keys) => look(Some(&keys.load())),
            Self::There(remote) => look(remote.keys().as_deref()),
        }
    }
}

/// The keys in a file. One with a secret among them is for its owner alone; judged by the open file, not by its name.
fn read(path: &Path) -> Result<KeySet, JwtError> {
    let failed = |source| JwtError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    let mut bytes = Vec::new();
    let read = file.take(MAX_KEYS_TEXT + 1).read_to_end(&mut bytes).map_err(failed)?;
    if read as u64 > MAX_KEYS_TEXT {
        return Err(failed(io::Error::other(format!("it has more than {MAX_KEYS_TEXT} bytes"))));
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

#[cfg(test)]
mod tests;
