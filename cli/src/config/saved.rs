//! The saved logins: `$XDG_CONFIG_HOME/roost/credentials.toml`, readable for its owner only, replaced as a whole.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::{Credentials, home_folder};

/// What the file holds.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Saved {
    /// The URL of the last login.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    gateways: BTreeMap<String, Login>,
}

#[derive(Serialize, Deserialize)]
struct Login {
    user: String,
    password: String,
}

/// Where the file is; `None` for a user without a home.
pub(crate) fn path() -> Option<PathBuf> {
    home_folder("XDG_CONFIG_HOME", ".config").map(|folder| folder.join("roost/credentials.toml"))
}

impl Saved {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let context = || format!("cannot read the saved logins in {}", path.display());
        match fs::read_to_string(path) {
            // The parser's own message would quote the line, and with it a password.
            Ok(text) => {
                toml::from_str(&text).map_err(|e| anyhow::anyhow!("{}", e.message()).context(context()))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(e).with_context(context),
        }
    }

    /// Replaces the file: after a crash there is the old one or the new one, whole, and never one that others may read.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let write = || -> Result<()> {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            // Created with mode 0600.
            let mut file = NamedTempFile::new_in(folder)?;
            file.write_all(toml::to_string(self)?.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(path)?;
            Ok(File::open(folder)?.sync_all()?)
        };
        write().with_context(|| format!("cannot save the login in {}", path.display()))
    }

    pub(crate) fn credentials(&self, gateway: &str) -> Option<Credentials> {
        let login = self.gateways.get(gateway)?;
        Some(Credentials { user: login.user.clone(), password: login.password.clone() })
    }

    /// Keeps a login; it is the current one from now on.
    pub(crate) fn insert(&mut self, gateway: &str, login: &Credentials) {
        let login = Login { user: login.user.clone(), password: login.password.clone() };
        self.gateways.insert(gateway.to_owned(), login);
        self.current = Some(gateway.to_owned());
    }

    /// Puts the new password of a user into the logins to the places that `here` says; says whether there was one.
    pub(crate) fn renew(&mut self, login: &Credentials, here: impl Fn(&str) -> bool) -> bool {
        let mut renewed = false;
        for (gateway, saved) in &mut self.gateways {
            if saved.user == login.user && here(gateway) {
                saved.password.clone_from(&login.password);
                renewed = true;
            }
        }
        renewed
    }

    /// Forgets a login; says whether there was one.
    pub(crate) fn remove(&mut self, gateway: &str) -> bool {
        self.current.take_if(|current| current == gateway);
        self.gateways.remove(gateway).is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_login_is_kept_for_its_owner_only_and_can_be_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/credentials.toml");
        let mut saved = Saved::read(&path).unwrap();
        let login = Credentials { user: "admin".into(), password: "s3cret\"'".into() };
        saved.insert("http://h:8080", &login);
        saved.write(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        let mut again = Saved::read(&path).unwrap();
        assert_eq!(again.current.as_deref(), Some("http://h:8080"));
        assert_eq!(again.credentials("http://h:8080"), Some(login));
        let renewed = Credentials { user: "admin".into(), password: "other".into() };
        assert!(!again.renew(&renewed, |gateway| gateway == "http://g:8080"));
        assert!(!again.renew(&Credentials { user: "anna".into(), ..renewed.clone() }, |_| true));
        assert!(again.renew(&renewed, |gateway| gateway == "http://h:8080"));
        assert_eq!(again.credentials("http://h:8080"), Some(renewed));
        assert!(again.remove("http://h:8080") && !again.remove("http://h:8080"));
        assert_eq!(again.current, None);
    }

    #[test]
    fn a_damaged_file_does_not_show_its_passwords() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials.toml");
        fs::write(&path, "[gateways.'http://h']\npassword = \"s3cret\n").unwrap();
        let error = format!("{:#}", Saved::read(&path).err().unwrap());
        assert!(error.contains("credentials.toml") && !error.contains("s3cret"), "{error}");
    }
}
