//! The two files that name the users of the API: how they are read, and what is valid in them.
//!
//! Owns the format. Nothing of what a file says goes into an error, but for where it is: lines hold hashes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use argon2::password_hash::phc::PasswordHash;
use argon2::{ARGON2ID_IDENT, Params, Version};

/// The largest file that is read, in bytes: some thousand users.
const MAX_FILE: u64 = 1 << 20;

/// The most memory that a hash may ask for, in KiB, and the most passes over it: a login must not be a burden to the
/// host.
const MAX_COST: (u32, u32) = (64 << 10, 10);

/// The longest name, in bytes.
const MAX_NAME: usize = 64;

/// What a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
    /// Look.
    ReadOnly,
}

/// A user of the users file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Listed {
    pub(super) role: Role,
    pub(super) hash: PasswordHash,
}

/// Why a file does not count.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no secret.
    #[error("{path} may be read by others than its owner (mode {mode:04o}): chmod 600 {path}")]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// An empty password would let everybody in who knows the user's name.
    #[error("the password in {0} is empty")]
    Empty(PathBuf),
    /// A line of the users file makes no sense.
    #[error("{path}, line {line}: {why}")]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What was expected.
        why: String,
    },
    /// Nobody could change anything.
    #[error(
        "no user is an admin: {password} is not there, and {users} names none (`roost auth reset` makes one)"
    )]
    NoAdmin {
        /// The file of the first admin's password.
        password: PathBuf,
        /// The file of all other users.
        users: PathBuf,
    },
}

/// The password in a file, without the white space around it; `None` if there is no such file.
pub(super) fn password(path: &Path) -> Result<Option<String>, UsersError> {
    match read(path)?.as_deref().map(str::trim) {
        None => Ok(None),
        Some("") => Err(UsersError::Empty(path.to_owned())),
        Some(password) => Ok(Some(password.to_owned())),
    }
}

/// The users in a file, none if there is no such file. `taken` is a name that stands elsewhere.
pub(super) fn users(path: &Path, taken: Option<&str>) -> Result<BTreeMap<String, Listed>, UsersError> {
    let text = read(path)?.unwrap_or_default();
    parse(&text, taken).map_err(|(line, why)| UsersError::Line { path: path.to_owned(), line, why })
}

/// The text of a file that only its owner may read. Judged by the open file, not by its name.
fn read(path: &Path) -> Result<Option<String>, UsersError> {
    let failed = |source| UsersError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed)?,
    };
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(UsersError::Exposed { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    let read = file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(failed)?;
    if read as u64 > MAX_FILE {
        return Err(failed(io::Error::other(format!("it has more than {MAX_FILE} bytes"))));
    }
    Ok(Some(text))
}

/// Reads `NAME:ROLE:HASH` lines. Empty ones and those that begin with `#` are passed over.
fn parse(text: &str, taken: Option<&str>) -> Result<BTreeMap<String, Listed>, (usize, String)> {
    let mut users = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |why: &str| (index + 1, why.to_owned());
        let (name, user) = user(line).map_err(wrong)?;
        if taken == Some(name) {
            return Err(wrong("the name is that of auth.user, whose password is in auth.password_file"));
        }
        if users.insert(name.to_owned(), user).is_some() {
            return Err(wrong("the name stands in an earlier line, too"));
        }
    }
    Ok(users)
}

fn user(line: &str) -> Result<(&str, Listed), &'static str> {
    let mut parts = line.splitn(3, ':');
    let (Some(name), Some(role), Some(hash)) = (parts.next(), parts.next(), parts.next()) else {
        return Err("expected NAME:ROLE:HASH");
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(plain) {
        return Err("NAME: expected up to 64 letters, digits, '-', '_', '.' and '@'");
    }
    let role = match role {
        "admin" => Role::Admin,
        "read-only" => Role::ReadOnly,
        _ => return Err("ROLE: expected admin or read-only"),
    };
    Ok((name, Listed { role, hash: hash_of(hash)? }))
}

