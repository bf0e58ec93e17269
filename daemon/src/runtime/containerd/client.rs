//! One channel to containerd, and what every call on it carries: namespace, lease, deadline.
//!
//! Owns the channel. A channel reconnects by itself after containerd restarts; a call made meanwhile fails
//! with `Unavailable`, and whoever made it decides whether to try again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::metadata::MetadataValue;
use tonic::metadata::{Ascii, AsciiMetadataKey};
use tonic::transport::Endpoint;

pub use super::counted::{Call, Channel};

/// How long one ordinary call may take. Unpacking a large layer on an SD card is not ordinary: see [`Scope::long`].
const CALL_DEADLINE: Duration = Duration::from_secs(60);

/// How long a call that moves much data may take.
const LONG_DEADLINE: Duration = Duration::from_secs(30 * 60);

/// A handle on containerd. Cheap to clone: clones share one connection.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// A client of the containerd that listens on `socket`. It connects at the first call.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        let socket: PathBuf = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The address is never used: the connector knows where to go.
        let channel =
            Endpoint::from_static("http://containerd.invalid").connect_with_connector_lazy(connector);
        Self { channel: Channel::new(channel) }
    }

    /// The channel, to build a service's client on.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// What calls in containerd's namespace `namespace` carry.
    ///
    /// # Panics
    /// Never: the names of namespaces are RFC 1123 labels, which every header can carry.
    #[must_use]
    pub fn scope(&self, namespace: &roost_proxy::function::Namespace) -> Scope {
        let namespace = MetadataValue::try_from(namespace.as_str()).expect("a label is ASCII");
        Scope { channel: self.channel(), namespace, lease: None }
    }
}

/// A client bound to one containerd namespace and, if wanted, to one lease.
#[derive(Clone, Debug)]
pub struct Scope {
    channel: Channel,
    namespace: MetadataValue<Ascii>,
    lease: Option<MetadataValue<Ascii>>,
}

impl Scope {
    /// The channel, to build a service's client on.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The same scope, with everything that it creates held by the lease `id`.
    ///
    /// # Errors
    /// When `id` cannot be sent in a header.
    pub fn with_lease(&self, id: &str) -> Result<Self, tonic::Status> {
        let lease = MetadataValue::try_from(id)
            .map_err(|_| tonic::Status::invalid_argument(format!("lease id {id:?} is not ASCII")))?;
        Ok(Self { lease: Some(lease), ..self.clone() })
    }

    /// An ordinary call: it must be answered within a minute.
    pub fn call<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = self.endless(message);
        request.set_timeout(CALL_DEADLINE);
        request
    }

    /// A call that moves much data: it must be answered within half an hour.
    pub fn long<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = self.endless(message);
        request.set_timeout(LONG_DEADLINE);
        request
    }

    /// A call that lasts as long as what it watches, such as waiting for a task to end.
    pub fn endless<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert(AsciiMetadataKey::from_static("containerd-namespace"), self.namespace.clone());
        if let Some(lease) = &self.lease {
            metadata.insert(AsciiMetadataKey::from_static("containerd-lease"), lease.clone());
        }
        request
    }
}
