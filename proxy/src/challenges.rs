//! Answers to an authority that wants to see whether a name is this host's (RFC 8555, 8.3 and RFC 8737).
//!
//! Owns the answers that are pending, and no others: with none, a request costs one look at a number and a handshake too.
//! Knows no authority; whoever orders certificates puts the answers here, and takes them back by dropping what it gets.
//!
//! ```text
//!   GET /.well-known/acme-challenge/TOKEN, without TLS ──► the text of a token that is pending
//!   handshake that offers `acme-tls/1` alone ───────────► the certificate of a name that is pending, and no more
//! ```

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ClientHello;

use crate::body::ResponseBody;
use crate::tls::{CertificateError, Secure};

/// The protocol of a handshake that is a question.
const ALPN: &[u8] = b"acme-tls/1";

/// Where tokens are asked for.
const WELL_KNOWN: &str = "/.well-known/acme-challenge/";

/// Answers that are pending. Clones share them.
#[derive(Clone, Default)]
pub struct Challenges(Arc<Shared>);

#[derive(Default)]
struct Shared {
    pending: AtomicUsize,
    answers: Mutex<Answers>,
}

#[derive(Default)]
struct Answers {
    /// By token.
    http: HashMap<String, String>,
    /// By name.
    tls: HashMap<String, Arc<ServerConfig>>,
}

/// An answer that can be had until this is dropped.
#[derive(Debug)]
#[must_use = "the answer is there for as long as this is"]
pub struct Pending {
    challenges: Challenges,
    of: Of,
}

#[derive(Debug)]
enum Of {
    Token(String),
    Name(String),
}

impl Challenges {
    /// Answers `text` to who asks for `token` without TLS.
    pub fn answer_http(&self, token: &str, text: &str) -> Pending {
        self.answers().http.insert(token.to_owned(), text.to_owned());
        self.pending(Of::Token(token.to_owned()))
    }

    /// Shows `certificate` to who asks for `name` in a handshake that is for nothing else.
    ///
    /// # Errors
    /// When the key is none.
    pub fn answer_tls(
        &self,
        name: &str,
        certificate: CertificateDer<'static>,
        key: &PrivateKeyDer<'static>,
    ) -> Result<Pending, CertificateError> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            // Such a certificate has an extension that is critical and that nobody else knows: it is taken as it is.
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(
                rustls::sign::CertifiedKey::new(
                    vec![certificate],
                    ring::sign::any_supported_type(key)
                        .map_err(|error| CertificateError::Key(error.to_string()))?,
                ),
            )));
        config.alpn_protocols = vec![ALPN.to_vec()];
        let name = name.to_ascii_lowercase();
        self.answers().tls.insert(name.clone(), Arc::new(config));
        Ok(self.pending(Of::Name(name)))
    }

    fn pending(&self, of: Of) -> Pending {
        self.0.pending.fetch_add(1, Ordering::Release);
        Pending { challenges: self.clone(), of }
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        // A map is whole between any two calls.
        self.0.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is there any answer at all?
    pub(crate) fn any(&self) -> bool {
        self.0.pending.load(Ordering::Acquire) > 0
    }

    /// The answer to a request, if it asks for one that is pending.
    pub(crate) fn respond<B>(&self, request: &Request<B>) -> Option<Response<ResponseBody>> {
        let token = request.uri().path().strip_prefix(WELL_KNOWN)?;
        if request.method() != Method::GET || request.extensions().get::<Secure>().is_some() {
            return None;
        }
        let text = self.answers().http.get(token)?.clone();
        let mut response = Response::new(ResponseBody::full(text));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        Some(response)
    }

    /// How to shake hands with who asks in this way, if that is a question: `Err` for one that has no answer.
    pub(crate) fn shake(&self, hello: &ClientHello<'_>) -> Option<Result<Arc<ServerConfig>, ()>> {
        let mut offered = hello.alpn()?;
        if offered.next() != Some(ALPN) || offered.next().is_some() {
            return None;
        }
        let name = hello.server_name()?.to_ascii_lowercase();
        Some(self.answers().tls.get(&name).cloned().ok_or(()))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut answers = self.challenges.answers();
        let was = match &self.of {
            Of::Token(token) => answers.http.remove(token).is_some(),
            Of::Name(name) => answers.tls.remove(name).is_some(),
        };
        drop(answers);
        debug_assert!(was, "one name and one token are asked for once at a time");
        self.challenges.0.pending.fetch_sub(1, Ordering::Release);
    }
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenges").field("pending", &self.0.pending).finish()
    }
}
