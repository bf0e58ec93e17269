//! The logins that faas-cli saved: read, never written, so that a user of faas-cli need not log in again.

use std::env;
use std::path::PathBuf;
use std::{fs, io};

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use super::{Credentials, home_folder};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    auths: Vec<Auth>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Auth {
    gateway: String,
    auth: String,
    token: String,
}

/// The login for this URL, if faas-cli has one.
pub(super) fn credentials(gateway: &str) -> Result<Option<Credentials>> {
    let Some(path) = path() else { return Ok(None) };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        // Not having one is the usual case, and not being allowed to see it is no reason to stop.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            return Ok(None);
        }
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
    };
    // Whatever else is in that file is not ours to judge.
    Ok(find(&text, gateway))
}

fn path() -> Option<PathBuf> {
    let ci = env::var("CI").is_ok_and(|v| v == "true" || v == "1");
    let folder = if ci && env::var_os("OPENFAAS_CONFIG").is_none() {
        Some(".openfaas".into())
    } else {
        home_folder("OPENFAAS_CONFIG", ".openfaas")
    }?;
    Some(if folder.is_file() { folder } else { folder.join("config.yml") })
}

fn find(text: &str, gateway: &str) -> Option<Credentials> {
    let config: Config = serde_saphyr::from_str(text).ok()?;
    let ours = |auth: &&Auth| {
        auth.auth == "basic" && auth.gateway.trim_end_matches('/').eq_ignore_ascii_case(gateway)
    };
    let token = &config.auths.iter().find(ours)?.token;
    let pair = String::from_utf8(BASE64_STANDARD.decode(token.trim()).ok()?).ok()?;
    let (user, password) = pair.split_once(':')?;
    Some(Credentials { user: user.to_owned(), password: password.trim().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_basic_login_of_the_very_gateway_is_taken() {
        let text = "auths:\n- gateway: http://127.0.0.1:8080\n  auth: basic\n  token: YWRtaW46YTpi\n- gateway: http://o:1\n  auth: oauth2\n  token: x\n";
        let login = find(text, "http://127.0.0.1:8080").unwrap();
        assert_eq!((login.user.as_str(), login.password.as_str()), ("admin", "a:b"));
        assert!(find(text, "http://o:1").is_none());
        assert!(find(text, "http://127.0.0.1:80").is_none());
        assert!(find("{{{", "http://o:1").is_none());
    }
}
