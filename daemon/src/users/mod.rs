//! The users of the API: who they are, and whether a request is of one of them.
//!
//! Owns the two files of users and what is known from them, as a snapshot that is swapped whole when a file changes. Never
//! logs a name that a client sent, a password or a hash.
//!
//! ```text
//! files ──follow──▶ read ──all is well──▶ new snapshot (who was proven stays so, if the same stands there)
//!                     └──anything wrong──▶ the old snapshot stays, the log says why
//!
//! request ──▶ right for the user of the password file: compared
//!         ──▶ proven in this snapshot: compared
//!         ──▶ else argon2, one at a time; few may wait, fewer of one peer, more are told to come again
//! ```

mod file;
mod places;
mod watch;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordVerifier};
use axum::http::{HeaderMap, HeaderValue, header};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use tracing::{error, info};

pub use file::{Role, UsersError};
pub use watch::follow;

use crate::config::Auth;
use crate::memory;
use file::Listed;
use places::Places;

/// How many passwords are hashed at once: each takes 19 MiB and a processor while it lasts.
const AT_ONCE: usize = 1;

/// Why a request is not taken for one of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It names no user, or not with the right password.
    Wrong,
    /// Too many passwords are being checked at this moment.
    Busy,
}

/// All users, as the files have them.
pub struct Users {
    files: Auth,
    known: ArcSwap<Known>,
    turns: Arc<Semaphore>,
    places: Places,
}

/// What the files said at one moment.
struct Known {
    /// The user of the password file, and the password.
    first: Option<(String, String)>,
    listed: BTreeMap<String, User>,
    /// Makes what is remembered worthless anywhere else.
    key: [u8; 32],
}

struct User {
    listed: Listed,
    /// The keyed digest of the password, once argon2 has found it to be right.
    proven: OnceLock<[u8; 32]>,
}

impl Users {
    /// Reads the files.
    ///
    /// # Errors
    /// When anything is wrong with one of them, or nobody in them is an admin.
    pub fn load(files: &Auth) -> Result<Arc<Self>, UsersError> {
        Ok(Arc::new(Self {
            known: ArcSwap::from_pointee(Known::read(files)?),
            files: files.clone(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            places: Places::default(),
        }))
    }

    /// Which user's request has these headers. `peer` is where it comes from.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// When it is nobody's, or that cannot be found out now.
    pub async fn authenticate(&self, headers: &HeaderMap, peer: IpAddr) -> Result<Role, Refused> {
        let (name, password) = headers.get(header::AUTHORIZATION).and_then(basic).ok_or(Refused::Wrong)?;
        let known = self.known.load_full();
        if known.is_first(&name, &password) {
            return Ok(Role::Admin);
        }
        match known.remembered(&name, &password) {
            Some(role) => Ok(role),
            None => self.verify(known, name, password, peer).await,
        }
    }

    /// The name in these headers, whether anybody has it or not.
    #[must_use]
    pub fn name(headers: &HeaderMap) -> Option<String> {
        headers.get(header::AUTHORIZATION).and_then(basic).map(|(name, _)| name)
    }

    /// Asks argon2. A name that nobody has costs as much as one of a file, and so does a wrong password of the first user:
    /// how long a refusal takes does not tell who is a user.
    async fn verify(
        &self,
        known: Arc<Known>,
        name: String,
        password: String,
        peer: IpAddr,
    ) -> Result<Role, Refused> {
        if known.listed.is_empty() {
            return Err(Refused::Wrong);
        }
        let _place = self.places.take(peer).ok_or(Refused::Busy)?;
        // Goes with the work, which goes on when the client goes away.
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| Refused::Busy)?;
        if let Some(role) = known.remembered(&name, &password) {
            return Ok(role);
        }
        let verified = tokio::task::spawn_blocking(move || {
            let role = known.verify(&name, &password);
            memory::settle();
            drop(turn);
            role
        });
        match verified.await {
            Ok(role) => role.ok_or(Refused::Wrong),
            Err(error) => {
                error!("a password could not be checked: {error}");
                Err(Refused::Busy)
            }
        }
    }

