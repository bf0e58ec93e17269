//! Finds the daemon and the password for it, without being told where it can be.
//!
//! The URL: `--gateway`, the stack file, `OPENFAAS_URL` or `ROOST_URL`, the daemon's own config file where it may be
//! read, the last saved login, `http://127.0.0.1:8080`. The password belongs to a URL: it is never sent to another.

mod faas_cli;
pub(crate) mod local;
pub(crate) mod saved;

use std::path::PathBuf;
use std::{env, fmt};

use anyhow::{Context, Result};

use crate::client::is_loopback;
use crate::failure;
use local::Local;
use saved::Saved;

/// Where the daemon listens unless something says otherwise.
const DEFAULT_GATEWAY: &str = "http://127.0.0.1:8080";
/// What may hold the URL, in this order: the first is what users of faas-cli have set already.
const GATEWAY_VARIABLES: [&str; 2] = ["OPENFAAS_URL", "ROOST_URL"];

/// Who we are to the daemon.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials {{ user: {:?}, .. }}", self.user)
    }
}

/// The daemon that a command talks to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Scheme, host and port, without a slash at the end.
    pub(crate) gateway: String,
    pub(crate) credentials: Option<Credentials>,
}

/// The daemon that is meant, and the password that is known for it.
pub(crate) fn find(flag: Option<&str>, stack: Option<&str>) -> Result<Endpoint> {
    let variable = GATEWAY_VARIABLES.iter().find_map(|name| env::var(name).ok().filter(|v| !v.is_empty()));
    let named = flag.or(stack).or(variable.as_deref()).map(normalise).transpose()?;
    let sources = Sources {
        named,
        local: local::read()?,
        saved: saved::path().map(|path| Saved::read(&path)).transpose()?.unwrap_or_default(),
    };
    let mut endpoint = sources.choose();
    if endpoint.credentials.is_none() {
        endpoint.credentials =
            faas_cli::credentials(&endpoint.gateway).context("in the login of faas-cli")?;
    }
    Ok(endpoint)
}

/// All that was found, before anything is decided.
struct Sources {
    named: Option<String>,
    local: Option<Local>,
    saved: Saved,
}

impl Sources {
    fn choose(&self) -> Endpoint {
        let gateway = self
            .named
            .as_deref()
            .or(self.local.as_ref().map(|l| l.gateway.as_str()))
            .or(self.saved.current.as_deref())
            .unwrap_or(DEFAULT_GATEWAY);
        let here = self.local.as_ref().filter(|l| same_place(&l.gateway, gateway));
        let credentials =
            here.and_then(|l| l.credentials.clone()).or_else(|| self.saved.credentials(gateway));
        Endpoint { gateway: gateway.to_owned(), credentials }
    }
}

/// A URL as we compare and use it: lower case, with a scheme, without a slash at the end.
pub(crate) fn normalise(text: &str) -> Result<String> {
    let lower = text.trim().trim_end_matches('/').to_lowercase();
    let url = if lower.contains("://") { lower } else { format!("http://{lower}") };
    let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let sound =
        host.is_some_and(|h| !h.is_empty() && !h.starts_with(':') && !h.contains(['@', '?', '#', ' ']));
    if !sound || url.parse::<ureq::http::Uri>().is_err() {
        // The text is not repeated: people write passwords into URLs.
        return Err(failure::usage(
            "the gateway is not a URL like http://host:8080 (a password goes to 'roost login')",
        ));
    }
    Ok(url)
}

/// Do two URLs lead to the same daemon, as far as one can tell by their text?
pub(crate) fn same_place(a: &str, b: &str) -> bool {
    let port = |url: &str| url.rsplit(':').next().map(str::to_owned);
    a == b || (is_loopback(a) && is_loopback(b) && port(a) == port(b))
}

/// A folder below the home folder, or where the variable says.
fn home_folder(variable: &str, below_home: &str) -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set(variable).or_else(|| set("HOME").map(|home| home.join(below_home)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(user: &str) -> Credentials {
        Credentials { user: user.into(), password: "p".into() }
    }

    fn choose(named: Option<&str>, local: Option<&str>, current: Option<&str>) -> (String, Option<String>) {
        let mut saved = Saved::default();
        saved.insert("http://far:8080", &login("far"));
        saved.current = current.map(str::to_owned);
        let local = local.map(|g| Local { gateway: g.into(), credentials: Some(login("here")) });
        let endpoint = Sources { named: named.map(str::to_owned), local, saved }.choose();
        (endpoint.gateway, endpoint.credentials.map(|c| c.user))
    }

    #[test]
    fn the_daemon_is_found_in_the_documented_order() {
        let here = Some("http://127.0.0.1:8080");
        let far = Some("http://far:8080");
        let table = [
            (choose(None, None, None), "http://127.0.0.1:8080", None),
            (choose(None, None, far), "http://far:8080", Some("far")),
            (choose(None, here, far), "http://127.0.0.1:8080", Some("here")),
            (choose(far, here, None), "http://far:8080", Some("far")),
            (choose(Some("http://localhost:8080"), here, None), "http://localhost:8080", Some("here")),
            // A password is never sent to a place it is not for.
            (choose(Some("http://other:8080"), here, far), "http://other:8080", None),
            (choose(Some("http://127.0.0.1:9090"), here, far), "http://127.0.0.1:9090", None),
        ];
        for ((gateway, user), expected, who) in table {
            assert_eq!((gateway.as_str(), user.as_deref()), (expected, who));
        }
    }

    #[test]
    fn urls_are_written_one_way() {
        let table = [
            ("Host:8080/", Some("http://host:8080")),
            ("https://h", Some("https://h")),
            ("HTTP://H:1//", Some("http://h:1")),
            ("ftp://h", None),
            (":8080", None),
            ("", None),
            ("http://user:pw@h", None),
        ];
        for (text, expected) in table {
            assert_eq!(normalise(text).ok().as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_password_is_not_shown_by_debug() {
        assert!(
            !format!("{:?}", Credentials { user: "u".into(), password: "secret".into() }).contains("secret")
        );
    }
}
