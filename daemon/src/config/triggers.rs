//! The sections `[triggers.…]`: brokers, servers and directories that functions may listen to; and `[nats]`, the server that
//! hosts share calls and connections over.
//!
//! Owns what is valid in them. Looks at no file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use reqwest::Url;
use roost_proxy::function::is_label;
use serde::Deserialize;

use super::Mistakes;
use crate::nodes;
use crate::secrets::SecretName;
use crate::triggers::settings::{Directory, Login, Mqtt, Nats, Password, Settings, Trust};
use crate::triggers::topics::{Kind, Source};

/// How many sources there may be of each kind.
const MAX_SOURCES: usize = 32;

/// The longest name of a source, and of this host with a broker, in bytes.
const MAX_NAME: usize = 63;

const MQTT_PORTS: (u16, u16) = (1883, 8883);
const NATS_PORT: u16 = 4222;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTriggers {
    default: Option<String>,
    mqtt: BTreeMap<String, RawMqtt>,
    nats: BTreeMap<String, RawNats>,
    directory: BTreeMap<String, RawDirectory>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawMqtt {
    url: Option<String>,
    client_id: Option<String>,
    username: Option<String>,
    password_file: Option<PathBuf>,
    password_secret: Option<String>,
    ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawNats {
    url: Option<String>,
    username: Option<String>,
    password_file: Option<PathBuf>,
    password_secret: Option<String>,
    credentials_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    group: Option<String>,
}

/// The section `[nats]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawShared {
    url: Option<String>,
    username: Option<String>,
    password_file: Option<PathBuf>,
    password_secret: Option<String>,
    credentials_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    name: Option<String>,
    replicas: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawDirectory {
    path: Option<PathBuf>,
    after: Option<String>,
}

/// A section, by the path of its key.
struct Section<'a> {
    key: &'a str,
    m: &'a mut Mistakes,
}

impl RawTriggers {
    pub(super) fn resolve(self, m: &mut Mistakes) -> Settings {
        let mut settings = Settings {
            mqtt: sections(m, "mqtt", self.mqtt, RawMqtt::resolve),
            nats: sections(m, "nats", self.nats, RawNats::resolve),
            directories: sections(m, "directory", self.directory, RawDirectory::resolve),
            plain: None,
        };
        for (kind, is_built, any) in [
            ("mqtt", cfg!(feature = "mqtt"), !settings.mqtt.is_empty()),
            ("nats", cfg!(feature = "nats"), !settings.nats.is_empty()),
        ] {
            let mistake =
                format!("triggers.{kind}: this build has none of it: build it with --features {kind}");
            m.require(is_built || !any, &mistake);
        }
        settings.plain = plain(m, &settings, self.default.as_deref());
        settings
    }
}

/// The broker that topics without a source are of: that which is named, or the only one.
fn plain(m: &mut Mistakes, settings: &Settings, named: Option<&str>) -> Option<Source> {
    let brokers: Vec<Source> =
        settings.sources().all.into_iter().filter(|source| source.kind != Kind::Directory).collect();
    let Some(named) = named else {
        return if let [only] = &brokers[..] { Some(only.clone()) } else { None };
    };
    let found = brokers.into_iter().find(|source| source.to_string() == named);
    let mistake =
        format!("triggers.default = {named:?}: expected mqtt.NAME or nats.NAME, one of the sections here");
    m.require(found.is_some(), &mistake);
    found
}

fn sections<R, T>(
    m: &mut Mistakes,
    kind: &str,
    raw: BTreeMap<String, R>,
    resolve: impl Fn(R, &mut Section<'_>) -> Option<T>,
) -> BTreeMap<String, T> {
    m.require(raw.len() <= MAX_SOURCES, &format!("triggers.{kind}: expected at most {MAX_SOURCES} of them"));
    let mut resolved = BTreeMap::new();
    for (name, raw) in raw {
        let key = format!("triggers.{kind}.{name}");
        let expected = format!("{key}: expected a name of lower-case letters, digits and '-'");
        m.require(name.len() <= MAX_NAME && is_label(&name), &expected);
        if let Some(section) = resolve(raw, &mut Section { key: &key, m }) {
            resolved.insert(name, section);
        }
    }
    resolved
}

impl RawMqtt {
    fn resolve(self, section: &mut Section<'_>) -> Option<Mqtt> {
        let url = section.url(self.url.as_deref(), &["mqtt", "mqtts"]);
        let trust = Trust {
            ca_file: section.path("ca_file", self.ca_file),
            identity: section.path("cert_file", self.cert_file).zip(section.path("key_file", self.key_file)),
        };
        let client_id = self.client_id;
        let fits = client_id.as_ref().is_none_or(|id| (1..=MAX_NAME).contains(&id.len()));
        section.require(fits, "client_id", &format!("expected 1 to {MAX_NAME} bytes"));
        let login = section.login(self.username, self.password_file, self.password_secret);
        let url = url?;
        let is_tls = url.scheme() == "mqtts";
        section.require(
            is_tls || trust == Trust::default(),
            "ca_file",
            "only with a URL that begins with mqtts://",
        );
        Some(Mqtt {
            host: url.host_str()?.trim_matches(['[', ']']).to_owned(),
            port: url.port().unwrap_or(if is_tls { MQTT_PORTS.1 } else { MQTT_PORTS.0 }),
            tls: is_tls.then_some(trust),
            client_id,
            login,
        })
    }
}

impl RawShared {
    pub(super) fn resolve(self, m: &mut Mistakes) -> Option<nodes::Settings> {
        let built = "nats: this build has none of it: build it with --features nats";
        m.require(cfg!(feature = "nats"), built);
        let mut section = Section { key: "nats", m };
        let name = self.name.unwrap_or_else(|| "roost".to_owned());
        let fits = name.len() <= MAX_NAME && is_label(&name);
        section.require(fits, "name", "expected a name of lower-case letters, digits and '-'");
        let replicas = self.replicas.unwrap_or(1);
        section.require(
            (1..=5).contains(&replicas),
            "replicas",
            "expected 1 to 5, and no more than there are servers",
        );
        let server = RawNats {
            url: self.url,
            username: self.username,
            password_file: self.password_file,
            password_secret: self.password_secret,
            credentials_file: self.credentials_file,
            ca_file: self.ca_file,
            group: None,
        };
        Some(nodes::Settings { server: server.resolve(&mut section)?, name, replicas })
    }
}

impl RawNats {
    fn resolve(self, section: &mut Section<'_>) -> Option<Nats> {
        let url = section.url(self.url.as_deref(), &["nats", "tls"]);
        let login = section.login(self.username, self.password_file, self.password_secret);
        let credentials_file = section.path("credentials_file", self.credentials_file);
        let once = login.is_none() || credentials_file.is_none();
        section.require(once, "credentials_file", "expected no username with it");
        let ca_file = section.path("ca_file", self.ca_file);
        let group = self.group.unwrap_or_else(|| "roost".to_owned());
        let fits = group.len() <= MAX_NAME && is_label(&group);
        section.require(fits, "group", "expected a name of lower-case letters, digits and '-'");
        let url = url?;
        let (scheme, port) = (url.scheme(), url.port().unwrap_or(NATS_PORT));
        Some(Nats {
            url: format!("{scheme}://{}:{port}", url.host_str()?),
            ca_file,
            login,
            credentials_file,
            group,
        })
    }
}

impl RawDirectory {
    fn resolve(self, section: &mut Section<'_>) -> Option<Directory> {
        section.require(self.path.is_some(), "path", "is required");
        let path = section.path("path", self.path);
        let remove = match self.after.as_deref() {
            None | Some("move") => false,
            Some("remove") => true,
            Some(_) => {
                section.require(false, "after", "expected move or remove");
                false
            }
        };
        Some(Directory { path: path?, remove })
    }
}

impl Section<'_> {
    fn require(&mut self, holds: bool, name: &str, expected: &str) {
        self.m.require(holds, &format!("{}.{name}: {expected}", self.key));
    }

    fn path(&mut self, name: &str, path: Option<PathBuf>) -> Option<PathBuf> {
        let absolute = path.as_ref().is_none_or(|path| path.is_absolute());
        self.require(absolute, name, "expected an absolute path");
        path.filter(|path| path.is_absolute())
    }

    /// `SCHEME://HOST[:PORT]`.
    fn url(&mut self, text: Option<&str>, schemes: &[&str]) -> Option<Url> {
        let fits = |url: &Url| {
            schemes.contains(&url.scheme())
                && url.host_str().is_some_and(|host| !host.is_empty())
                && ["", "/"].contains(&url.path())
                && (url.username(), url.password(), url.query(), url.fragment()) == ("", None, None, None)
        };
        let url = text.and_then(|text| text.parse().ok()).filter(fits);
        let expected = format!("expected {}://HOST:PORT, without a login", schemes.join(" or "));
        self.require(url.is_some(), "url", &expected);
        url
    }

    fn login(
        &mut self,
        user: Option<String>,
        file: Option<PathBuf>,
        secret: Option<String>,
    ) -> Option<Login> {
        self.require(
            file.is_none() || secret.is_none(),
            "password_secret",
            "expected no password_file with it",
        );
        let secret = secret.and_then(|name| {
            let parsed = name.parse::<SecretName>();
            self.require(parsed.is_ok(), "password_secret", "expected the name of a secret");
            parsed.ok()
        });
        let file = self.path("password_file", file);
        let password = file.map(Password::File).or(secret.map(Password::Secret));
        self.require(user.is_some() || password.is_none(), "username", "is required with a password");
        Some(Login { user: user?, password })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Result<Settings, String> {
        let raw: RawTriggers = toml::from_str(text).map_err(|why| why.to_string())?;
        let mut mistakes = Mistakes::default();
        let settings = raw.resolve(&mut mistakes);
        let mistakes = mistakes.to_string();
        if mistakes.is_empty() { Ok(settings) } else { Err(mistakes) }
    }

    #[test]
    fn there_are_no_sources_unless_some_are_named() {
        assert_eq!(resolve(""), Ok(Settings::default()));
    }

    #[test]
    fn directories_are_read() {
        let settings =
            resolve("[directory.inbox]\npath = '/in'\n[directory.once]\npath = '/o'\nafter = 'remove'")
                .unwrap();
        assert!(!settings.directories["inbox"].remove && settings.directories["once"].remove);
        assert_eq!(settings.plain, None, "a directory has no topics");
    }

    #[test]
    #[cfg(feature = "mqtt")]
    fn brokers_are_read_and_the_only_one_is_meant_by_topics_without_a_source() {
        let settings = resolve(
            "[mqtt.lan]\nurl = 'mqtts://[::1]'\nclient_id = 'roost-1'\nusername = 'u'\npassword_secret = 'mqtt-password'\n\
             ca_file = '/ca.pem'\ncert_file = '/c.pem'\nkey_file = '/k.pem'",
        )
        .unwrap();
        let lan = &settings.mqtt["lan"];
        assert_eq!((lan.host.as_str(), lan.port, lan.client_id.as_deref()), ("::1", 8883, Some("roost-1")));
        let identity = Some(("/c.pem".into(), "/k.pem".into()));
        assert_eq!(lan.tls, Some(Trust { ca_file: Some("/ca.pem".into()), identity }));
        let password = Some(Password::Secret("mqtt-password".parse().unwrap()));
        assert_eq!(lan.login, Some(Login { user: "u".into(), password }));
        assert_eq!(settings.plain, Some(Source::new(Kind::Mqtt, "lan")));

        let two = "[mqtt.lan]\nurl = 'mqtt://h:1'\n[mqtt.wan]\nurl = 'mqtt://h'";
        let settings = resolve(two).unwrap();
        assert_eq!((settings.plain, settings.mqtt["lan"].port, settings.mqtt["wan"].port), (None, 1, 1883));
        let settings = resolve(&format!("default = 'mqtt.wan'\n{two}")).unwrap();
        assert_eq!(settings.plain, Some(Source::new(Kind::Mqtt, "wan")));
    }

    #[test]
    fn what_hosts_share_has_a_name_and_as_many_copies_as_are_asked_for() {
        let resolve = |text: &str| {
            let raw: RawShared = toml::from_str(text).unwrap();
            let mut mistakes = Mistakes::default();
            (raw.resolve(&mut mistakes), mistakes.to_string())
        };
        let (shared, mistakes) = resolve("url = 'nats://h'\nreplicas = 3");
        assert_eq!(mistakes.contains("this build has none of it"), !cfg!(feature = "nats"), "{mistakes}");
        let shared = shared.unwrap();
        assert_eq!((&*shared.name, shared.replicas, &*shared.server.url), ("roost", 3, "nats://h:4222"));
        for (text, mistake) in [
            ("name = 'a.b'", "nats.name: expected a name"),
            ("replicas = 7", "nats.replicas: expected 1 to 5"),
            ("", "nats.url: expected nats or tls://"),
        ] {
            let (_, mistakes) = resolve(text);
            assert!(mistakes.contains(mistake), "{text}: {mistakes}");
        }
    }

    #[test]
    fn what_this_build_does_not_have_is_refused() {
        let nats = resolve("[nats.local]\nurl = 'nats://127.0.0.1'");
        if cfg!(feature = "nats") {
            let nats = nats.unwrap();
            assert_eq!(
                (nats.nats["local"].url.as_str(), nats.nats["local"].group.as_str()),
                ("nats://127.0.0.1:4222", "roost")
            );
        } else {
            assert!(
                nats.unwrap_err()
                    .contains("triggers.nats: this build has none of it: build it with --features nats")
            );
        }
    }

    #[test]
    fn each_mistake_is_named_by_its_key() {
        for (text, expected) in [
            ("[mqtt.Lan]\nurl = 'mqtt://h'", "triggers.mqtt.Lan: expected a name"),
            ("[mqtt.a]", "triggers.mqtt.a.url: expected mqtt or mqtts://HOST:PORT"),
            ("[mqtt.a]\nurl = 'http://h'", "triggers.mqtt.a.url: expected"),
            ("[mqtt.a]\nurl = 'mqtt://u:p@h'", "triggers.mqtt.a.url: expected"),
            ("[mqtt.a]\nurl = 'mqtt://h/x'", "triggers.mqtt.a.url: expected"),
            ("[mqtt.a]\nurl = 'mqtt://h'\nca_file = '/c'", "triggers.mqtt.a.ca_file: only with"),
            (
                "[mqtt.a]\nurl = 'mqtts://h'\nca_file = 'c'",
                "triggers.mqtt.a.ca_file: expected an absolute path",
            ),
            ("[mqtt.a]\nurl = 'mqtt://h'\nclient_id = ''", "triggers.mqtt.a.client_id: expected"),
            ("[mqtt.a]\nurl = 'mqtt://h'\npassword_file = '/p'", "triggers.mqtt.a.username: is required"),
            (
                "[mqtt.a]\nurl = 'mqtt://h'\nusername = 'u'\npassword_file = '/p'\npassword_secret = 's'",
                "triggers.mqtt.a.password_secret: expected no password_file",
            ),
            (
                "[mqtt.a]\nurl = 'mqtt://h'\nusername = 'u'\npassword_secret = '/p'",
                "expected the name of a secret",
            ),
            ("[mqtt.a]\nurll = 'x'", "urll"),
            ("[nats.a]\nurl = 'http://h'", "triggers.nats.a.url: expected nats or tls://HOST:PORT"),
            ("[nats.a]\nurl = 'nats://h'\ngroup = 'a b'", "triggers.nats.a.group: expected"),
            ("[directory.a]", "triggers.directory.a.path: is required"),
            ("[directory.a]\npath = 'in'", "triggers.directory.a.path: expected an absolute path"),
            (
                "[directory.a]\npath = '/in'\nafter = 'keep'",
                "triggers.directory.a.after: expected move or remove",
            ),
            ("default = 'mqtt.a'", "triggers.default = \"mqtt.a\": expected"),
        ] {
            let mistakes = resolve(text).unwrap_err();
            assert!(mistakes.contains(expected), "{expected} in {mistakes}");
        }
    }
}