    /// Reads the files again. When anything is wrong, the users stay who they were.
    fn reload(&self) {
        match Known::read(&self.files) {
            Ok(known) if known.says_the_same_as(&self.known.load()) => {}
            Ok(mut known) => {
                known.remember(&self.known.load());
                let users = known.listed.len() + usize::from(known.first.is_some());
                self.known.store(Arc::new(known));
                info!("users of the API read again: {users} from now on");
            }
            Err(error) => error!("the users of the API stay who they were, until this is put right: {error}"),
        }
    }

    fn paths(&self) -> [&Path; 2] {
        [&self.files.password_file, &self.files.users_file]
    }
}

impl Known {
    fn read(files: &Auth) -> Result<Self, UsersError> {
        let first = file::password(&files.password_file)?.map(|password| (files.user.clone(), password));
        let listed = file::users(&files.users_file, first.as_ref().map(|(name, _)| name.as_str()))?;
        if first.is_none() && !listed.values().any(|user| user.role == Role::Admin) {
            let (password, users) = (files.password_file.clone(), files.users_file.clone());
            return Err(UsersError::NoAdmin { password, users });
        }
        let user = |listed| User { listed, proven: OnceLock::new() };
        let listed = listed.into_iter().map(|(name, listed)| (name, user(listed))).collect();
        let mut key = [0; 32];
        for half in key.chunks_exact_mut(16) {
            half.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        }
        Ok(Self { first, listed, key })
    }

    /// Those who were proven before are, as long as the same stands in the file.
    fn remember(&mut self, before: &Self) {
        self.key = before.key;
        for (name, user) in &mut self.listed {
            let same = before.listed.get(name).filter(|old| old.listed == user.listed);
            user.proven = same.map(|old| old.proven.clone()).unwrap_or_default();
        }
    }

    fn says_the_same_as(&self, other: &Self) -> bool {
        let listed = |known: &Self| -> Vec<(String, Listed)> {
            known.listed.iter().map(|(name, user)| (name.clone(), user.listed.clone())).collect()
        };
        self.first == other.first && listed(self) == listed(other)
    }

    /// Is this the user of the password file, with that password? By digests: comparing texts tells how long they are.
    fn is_first(&self, name: &str, password: &str) -> bool {
        let same = |a: &str, b: &str| self.digest(a).ct_eq(&self.digest(b));
        self.first.as_ref().is_some_and(|(first, secret)| (same(first, name) & same(secret, password)).into())
    }

    /// The role of a user whose password has been found right before.
    fn remembered(&self, name: &str, password: &str) -> Option<Role> {
        let user = self.listed.get(name)?;
        let right = user.proven.get()?.ct_eq(&self.digest(password));
        bool::from(right).then_some(user.listed.role)
    }

    /// Takes 19 MiB for some hundredths of a second.
    fn verify(&self, name: &str, password: &str) -> Option<Role> {
        let user = self.listed.get(name);
        let hash = user.map_or_else(|| self.costliest(), |user| Some(&user.listed.hash))?;
        let right = Argon2::default().verify_password(password.as_bytes(), hash).is_ok();
        let user = user.filter(|_| right)?;
        user.proven.get_or_init(|| self.digest(password));
        Some(user.listed.role)
    }

    /// What stands in for the hash of a user that is not there.
    fn costliest(&self) -> Option<&PasswordHash> {
        let cost = |hash: &&PasswordHash| {
            argon2::Params::try_from(*hash)
                .map_or(0, |params| u64::from(params.m_cost()) * u64::from(params.t_cost()))
        };
        self.listed.values().map(|user| &user.listed.hash).max_by_key(cost)
    }

    fn digest(&self, text: &str) -> [u8; 32] {
        Sha256::new().chain_update(self.key).chain_update(text).finalize().into()
    }
}

/// User and password of a Basic header.
fn basic(header: &HeaderValue) -> Option<(String, String)> {
    let (scheme, encoded) = header.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests;
