//! Credentials for registries, from a file in the form of Docker's `config.json`.
//!
//! Owns reading the file and finding the entry of a host. Never keeps, shows or logs what it read: the file is
//! read again for each pull, so that a new login counts at once.
//!
//! Of each entry in `auths` it takes `auth` (base64 of `user:password`), or `username` and `password`, or
//! `identitytoken` (sent as the password, which is what registries take that hand such tokens out), or
//! `registrytoken`. Programs named in `credHelpers` and `credsStore` are not asked: a daemon has no keyring.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::Value;

use super::error::ImageError;
use super::reference::DOCKER_HUB;

/// The largest file of credentials, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The user that goes with an identity token when the entry names none.
const TOKEN_USER: &str = "00000000-0000-0000-0000-000000000000";

/// How to introduce ourselves to a registry.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    Anonymous,
    Basic { user: String, password: String },
    Bearer { token: String },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Basic { .. } => "Basic(…)",
            Self::Bearer { .. } => "Bearer(…)",
        })
    }
}

/// The credentials for `host` in the file at `path`. No file, no entry: anonymous.
pub(super) fn load(path: &Path, host: &str) -> Result<Credentials, ImageError> {
    let fail = |reason: String| ImageError::Credentials { path: path.to_owned(), reason };
    let size = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Credentials::Anonymous),
        Err(error) => return Err(fail(error.to_string())),
    };
    if size > MAX_FILE {
        return Err(fail("the file is larger than 1 MiB".to_owned()));
    }
    let bytes = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
    find(&bytes, host).map_err(fail)
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

/// All entries are checked, not only the one that is looked for: a mistake shows at the first pull. Messages of
/// the JSON reader are not passed on, as they quote what they do not understand.
fn find(bytes: &[u8], host: &str) -> Result<Credentials, String> {
    let file: File = serde_json::from_slice(bytes).map_err(|error| {
        format!("no JSON of the form {{\"auths\": {{…}}}}: mistake in line {}", error.line())
    })?;
    let mut found = None;
    for (key, value) in file.auths {
        let credentials = read(value).map_err(|reason| format!("auths.{key:?}: {reason}"))?;
        // The key that is the host itself counts more than one with a scheme or a path around it.
        if key == host || (host_of(&key) == host && found.is_none()) {
            found = Some(credentials);
        }
    }
    Ok(found.unwrap_or(Credentials::Anonymous))
}

fn read(value: Value) -> Result<Credentials, &'static str> {
    let entry: Entry = serde_json::from_value(value)
        .map_err(|_| "expected an object with `auth`, or `username` and `password`, all of them texts")?;
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let pair = match given(entry.auth) {
        Some(auth) => Some(decode(&auth)?),
        None => match (given(entry.username), given(entry.password)) {
            (Some(user), password) => Some((user, password.unwrap_or_default())),
            (None, Some(_)) => return Err("a `password` without `username`"),
            (None, None) => None,
        },
    };
    if let Some(token) = given(entry.registrytoken) {
        return Ok(Credentials::Bearer { token });
    }
    if let Some(password) = given(entry.identitytoken) {
        let user = pair.map_or_else(|| TOKEN_USER.to_owned(), |(user, _)| user);
        return Ok(Credentials::Basic { user, password });
    }
    match pair {
        Some((user, password)) => Ok(Credentials::Basic { user, password }),
        // Docker leaves an empty entry behind where a credential helper holds the login.
        None => Ok(Credentials::Anonymous),
    }
}

