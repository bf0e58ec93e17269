//! Images: from a reference that a person wrote to an unpacked snapshot that a replica can start from.

/// An image that is on this host, unpacked, and pinned by its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedImage {
    /// The reference in full, such as `docker.io/library/busybox:latest`.
    pub name: String,
    /// The digest of the manifest for this platform, such as `sha256:…`.
    pub digest: String,
    /// The chain id of its topmost layer: the key of the committed snapshot to start from.
    pub chain_id: String,
    /// What the image says about running it.
    pub config: ImageConfig,
}

/// What an image says about running it: the `config` part of an OCI image configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `ENTRYPOINT`.
    pub entrypoint: Vec<String>,
    /// `CMD`, behind the entrypoint.
    pub cmd: Vec<String>,
    /// `KEY=VALUE`.
    pub env: Vec<String>,
    /// `user[:group]`, names or numbers; empty for root.
    pub user: String,
    /// Empty for `/`.
    pub working_dir: String,
}
