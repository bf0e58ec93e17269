//! The documents of an image: index, manifest, configuration. Read with suspicion, as others wrote them.
//!
//! Owns what we need of their form, and what is derived from them: chain ids, media types by content. No I/O.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::ImageConfig;
use super::platform::Platform;
use super::reference::is_digest;

/// The largest document that is read into memory, in bytes.
pub(super) const MAX_DOCUMENT: u64 = 4 << 20;

/// The most layers an image may have. Tools stop at 127; overlayfs at about 500.
const MAX_LAYERS: usize = 500;

/// The most entries of an index that are looked at.
const MAX_MANIFESTS: usize = 1000;

pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// What a registry is asked for: any form of image that we can read.
pub(super) const ACCEPTED: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST];

/// A pointer to a blob.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) annotations: Option<BTreeMap<String, String>>,
}

/// The manifest of an image for one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) schema_version: u32,
    pub(super) media_type: String,
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

impl Manifest {
    /// The manifest of an image that came without one.
    pub(super) fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self { schema_version: 2, media_type: OCI_MANIFEST.to_owned(), config, layers }
    }

    /// The bytes that the image has as it travels, or `None` if there are absurdly many.
    pub(super) fn size(&self) -> Option<u64> {
        self.layers.iter().try_fold(self.config.size, |sum, layer| sum.checked_add(layer.size))
    }
}

/// What a reference leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Document {
    Index { media_type: String, manifests: Vec<Descriptor> },
    Manifest(Manifest),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnyDocument {
    schema_version: Option<u32>,
    media_type: Option<String>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

impl Document {
    /// Reads an index or a manifest; an error is the reason for people.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let any: AnyDocument =
            serde_json::from_slice(bytes).map_err(|e| format!("it is no image manifest: {e}"))?;
        if any.schema_version == Some(1) {
            return Err("it is in the old form \"schema 1\": push it again with a current tool".to_owned());
        }
        match (any.manifests, any.config, any.layers) {
            (Some(manifests), None, None) => {
                if manifests.len() > MAX_MANIFESTS {
                    return Err(format!("its index has more than {MAX_MANIFESTS} entries"));
                }
                check_digests(&manifests)?;
                Ok(Self::Index {
                    media_type: any.media_type.unwrap_or_else(|| OCI_INDEX.to_owned()),
                    manifests,
                })
            }
            (None, Some(config), Some(layers)) => {
                check_manifest(&config, &layers)?;
                let media_type = any.media_type.unwrap_or_else(|| OCI_MANIFEST.to_owned());
                Ok(Self::Manifest(Manifest { schema_version: 2, media_type, config, layers }))
            }
            // A document that could be read as both would mean one thing here and another elsewhere.
            _ => Err("it is neither an index nor an image manifest".to_owned()),
        }
    }
}

fn check_digests(descriptors: &[Descriptor]) -> Result<(), String> {
    match descriptors.iter().find(|d| !is_digest(&d.digest)) {
        Some(bad) => Err(format!("{:?} is no digest that we know", super::error::shortened(&bad.digest, 80))),
        None => Ok(()),
    }
}

fn check_manifest(config: &Descriptor, layers: &[Descriptor]) -> Result<(), String> {
    check_digests(std::slice::from_ref(config))?;
    check_digests(layers)?;
    if !matches!(config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG) {
        let kind = super::error::shortened(&config.media_type, 80);
        return Err(format!(
            "it is no image that can be run, but an artifact with the configuration {kind:?}"
        ));
    }
    if layers.is_empty() {
        return Err("it has no layers".to_owned());
    }
    if layers.len() > MAX_LAYERS {
        return Err(format!("it has more than {MAX_LAYERS} layers"));
    }
    let base =
        |layer: &Descriptor| layer.media_type.starts_with(OCI_LAYER) || is_docker_layer(&layer.media_type);
    match layers.iter().find(|layer| !base(layer)) {
        Some(bad) => {
            let kind = super::error::shortened(&bad.media_type, 80);
            Err(format!("a layer of it is of the kind {kind:?}, which is no file system"))
        }
        None => Ok(()),
    }
}

fn is_docker_layer(media_type: &str) -> bool {
    media_type.starts_with(DOCKER_LAYER)
}

/// The configuration of an image, as far as we need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Configuration {
    pub(super) platform: Platform,
    pub(super) diff_ids: Vec<String>,
    pub(super) run: ImageConfig,
}

#[derive(Deserialize)]
struct AnyConfiguration {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    variant: Option<String>,
    rootfs: RootFs,
    config: Option<Run>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Run {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
}

impl Configuration {
    /// Reads the configuration of an image with `layers` layers; an error is the reason for people.
    pub(super) fn parse(bytes: &[u8], layers: usize) -> Result<Self, String> {
        let any: AnyConfiguration =
            serde_json::from_slice(bytes).map_err(|e| format!("its configuration cannot be read: {e}"))?;
        let diff_ids = any.rootfs.diff_ids.unwrap_or_default();
        if diff_ids.len() != layers {
            return Err(format!("it has {layers} layers, but its configuration names {}", diff_ids.len()));
        }
        if !diff_ids.iter().all(|id| is_digest(id)) {
            return Err("its configuration names a layer by something that is no digest".to_owned());
        }
        let run = any.config.unwrap_or_default();
        Ok(Self {
            platform: Platform {
                os: any.os,
                architecture: any.architecture,
                variant: any.variant.filter(|v| !v.is_empty()),
            },
            diff_ids,
            run: ImageConfig {
                entrypoint: run.entrypoint.unwrap_or_default(),
                cmd: run.cmd.unwrap_or_default(),
                env: run.env.unwrap_or_default(),
                user: run.user.unwrap_or_default(),
                working_dir: run.working_dir.unwrap_or_default(),
            },
        })
    }

