//! The section `[tls]`: where TLS is spoken, and which files say who this host is.
//!
//! Owns what is valid in it. Looks at no file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use roost_acme::{Challenge, Pace};
use serde::Deserialize;

use super::Mistakes;
use crate::function::domains;

/// The authority, where none is named.
const DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Where TLS is spoken, and with which certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Where functions and the API answer in TLS.
    pub listen: SocketAddr,
    /// Certificates and keys: at least one, unless others are ordered. The first one is for clients that name none of the
    /// hosts of all others.
    pub certificates: Vec<CertificateFiles>,
    /// From whom certificates are ordered, if they are.
    pub acme: Option<roost_acme::Settings>,
}

/// The two files of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate with its chain, in PEM.
    pub cert: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTls {
    listen: Option<String>,
    certificates: Vec<RawCertificate>,
    acme: Option<RawAcme>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawAcme {
    directory: Option<String>,
    contact: Vec<String>,
    agree_to_terms: bool,
    domains: Vec<String>,
    function_domains: Option<bool>,
    challenges: Option<Vec<String>>,
    ca: Option<PathBuf>,
}

impl RawAcme {
    fn resolve(self, m: &mut Mistakes, state: &Path) -> roost_acme::Settings {
        m.require(
            self.agree_to_terms,
            "tls.acme.agree_to_terms: expected true: the authority gives nothing to who does not agree to its terms",
        );
        let directory = self.directory.unwrap_or_else(|| DIRECTORY.to_owned());
        m.require(
            directory.starts_with("https://") && directory.parse::<http::Uri>().is_ok(),
            &format!(
                "tls.acme.directory = {directory:?}: expected the https URL of an authority's directory"
            ),
        );
        let contact = self.contact.into_iter().map(|contact| {
            m.require(
                contact.contains('@'),
                &format!("tls.acme.contact: {contact:?}: expected an email address"),
            );
            if contact.starts_with("mailto:") { contact } else { format!("mailto:{contact}") }
        });
        let contact = contact.collect();
        let mut names = Vec::new();
        for domain in &self.domains {
            match domains::name(domain) {
                Ok(name) => names.push(name),
                Err(why) => m.require(false, &format!("tls.acme.domains: {domain:?}: {why}")),
            }
        }
        let ways = self.challenges.unwrap_or_else(|| vec!["tls-alpn-01".to_owned(), "http-01".to_owned()]);
        m.require(!ways.is_empty(), "tls.acme.challenges: expected at least one of tls-alpn-01 and http-01");
        let mut challenges = Vec::new();
        for way in &ways {
            match way.as_str() {
                "http-01" => challenges.push(Challenge::Http01),
                "tls-alpn-01" => challenges.push(Challenge::TlsAlpn01),
                _ => m.require(
                    false,
                    &format!("tls.acme.challenges: {way:?}: expected tls-alpn-01 or http-01"),
                ),
            }
        }
        if let Some(ca) = &self.ca {
            m.require(ca.is_absolute(), &format!("tls.acme.ca = {ca:?}: expected an absolute path"));
        }
        roost_acme::Settings {
            directory,
            contact,
            domains: names,
            function_domains: self.function_domains.unwrap_or(true),
            challenges,
            ca: self.ca,
            directory_path: state.join("acme"),
            pace: Pace::default(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawCertificate {
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl RawTls {
    /// `None` where no TLS is spoken.
    pub(super) fn resolve(self, m: &mut Mistakes, state: &Path) -> Option<Tls> {
        let listen = m.read("tls.listen", self.listen.as_deref(), None, |text| {
            text.parse::<SocketAddr>().map(Some).map_err(|_| "expected ADDRESS:PORT, such as 0.0.0.0:8443")
        });
        m.require(
            self.listen.is_none() || !self.certificates.is_empty() || self.acme.is_some(),
            "tls.certificates: expected at least one, with a cert and a key, or tls.acme",
        );
        m.require(
            self.listen.is_some() || (self.certificates.is_empty() && self.acme.is_none()),
            "tls.listen: expected ADDRESS:PORT, where the certificates are to be shown",
        );
        let acme = self.acme.map(|acme| acme.resolve(m, state));
        let mut certificates = Vec::new();
        for (index, RawCertificate { cert, key }) in self.certificates.into_iter().enumerate() {
            let mut file = |name: &str, path: Option<PathBuf>| {
                let path = path.unwrap_or_default();
                let expected =
                    format!("tls.certificates[{index}].{name} = {path:?}: expected an absolute path");
                m.require(path.is_absolute(), &expected);
                path
            };
            certificates.push(CertificateFiles { cert: file("cert", cert), key: file("key", key) });
        }
        Some(Tls { listen: listen?, certificates, acme })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Result<Option<Tls>, String> {
        let raw: RawTls = toml::from_str(text).map_err(|why| why.to_string())?;
        let mut mistakes = Mistakes::default();
        let tls = raw.resolve(&mut mistakes, Path::new("/state"));
        let mistakes = mistakes.to_string();
        if mistakes.is_empty() { Ok(tls) } else { Err(mistakes) }
    }

    #[test]
    fn there_is_no_tls_unless_it_is_asked_for() {
        assert_eq!(resolve(""), Ok(None));
    }

    #[test]
    fn an_address_and_pairs_of_files_are_read_in_their_order() {
        let tls = resolve(
            "listen = '0.0.0.0:8443'\ncertificates = [{cert = '/a.pem', key = '/a.key'}, {cert = '/b', key = '/c'}]",
        );
        let tls = tls.unwrap().unwrap();
        assert_eq!(tls.listen.to_string(), "0.0.0.0:8443");
        assert_eq!(tls.certificates[0].cert.to_str(), Some("/a.pem"));
        assert_eq!(tls.certificates[1].key.to_str(), Some("/c"));
    }

    #[test]
    fn an_authority_needs_no_files_and_has_defaults() {
        let tls = resolve(
            "listen = '0.0.0.0:8443'\n[acme]\nagree_to_terms = true\ncontact = ['ops@h.example']\ndomains = ['H.example']",
        );
        let acme = tls.unwrap().unwrap().acme.unwrap();
        assert_eq!(acme.directory, DIRECTORY);
        assert_eq!(
            (acme.contact, acme.domains),
            (vec!["mailto:ops@h.example".into()], vec!["h.example".into()])
        );
        assert!(acme.function_domains && acme.ca.is_none());
        assert_eq!(acme.challenges, [Challenge::TlsAlpn01, Challenge::Http01]);
        assert_eq!(acme.directory_path, Path::new("/state/acme"));
    }

    #[test]
    fn each_mistake_is_named_by_its_key() {
        for (text, expected) in [
            ("listen = 'here'", "tls.listen = \"here\": expected ADDRESS:PORT"),
            ("listen = '0.0.0.0:1'", "tls.certificates: expected at least one"),
            ("certificates = [{cert = '/a', key = '/b'}]", "tls.listen: expected ADDRESS:PORT"),
            (
                "listen = '0.0.0.0:1'\ncertificates = [{cert = '/a', key = '/b'}, {cert = '/a'}]",
                "tls.certificates[1].key = \"\": expected an absolute path",
            ),
            (
                "listen = '0.0.0.0:1'\ncertificates = [{cert = 'a', key = '/b'}]",
                "tls.certificates[0].cert = \"a\": expected an absolute path",
            ),
            ("certificates = [{crt = '/a'}]", "crt"),
            ("listen = '0.0.0.0:1'\n[acme]", "tls.acme.agree_to_terms: expected true"),
            ("[acme]\nagree_to_terms = true", "tls.listen: expected ADDRESS:PORT"),
            ("[acme]\ndirectory = 'http://a'", "tls.acme.directory = \"http://a\": expected the https URL"),
            ("[acme]\ncontact = ['me']", "tls.acme.contact: \"me\": expected an email address"),
            ("[acme]\ndomains = ['*.h.example']", "tls.acme.domains: \"*.h.example\":"),
            ("[acme]\nchallenges = ['dns-01']", "tls.acme.challenges: \"dns-01\": expected"),
            ("[acme]\nchallenges = []", "tls.acme.challenges: expected at least one"),
            ("[acme]\nca = 'ca.pem'", "tls.acme.ca = \"ca.pem\": expected an absolute path"),
            ("[acme]\ndirectry = 'x'", "directry"),
        ] {
            let mistakes = resolve(text).unwrap_err();
            assert!(mistakes.contains(expected), "{expected} in {mistakes}");
        }
    }
}
