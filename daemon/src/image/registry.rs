//! One registry, as one pull sees it: what a reference means, and its documents and blobs.
//!
//! Owns the connection, TLS trust, and what the registry's failures mean. Never writes to this host, and never
//! tries twice: whoever knows what was gained meanwhile decides that.

use std::net::IpAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use oci_client::client::{BlobResponse, Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::{DigestError, OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;

use super::Settings;
use super::credentials::{self, Credentials};
use super::error::{ImageError, shortened};
use super::manifest::{ACCEPTED, MAX_DOCUMENT, digest_of};
use super::reference::Reference;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a registry may send nothing before the request counts as lost.
const SILENCE: Duration = Duration::from_secs(60);

/// How long a manifest may take in all, silence or not.
const DOCUMENT_DEADLINE: Duration = Duration::from_secs(120);

/// How much of what a registry says about its failure is shown, in characters.
const SHOWN: usize = 200;

const USER_AGENT: &str = concat!("roost/", env!("CARGO_PKG_VERSION"));

/// A registry, with the credentials that were valid when the pull began.
pub(super) struct Registry {
    client: oci_client::Client,
    image: oci_client::Reference,
    reference: Reference,
    with_credentials: bool,
    credentials: std::path::PathBuf,
}

/// A blob that is arriving.
pub(super) struct Arriving {
    /// Which byte of the blob comes first: a registry that cannot resume begins again at 0.
    pub(super) offset: u64,
    /// The size of the whole blob, if the registry says it.
    pub(super) size: Option<u64>,
    pub(super) stream: BoxStream<'static, Result<Bytes, ImageError>>,
}

impl Registry {
    /// Prepares to ask the registry of `reference`. Reads the files with credentials and trust; no network yet.
    pub(super) async fn open(settings: &Settings, reference: &Reference) -> Result<Self, ImageError> {
        let settings = settings.clone();
        let reference = reference.clone();
        let opened = tokio::task::spawn_blocking(move || Self::open_blocking(&settings, reference)).await;
        let (registry, auth) = opened.map_err(|error| ImageError::Host {
            doing: "prepare a connection to a registry".to_owned(),
            cause: error.to_string(),
        })??;
        registry.client.store_auth_if_needed(registry.image.resolve_registry(), &auth).await;
        Ok(registry)
    }

    fn open_blocking(settings: &Settings, reference: Reference) -> Result<(Self, RegistryAuth), ImageError> {
        let host = reference.host();
        let rules = settings.registries.get(host);
        let auth = match credentials::load(&settings.docker_config, host)? {
            Credentials::Anonymous => RegistryAuth::Anonymous,
            Credentials::Basic { user, password } => RegistryAuth::Basic(user, password),
            Credentials::Bearer { token } => RegistryAuth::Bearer(token),
        };
        let plain = rules.and_then(|rules| rules.plain_http).unwrap_or_else(|| is_loopback(host));
        let extra_root_certificates = match rules.and_then(|rules| rules.ca_file.as_deref()) {
            Some(path) => {
                let data = std::fs::read(path)
                    .map_err(ImageError::host(format!("read the CA file {} of {host}", path.display())))?;
                vec![Certificate { encoding: CertificateEncoding::Pem, data }]
            }
            None => Vec::new(),
        };
        let config = ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            extra_root_certificates,
            // We choose the platform ourselves.
            platform_resolver: None,
            read_timeout: Some(SILENCE),
            connect_timeout: Some(CONNECT_TIMEOUT),
            user_agent: USER_AGENT,
            ..ClientConfig::default()
        };
        let client = oci_client::Client::try_from(config).map_err(|error| ImageError::Host {
            doing: format!("prepare a connection to registry {host}"),
            cause: chain(&error),
        })?;
        let registry = Self {
            client,
            image: oci_client::Reference::with_tag(
                host.to_owned(),
                reference.repository().to_owned(),
                reference.tag().unwrap_or("latest").to_owned(),
            ),
            with_credentials: auth != RegistryAuth::Anonymous,
            credentials: settings.docker_config.clone(),
            reference,
        };
        Ok((registry, auth))
    }

    /// The digest that the tag has now.
    pub(super) async fn digest(&self) -> Result<String, ImageError> {
        // The credentials are stored already: what is passed here is not used.
        let asked = self.client.fetch_manifest_digest(&self.image, &RegistryAuth::Anonymous);
        let digest = self.in_time(asked).await?;
        if super::reference::is_digest(&digest) {
            Ok(digest)
        } else {
            Err(ImageError::invalid(
                self.reference.to_string(),
                "its registry answered with an unknown kind of digest",
            ))
        }
    }

    /// The index or manifest with `digest`, checked against it.
    pub(super) async fn manifest(&self, digest: &str) -> Result<Bytes, ImageError> {
        let image = self.image.clone_with_digest(digest.to_owned());
        let asked = self.client.pull_manifest_raw(&image, &RegistryAuth::Anonymous, &ACCEPTED);
        let (bytes, _) = self.in_time(asked).await?;
        self.check_document(digest, bytes)
    }

    /// A small blob, such as the configuration of an image, checked against its digest.
    pub(super) async fn document(&self, digest: &str) -> Result<Bytes, ImageError> {
        let mut arriving = self.blob(digest, 0).await?;
        let mut bytes = BytesMut::new();
        while let Some(chunk) = arriving.stream.next().await {
            bytes.extend_from_slice(&chunk?);
            if bytes.len() as u64 > MAX_DOCUMENT {
                break;
            }
        }
        self.check_document(digest, bytes.freeze())
    }

    fn check_document(&self, digest: &str, bytes: Bytes) -> Result<Bytes, ImageError> {
        let what = || format!("{} ({digest})", self.reference);
        let size = bytes.len() as u64;
        if size > MAX_DOCUMENT {
            return Err(ImageError::TooLarge { what: what(), size, limit: MAX_DOCUMENT });
        }
        if digest_of(&bytes) != digest {
            return Err(ImageError::invalid(what(), "what the registry sent has another digest"));
        }
        Ok(bytes)
    }

    /// The bytes of a blob from `offset` on, or from the start if the registry cannot do that.
    pub(super) async fn blob(&self, digest: &str, offset: u64) -> Result<Arriving, ImageError> {
        let response = if offset == 0 {
            self.client.pull_blob_stream(&self.image, digest).await.map(BlobResponse::Full)
        } else {
            self.client.pull_blob_stream_partial(&self.image, digest, offset, None).await
        };
        let (offset, sized) = match response.map_err(|error| self.meaning(error))? {
            BlobResponse::Full(sized) => (0, sized),
            BlobResponse::Partial(sized) => (offset, sized),
        };
        let host = self.reference.host().to_owned();
        let what = format!("{} ({digest})", self.reference);
        let stream = sized.stream.map(move |chunk| {
            chunk.map_err(|error| {
                if error.get_ref().and_then(|inner| inner.downcast_ref::<DigestError>()).is_some() {
                    ImageError::invalid(what.clone(), "what the registry sent has another digest")
                } else {
                    ImageError::Network { host: host.clone(), cause: chain(&error) }
                }
            })
        });
        Ok(Arriving { offset, size: sized.content_length.map(|left| offset + left), stream: stream.boxed() })
    }

    async fn in_time<T>(
        &self,
        asked: impl Future<Output = Result<T, OciDistributionError>>,
    ) -> Result<T, ImageError> {
        match tokio::time::timeout(DOCUMENT_DEADLINE, asked).await {
            Ok(answer) => answer.map_err(|error| self.meaning(error)),
            Err(_) => Err(ImageError::Network {
                host: self.reference.host().to_owned(),
                cause: format!("no answer within {} seconds", DOCUMENT_DEADLINE.as_secs()),
            }),
        }
    }

    fn meaning(&self, error: OciDistributionError) -> ImageError {
        let host = || self.reference.host().to_owned();
        let reference = || self.reference.to_string();
        let said = |cause: &str, retryable| ImageError::Registry {
            host: host(),
            cause: shortened(cause, SHOWN),
            retryable,
        };
        let refused = || ImageError::Unauthorized {
            host: host(),
            reference: reference(),
            with_credentials: self.with_credentials,
            credentials: self.credentials.clone(),
        };
        match error {
            OciDistributionError::RequestError(error) => {
                // Blobs live behind addresses that are signed: they are as good as a password for a while.
                let error = error.without_url();
                match tls_failure(&error) {
                    Some(cause) => ImageError::Tls { host: host(), cause },
                    None => ImageError::Network { host: host(), cause: chain(&error) },
                }
            }
            OciDistributionError::IoError(error) => {
                ImageError::Network { host: host(), cause: chain(&error) }
            }
            OciDistributionError::UnauthorizedError { .. }
            | OciDistributionError::AuthenticationFailure(_)
            | OciDistributionError::ServerError { code: 401 | 403, .. } => refused(),
            OciDistributionError::ImageManifestNotFoundError(_)
            | OciDistributionError::ServerError { code: 404, .. } => {
                ImageError::NotFound { reference: reference() }
            }
            OciDistributionError::ServerError { code, message, .. } => {
                said(&format!("status {code} {message}"), code == 429 || code >= 500)
            }
            OciDistributionError::RegistryError { envelope, .. } => {
                match envelope.errors.first().map(|first| &first.code) {
                    Some(
                        OciErrorCode::ManifestUnknown
                        | OciErrorCode::NameUnknown
                        | OciErrorCode::NotFound
                        | OciErrorCode::BlobUnknown
                        | OciErrorCode::ManifestBlobUnknown,
                    ) => ImageError::NotFound { reference: reference() },
                    Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => refused(),
                    Some(OciErrorCode::Toomanyrequests) => said(&envelope.to_string(), true),
                    _ => said(&envelope.to_string(), false),
                }
            }
            OciDistributionError::DigestError(_) => {
                ImageError::invalid(reference(), "what the registry sent has another digest")
            }
            other => said(&chain(&other), false),
        }
    }
}

/// Is `host[:port]` this machine? A registry there is spoken to without TLS unless the settings say otherwise.
fn is_loopback(host: &str) -> bool {
    let name = match host.rfind(':') {
        Some(colon) if !host.ends_with(']') => &host[..colon],
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    address == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// An error and its causes in one line, without repeating what a cause says anyway.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    shortened(&text, SHOWN)
}

/// The TLS failure among the causes of `error`, if that is what it is: another try would fail like this one.
fn tls_failure(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(tls.to_string());
    }
    // What an I/O error wraps is not among its causes.
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    let wrapped = wrapped.map(|wrapped| wrapped as &(dyn std::error::Error + 'static));
    wrapped.or(error.source()).and_then(tls_failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_spoken_to_without_tls() {
        for here in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]", "[::1]:5000"] {
            assert!(is_loopback(here), "{here}");
        }
        for there in ["docker.io", "localhost.evil.net", "128.0.0.1", "10.0.0.1:5000", "[fe80::1]:5000"] {
            assert!(!is_loopback(there), "{there}");
        }
    }
}