    /// The key of each layer's snapshot: what it is called together with all layers below it.
    pub(super) fn chain_ids(&self) -> Vec<String> {
        let mut chain: Vec<String> = Vec::with_capacity(self.diff_ids.len());
        for id in &self.diff_ids {
            let next = match chain.last() {
                Some(below) => digest_of(format!("{below} {id}").as_bytes()),
                None => id.clone(),
            };
            chain.push(next);
        }
        chain
    }
}

/// The digest of `bytes`.
pub(super) fn digest_of(bytes: &[u8]) -> String {
    digest_text(&Sha256::digest(bytes))
}

/// A finished hash as a digest.
pub(super) fn digest_text(hash: &[u8]) -> String {
    use std::fmt::Write as _;
    hash.iter().fold("sha256:".to_owned(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes all that is written");
        text
    })
}

/// The media type to unpack a layer by, told from its first bytes.
///
/// What the manifest says is not asked: tools mislabel layers, and containerd 1.6 does not know Docker's name
/// for zstd, though it unpacks zstd.
pub(super) fn layer_type(first: &[u8]) -> String {
    let compression = match first {
        [0x1f, 0x8b, ..] => "+gzip",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "+zstd",
        _ => "",
    };
    format!("{OCI_LAYER}{compression}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn manifest(config_type: &str, layer_type: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{config_type}","digest":"{A}","size":2}},
                "layers":[{{"mediaType":"{layer_type}","digest":"{B}","size":40}}]}}"#
        )
    }

    #[test]
    fn manifests_of_both_families_are_read() {
        for (config, layer) in [
            (OCI_CONFIG, OCI_LAYER),
            (OCI_CONFIG, "application/vnd.oci.image.layer.v1.tar+zstd"),
            (DOCKER_CONFIG, "application/vnd.docker.image.rootfs.diff.tar.gzip"),
        ] {
            let Document::Manifest(read) = Document::parse(manifest(config, layer).as_bytes()).unwrap()
            else {
                panic!("{layer}");
            };
            assert_eq!((read.size(), read.layers[0].digest.as_str()), (Some(42), B));
            assert_eq!(read.media_type, OCI_MANIFEST);
        }
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_a_reason() {
        let both = format!(r#"{{"manifests":[],"config":{{"digest":"{A}","size":1}},"layers":[]}}"#);
        let table = [
            (String::new(), "no image manifest"),
            ("<html>".to_owned(), "no image manifest"),
            ("{}".to_owned(), "neither"),
            (both, "neither"),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(), "schema 1"),
            (r#"{"manifests":[{"digest":"sha256:../../etc","size":1}]}"#.to_owned(), "no digest"),
            (manifest("application/vnd.cncf.helm.config.v1+json", OCI_LAYER), "helm"),
            (manifest(OCI_CONFIG, "application/vnd.in-toto+json"), "in-toto"),
            (manifest(OCI_CONFIG, OCI_LAYER).replace(B, "sha256:b"), "no digest"),
            (
                format!(r#"{{"config":{{"mediaType":"{OCI_CONFIG}","digest":"{A}","size":1}},"layers":[]}}"#),
                "no layers",
            ),
            (manifest(OCI_CONFIG, OCI_LAYER).replace("40", "-1"), "no image manifest"),
        ];
        for (text, reason) in table {
            let error = Document::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn a_size_beyond_counting_is_no_size() {
        let Ok(Document::Manifest(mut read)) = Document::parse(manifest(OCI_CONFIG, OCI_LAYER).as_bytes())
        else {
            panic!("no manifest");
        };
        read.layers[0].size = u64::MAX;
        assert_eq!(read.size(), None);
    }

    #[test]
    fn a_configuration_must_name_each_layer() {
        let json = format!(
            r#"{{"os":"linux","architecture":"arm64","variant":"","rootfs":{{"type":"layers","diff_ids":["{A}","{B}"]}},
                "config":{{"Env":["A=b"],"Entrypoint":null,"Cmd":["/app"],"WorkingDir":"/w","Volumes":{{"/x":{{}}}}}}}}"#
        );
        let read = Configuration::parse(json.as_bytes(), 2).unwrap();
        assert_eq!(read.run.cmd, ["/app"]);
        assert_eq!((read.run.user.as_str(), read.run.working_dir.as_str()), ("", "/w"));
        assert_eq!(read.platform.to_string(), "linux/arm64");
        assert!(Configuration::parse(json.as_bytes(), 3).unwrap_err().contains("names 2"));
        assert!(Configuration::parse(b"{}", 0).is_err());
        assert!(Configuration::parse(br#"{"rootfs":{}}"#, 0).unwrap().diff_ids.is_empty());
    }

    #[test]
    fn a_chain_id_is_the_hash_of_the_chain_below_and_the_layer() {
        let of = |ids: &[&str]| {
            Configuration {
                platform: Platform::host(),
                diff_ids: ids.iter().map(|&id| id.to_owned()).collect(),
                run: ImageConfig::default(),
            }
            .chain_ids()
        };
        assert_eq!(of(&[A]), [A]);
        let two = of(&[A, B]);
        assert_eq!(two[0], A);
        assert_eq!(two[1], digest_of(format!("{A} {B}").as_bytes()));
        assert_ne!(two[1], of(&[B, A])[1]);
        assert_eq!(digest_of(b""), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn a_layer_is_unpacked_by_what_it_is() {
        assert!(layer_type(&[0x1f, 0x8b, 8]).ends_with("tar+gzip"));
        assert!(layer_type(&[0x28, 0xb5, 0x2f, 0xfd]).ends_with("tar+zstd"));
        assert!(layer_type(b"bin/").ends_with("tar"));
        assert!(layer_type(b"").ends_with("tar"));
    }
}