fn decode(auth: &str) -> Result<(String, String), &'static str> {
    const EXPECTED: &str = "`auth` is not base64 of user:password";
    let bytes = BASE64_STANDARD.decode(auth.trim()).map_err(|_| EXPECTED)?;
    let text = String::from_utf8(bytes).map_err(|_| EXPECTED)?;
    let (user, password) = text.split_once(':').ok_or(EXPECTED)?;
    // Docker pads with NUL where it once had fixed-size buffers.
    Ok((user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

/// The host that a key of `auths` means: it may have a scheme in front and a path behind.
fn host_of(key: &str) -> String {
    let bare = key.split_once("://").map_or(key, |(_, rest)| rest);
    let host = bare.split('/').next().unwrap_or(bare).to_ascii_lowercase();
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB.to_owned(),
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(user: &str, password: &str) -> Credentials {
        Credentials::Basic { user: user.to_owned(), password: password.to_owned() }
    }

    fn auth(pair: &str) -> String {
        BASE64_STANDARD.encode(pair)
    }

    #[test]
    fn an_entry_is_found_by_its_host() {
        let table = [
            ("https://index.docker.io/v1/", "docker.io", true),
            ("index.docker.io", "docker.io", true),
            ("docker.io", "docker.io", true),
            ("registry-1.docker.io", "docker.io", true),
            ("ghcr.io", "ghcr.io", true),
            ("https://ghcr.io", "ghcr.io", true),
            ("http://Registry.lan:5000/v2/", "registry.lan:5000", true),
            ("registry.lan", "registry.lan:5000", false),
            ("evil-ghcr.io", "ghcr.io", false),
            ("ghcr.io.evil.net", "ghcr.io", false),
        ];
        for (key, host, there) in table {
            let json = format!(r#"{{"auths":{{"{key}":{{"auth":"{}"}}}},"credsStore":"x"}}"#, auth("u:p:w"));
            let expected = if there { basic("u", "p:w") } else { Credentials::Anonymous };
            assert_eq!(find(json.as_bytes(), host), Ok(expected), "{key} {host}");
        }
    }

    #[test]
    fn each_form_of_login_is_understood() {
        let user = auth("u:");
        let token_for_user = format!(r#"{{"auth":"{user}","identitytoken":"t"}}"#);
        let table = [
            (r#"{"username":"u","password":"p"}"#, basic("u", "p")),
            (token_for_user.as_str(), basic("u", "t")),
            (r#"{"identitytoken":"t"}"#, basic(TOKEN_USER, "t")),
            (r#"{"registrytoken":"t"}"#, Credentials::Bearer { token: "t".to_owned() }),
            ("{}", Credentials::Anonymous),
            (r#"{"auth":""}"#, Credentials::Anonymous),
        ];
        for (entry, expected) in table {
            let json = format!(r#"{{"auths":{{"h.io":{entry}}}}}"#);
            assert_eq!(find(json.as_bytes(), "h.io"), Ok(expected), "{entry}");
        }
        assert_eq!(find(b"{}", "h.io"), Ok(Credentials::Anonymous));
    }

    #[test]
    fn the_plain_host_wins_over_one_with_a_path() {
        let json = format!(
            r#"{{"auths":{{"a.io/x":{{"auth":"{}"}},"a.io":{{"auth":"{}"}},"https://a.io":{{"auth":"{}"}}}}}}"#,
            auth("path:1"),
            auth("host:1"),
            auth("scheme:1")
        );
        assert_eq!(find(json.as_bytes(), "a.io"), Ok(basic("host", "1")));
    }

    #[test]
    fn a_mistake_names_its_key_and_never_a_secret() {
        let no_colon = format!(r#"{{"auths":{{"bad.io":{{"auth":"{}"}}}}}}"#, auth("SECRET"));
        let table = [
            (r#"{"auths":{"bad.io":{"auth":"SECRET!"}}}"#, "bad.io"),
            (r#"{"auths":{"bad.io":{"username":7,"password":"SECRET"}}}"#, "bad.io"),
            (r#"{"auths":{"bad.io":"SECRET"}}"#, "bad.io"),
            (r#"{"auths":{"bad.io":{"password":"SECRET"}}}"#, "bad.io"),
            (no_colon.as_str(), "bad.io"),
            (r#"{"auths":"SECRET"}"#, "line 1"),
            ("SECRET", "line 1"),
        ];
        for (json, named) in table {
            let error = find(json.as_bytes(), "other.io").unwrap_err();
            assert!(error.contains(named), "{json}: {error}");
            assert!(!error.contains("SECRET"), "{error}");
        }
        assert!(!format!("{:?}", basic("u", "SECRET")).contains("SECRET"));
    }

    #[test]
    fn without_a_file_we_are_anonymous() {
        let missing = Path::new("/nonexistent/config.json");
        assert_eq!(load(missing, "h.io").unwrap(), Credentials::Anonymous);
        assert!(load(Path::new("/"), "h.io").is_err());
    }
}
