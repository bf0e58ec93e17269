//! The files that name the users of the daemon on this host, changed in place of an editor.
//!
//! Owns the words of their lines as far as they are written here; the daemon judges the rest and takes a change up by
//! itself. Every change is whole: held against other commands, written beside, and put in place of the old file.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use argon2::password_hash::PasswordHasher;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, RECOMMENDED_SALT_LEN};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustix::rand::{GetRandomFlags, getrandom};
use tempfile::NamedTempFile;

use crate::config::local::Auth;
use crate::failure;

/// The longest name, in bytes.
const MAX_NAME: usize = 64;

/// What a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Admin,
    ReadOnly,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admin => "admin",
            Self::ReadOnly => "read-only",
        })
    }
}

/// A user, and the file that the password is in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    /// As the file has it.
    pub(crate) role: String,
    pub(crate) file: PathBuf,
}

/// The users of this host. No other command changes them as long as this lives.
pub(crate) struct Users {
    auth: Auth,
    /// The users file, line by line.
    lines: Vec<String>,
    _lock: File,
}

impl Users {
    pub(crate) fn open(auth: Auth) -> Result<Self> {
        let folder = folder(&auth.users_file);
        let lock = File::open(folder).with_context(|| format!("cannot open {}", folder.display()))?;
        lock.lock().with_context(|| format!("cannot lock {}", folder.display()))?;
        let text = read(&auth.users_file)?.unwrap_or_default();
        Ok(Self { auth, lines: text.lines().map(str::to_owned).collect(), _lock: lock })
    }

    pub(crate) fn list(&self) -> Result<Vec<User>> {
        let first = self.has_first()?.then(|| User {
            name: self.auth.user.clone(),
            role: Role::Admin.to_string(),
            file: self.auth.password_file.clone(),
        });
        let listed = self.lines.iter().filter_map(|line| fields(line)).map(|(name, role)| User {
            name: name.to_owned(),
            role: role.to_owned(),
            file: self.auth.users_file.clone(),
        });
        Ok(first.into_iter().chain(listed).collect())
    }

    pub(crate) fn add(&mut self, name: &str, role: Role, password: &str) -> Result<()> {
        check_name(name)?;
        if self.line_of(name).is_some() || (name == self.auth.user && self.has_first()?) {
            bail!("there is a user {name} already: 'roost auth reset --user {name}' changes the password");
        }
        self.lines.push(format!("{name}:{role}:{}", hash(password)?));
        self.write()
    }

    pub(crate) fn remove(&mut self, name: &str) -> Result<()> {
        let Some(index) = self.line_of(name) else {
            if name == self.auth.user && self.has_first()? {
                let file = self.auth.password_file.display();
                bail!(
                    "the password of {name} is in {file}: if there is another admin, remove that file instead"
                );
            }
            bail!("there is no user {name}");
        };
        self.lines.remove(index);
        let admin = |line: &String| fields(line).is_some_and(|(_, role)| role == "admin");
        if !self.has_first()? && !self.lines.iter().any(admin) {
            bail!("{name} is the last admin: add another one first, or nobody could change anything");
        }
        self.write()
    }

    /// Gives a user another password: `name`, or the one whose password is in a file of its own, which is made if it is
    /// not there. Returns who it was and where the password is.
    pub(crate) fn reset(&mut self, name: Option<&str>, password: &str) -> Result<User> {
        let name = name.unwrap_or(&self.auth.user).to_owned();
        if let Some(index) = self.line_of(&name) {
            let role = fields(&self.lines[index]).map(|(_, role)| role.to_owned()).unwrap_or_default();
            self.lines[index] = format!("{name}:{role}:{}", hash(password)?);
            self.write()?;
            return Ok(User { name, role, file: self.auth.users_file.clone() });
        }
        if name != self.auth.user {
            bail!("there is no user {name}");
        }
        place(&self.auth.password_file, &format!("{password}\n"))?;
        Ok(User { name, role: Role::Admin.to_string(), file: self.auth.password_file.clone() })
    }

    /// Is there a password in a file of its own?
    fn has_first(&self) -> Result<bool> {
        let path = &self.auth.password_file;
        path.try_exists().with_context(|| format!("cannot look for {}", path.display()))
    }

    fn line_of(&self, name: &str) -> Option<usize> {
        self.lines.iter().position(|line| fields(line).is_some_and(|(of, _)| of == name))
    }

    fn write(&self) -> Result<()> {
        place(&self.auth.users_file, &self.lines.iter().map(|line| format!("{line}\n")).collect::<String>())
    }
}

/// A password that nobody can guess and everybody can copy: 32 letters, digits, '-' and '_'.
pub(crate) fn new_password() -> Result<String> {
    loop {
        let password = BASE64_URL_SAFE_NO_PAD.encode(random::<24>()?);
        // So that it is never taken for an option.
        if !password.starts_with('-') {
            return Ok(password);
        }
    }
}

/// Name and role of a line, unless it is empty or a comment.
fn fields(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let (name, rest) = line.split_once(':').unwrap_or((line, ""));
    Some((name, rest.split_once(':').map_or(rest, |(role, _)| role)))
}

fn check_name(name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(plain) {
        let rule = "use up to 64 letters, digits, '-', '_', '.' and '@'";
        return Err(failure::usage(format!("'{name}' is not a user's name: {rule}")));
    }
    Ok(())
}

