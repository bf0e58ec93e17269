//! Certificates that this host makes itself: to have something to show, and to answer an authority.

use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair};
use roost_proxy::tls::Certificate;
use roost_proxy::{Challenges, Pending};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::Error;

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Make(error.to_string())
}

/// A certificate that nobody trusts, for hosts that have no other one yet. Its key is nowhere but in memory.
///
/// # Errors
/// When the system has no random numbers.
pub fn placeholder() -> Result<Certificate, Error> {
    let mut params = CertificateParams::new(["roost.invalid".to_owned()]).map_err(failed)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Roost, until there is a certificate");
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Certificate::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).map_err(failed)
}

/// Shows in handshakes for `name` that who asks has been heard (RFC 8737, 3).
pub(crate) fn answer(challenges: &Challenges, name: &str, digest: &[u8]) -> Result<Pending, Error> {
    let mut params = CertificateParams::new([name.to_owned()]).map_err(failed)?;
    params.custom_extensions.push(CustomExtension::new_acme_identifier(digest));
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    challenges.answer_tls(name, certificate.der().clone(), &key).map_err(failed)
}
