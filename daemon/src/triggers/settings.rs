//! The sources that the settings name, complete and valid: what `config::triggers` makes of the file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use roost_proxy::function::Namespace;

use super::topics::{Kind, Source, Sources};
use crate::secrets::{SecretName, Secrets};

/// All sources, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// MQTT brokers.
    pub mqtt: BTreeMap<String, Mqtt>,
    /// NATS servers.
    pub nats: BTreeMap<String, Nats>,
    /// Directories.
    pub directories: BTreeMap<String, Directory>,
    /// The broker or server that topics without a source are of.
    pub plain: Option<Source>,
}

/// An MQTT broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mqtt {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How TLS is spoken, if it is.
    pub tls: Option<Trust>,
    /// What this host is known by there; made up once where it is not said.
    pub client_id: Option<String>,
    /// Who logs in, if somebody does.
    pub login: Option<Login>,
}

/// A NATS server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nats {
    /// `nats://HOST:PORT` or `tls://HOST:PORT`.
    pub url: String,
    /// The authorities that are trusted, in PEM; those of the system where there is none.
    pub ca_file: Option<PathBuf>,
    /// Who logs in, if somebody does.
    pub login: Option<Login>,
    /// A file of credentials, as `nsc` writes them.
    pub credentials_file: Option<PathBuf>,
    /// What the names of queue groups and of consumers begin with: hosts with the same share the messages.
    pub group: String,
}

/// A directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Where it is.
    pub path: PathBuf,
    /// Are files removed when their call is taken over, not moved?
    pub remove: bool,
}

/// Whom to trust, and who this host is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// The authorities that are trusted, in PEM; those of the system where there is none.
    pub ca_file: Option<PathBuf>,
    /// The certificate and the key of this host, in PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A user and where the password is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The name.
    pub user: String,
    /// The password, if there is one.
    pub password: Option<Password>,
}

/// Where a password is. It is read each time that a connection is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Password {
    /// In a file.
    File(PathBuf),
    /// In a secret of the namespace `openfaas-fn`.
    Secret(SecretName),
}

impl Password {
    /// Reads it, without white space behind it.
    ///
    /// # Errors
    /// When it cannot be read, or is not UTF-8.
    pub async fn read(&self, secrets: &Secrets, namespace: Namespace) -> Result<String, String> {
        let bytes = match self {
            Self::File(path) => {
                let read = tokio::fs::read(path).await;
                read.map_err(|error| format!("cannot read {}: {error}", path.display()))?
            }
            Self::Secret(name) => {
                let secret = secrets.read(namespace, name.clone()).await;
                secret.map_err(|error| error.to_string())?.bytes().to_vec()
            }
        };
        String::from_utf8(bytes.trim_ascii_end().to_vec()).map_err(|_| "the password is not UTF-8".to_owned())
    }
}

impl Settings {
    /// All of them, for what functions say.
    #[must_use]
    pub fn sources(&self) -> Sources {
        let mqtt = self.mqtt.keys().map(|name| Source::new(Kind::Mqtt, name));
        let nats = self.nats.keys().map(|name| Source::new(Kind::Nats, name));
        let directories = self.directories.keys().map(|name| Source::new(Kind::Directory, name));
        Sources { all: mqtt.chain(nats).chain(directories).collect(), plain: self.plain.clone() }
    }
}
