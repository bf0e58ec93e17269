//! Images, made here out of static binaries: no Docker, no network.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{release, repository};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A part of an image, named by its hash.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    pub(crate) digest: String,
    pub(crate) bytes: Vec<u8>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        Self { digest: digest(&bytes), bytes }
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest, "size": self.bytes.len() })
    }
}

fn digest(bytes: &[u8]) -> String {
    let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hash}")
}

/// An image of one layer.
#[derive(Debug, Clone)]
pub struct Image {
    pub(crate) manifest: Blob,
    pub(crate) blobs: Vec<Blob>,
}

impl Image {
    /// An image with these files, each with its path in the image, that runs `command`.
    #[must_use]
    pub fn new(files: &[(&Path, &str)], command: &[&str]) -> Self {
        let mut tar = tar::Builder::new(Vec::new());
        for (source, target) in files {
            let content = fs::read(source).unwrap();
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o755);
            tar.append_data(&mut header, target.trim_start_matches('/'), &content[..]).unwrap();
        }
        let tar = tar.into_inner().unwrap();
        let diff_id = digest(&tar);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&tar).unwrap();
        let layer = Blob::new(gzip.finish().unwrap());
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": { "Cmd": command, "Env": ["PATH=/bin"] },
            "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        });
        let config = Blob::new(config.to_string().into_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(CONFIG),
            "layers": [layer.descriptor(LAYER)],
        });
        Self { manifest: Blob::new(manifest.to_string().into_bytes()), blobs: vec![config, layer] }
    }

    /// The `echo` example.
    #[must_use]
    pub fn echo() -> Self {
        static ECHO: OnceLock<Image> = OnceLock::new();
        ECHO.get_or_init(|| Self::new(&[(&echo_binary(), "/echo")], &["/echo"])).clone()
    }

    /// A program of this machine, with the libraries that it is linked to.
    ///
    /// # Panics
    /// When it is no program that is linked to any.
    #[must_use]
    pub fn of_program(program: &Path) -> Self {
        let mut files = libraries(program);
        files.push((program.to_owned(), "/bin/program".to_owned()));
        let files: Vec<(&Path, &str)> = files.iter().map(|(from, to)| (&**from, &**to)).collect();
        Self::new(&files, &["/bin/program"])
    }

    /// A shell script under busybox, which has to listen on 8080 itself if it is to be ready.
    #[must_use]
    pub fn script(script: &str) -> Self {
        Self::new(
            &[(Path::new("/bin/busybox"), "/bin/sh"), (Path::new("/bin/busybox"), "/bin/busybox")],
            &["/bin/sh", "-c", script],
        )
    }

    /// The image as an OCI archive that names it `name`.
    #[must_use]
    pub fn archive(&self, name: &str) -> Vec<u8> {
        let mut manifest = self.manifest.descriptor(MANIFEST);
        manifest["annotations"] =
            json!({ "org.opencontainers.image.ref.name": name, "io.containerd.image.name": name });
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string().into_bytes();
        let layout = br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec();
        let mut tar = tar::Builder::new(Vec::new());
        let mut append = |path: &str, content: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, content).unwrap();
        };
        append("oci-layout", &layout);
        append("index.json", &index);
        for blob in self.blobs.iter().chain([&self.manifest]) {
            append(&format!("blobs/{}", blob.digest.replace(':', "/")), &blob.bytes);
        }
        tar.into_inner().unwrap()
    }
}

/// The loader and the libraries of a program, each with the path where it looks for it.
///
/// # Panics
/// When it is no program that is linked to any.
#[must_use]
pub fn libraries(program: &Path) -> Vec<(PathBuf, String)> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    assert!(output.status.success(), "{}: {output:?}", program.display());
    let said = String::from_utf8(output.stdout).unwrap();
    let paths = said.split_whitespace().filter(|word| word.starts_with('/'));
    paths.map(|path| (PathBuf::from(path), path.to_owned())).collect()
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The `echo` example, linked statically: of the release, built by `tests/run`, or here when a single test is run.
///
/// # Panics
/// When it cannot be built.
#[must_use]
pub fn echo_binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY
        .get_or_init(|| {
            if let Some(built) = release().map(|dir| dir.join("echo")).filter(|path| path.exists()) {
                return built;
            }
            let output = Command::new(repository().join("tests/build-echo")).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
        })
        .clone()
}
