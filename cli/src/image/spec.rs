//! The JSON documents of an OCI image. Pure: from data to bytes, always in the same order.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Arch, Recipe, Reference};

const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// The moment all our images are from: a real one would change the digest with every build.
const CREATED: &str = "1970-01-01T00:00:00Z";
/// Where programs are looked for, as in nearly every image.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A document, or a layer: what it is called and how long it is.
pub(super) struct Described {
    pub(super) digest: String,
    pub(super) size: u64,
}

/// The digest of what was hashed, in the form `sha256:…`.
pub(super) fn name_of(hash: Sha256) -> String {
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Digest and length of a document.
pub(super) fn describe(bytes: &[u8]) -> Described {
    Described { digest: name_of(Sha256::new_with_prefix(bytes)), size: bytes.len() as u64 }
}

/// How the image is run, and what it is made of.
pub(super) fn config(recipe: &Recipe, arch: Arch, diff_id: &str) -> Vec<u8> {
    let mut env = recipe.env.clone();
    if !env.iter().any(|pair| pair.starts_with("PATH=")) {
        env.insert(0, DEFAULT_PATH.to_owned());
    }
    let mut run = json!({ "Env": env });
    let mut set = |key: &str, value: Value, given: bool| {
        if given {
            run[key] = value;
        }
    };
    set("Entrypoint", json!(recipe.entrypoint), !recipe.entrypoint.is_empty());
    set("Cmd", json!(recipe.cmd), !recipe.cmd.is_empty());
    set("User", json!(recipe.user), !recipe.user.is_empty());
    set("WorkingDir", json!(recipe.workdir), !recipe.workdir.is_empty());
    set("Labels", json!(recipe.labels), !recipe.labels.is_empty());
    let ports: serde_json::Map<String, Value> =
        recipe.ports.iter().map(|p| (format!("{p}/tcp"), json!({}))).collect();
    set("ExposedPorts", ports.clone().into(), !ports.is_empty());
    let mut document = json!({
        "architecture": arch.name,
        "config": run,
        "created": CREATED,
        "history": [{ "created": CREATED, "created_by": "roost image build" }],
        "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    });
    if let Some(variant) = arch.variant {
        document["variant"] = variant.into();
    }
    document.to_string().into_bytes()
}

/// What belongs together.
pub(super) fn manifest(config: &Described, layer: &Described) -> Vec<u8> {
    let entry =
        |kind: &str, it: &Described| json!({ "mediaType": kind, "digest": it.digest, "size": it.size });
    let document = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": entry(CONFIG_TYPE, config),
        "layers": [entry(LAYER_TYPE, layer)],
    });
    document.to_string().into_bytes()
}

/// What the archive holds, and what it is called.
pub(super) fn index(manifest: &Described, arch: Arch, name: &Reference) -> Vec<u8> {
    let mut platform = json!({ "architecture": arch.name, "os": "linux" });
    if let Some(variant) = arch.variant {
        platform["variant"] = variant.into();
    }
    let document = json!({
        "schemaVersion": 2,
        "mediaType": INDEX_TYPE,
        "manifests": [{
            "mediaType": MANIFEST_TYPE,
            "digest": manifest.digest,
            "size": manifest.size,
            "platform": platform,
            "annotations": {
                "io.containerd.image.name": name.full(),
                "org.opencontainers.image.ref.name": name.tag(),
            },
        }],
    });
    document.to_string().into_bytes()
}