fn hash(password: &str) -> Result<PasswordHash> {
    let salt = random::<RECOMMENDED_SALT_LEN>()?;
    let hashed = Argon2::default().hash_password_with_salt(password.as_bytes(), &salt);
    hashed.map_err(|error| anyhow::anyhow!("cannot hash the password: {error}"))
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let got = getrandom(&mut bytes, GetRandomFlags::empty()).context("the system gives no random bytes")?;
    anyhow::ensure!(got == N, "the system gives too few random bytes");
    Ok(bytes)
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| {
            format!("cannot read {} (users are changed as root, on the daemon's own host)", path.display())
        }),
    }
}

/// Puts a file in the place of another one that keeps its owner; only the owner may read it. After a crash there is the
/// old one or the new one, whole.
fn place(path: &Path, text: &str) -> Result<()> {
    let write = || -> Result<()> {
        // What a link points to, not the link.
        let path = if path.exists() { path.canonicalize()? } else { path.to_owned() };
        let folder = folder(&path);
        // Created with mode 0600.
        let mut file = NamedTempFile::new_in(folder)?;
        if let Ok(old) = fs::metadata(&path) {
            fchown(file.as_file(), Some(old.uid()), Some(old.gid()))?;
        }
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        Ok(File::open(folder)?.sync_all()?)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use argon2::PasswordVerifier;

    use super::*;

    struct Place {
        folder: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap() }
        }

        fn users(&self) -> Users {
            Users::open(Auth {
                enabled: true,
                user: "admin".into(),
                password_file: self.path("password"),
                users_file: self.path("users"),
            })
            .unwrap()
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn text(&self, name: &str) -> String {
            fs::read_to_string(self.path(name)).unwrap()
        }

        fn mode(&self, name: &str) -> u32 {
            fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o7777
        }
    }

    fn is_of(line: &str, password: &str) -> bool {
        let hash = PasswordHash::new(line.rsplit(':').next().unwrap()).unwrap();
        Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()
    }

    #[test]
    fn users_come_and_go_and_what_else_is_in_the_file_stays() {
        let place = Place::new();
        place.users().reset(None, "first").unwrap();
        assert_eq!((place.text("password").as_str(), place.mode("password")), ("first\n", 0o600));
        place.users().add("anna", Role::Admin, "a").unwrap();
        let text = format!("# by hand\n{}\n", place.text("users"));
        fs::write(place.path("users"), &text).unwrap();
        place.users().add("ci.bot@x", Role::ReadOnly, "c").unwrap();
        assert_eq!(place.mode("users"), 0o600);

        let lines: Vec<String> = place.text("users").lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[1].starts_with("anna:admin:$argon2id$v=19$m=19456,t=2,p=1$"), "{}", lines[1]);
        assert!(is_of(&lines[1], "a") && !is_of(&lines[1], "c"));
        assert!(lines[3].starts_with("ci.bot@x:read-only:$argon2id$"));
        let listed = place.users().list().unwrap();
        let listed: Vec<_> = listed.iter().map(|user| (user.name.as_str(), user.role.as_str())).collect();
        assert_eq!(listed, [("admin", "admin"), ("anna", "admin"), ("ci.bot@x", "read-only")]);

        let reset = place.users().reset(Some("anna"), "b").unwrap();
        assert_eq!((reset.role.as_str(), reset.file), ("admin", place.path("users")));
        assert!(is_of(place.text("users").lines().nth(1).unwrap(), "b"));
        place.users().remove("anna").unwrap();
        assert_eq!(place.text("users"), format!("# by hand\n\n{}\n", lines[3]));
        assert_eq!(fs::read_dir(place.folder.path()).unwrap().count(), 2, "nothing else is left");
    }

    #[test]
    fn what_would_leave_no_admin_or_two_of_a_name_is_refused() {
        let place = Place::new();
        place.users().add("anna", Role::Admin, "a").unwrap();
        place.users().add("admin", Role::ReadOnly, "x").unwrap();
        let before = place.text("users");
        assert!(place.users().remove("anna").unwrap_err().to_string().contains("last admin"));
        assert!(place.users().add("anna", Role::ReadOnly, "b").is_err());
        assert!(place.users().remove("bert").is_err());
        assert!(place.users().reset(Some("bert"), "b").is_err());
        for name in ["", "a b", "a:b", "#a", &"a".repeat(65)] {
            assert!(place.users().add(name, Role::Admin, "a").is_err(), "{name}");
        }
        assert_eq!(place.text("users"), before);
        // A name in the users file is meant before the password file is.
        assert_eq!(place.users().reset(None, "b").unwrap().file, place.path("users"));
        place.users().remove("admin").unwrap();
        place.users().reset(None, "b").unwrap();
        assert!(place.users().add("admin", Role::Admin, "b").is_err());
        assert!(place.users().remove("admin").unwrap_err().to_string().contains("password"));
        place.users().remove("anna").unwrap();
    }

    #[test]
    fn new_passwords_are_long_and_never_alike() {
        let [one, two] = [(); 2].map(|()| new_password().unwrap());
        assert!(one.len() == 32 && two.len() == 32 && one != two);
    }
}
