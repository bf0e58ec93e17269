//! Images made byte by byte, so that a test knows what should arrive.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// An image for one platform.
pub(crate) struct Made {
    pub(crate) layers: Vec<Vec<u8>>,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
    pub(crate) media_type: String,
}

/// How a layer travels.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packed {
    Plain,
    Gzip,
}

impl Made {
    /// An image with a layer for each list of files.
    pub(crate) fn new(layers: &[&[(&str, &str)]]) -> Self {
        let tars: Vec<_> = layers.iter().map(|files| layer(files)).collect();
        Self::of_tars(&tars, Packed::Plain, "amd64")
    }

    /// An image of these tar archives.
    pub(crate) fn of_tars(tars: &[Vec<u8>], packed: Packed, architecture: &str) -> Self {
        let diff_ids: Vec<_> = tars.iter().map(|tar| digest(tar)).collect();
        let layers: Vec<_> = match packed {
            Packed::Plain => tars.to_vec(),
            Packed::Gzip => tars.iter().map(|tar| gzip(tar)).collect(),
        };
        let config = json!({
            "os": "linux", "architecture": architecture,
            "config": {"Cmd": ["/hello"], "Env": ["A=b"], "User": "7:8", "WorkingDir": "/w"},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        Self::assemble(layers, config.to_string().into_bytes(), packed)
    }

    fn assemble(layers: Vec<Vec<u8>>, config: Vec<u8>, packed: Packed) -> Self {
        let kind = match packed {
            Packed::Plain => "application/vnd.oci.image.layer.v1.tar",
            Packed::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        };
        let described: Vec<_> = layers.iter().map(|layer| descriptor(kind, layer)).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_CONFIG, &config), "layers": described,
        });
        let manifest = manifest.to_string().into_bytes();
        Self { layers, config, manifest, media_type: OCI_MANIFEST.to_owned() }
    }

    /// The same image with some text of its manifest changed.
    pub(crate) fn with_manifest(mut self, from: &str, to: &str) -> Self {
        let text = String::from_utf8(self.manifest).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        self.manifest = text.replace(from, to).into_bytes();
        self
    }

    /// The same image with some text of its configuration changed.
    pub(crate) fn with_config(self, from: &str, to: &str) -> Self {
        let text = String::from_utf8(self.config).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        Self::assemble(self.layers, text.replace(from, to).into_bytes(), Packed::Plain)
    }

    pub(crate) fn digest(&self) -> String {
        digest(&self.manifest)
    }

    pub(crate) fn layer_digests(&self) -> Vec<String> {
        self.layers.iter().map(|layer| digest(layer)).collect()
    }

    pub(crate) fn blobs(&self) -> impl Iterator<Item = &[u8]> {
        self.layers.iter().map(Vec::as_slice).chain([self.config.as_slice()])
    }

    /// An index entry for this image.
    pub(crate) fn entry(&self, architecture: &str) -> Value {
        let mut entry = descriptor(&self.media_type, &self.manifest);
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entry
    }

    /// Writes the image as an OCI layout into `dir`, under the name `name` if there is one.
    pub(crate) fn write_layout(&self, dir: &Path, name: Option<&str>) {
        let mut entry = descriptor(&self.media_type, &self.manifest);
        if let Some(name) = name {
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        }
        write_layout(dir, &[entry], &[self]);
    }
}

/// An index of these entries.
pub(crate) fn index(entries: &[Value]) -> Vec<u8> {
    json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).to_string().into_bytes()
}

/// Writes an OCI layout with `entries` as its index and the blobs of `images`.
pub(crate) fn write_layout(dir: &Path, entries: &[Value], images: &[&Made]) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    fs::write(dir.join("index.json"), index(entries)).unwrap();
    for image in images {
        for blob in image.blobs().chain([image.manifest.as_slice()]) {
            fs::write(blobs.join(&digest(blob)["sha256:".len()..]), blob).unwrap();
        }
    }
}

/// A tar archive of what is in `dir`.
pub(crate) fn tar_of_dir(dir: &Path) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_dir_all(".", dir).unwrap();
    builder.into_inner().unwrap()
}

/// A tar archive of these files.
pub(crate) fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// `size` bytes of text that do not compress to nothing, different for each `seed`.
pub(crate) fn noise(size: usize, seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b' ' + u8::try_from(state % 95).unwrap())
    };
    (0..size).map(|_| next()).collect()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}
