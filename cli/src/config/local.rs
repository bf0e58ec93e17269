//! The daemon on this host, as its own config file describes it. Readable for root and whoever root lets read it.
//!
//! Only the keys we need are looked at; the daemon judges the rest.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::Credentials;

/// Where the config file is, unless `ROOST_CONFIG` says otherwise.
const CONFIG_FILE: &str = "/etc/roost/roostd.toml";
/// Where the password is, unless the config file says otherwise.
const PASSWORD_FILE: &str = "/etc/roost/admin-password";
/// Where all other users are, unless the config file says otherwise.
const USERS_FILE: &str = "/etc/roost/users";

/// What the config file tells us.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Local {
    pub(super) gateway: String,
    pub(super) credentials: Option<Credentials>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    server: Server,
    auth: Auth,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct Server {
    listen: String,
}

/// Who may use the daemon.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct Auth {
    pub(crate) enabled: bool,
    pub(crate) user: String,
    pub(crate) password_file: PathBuf,
    pub(crate) users_file: PathBuf,
}

/// The daemon on this host, and its users.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) gateway: String,
    pub(crate) auth: Auth,
}

impl Default for Server {
    fn default() -> Self {
        Self { listen: "127.0.0.1:8080".into() }
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            enabled: true,
            user: "admin".into(),
            password_file: PASSWORD_FILE.into(),
            users_file: USERS_FILE.into(),
        }
    }
}

/// Reads the config file; `None` where there is none, or where it is not ours to read.
pub(super) fn read() -> Result<Option<Local>> {
    let Some(Host { gateway, auth }) = read_host(&config_file())? else { return Ok(None) };
    let credentials = if auth.enabled { password(&auth)? } else { None };
    Ok(Some(Local { gateway, credentials }))
}

/// The daemon on this host, which there has to be.
pub(crate) fn host() -> Result<Host> {
    let path = config_file();
    match read_host(&path)? {
        Some(host) => Ok(host),
        None => bail!(
            "{} is not there or not for you to read: run this as root, on the daemon's own host",
            path.display()
        ),
    }
}

fn config_file() -> PathBuf {
    let named = env::var_os("ROOST_CONFIG").filter(|v| !v.is_empty());
    named.map_or_else(|| PathBuf::from(CONFIG_FILE), PathBuf::from)
}

fn read_host(path: &Path) -> Result<Option<Host>> {
    let context = || format!("cannot read {}", path.display());
    let named = path != Path::new(CONFIG_FILE);
    let Some(text) = read_allowed(path, named).with_context(context)? else { return Ok(None) };
    let file: File = toml::from_str(&text).with_context(context)?;
    let gateway = gateway(&file.server.listen).with_context(context)?;
    Ok(Some(Host { gateway, auth: file.auth }))
}

fn password(auth: &Auth) -> Result<Option<Credentials>> {
    let text = read_allowed(&auth.password_file, false)
        .with_context(|| format!("cannot read {}", auth.password_file.display()))?;
    Ok(text.map(|t| Credentials { user: auth.user.clone(), password: t.trim().to_owned() }))
}

/// The file's text. One that is missing or closed to us counts as none, unless it was named by hand.
fn read_allowed(path: &Path, required: bool) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if required && e.kind() == io::ErrorKind::NotFound => Err(e),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The URL that reaches a listener: one that listens everywhere is reached on loopback.
fn gateway(listen: &str) -> Result<String> {
    let mut address: SocketAddr = listen
        .parse()
        .with_context(|| format!("server.listen: '{listen}' is not an address like 127.0.0.1:8080"))?;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            Ipv6Addr::LOCALHOST.into()
        });
    }
    Ok(format!("http://{address}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_reached_on_loopback() {
        let table = [
            ("0.0.0.0:8080", Some("http://127.0.0.1:8080")),
            ("[::]:81", Some("http://[::1]:81")),
            ("10.0.0.5:80", Some("http://10.0.0.5:80")),
            ("8080", None),
        ];
        for (listen, expected) in table {
            assert_eq!(gateway(listen).ok().as_deref(), expected, "{listen}");
        }
    }

    #[test]
    fn keys_of_the_daemon_that_we_do_not_need_are_passed_over() {
        let file: File =
            toml::from_str("[server]\nlisten = '0.0.0.0:1'\n[images]\npolicy = 'Always'\n").unwrap();
        assert_eq!(file.server.listen, "0.0.0.0:1");
        assert!(file.auth.enabled && file.auth.user == "admin");
    }
}
