//! TLS towards clients: which certificate a client is shown, and the handshake.
//!
//! Owns the settings of TLS: versions 1.2 and 1.3, HTTP/2 before HTTP/1.1, tickets that let a client come back with a
//! short handshake. The certificates are swapped whole; connections that are open keep theirs. Knows no disk: whoever
//! embeds the proxy reads the files.
//!
//! ```text
//!   name the client asks for ──► a certificate for just this name
//!        │ none                    else one for `*.` and what stands behind the first dot
//!        └───────────────────────► else the first of all
//! ```

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{Acceptor, ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, ServerConfig};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};
use webpki::EndEntityCert;

use crate::challenges::Challenges;
use crate::stream::Stream;

/// What is spoken inside, the best first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The text holds no certificate, or something that is none.
    #[error("expected certificates in PEM, the server's own first: {0}")]
    Certificate(String),
    /// The text holds no key, or one that is not understood.
    #[error("expected a private key in PEM (PKCS #8, PKCS #1 or SEC1): {0}")]
    Key(String),
    /// The two do not belong together.
    #[error("the key is not the one of the certificate")]
    Mismatch,
    /// TLS could not be set up.
    #[error("cannot set up TLS: {0}")]
    Setup(#[from] rustls::Error),
}

/// A certificate with its chain and its key.
#[derive(Clone)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    names: Vec<String>,
}

impl Certificate {
    /// Reads a chain, the server's own certificate first, and the key that belongs to it.
    ///
    /// # Errors
    /// When one of them is something else, or they do not belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let wrong = |error: &dyn fmt::Display| CertificateError::Certificate(error.to_string());
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(|error| wrong(&error))?;
        let Some(own) = chain.first() else { return Err(wrong(&"there is none")) };
        let names = EndEntityCert::try_from(own)
            .map_err(|error| wrong(&error))?
            .valid_dns_names()
            .map(str::to_ascii_lowercase)
            .collect();
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(|error| CertificateError::Key(error.to_string()))?;
        let key =
            ring::sign::any_supported_type(&key).map_err(|error| CertificateError::Key(error.to_string()))?;
        let key = CertifiedKey::new(chain, key);
        match key.keys_match() {
            // A key that cannot say whose it is shows it in the first handshake.
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                return Err(CertificateError::Mismatch);
            }
            Err(error) => return Err(wrong(&error)),
        }
        Ok(Self { key: Arc::new(key), names })
    }

    /// The names that it is good for, in lower case; a wildcard as `*.example.org`.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("names", &self.names).finish_non_exhaustive()
    }
}

/// Certificates by the names they are good for.
#[derive(Debug)]
struct ByName {
    names: HashMap<String, Arc<CertifiedKey>>,
    /// For clients that name none of them, or nothing.
    first: Arc<CertifiedKey>,
}

impl ByName {
    /// Of certificates for the same name, the first one counts.
    fn new(first: &Certificate, others: &[Certificate]) -> Self {
        let mut names = HashMap::new();
        for certificate in std::iter::once(first).chain(others) {
            for name in &certificate.names {
                names.entry(name.clone()).or_insert_with(|| Arc::clone(&certificate.key));
            }
        }
        Self { names, first: Arc::clone(&first.key) }
    }

    fn find(&self, name: Option<&str>) -> &Arc<CertifiedKey> {
        let Some(name) = name else { return &self.first };
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let wildcard = || self.names.get(&format!("*.{}", name.split_once('.')?.1));
        self.names.get(&name).or_else(wildcard).unwrap_or(&self.first)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.find(hello.server_name())))
    }
}

/// How clients are spoken to in TLS. Clones share the certificates.
#[derive(Clone)]
pub struct Tls(Arc<Shared>);

struct Shared {
    config: ArcSwap<ServerConfig>,
    provider: Arc<CryptoProvider>,
    challenges: Challenges,
    /// They outlive a change of certificates.
    tickets: Arc<dyn ProducesTickets>,
}

impl Tls {
    /// With these certificates: `first` is for clients that name none of those that there are.
    ///
    /// # Errors
    /// When the system has no random numbers for the keys of tickets.
    pub fn new(first: &Certificate, others: &[Certificate]) -> Result<Self, CertificateError> {
        Self::answering(Challenges::default(), first, others)
    }

    /// The same, and `challenges` are answered.
    ///
    /// # Errors
    /// As at [`new`](Self::new).
    pub fn answering(
        challenges: Challenges,
        first: &Certificate,
        others: &[Certificate],
    ) -> Result<Self, CertificateError> {
        let (provider, tickets) = (Arc::new(ring::default_provider()), ring::Ticketer::new()?);
        let config = config(&provider, &tickets, ByName::new(first, others))?;
        Ok(Self(Arc::new(Shared { config: ArcSwap::from_pointee(config), provider, challenges, tickets })))
    }

    /// Shows these certificates from now on.
    ///
    /// # Errors
    /// When TLS cannot be set up with them; then nothing has changed.
    pub fn set(&self, first: &Certificate, others: &[Certificate]) -> Result<(), CertificateError> {
        let config = config(&self.0.provider, &self.0.tickets, ByName::new(first, others))?;
        self.0.config.store(Arc::new(config));
        Ok(())
    }

    /// Shakes hands with a client. `None` if it was one that asked for no more than the handshake.
    pub(crate) async fn accept(&self, socket: TcpStream) -> io::Result<Option<Stream>> {
        if self.0.challenges.any() {
            return self.accept_or_answer(socket).await;
        }
        let stream = TlsAcceptor::from(self.0.config.load_full()).accept(socket).await?;
        Ok(Some(Stream::Tls(Box::new(stream))))
    }

    /// Shakes hands with a client, or with an authority.
    async fn accept_or_answer(&self, socket: TcpStream) -> io::Result<Option<Stream>> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
        match self.0.challenges.shake(&start.client_hello()) {
            None => {
                let stream = start.into_stream(self.0.config.load_full()).await?;
                Ok(Some(Stream::Tls(Box::new(stream))))
            }
            Some(Ok(config)) => {
                start.into_stream(config).await?.shutdown().await?;
                Ok(None)
            }
            Some(Err(())) => Err(io::Error::new(io::ErrorKind::NotFound, "no such challenge is pending")),
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

fn config(
    provider: &Arc<CryptoProvider>,
    tickets: &Arc<dyn ProducesTickets>,
    certificates: ByName,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
    config.ticketer = Arc::clone(tickets);
    // Tickets are kept by the clients: nothing is held here of connections that are gone.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// Marks a request that came through TLS.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Secure;