fn hash_of(text: &str) -> Result<PasswordHash, &'static str> {
    let hash = PasswordHash::new(text).map_err(|_| "HASH: expected $argon2id$v=19$…")?;
    let known = hash.algorithm == ARGON2ID_IDENT
        && hash.version == Some(Version::V0x13.into())
        && hash.salt.is_some()
        && hash.hash.is_some();
    if !known {
        return Err("HASH: expected $argon2id$v=19$…, with salt and hash");
    }
    let params = Params::try_from(&hash).map_err(|_| "HASH: its parameters make no sense")?;
    if params.m_cost() > MAX_COST.0 || params.t_cost() > MAX_COST.1 {
        return Err("HASH: it asks for more than m=65536 or t=10");
    }
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$\
                        RdescudvJCsgt3ub+b3dWRWJTmaaJObGHRdescudvJA";

    #[test]
    fn comments_and_blank_lines_are_passed_over() {
        let text = format!("# users\n\n  anna:admin:{HASH}  \nci.bot@x:read-only:{HASH}\r\n#x:y\n");
        let users = parse(&text, Some("admin")).unwrap();
        let roles: Vec<_> = users.iter().map(|(name, user)| (name.as_str(), user.role)).collect();
        assert_eq!(roles, [("anna", Role::Admin), ("ci.bot@x", Role::ReadOnly)]);
        assert!(parse("", None).unwrap().is_empty());
    }

    #[test]
    fn a_broken_line_is_named_and_what_it_holds_is_not() {
        let hash = |from: &str, to: &str| format!("anna:admin:{}", HASH.replace(from, to));
        let table = [
            ("secret".to_owned(), "NAME:ROLE:HASH"),
            ("anna:admin".to_owned(), "NAME:ROLE:HASH"),
            (format!(":admin:{HASH}"), "NAME:"),
            (format!("a b:admin:{HASH}"), "NAME:"),
            (format!("{}:admin:{HASH}", "a".repeat(65)), "NAME:"),
            (format!("anna:root:{HASH}"), "ROLE:"),
            ("anna:admin:secret".to_owned(), "HASH:"),
            ("anna:admin:$2y$05$secret".to_owned(), "HASH:"),
            (hash("argon2id", "argon2i"), "HASH:"),
            (hash("v=19", "v=16"), "HASH:"),
            (hash("m=19456", "m=65537"), "HASH: it asks"),
            (hash("t=2", "t=11"), "HASH: it asks"),
            (hash("m=19456", "m=1"), "HASH: its parameters"),
            ("anna:admin:$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA".to_owned(), "HASH:"),
            (format!("bert:admin:{HASH}\nbert:read-only:{HASH}"), "earlier line"),
            (format!("admin:admin:{HASH}"), "auth.user"),
        ];
        for (line, expected) in table {
            let (number, why) = parse(&format!("# first\n{line}\n"), Some("admin")).unwrap_err();
            assert_eq!(number, 1 + line.lines().count(), "{line}");
            assert!(why.contains(expected), "{line}: {why}");
            assert!(!why.contains("secret") && !why.contains("c29t"), "{why}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_and_one_that_is_missing_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        assert!(users(&path, None).unwrap().is_empty() && password(&path).unwrap().is_none());
        fs::write(&path, format!("anna:admin:{HASH}\n")).unwrap();
        for (mode, fine) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o644, false)] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(users(&path, None).is_ok(), fine, "{mode:o}");
            assert_eq!(password(&path).is_ok(), fine, "{mode:o}");
        }
    }

    #[test]
    fn a_password_is_what_stands_between_the_white_space() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, expected) in [(" s3:cret\n", Some("s3:cret")), ("\n \n", None), ("", None)] {
            fs::write(file.path(), text).unwrap();
            assert_eq!(password(file.path()).ok().flatten().as_deref(), expected, "{text:?}");
        }
    }
}
