//! The section `[tls]`: where TLS is spoken, and which files say who this host is.
//!
//! Owns what is valid in it. Looks at no file.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use super::Mistakes;

/// Where TLS is spoken, and with which certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Where functions and the API answer in TLS.
    pub listen: SocketAddr,
    /// Certificates and keys: at least one. The first one is for clients that name none of the hosts of all others.
    pub certificates: Vec<CertificateFiles>,
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
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawCertificate {
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl RawTls {
    /// `None` where no TLS is spoken.
    pub(super) fn resolve(self, m: &mut Mistakes) -> Option<Tls> {
        let listen = m.read("tls.listen", self.listen.as_deref(), None, |text| {
            text.parse::<SocketAddr>().map(Some).map_err(|_| "expected ADDRESS:PORT, such as 0.0.0.0:8443")
        });
        m.require(
            self.listen.is_none() || !self.certificates.is_empty(),
            "tls.certificates: expected at least one, with a cert and a key",
        );
        m.require(
            self.listen.is_some() || self.certificates.is_empty(),
            "tls.listen: expected ADDRESS:PORT, where the certificates are to be shown",
        );
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
        Some(Tls { listen: listen?, certificates })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Result<Option<Tls>, String> {
        let raw: RawTls = toml::from_str(text).map_err(|why| why.to_string())?;
        let mut mistakes = Mistakes::default();
        let tls = raw.resolve(&mut mistakes);
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
        ] {
            let mistakes = resolve(text).unwrap_err();
            assert!(mistakes.contains(expected), "{expected} in {mistakes}");
        }
    }
}
